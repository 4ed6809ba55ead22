//! The table against a plain map, and any bytes against the whole machine.

use super::*;
use crate::rng::Rng;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Op {
    /// A client (address, port) sends UDP to a VIP port; new flows go to this node's endpoint.
    Send(u8, u16, u16, u32),
    /// The endpoint of the n-th known flow answers.
    Answer(usize),
    /// Seconds pass.
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (2u8..6, 5000u16..5004, 53u16..55, 1u32..4).prop_map(|(c, p, v, n)| Op::Send(c, p, v, n)),
        4 => any::<usize>().prop_map(Op::Answer),
        2 => (1u64..60).prop_map(Op::Wait),
    ]
}

/// What the model knows of a flow.
struct Known {
    node: u32,
    mapped: u16,
    answered: bool,
    last: Instant,
}

impl Known {
    fn over(&self, now: Instant) -> bool {
        now.since(self.last) >= Duration::from_secs(if self.answered { 180 } else { 30 })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Every packet takes the way that the map says, mapped ports never meet, timers end flows when they are due
    /// and not earlier.
    #[test]
    fn agrees_with_a_map(ops in proptest::collection::vec(op(), 1..120)) {
        let mut machine = flows(9, 64);
        let rules = rules();
        let mut rng = Rng::new([1; 32]);
        let mut now = Instant::ZERO.after(Duration::from_secs(5));
        let mut model: BTreeMap<(IpAddr, u16, u16), Known> = BTreeMap::new();
        let mut deadlines: BTreeMap<u32, Instant> = BTreeMap::new();
        for op in ops {
            match op {
                Op::Send(client, port, vip_port, node) => {
                    let client = std::format!("172.17.0.{client}");
                    let packet = udp((&client, port), (V4.vip, vip_port), b"?");
                    let out = |machine: &mut Flows<'_>| with(&packet, |p, o| machine.outbound(now, p, o, &rules));
                    let (mut outcome, mut bytes) = out(&mut machine);
                    let key = (ip(&client), port, vip_port);
                    if let Translated::Miss(new) = outcome.verdict {
                        prop_assert!(!model.contains_key(&key));
                        let endpoint = Endpoint { peer: PeerRef(node), address: ip(V4.pod), port: 8080 };
                        let (timer, at) = machine.open(now, &new, &endpoint, 1, &mut rng).unwrap();
                        deadlines.insert(timer, at);
                        (outcome, bytes) = out(&mut machine);
                        let (.., mapped) = { let e = ends(&bytes); (e.0, e.1) };
                        prop_assert!(model.values().all(|k| (k.node, k.mapped) != (node, mapped)));
                        model.insert(key, Known { node, mapped, answered: false, last: now });
                    }
                    let known = model.get_mut(&key).unwrap();
                    known.last = now;
                    prop_assert_eq!(outcome.verdict, Translated::To(PeerRef(known.node)));
                    prop_assert_eq!(ends(&bytes), at("242.0.0.9", known.mapped, V4.pod, 8080));
                }
                Op::Answer(n) if !model.is_empty() => {
                    let n = n % model.len();
                    let (key, known) = model.iter_mut().nth(n).unwrap();
                    let packet = udp((V4.pod, 8080), ("242.0.0.9", known.mapped), b"!");
                    let (outcome, bytes) = with(&packet, |p, o| machine.inbound(now, PeerRef(known.node), p, o, &rules));
                    prop_assert_eq!(outcome.verdict, Translated::Local);
                    let expected = (ip(V4.vip), key.2, key.0, key.1);
                    prop_assert_eq!(ends(&bytes), expected);
                    (known.answered, known.last) = (true, now);
                }
                Op::Answer(_) => {}
                Op::Wait(secs) => {
                    now = now.after(Duration::from_secs(secs));
                    let due: Vec<u32> = deadlines.iter().filter(|(_, at)| **at <= now).map(|(k, _)| *k).collect();
                    for timer in due {
                        match machine.handle_timeout(now, timer).next {
                            Some(at) => {
                                prop_assert!(at > now, "a deadline that makes no progress");
                                deadlines.insert(timer, at);
                            }
                            None => { deadlines.remove(&timer); }
                        }
                    }
                    model.retain(|_, known| !known.over(now));
                }
            }
            prop_assert_eq!(machine.len(), model.len());
            prop_assert_eq!(deadlines.len(), model.len());
            let mut listed: Vec<_> = machine.flows(now).map(|f| (f.client.0, f.client.1, f.vip.1, f.peer, f.mapped)).collect();
            listed.sort();
            let expected: Vec<_> = model.iter().map(|(k, v)| (k.0, k.1, k.2, v.node, v.mapped)).collect();
            prop_assert_eq!(listed, expected);
        }
    }

    /// A small table under a flood: never more entries than slots, both indices hold exactly the entries, and
    /// nothing is left when all time is over.
    #[test]
    fn floods_leak_nothing(sends in proptest::collection::vec((2u8..40, 5000u16..5040, any::<bool>(), 0u64..20), 1..300)) {
        let mut pair = Pair::new();
        (pair.client, pair.server) = (flows(1, 8), flows(2, 8));
        for (client, port, answered, secs) in sends {
            pair.wait(secs);
            let client = std::format!("172.17.0.{client}");
            let (outcome, bytes) = pair.send(&tcp((&client, port), (V4.vip, 80), SYN, b""));
            if outcome.verdict == Translated::To(PeerRef(2)) {
                let mapped = ends(&bytes).1;
                let (arrived, _) = pair.server_in(1, &bytes);
                if answered && arrived.verdict == Translated::Local {
                    let back = tcp((V4.pod, 8080), (V4.mesh[0], mapped), RST | ACK, b"");
                    let back = pair.response(&back);
                    prop_assert_eq!(ends(&back), at(V4.vip, 80, &client, port));
                }
            }
            prop_assert!(pair.client.len() <= 8 && pair.server.admitted() <= 8);
            for record in pair.client.flows(pair.now) {
                let endpoint = Endpoint { peer: PeerRef(record.peer), address: record.endpoint.0, port: record.endpoint.1 };
                let by_mapped = pair.client.table.find_mapped(record.protocol, &endpoint, record.mapped);
                let new = NewFlow { protocol: record.protocol, client: record.client.0, client_port: record.client.1, vip: record.vip.0, vip_port: record.vip.1 };
                prop_assert!(by_mapped.is_some());
                prop_assert_eq!(by_mapped, pair.client.table.find_client(&new));
            }
        }
        pair.wait(100_000);
        prop_assert_eq!((pair.client.len(), pair.server.admitted()), (0, 0));
    }

    /// No bytes from either side panic, and what comes out is never longer than its buffer allows.
    #[test]
    fn any_bytes_are_survived(
        noise in proptest::collection::vec(any::<u8>(), 0..100),
        shape in 0u8..6,
        flips in proptest::collection::vec((0usize..100, any::<u8>()), 0..6),
    ) {
        let mut pair = Pair::new();
        pair.connect(V4, 4000);
        let mut bytes = match shape {
            0 => noise,
            1 => tcp((V4.client, 4000), (V4.vip, 80), ACK, &noise),
            2 => udp((V6.client, 4000), (V6.vip, 53), &noise),
            3 => icmp_error(V4.client, V4.vip, 3, 4, &tcp((V4.vip, 80), (V4.client, 4000), ACK, &noise)),
            4 => Spec { fragment: Some((3, 0, true)), ..spec(V6.mesh[0], V6.pod, UDP, udp_body(1, 8080, &noise)) }.build(),
            _ => icmp_error(V6.mesh[0], V6.pod, 2, 0, &udp((V6.pod, 8080), (V6.mesh[0], 4000), &noise)),
        };
        for (at, value) in flips {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        let _ = pair.client_out(&bytes);
        let _ = pair.client_in(2, &bytes);
        let _ = pair.server_out(&bytes);
        let _ = pair.server_in(1, &bytes);
        let _ = with(&bytes, |p, _| Outcome::from(pair.client.refuse(p, DropReason::NoEndpoints)));
    }
}
