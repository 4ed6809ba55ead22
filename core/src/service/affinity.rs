//! Which endpoint a client had last (`sessionAffinity: ClientIP`); in a full set of four the entry that expires
//! first gives way.
//!
//! A cache without links or deadlines: expired entries are found when their place is wanted.

use crate::time::Instant;
use crate::wire::ip::Address;

const WAYS: usize = 4;

/// One client of one service port.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct AffinitySlot {
    key: Key,
    address: Address,
    node: u32,
    /// In seconds on the engine's clock, rounded up; 0 is a free slot.
    expires: u32,
}

impl AffinitySlot {
    /// A free slot.
    pub const ZERO: Self = Self {
        key: Key { client: Address::NONE, service: 0, port: 0, protocol: 0 },
        address: Address::NONE,
        node: 0,
        expires: 0,
    };
}

/// What affinity is kept for: a client of a service port (row A1).
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Key {
    pub(super) client: Address,
    /// The service's uid.
    pub(super) service: u32,
    pub(super) port: u16,
    pub(super) protocol: u8,
}

pub(super) struct Affinity<'a> {
    slots: &'a mut [AffinitySlot],
}

impl<'a> Affinity<'a> {
    pub(super) fn new(slots: &'a mut [AffinitySlot]) -> Self {
        Self { slots }
    }

    /// The endpoint (node, address) that the client had last, if that is not too long ago.
    pub(super) fn get(&mut self, now: Instant, hash: u64, key: &Key) -> Option<(u32, Address)> {
        let now = seconds(now);
        let slot = self.set(hash).iter().find(|s| s.key == *key && s.expires > now)?;
        Some((slot.node, slot.address))
    }

    /// Remembers the client's endpoint for `secs` seconds from now.
    pub(super) fn put(&mut self, now: Instant, hash: u64, key: Key, secs: u32, endpoint: (u32, Address)) {
        let expires = seconds(now).saturating_add(secs).saturating_add(1);
        let set = self.set(hash);
        let place = match set.iter().position(|s| s.key == key) {
            Some(place) => set.get_mut(place),
            None => set.iter_mut().min_by_key(|s| s.expires),
        };
        if let Some(slot) = place {
            *slot = AffinitySlot { key, node: endpoint.0, address: endpoint.1, expires };
        }
    }

    fn set(&mut self, hash: u64) -> &mut [AffinitySlot] {
        let sets = (self.slots.len() / WAYS) as u64;
        let first = hash.checked_rem(sets).unwrap_or_default().saturating_mul(WAYS as u64) as usize;
        let end = self.slots.len().min(first.saturating_add(WAYS));
        self.slots.get_mut(first..end).unwrap_or_default()
    }
}

fn seconds(now: Instant) -> u32 {
    u32::try_from(now.since(Instant::ZERO).as_secs()).unwrap_or(u32::MAX)
}
