//! Tuples that peers have with this node's endpoints, so that an endpoint that leaves its Service can finish
//! what it began; a full table gives way as the flow table does, by peer instead of source.

use super::PeerRef;
use super::slots::AdmittedSlot;
use super::state::{Progress, Track};
use super::table::{Shares, has_its_share, hasher, ports, victim};
use crate::counters::DropReason;
use crate::storage::{Index, Link, Pool};
use crate::time::Instant;
use crate::wire::ip::{Address, Transport};
use core::hash::Hasher;

/// Who talks to which endpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Tuple {
    pub(super) peer: PeerRef,
    pub(super) protocol: u8,
    pub(super) endpoint: Address,
    pub(super) port: u16,
    /// The client's port as its node mapped it.
    pub(super) remote_port: u16,
}

pub(super) struct Admitted<'a> {
    slots: Pool<'a, AdmittedSlot>,
    by_tuple: Index<'a>,
    peers: Shares<'a>,
    keys: [u64; 2],
    /// Where the next search for a victim starts.
    hand: u32,
}

impl<'a> Admitted<'a> {
    pub(super) fn new(
        slots: &'a mut [AdmittedSlot],
        by_tuple: &'a mut [Link],
        peers: &'a mut [u32],
        keys: [u64; 2],
    ) -> Self {
        let by_tuple = Index::new(by_tuple);
        let slots = Pool::at_most(slots, by_tuple.capacity());
        Self { slots, by_tuple, peers: Shares::new(peers), keys, hand: 0 }
    }

    /// Takes over the slots of another run.
    pub(super) fn adopt(
        now: Instant,
        slots: &'a mut [AdmittedSlot],
        by_tuple: &'a mut [Link],
        peers: &'a mut [u32],
        keys: [u64; 2],
    ) -> Self {
        by_tuple.fill(0);
        peers.fill(0);
        let by_tuple = Index::new(by_tuple);
        let slots = Pool::adopt(slots, by_tuple.capacity(), |s| {
            !s.endpoint.is_none() && s.peer != 0 && s.track.mend(now)
        });
        let mut admitted = Self { slots, by_tuple, peers: Shares::new(peers), keys, hand: 0 };
        for id in 1..=admitted.slots.high_water() {
            let Some(tuple) = admitted.slots.get(id).map(tuple_of) else { continue };
            if admitted.find(&tuple).is_some() {
                admitted.slots.remove(id);
            } else {
                admitted.enter(id, &tuple);
            }
        }
        admitted
    }

    /// Id and end of every tuple.
    pub(super) fn deadlines(&self) -> impl Iterator<Item = (u32, Instant)> {
        (1..=self.slots.high_water()).filter_map(|id| {
            let slot = self.slots.get(id).filter(|s| s.track.live())?;
            Some((id, slot.track.deadline()))
        })
    }

    pub(super) fn find(&self, tuple: &Tuple) -> Option<u32> {
        let is_it = |id| self.slots.get(id).is_some_and(|s| tuple_of(s) == *tuple);
        self.by_tuple.find(tuple_hash(self.keys, tuple), is_it)
    }

    /// Remembers a tuple; returns its id and when it ends.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        tuple: &Tuple,
        from_client: bool,
        t: &Transport,
    ) -> Result<(u32, Instant), DropReason> {
        self.make_room(now, tuple.peer)?;
        let slot = AdmittedSlot {
            track: Track::new(now, from_client, t),
            endpoint: tuple.endpoint,
            peer: tuple.peer.0,
            next: 0,
            port: tuple.port,
            remote_port: tuple.remote_port,
        };
        let id = self.slots.insert(slot).ok_or(DropReason::AdmittedFull)?;
        self.enter(id, tuple);
        Ok((id, slot.track.deadline()))
    }

    /// Takes note of a packet; returns id and end when the end comes sooner than said before.
    pub(super) fn progress(
        &mut self,
        now: Instant,
        id: u32,
        from_client: bool,
        t: &Transport,
    ) -> Option<(u32, Instant)> {
        let slot = self.slots.get_mut(id)?;
        match slot.track.packet(now, from_client, t) {
            Progress::On => None,
            Progress::Sooner => Some((id, slot.track.deadline())),
            Progress::Over => {
                self.remove(id);
                None
            }
        }
    }

    /// Ends the tuple if its time is over, else says when that will be.
    pub(super) fn expire(&mut self, now: Instant, id: u32) -> Option<(u32, Instant)> {
        let at = self.slots.get(id).filter(|s| s.track.live())?.track.deadline();
        if at > now {
            return Some((id, at));
        }
        self.remove(id);
        None
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn capacity(&self) -> u32 {
        self.slots.capacity() as u32
    }

    fn enter(&mut self, id: u32, tuple: &Tuple) {
        self.by_tuple.insert(tuple_hash(self.keys, tuple), id);
        self.peers.change(peer_hash(self.keys, tuple.peer), 1);
    }

    fn make_room(&mut self, now: Instant, peer: PeerRef) -> Result<(), DropReason> {
        let newcomer = peer_hash(self.keys, peer);
        let own_only = has_its_share(self.capacity(), self.len(), self.peers.get(newcomer));
        if !own_only && self.slots.len() < self.slots.capacity() {
            return Ok(());
        }
        self.hand = self.hand.wrapping_add(super::table::SAMPLE);
        let look = |id| {
            let s = self.slots.get(id).filter(|s| s.track.live())?;
            Some((s.track, peer_hash(self.keys, PeerRef(s.peer))))
        };
        let found = victim((now, self.hand), self.capacity(), &self.peers, newcomer, own_only, look);
        self.remove(found.ok_or(DropReason::AdmittedFull)?);
        Ok(())
    }

    fn remove(&mut self, id: u32) {
        let Some(slot) = self.slots.get(id).copied() else { return };
        let (keys, slots) = (self.keys, &self.slots);
        let hash = |id| tuple_hash(keys, &tuple_of(slots.get(id).unwrap_or(&AdmittedSlot::ZERO)));
        self.by_tuple.remove(tuple_hash(keys, &tuple_of(&slot)), id, hash);
        self.peers.change(peer_hash(keys, PeerRef(slot.peer)), -1);
        self.slots.remove(id);
    }
}

fn tuple_of(slot: &AdmittedSlot) -> Tuple {
    Tuple {
        peer: PeerRef(slot.peer),
        protocol: slot.track.protocol(),
        endpoint: slot.endpoint,
        port: slot.port,
        remote_port: slot.remote_port,
    }
}

fn tuple_hash(keys: [u64; 2], tuple: &Tuple) -> u64 {
    let mut hasher = hasher(keys);
    hasher.write(tuple.endpoint.bytes());
    hasher.write_u64(ports(tuple.port, tuple.remote_port, tuple.protocol));
    hasher.write_u32(tuple.peer.0);
    hasher.finish()
}

fn peer_hash(keys: [u64; 2], peer: PeerRef) -> u64 {
    let mut hasher = hasher(keys);
    hasher.write_u32(peer.0);
    hasher.finish()
}
