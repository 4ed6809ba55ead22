//! Tuples that peers have with this node's endpoints, so that an endpoint that leaves its Service can finish
//! what it began; a full table gives way as the flow table does, by peer instead of source.

use super::PeerRef;
use super::entries::{Entries, Entry, Kept, SAMPLE, hasher, ports};
use super::slots::AdmittedSlot;
use super::state::Track;
use crate::counters::DropReason;
use crate::storage::Link;
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
    entries: Entries<'a, AdmittedSlot, 1>,
    /// Where the next search for a victim starts.
    hand: u32,
}

/// The one key.
const TUPLE: usize = 0;

impl<'a> Admitted<'a> {
    /// The tuples that an earlier run kept; the other memory must be all-zero.
    pub(super) fn new(
        now: Instant,
        kept: Kept<'a, AdmittedSlot>,
        by_tuple: &'a mut [Link],
        peers: &'a mut [u32],
        secret: [u64; 2],
    ) -> Self {
        Self { entries: Entries::new(now, kept, [by_tuple], peers, secret), hand: 0 }
    }

    /// Timer and end of every tuple.
    pub(super) fn deadlines(&self) -> impl Iterator<Item = (u32, Instant)> {
        self.entries.deadlines()
    }

    pub(super) fn find(&self, tuple: &Tuple) -> Option<u32> {
        self.entries.find(TUPLE, &slot_of(tuple, Track::ahead(Instant::ZERO, tuple.protocol, false)))
    }

    /// Remembers a tuple; returns its timer and when it ends.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        tuple: &Tuple,
        from_client: bool,
        t: &Transport,
    ) -> Result<(u32, Instant), DropReason> {
        let slot = slot_of(tuple, Track::new(now, from_client, t));
        self.hand = self.hand.wrapping_add(SAMPLE);
        let room = self.entries.make_room(now, &slot, self.hand);
        room.then(|| self.entries.insert(slot)).flatten().ok_or(DropReason::AdmittedFull)
    }

    /// Forgets a connection that both sides have closed, since its tuple opens a new one; whether it was one.
    pub(super) fn end_closing(&mut self, id: u32) -> bool {
        let closing = self.entries.get(id).is_some_and(|slot| slot.track.is_closing());
        if closing {
            self.entries.remove(id);
        }
        closing
    }

    /// Takes note of a packet; returns timer and end when the end comes sooner than said before.
    pub(super) fn progress(
        &mut self,
        now: Instant,
        id: u32,
        from_client: bool,
        t: &Transport,
    ) -> Option<(u32, Instant)> {
        self.entries.progress(now, id, from_client, t)
    }

    /// Ends the tuple if its time is over, else says when that will be.
    pub(super) fn expire(&mut self, now: Instant, id: u32) -> Option<Instant> {
        self.entries.expire(now, id)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn capacity(&self) -> u32 {
        self.entries.capacity()
    }
}

impl Entry for AdmittedSlot {
    // Less than of flows: what a peer allows one of its pods leaves room here for its others.
    const RESERVE: u64 = 1;

    fn track(&self) -> &Track {
        &self.track
    }

    fn track_mut(&mut self) -> &mut Track {
        &mut self.track
    }

    fn is_whole(&self) -> bool {
        !self.endpoint.is_none() && self.peer != 0
    }

    fn hash(&self, _: usize, secret: [u64; 2]) -> u64 {
        let mut hasher = hasher(secret);
        hasher.write(self.endpoint.bytes());
        hasher.write_u64(ports(self.port, self.remote_port, self.track.protocol()));
        hasher.write_u32(self.peer);
        hasher.finish()
    }

    fn same(&self, _: usize, other: &Self) -> bool {
        (self.port, self.remote_port, self.peer, self.track.protocol())
            == (other.port, other.remote_port, other.peer, other.track.protocol())
            && self.endpoint == other.endpoint
    }

    fn owner(&self, secret: [u64; 2]) -> u64 {
        let mut hasher = hasher(secret);
        hasher.write_u32(self.peer);
        hasher.finish()
    }
}

fn slot_of(tuple: &Tuple, track: Track) -> AdmittedSlot {
    AdmittedSlot {
        track,
        endpoint: tuple.endpoint,
        peer: tuple.peer.0,
        next: 0,
        port: tuple.port,
        remote_port: tuple.remote_port,
    }
}
