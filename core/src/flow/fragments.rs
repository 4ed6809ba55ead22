//! Fragmented datagrams under way; in a full set of four the one that was seen longest ago gives way, unless
//! fragments wait for it.
//!
//! The first fragment has the ports and decides; the rest follow it. Those that come before it wait with the
//! shell under a ticket, for at most a second. Datagrams get new identifications where several sources become
//! one, because two of them may use the same.

use super::entries::hasher;
use super::slots::FragmentSlot;
use super::{Expiry, PeerRef, Ticket, Translated};
use crate::counters::DropReason;
use crate::time::{Duration, Instant};
use crate::wire::ip::{Address, Fragment, Transport};
use core::hash::Hasher;
use core::net::IpAddr;

const WAYS: usize = 4;
/// How long the fragments of a datagram may be apart: Linux's reassembly time.
const LIFE: Duration = Duration::from_secs(30);
/// How long a fragment waits for the first one.
const WAIT: Duration = Duration::from_secs(1);
/// Fragments of one datagram that may wait: 64 KiB in pieces of 1400 bytes.
const PARKED_MAX: u8 = 47;
/// Destinations are hashed into so many counters of identifications.
const COUNTERS: usize = 16;

/// States of a slot; 0 is free.
const AWAITED: u8 = 1;
const DECIDED: u8 = 2;

/// Where a first fragment goes.
pub(super) struct Route {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) verdict: Translated,
    /// Whether the datagram gets another identification.
    pub(super) rename: bool,
}

/// What to do with a later fragment.
pub(super) enum Followed {
    Way { src: IpAddr, dst: IpAddr, id: u32, verdict: Translated },
    Park { ticket: Ticket, slot: u32, at: Option<Instant> },
}

pub(super) struct Fragments<'a> {
    slots: &'a mut [FragmentSlot],
    keys: [u64; 2],
    ids: [u32; COUNTERS],
    next_ticket: u32,
}

impl<'a> Fragments<'a> {
    pub(super) fn new(slots: &'a mut [FragmentSlot], keys: [u64; 2], seed: u32) -> Self {
        Self { slots, keys, ids: [seed; COUNTERS], next_ticket: 0 }
    }

    /// Remembers where a first fragment goes; returns the datagram's new identification, and the ticket of
    /// those that waited for it.
    pub(super) fn first(
        &mut self,
        now: Instant,
        from: PeerRef,
        t: &Transport,
        route: &Route,
    ) -> Result<(u32, Option<Ticket>), DropReason> {
        let probe = key(from, t);
        let place = self.place(now, &probe).ok_or(DropReason::Fragment)?;
        let known = self.slots.get(place).copied().filter(|s| same(s, &probe) && s.expires > now.as_micros());
        let to = match route.verdict {
            Translated::To(peer) => peer.0,
            _ => 0,
        };
        let slot = FragmentSlot {
            new_src: route.src.into(),
            new_dst: route.dst.into(),
            to,
            state: DECIDED,
            expires: now.after(LIFE).as_micros(),
            ..probe
        };
        let new_id = match known {
            // A copy of the first fragment must join the same datagram.
            Some(old) if old.state == DECIDED && old.new_dst == slot.new_dst && old.to == to => old.new_id,
            _ if route.rename => self.fresh_id(route.dst, PeerRef(to)),
            _ => probe.id,
        };
        let released = known.filter(|s| s.state == AWAITED).map(|s| Ticket(s.new_id));
        if let Some(place) = self.slots.get_mut(place) {
            *place = FragmentSlot { new_id, ..slot };
        }
        Ok((new_id, released))
    }

    /// Where a later fragment goes.
    pub(super) fn follow(
        &mut self,
        now: Instant,
        from: PeerRef,
        t: &Transport,
    ) -> Result<Followed, DropReason> {
        let probe = key(from, t);
        let number = self.place(now, &probe).ok_or(DropReason::Fragment)?;
        let slot = self.slots.get_mut(number).ok_or(DropReason::Fragment)?;
        let known = same(slot, &probe) && slot.expires > now.as_micros();
        match slot.state {
            DECIDED if known => {
                slot.expires = now.after(LIFE).as_micros();
                let verdict = super::send(PeerRef(slot.to));
                let (src, dst) = (slot.new_src.ip_or_unspecified(), slot.new_dst.ip_or_unspecified());
                Ok(Followed::Way { src, dst, id: slot.new_id, verdict })
            }
            AWAITED if known => {
                if slot.parked >= PARKED_MAX {
                    return Err(DropReason::Fragment);
                }
                slot.parked = slot.parked.saturating_add(1);
                Ok(Followed::Park { ticket: Ticket(slot.new_id), slot: number as u32, at: None })
            }
            _ => {
                self.next_ticket = self.next_ticket.wrapping_add(1);
                let at = now.after(WAIT);
                *slot = FragmentSlot {
                    state: AWAITED,
                    new_id: self.next_ticket,
                    parked: 1,
                    expires: at.as_micros(),
                    ..probe
                };
                Ok(Followed::Park { ticket: Ticket(self.next_ticket), slot: number as u32, at: Some(at) })
            }
        }
    }

    /// Gives up waiting for a first fragment.
    pub(super) fn expire(&mut self, now: Instant, number: u32) -> Expiry {
        let none = Expiry { next: None, expired: None };
        let Some(slot) = self.slots.get_mut(number as usize).filter(|s| s.state == AWAITED) else {
            return none;
        };
        if slot.expires > now.as_micros() {
            return Expiry { next: Some(Instant::from_micros(slot.expires)), ..none };
        }
        let ticket = Ticket(slot.new_id);
        *slot = FragmentSlot::ZERO;
        Expiry { expired: Some(ticket), ..none }
    }

    pub(super) fn capacity(&self) -> u32 {
        self.slots.len() as u32
    }

    /// The slot of this datagram, or the one that it may take. Awaited ones are given up by their timer only, so
    /// that no ticket is forgotten.
    fn place(&self, now: Instant, probe: &FragmentSlot) -> Option<usize> {
        let mut hasher = hasher(self.keys);
        hasher.write(probe.src.bytes());
        hasher.write(probe.dst.bytes());
        hasher.write_u32(probe.id);
        hasher.write_u32(probe.from);
        hasher.write_u8(probe.protocol);
        let sets = (self.slots.len() / WAYS) as u64;
        let first = hasher.finish().checked_rem(sets)?.saturating_mul(WAYS as u64) as usize;
        let set = || self.slots.iter().enumerate().skip(first).take(WAYS);
        let mine = set().find(|(_, s)| same(s, probe) && (s.state == DECIDED || s.expires > now.as_micros()));
        mine.or_else(|| set().filter(|(_, s)| s.state != AWAITED).min_by_key(|(_, s)| s.expires))
            .map(|(number, _)| number)
    }

    /// An identification that datagrams to this destination did not have lately.
    pub(super) fn fresh_id(&mut self, dst: IpAddr, to: PeerRef) -> u32 {
        let mut hasher = hasher(self.keys);
        hasher.write(Address::from(dst).bytes());
        hasher.write_u32(to.0);
        let place = hasher.finish() as usize % COUNTERS;
        let Some(counter) = self.ids.get_mut(place) else { return 0 };
        *counter = counter.wrapping_add(1);
        if dst.is_ipv6() { *counter } else { *counter & 0xffff }
    }
}

fn key(from: PeerRef, t: &Transport) -> FragmentSlot {
    let id = match t.fragment {
        Fragment::First { id } | Fragment::Later { id, .. } => id,
        Fragment::None => 0,
    };
    // RFC 8200 4.5 tells datagrams apart without the protocol, RFC 791 with it.
    let protocol = if t.src.is_ipv6() { 0 } else { t.protocol };
    FragmentSlot {
        src: t.src.into(),
        dst: Address::from(t.dst),
        id,
        from: from.0,
        protocol,
        ..FragmentSlot::ZERO
    }
}

fn same(a: &FragmentSlot, b: &FragmentSlot) -> bool {
    a.state != 0
        && (a.id, a.from, a.protocol) == (b.id, b.from, b.protocol)
        && a.src == b.src
        && a.dst == b.dst
}
