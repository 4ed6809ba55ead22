//! Plain hole punching over all 45 pairs of NAT classes, against the oracle.
//!
//! The puncher is the simplest that can work: each side learns the other's reflexive address from a rendezvous,
//! sends a few probes to it and to wherever a probe came from, and tells over the relay what arrived. It is no
//! model of the product; it shows that network, boxes and oracle agree with each other.

use edgemesh_core::time::{Duration, Instant};
use edgemesh_testkit::link::{Cable, LinkConfig};
use edgemesh_testkit::nat::{Nat, NatConfig};
use edgemesh_testkit::network::{Datagram, Gateway, HostId, Network, ZoneId};
use edgemesh_testkit::oracle::{Direct, NatClass, classes, direct_path_possible};
use edgemesh_testkit::seeds::for_each_seed;
use edgemesh_testkit::world::{Participant, Transmit, World};
use std::collections::VecDeque;
use std::net::SocketAddr;

const SERVER: &str = "203.0.113.1:3478";
const PORT: u16 = 4242;
const PROBE: &[u8] = b"probe";
const ROUNDS: u32 = 6;
const ROUND: Duration = Duration::from_millis(100);

/// The rendezvous tells each of two peers where it sees the other.
#[derive(Default)]
struct Rendezvous {
    peers: Vec<SocketAddr>,
    queue: VecDeque<Transmit>,
}

/// One side of the punch.
struct Peer {
    /// Where to send probes: the other's reflexive address, and wherever its probes came from.
    targets: Vec<SocketAddr>,
    /// Whether a probe got through to here.
    reached: bool,
    rounds: u32,
    next: Option<Instant>,
    queue: VecDeque<Transmit>,
}

enum Node {
    Rendezvous(Rendezvous),
    Peer(Peer),
}

fn server() -> SocketAddr {
    SERVER.parse().unwrap()
}

impl Rendezvous {
    fn hello(&mut self, from: SocketAddr) {
        self.peers.push(from);
        if let [one, two] = self.peers[..] {
            for (dst, other) in [(one, two), (two, one)] {
                let bytes = other.to_string().into_bytes();
                self.queue.push_back(Transmit::Datagram { port: server().port(), dst, bytes });
            }
        }
    }
}

impl Peer {
    fn new() -> Self {
        let hello = Transmit::Datagram { port: PORT, dst: server(), bytes: b"hello".to_vec() };
        Self { targets: Vec::new(), reached: false, rounds: 0, next: None, queue: [hello].into() }
    }

    fn aim(&mut self, now: Instant, target: SocketAddr) {
        if !self.targets.contains(&target) {
            self.targets.push(target);
            self.rounds = ROUNDS;
            self.next = Some(now);
        }
    }
}

impl Participant for Node {
    fn handle_datagram(&mut self, now: Instant, datagram: Datagram) {
        match self {
            Self::Rendezvous(server) => server.hello(datagram.src),
            Self::Peer(peer) if datagram.bytes == PROBE => {
                peer.reached = true;
                peer.aim(now, datagram.src);
            }
            Self::Peer(peer) => {
                peer.aim(now, String::from_utf8(datagram.bytes).unwrap().parse().unwrap());
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        let Self::Peer(peer) = self else { return };
        for dst in &peer.targets {
            peer.queue.push_back(Transmit::Datagram { port: PORT, dst: *dst, bytes: PROBE.to_vec() });
        }
        peer.rounds -= 1;
        peer.next = (peer.rounds > 0).then(|| now.after(ROUND));
    }

    fn poll_transmit(&mut self, _: Instant) -> Option<Transmit> {
        match self {
            Self::Rendezvous(server) => server.queue.pop_front(),
            Self::Peer(peer) => peer.queue.pop_front(),
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Rendezvous(_) => None,
            Self::Peer(peer) => peer.next,
        }
    }
}

/// Whether plain punching gets a probe through in both directions.
fn punches(seed: u64, pair: [NatClass; 2]) -> bool {
    let mut network = Network::new(seed);
    let cable = |millis| Cable::symmetric(LinkConfig::delayed(millis));
    let rendezvous = network.add_host(ZoneId::INTERNET, server().ip(), cable(20));
    let boxes = ["198.51.100.1", "192.0.2.1"].into_iter().zip(pair);
    let hosts: Vec<HostId> = boxes
        .map(|(external, (mapping, filtering))| {
            let nat = Nat::new(NatConfig::new(mapping, filtering), external.parse().unwrap());
            let site = network.add_zone(ZoneId::INTERNET, Gateway::nat(nat), cable(10));
            network.add_host(site, "192.168.1.2".parse().unwrap(), cable(1))
        })
        .collect();
    let mut world = World::new(network);
    world.start(rendezvous, Node::Rendezvous(Rendezvous::default()));
    for host in &hosts {
        world.start(*host, Node::Peer(Peer::new()));
    }
    world.run(Duration::from_secs(5)).unwrap();
    hosts.iter().all(|host| matches!(world.at(*host), Node::Peer(peer) if peer.reached))
}

#[test]
fn plain_punching_succeeds_exactly_where_the_oracle_says() {
    for_each_seed(5, |seed| {
        let all: Vec<_> = classes().collect();
        for (n, a) in all.iter().enumerate() {
            for b in &all[n..] {
                let deterministic = direct_path_possible(*a, *b) == Direct::Deterministic;
                assert_eq!(punches(seed, [*a, *b]), deterministic, "{a:?} with {b:?}");
            }
        }
    });
}
