//! One node and many peers that come, go and lose messages: tables stay consistent and nothing leaks.

use edgemesh_core::PeerId;
use edgemesh_core::noise::{ChaChaPoly, PublicKey, StaticSecret};
use edgemesh_core::packet::{HEADROOM, Packet, TAILROOM};
use edgemesh_core::rng::Rng;
use edgemesh_core::time::{Duration, Instant};
use edgemesh_core::tunnel::*;
use proptest::prelude::*;

use crate::net::{MTU, Node, PEER, memory};

const SPOKES: usize = 12;

struct Crowd<'a> {
    hub: Tunnels<'a>,
    rng: Rng,
    spokes: Vec<Node>,
    now: Instant,
    /// Of a hundred messages.
    loss: u32,
    received: Vec<PeerId>,
    failed: usize,
}

impl Crowd<'_> {
    fn id(spoke: usize) -> PeerId {
        PeerId(spoke as u32 + 1)
    }

    fn key(&self, spoke: usize) -> PublicKey {
        self.spokes[spoke].tunnels.public()
    }

    fn lost(&mut self) -> bool {
        self.rng.below(100) < self.loss
    }

    /// A message from a spoke arrives at the hub.
    fn hub_receives(&mut self, spoke: usize, bytes: &mut [u8]) {
        if self.lost() {
            return;
        }
        let origin = Origin { port: spoke as u16, ..Origin::EMPTY };
        match self.hub.classify(bytes) {
            Datagram::Drop(_) => {}
            Datagram::Message => {
                let _ = self.hub.message(self.now, &origin, bytes, &mut self.rng);
            }
            Datagram::Data(ticket) => {
                let key = self.hub.recv_key::<ChaChaPoly>(ticket.key).unwrap();
                let len = bytes.len();
                let opened = open(&key, ticket, &mut Packet::new(bytes, 0, len).unwrap()).unwrap();
                let peer = self.hub.commit(self.now, opened).unwrap();
                assert_eq!(peer, Self::id(spoke), "another peer's session");
                self.received.push(peer);
            }
        }
    }

    /// Until nothing moves.
    fn settle(&mut self) {
        for _ in 0..20 {
            let mut moved = false;
            for spoke in 0..SPOKES {
                for mut bytes in self.spokes[spoke].drain(self.now) {
                    moved = true;
                    self.hub_receives(spoke, &mut bytes);
                }
            }
            let wall = self.spokes[0].wall(self.now);
            while self.hub.work(self.now, wall, &mut self.rng).more {}
            while let Some(event) = self.hub.poll_event() {
                self.failed += usize::from(matches!(event, TunnelEvent::HandshakeFailed { .. }));
            }
            while self.hub.poll_deadline().is_some() {}
            let mut out = [0; 148];
            while let Some(transmit) = self.hub.poll_transmit(self.now, &mut out) {
                moved = true;
                let spoke = match (transmit.peer, transmit.answer) {
                    (Some(peer), _) => peer.0 as usize - 1,
                    (None, Some(origin)) => usize::from(origin.port),
                    (None, None) => panic!("to nobody"),
                };
                if !self.lost() {
                    let _ = self.spokes[spoke].receive(self.now, Origin::EMPTY, &out[..transmit.len]);
                }
            }
            if !moved && !self.hub.has_output() {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
        for spoke in 0..SPOKES {
            let id = Self::id(spoke);
            if self.hub.deadline(id).is_some_and(|at| at <= self.now) {
                let next = self.hub.handle_timeout(self.now, id);
                assert!(next.is_none_or(|at| at > self.now));
            }
            let node = &mut self.spokes[spoke];
            if node.deadline.is_some_and(|at| at <= self.now) {
                node.deadline = node.tunnels.handle_timeout(self.now, PEER);
            }
        }
        self.settle();
    }

    /// Sends to a spoke; whether it arrived.
    fn reaches(&mut self, spoke: usize) -> bool {
        let Ok(grant) = self.hub.reserve(self.now, Self::id(spoke), 1, true) else { return false };
        let key = self.hub.send_key::<ChaChaPoly>(grant.key).unwrap();
        let mut buffer = [0; HEADROOM + 20 + TAILROOM];
        let mut packet = Packet::new(&mut buffer, HEADROOM, 20).unwrap();
        packet.bytes_mut().fill(0x45);
        seal(&key, grant.first, &mut packet, MTU).unwrap();
        self.spokes[spoke].receive(self.now, Origin::EMPTY, packet.bytes()).is_ok()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn many_peers_come_and_go(
        seed: u8,
        loss in 0u32..40,
        steps in proptest::collection::vec((0usize..SPOKES, 0u8..8, 0u64..9_000), 1..150),
    ) {
        let mut peers = vec![PeerSlot::EMPTY; SPOKES];
        let mut keypairs = vec![KeypairSlot::EMPTY; SPOKES * KEYPAIRS];
        let mut windows = vec![0; SPOKES * KEYPAIRS * 3];
        let (mut indices, mut keys) = (vec![0; 128], vec![0; 32]);
        let mut jobs = vec![JobSlot::EMPTY; 8];
        let (mut cookies, mut buckets) = (vec![CookieSlot::EMPTY; 4], vec![BucketSlot::EMPTY; 8]);
        let mut rng = Rng::new([seed; 32]);
        let resources = TunnelResources {
            peers: &mut peers,
            keypairs: &mut keypairs,
            windows: &mut windows,
            indices: &mut indices,
            keys: &mut keys,
            jobs: &mut jobs,
            cookies: &mut cookies,
            buckets: &mut buckets,
        };
        let hub = Tunnels::new(resources, StaticSecret::generate(&mut rng), 0);
        let spokes = (0..SPOKES)
            .map(|_| {
                let (identity, own) = (StaticSecret::generate(&mut rng), Rng::new(rng.bytes()));
                let mut node = Node::with(identity, own, 0, memory(1, 3, 4));
                node.tunnels.add_peer(PEER, &hub.public(), None).unwrap();
                node
            })
            .collect();
        let now = Instant::from_micros(1);
        let mut crowd = Crowd { hub, rng, spokes, now, loss, received: vec![], failed: 0 };
        for (spoke, what, millis) in steps {
            let id = Crowd::id(spoke);
            match what {
                0 => crowd.hub.remove_peer(id),
                1 => crowd.hub.initiate(crowd.now, id),
                2 => crowd.spokes[spoke].tunnels.initiate(crowd.now, PEER),
                3 => drop(crowd.reaches(spoke)),
                4 => {
                    if let Ok(mut sealed) = crowd.spokes[spoke].seal(crowd.now, b"E", true) {
                        crowd.hub_receives(spoke, &mut sealed);
                    }
                }
                _ => {
                    let key = crowd.key(spoke);
                    crowd.hub.add_peer(id, &key, None).unwrap();
                }
            }
            crowd.settle();
            crowd.pass(Duration::from_millis(millis));
        }
        crowd.loss = 0;
        for spoke in 0..SPOKES {
            let key = crowd.key(spoke);
            crowd.hub.add_peer(Crowd::id(spoke), &key, None).unwrap();
        }
        // Eight jobs for twelve peers: cookies and retries, but everybody gets through.
        for _ in 0..40 {
            let missing: Vec<_> = (0..SPOKES).filter(|spoke| !crowd.reaches(*spoke)).collect();
            if missing.is_empty() {
                break;
            }
            crowd.settle();
            crowd.pass(Duration::from_millis(1_100));
        }
        for spoke in 0..SPOKES {
            prop_assert!(crowd.reaches(spoke), "spoke {} is lost", spoke);
        }
        drop(crowd);
        prop_assert!(indices.iter().all(|id| *id == 0), "an index leaked");
        prop_assert!(keys.iter().all(|id| *id == 0), "a key leaked");
        prop_assert!(windows.iter().all(|word| *word == 0), "a window leaked");
    }
}
