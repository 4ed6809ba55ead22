//! How large a packet a path takes: padded probes with the don't-fragment bit, largest first.
//!
//! A way starts at [`UNKNOWN`]; a search tries the sizes of common links a few times, a check now and then repeats
//! the size in use, and when that no longer passes, the search begins anew. Only active peers are probed.

use crate::path::schedule::Action;
use crate::path::slot::{At, Mtu, PathSlot, Remote};
use crate::path::{PathInfo, Paths, PeerId, Route, Transmit};
use crate::time::{Duration, Instant};

/// Index of the relay's [`Mtu`] in a slot.
pub(super) const RELAY: usize = 0;
/// Index of the direct path's.
pub(super) const DIRECT: usize = 1;
/// Tag of probes that go over the relay: no candidate's number.
pub(super) const RELAY_TAG: u8 = 0xFF;

/// Inner packet that is taken to pass until the first search has ended, in bytes: the least that IPv6 needs (RFC
/// 8200, section 5). Data carries no don't-fragment bit, so where it is too large the outer datagram is cut.
const UNKNOWN: u16 = 1_280;
/// Outer datagram, IP header included, that a path carries on which nothing larger passed, in bytes.
const BASE: u16 = 1_280;
/// Outer sizes to try: Ethernet, PPPoE, tunnels and mobile links.
const LADDER: [u16; 3] = [1_500, 1_492, 1_400];
/// WireGuard data header and tag.
const SEAL: u16 = 32;
const UDP: u16 = 8;
const ENVELOPE: u16 = crate::wire::relay::ENVELOPE as u16;
const TRIES: u8 = 3;
const TRY_GAP: Duration = Duration::from_millis(250);
const CHECK: Duration = Duration::from_secs(60);
/// Checks between two searches for something larger.
const CHECKS: u8 = 10;

/// Largest inner packet, a multiple of 16 as the seal pads, in an outer datagram of `outer` bytes.
fn inner(outer: u16, way: usize, remote: Remote) -> u16 {
    // The relay's other half may be IPv6 even when ours is not.
    let ip = if way == RELAY || remote.family == 6 { 40 } else { 20 };
    let envelope = if way == RELAY { ENVELOPE } else { 0 };
    outer.saturating_sub(ip).saturating_sub(UDP).saturating_sub(envelope).saturating_sub(SEAL) & !15
}

impl PathSlot {
    pub(super) fn restart_mtu(&mut self, way: usize, at: Instant) {
        if let Some(mtu) = self.mtu.get_mut(way) {
            *mtu = Mtu { due: At::new(at), ..Mtu::EMPTY };
        }
    }

    /// Whether the size of the direct path is still being found out.
    pub(super) fn is_searching(&self) -> bool {
        let mtu = &self.mtu[DIRECT];
        mtu.due.is_set() && mtu.checks == 0
    }

    /// The size in use on a way, of which nothing larger than `base` is known.
    fn size(&self, way: usize, base: u16) -> u16 {
        match self.mtu.get(way) {
            Some(mtu) if mtu.size != 0 => mtu.size,
            Some(mtu) if mtu.checks != 0 => base,
            _ => UNKNOWN.max(base),
        }
    }

    fn remote(&self) -> Remote {
        self.direct().map_or(Remote::EMPTY, |c| c.remote)
    }

    /// A padded probe of `size` was acknowledged.
    pub(super) fn mtu_proven(&mut self, way: usize, size: u16, largest: u16, now: Instant) {
        if let Some(mtu) = self.mtu.get_mut(way) {
            mtu.best = mtu.best.max(size);
            mtu.size = mtu.size.max(size);
            if mtu.due.is_set() && (size >= largest || (mtu.checking != 0 && size >= mtu.size)) {
                mtu.finish(now, size);
            }
        }
    }
}

impl Mtu {
    /// Ends a round in which `size` passed.
    fn finish(&mut self, now: Instant, size: u16) {
        let again = self.checks >= CHECKS;
        // 0 only during the first search.
        let checks = if again { 1 } else { self.checks.saturating_add(1) };
        // Where nothing passed there is nothing to check: the search is repeated.
        let checking = u8::from(!again && size != 0);
        *self = Self { due: At::new(now.after(CHECK)), size, best: 0, tries: 0, step: 0, checks, checking };
    }
}

impl Paths<'_> {
    /// Largest inner packet that fits the way to `peer` now, in bytes.
    pub fn mtu(&self, now: Instant, peer: PeerId) -> u16 {
        let Some(slot) = self.slot(peer) else { return self.relay_mtu(&PathSlot::EMPTY) };
        let (direct, relay) = (self.direct_mtu(slot), self.relay_mtu(slot));
        match slot.direct() {
            Some(_) if self.relay_route(slot).is_none() => direct,
            Some(_) if slot.is_searching() => direct.max(relay),
            Some(_) if slot.suspect.is_set() || slot.is_stale(now) => direct.min(relay),
            Some(_) => direct,
            None => relay,
        }
    }

    /// The way to `peer` for an operator.
    pub fn info(&self, now: Instant, peer: PeerId) -> PathInfo {
        let route = self.route(now, peer, 0).first;
        let rtt =
            self.slot(peer).map_or(0, |slot| if slot.current != 0 { slot.srtt } else { slot.relay_rtt });
        let rtt = (rtt != 0).then(|| Duration::from_micros(rtt.into()));
        PathInfo { route, rtt: rtt.filter(|_| route.is_some()), mtu: self.mtu(now, peer) }
    }

    pub(super) fn direct_mtu(&self, slot: &PathSlot) -> u16 {
        slot.size(DIRECT, inner(BASE, DIRECT, slot.remote())).min(self.config.inner_mtu_max)
    }

    pub(super) fn relay_mtu(&self, slot: &PathSlot) -> u16 {
        if self.relay.leg() == super::RelayLeg::Tcp {
            return self.config.inner_mtu_max;
        }
        slot.size(RELAY, inner(BASE, RELAY, Remote::EMPTY)).min(self.config.inner_mtu_max)
    }

    /// The size at `step` of the ladder, `None` past its end.
    fn rung(&self, slot: &PathSlot, way: usize, step: u8) -> Option<u16> {
        let outer = LADDER.get(usize::from(step))?;
        Some(inner(*outer, way, slot.remote()).min(self.config.inner_mtu_max & !15))
    }

    pub(super) fn largest(&self, slot: &PathSlot, way: usize) -> u16 {
        self.rung(slot, way, 0).unwrap_or_default()
    }

    /// Sends the next size that is worth a try, or closes the round.
    pub(super) fn perform_mtu(
        &mut self,
        now: Instant,
        peer: PeerId,
        way: usize,
        out: &mut [u8],
    ) -> Option<Transmit> {
        let slot = self.slot(peer)?;
        let relay = self.relay_route(slot).filter(|route| matches!(route, Route::Relay { .. }));
        let route = if way == RELAY { relay } else { slot.direct().and_then(|c| c.remote.route()) };
        let (Some(route), true) = (route, slot.is_active(now)) else {
            self.slot_mut(peer)?.mtu.get_mut(way)?.due = At::NONE;
            return None;
        };
        let mut mtu = *slot.mtu.get(way)?;
        let size = loop {
            let Some(size) = self.rung(slot, way, mtu.step) else { break None };
            let previous = mtu.step.checked_sub(1).and_then(|step| self.rung(slot, way, step));
            mtu.step = mtu.step.saturating_add(1);
            let wanted = if mtu.checking != 0 { size == mtu.size } else { size > mtu.best };
            if wanted && previous != Some(size) && usize::from(size) <= out.len() {
                break Some(size);
            }
        };
        if size.is_none() {
            let rtt = if way == RELAY { slot.relay_rtt } else { slot.srtt };
            let gap = Duration::from_micros(u64::from(rtt).saturating_mul(2)).max(TRY_GAP);
            (mtu.step, mtu.tries, mtu.due) = (0, mtu.tries.saturating_add(1), At::new(now.after(gap)));
            if mtu.tries >= TRIES {
                let (failed, best) = (mtu.checking != 0 && mtu.size != 0, mtu.best);
                mtu.finish(now, best);
                if failed {
                    mtu = Mtu { due: At::new(now), ..Mtu::EMPTY };
                }
            }
        }
        let tag = if way == RELAY { RELAY_TAG } else { slot.current.saturating_sub(1) };
        *self.slot_mut(peer)?.mtu.get_mut(way)? = mtu;
        self.emit_probe(now, peer, tag, route, size?, out, true)
    }

    /// Sends what [`PathSlot::next_action`] found, or puts it off: never both times `None` for the same action.
    pub(super) fn perform(
        &mut self,
        now: Instant,
        peer: PeerId,
        action: Action,
        out: &mut [u8],
    ) -> Option<Transmit> {
        match action {
            Action::List => self.emit_list(now, peer, out),
            Action::ListAck => self.emit_list_ack(now, peer, out),
            Action::Candidate(n) => self.probe_candidate(now, peer, n, out),
            Action::Path => self.probe_path(now, peer, out),
            Action::Mtu(way) => self.perform_mtu(now, peer, way, out),
            Action::Relay => self.probe_relay(now, peer, out),
        }
    }
}
