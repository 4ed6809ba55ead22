//! Candidates: which addresses may be probed at all, ours to tell and the peer's to try.

use crate::path::schedule::PUNCH_GAP;
use crate::path::slot::{
    At, CANDIDATES, Candidate, HAS_LIST, HEARD, HOST, LISTED, OBSERVED, OWE_LIST_ACK, PathSlot, REFLEXIVE,
    RESTING, Remote, UP,
};
use crate::path::{Paths, PeerId, Transmit};
use crate::time::{Duration, Instant};
use crate::wire::control::Network;
use crate::wire::path::{self, Candidates, Kind};
use core::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where every node's DNS listens: local everywhere, so never a way to a peer.
const DNS_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 96, 16);
/// A list is repeated this often until it is acknowledged, at growing distances.
const LIST_TRIES: u8 = 4;
const LIST_GAP: Duration = Duration::from_millis(250);
/// Without a way to the peer, what is to be sent waits this long.
pub(super) const NO_ROUTE_GAP: Duration = Duration::from_secs(1);
/// A list this much older than the last one was overtaken on its way; anything else is a new life of the peer.
const OVERTAKEN: u32 = 16;

impl Paths<'_> {
    /// Whether a datagram may go to `address` because a peer, or a shell, named it.
    pub(super) fn usable(&self, address: &SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let odd = match ip {
            IpAddr::V4(v4) => {
                let zero_net = v4.octets().first() == Some(&0);
                zero_net || v4.is_broadcast() || v4 == DNS_ADDRESS
            }
            // Link-local addresses mean nothing without the interface.
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let mesh = self.network.as_ref().is_some_and(|network| in_mesh(network, ip));
        !(odd || mesh || address.port() == 0 || ip.is_loopback() || ip.is_multicast() || ip.is_unspecified())
    }

    /// As [`Paths::usable`], for a peer's address: neither ours nor the server's.
    fn probeable(&self, address: &SocketAddr) -> bool {
        let place = Remote::new(0, *address);
        let ours = self.locals.iter().any(|local| local.same_place(&place));
        let server = self.relay.server().is_some_and(|(_, server)| Remote::new(0, server).same_place(&place));
        self.usable(address) && !ours && !server
    }

    /// The socket for addresses of this family: that of our first address of the family. IPv6 needs one.
    fn socket_for(&self, address: &SocketAddr) -> Option<u8> {
        let family = Remote::new(0, *address).family;
        let local = self.locals.iter().find(|local| local.family == family).map(|local| local.local);
        local.or((family == 4).then_some(0))
    }

    /// Our addresses changed: every peer is told, and every direct path is in doubt.
    pub(super) fn locals_changed(&mut self, now: Instant) {
        self.generation = self.generation.wrapping_add(1);
        self.for_all_up(now, |slot| {
            if slot.current != 0 {
                slot.suspect_now(now);
            }
            slot.try_anew(now);
        });
    }

    /// UDP works again, at least to the relay: perhaps to the peers that are reached through it, too.
    pub(super) fn udp_returned(&mut self, now: Instant) {
        self.for_all_up(now, |slot| {
            slot.relay_changed(now);
            if slot.current == 0 {
                slot.try_anew(now);
            }
        });
    }

    fn for_all_up(&mut self, now: Instant, mut change: impl FnMut(&mut PathSlot)) {
        for id in 1..=u32::try_from(self.peers.len()).unwrap_or(u32::MAX) {
            let peer = PeerId(id);
            if let Some(slot) = self.slot_mut(peer).filter(|s| s.is(UP)) {
                change(slot);
                self.touch(now, peer);
            }
        }
    }

    /// The peer says where it may be reached.
    pub(super) fn take_list(&mut self, now: Instant, peer: PeerId, list: &Candidates<'_>) {
        let ours = self.generation;
        let Some(slot) = self.slot_mut(peer) else { return };
        slot.set(OWE_LIST_ACK);
        let age = slot.generation.wrapping_sub(list.generation);
        let known = slot.has & HAS_LIST != 0;
        if known && (1..=OVERTAKEN).contains(&age) {
            return;
        }
        if list.asks {
            slot.has &= !HEARD;
        }
        let new = !known || age != 0;
        let recently = slot.round.get().is_some_and(|at| now.since(at) < PUNCH_GAP);
        if new {
            slot.has |= HAS_LIST;
            slot.generation = list.generation;
            slot.refresh_rounds();
            self.replace_listed(peer, list);
        }
        let Some(slot) = self.slot_mut(peer) else { return };
        // All of our own lists may have been lost, and the peer's rounds put off ours: it is told now.
        if !slot.holds(ours) && !slot.list_due.is_set() {
            (slot.list_due, slot.list_tries) = (At::new(now), 0);
        }
        if new || (list.punch && !recently) {
            let at = slot.punch_time(now, ours);
            slot.begin_round(now, at);
        } else if !list.punch && slot.current == 0 {
            slot.rest(now);
        }
    }

    fn replace_listed(&mut self, peer: PeerId, list: &Candidates<'_>) {
        let mut wanted = [(Remote::EMPTY, 0u8); LISTED];
        let mut count = 0usize;
        for (kind, address) in list.iter().filter(|(_, address)| self.probeable(address)) {
            let Some(socket) = self.socket_for(&address) else { continue };
            let remote = Remote::new(socket, address);
            let seen = wanted.iter().take(count).any(|(other, _)| other.same_place(&remote));
            if let Some(place) = wanted.get_mut(count)
                && !seen
            {
                *place = (remote, if kind == Kind::Host { HOST } else { REFLEXIVE });
                count = count.saturating_add(1);
            }
        }
        let Some(slot) = self.slot_mut(peer) else { return };
        slot.drop_unlisted(&wanted);
        for (remote, kind) in wanted.into_iter().take(count) {
            slot.add(remote, kind);
        }
    }

    /// The peer holds the list of `generation`.
    pub(super) fn list_heard(&mut self, peer: PeerId, generation: u32) {
        let ours = self.generation;
        if let Some(slot) = self.slot_mut(peer)
            && generation == ours
        {
            slot.heard = generation;
            slot.has |= HEARD;
            // A round of ours may be asking for another one: that is still to be sent.
            if slot.list_tries > 0 {
                slot.list_due = At::NONE;
            }
        }
    }

    /// A probe came from `place`: the peer's way from there works, and that may be a candidate too.
    pub(super) fn observed(&mut self, now: Instant, peer: PeerId, place: Remote) {
        if !place.address().is_some_and(|address| self.probeable(&address)) {
            return;
        }
        let Some(slot) = self.slot_mut(peer) else { return };
        if slot.find(&place).is_some() {
            if slot.current == 0 {
                slot.retry(now, &place);
            }
            return;
        }
        let new = Candidate { remote: place, kind: OBSERVED, ..Candidate::EMPTY };
        // Between two NATs that map by destination each probe of an observed place is seen from a new one: once a
        // path works, only what is nearer is worth a mapping.
        if slot.direct().is_none_or(|path| new.tier() < path.tier())
            && let Some(candidate) = slot.add(place, OBSERVED)
        {
            candidate.restart(now, super::schedule::ROUND_PROBES);
        }
    }

    pub(super) fn emit_list(&mut self, now: Instant, peer: PeerId, out: &mut [u8]) -> Option<Transmit> {
        let generation = self.generation;
        let route = self.route(now, peer, 0).first;
        let hosts = self.locals.iter().filter_map(|local| Some((Kind::Host, local.address()?)));
        let reflexive = self.relay.observed().filter(|address| self.usable(address));
        let list = hosts.chain(reflexive.map(|address| (Kind::Reflexive, address)));
        let has = self.slot(peer)?.has;
        let len = Candidates::emit(out, generation, has & RESTING == 0, has & HAS_LIST == 0, list).ok();
        let slot = self.slot_mut(peer)?;
        let (Some(route), Some(len)) = (route, len) else {
            slot.list_due = At::new(now.after(NO_ROUTE_GAP));
            // Nobody waits for a list for ever: the next round asks again.
            if !slot.is_active(now) {
                slot.list_due = At::NONE;
            }
            return None;
        };
        let heard = slot.holds(generation);
        slot.list_sent = At::new(now);
        slot.list_tries = slot.list_tries.saturating_add(1);
        slot.list_due = if heard || slot.list_tries >= LIST_TRIES {
            slot.list_tries = 0;
            At::NONE
        } else {
            let gap = LIST_GAP.max(slot.relay_half().times(3));
            At::new(now.after(gap.times(u64::from(slot.list_tries))))
        };
        Some(Transmit { peer, route, len, dont_fragment: false })
    }

    pub(super) fn emit_list_ack(&mut self, now: Instant, peer: PeerId, out: &mut [u8]) -> Option<Transmit> {
        let route = self.route(now, peer, 0).first;
        let slot = self.slot_mut(peer)?;
        slot.clear(OWE_LIST_ACK);
        let len = path::emit_candidates_ack(out, slot.generation).ok()?;
        Some(Transmit { peer, route: route?, len, dont_fragment: false })
    }
}

impl PathSlot {
    /// When to probe so that our first probes and the peer's cross: as soon as it holds our list. A probe that
    /// comes before the other side sent its own can make its NAT remap that very flow.
    fn punch_time(&self, now: Instant, generation: u32) -> Instant {
        if self.holds(generation) {
            return now;
        }
        let sent = if self.list_due.is_due(now) { now } else { self.list_sent.get().unwrap_or(now) };
        now.max(sent.after(self.relay_half()))
    }

    /// Tells the peer where we are, and begins a full round on both sides.
    fn try_anew(&mut self, now: Instant) {
        (self.list_due, self.list_tries) = (At::new(now), 0);
        self.refresh_rounds();
        self.begin_round(now, now.after(self.relay_half()));
    }

    /// Whether the peer acknowledged our list of this generation.
    fn holds(&self, generation: u32) -> bool {
        self.has & HEARD != 0 && self.heard == generation
    }

    fn drop_unlisted(&mut self, wanted: &[(Remote, u8)]) {
        let current = usize::from(self.current).checked_sub(1);
        for (n, candidate) in self.candidates.iter_mut().enumerate() {
            let kept =
                candidate.kind == OBSERVED || wanted.iter().any(|(w, _)| w.same_place(&candidate.remote));
            if kept || !candidate.is_live() {
                continue;
            }
            if Some(n) == current {
                candidate.kind = OBSERVED;
            } else {
                *candidate = Candidate::EMPTY;
            }
        }
    }

    /// The candidate at `remote`, which takes an empty place or that of the observed one proven longest ago that
    /// is not being probed.
    fn add(&mut self, remote: Remote, kind: u8) -> Option<&mut Candidate> {
        if let Some(at) = self.find(&remote) {
            let candidate = self.candidates.get_mut(at)?;
            candidate.kind = kind;
            return Some(candidate);
        }
        let current = usize::from(self.current).checked_sub(1);
        let at = self.candidates.iter().position(|c| !c.is_live()).or_else(|| {
            let old = self.candidates.iter().enumerate();
            let old = old.filter(|(n, c)| c.kind == OBSERVED && !c.due.is_set() && Some(*n) != current);
            old.min_by_key(|(_, c)| c.proven).map(|(n, _)| n)
        })?;
        let candidate = self.candidates.get_mut(at)?;
        *candidate = Candidate { remote, kind, ..Candidate::EMPTY };
        Some(candidate)
    }
}

const _: () = assert!(LISTED < CANDIDATES && super::LOCALS < path::CANDIDATES_MAX);

fn in_mesh(network: &Network, ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let shift = 32u32.saturating_sub(network.mesh_v4_len.into());
            let prefix = |address: u32| address.checked_shr(shift).unwrap_or(0);
            prefix(v4.to_bits()) == prefix(u32::from_be_bytes(network.mesh_v4))
        }
        IpAddr::V6(v6) => v6.octets().first_chunk::<8>() == network.mesh_v6.first_chunk::<8>(),
    }
}
