//! From this node's TUN: which flow, which endpoint, which session, which way.

use super::{Burst, Engine, Grant, Outbound, Ticket, Timer, Way, path_peer};
use crate::bridge::NodePolicy;
use crate::counters::DropReason;
use crate::flow::{self, Flows, NewFlow, Offload, Outcome, PeerRef, Translated, pieces};
use crate::packet::Packet;
use crate::peer::Wanted;
use crate::service::{Request, Selection};
use crate::time::Instant;
use crate::tunnel::{NoSession, PeerId};

impl<'a> Engine<'a> {
    /// Takes a packet or super-packet from the TUN and translates it in place.
    pub fn outbound(&mut self, now: Instant, packet: &mut Packet<'_>, burst: Burst) -> Outbound {
        if self.own == 0 {
            return Outbound::Drop(self.count(DropReason::NoRoute));
        }
        let offload = Offload { checksum: burst.checksum, largest: usize::from(burst.largest) };
        let mut outcome = self.translate(now, packet, offload);
        if let Translated::Miss(new) = outcome.verdict {
            outcome = match self.open(now, &new) {
                Ok(()) => self.translate(now, packet, offload),
                Err(reason) => self.refuse(packet, reason),
            };
        }
        self.note(&outcome);
        match outcome.verdict {
            Translated::To(peer) => {
                let burst = match outcome.split {
                    Some(mtu) => Burst { segments: pieces(packet.len(), mtu), largest: mtu, ..burst },
                    None => burst,
                };
                self.send(now, peer.0, burst, packet.len(), outcome.split)
            }
            Translated::Local => Outbound::Hairpin,
            Translated::Reply => Outbound::Reply(packet.len()),
            Translated::Park(ticket) => Outbound::Park(Ticket::Fragment(ticket.0)),
            Translated::Miss(_) => Outbound::Drop(self.count(DropReason::NoEndpoints)),
            Translated::Drop(reason) => Outbound::Drop(self.count(reason)),
        }
    }

    /// Goes on with a translated packet of `len` bytes that waited for a session with the node of this index.
    pub fn resume(&mut self, now: Instant, index: u32, burst: Burst, len: usize) -> Outbound {
        self.send(now, index, burst, len, None)
    }

    /// The flow machine together with what it may ask.
    pub(crate) fn flows_and_policy(&mut self, now: Instant) -> (&mut Flows<'a>, NodePolicy<'_, 'a>) {
        let policy = NodePolicy {
            services: &self.services,
            paths: &self.paths,
            peers: &self.peers,
            own: self.own,
            now,
        };
        (&mut self.flows, policy)
    }

    fn translate(&mut self, now: Instant, packet: &mut Packet<'_>, offload: Offload) -> Outcome {
        let (flows, policy) = self.flows_and_policy(now);
        flows.outbound(now, packet, offload, &policy)
    }

    /// Chooses an endpoint and makes the flow.
    fn open(&mut self, now: Instant, new: &NewFlow) -> Result<(), DropReason> {
        let request =
            Request { protocol: new.protocol, vip: new.vip, port: new.vip_port, client: new.client };
        let (node, address, port) = match self.services.select(now, &request, self.own, &mut self.rng) {
            Selection::Endpoint { node, address, port } if node != 0 => (node, address, port),
            Selection::Endpoint { .. } | Selection::NoEndpoints => return Err(DropReason::NoEndpoints),
            Selection::UnknownPort => return Err(DropReason::UnknownPort),
            Selection::NotLocal => return Err(DropReason::NotLocal),
            Selection::NotAVip => return Err(DropReason::NoRoute),
        };
        let peer = if node == self.own { PeerRef::SELF } else { PeerRef(node) };
        let endpoint = flow::Endpoint { peer, address, port };
        let generation = self.services.generation();
        let (slot, at) = self.flows.open(now, new, &endpoint, generation, &mut self.rng)?;
        self.timers.set(Timer::Flow(slot), Some(at));
        Ok(())
    }

    /// A new flow that leads nowhere: its client is told at once where kube-proxy rejects, and left to time out
    /// where it drops.
    fn refuse(&mut self, packet: &mut Packet<'_>, reason: DropReason) -> Outcome {
        let verdict = match reason {
            DropReason::NoEndpoints | DropReason::UnknownPort => {
                self.count(reason);
                self.flows.refuse(packet, reason)
            }
            _ => Translated::Drop(reason),
        };
        Outcome { verdict, deadline: None, released: None, split: None }
    }

    /// The way to a node, or what its packet has to wait for.
    fn send(&mut self, now: Instant, index: u32, burst: Burst, len: usize, split: Option<u16>) -> Outbound {
        let verdict = match self.peers.find(index) {
            None => {
                let wait = self.lookups.want(now, index);
                self.park(wait, index)
            }
            // A handshake that cannot be sent would only delay the one that can.
            Some(id) if !self.tunnels.is_up(PeerId(id)) && self.way_to(now, PeerId(id)).is_none() => {
                let wait = self.wait_for(now, id, index);
                self.park(wait, index)
            }
            Some(id) => match self.grant(now, PeerId(id), burst, len) {
                Ok(grant) => Outbound::Seal(Grant { split, ..grant }),
                Err(NoSession::UnknownPeer) => Outbound::Drop(self.count(DropReason::NoSession)),
                // With a session, but no way: no handshake's end would wake the packet.
                Err(_) if self.way_to(now, PeerId(id)).is_none() => {
                    let wait = self.wait_for(now, id, index);
                    self.park(wait, index)
                }
                Err(NoSession::Handshaking | NoSession::Idle) => Outbound::Park(Ticket::Peer(index)),
            },
        };
        self.settle(now);
        verdict
    }

    /// Asks the directory about a known node, unless it has told all it knows: then only a way is missing.
    pub(super) fn wait_for(&mut self, now: Instant, id: u32, index: u32) -> Wanted {
        if self.paths.has_sessions(path_peer(PeerId(id))) {
            self.lookups.wait(now, index)
        } else {
            self.lookups.want(now, index)
        }
    }

    fn park(&mut self, wait: Wanted, index: u32) -> Outbound {
        match wait {
            Wanted::Full => Outbound::Drop(self.count(DropReason::QueueFull)),
            Wanted::Asked | Wanted::Waiting => Outbound::Park(Ticket::Peer(index)),
        }
    }

    /// Counters and ways for the datagrams of a burst of `len` bytes to a peer with a session.
    pub(super) fn grant(
        &mut self,
        now: Instant,
        peer: PeerId,
        burst: Burst,
        len: usize,
    ) -> Result<Grant, NoSession> {
        let sending = self.tunnels.reserve(now, peer, burst.segments, true)?;
        let routes = self.paths.route(now, path_peer(peer), burst.largest.into());
        self.paths.sent(now, path_peer(peer), u32::try_from(len).unwrap_or(u32::MAX));
        self.peers.sent(now, peer.0, len);
        let way = |route| Way::of(route, self.paths.relay_via());
        let first = routes.first.and_then(way).ok_or(NoSession::Idle)?;
        Ok(Grant { sending, first, copy: routes.copy.and_then(way), split: None })
    }

    /// Keeps what a packet brought about besides its verdict.
    pub(super) fn note(&mut self, outcome: &Outcome) {
        if let Some((slot, at)) = outcome.deadline {
            self.timers.set(Timer::Flow(slot), Some(at));
        }
        if let Some(ticket) = outcome.released {
            self.tell(super::Event::Ready(Ticket::Fragment(ticket.0)));
        }
    }
}
