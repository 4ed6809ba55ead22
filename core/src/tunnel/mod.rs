//! WireGuard sessions, exact to the byte (whitepaper of 2020-06-01; timers as the Linux kernel runs them).
//!
//! **Life cycle.** The caller adds a peer under a dense number. The first [`Tunnels::reserve`] for it, or
//! [`Tunnels::initiate`], queues a handshake; [`Tunnels::work`] computes it, one X25519 a call;
//! [`Tunnels::poll_transmit`] writes what is to be sent. Data is sealed with counters from `reserve` and opened
//! between [`Tunnels::classify`] and [`Tunnels::commit`], by pure functions that may run on any thread. Sessions
//! re-key while they carry data and die of age when they do not.
//!
//! **Order of calls.** After any call, drain [`Tunnels::poll_event`], [`Tunnels::poll_transmit`] and
//! [`Tunnels::poll_deadline`], and call `work` while it says that more waits. Events first: a
//! [`TunnelEvent::PersistFloor`] has to be stored before the initiation behind it leaves.
//!
//! **Bounds.** Everything lives in [`TunnelResources`]: 3 keypairs a peer (previous, current, next); handshakes
//! under way, one of which is kept for our own; when full, a message is dropped as `QueueFull` and its sender
//! retries. Under load senders must prove their address, see `cookie`.
//!
//! **Deviations**, none visible on the wire: an initiation of ours survives one of the peer's, so that handshakes
//! that cross both succeed; an attempt that the rate limit delays is made when it allows; data that the path
//! layer sends (`payload: false`) neither starts nor re-keys a session.
//!
//! It does not know addresses or paths, does not check inner addresses, and sends no persistent keepalives.
//!
#![doc = include_str!("example.md")]

mod cookie;
mod keypairs;
mod messages;
mod replay;
mod secrets;
mod slots;
mod stamp;
mod strangers;
mod timers;
mod transport;
mod work;

pub use cookie::{BucketSlot, CookieSlot};
pub use secrets::{MeshPsk, pair_psk};
pub use slots::{JobSlot, KeypairSlot, Origin, PeerSlot};
pub use stamp::FLOOR_MARGIN;
pub use transport::{Content, OpenTicket, Opened, RecvKey, SendGrant, SendKey, open, seal};

use siphasher::sip::SipHasher13;

use crate::PeerId;
use crate::counters::DropReason;
use crate::noise::{PublicKey, StaticSecret, hash};
use crate::storage::{Index, Link, Pool};
use crate::time::{Duration, Instant};
use cookie::Guard;
use secrets::Identity;
use slots::flag;
use stamp::StampClock;

/// Age at which the initiator of a session re-keys when it sends.
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// Age at which the initiator re-keys when it only receives: early enough for one attempt and an answer.
pub const REKEY_ON_RECEIVE: Duration = Duration::from_secs(165);
/// Age at which a session is not used any more.
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// How long after the last handshake every key is forgotten.
pub const ZERO_AFTER_TIME: Duration = Duration::from_secs(540);
/// How long an initiation waits for its response; no initiation follows another handshake message sooner.
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for a message that may have led nowhere: more than most round trips.
pub const DOUBTED_TIMEOUT: Duration = Duration::from_secs(1);
/// Upper bound of the random part of that wait, in microseconds.
pub const JITTER: u32 = 334_000;
/// How long initiations are repeated without data to send.
pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// How long after receiving data, with nothing sent, a keepalive is due.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The least time between two initiations accepted from one peer.
pub const INITIATION_GAP: Duration = Duration::from_millis(20);
/// Messages after which the sender re-keys.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// Messages after which a key is not used any more.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
/// How long after the last initiation a peer that did not answer is taken for dead: then it may be tried again.
pub const SILENCE_COUNTS: Duration = Duration::from_secs(30);
/// Keypair slots that each peer needs.
pub const KEYPAIRS: usize = 3;

/// One generation of keys. `slot` is dense, below the number of keypair slots, so a shell can keep its ciphers in
/// an array; `index` tells generations apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct KeyId {
    /// Number of the keypair slot.
    pub slot: u32,
    /// Our receiver index.
    pub index: u32,
}

/// What a datagram is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Datagram {
    /// Data of a session, to be opened.
    Data(OpenTicket),
    /// A handshake message or cookie reply, for [`Tunnels::message`].
    Message,
    /// Neither, or certainly not new.
    Drop(DropReason),
}

/// Why nothing can be sent to a peer now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoSession {
    /// There is no such peer.
    UnknownPeer,
    /// A handshake is under way; `SessionUp` or `HandshakeFailed` will follow.
    Handshaking,
    /// None is, and this packet is no reason to start one.
    Idle,
}

/// Why a peer was not added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddPeerError {
    /// The number is 0 or beyond the peer slots.
    NoSlot,
    /// Another peer has this key: two nodes made from one image.
    DuplicateKey,
    /// It is this node's own key.
    OwnKey,
}

/// What the caller should know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TunnelEvent {
    /// Packets can be sent to the peer; parked ones should be, now.
    SessionUp {
        /// Which peer.
        peer: PeerId,
    },
    /// The last session with the peer has expired.
    SessionDown {
        /// Which peer.
        peer: PeerId,
    },
    /// The peer did not answer for [`REKEY_ATTEMPT_TIME`].
    HandshakeFailed {
        /// Which peer.
        peer: PeerId,
    },
    /// Somebody whose key is no peer's wants a session. Its initiation waits for [`Tunnels::add_peer`], but not
    /// for long. Not authentic: whoever knows our public key can cause it.
    Stranger(PublicKey),
    /// Store this number, Unix seconds, and give it to [`Tunnels::new`] in the next life.
    PersistFloor(u64),
}

/// A message that [`Tunnels::poll_transmit`] wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// To whom; `None` for a cookie reply.
    pub peer: Option<PeerId>,
    /// The origin it answers: where it should go. `None`: to where the peer is.
    pub answer: Option<Origin>,
    /// Its length in bytes.
    pub len: usize,
}

/// What one call of [`Tunnels::work`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Work {
    /// Whether more can be done now.
    pub more: bool,
    /// A message that turned out to be bad.
    pub dropped: Option<DropReason>,
}

/// The memory of [`Tunnels`]; all of it all-zero.
pub struct TunnelResources<'a> {
    /// One a peer.
    pub peers: &'a mut [PeerSlot],
    /// [`KEYPAIRS`] a peer.
    pub keypairs: &'a mut [KeypairSlot],
    /// Replay windows: an equal share for each keypair, `(share - 1) * 64` counters wide.
    pub windows: &'a mut [u64],
    /// Our receiver indices, hashed: a power of two of at least 8 a peer.
    pub indices: &'a mut [Link],
    /// Public keys, hashed: a power of two of at least 2 a peer.
    pub keys: &'a mut [Link],
    /// Handshakes under way; at least 2.
    pub jobs: &'a mut [JobSlot],
    /// Cookie replies to be sent.
    pub cookies: &'a mut [CookieSlot],
    /// Sources of handshakes under load, in sets of 4.
    pub buckets: &'a mut [BucketSlot],
}

/// A list of slots that are linked through themselves.
#[derive(Clone, Copy, Default)]
struct List {
    head: u32,
    tail: u32,
}

/// Lists that a peer can be in, as indices of [`PeerSlot::links`].
#[derive(Clone, Copy)]
enum Wait {
    /// To have an initiation computed.
    Initiation = 0,
    /// To have a keepalive sent.
    Keepalive = 1,
    /// To have its events told.
    News = 2,
    /// To have a deadline told that is earlier than the caller knows.
    Deadline = 3,
}

/// The sessions of this node.
pub struct Tunnels<'a> {
    identity: Identity,
    /// The key that it had before, and still answers to.
    before: Option<Identity>,
    psk: MeshPsk,
    hash_key: [u8; 16],
    peers: &'a mut [PeerSlot],
    keypairs: &'a mut [KeypairSlot],
    windows: &'a mut [u64],
    indices: Index<'a>,
    keys: Index<'a>,
    jobs: Pool<'a, JobSlot>,
    inbox: List,
    outbox: List,
    strangers: List,
    waiting: usize,
    /// Of those, how many the caller has not been told of.
    untold: usize,
    building: u32,
    own_turn: bool,
    lists: [List; 4],
    guard: Guard<'a>,
    stamps: StampClock,
}

impl<'a> Tunnels<'a> {
    /// No peers, no shared keys. `floor`: the last number of a [`TunnelEvent::PersistFloor`] of earlier lives, 0 for none.
    pub fn new(resources: TunnelResources<'a>, identity: StaticSecret, floor: u64) -> Self {
        let seed = hash(&[b"index", identity.as_bytes()]);
        let identity = Identity::new(identity);
        let hash_key = seed.first_chunk().copied().unwrap_or_default();
        Self {
            guard: Guard::new(&identity.public, hash_key, resources.buckets, resources.cookies),
            identity,
            before: None,
            psk: MeshPsk::default(),
            hash_key,
            peers: resources.peers,
            keypairs: resources.keypairs,
            windows: resources.windows,
            indices: Index::new(resources.indices),
            keys: Index::new(resources.keys),
            jobs: Pool::new(resources.jobs),
            inbox: List::default(),
            outbox: List::default(),
            strangers: List::default(),
            waiting: 0,
            untold: 0,
            building: 0,
            own_turn: false,
            lists: [List::default(); 4],
            stamps: StampClock::new(floor),
        }
    }

    /// This node's public key.
    pub const fn public(&self) -> PublicKey {
        self.identity.public
    }

    /// Makes `key` the peer numbered `id`, replacing any other. The same key again only sets `psk`, which counts
    /// from the next handshake on.
    ///
    /// # Errors
    /// [`AddPeerError`]; nothing is changed.
    pub fn add_peer(
        &mut self,
        id: PeerId,
        key: &PublicKey,
        psk: Option<&[u8; 32]>,
    ) -> Result<(), AddPeerError> {
        let slot = self.slot(id).ok_or(AddPeerError::NoSlot)?;
        if *key == self.identity.public {
            return Err(AddPeerError::OwnKey);
        }
        match self.find_key(key) {
            Some(other) if other != id.0 => return Err(AddPeerError::DuplicateKey),
            Some(_) => {}
            None => {
                if slot.live {
                    self.remove_peer(id);
                }
                if !self.keys.insert(self.hash_of_key(key), id.0) {
                    return Err(AddPeerError::NoSlot);
                }
            }
        }
        let slot = self.slot_mut(id).ok_or(AddPeerError::NoSlot)?;
        slot.live = true;
        slot.key = *key;
        slot.psk = psk.copied().unwrap_or_default();
        self.admit_strangers(id, key);
        Ok(())
    }

    /// Forgets a peer and its keys at once; its deadline is void.
    pub fn remove_peer(&mut self, id: PeerId) {
        let Some(slot) = self.slot(id).filter(|slot| slot.live) else { return };
        let key = slot.key;
        self.unlist_key(id, &key);
        self.forget_keys(id);
        if let Some(slot) = self.slot_mut(id) {
            slot.wipe();
        }
    }

    fn unlist_key(&mut self, id: PeerId, key: &PublicKey) {
        let hash = self.hash_of_key(key);
        let (peers, hash_key) = (&*self.peers, &self.hash_key);
        self.keys.remove(hash, id.0, |other| {
            key_of(peers, other).map_or(0, |key| SipHasher13::new_with_key(hash_key).hash(&key.0))
        });
    }

    /// The number of the peer with this key.
    pub fn find_peer(&self, key: &PublicKey) -> Option<PeerId> {
        self.find_key(key).map(PeerId)
    }

    /// When the last handshake with the peer was completed.
    pub fn last_handshake(&self, id: PeerId) -> Option<Instant> {
        self.slot(id)?.established.get()
    }

    /// How long the last handshake took from our message to its answer, the computing on both sides included.
    pub fn handshake_rtt(&self, id: PeerId) -> Option<Duration> {
        let micros = self.slot(id)?.round_trip;
        (micros != 0).then(|| Duration::from_micros(u64::from(micros)))
    }

    /// Whether packets can be sent to the peer, as far as events said.
    pub fn is_up(&self, id: PeerId) -> bool {
        self.slot(id).is_some_and(|slot| slot.has(flag::UP))
    }

    /// Whether the peer is proven not to answer: two initiations in a row, the last of them within
    /// [`SILENCE_COUNTS`], had no answer when the second went out or since.
    pub fn is_silent(&self, now: Instant, id: PeerId) -> bool {
        let recent = |slot: &&PeerSlot| !slot.sent.older(now, SILENCE_COUNTS);
        self.slot(id).filter(recent).is_some_and(|slot| slot.tries >= 2)
    }

    /// It is at least this late, in Unix seconds, by a clock that is believed: stamps are after that.
    pub fn not_before(&mut self, unix_secs: u64) {
        self.stamps.not_before(unix_secs);
    }

    /// What the caller should know, or `None`.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<TunnelEvent> {
        if let Some(floor) = self.stamps.poll_floor() {
            return Some(TunnelEvent::PersistFloor(floor));
        }
        if let Some(event) = self.poll_stranger() {
            return Some(event);
        }
        loop {
            let peer = PeerId(self.lists.get(Wait::News as usize)?.head);
            if peer.0 == 0 {
                return None;
            }
            if let Some(event) = self.news_of(peer) {
                return Some(event);
            }
            let _ = self.pop_peer(Wait::News);
        }
    }

    fn news_of(&mut self, peer: PeerId) -> Option<TunnelEvent> {
        let slot = self.slot_mut(peer)?;
        if slot.take(flag::SAY_FAILED) {
            return Some(TunnelEvent::HandshakeFailed { peer });
        }
        // The last one told is the one that holds.
        let (first, second) =
            if slot.has(flag::UP) { (flag::SAY_DOWN, flag::SAY_UP) } else { (flag::SAY_UP, flag::SAY_DOWN) };
        let told = if slot.take(first) {
            first
        } else if slot.take(second) {
            second
        } else {
            return None;
        };
        Some(if told == flag::SAY_UP {
            TunnelEvent::SessionUp { peer }
        } else {
            TunnelEvent::SessionDown { peer }
        })
    }

    fn slot(&self, id: PeerId) -> Option<&PeerSlot> {
        self.peers.get((id.0 as usize).checked_sub(1)?)
    }

    fn slot_mut(&mut self, id: PeerId) -> Option<&mut PeerSlot> {
        self.peers.get_mut((id.0 as usize).checked_sub(1)?)
    }

    fn live_mut(&mut self, id: PeerId) -> Option<&mut PeerSlot> {
        self.slot_mut(id).filter(|slot| slot.live)
    }

    fn hash_of_key(&self, key: &PublicKey) -> u64 {
        SipHasher13::new_with_key(&self.hash_key).hash(&key.0)
    }

    fn find_key(&self, key: &PublicKey) -> Option<u32> {
        self.keys.find(self.hash_of_key(key), |id| key_of(self.peers, id) == Some(key))
    }

    /// Puts the peer at the end of a list, unless it is in it.
    fn push_peer(&mut self, id: PeerId, list: Wait) {
        let bit = 1 << list as u8;
        let Some(slot) = self.slot_mut(id) else { return };
        if slot.listed & bit != 0 {
            return;
        }
        slot.listed |= bit;
        if let Some(link) = slot.links.get_mut(list as usize) {
            *link = 0;
        }
        let Some(ends) = self.lists.get_mut(list as usize) else { return };
        let last = PeerId(core::mem::replace(&mut ends.tail, id.0));
        if ends.head == 0 {
            ends.head = id.0;
        }
        if let Some(link) = self.slot_mut(last).and_then(|slot| slot.links.get_mut(list as usize)) {
            *link = id.0;
        }
    }

    fn pop_peer(&mut self, list: Wait) -> Option<PeerId> {
        let id = PeerId(self.lists.get(list as usize)?.head);
        let slot = self.slot_mut(id)?;
        slot.listed &= !(1 << list as u8);
        let next = slot.links.get(list as usize).copied()?;
        let ends = self.lists.get_mut(list as usize)?;
        ends.head = next;
        if next == 0 {
            ends.tail = 0;
        }
        Some(id)
    }
}

impl Drop for Tunnels<'_> {
    fn drop(&mut self) {
        for number in 1..=self.peers.len() as u32 {
            if self.slot(PeerId(number)).is_some_and(|slot| slot.live) {
                self.remove_peer(PeerId(number));
            }
        }
        for id in 1..=self.jobs.high_water() {
            if let Some(job) = self.jobs.get_mut(id) {
                job.wipe();
            }
        }
    }
}

fn key_of(peers: &[PeerSlot], id: u32) -> Option<&PublicKey> {
    peers.get((id as usize).checked_sub(1)?).map(|slot| &slot.key)
}

/// Where the keypair with this role number, 1 to 3, of this peer is.
fn pair_place(peer: PeerId, number: u8) -> Option<usize> {
    let first = (peer.0 as usize).checked_sub(1)?.checked_mul(KEYPAIRS)?;
    first.checked_add(usize::from(number.checked_sub(1)?))
}

#[cfg(test)]
mod tests;
