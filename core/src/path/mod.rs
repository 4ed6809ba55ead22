//! The path layer: by which way a datagram for a peer goes. The tunnel owns sessions, this owns addresses.
//!
//! Life cycle of a peer: relay sessions come from the directory ([`Paths::set_sessions`]) and datagrams go over
//! the relay from the first handshake. When the tunnel's session is up ([`Paths::session_up`]) both sides send
//! their candidates over it and probe the other's, timed so that both first probes cross and open the NATs from
//! inside. A direct path is one direction: it is promoted when the peer acknowledges a probe of ours that went
//! by it, by whatever way the acknowledgement comes; never by a datagram that merely arrives. While packets go
//! out and nothing comes back the path is probed; when that stays unanswered, or the path was idle so long that
//! NATs may have forgotten it, datagrams go by both ways for a moment, then over the relay, until a new proof.
//!
//! Probes carry a MAC of the place they went to, the time and their size, and acknowledgements bring it back:
//! no table of outstanding probes, and no acknowledgement that its sender could have invented.
//!
//! Bounds: [`PathSlot`] is all a peer takes: 8 candidates, the oldest merely observed one making room. Probes
//! to unproven places are rationed per peer, so a hostile peer cannot make this node a flooder. When the queue
//! of acknowledgements is full, further ones are not sent: the prober tries again.
//!
//! It does not seal, send or resolve anything, does not predict ports of symmetric NATs, and does not choose
//! among servers.
//!
//! Deadlines: slot 0 is the relay and whatever is queued, slot `n` is peer `n`. After any calls, drain
//! [`Paths::poll_deadline`]: it names the slots whose deadline may have moved. Early is harmless.

mod binding;
mod candidates;
mod mtu;
mod ping;
mod proof;
mod relay;
mod schedule;
mod slot;
#[cfg(test)]
mod tests;
mod types;

pub use crate::wire::relay::{ENVELOPE, envelope, is_relay};
pub use binding::{FALLBACK, REFRESH, REFRESH_SPREAD};
pub use relay::{RelayLeg, RelayVia, Terms};
pub use slot::{AckSlot, PathSlot, is_near};
pub use types::{Config, Event, Local, PathInfo, Relayed, Resources, Route, Routes, Source, Transmit};

use crate::PeerId;
use crate::counters::DropReason;
use crate::rng::Rng;
use crate::storage::{Index, Ring};
use crate::time::{Duration, Instant};
use crate::wire::control::Network;
use crate::wire::path::{MESSAGE_MAX, Message};
use binding::Relay;
use core::net::SocketAddr;
use ping::Ping;
use schedule::{List, ROUND_PROBES, STALE};
use slot::{CHANGED, EVENT, KNOWN, LOOKUP, READY, Remote, TOUCHED, UP};

/// Largest memory of a peer, in bytes.
const SLOT_BUDGET: usize = 700;
const _: () = assert!(size_of::<PathSlot>() <= SLOT_BUDGET);

/// Addresses of ours that we tell peers, without the reflexive one.
pub const LOCALS: usize = 7;

/// The ways to all peers.
pub struct Paths<'a> {
    peers: &'a mut [PathSlot],
    acks: Ring<'a, AckSlot>,
    sessions: Index<'a>,
    ready: List,
    events: List,
    touched: List,
    touched_zero: bool,
    relay: Relay,
    locals: [Remote; LOCALS],
    generation: u32,
    network: Option<Network>,
    config: Config,
    key: [u8; 16],
    draws: u64,
    ping: Ping,
    now: Instant,
}

impl<'a> Paths<'a> {
    /// No peers, no relay.
    pub fn new(resources: Resources<'a>, config: Config, rng: &mut Rng) -> Self {
        Self {
            peers: resources.peers,
            acks: Ring::new(resources.acks),
            sessions: Index::new(resources.sessions),
            ready: List::EMPTY,
            events: List::EMPTY,
            touched: List::EMPTY,
            touched_zero: false,
            relay: Relay::new(),
            locals: [Remote::EMPTY; LOCALS],
            // Random, so that a peer that saw an earlier life of this node does not take a list for an old one.
            generation: rng.u32(),
            network: None,
            config,
            key: rng.bytes(),
            draws: 0,
            ping: Ping::NONE,
            now: Instant::ZERO,
        }
    }

    /// The addresses that the shell found, best first; those beyond [`LOCALS`] and those that no peer could use
    /// are left out. The shell has filtered bridges and TUN devices. A change is told to all peers.
    pub fn set_local(&mut self, now: Instant, found: &[Local]) {
        self.begin(now);
        let mut locals = [Remote::EMPTY; LOCALS];
        let usable =
            found.iter().filter(|l| self.usable(&l.address)).map(|l| Remote::new(l.socket, l.address));
        for (place, local) in locals.iter_mut().zip(usable) {
            *place = local;
        }
        if locals != self.locals {
            self.locals = locals;
            self.relay.rebind(now);
            self.locals_changed(now);
        }
    }

    /// The cluster's mesh prefix, in which no candidate may lie.
    pub fn set_network(&mut self, network: &Network) {
        self.network = Some(*network);
    }

    /// Where the peer was reached directly in an earlier life: used only while no relay is usable. Who is there now
    /// nobody knows: until it is proven, [`Paths::call`] leads there a few times only, as small as a probe.
    pub fn hint(&mut self, peer: PeerId, local: u8, remote: SocketAddr) {
        let usable = self.usable(&remote);
        if let Some(slot) = self.slot_mut(peer)
            && usable
        {
            (slot.hint, slot.hint_calls) = (Remote::new(local, remote), ROUND_PROBES);
            slot.set(KNOWN);
        }
    }

    /// Where a message goes now that is to begin a session with `peer`.
    pub fn call(&mut self, now: Instant, peer: PeerId) -> Option<Route> {
        let first = self.route(now, peer, 0).first;
        let slot = self.slot_mut(peer).filter(|slot| !slot.is(UP) && slot.hint_calls < u8::MAX);
        if let Some(slot) = slot.filter(|slot| first.is_some() && slot.hint.route() == first) {
            slot.hint_calls = slot.hint_calls.saturating_sub(1);
            if slot.hint_calls == 0 {
                slot.hint = Remote::EMPTY;
            }
        }
        first
    }

    /// Forgets everything about `peer`.
    pub fn remove(&mut self, peer: PeerId) {
        self.forget_session(peer);
        if let Some(slot) = self.slot_mut(peer) {
            slot.forget();
            self.touched.push(self.peers, peer, TOUCHED);
        }
    }

    /// Where a datagram for `peer` goes now that carries an inner packet of `len` bytes. O(1), changes nothing.
    ///
    /// While the size of a fresh direct path is being searched for, what may be too large for it takes the relay:
    /// a sender told of a smaller size would remember that for minutes.
    pub fn route(&self, now: Instant, peer: PeerId, len: usize) -> Routes {
        let Some(slot) = self.slot(peer) else { return Routes { first: None, copy: None } };
        let relay = self.relay_route(slot);
        match slot.direct().and_then(|c| c.remote.route()) {
            Some(_) if relay.is_some() && slot.is_searching() && len > self.direct_mtu(slot).into() => {
                Routes { first: relay, copy: None }
            }
            Some(direct) => {
                let doubt = slot.suspect.is_set() || slot.is_stale(now);
                Routes { first: Some(direct), copy: relay.filter(|_| doubt) }
            }
            None if relay.is_none() => Routes { first: slot.hint.route(), copy: None },
            // A handshake may find a neighbour even when that one has lost the relay. Farther hints are not used
            // beside a relay: a datagram that comes before the other side sent its own can spoil a NAT's mapping.
            None => Routes { first: relay, copy: slot.near_hint().filter(|_| !slot.is(UP)) },
        }
    }

    /// Whether an answer to what came straight from `remote` had better take our own way, [`Paths::route`]: the NATs
    /// of some pairs let only one direction through, and a session that is renewed that way would end. A place
    /// where no probe of ours ever arrived is one; one where none arrived lately is or is not, by turns: a peer that
    /// has lost the relay can be answered there alone.
    pub fn is_one_way(&mut self, now: Instant, peer: PeerId, remote: &SocketAddr) -> bool {
        let turn = self.draw() & 1 == 0;
        let Some(slot) = self.slot(peer).filter(|s| s.is(UP) && self.relay_route(s).is_some()) else {
            return false;
        };
        let known = slot.find(&Remote::new(0, *remote)).and_then(|at| slot.candidates.get(at));
        match known.map(|candidate| candidate.proven.get()) {
            Some(None) => true,
            Some(Some(at)) => turn && now.since(at) > STALE,
            None => false,
        }
    }

    /// The tunnel has a session with `peer` and the peer can read what we seal. `rtt`: what the handshake took, if
    /// known: from initiation to response, or from response to first datagram.
    pub fn session_up(&mut self, now: Instant, peer: PeerId, rtt: Option<Duration>) {
        self.begin(now);
        let fallback = self.relay.rtt().unwrap_or(Duration::from_millis(100));
        let relayed = self.relay.leg() == RelayLeg::Udp;
        let Some(slot) = self.slot_mut(peer) else { return };
        let begun = slot.is(UP) && slot.list_sent.get().is_none_or(|at| at == now);
        slot.set(UP | KNOWN);
        if rtt.is_some() || !begun {
            slot.relay_rtt = u32::try_from(rtt.unwrap_or(fallback).as_micros()).unwrap_or(u32::MAX);
        }
        if !begun {
            slot.start(now, relayed);
        }
        self.touch(now, peer);
    }

    /// The session with `peer` is over. What is known of the peer is kept; nothing is sent.
    pub fn session_down(&mut self, now: Instant, peer: PeerId) {
        self.begin(now);
        let Some(slot) = self.slot_mut(peer) else { return };
        let changed = slot.current != 0;
        slot.stop();
        if changed {
            self.raise(peer, CHANGED);
        }
        self.touch(now, peer);
    }

    /// An authenticated datagram of `peer` arrived. Never promotes.
    pub fn received(&mut self, now: Instant, peer: PeerId, source: &Source) {
        self.now = now;
        if self.slot_mut(peer).is_some_and(|s| s.is(UP) && s.received(now, Remote::of(source))) {
            self.touch(now, peer);
        }
    }

    /// A datagram of `bytes` for `peer` that is no path message was sent by [`Paths::route`].
    pub fn sent(&mut self, now: Instant, peer: PeerId, bytes: u32) {
        self.now = now;
        let Some(slot) = self.slot_mut(peer).filter(|s| s.is(UP)) else { return };
        let moved = slot.sent(now, bytes);
        let relayed = slot.current == 0 || slot.suspect.is_set();
        let doubled_enough = slot.doubled_enough();
        if relayed && self.relay.relayed(now) {
            self.touched_zero = true;
        }
        if doubled_enough {
            self.demote(now, peer);
        } else if moved {
            self.touch(now, peer);
        }
    }

    /// The datagram that was sent by the peer's direct path was larger than the system allows there.
    pub fn too_big(&mut self, now: Instant, peer: PeerId) {
        self.begin(now);
        if let Some(slot) = self.slot_mut(peer).filter(|s| s.is(UP)) {
            let way = usize::from(slot.current != 0);
            slot.restart_mtu(way, now);
            self.touch(now, peer);
        }
    }

    /// Takes an inner message of `peer`'s session for which [`crate::wire::path::is_path`] holds, after
    /// [`Paths::received`].
    ///
    /// # Errors
    /// [`DropReason::PathMessage`] for a malformed one, [`DropReason::NoSession`] for a peer that is not known,
    /// [`DropReason::ProbeAck`] for an acknowledgement of no probe of ours, [`DropReason::QueueFull`] when an
    /// acknowledgement has no place.
    pub fn message(
        &mut self,
        now: Instant,
        peer: PeerId,
        source: &Source,
        inner: &[u8],
    ) -> Result<(), DropReason> {
        self.begin(now);
        if !self.slot(peer).filter(|s| s.is(KNOWN)).ok_or(DropReason::NoSession)?.is(UP) {
            // What came through the session proves it, even before the tunnel's event was drained.
            self.session_up(now, peer, None);
        }
        let result = match Message::parse(inner)? {
            Message::Candidates(list) => {
                self.take_list(now, peer, &list);
                Ok(())
            }
            Message::CandidatesAck { generation } => {
                self.list_heard(peer, generation);
                Ok(())
            }
            Message::Probe(probe) => self.probed(now, peer, source, &probe.proof),
            Message::ProbeAck(ack) => self.acknowledged(now, peer, source, &ack.proof),
        };
        self.touch(now, peer);
        result
    }

    /// Writes the next path message that is due. `out` should hold the largest inner packet: when it is shorter
    /// than [`MESSAGE_MAX`] nothing is written, and sizes that it cannot hold are not probed.
    #[must_use]
    pub fn poll_message(&mut self, now: Instant, out: &mut [u8]) -> Option<Transmit> {
        self.begin(now);
        if out.len() < MESSAGE_MAX {
            return None;
        }
        if let Some(transmit) = self.poll_ping(now, out) {
            return Some(transmit);
        }
        while let Some(ack) = self.acks.pop() {
            if let Some(transmit) = self.emit_ack(&ack, out) {
                return Some(transmit);
            }
        }
        while let Some(peer) = self.ready.pop(self.peers, READY) {
            while let Some(action) = self.slot(peer).and_then(|s| s.next_action(now)) {
                if let Some(transmit) = self.perform(now, peer, action, out) {
                    // Back to the end of the queue: one message per peer and turn.
                    self.touch(now, peer);
                    return Some(transmit);
                }
            }
            self.touch(now, peer);
        }
        None
    }

    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(event) = self.relay.poll_event().or_else(|| self.ping.poll_event()) {
            return Some(event);
        }
        while let Some(peer) = self.events.pop(self.peers, EVENT) {
            let route = self.route(self.now, peer, 0).first;
            let slot = self.slot_mut(peer)?;
            let (changed, lookup) = (slot.is(CHANGED), slot.is(LOOKUP));
            slot.clear(CHANGED);
            if changed {
                if lookup {
                    self.events.push(self.peers, peer, EVENT);
                }
                return Some(Event::PathChanged { peer, route });
            }
            slot.clear(LOOKUP);
            if lookup {
                return Some(Event::Lookup { peer });
            }
        }
        None
    }

    /// Does what is due in `slot`: 0 for the relay, else a peer's number.
    pub fn handle_timeout(&mut self, now: Instant, slot: u32) {
        self.begin(now);
        if slot == 0 {
            self.relay.handle_timeout(now);
        } else {
            self.peer_timeout(now, PeerId(slot));
        }
    }

    /// A slot whose deadline may have moved, and its deadline now. To be drained last, behind the other polls.
    #[must_use]
    pub fn poll_deadline(&mut self) -> Option<(u32, Option<Instant>)> {
        let slot = match self.touched.pop(self.peers, TOUCHED) {
            Some(peer) => peer.0,
            None if core::mem::take(&mut self.touched_zero) => 0,
            None => return None,
        };
        Some((slot, self.deadline(slot)))
    }

    /// When [`Paths::handle_timeout`] wants to be called for `slot` at the latest. While output or an event is
    /// queued it is the time of the last call.
    pub fn deadline(&self, slot: u32) -> Option<Instant> {
        if slot == 0 {
            let queued = !self.acks.is_empty()
                || !self.ready.is_empty()
                || !self.events.is_empty()
                || self.relay.has_event()
                || self.ping.is_queued()
                || self.relay.is_due(self.now);
            return if queued { Some(self.now) } else { self.relay.deadline() };
        }
        let slot = self.slot(PeerId(slot))?;
        if slot.is(READY) { Some(self.now) } else { slot.deadline() }
    }

    /// Takes note of the time. Whatever happens next may queue output, which is slot 0's.
    fn begin(&mut self, now: Instant) {
        self.now = now;
        self.touched_zero = true;
    }

    fn raise(&mut self, peer: PeerId, flag: u8) {
        if let Some(slot) = self.slot_mut(peer) {
            slot.set(flag);
            self.events.push(self.peers, peer, EVENT);
            self.touched_zero = true;
        }
    }

    /// The peer changed: its deadline may have moved, and it is queued when it has something to send.
    fn touch(&mut self, now: Instant, peer: PeerId) {
        self.touched.push(self.peers, peer, TOUCHED);
        if self.slot(peer).is_some_and(|s| s.next_action(now).is_some()) {
            self.ready.push(self.peers, peer, READY);
            self.touched_zero = true;
        }
    }

    fn slot(&self, peer: PeerId) -> Option<&PathSlot> {
        self.peers.get((peer.0 as usize).checked_sub(1)?)
    }

    fn slot_mut(&mut self, peer: PeerId) -> Option<&mut PathSlot> {
        self.peers.get_mut((peer.0 as usize).checked_sub(1)?)
    }
}
