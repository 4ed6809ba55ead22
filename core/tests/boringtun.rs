//! Sessions with `boringtun`, an independent implementation, in both roles and in virtual time.
//!
//! `edgemesh-lab test interop/` has the same list against `wireguard-go` on real sockets. That a session is renewed by
//! count is in `core/src/tunnel/tests.rs`: neither side's limit can be reached, or set, from outside.
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
use edgemesh_core::counters::DropReason;
use edgemesh_core::noise::{PublicKey, StaticSecret};
use edgemesh_core::rng::Rng;
use edgemesh_core::time::Instant;
use edgemesh_core::tunnel::{NoSession, TunnelEvent};
use mock_instant::MockClock;
use net::*;

const OUR_SECRET: [u8; 32] = [21; 32];
const THEIR_SECRET: [u8; 32] = [22; 32];

/// Our node and theirs, with each other as the only peer.
struct Pair {
    ours: Node,
    theirs: Tunn,
    now: Instant,
    /// What went over the wire in [`Pair::pass`]: the second, whether we sent it, what it was.
    log: Vec<(u64, bool, Seek)>,
    /// Packets that came out at their side.
    delivered: Vec<Vec<u8>>,
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
        Self {
            ours: ours(psk, 0),
            theirs: theirs(psk, limit),
            now: Instant::from_micros(1_000_000),
            log: vec![],
            delivered: vec![],
        }
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
        MockClock::advance(std::time::Duration::from_secs(n));
        if self.ours.deadline.is_some_and(|at| at <= self.now) {
            self.ours.deadline = self.ours.tunnels.handle_timeout(self.now, PEER);
        }
    }

    /// Lets `n` seconds pass, with every message delivered at once and both sides' timers run. Each second it puts what
    /// `sends` says onto the wire first: a packet of ours, a packet of theirs.
    fn pass(&mut self, n: u64, sends: [bool; 2]) {
        for _ in 0..n {
            self.later(1);
            if sends[0]
                && let Ok(datagram) = self.ours.seal(self.now, &packet(99), true)
            {
                self.hand_theirs(datagram);
            }
            if sends[1] {
                let result = Theirs::of(self.theirs.encapsulate(&packet(99), &mut [0; 2048]));
                self.hand_ours(result);
            }
            let due = Theirs::of(self.theirs.update_timers(&mut [0; 2048]));
            self.hand_ours(due);
            self.exchange();
        }
    }

    fn exchange(&mut self) {
        for datagram in self.drain() {
            self.hand_theirs(datagram);
        }
    }

    fn hand_theirs(&mut self, datagram: Vec<u8>) {
        self.log.push((self.now.as_micros() / 1_000_000, true, seek(&datagram)));
        let result = self.take(&datagram);
        self.hand_ours(result);
    }

    fn hand_ours(&mut self, said: Theirs) {
        match said {
            Theirs::Nothing | Theirs::Error(_) => {}
            Theirs::Packet(packet) => self.delivered.push(packet),
            Theirs::Wire(datagram) => {
                self.log.push((self.now.as_micros() / 1_000_000, false, seek(&datagram)));
                if let Err(reason) = self.ours.receive(self.now, origin(1), &datagram) {
                    self.ours.drops.push(reason);
                }
                self.exchange();
            }
        }
    }

    /// The seconds at which a side sent messages of a kind, since `from`.
    fn times(&self, from: Instant, ours: bool, kind: Seek) -> Vec<u64> {
        let start = from.as_micros() / 1_000_000;
        let sent = self.log.iter().filter(|(_, by_us, what)| (*by_us, *what) == (ours, kind));
        sent.map(|(at, ..)| at - start).collect()
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

fn public(secret: [u8; 32]) -> PublicKey {
    StaticSecret::from_bytes(secret).public()
}

fn ours(psk: Option<[u8; 32]>, floor: u64) -> Node {
    let rng = Rng::new([9; 32]);
    let mut ours = Node::with(StaticSecret::from_bytes(OUR_SECRET), rng, floor, memory(1, 17, 8));
    ours.tunnels.add_peer(PEER, &public(THEIR_SECRET), psk.as_ref()).unwrap();
    ours
}

fn theirs(psk: Option<[u8; 32]>, limit: u64) -> Tunn {
    let limiter = RateLimiter::new(&x25519::PublicKey::from(public(THEIR_SECRET).0), limit);
    let peer = x25519::PublicKey::from(public(OUR_SECRET).0);
    let secret = x25519::StaticSecret::from(THEIR_SECRET);
    Tunn::new(secret, peer, psk, None, 77, Some(Arc::new(limiter)))
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
    assert_eq!(verdict, Err(DropReason::HandshakeLimit));
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

/// Whoever only receives says every ten seconds that it is there.
#[test]
fn keepalives_both_ways() {
    let mut pair = Pair::new(None, NO_LIMIT);
    pair.we_initiate();
    let start = pair.now;
    pair.pass(1, [false, true]);
    pair.pass(30, [false, false]);
    assert_eq!(pair.times(start, true, Seek::Keepalive), [11], "one, ten seconds behind their packet");
    let start = pair.now;
    pair.log.clear();
    pair.pass(1, [true, false]);
    pair.pass(30, [false, false]);
    // Theirs counts from what it sent last.
    assert_eq!(pair.times(start, false, Seek::Keepalive).len(), 1);
    assert!(pair.ours.drops.is_empty(), "{:?}", pair.ours.drops);
    assert!(pair.log.iter().all(|(_, _, kind)| *kind != Seek::Initiation), "nobody missed an answer");
}

/// With packets every second, the side that began a session renews it after two minutes, and no packet is lost.
#[test]
fn a_session_is_renewed_by_time_by_who_began_it() {
    for by_us in [true, false] {
        let mut pair = Pair::new(None, NO_LIMIT);
        let start = pair.now;
        if by_us {
            pair.we_initiate()
        } else {
            pair.they_initiate()
        }
        pair.pass(250, [true, true]);
        let begun = pair.times(start, by_us, Seek::Initiation);
        assert!(begun.len() == 2 && (120..=122).contains(&begun[0]), "by us: {by_us}, at {begun:?}");
        assert!((119..=122).contains(&(begun[1] - begun[0])), "by us: {by_us}, at {begun:?}");
        assert_eq!(pair.times(start, !by_us, Seek::Initiation), [], "the other side waits");
        assert_eq!((pair.delivered.len(), pair.ours.received.len()), (250, 250));
        assert!(pair.ours.drops.is_empty(), "{:?}", pair.ours.drops);
    }
}

/// The side that began a session and only receives renews it in time, too: at 165 s.
#[test]
fn a_receiver_renews_before_the_session_ends() {
    let mut pair = Pair::new(None, NO_LIMIT);
    let start = pair.now;
    pair.we_initiate();
    pair.pass(1, [false, true]);
    pair.pass(165, [false, false]);
    assert_eq!(pair.times(start, true, Seek::Initiation), []);
    pair.pass(1, [false, true]);
    assert_eq!(pair.times(start, true, Seek::Initiation), [167]);
    assert_eq!(pair.ours.received.len(), 2);
}

/// Each side takes what is within its window, once, and nothing else: both have 1,024 counters here.
#[test]
fn late_and_replayed_data_both_ways() {
    let mut pair = Pair::new(None, NO_LIMIT);
    pair.we_initiate();
    let sealed: Vec<_> = (0..1101).map(|_| pair.ours.seal(pair.now, &packet(40), true).unwrap()).collect();
    assert_eq!(pair.take(&sealed[1100]), Theirs::Packet(packet(40)));
    for (at, fresh) in [(0, false), (70, false), (77, true), (500, true), (1099, true)] {
        assert_eq!(matches!(pair.take(&sealed[at]), Theirs::Packet(_)), fresh, "ours, {at}");
        assert!(matches!(pair.take(&sealed[at]), Theirs::Error(_)), "ours again, {at}");
    }
    let sealed: Vec<_> =
        (0..1101).map(|_| Theirs::of(pair.theirs.encapsulate(&packet(40), &mut [0; 2048])).wire()).collect();
    pair.give(&sealed[1100]);
    for (at, fresh) in [(0, false), (75, false), (76, true), (500, true), (1099, true)] {
        let expected = if fresh { Ok(()) } else { Err(DropReason::Replay) };
        assert_eq!(pair.ours.receive(pair.now, origin(1), &sealed[at]), expected, "theirs, {at}");
        let again = pair.ours.receive(pair.now, origin(1), &sealed[at]);
        assert_eq!(again, Err(DropReason::Replay), "theirs again, {at}");
    }
}

/// Handshake messages that were seen before begin nothing, on either side.
#[test]
fn replayed_handshakes_begin_nothing() {
    let mut pair = Pair::new(None, NO_LIMIT);
    pair.ours.tunnels.initiate(pair.now, PEER);
    let initiation = pair.drain().remove(0);
    let response = pair.take(&initiation).wire();
    pair.give(&response);
    let confirm = pair.drain().remove(0);
    assert_eq!(pair.take(&confirm), Theirs::Nothing);
    assert!(matches!(pair.take(&initiation), Theirs::Error(_)));
    assert_eq!(pair.ours.receive(pair.now, origin(1), &response), Err(DropReason::UnknownIndex));
    assert!(matches!(pair.take(&confirm), Theirs::Error(_)));
    pair.talk();

    let mut pair = Pair::new(None, NO_LIMIT);
    let initiation = Theirs::of(pair.theirs.format_handshake_initiation(&mut [0; 148], true)).wire();
    pair.give(&initiation);
    let response = pair.drain().remove(0);
    let confirm = pair.take(&response).wire();
    pair.give(&confirm);
    pair.later(1);
    pair.give(&initiation);
    assert!(pair.drain().is_empty());
    assert_eq!(pair.ours.drops, [DropReason::OldHandshake]);
    assert!(matches!(pair.take(&response), Theirs::Error(_)));
    assert_eq!(pair.ours.receive(pair.now, origin(1), &confirm), Err(DropReason::Replay));
    pair.ours.drops.clear();
    pair.talk();
}

/// What was sealed in the session before is still taken; what is older is not.
#[test]
fn the_session_before_the_current_one_still_counts() {
    let mut pair = Pair::new(None, NO_LIMIT);
    let mut sealed = vec![];
    for round in 0..3 {
        // Less than it takes to miss an answer.
        pair.later(6);
        pair.we_initiate();
        let mine = pair.ours.seal(pair.now, &packet(60), true).unwrap();
        let one = Theirs::of(pair.theirs.encapsulate(&packet(60), &mut [0; 2048])).wire();
        let _ = pair.ours.seal(pair.now, &packet(20 + round), true).unwrap();
        sealed.push((mine, one));
    }
    let (newest, before, old) = (&sealed[2], &sealed[1], &sealed[0]);
    for (mine, one) in [newest, before] {
        assert_eq!(pair.take(mine), Theirs::Packet(packet(60)));
        assert_eq!(pair.ours.receive(pair.now, origin(1), one), Ok(()));
    }
    // They keep eight sessions; we keep what WireGuard does.
    assert_eq!(pair.ours.receive(pair.now, origin(1), &old.1), Err(DropReason::UnknownIndex));
}

/// Sessions do not care where their messages come from: either side may move.
#[test]
fn either_side_moves_in_the_middle_of_it() {
    let mut pair = Pair::new(None, NO_LIMIT);
    pair.they_initiate();
    let elsewhere = Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9)));
    let datagram = pair.ours.seal(pair.now, &packet(80), true).unwrap();
    let taken = Theirs::of(pair.theirs.decapsulate(elsewhere, &datagram, &mut [0; 2048]));
    assert_eq!(taken, Theirs::Packet(packet(80)));
    let datagram = Theirs::of(pair.theirs.encapsulate(&packet(80), &mut [0; 2048])).wire();
    assert_eq!(pair.ours.receive(pair.now, origin(7), &datagram), Ok(()));
    // A handshake is begun in one place and ended in another.
    pair.later(30);
    pair.drain();
    pair.ours.tunnels.initiate(pair.now, PEER);
    let initiation = pair.drain().remove(0);
    let response = Theirs::of(pair.theirs.decapsulate(elsewhere, &initiation, &mut [0; 2048])).wire();
    assert_eq!(pair.ours.receive(pair.now, origin(8), &response), Ok(()));
    let confirm = pair.drain().remove(0);
    assert_eq!(pair.take(&confirm), Theirs::Nothing);
    pair.talk();
}

/// We come back with a clock that is a year behind: the floor that was stored makes our stamps new.
#[test]
fn our_restart() {
    for they_send in [false, true] {
        let mut pair = Pair::new(None, NO_LIMIT);
        pair.we_initiate();
        let mut floors = pair.ours.events.iter().filter_map(|event| match event {
            TunnelEvent::PersistFloor(floor) => Some(*floor),
            _ => None,
        });
        let floor = floors.next_back().unwrap();
        pair.later(3);
        pair.ours = ours(None, floor);
        pair.ours.skew = -31_536_000;
        if they_send {
            let lost = Theirs::of(pair.theirs.encapsulate(&packet(50), &mut [0; 2048])).wire();
            let verdict = pair.ours.receive(pair.now, origin(1), &lost);
            assert_eq!(verdict, Err(DropReason::UnknownIndex));
        } else {
            assert_eq!(pair.ours.seal(pair.now, &packet(50), true), Err(NoSession::Handshaking));
        }
        // The engine does so when data of a known place has an unknown index.
        pair.we_initiate();
        pair.talk();
    }
}

/// They come back: their packet begins a session at once; without one, our timer does after 15 s.
#[test]
fn their_restart() {
    let mut pair = Pair::new(None, NO_LIMIT);
    pair.we_initiate();
    pair.later(30);
    pair.drain();
    pair.theirs = theirs(None, NO_LIMIT);
    pair.they_initiate();
    pair.talk();

    let mut pair = Pair::new(None, NO_LIMIT);
    pair.we_initiate();
    pair.pass(1, [true, false]);
    pair.theirs = theirs(None, NO_LIMIT);
    let (start, before) = (pair.now, pair.delivered.len());
    pair.log.clear();
    pair.pass(20, [true, false]);
    assert_eq!(
        pair.times(start, true, Seek::Initiation),
        [16],
        "15 s and some jitter after the first packet"
    );
    assert_eq!(pair.delivered.len() - before, 4, "and every packet since arrives");
}
