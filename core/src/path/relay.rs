//! What [`Paths`] has to do with the relay: terms, sessions, its datagrams, its connection. The client that keeps
//! the node bound there is [`Relay`](super::binding::Relay).
//!
//! Bounds: one session each way per peer, in an index of twice as many places as peers. It neither binds nor
//! times anything itself.

use crate::counters::DropReason;
use crate::path::binding::{Input, News};
use crate::path::slot::{KNOWN, LOOKUP, PathSlot};
use crate::path::{Paths, PeerId, Relayed, Route, Source};
use crate::time::{Duration, Instant};
use core::net::SocketAddr;

/// What a node needs to bind.
pub struct Terms {
    /// The server's UDP address.
    pub server: SocketAddr,
    /// Number of the socket to bind from.
    pub local: u8,
    /// The node's index.
    pub index: u32,
    /// Key of its binds.
    pub key: [u8; 32],
    /// Binds carry epochs above this one.
    pub epoch: u64,
}

/// How a relay message travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RelayVia {
    /// A datagram between our socket number `local` and the server.
    Udp {
        /// Number of our socket.
        local: u8,
        /// The server's address.
        server: SocketAddr,
    },
    /// The TCP connection for relayed datagrams.
    Tcp,
}

/// By what the relay is usable now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RelayLeg {
    /// Not at all.
    None,
    /// UDP.
    Udp,
    /// The TCP connection.
    Tcp,
}

impl Paths<'_> {
    /// The server accepted the node: binds under these terms.
    pub fn welcome(&mut self, now: Instant, terms: &Terms) {
        self.begin(now);
        self.relay.terms(now, terms);
    }

    /// The control connection is gone: the binding stays in use, but is checked at once.
    pub fn control_lost(&mut self, now: Instant) {
        self.begin(now);
        self.relay.rebind(now);
    }

    /// The relay sessions with `peer`, from the directory.
    ///
    /// # Errors
    /// [`DropReason::PeersFull`] when `peer` has no slot or the session index is full.
    pub fn set_sessions(
        &mut self,
        now: Instant,
        peer: PeerId,
        send: u32,
        receive: u32,
    ) -> Result<(), DropReason> {
        self.begin(now);
        self.forget_session(peer);
        let slot = self.slot_mut(peer).ok_or(DropReason::PeersFull)?;
        (slot.send_session, slot.receive_session) = (send, receive);
        slot.set(KNOWN);
        if !self.sessions.insert(session_hash(receive), peer.0) {
            if let Some(slot) = self.slot_mut(peer) {
                slot.receive_session = 0;
            }
            return Err(DropReason::PeersFull);
        }
        Ok(())
    }

    /// Whether the directory gave relay sessions with `peer`.
    pub fn has_sessions(&self, peer: PeerId) -> bool {
        self.slot(peer).is_some_and(|s| s.send_session != 0)
    }

    /// The peer whose datagrams arrive in `receive_session`.
    pub fn peer_of_session(&self, receive_session: u32) -> Option<PeerId> {
        let is_it = |id| self.slot(PeerId(id)).is_some_and(|s| s.receive_session == receive_session);
        self.sessions.find(session_hash(receive_session), is_it).map(PeerId)
    }

    /// Takes a datagram whose first byte says that it is the relay's.
    ///
    /// # Errors
    /// [`DropReason::Relay`] for a sender other than the server or a malformed message, [`DropReason::Challenge`]
    /// for one that nothing asked for; [`DropReason::Authentication`] and [`DropReason::Replay`] for a forged or repeated `Bound`.
    pub fn relay_datagram<'d>(
        &mut self,
        now: Instant,
        via: RelayVia,
        datagram: &'d [u8],
    ) -> Result<Relayed<'d>, DropReason> {
        self.begin(now);
        let spread = self.draw() as u8;
        match self.relay.datagram(now, via, datagram, spread)? {
            Input::Data { session, payload } => {
                self.relay.heard(now, via);
                let peer = self.peer_of_session(session);
                let source = if via == RelayVia::Tcp { Source::RelayTcp } else { Source::Relay };
                Ok(Relayed::Data { peer, source, payload })
            }
            Input::Binding(news) => {
                match news {
                    News::Address => self.locals_changed(now),
                    News::Returned => self.udp_returned(now),
                    News::None => {}
                }
                Ok(Relayed::Handled)
            }
            Input::SessionUnknown { session } => {
                let at = self.peers.iter().position(|s| s.send_session == session && s.is(KNOWN));
                if let Some(peer) = at.and_then(|at| u32::try_from(at.checked_add(1)?).ok()) {
                    self.raise(PeerId(peer), LOOKUP);
                }
                Ok(Relayed::Handled)
            }
        }
    }

    /// Writes the next bind that is due. `None` also when `out` is shorter than a bind.
    #[must_use]
    pub fn poll_relay(&mut self, now: Instant, out: &mut [u8]) -> Option<(RelayVia, usize)> {
        self.begin(now);
        self.relay.poll(now, out)
    }

    /// The relay's TCP connection stands.
    pub fn relay_tcp_up(&mut self, now: Instant) {
        self.begin(now);
        self.relay.tcp_up(now);
    }

    /// The relay's TCP connection failed or broke.
    pub fn relay_tcp_down(&mut self, now: Instant) {
        self.begin(now);
        self.relay.tcp_down(now);
    }

    /// Our socket and the server's address for [`Route::Relay`].
    pub fn relay_via(&self) -> Option<(u8, SocketAddr)> {
        self.relay.server()
    }

    /// Our own address as the relay saw it last.
    pub fn reflexive(&self) -> Option<SocketAddr> {
        self.relay.observed()
    }

    /// By what the relay is usable now.
    pub fn relay_leg(&self) -> RelayLeg {
        self.relay.leg()
    }

    /// Round trip to the relay.
    pub fn relay_rtt(&self) -> Option<Duration> {
        self.relay.rtt()
    }

    pub(super) fn relay_route(&self, slot: &PathSlot) -> Option<Route> {
        let session = slot.send_session;
        match self.relay.leg() {
            _ if session == 0 => None,
            RelayLeg::None => None,
            RelayLeg::Udp => Some(Route::Relay { session }),
            RelayLeg::Tcp => Some(Route::RelayTcp { session }),
        }
    }

    pub(super) fn forget_session(&mut self, peer: PeerId) {
        let Some(session) = self.slot(peer).map(|s| s.receive_session).filter(|s| *s != 0) else { return };
        let peers = &*self.peers;
        let hash_of = |id: u32| {
            let slot = (id as usize).checked_sub(1).and_then(|at| peers.get(at));
            session_hash(slot.map_or(0, |s| s.receive_session))
        };
        self.sessions.remove(session_hash(session), peer.0, hash_of);
    }
}

/// Sessions are random already; the multiplication spreads those of a poor server.
fn session_hash(session: u32) -> u64 {
    u64::from(session).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16
}
