//! From the network: whose datagram, is it authentic and new, and where does the packet in it go.

use super::{Arrived, Burst, Classified, Engine, From, Inbound, NoPacket, Sender, Ticket};
use crate::PeerId;
use crate::bridge::{heard, is_aside, origin, side};
use crate::counters::DropReason;
use crate::flow::{Checksum, Offload, PeerRef, Translated};
use crate::packet::Packet;
use crate::path::{Relayed, Source};
use crate::time::Instant;
use crate::tunnel::{Content, Datagram, Opened};

impl Engine<'_> {
    /// Finds out what a datagram is.
    pub fn classify(&mut self, now: Instant, from: From, datagram: &[u8]) -> Classified {
        let (source, peer, payload) = match self.unwrap(now, from, datagram) {
            Ok(Some(unwrapped)) => unwrapped,
            Ok(None) => return Classified::Handled,
            Err(reason) => return Classified::Drop(self.count(reason)),
        };
        let start = datagram.len().saturating_sub(payload.len());
        match self.tunnels.classify(payload) {
            Datagram::Data(ticket) => Classified::Data(ticket, source, start),
            Datagram::Message => Classified::Message(Sender { source, peer }, start),
            Datagram::Drop(reason) => {
                // Data of a session that one side lost by a restart: a handshake mends it, as soon as there is a
                // way for it.
                let lost = peer.filter(|_| reason == DropReason::UnknownIndex);
                if let Some(peer) = lost.filter(|peer| self.way_to(now, *peer).is_some()) {
                    self.tunnels.initiate(now, peer);
                    self.settle(now);
                }
                Classified::Drop(self.count(reason))
            }
        }
    }

    /// Takes a handshake message.
    pub fn message(&mut self, now: Instant, sender: Sender, datagram: &mut [u8]) {
        let origin = origin(sender);
        if let Err(reason) = self.tunnels.message(now, &origin, datagram, &mut self.rng) {
            self.count(reason);
        }
        self.settle(now);
    }

    /// Takes an authentic datagram's packet. `opened` proves it.
    pub fn inbound(
        &mut self,
        now: Instant,
        source: Source,
        opened: Opened,
        packet: &mut Packet<'_>,
    ) -> Inbound {
        self.arrive(now, source, opened, packet.bytes())
            .map_or_else(Inbound::from, |peer| self.again(now, peer, packet))
    }

    /// As [`Engine::inbound`], but leaves an IP packet of the peer that it tells to [`Engine::again`]. Of packets of one peer
    /// with the same addresses and ports that come at once, that need only see one, and those that begin or end a connection.
    ///
    /// # Errors
    /// [`NoPacket`], which is an error only where it is a drop.
    pub fn arrive(&mut self, now: Instant, source: Source, opened: Opened, bytes: &[u8]) -> Arrived {
        let peer = self.tunnels.commit(now, opened).map_err(|reason| NoPacket::Drop(self.count(reason)))?;
        self.peers.received(now, peer, bytes.len());
        self.paths.received(now, peer, &source);
        // The first message behind a handshake may come before this side was told of its session.
        self.settle(now);
        let done = match opened.content() {
            Content::Ip => return Ok(peer),
            Content::Keepalive => NoPacket::Handled,
            Content::Other if is_aside(bytes) => NoPacket::Aside,
            Content::Other => heard(&mut self.peers, &mut self.paths, now, (peer, &source), bytes)
                .map_or_else(|reason| NoPacket::Drop(self.count(reason)), |()| NoPacket::Handled),
        };
        self.settle(now);
        Err(done)
    }

    /// Takes a packet of a peer, or takes one again that was parked.
    pub fn again(&mut self, now: Instant, peer: PeerId, packet: &mut Packet<'_>) -> Inbound {
        let from = PeerRef(self.peers.index(peer));
        let offload = Offload { checksum: Checksum::Complete, largest: packet.len() };
        let (flows, policy) = self.flows_and_policy(now);
        let outcome = flows.inbound(now, from, packet, offload, &policy);
        self.note(&outcome);
        match outcome.verdict {
            Translated::Local => Inbound::Deliver,
            Translated::Reply => self
                .grant(now, peer, Burst::single(packet.len()), packet.len())
                .map_or_else(|_| Inbound::Drop(self.count(DropReason::NoSession)), Inbound::Answer),
            Translated::Park(ticket) => Inbound::Park(Ticket::Fragment(ticket.0), peer),
            Translated::Drop(reason) => Inbound::Drop(self.count(reason)),
            _ => Inbound::Drop(self.count(DropReason::NoRoute)),
        }
    }

    /// Takes the relay's envelope off, or its binding in.
    fn unwrap<'d>(
        &mut self,
        now: Instant,
        from: From,
        datagram: &'d [u8],
    ) -> Result<Option<Unwrapped<'d>>, DropReason> {
        let via = match side(from, datagram) {
            Ok(via) => via,
            Err(direct) => return Ok(Some((direct, None, datagram))),
        };
        match self.paths.relay_datagram(now, via, datagram)? {
            Relayed::Handled => {
                self.settle(now);
                Ok(None)
            }
            Relayed::Data { peer, source, payload } => Ok(Some((source, peer, payload))),
        }
    }
}

/// A tunnel datagram, how it came, and whose relay session it was in.
type Unwrapped<'d> = (Source, Option<PeerId>, &'d [u8]);
