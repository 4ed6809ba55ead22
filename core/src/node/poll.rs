//! What the engine wants of the shell: datagrams, frames, events, and to be called again.

use super::{Engine, Event, Ticket, Timer, Transmit, Way};
use crate::PeerId;
use crate::bridge::{due, finish, said, seal_own, way_of, way_to};
use crate::counters::DropReason;
use crate::packet::HEADROOM;
use crate::path;
use crate::time::{Instant, WallTime};
use crate::tunnel::TunnelEvent;

impl Engine<'_> {
    /// Computes on: at most one X25519 or signature check. True when more waits.
    #[must_use]
    pub fn work(&mut self, now: Instant, wall: WallTime) -> bool {
        let done = self.tunnels.work(now, wall, &mut self.rng);
        if let Some(reason) = done.dropped {
            self.count(reason);
        }
        self.settle(now);
        done.more
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Control => self.link.handle_timeout(now),
                Timer::Lookups => {
                    if let Some(asked) = self.lookups.handle_timeout(now) {
                        self.tell(Event::Expired(Ticket::of(asked)));
                    }
                    self.timers.set(timer, self.lookups.poll_timeout());
                }
                Timer::Tunnel(peer) => {
                    due(&mut self.timers, &mut self.tunnels, &self.peers, &mut self.lookups, now, peer);
                }
                Timer::Path(slot) => self.paths.handle_timeout(now, slot),
                Timer::Flow(slot) => {
                    let expiry = self.flows.handle_timeout(now, slot);
                    self.timers.set(timer, expiry.next);
                    if let Some(ticket) = expiry.expired {
                        self.tell(Event::Expired(Ticket::Fragment(ticket.0)));
                    }
                }
            }
        }
        self.settle(now);
    }

    /// When to call [`Engine::handle_timeout`], and for whom.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        self.timers.first()
    }

    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop()
    }

    /// Writes the next datagram of the engine's own into `out`, of at least 2,048 bytes.
    #[must_use]
    pub fn poll_transmit(&mut self, now: Instant, out: &mut [u8]) -> Option<Transmit> {
        let transmit = self.relay_transmit(now, out).or_else(|| self.tunnel_transmit(now, out));
        let transmit = transmit.or_else(|| self.path_transmit(now, out));
        self.settle(now);
        transmit
    }

    /// Writes the next frame for the control connection into `out`, of at least 1,600 bytes.
    ///
    /// # Errors
    /// [`DropReason::NoRoom`] for a shorter `out`; the connection is broken then.
    pub fn poll_frame(&mut self, now: Instant, out: &mut [u8]) -> Result<Option<usize>, DropReason> {
        let Self { link, lookups, services, rng, .. } = self;
        let question = || lookups.next_question(now).or_else(|| services.next_held());
        let frame = link.poll_frame(now, rng, out, question);
        self.settle(now);
        frame
    }

    fn relay_transmit(&mut self, now: Instant, out: &mut [u8]) -> Option<Transmit> {
        let (via, len) = self.paths.poll_relay(now, out)?;
        Some(Transmit { range: 0..len, to: Way::binding(via).to, dont_fragment: false })
    }

    fn tunnel_transmit(&mut self, now: Instant, out: &mut [u8]) -> Option<Transmit> {
        loop {
            let message = self.tunnels.poll_transmit(now, out.get_mut(HEADROOM..)?)?;
            if let Some(way) = way_of(&mut self.paths, now, &message) {
                return finish(&way, out, HEADROOM, message.len, false);
            }
            self.count(DropReason::NoPath);
            self.tunnels.unsent(&message);
        }
    }

    fn path_transmit(&mut self, now: Instant, out: &mut [u8]) -> Option<Transmit> {
        loop {
            let inner = out.get_mut(HEADROOM..)?;
            let message = said(&mut self.peers, &mut self.paths, &self.tunnels, self.own, now, inner)?;
            let sealed = seal_own(&mut self.tunnels, now, message.peer, out, message.len);
            match (Way::of(message.route, self.paths.relay_via()), sealed) {
                (Some(way), Some((start, len))) => {
                    return finish(&way, out, start, len, message.dont_fragment);
                }
                _ => _ = self.count(DropReason::NoSession),
            }
        }
    }

    pub(super) fn way_to(&self, now: Instant, peer: PeerId) -> Option<Way> {
        way_to(&self.paths, now, peer)
    }

    /// Passes on what the machines have to say to each other and to the shell, and takes their deadlines.
    pub(crate) fn settle(&mut self, now: Instant) {
        while let Some(event) = self.tunnels.poll_event() {
            self.tunnel_event(now, event);
        }
        while let Some((peer, at)) = self.tunnels.poll_deadline() {
            self.timers.set(Timer::Tunnel(peer.0), Some(at));
        }
        while let Some(event) = self.paths.poll_event() {
            self.path_event(now, event);
        }
        while let Some((slot, at)) = self.paths.poll_deadline() {
            self.timers.set(Timer::Path(slot), at);
        }
        self.timers.set(Timer::Control, self.link.poll_timeout());
        self.timers.set(Timer::Lookups, self.lookups.poll_timeout());
    }

    fn tunnel_event(&mut self, now: Instant, event: TunnelEvent) {
        match event {
            TunnelEvent::SessionUp { peer } => {
                self.paths.session_up(now, peer, None);
                self.peers.greet(now, self.own, peer);
                self.tell(Event::Ready(Ticket::Peer(self.peers.index(peer))));
            }
            TunnelEvent::SessionDown { peer } => self.paths.session_down(now, peer),
            TunnelEvent::HandshakeFailed { peer } => {
                self.tell(Event::Expired(Ticket::Peer(self.peers.index(peer))));
            }
            // Its record is on the way if the directory knows it: whoever looks us up is announced to us.
            TunnelEvent::Stranger(_) => {}
            TunnelEvent::PersistFloor(stamp) => self.tell(Event::PersistStamp(stamp)),
        }
    }

    /// The relay can be used: whoever waited for a way gets a session, and what was parked goes on.
    fn reach_out(&mut self, now: Instant) {
        for (peer, index) in self.peers.recent(now) {
            if self.way_to(now, peer).is_some() {
                if !self.tunnels.is_up(peer) {
                    self.tunnels.initiate(now, peer);
                }
                if self.events.push(Event::Ready(Ticket::Peer(index))).is_err() {
                    self.counters.count(DropReason::QueueFull);
                }
            }
        }
    }

    fn path_event(&mut self, now: Instant, event: path::Event) {
        match event {
            path::Event::PathChanged { peer, route } => {
                let index = self.peers.index(peer);
                self.tell(Event::PathChanged(index));
                if route.is_some() {
                    self.tell(Event::Ready(Ticket::Peer(index)));
                }
            }
            path::Event::RelayChanged { .. } => self.reach_out(now),
            path::Event::Pong { peer, rtt } => {
                let index = self.peers.index(peer);
                self.tell(Event::Pong { index, rtt });
            }
            path::Event::OpenRelayTcp => self.tell(Event::OpenRelayTcp),
            path::Event::CloseRelayTcp => self.tell(Event::CloseRelayTcp),
            path::Event::Lookup { peer } => _ = self.lookups.want(now, self.peers.index(peer)),
        }
    }
}
