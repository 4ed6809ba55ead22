//! Sessions that run out of counters, with `boringtun` on the other side. Nobody can send 2^60 packets: the counter of
//! a live session is put near its limits here, from inside, and every packet around them is really sealed, opened and
//! answered. What can be seen from outside is in `core/tests/boringtun.rs`.

use super::*;
use crate::noise::ChaChaPoly;
use crate::packet::{HEADROOM, Packet, TAILROOM};
use crate::rng::Rng;
use crate::time::WallTime;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use mock_instant::MockClock;
use std::boxed::Box;
use std::vec;
use std::vec::Vec;

const PEER: PeerId = PeerId(1);
const OURS: [u8; 32] = [21; 32];
const THEIRS: [u8; 32] = [22; 32];
const PACKET: [u8; 20] = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 242, 0, 0, 1, 242, 0, 0, 2];

fn leak<T: Clone>(empty: T, n: usize) -> &'static mut [T] {
    Box::leak(vec![empty; n].into_boxed_slice())
}

struct Pair {
    ours: Tunnels<'static>,
    theirs: Tunn,
    rng: Rng,
    now: Instant,
}

impl Pair {
    /// A session that this side or theirs has begun.
    fn connected(by_us: bool) -> Self {
        let memory = TunnelResources {
            peers: leak(PeerSlot::EMPTY, 1),
            keypairs: leak(KeypairSlot::EMPTY, KEYPAIRS),
            windows: leak(0, KEYPAIRS * 17),
            indices: leak(0, 8),
            keys: leak(0, 2),
            jobs: leak(JobSlot::EMPTY, 4),
            cookies: leak(CookieSlot::EMPTY, 1),
            buckets: leak(BucketSlot::EMPTY, 4),
        };
        let mut ours = Tunnels::new(memory, StaticSecret::from_bytes(OURS), 0);
        ours.add_peer(PEER, &StaticSecret::from_bytes(THEIRS).public(), None).unwrap();
        let peer = x25519::PublicKey::from(ours.public().0);
        let theirs = Tunn::new(x25519::StaticSecret::from(THEIRS), peer, None, None, 1, None);
        let mut pair = Self { ours, theirs, rng: Rng::new([4; 32]), now: Instant::from_micros(1_000_000) };
        if by_us {
            pair.ours.initiate(pair.now, PEER);
        } else {
            let mut out = [0; 148];
            let TunnResult::WriteToNetwork(initiation) =
                pair.theirs.format_handshake_initiation(&mut out, true)
            else {
                panic!("no initiation")
            };
            pair.take(initiation);
        }
        assert_eq!(pair.handshake(), 1);
        assert!(pair.ours.is_up(PEER));
        // Long enough for a handshake of ours to be allowed again, too short for one to be due by time.
        pair.pause();
        pair
    }

    fn pause(&mut self) {
        self.now = self.now.after(Duration::from_secs(7));
        MockClock::advance(std::time::Duration::from_secs(7));
    }

    /// Puts the counter of the session in use to where that many messages would have brought it.
    fn set_counter(&mut self, counter: u64) {
        let place = pair_place(PEER, self.ours.peers[0].current).unwrap();
        self.ours.keypairs[place].counter = counter;
    }

    /// A packet of ours, which has to come out at their side; the counter that it had.
    fn send(&mut self) -> Result<u64, NoSession> {
        let grant = self.ours.reserve(self.now, PEER, 1, true)?;
        let mut buffer = [0; HEADROOM + PACKET.len() + TAILROOM];
        buffer[HEADROOM..][..PACKET.len()].copy_from_slice(&PACKET);
        let mut packet = Packet::new(&mut buffer, HEADROOM, PACKET.len()).unwrap();
        seal(&self.ours.send_key::<ChaChaPoly>(grant.key).unwrap(), grant.first, &mut packet, usize::MAX)
            .unwrap();
        let mut out = [0; 200];
        let TunnResult::WriteToTunnelV4(text, _) = self.theirs.decapsulate(None, packet.bytes(), &mut out)
        else {
            panic!("counter {} was not taken", grant.first)
        };
        assert_eq!(text, PACKET);
        Ok(grant.first)
    }

    /// A packet of theirs has to come out here.
    fn answer(&mut self) {
        let mut out = [0; 200];
        let TunnResult::WriteToNetwork(datagram) = self.theirs.encapsulate(&PACKET, &mut out) else {
            panic!("they have no session")
        };
        assert!(self.take(datagram).starts_with(&PACKET));
    }

    /// A datagram of theirs; the text of one with data.
    fn take(&mut self, datagram: &mut [u8]) -> Vec<u8> {
        match self.ours.classify(datagram) {
            Datagram::Drop(reason) => panic!("{reason:?}"),
            Datagram::Message => {
                let origin = Origin { port: 1, ..Origin::EMPTY };
                self.ours.message(self.now, &origin, datagram, &mut self.rng).unwrap();
                Vec::new()
            }
            Datagram::Data(ticket) => {
                let key = self.ours.recv_key::<ChaChaPoly>(ticket.key).unwrap();
                let len = datagram.len();
                let mut packet = Packet::new(datagram, 0, len).unwrap();
                let opened = open(&key, ticket, &mut packet).unwrap();
                assert_eq!(self.ours.commit(self.now, opened), Ok(PEER));
                packet.bytes().to_vec()
            }
        }
    }

    /// Lets both sides say what they have to say; how many handshake messages this side sent.
    fn handshake(&mut self) -> usize {
        let mut said = 0;
        loop {
            let wall = WallTime { secs: 1_700_000_000 + self.now.as_micros() / 1_000_000, nanos: 0 };
            while self.ours.work(self.now, wall, &mut self.rng).more {}
            while self.ours.poll_event().is_some() {}
            let mut out = [0; 148];
            let Some(sent) = self.ours.poll_transmit(self.now, &mut out) else { return said };
            said += usize::from(sent.len > 32);
            let mut answer = [0; 200];
            if let TunnResult::WriteToNetwork(bytes) =
                self.theirs.decapsulate(None, &out[..sent.len], &mut answer)
            {
                self.take(bytes);
            }
        }
    }
}

/// The message that reaches the limit still goes in the old session and a handshake with it, whoever began the session;
/// what is sent before its answer is there goes in the old one, what follows in the new one, and nothing is lost.
#[test]
fn a_session_is_renewed_by_count_with_boringtun() {
    for by_us in [true, false] {
        let mut pair = Pair::connected(by_us);
        let first = pair.send().unwrap();
        assert!(first <= 1, "behind a confirmation at most");
        pair.set_counter(REKEY_AFTER_MESSAGES - 2);
        for counter in REKEY_AFTER_MESSAGES - 2..REKEY_AFTER_MESSAGES {
            assert_eq!(pair.send(), Ok(counter));
            assert_eq!(pair.handshake(), 0, "not yet at {counter}");
            pair.answer();
        }
        assert_eq!(pair.send(), Ok(REKEY_AFTER_MESSAGES));
        assert_eq!(pair.send(), Ok(REKEY_AFTER_MESSAGES + 1), "the answer is not there yet");
        assert_eq!(pair.handshake(), 1, "one initiation");
        for n in 0..3 {
            assert!(pair.send().unwrap() <= n + 1, "in the new session");
            pair.answer();
        }
        assert_eq!(pair.handshake(), 0);
    }
}

/// Where no handshake has renewed it in time nothing is sent beyond the last counter, and what waits goes on in the
/// session that comes.
#[test]
fn no_counter_beyond_the_last_is_used_with_boringtun() {
    let mut pair = Pair::connected(true);
    pair.set_counter(REJECT_AFTER_MESSAGES - 2);
    // Before anything is heard of the handshake that the first of them begins.
    assert_eq!(pair.send(), Ok(REJECT_AFTER_MESSAGES - 2));
    assert_eq!(pair.send(), Ok(REJECT_AFTER_MESSAGES - 1));
    assert_eq!(pair.send(), Err(NoSession::Handshaking));
    pair.answer();
    assert_eq!(pair.handshake(), 1);
    assert!(pair.send().unwrap() <= 1);
    pair.answer();
}
