//! What both tables of this machine do alike: entries with a [`Track`], found by one or more keys, counted per owner;
//! a full table gives way by the rule in the module `flow`, and refuses when no entry may go.
//!
//! Life cycle: empty, or taken over from an earlier run ([`Entries::new`]), whose entries go on; each ends by
//! [`Entries::expire`], [`Entries::remove`], or for a newcomer ([`Entries::make_room`]).
//!
//! Not here: what an entry means.

use super::state::{Class, Progress, Track};
use crate::storage::{Index, Link, Pool, Slot};
use crate::time::{Duration, Instant};
use crate::wire::ip::Transport;
use core::cmp::Reverse;
use siphasher::sip::SipHasher13;

/// Entries that are looked at to make room for a new one.
pub(super) const SAMPLE: u32 = 32;

/// Slots, of which an earlier run may have used some.
pub struct Kept<'a, T> {
    /// All of them.
    pub slots: &'a mut [T],
    /// Those behind this many are all-zero, and memory that nobody has touched yet stays so.
    pub used: usize,
}

impl<'a, T> Kept<'a, T> {
    /// All-zero slots.
    pub fn none(slots: &'a mut [T]) -> Self {
        Self { slots, used: 0 }
    }
}

/// A slot of [`Entries`].
pub(super) trait Entry: Slot {
    /// Eighths of the table that an owner with more than half of it has to leave to others.
    const RESERVE: u64;
    fn track(&self) -> &Track;
    fn track_mut(&mut self) -> &mut Track;
    /// Whether it can be an entry, after its memory went through another run.
    fn is_whole(&self) -> bool;
    /// Hash of its key number `key`.
    fn hash(&self, key: usize, secret: [u64; 2]) -> u64;
    /// Whether both have the same key number `key`.
    fn same(&self, key: usize, other: &Self) -> bool;
    /// Hash of whose entry it is.
    fn owner(&self, secret: [u64; 2]) -> u64;
}

/// Entries with `K` keys each. Ids count from 1, timers from 0.
pub(super) struct Entries<'a, S, const K: usize> {
    pool: Pool<'a, S>,
    indices: [Index<'a>; K],
    shares: Shares<'a>,
    secret: [u64; 2],
}

impl<'a, S: Entry, const K: usize> Entries<'a, S, K> {
    /// Takes over the entries of an earlier run; those that are none, or cannot be told apart, are left out.
    /// `indices` and `shares` must be all-zero.
    pub(super) fn new(
        now: Instant,
        kept: Kept<'a, S>,
        indices: [&'a mut [Link]; K],
        shares: &'a mut [u32],
        secret: [u64; 2],
    ) -> Self {
        let indices = indices.map(Index::new);
        let most = indices.iter().map(Index::capacity).min().unwrap_or_default();
        let keep = |slot: &mut S| slot.is_whole() && slot.track_mut().mend(now);
        let pool = Pool::adopt(kept.slots, kept.used, most, keep);
        let mut entries = Self { pool, indices, shares: Shares { counts: shares }, secret };
        for id in 1..=entries.pool.high_water() {
            let Some(slot) = entries.pool.get(id).copied() else { continue };
            if (0..K).any(|key| entries.find(key, &slot).is_some()) {
                entries.pool.remove(id);
            } else {
                entries.enter(id, &slot);
            }
        }
        entries
    }

    /// The entry with the same key number `key` as `probe`.
    pub(super) fn find(&self, key: usize, probe: &S) -> Option<u32> {
        let is_it = |id| self.pool.get(id).is_some_and(|slot| slot.same(key, probe));
        self.indices.get(key)?.find(probe.hash(key, self.secret), is_it)
    }

    pub(super) fn get(&self, id: u32) -> Option<&S> {
        self.pool.get(id).filter(|slot| slot.track().live())
    }

    /// To change what is no part of a key.
    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut S> {
        self.pool.get_mut(id).filter(|slot| slot.track().live())
    }

    /// Every entry with its id.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &S)> {
        (1..=self.pool.high_water()).filter_map(|id| Some((id, self.get(id)?)))
    }

    /// Timer and deadline of every entry.
    pub(super) fn deadlines(&self) -> impl Iterator<Item = (u32, Instant)> {
        self.iter().map(|(id, slot)| timer(id, slot.track()))
    }

    /// Adds an entry; returns its timer, or `None` when there is no room.
    pub(super) fn insert(&mut self, slot: S) -> Option<(u32, Instant)> {
        let id = self.pool.insert(slot)?;
        self.enter(id, &slot);
        Some(timer(id, slot.track()))
    }

    pub(super) fn remove(&mut self, id: u32) {
        let Some(slot) = self.get(id).copied() else { return };
        let (secret, pool) = (self.secret, &self.pool);
        for (key, index) in self.indices.iter_mut().enumerate() {
            let hash = |id| pool.get(id).unwrap_or(&S::EMPTY).hash(key, secret);
            index.remove(slot.hash(key, secret), id, hash);
        }
        self.shares.change(slot.owner(secret), -1);
        self.pool.remove(id);
    }

    /// Takes note of a packet; returns the timer when it is to fire sooner than it was told.
    pub(super) fn progress(
        &mut self,
        now: Instant,
        id: u32,
        from_client: bool,
        t: &Transport,
    ) -> Option<(u32, Instant)> {
        let track = self.get_mut(id)?.track_mut();
        match track.packet(now, from_client, t) {
            Progress::On => None,
            Progress::Sooner => Some(timer(id, track)),
            Progress::Over => {
                self.remove(id);
                None
            }
        }
    }

    /// Ends the entry if its time is over, else says when that will be.
    pub(super) fn expire(&mut self, now: Instant, id: u32) -> Option<Instant> {
        let at = self.get(id)?.track().deadline();
        if at > now {
            return Some(at);
        }
        self.remove(id);
        None
    }

    /// Makes room for `newcomer`, if need be by ending another entry out of [`SAMPLE`] behind number `draw`.
    pub(super) fn make_room(&mut self, now: Instant, newcomer: &S, draw: u32) -> bool {
        let owner = newcomer.owner(self.secret);
        let own_only = has_its_share(S::RESERVE, self.capacity(), self.len(), self.shares.get(owner));
        if !own_only && self.pool.len() < self.pool.capacity() {
            return true;
        }
        let victim = self.victim(now, draw, own_only.then_some(owner));
        victim.inspect(|id| self.remove(*id)).is_some()
    }

    /// The entry that gives way; with `only`, one of that owner.
    fn victim(&self, now: Instant, draw: u32, only: Option<u64>) -> Option<u32> {
        let mut best: Option<(Rank, u32)> = None;
        for step in 0..SAMPLE.min(self.capacity()) {
            let id = draw.wrapping_add(step).checked_rem(self.capacity())?.saturating_add(1);
            let Some(slot) = self.get(id) else { continue };
            let Some(class) = slot.track().class(now) else { continue };
            let owner = slot.owner(self.secret);
            if only.is_some_and(|only| !self.shares.same(owner, only)) {
                continue;
            }
            let rank = (class, Reverse(self.shares.get(owner)), Reverse(slot.track().idle(now)));
            if best.is_none_or(|(least, _)| rank < least) {
                best = Some((rank, id));
            }
        }
        best.map(|(_, id)| id)
    }

    pub(super) fn len(&self) -> usize {
        self.pool.len()
    }

    pub(super) fn capacity(&self) -> u32 {
        self.pool.capacity() as u32
    }

    fn enter(&mut self, id: u32, slot: &S) {
        for (key, index) in self.indices.iter_mut().enumerate() {
            index.insert(slot.hash(key, self.secret), id);
        }
        self.shares.change(slot.owner(self.secret), 1);
    }
}

/// Least first: by class, then the owner with most entries, then the one silent for longest.
type Rank = (Class, Reverse<u32>, Reverse<Duration>);

fn timer(id: u32, track: &Track) -> (u32, Instant) {
    (id.saturating_sub(1), track.deadline())
}

/// Whether an owner may take what is free, or has to replace an entry of its own.
fn has_its_share(reserve: u64, capacity: u32, len: usize, count: u32) -> bool {
    let (capacity, len) = (u64::from(capacity), len as u64);
    len.saturating_mul(8) >= capacity.saturating_mul(8_u64.saturating_sub(reserve))
        && u64::from(count).saturating_mul(2) > capacity
}

/// Entries per hashed owner; a collision only makes two owners share.
struct Shares<'a> {
    counts: &'a mut [u32],
}

impl Shares<'_> {
    fn get(&self, hash: u64) -> u32 {
        self.counts.get(self.place(hash)).copied().unwrap_or_default()
    }

    fn change(&mut self, hash: u64, by: i32) {
        let place = self.place(hash);
        if let Some(count) = self.counts.get_mut(place) {
            *count = count.saturating_add_signed(by);
        }
    }

    fn same(&self, a: u64, b: u64) -> bool {
        self.place(a) == self.place(b)
    }

    fn place(&self, hash: u64) -> usize {
        hash.checked_rem(self.counts.len() as u64).unwrap_or_default() as usize
    }
}

pub(super) fn ports(a: u16, b: u16, protocol: u8) -> u64 {
    u64::from(a) << 32 | u64::from(b) << 16 | u64::from(protocol)
}

pub(super) fn hasher([a, b]: [u64; 2]) -> SipHasher13 {
    SipHasher13::new_with_keys(a, b)
}
