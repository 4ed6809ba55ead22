//! Sessions with `boringtun`, an independent implementation, in both roles.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::std_instead_of_core,
    missing_docs,
    unreachable_pub,
    dead_code
)]

#[path = "tunnel/net.rs"]
mod net;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use edgemesh_core::noise::{PublicKey, StaticSecret};
use edgemesh_core::rng::Rng;
use edgemesh_core::time::Instant;
use net::*;

/// Our node and theirs, with each other as the only peer.
struct Pair {
    ours: Node,
    theirs: Tunn,
    now: Instant,
}

/// What their side did with a datagram or packet.
#[derive(PartialEq, Eq, Debug)]
enum Theirs {
    Nothing,
    Wire(Vec<u8>),
    Packet(Vec<u8>),
    Error(String),
}

impl Theirs {
    fn of(result: TunnResult<'_>) -> Self {
        match result {
            TunnResult::Done => Self::Nothing,
            TunnResult::Err(error) => Self::Error(format!("{error:?}")),
            TunnResult::WriteToNetwork(bytes) => Self::Wire(bytes.to_vec()),
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Self::Packet(packet.to_vec())
            }
        }
    }

    fn wire(self) -> Vec<u8> {
        match self {
            Self::Wire(bytes) => bytes,
            other => panic!("nothing for the wire but {other:?}"),
        }
    }
}

impl Pair {
    /// `limit`: handshakes a second before their side asks for a cookie.
    fn new(psk: Option<[u8; 32]>, limit: u64) -> Self {
        let mut rng = Rng::new([21; 32]);
        let (mine, theirs) = (StaticSecret::generate(&mut rng), StaticSecret::generate(&mut rng));
        let (public, peer) = (mine.public(), theirs.public());
        let mut ours = Node::with(mine, rng, 0, memory(1, 17, 8));
        ours.tunnels.add_peer(PEER, &peer, psk.as_ref()).unwrap();
        let limiter = RateLimiter::new(&x25519::PublicKey::from(peer.0), limit);
        let theirs = Tunn::new(
            x25519::StaticSecret::from(*theirs.as_bytes()),
            x25519::PublicKey::from(public.0),
            psk,
            None,
            77,
            Some(Arc::new(limiter)),
        );
        Self { ours, theirs, now: Instant::from_micros(1_000_000) }
    }

    fn take(&mut self, datagram: &[u8]) -> Theirs {
        let source = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Theirs::of(self.theirs.decapsulate(source, datagram, &mut [0; 2048]))
    }

    fn give(&mut self, datagram: &[u8]) {
        self.ours.receive(self.now, origin(1), datagram).unwrap();
    }

    fn drain(&mut self) -> Vec<Vec<u8>> {
        self.ours.drain(self.now)
    }

    fn later(&mut self, n: u64) {
        self.now = self.now.after(secs(n));
        if self.ours.deadline.is_some_and(|at| at <= self.now) {
            self.ours.deadline = self.ours.tunnels.handle_timeout(self.now, PEER);
        }
    }

    fn we_initiate(&mut self) {
        self.ours.tunnels.initiate(self.now, PEER);
        let initiation = self.drain().remove(0);
        let response = self.take(&initiation).wire();
        self.give(&response);
        let confirm = self.drain();
        assert_eq!(confirm.len(), 1);
        assert_eq!(self.take(&confirm[0]), Theirs::Nothing);
    }

    fn they_initiate(&mut self) {
        let initiation = Theirs::of(self.theirs.format_handshake_initiation(&mut [0; 148], true)).wire();
        self.give(&initiation);
        let response = self.drain();
        assert_eq!(response.len(), 1);
        let confirm = self.take(&response[0]).wire();
        self.give(&confirm);
        assert!(self.drain().is_empty());
        assert!(self.ours.tunnels.is_up(PEER));
    }

    /// Packets of many sizes both ways, ours out of order.
    fn talk(&mut self) {
        let sizes = [20, 21, 35, 36, 37, 576, 1400, 1407, 1408];
        let sealed: Vec<_> =
            sizes.iter().map(|n| self.ours.seal(self.now, &packet(*n), true).unwrap()).collect();
        for (n, datagram) in sizes.iter().zip(&sealed).rev() {
            assert_eq!(datagram.len(), 32 + n.next_multiple_of(16).min(MTU));
            assert_eq!(self.take(datagram), Theirs::Packet(packet(*n)));
            assert!(matches!(self.take(datagram), Theirs::Error(_)), "a replay");
        }
        for n in sizes {
            let datagram = Theirs::of(self.theirs.encapsulate(&packet(n), &mut [0; 2048])).wire();
            self.give(&datagram);
            let text = self.ours.received.pop().unwrap();
            assert_eq!(text[..n], packet(n));
            assert!(text[n..].iter().all(|byte| *byte == 0) && text.len() < n + 16);
        }
        assert!(self.ours.drops.is_empty(), "{:?}", self.ours.drops);
    }
}

/// An IPv4 packet of `n` bytes.
fn packet(n: usize) -> Vec<u8> {
    let mut packet = vec![n as u8; n];
    packet[..4].copy_from_slice(&[0x45, 0, (n >> 8) as u8, n as u8]);
    packet[12..20].copy_from_slice(&[242, 0, 0, 1, 242, 0, 0, 2]);
    packet
}

const NO_LIMIT: u64 = 1_000;

#[test]
fn we_initiate_and_talk() {
    for psk in [None, Some([3; 32])] {
        let mut pair = Pair::new(psk, NO_LIMIT);
        pair.we_initiate();
        pair.talk();
    }
}

#[test]
fn they_initiate_and_talk() {
    for psk in [None, Some([3; 32])] {
        let mut pair = Pair::new(psk, NO_LIMIT);
        pair.they_initiate();
        pair.talk();
    }
}

#[test]
fn sessions_are_renewed_from_both_sides() {
    let mut pair = Pair::new(None, NO_LIMIT);
    for round in 0..6 {
        if round % 2 == 0 {
            pair.we_initiate()
        } else {
            pair.they_initiate()
        }
        pair.talk();
        pair.later(20);
        for stray in pair.drain() {
            pair.take(&stray);
        }
    }
}

/// A packet that waits for the handshake at their side comes through with it.
#[test]
fn their_queued_packet_confirms_the_session() {
    let mut pair = Pair::new(None, NO_LIMIT);
    let initiation = Theirs::of(pair.theirs.encapsulate(&packet(99), &mut [0; 2048])).wire();
    pair.give(&initiation);
    let response = pair.drain().remove(0);
    let confirm = pair.take(&response).wire();
    pair.give(&confirm);
    let queued = pair.take(&[]).wire();
    pair.give(&queued);
    assert_eq!(pair.ours.received[0][..99], packet(99));
}

#[test]
fn we_prove_our_address_with_their_cookie() {
    let mut pair = Pair::new(None, 0);
    pair.ours.tunnels.initiate(pair.now, PEER);
    let initiation = pair.drain().remove(0);
    let reply = pair.take(&initiation).wire();
    assert_eq!(reply.len(), 64);
    pair.give(&reply);
    assert!(pair.drain().is_empty());
    pair.later(6);
    let initiation = pair.drain().remove(0);
    assert_ne!(initiation[132..], [0; 16]);
    let response = pair.take(&initiation).wire();
    assert_eq!(response.len(), 92);
    pair.give(&response);
    assert!(pair.ours.drain(pair.now).len() == 1 && pair.ours.tunnels.is_up(PEER));
}

#[test]
fn they_prove_their_address_with_our_cookie() {
    let mut pair = Pair::new(None, NO_LIMIT);
    let initiate =
        |pair: &mut Pair| Theirs::of(pair.theirs.format_handshake_initiation(&mut [0; 148], true)).wire();
    let first = initiate(&mut pair);
    // Four copies fill half of our queue of eight.
    (0..4).for_each(|_| pair.give(&first));
    let verdict = pair.ours.receive(pair.now, origin(1), &first);
    assert_eq!(verdict, Err(edgemesh_core::counters::DropReason::HandshakeLimit));
    let mut out = [0; 148];
    let reply = pair.ours.tunnels.poll_transmit(pair.now, &mut out).unwrap();
    assert_eq!((reply.len, reply.answer), (64, Some(origin(1))));
    assert_eq!(pair.take(&out[..64]), Theirs::Nothing);
    let second = initiate(&mut pair);
    assert_ne!(second[132..], [0; 16]);
    pair.give(&second);
}

#[test]
fn both_sides_see_the_same_public_key() {
    let secret = StaticSecret::from_bytes([5; 32]);
    let theirs = x25519::PublicKey::from(&x25519::StaticSecret::from([5; 32]));
    assert_eq!(secret.public(), PublicKey(theirs.to_bytes()));
}
