//! The nodes we may talk to: index, key and the dense id that tunnel and path share.
//!
//! A peer enters with a verified record and leaves when its place is needed; when every place is taken, the one
//! that was used least recently goes, unless it was used within [`KEEP`]: then the newcomer is refused. Records
//! carry epoch and serial, and an older one never replaces a newer one. Sessions and addresses are not here.

use super::health::{DownSlot, Health};
use super::revoked::Revoked;
use crate::PeerId;
use crate::counters::DropReason;
use crate::storage::{Index, Link};
use crate::time::{Duration, Instant};
use crate::wire::control::{NodeRecord, Revocation};
use crate::wire::health::Down;
use core::net::IpAddr;

/// A peer used within this time keeps its place.
pub const KEEP: Duration = Duration::from_secs(180);

/// One known node; all-zero is free.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PeerEntry {
    index: u32,
    epoch: u32,
    serial: u64,
    used: u64,
    sent: u64,
    received: u64,
    key: [u8; 32],
    /// It has not been told yet which endpoints of this node do not answer.
    untold: bool,
}

impl PeerEntry {
    /// A free place.
    pub const EMPTY: Self =
        Self { index: 0, epoch: 0, serial: 0, used: 0, sent: 0, received: 0, key: [0; 32], untold: false };
}

/// Where a record's peer is now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Learned {
    /// Its place.
    pub id: PeerId,
    /// The place was another peer's, or this one's with a key that it did not change for this one itself: that has to be
    /// forgotten everywhere first.
    pub replaced: bool,
}

/// The peers by cluster-wide index. Ids are `1..=capacity`.
pub struct Peers<'a> {
    entries: &'a mut [PeerEntry],
    by_index: Index<'a>,
    health: Health<'a>,
    revoked: Revoked<'a>,
    /// No peer with a smaller id is untold; 0 when none is.
    tell_from: u32,
}

impl<'a> Peers<'a> {
    /// Over all-zero memory; `index` of at least twice the entries.
    pub fn new(
        entries: &'a mut [PeerEntry],
        index: &'a mut [Link],
        down: &'a mut [DownSlot],
        revoked: &'a mut [Revocation],
    ) -> Self {
        let (by_index, health, revoked) = (Index::new(index), Health::new(down), Revoked::new(revoked));
        Self { entries, by_index, health, revoked, tell_from: 0 }
    }

    /// The id of the node with this cluster-wide index.
    pub fn find(&self, index: u32) -> Option<PeerId> {
        self.by_index.find(u64::from(index), |id| self.index(PeerId(id)) == index).map(PeerId)
    }

    /// The cluster-wide index of a peer; 0 for none.
    pub fn index(&self, id: PeerId) -> u32 {
        self.get(id).map_or(0, |e| e.index)
    }

    /// Notes that `bytes` were sent to the peer.
    pub fn sent(&mut self, now: Instant, id: PeerId, bytes: usize) {
        if let Some(entry) = self.get_mut(id) {
            entry.used = now.as_micros();
            entry.sent = entry.sent.wrapping_add(bytes as u64);
        }
    }

    /// Notes that `bytes` came from the peer.
    pub fn received(&mut self, now: Instant, id: PeerId, bytes: usize) {
        if let Some(entry) = self.get_mut(id) {
            entry.used = now.as_micros();
            entry.received = entry.received.wrapping_add(bytes as u64);
        }
    }

    /// Bytes sent to the peer and received from it.
    pub fn traffic(&self, id: PeerId) -> (u64, u64) {
        self.get(id).map_or((0, 0), |e| (e.sent, e.received))
    }

    /// Takes in a message about the health of the peer's endpoints.
    ///
    /// # Errors
    /// [`DropReason::HealthMessage`] for a malformed one.
    pub fn heard(&mut self, now: Instant, id: PeerId, inner: &[u8]) -> Result<(), DropReason> {
        let down = Down::parse(inner)?;
        self.health.set(now, self.index(id), down.iter());
        Ok(())
    }

    /// The endpoints of this node, `own`, that do not answer are these: to be said every [`ROUND`](super::ROUND)
    /// while there are any, and once when there are none any more. All peers are told.
    pub fn set_down(&mut self, now: Instant, own: u32, down: &[IpAddr]) {
        if self.health.set(now, own, down.iter().copied()) || !down.is_empty() {
            self.entries.iter_mut().for_each(|entry| entry.untold = true);
            self.tell_from = 1;
        }
    }

    /// The peer is to be told, if there is anything to tell.
    pub fn greet(&mut self, now: Instant, own: u32, id: PeerId) {
        if self.health.of(now, own).next().is_some() {
            if let Some(entry) = self.get_mut(id) {
                entry.untold = true;
            }
            self.tell_from = if self.tell_from == 0 { id.0 } else { self.tell_from.min(id.0) };
        }
    }

    /// Writes the next health message, for this peer. It is not said again: who has no session will be greeted.
    pub fn poll_health(&mut self, now: Instant, own: u32, out: &mut [u8]) -> Option<(PeerId, usize)> {
        while self.tell_from != 0 {
            let id = PeerId(self.tell_from);
            let Some(entry) = self.get_mut(id) else {
                self.tell_from = 0;
                break;
            };
            let untold = core::mem::take(&mut entry.untold) && entry.index != 0;
            self.tell_from = id.0.saturating_add(1);
            if untold {
                return Some((id, Down::emit(out, self.health.of(now, own)).ok()?));
            }
        }
        None
    }

    /// Whether an endpoint does not answer, by the word of its node.
    pub fn is_down(&self, now: Instant, node: u32, address: IpAddr) -> bool {
        self.health.is_down(now, node, address)
    }

    /// Changes with what nodes say of their endpoints.
    pub fn health_generation(&self) -> u32 {
        self.health.generation()
    }

    /// Takes in a verified record.
    ///
    /// # Errors
    /// [`DropReason::PeersFull`] when every place is in use; [`DropReason::OldRecord`] for a record older than
    /// the one at hand; [`DropReason::Revoked`].
    // Apart, or its frame would lie below the checks of signatures.
    #[inline(never)]
    pub fn learn(&mut self, now: Instant, record: &NodeRecord<'_>) -> Result<Learned, DropReason> {
        self.revoked.check(record)?;
        let NodeRecord { index, key, serial, epoch, .. } = *record;
        let fresh = PeerEntry { index, epoch, serial, used: now.as_micros(), key, ..PeerEntry::EMPTY };
        if let Some(id) = self.find(index) {
            let entry = self.get_mut(id).ok_or(DropReason::PeersFull)?;
            if (epoch, serial) < (entry.epoch, entry.serial) {
                return Err(DropReason::OldRecord);
            }
            let same = entry.key == key || record.follows == Some(entry.key);
            *entry = PeerEntry { sent: entry.sent, received: entry.received, ..fresh };
            return Ok(Learned { id, replaced: !same });
        }
        let (id, evicted) = self.place(now).ok_or(DropReason::PeersFull)?;
        if evicted != 0 {
            let entries = &*self.entries;
            self.by_index.remove(u64::from(evicted), id.0, |id| u64::from(index_of(entries, PeerId(id))));
        }
        if let Some(entry) = self.get_mut(id) {
            *entry = fresh;
        }
        self.by_index.insert(u64::from(index), id.0);
        Ok(Learned { id, replaced: evicted != 0 })
    }

    /// Takes in the directory's revocation with this number; the peer whose record it makes void has to be forgotten
    /// everywhere.
    pub fn revoke(&mut self, number: u32, revocation: Revocation) -> Option<PeerId> {
        self.revoked.add(number, revocation);
        let id = self.find(revocation.index)?;
        let entry = self.get_mut(id).filter(|entry| entry.serial <= revocation.serial)?;
        *entry = PeerEntry::EMPTY;
        let entries = &*self.entries;
        let index_of = |id| u64::from(index_of(entries, PeerId(id)));
        self.by_index.remove(u64::from(revocation.index), id.0, index_of);
        Some(id)
    }

    /// Whether the peer's record is of an epoch before this one.
    pub fn is_older(&self, id: PeerId, epoch: u32) -> bool {
        self.get(id).is_some_and(|e| e.epoch < epoch)
    }

    /// The directory begins a new list of revocations.
    pub fn forget_revocations(&mut self) {
        self.revoked.clear();
    }

    /// Every known peer's id and index.
    pub fn iter(&self) -> impl Iterator<Item = (PeerId, u32)> + '_ {
        self.entries().filter(|(_, e)| e.index != 0).map(|(id, e)| (id, e.index))
    }

    /// The peers that were in use within [`KEEP`], or became known then.
    pub fn recent(&self, now: Instant) -> impl Iterator<Item = (PeerId, u32)> + '_ {
        let recent = move |e: &PeerEntry| now.since(Instant::from_micros(e.used)) <= KEEP;
        self.entries().filter(move |(_, e)| e.index != 0 && recent(e)).map(|(id, e)| (id, e.index))
    }

    /// A free place, or the one that may be taken from another peer. Runs once per new peer, over all places.
    fn place(&self, now: Instant) -> Option<(PeerId, u32)> {
        let (id, entry) = self.entries().min_by_key(|(_, e)| (e.index != 0, e.used))?;
        let idle = now.since(Instant::from_micros(entry.used));
        (entry.index == 0 || idle > KEEP).then_some((id, entry.index))
    }

    fn entries(&self) -> impl Iterator<Item = (PeerId, &PeerEntry)> + '_ {
        (1u32..).map(PeerId).zip(self.entries.iter())
    }

    fn get(&self, id: PeerId) -> Option<&PeerEntry> {
        self.entries.get((id.0 as usize).checked_sub(1)?)
    }

    fn get_mut(&mut self, id: PeerId) -> Option<&mut PeerEntry> {
        self.entries.get_mut((id.0 as usize).checked_sub(1)?)
    }
}

fn index_of(entries: &[PeerEntry], id: PeerId) -> u32 {
    (id.0 as usize).checked_sub(1).and_then(|at| entries.get(at)).map_or(0, |e| e.index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::health::MESSAGE_MAX;

    fn learned(id: u32, replaced: bool) -> Result<Learned, DropReason> {
        Ok(Learned { id: PeerId(id), replaced })
    }

    type Memory = ([PeerEntry; 2], [Link; 4], [DownSlot; 3], [Revocation; 1]);

    fn memory() -> Memory {
        ([PeerEntry::EMPTY; 2], [0; 4], [DownSlot::EMPTY; 3], [Revocation::default(); 1])
    }

    fn none((entries, index, down, revoked): &mut Memory) -> Peers<'_> {
        Peers::new(entries, index, down, revoked)
    }

    fn record(index: u32, key: u8, epoch: u32, serial: u64) -> NodeRecord<'static> {
        NodeRecord { index, key: [key; 32], epoch, serial, ..NodeRecord::default() }
    }

    /// Peer 1 is node 10, peer 2 node 11.
    fn two(memory: &mut Memory) -> Peers<'_> {
        let mut peers = none(memory);
        peers.learn(at(0), &record(10, 1, 1, 1)).unwrap();
        peers.learn(at(0), &record(11, 2, 1, 1)).unwrap();
        peers
    }

    fn at(secs: u64) -> Instant {
        Instant::ZERO.after(Duration::from_secs(secs))
    }

    #[test]
    fn a_full_table_gives_the_idlest_place_and_never_one_in_use() {
        let mut memory = memory();
        let mut peers = none(&mut memory);
        assert_eq!(peers.learn(at(0), &record(10, 1, 1, 1)), learned(1, false));
        assert_eq!(peers.learn(at(1), &record(11, 2, 1, 1)), learned(2, false));
        assert_eq!(peers.learn(at(2), &record(12, 3, 1, 1)), Err(DropReason::PeersFull));
        peers.sent(at(200), PeerId(1), 10);
        assert_eq!(peers.traffic(PeerId(1)), (10, 0));
        assert_eq!(peers.learn(at(201), &record(12, 3, 1, 1)), learned(2, true));
        assert_eq!(
            (peers.find(10), peers.find(11), peers.find(12)),
            (Some(PeerId(1)), None, Some(PeerId(2)))
        );
        assert_eq!(peers.iter().collect::<std::vec::Vec<_>>(), [(PeerId(1), 10), (PeerId(2), 12)]);
    }

    #[test]
    fn older_records_are_refused_and_new_keys_reset_the_peer() {
        let mut memory = memory();
        let mut peers = none(&mut memory);
        peers.learn(at(0), &record(10, 1, 2, 5)).unwrap();
        assert_eq!(peers.learn(at(1), &record(10, 9, 2, 4)), Err(DropReason::OldRecord));
        assert_eq!(peers.learn(at(1), &record(10, 9, 1, 9)), Err(DropReason::OldRecord));
        assert_eq!(peers.learn(at(1), &record(10, 1, 2, 5)), learned(1, false));
        assert_eq!(peers.learn(at(1), &record(10, 9, 3, 1)), learned(1, true));
    }

    #[test]
    fn a_revoked_peer_is_gone_and_its_record_does_not_bring_it_back() {
        let mut memory = memory();
        let mut peers = two(&mut memory);
        assert_eq!(peers.revoke(1, Revocation { serial: 1, index: 11 }), Some(PeerId(2)));
        assert_eq!((peers.find(11), peers.find(10)), (None, Some(PeerId(1))));
        assert_eq!(peers.learn(at(1), &record(11, 2, 1, 1)), Err(DropReason::Revoked));
        assert_eq!(
            peers.learn(at(1), &record(11, 3, 1, 2)),
            learned(2, false),
            "it came back with another key"
        );
        assert_eq!(peers.revoke(2, Revocation { serial: 1, index: 12 }), None);
    }

    #[test]
    fn g4_a_node_is_believed_of_its_own_endpoints_for_a_while() {
        let mut memory = memory();
        let mut peers = two(&mut memory);
        let [a, b] = [[172, 17, 0, 2], [172, 17, 0, 3]].map(IpAddr::from);
        let mut message = [0; MESSAGE_MAX];
        let len = Down::emit(&mut message, [a].into_iter()).unwrap();
        peers.heard(at(1), PeerId(1), &message[..len]).unwrap();
        assert!(peers.is_down(at(2), 10, a) && !peers.is_down(at(2), 10, b));
        assert!(!peers.is_down(at(2), 11, a), "nobody speaks for another node");
        assert!(!peers.is_down(at(16), 10, a), "it has not said so for long");
        let before = peers.health_generation();
        peers.heard(at(4), PeerId(1), &message[..len]).unwrap();
        assert_eq!(peers.health_generation(), before, "no news");
        let len = Down::emit(&mut message, [b].into_iter()).unwrap();
        peers.heard(at(5), PeerId(1), &message[..len]).unwrap();
        assert!(!peers.is_down(at(5), 10, a) && peers.is_down(at(5), 10, b));
        assert_ne!(peers.health_generation(), before);
        assert_eq!(peers.heard(at(5), PeerId(1), &[0x2f, 1]), Err(DropReason::HealthMessage));
        // A full table believes no more, and no less.
        let many = (0..9).map(|n| IpAddr::from([172, 17, 1, n]));
        let len = Down::emit(&mut message, many).unwrap();
        peers.heard(at(6), PeerId(2), &message[..len]).unwrap();
        let is_down = |n: u8| peers.is_down(at(6), 11, IpAddr::from([172, 17, 1, n]));
        assert!(is_down(0) && is_down(1) && !is_down(2) && peers.is_down(at(6), 10, b));
    }

    #[test]
    fn g4_every_peer_is_told_until_all_is_well_again() {
        let mut memory = memory();
        let mut peers = two(&mut memory);
        let pod = IpAddr::from([172, 17, 0, 2]);
        let told = |peers: &mut Peers<'_>, now| {
            let mut out = [0; MESSAGE_MAX];
            let mut all = std::vec::Vec::new();
            while let Some((peer, len)) = peers.poll_health(now, 1, &mut out) {
                all.push((peer.0, Down::parse(&out[..len]).unwrap().iter().count()));
            }
            all
        };
        peers.greet(at(0), 1, PeerId(2));
        peers.set_down(at(0), 1, &[]);
        assert_eq!(told(&mut peers, at(0)), [], "all is well");
        peers.set_down(at(1), 1, &[pod]);
        assert!(peers.is_down(at(1), 1, pod));
        assert_eq!(told(&mut peers, at(1)), [(1, 1), (2, 1)]);
        assert_eq!(told(&mut peers, at(2)), []);
        peers.greet(at(3), 1, PeerId(2));
        assert_eq!(told(&mut peers, at(3)), [(2, 1)], "a session that begins later");
        peers.set_down(at(6), 1, &[pod]);
        assert_eq!(told(&mut peers, at(6)), [(1, 1), (2, 1)], "what was lost is said again");
        peers.set_down(at(11), 1, &[]);
        assert_eq!(told(&mut peers, at(11)), [(1, 0), (2, 0)]);
        peers.set_down(at(16), 1, &[]);
        assert_eq!(told(&mut peers, at(16)), []);
    }
}
