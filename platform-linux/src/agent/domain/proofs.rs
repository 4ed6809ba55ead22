//! Which addresses of other nodes were proven to be reached, from where on this node, and what is to be asked next.
//!
//! Life cycle: a node is a *candidate* while this node's kernel has a route of its own to one of its endpoints
//! ([`Proofs::seek`]). It is asked for an offer ([`Act::Ask`]). For each address in it there is one proof for packets
//! of this node, and one for each address on the side of this node's own pods ([`Proofs::aim`]). A proof is sought with
//! up to [`TRIES`] probes, which have to come back with the address that they were sent from; then it is renewed every
//! [`RENEW`] times the number of proofs. It is lost when as many stay without an answer, or when its route goes. One
//! that is not found is sought again after a pause that doubles up to [`PAUSE_MAX`].
//!
//! So renewing costs this node four probes and four answers a minute, however many nodes there are: 424 bytes by IPv4,
//! and as much again where the others look at this node; more only beyond 16 proofs, each of which is looked at every
//! [`RENEW_MAX`]. Who uses an address has an older proof renewed at once ([`Proofs::used`]).
//!
//! Bounds: [`NODES_MAX`] nodes, of each [`PLACES_MAX`] addresses from each of this node's sides. Pure: time and the
//! first nonce are arguments.

use super::message::{Answer, Key, Offer, PLACES_MAX, Place};
use crate::prefix::Prefix;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::time::Instant;

const NODES_MAX: usize = 1_024;
/// Probes of a round, and how long each is waited for.
const TRIES: usize = 3;
const PATIENCE: [Duration; TRIES] =
    [Duration::from_millis(300), Duration::from_millis(500), Duration::from_millis(700)];
/// Nodes that are asked at a time, and how long others wait then: each may cost a handshake.
const ASKS: usize = 16;
const SPREAD: Duration = Duration::from_secs(1);
const RENEW: Duration = Duration::from_secs(15);
const RENEW_MAX: Duration = Duration::from_secs(240);
const PAUSE: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// A proof younger than this is good enough to use the address.
const FRESH: Duration = Duration::from_secs(5);

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Act {
    /// Have this node make an offer.
    Ask(u32),
    /// Send a probe.
    Probe {
        /// From that address of this node, or as the kernel chooses.
        from: Option<IpAddr>,
        to: SocketAddr,
        key: Key,
        nonce: u64,
    },
}

/// What is proven now.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// Addresses of nodes that the kernel reaches.
    pub ranges: BTreeSet<(u32, Prefix)>,
    /// Those that pods reach under their own addresses as well, if their device has this address.
    pub sources: BTreeSet<(Prefix, IpAddr)>,
}

/// Where a proof leads, and from which side.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Way {
    node: u32,
    to: IpAddr,
    from: Option<IpAddr>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Proof {
    place: Place,
    key: Key,
    range: Prefix,
    proven: Option<Instant>,
    /// Probes of this round.
    tries: usize,
    nonce: u64,
    /// Rounds in vain.
    vain: u32,
    due: Instant,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Candidate {
    offer: Option<Offer>,
    asked: Option<Instant>,
    /// Times that it was asked since it made an offer.
    vain: u32,
    due: Option<Instant>,
}

impl Candidate {
    /// Whether it has not said yet where it may be probed: it may have no pods, or a domain by label, for now.
    fn is_waited_for(&self) -> bool {
        self.offer.as_ref().is_none_or(|offer| offer.places.is_empty())
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    candidates: BTreeMap<u32, Candidate>,
    proofs: BTreeMap<Way, Proof>,
    nonce: u64,
}

impl Proofs {
    pub(super) fn new(nonce: u64) -> Self {
        Self { nonce, ..Self::default() }
    }

    /// The candidates are these.
    pub(super) fn seek(&mut self, now: Instant, nodes: &BTreeSet<u32>) {
        self.candidates.retain(|node, _| nodes.contains(node));
        self.proofs.retain(|way, _| nodes.contains(&way.node));
        for node in nodes {
            if self.candidates.len() < NODES_MAX {
                let new = || Candidate { offer: None, asked: None, vain: 0, due: Some(now) };
                self.candidates.entry(*node).or_insert_with(new);
            }
        }
    }

    /// A node made an offer, which counts from the next [`Proofs::aim`] on. False when it is none of the candidates.
    pub(super) fn offered(&mut self, now: Instant, node: u32, offer: Offer) -> bool {
        let Some(candidate) = self.candidates.get_mut(&node) else { return false };
        let vain = if offer.places.is_empty() { candidate.vain } else { 0 };
        *candidate = Candidate { offer: Some(offer), asked: candidate.asked, vain, due: None };
        candidate.due = candidate.is_waited_for().then(|| now + pause(vain));
        for (_, proof) in self.proofs.iter_mut().filter(|(way, proof)| way.node == node && proof.vain > 0) {
            // It is there again, perhaps only just.
            (proof.tries, proof.vain, proof.due) = (0, 0, now);
        }
        true
    }

    /// Proofs are to be those of the offers, from these sides of this node; `range`: the addresses that a place speaks
    /// for, if it may be probed at all. What was proven and is the same stays so.
    pub(super) fn aim(
        &mut self,
        now: Instant,
        sides: &[IpAddr],
        mut range: impl FnMut(&Place) -> Option<Prefix>,
    ) {
        let mut wanted = BTreeMap::new();
        for (node, candidate) in &self.candidates {
            let Some(offer) = &candidate.offer else { continue };
            for place in offer.places.iter().take(PLACES_MAX) {
                let Some(range) = range(place) else { continue };
                let sides = sides.iter().filter(|ip| place.pods && ip.is_ipv4() == place.at.is_ipv4());
                for from in std::iter::once(None).chain(sides.map(|ip| Some(*ip))) {
                    let way = Way { node: *node, to: place.at.ip(), from };
                    wanted.entry(way).or_insert((*place, offer.key, range));
                }
            }
        }
        self.proofs.retain(|way, proof| wanted.get(way).is_some_and(|(_, _, range)| *range == proof.range));
        for (way, (place, key, range)) in wanted {
            let new = Proof { place, key, range, proven: None, tries: 0, nonce: 0, vain: 0, due: now };
            let proof = self.proofs.entry(way).or_insert(new);
            if (proof.place, proof.key) != (place, key) {
                // Its agent is another process now; whether the way is another one, it will tell.
                (proof.place, proof.key, proof.tries, proof.vain, proof.due) = (place, key, 0, 0, now);
            }
        }
    }

    /// When [`Proofs::act`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        let asks = self.candidates.values().filter_map(|candidate| candidate.due);
        self.proofs.values().map(|proof| proof.due).chain(asks).min()
    }

    /// What is to be done now.
    pub(super) fn act(&mut self, now: Instant) -> Vec<Act> {
        let (mut acts, mut ask) = (Vec::new(), BTreeSet::new());
        for (way, proof) in self.proofs.iter_mut().filter(|(_, proof)| proof.due <= now) {
            let Some(patience) = PATIENCE.get(proof.tries) else {
                (proof.proven, proof.tries) = (None, 0);
                proof.due = now + pause(proof.vain);
                proof.vain = proof.vain.saturating_add(1);
                continue;
            };
            if proof.tries == 0 {
                self.nonce = self.nonce.wrapping_add(1);
                proof.nonce = self.nonce;
            }
            // It may be another process by now, which nothing here would ever reach.
            if proof.tries == 1 && proof.proven.is_some() || proof.tries == 0 && proof.vain > 0 {
                ask.insert(way.node);
            }
            proof.tries += 1;
            proof.due = now + *patience;
            let Proof { place, key, nonce, .. } = *proof;
            acts.push(Act::Probe { from: way.from, to: place.at, key, nonce });
        }
        let mut room = ASKS;
        for (node, candidate) in &mut self.candidates {
            let is_due = candidate.due.is_some_and(|due| due <= now);
            let is_new = candidate.asked.is_none_or(|asked| now.duration_since(asked) >= PAUSE);
            if is_due || is_new && ask.contains(node) {
                if room == 0 {
                    candidate.due = Some(now + SPREAD);
                    continue;
                }
                room -= 1;
                candidate.due = candidate.is_waited_for().then(|| now + pause(candidate.vain));
                (candidate.asked, candidate.vain) = (Some(now), candidate.vain.saturating_add(1));
                acts.push(Act::Ask(*node));
            }
        }
        acts
    }

    /// An answer came in; `own`: the addresses of this node. Whether it proves something that was not proven before.
    pub(super) fn answered(&mut self, now: Instant, answer: &Answer<'_>, own: &HashSet<IpAddr>) -> bool {
        let period = self.period();
        let asked = |proof: &Proof| proof.tries > 0 && proof.nonce == answer.nonce;
        let Some((way, proof)) = self.proofs.iter_mut().find(|(_, proof)| asked(proof)) else { return false };
        // Translated on the way: endpoints would not see who it is.
        let is_plain = way.from.map_or(own.contains(&answer.seen), |from| from == answer.seen);
        if !is_plain || !answer.is_by(&proof.key) {
            return false;
        }
        (proof.tries, proof.vain, proof.due) = (0, 0, now + period);
        proof.proven.replace(now).is_none()
    }

    /// Somebody connects to this address: an old proof of it is renewed now.
    pub(super) fn used(&mut self, now: Instant, address: IpAddr) {
        let is_old = |proof: &Proof| proof.proven.is_some_and(|at| now.duration_since(at) > FRESH);
        for proof in self.proofs.values_mut().filter(|proof| proof.range.contains(address)) {
            if proof.tries == 0 && is_old(proof) {
                proof.due = now;
            }
        }
    }

    /// What is proven. The own addresses of a node count beside those of its pods only: a CNI makes both.
    pub(super) fn found(&self) -> Found {
        let proven: Vec<_> = self.proofs.iter().filter(|(_, proof)| proof.proven.is_some()).collect();
        let plain = || proven.iter().filter(|(way, _)| way.from.is_none());
        let pods: BTreeSet<u32> = plain().filter(|(_, p)| p.place.pods).map(|(way, _)| way.node).collect();
        let ranges = plain().filter(|(way, _)| pods.contains(&way.node)).map(|(way, p)| (way.node, p.range));
        let sources = proven.iter().filter_map(|(way, p)| Some((p.range, way.from?)));
        Found { ranges: ranges.collect(), sources: sources.collect() }
    }

    /// When each of the ranges was proven last.
    pub(super) fn proven(&self) -> impl Iterator<Item = (u32, Prefix, Instant)> {
        let plain = self.proofs.iter().filter(|(way, _)| way.from.is_none());
        plain.filter_map(|(way, proof)| Some((way.node, proof.range, proof.proven?)))
    }

    fn period(&self) -> Duration {
        let proven = self.proofs.values().filter(|proof| proof.proven.is_some()).count().max(1);
        RENEW_MAX.min(RENEW * u32::try_from(proven).unwrap_or(u32::MAX).min(16))
    }
}

fn pause(vain: u32) -> Duration {
    PAUSE_MAX.min(PAUSE * 2u32.saturating_pow(vain.min(16)))
}

#[cfg(test)]
mod tests {
    use super::super::message;
    use super::*;

    const KEY: Key = [9; 16];
    const SIDE: &str = "10.244.1.1";
    const FAR: &str = "10.244.2.1:4000";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn offer(places: &[(&str, bool)]) -> Offer {
        let place = |(at, pods): &(&str, bool)| Place { at: at.parse().unwrap(), pods: *pods };
        Offer { wanted: false, key: KEY, places: places.iter().map(place).collect() }
    }

    /// The proofs of a node with an own address and a side, about node 2, and what the network does with probes.
    struct World {
        proofs: Proofs,
        now: Instant,
        sides: Vec<IpAddr>,
        own: HashSet<IpAddr>,
        asked: usize,
        probes: usize,
    }

    impl World {
        fn new() -> Self {
            let mut proofs = Proofs::new(u64::MAX);
            let now = Instant::now();
            proofs.seek(now, &[2].into());
            let own = [ip("192.0.2.1"), ip(SIDE)].into();
            Self { proofs, now, sides: vec![ip(SIDE)], own, asked: 0, probes: 0 }
        }

        fn aim(&mut self) {
            let range = |place: &Place| {
                let text = if place.pods { "10.244.2.0/24".to_owned() } else { place.at.ip().to_string() };
                text.parse().ok()
            };
            self.proofs.aim(self.now, &self.sides, range);
        }

        fn offer(&mut self, offer: Offer) {
            assert!(self.proofs.offered(self.now, 2, offer));
            self.aim();
        }

        /// Lets time pass; `seen`: whom node 2 sees when a probe comes from there, if it comes at all.
        fn run(&mut self, time: Duration, seen: impl Fn(Option<IpAddr>) -> Option<IpAddr>) {
            let end = self.now + time;
            while let Some(due) = self.proofs.due().filter(|due| *due <= end) {
                self.now = due.max(self.now);
                for act in self.proofs.act(self.now) {
                    let Act::Probe { from, to, key, nonce } = act else {
                        self.asked += 1;
                        continue;
                    };
                    self.probes += 1;
                    let Some(seen) = seen(from) else { continue };
                    let probe = message::probe(&key, 1, nonce, to.ip());
                    let Some(answer) = message::answer(&KEY, &probe, to.ip(), seen) else { continue };
                    self.proofs.answered(self.now, &Answer::parse(&answer).unwrap(), &self.own);
                }
            }
            self.now = end;
        }

        fn ranges(&self) -> Vec<String> {
            self.proofs.found().ranges.iter().map(|(node, range)| format!("{node} {range}")).collect()
        }
    }

    /// As a CNI does: nothing is translated.
    fn plain(from: Option<IpAddr>) -> Option<IpAddr> {
        from.or(Some(ip("192.0.2.1")))
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_node_is_asked_until_it_makes_an_offer_and_ever_more_seldom() {
        let mut world = World::new();
        world.run(secs(60), plain);
        assert_eq!((world.asked, world.probes), (5, 0));
        world.run(secs(24 * 3600), plain);
        assert!((140..160).contains(&world.asked), "{}", world.asked);
        world.offer(offer(&[]));
        let asked = world.asked;
        world.run(secs(700), plain);
        assert_eq!(world.asked, asked + 1, "nowhere, for now");
        world.offer(offer(&[(FAR, true)]));
        world.run(secs(1), plain);
        assert_eq!(world.ranges(), ["2 10.244.2.0/24"]);
        assert!(!world.proofs.offered(world.now, 3, offer(&[])), "nobody asked");
    }

    #[test]
    fn a_proof_is_renewed_at_low_cost_and_lost_within_seconds_of_the_first_probe_in_vain() {
        let mut world = World::new();
        world.offer(offer(&[(FAR, true)]));
        world.run(secs(1), plain);
        let sources = [(world.proofs.found().ranges.first().unwrap().1, ip(SIDE))].into();
        assert_eq!(world.proofs.found().sources, sources);
        let (probes, asked) = (world.probes, world.asked);
        world.run(secs(600), plain);
        let cost = (world.probes - probes) * 2 * (28 + 25);
        assert!(cost <= 10 * 512, "{cost} bytes in ten minutes");
        assert_eq!(world.asked, asked, "no tunnel is needed");
        world.run(secs(32), |_| None);
        assert!(world.ranges().is_empty());
        assert!(world.asked > asked, "is its agent another process?");
        world.run(secs(700), plain);
        assert_eq!(world.ranges(), ["2 10.244.2.0/24"], "found again");
    }

    #[test]
    fn who_uses_an_address_has_its_proof_renewed() {
        let mut world = World::new();
        world.offer(offer(&[(FAR, true)]));
        world.run(secs(1), plain);
        let probes = world.probes;
        world.proofs.used(world.now, ip("10.244.2.9"));
        world.run(Duration::ZERO, plain);
        assert_eq!(world.probes, probes, "fresh");
        world.run(secs(6), plain);
        world.proofs.used(world.now, ip("10.244.3.9"));
        world.run(Duration::ZERO, plain);
        assert_eq!(world.probes, probes, "another range");
        world.proofs.used(world.now, ip("10.244.2.9"));
        world.run(secs(2), |_| None);
        assert!(world.ranges().is_empty());
    }

    #[test]
    fn what_is_translated_or_comes_from_somebody_else_proves_nothing() {
        let mut world = World::new();
        world.offer(offer(&[(FAR, true)]));
        world.run(secs(3), |from| from.map(|_| ip("192.0.2.1")));
        assert_eq!(world.proofs.found(), Found::default(), "masqueraded");
        world.run(secs(700), |from| from.is_none().then_some(ip("203.0.113.7")));
        assert_eq!(world.proofs.found(), Found::default(), "not an address of this node");
        let mut forged = World::new();
        forged.offer(Offer { key: [8; 16], ..offer(&[(FAR, true)]) });
        forged.run(secs(3), plain);
        assert_eq!(forged.proofs.found(), Found::default(), "node 2 never made that key");
        let mut late = World::new();
        late.offer(offer(&[(FAR, true)]));
        let Some(Act::Probe { to, key, nonce, .. }) = late.proofs.act(late.now).pop() else { panic!() };
        let probe = message::probe(&key, 1, nonce, to.ip());
        let answer = message::answer(&KEY, &probe, to.ip(), ip(SIDE)).unwrap();
        late.run(secs(1_000), |_| None);
        assert!(
            !late.proofs.answered(late.now, &Answer::parse(&answer).unwrap(), &late.own),
            "of an old round"
        );
    }

    #[test]
    fn a_nodes_own_address_counts_beside_its_pods_only() {
        let host = ("192.0.2.2:4000", false);
        let mut world = World::new();
        world.offer(offer(&[host]));
        world.run(secs(3), plain);
        assert!(world.ranges().is_empty(), "two nodes of one LAN, without a CNI");
        world.offer(offer(&[host, (FAR, true)]));
        world.run(secs(3), plain);
        assert_eq!(world.ranges(), ["2 10.244.2.0/24", "2 192.0.2.2/32"]);
    }

    #[test]
    fn a_route_that_goes_takes_its_proof_with_it_and_another_process_does_not() {
        let mut world = World::new();
        world.offer(offer(&[(FAR, true)]));
        world.run(secs(1), plain);
        world.offer(offer(&[("10.244.2.1:4001", true)]));
        assert_eq!(world.ranges(), ["2 10.244.2.0/24"]);
        world.run(secs(1), plain);
        assert_eq!(world.ranges(), ["2 10.244.2.0/24"]);
        world.proofs.aim(world.now, &world.sides, |_| None);
        assert!(world.ranges().is_empty());
        world.aim();
        world.run(secs(1), plain);
        assert_eq!(world.ranges(), ["2 10.244.2.0/24"]);
        world.proofs.seek(world.now, &BTreeSet::new());
        assert!(world.proofs.due().is_none());
    }
}
