//! From this node's TUN: which flow, which endpoint, which session, which way.

use super::{Burst, Engine, Grant, Outbound, Ticket, Timer, Way};
use crate::PeerId;
use crate::bridge::{Distances, NodePolicy, endpoint, place, unasked};
use crate::counters::DropReason;
use crate::flow::{Flows, NewFlow, Offload, Outcome, Translated};
use crate::packet::Packet;
use crate::service::Request;
use crate::time::Instant;
use crate::tunnel::NoSession;

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
                let burst = burst.cut(packet.len(), outcome.split);
                self.send(now, peer.0, burst, packet.len(), outcome.split)
            }
            Translated::Local => Outbound::Hairpin,
            Translated::HandOver(endpoint) => Outbound::HandOver(endpoint),
            Translated::Reply => Outbound::Reply(packet.len()),
            Translated::Park(ticket) => Outbound::Park(Ticket::Fragment(ticket.0)),
            Translated::Miss(_) => Outbound::Drop(self.count(DropReason::NoEndpoints)),
            Translated::Drop(reason) => match unasked(&self.services, &self.lookups, packet, reason) {
                Some(key) if self.lookups.want(now, key).is_ok() => {
                    self.settle(now);
                    Outbound::Park(Ticket::Service(key))
                }
                _ => Outbound::Drop(self.count(reason)),
            },
        }
    }

    /// Goes on with a translated packet of `len` bytes that waited for a session with the node of this index, or
    /// sends that node's shell a message (`wire::aside`).
    pub fn resume(&mut self, now: Instant, index: u32, burst: Burst, len: usize) -> Outbound {
        self.send(now, index, burst, len, None)
    }

    /// The flow machine together with what it may ask.
    pub(crate) fn flows_and_policy(&mut self, now: Instant) -> (&mut Flows<'a>, NodePolicy<'_, 'a>) {
        let Self { flows, services, paths, peers, tunnels, own, .. } = self;
        (flows, NodePolicy { services, distances: Distances { paths, peers, tunnels, own: *own, now } })
    }

    fn translate(&mut self, now: Instant, packet: &mut Packet<'_>, offload: Offload) -> Outcome {
        let (flows, policy) = self.flows_and_policy(now);
        flows.outbound(now, packet, offload, &policy)
    }

    /// Chooses an endpoint and makes the flow.
    fn open(&mut self, now: Instant, new: &NewFlow) -> Result<(), DropReason> {
        let request =
            Request { protocol: new.protocol, vip: new.vip, port: new.vip_port, client: new.client };
        let Self { services, paths, peers, tunnels, flows, rng, own, .. } = self;
        let distances = Distances { paths, peers, tunnels, own: *own, now };
        let cost = |node, address| distances.cost(node, address);
        let place = place(&distances, &cost, flows.unanswered(new));
        let endpoint = endpoint(services.select(now, &request, &place, rng), *own)?;
        let generation = distances.generation(services);
        let (slot, at) = self.flows.open(now, new, &endpoint, generation, &mut self.rng)?;
        self.timers.set(Timer::Flow(slot), Some(at));
        Ok(())
    }

    /// A new flow that leads nowhere: its client is told at once where kube-proxy rejects, and left to time out
    /// where it drops.
    fn refuse(&mut self, packet: &mut Packet<'_>, reason: DropReason) -> Outcome {
        Outcome::from(match reason {
            DropReason::NoEndpoints | DropReason::UnknownPort => {
                self.count(reason);
                self.flows.refuse(packet, reason)
            }
            _ => Translated::Drop(reason),
        })
    }

    /// The way to a node, or what its packet has to wait for.
    fn send(&mut self, now: Instant, index: u32, burst: Burst, len: usize, split: Option<u16>) -> Outbound {
        let peer = self.peers.find(index);
        let granted = peer.map_or(Err(NoSession::Idle), |peer| self.grant(now, peer, burst, len));
        let verdict = match granted {
            Ok(grant) => Outbound::Seal(Grant { split, ..grant }),
            Err(NoSession::Handshaking) => {
                // Who is waited for keeps its place: the ticket would lead nowhere.
                peer.into_iter().for_each(|peer| self.peers.sent(now, peer, 0));
                Outbound::Park(Ticket::Peer(index))
            }
            Err(NoSession::UnknownPeer) => Outbound::Drop(self.count(DropReason::NoSession)),
            Err(NoSession::Idle) => match self.wait_for(now, index) {
                Ok(()) => Outbound::Park(Ticket::Peer(index)),
                Err(reason) => Outbound::Drop(reason),
            },
        };
        self.settle(now);
        verdict
    }

    /// Asks the directory about a node, unless it has told all it knows: then only a way is missing.
    pub(super) fn wait_for(&mut self, now: Instant, index: u32) -> Result<(), DropReason> {
        let wait = match self.peers.find(index) {
            Some(peer) if self.paths.has_sessions(peer) => self.lookups.wait(now, index),
            _ => self.lookups.want(now, index),
        };
        wait.map_err(|reason| self.count(reason))
    }

    /// Counters and ways for the datagrams of a burst of `len` bytes to a peer with a session; without a way, no
    /// handshake is begun either: one that cannot be sent would only delay the one that can.
    pub(super) fn grant(
        &mut self,
        now: Instant,
        peer: PeerId,
        burst: Burst,
        len: usize,
    ) -> Result<Grant, NoSession> {
        let routes = self.paths.route(now, peer, burst.largest.into());
        let way = |route| Way::of(route, self.paths.relay_via());
        let (first, copy) = (routes.first.and_then(way).ok_or(NoSession::Idle)?, routes.copy.and_then(way));
        let sending = self.tunnels.reserve(now, peer, burst.segments, true)?;
        self.paths.sent(now, peer, u32::try_from(len).unwrap_or(u32::MAX));
        self.peers.sent(now, peer, len);
        Ok(Grant { sending, first, copy, split: None })
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
