//! The tuples that a node admits, against a plain map that knows the rules and nothing of slots, keys and timers.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// The endpoint's node.
const OWN: u32 = 2;
const LONGEST_WAIT: u64 = 90_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Datagram,
    /// A segment with these flags.
    Segment(u8),
}

#[derive(Clone, Debug)]
enum Step {
    /// Whether the endpoint is one of a Service.
    Serve(bool),
    /// A peer's client, by its mapped port, sends to the endpoint.
    Ask(u32, u16, What),
    /// The endpoint sends there.
    Answer(u32, u16, What),
    /// Seconds pass.
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let client = || (3u32..6, 5000u16..5002);
    let flags =
        |opening: u8| prop_oneof![4 => Just(ACK), 3 => Just(opening), 2 => Just(FIN | ACK), 1 => Just(RST)];
    let what = |opening| prop_oneof![Just(What::Datagram), flags(opening).prop_map(What::Segment)];
    // Around every limit there is.
    let wait = prop_oneof![
        6 => 1u64..40,
        3 => prop::sample::select(vec![2, 29, 30, 59, 60, 119, 120, 179, 180, 181]),
        1 => prop::sample::select(vec![3_599, 3_600, 86_399, 86_400, LONGEST_WAIT]),
    ];
    prop_oneof![
        1 => any::<bool>().prop_map(Step::Serve),
        5 => (client(), what(SYN)).prop_map(|((peer, port), what)| Step::Ask(peer, port, what)),
        5 => (client(), what(SYN | ACK)).prop_map(|((peer, port), what)| Step::Answer(peer, port, what)),
        3 => wait.prop_map(Step::Wait),
    ]
}

/// Peer, port, protocol.
type Key = (u32, u16, u8);

/// How far two have come with each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Only the client was heard.
    Asked,
    /// The endpoint answered a SYN.
    Accepted,
    /// Both were heard; or the endpoint alone, and then it answers what was asked before this table was: the client's
    /// node passes on only what it has a flow for, and keeps that flow as long as an answered one.
    Talking,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    stage: Stage,
    /// FINs of client and endpoint.
    fins: [bool; 2],
    last: Instant,
}

impl Known {
    fn life(&self, protocol: u8) -> u64 {
        match (protocol, self.stage, self.fins) {
            (TCP, _, [true, true]) => 2,
            (TCP, Stage::Asked, _) => 120,
            (TCP, Stage::Accepted, _) => 60,
            (TCP, Stage::Talking, [false, false]) => 86_400,
            (TCP, Stage::Talking, _) => 3_600,
            (_, Stage::Talking, _) => 180,
            _ => 30,
        }
    }

    fn ends(&self, protocol: u8) -> Instant {
        self.last.after(Duration::from_secs(self.life(protocol)))
    }
}

#[derive(Default)]
struct Model {
    serves: bool,
    known: BTreeMap<Key, Known>,
}

impl Model {
    /// A packet of the peer's client, or of the endpoint; whether it passes.
    fn packet(&mut self, now: Instant, key: Key, by_client: bool, what: What) -> bool {
        let flags = if let What::Segment(flags) = what { flags } else { 0 };
        let opens = flags & (SYN | ACK) == SYN;
        if by_client && opens && self.known.get(&key).is_some_and(|known| known.fins == [true; 2]) {
            self.known.remove(&key);
        }
        if !self.serves && !self.known.contains_key(&key) {
            return false;
        }
        if flags & RST != 0 {
            self.known.remove(&key);
            return true;
        }
        let begun = match what {
            // It goes on with what there was before this table.
            What::Segment(flags) if flags & SYN == 0 => Stage::Talking,
            _ => Stage::Asked,
        };
        let known = self.known.entry(key).or_insert(Known { stage: begun, fins: [false; 2], last: now });
        known.last = now;
        known.fins[usize::from(!by_client)] |= flags & FIN != 0;
        known.stage = match (known.stage, by_client, what) {
            (Stage::Asked, false, What::Segment(_)) => Stage::Accepted,
            (_, false, What::Datagram) => Stage::Talking,
            (Stage::Accepted, true, What::Segment(flags)) if flags & SYN == 0 => Stage::Talking,
            (stage, ..) => stage,
        };
        true
    }
}

/// The machine with what a shell keeps of it.
struct Machine {
    flows: Flows<'static>,
    rules: Rules,
    deadlines: BTreeMap<u32, Instant>,
}

impl Machine {
    fn packet(
        &mut self,
        now: Instant,
        peer: u32,
        port: u16,
        by_client: bool,
        what: What,
    ) -> (Translated, bool) {
        let (client, endpoint) = (std::format!("242.0.0.{peer}"), (V4.pod, 8080));
        let ends = if by_client { ((&client[..], port), endpoint) } else { (endpoint, (&client[..], port)) };
        let packet = match what {
            What::Datagram => udp(ends.0, ends.1, b"?"),
            What::Segment(flags) => tcp(ends.0, ends.1, flags, b""),
        };
        let (outcome, bytes) = with(&packet, |p, o| match by_client {
            true => self.flows.inbound(now, PeerRef(peer), p, o, &self.rules),
            false => self.flows.outbound(now, p, o, &self.rules),
        });
        self.deadlines.extend(outcome.deadline);
        (outcome.verdict, bytes == packet)
    }

    /// Every timer that is due by `until` fires when it is due; returns those that made no progress.
    fn pass(&mut self, until: Instant) -> usize {
        let mut stuck = 0;
        while let Some((timer, at)) = self
            .deadlines
            .iter()
            .map(|(k, at)| (*k, *at))
            .filter(|(_, at)| *at <= until)
            .min_by_key(|(_, at)| *at)
        {
            match self.flows.handle_timeout(at, timer).next {
                Some(next) => {
                    stuck += usize::from(next <= at);
                    self.deadlines.insert(timer, next.max(at.after(Duration::from_secs(1))));
                }
                None => _ = self.deadlines.remove(&timer),
            }
        }
        stuck
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// What is served passes; what was admitted still does when it is not served any more; a peer's client reaches
    /// nothing else, the endpoint opens nothing and speaks to nobody else; and each tuple ends when its time is over
    /// and not earlier.
    #[test]
    fn agree_with_a_map(steps in prop::collection::vec(step(), 1..150)) {
        let rules = Rules { serves: vec![], ..rules() };
        let mut machine = Machine { flows: flows(OWN, 64), rules, deadlines: BTreeMap::new() };
        let mut model = Model::default();
        let mut now = Instant::ZERO.after(Duration::from_secs(5));
        for step in steps {
            match step {
                Step::Serve(serves) => {
                    model.serves = serves;
                    machine.rules.serves = if serves { super::rules().serves } else { vec![] };
                }
                Step::Ask(peer, port, what) | Step::Answer(peer, port, what) => {
                    let by_client = matches!(step, Step::Ask(..));
                    let protocol = if what == What::Datagram { UDP } else { TCP };
                    let passes = model.packet(now, (peer, port, protocol), by_client, what);
                    let (verdict, is_whole) = machine.packet(now, peer, port, by_client, what);
                    let expected = match (passes, by_client) {
                        (true, true) => Translated::Local,
                        (true, false) => Translated::To(PeerRef(peer)),
                        (false, true) => Translated::Drop(DropReason::NotAnEndpoint),
                        (false, false) => Translated::Drop(DropReason::NoFlow),
                    };
                    prop_assert_eq!(verdict, expected);
                    prop_assert!(is_whole || what == What::Segment(SYN) || what == What::Segment(SYN | ACK));
                }
                Step::Wait(secs) => {
                    now = now.after(Duration::from_secs(secs));
                    prop_assert_eq!(machine.pass(now), 0, "deadlines that make no progress");
                    model.known.retain(|(.., protocol), known| known.ends(*protocol) > now);
                }
            }
            prop_assert_eq!((machine.flows.admitted(), machine.flows.len()), (model.known.len(), 0));
            prop_assert!(machine.deadlines.len() >= model.known.len(), "each tuple has its timer");
        }
        machine.pass(now.after(Duration::from_secs(LONGEST_WAIT)));
        prop_assert_eq!((machine.flows.admitted(), machine.deadlines.len()), (0, 0));
    }
}

/// The endpoint's node was started again, and the endpoint speaks first: it goes on with who talked to it before, for as
/// long as the client's node keeps the flow, also when it leaves its Service.
#[test]
fn an_answer_without_a_question_goes_on_with_what_was_before() {
    let c = V4;
    let mut pair = Pair::new();
    pair.request(&udp((c.client, 4000), (c.vip, 53), b"?"));
    pair.response(&udp((c.pod, 8080), (c.mesh[0], 4000), b"!"));
    pair.server = flows(2, 64);
    pair.response(&udp((c.pod, 8080), (c.mesh[0], 4000), b"more"));
    pair.server_rules.serves.clear();
    pair.wait(179);
    assert_eq!((pair.client.len(), pair.server.admitted()), (1, 1));
    pair.request(&udp((c.client, 4000), (c.vip, 53), b"?"));
    pair.wait(180);
    assert_eq!((pair.client.len(), pair.server.admitted()), (0, 0));
}

/// A pod that serves something can send from its port to whom it likes. What it makes up that way gives place to the
/// first client that asks; what a client has asked does not.
#[test]
fn answers_that_nobody_asked_for_do_not_keep_clients_out() {
    for what in [What::Datagram, What::Segment(ACK)] {
        let mut machine = Machine { flows: flows(OWN, 16), rules: rules(), deadlines: BTreeMap::new() };
        let now = Instant::ZERO.after(Duration::from_secs(5));
        let talks = |machine: &mut Machine, by_client| machine.packet(now, 3, 4_000, by_client, what).0;
        assert_eq!(talks(&mut machine, true), Translated::Local);
        assert_eq!(talks(&mut machine, false), Translated::To(PeerRef(3)));
        for peer in 10..200 {
            let (verdict, _) = machine.packet(now, peer, 4_000, false, what);
            assert_eq!(verdict, Translated::To(PeerRef(peer)));
        }
        for peer in 4..8 {
            let (verdict, _) = machine.packet(now, peer, 4_000, true, what);
            assert_eq!(verdict, Translated::Local, "peer {peer} is kept out");
            assert_eq!(machine.packet(now, peer, 4_000, false, what).0, Translated::To(PeerRef(peer)));
        }
        for peer in 200..250 {
            let _ = machine.packet(now, peer, 4_000, false, what);
        }
        machine.rules.serves.clear();
        assert_eq!(talks(&mut machine, true), Translated::Local, "asked and answered: it keeps its place");
    }
}
