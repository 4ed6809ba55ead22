//! What may be read of an [`Engine`]: its machines, and the state of its peers for status pages. Nothing here
//! changes anything.

use crate::PeerId;
use crate::control::Link;
use crate::counters::Counters;
use crate::flow::Flows;
use crate::node::{Engine, PeerStatus};
use crate::path::Paths;
use crate::service::Table;
use crate::time::Instant;
use crate::tunnel::Tunnels;
use core::net::IpAddr;

impl<'a> Engine<'a> {
    /// The Services.
    pub fn services(&self) -> &Table<'a> {
        &self.services
    }

    /// The flows.
    pub fn flows(&self) -> &Flows<'a> {
        &self.flows
    }

    /// The drop counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The paths.
    pub fn paths(&self) -> &Paths<'a> {
        &self.paths
    }

    /// The tunnels, for the keys of grants and tickets.
    pub fn tunnels(&self) -> &Tunnels<'a> {
        &self.tunnels
    }

    /// The control connection.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// This node's index, 0 before it has joined.
    pub fn own_index(&self) -> u32 {
        self.own
    }

    /// The index of a peer's node; 0 when it is not known any more.
    pub fn index_of(&self, peer: PeerId) -> u32 {
        self.peers.index(peer)
    }

    /// Whether an endpoint does not answer, by the word of its node.
    pub fn is_down(&self, now: Instant, node: u32, address: IpAddr) -> bool {
        self.peers.is_down(now, node, address)
    }

    /// Every known peer.
    pub fn peers(&self, now: Instant) -> impl Iterator<Item = PeerStatus> + '_ {
        self.peers.iter().map(move |(id, index)| PeerStatus {
            index,
            path: self.paths.info(now, id),
            up: self.tunnels.is_up(id),
            handshake: self.tunnels.last_handshake(id).map(|at| now.since(at)),
            traffic: self.peers.traffic(id),
        })
    }

    /// How many deadlines are pending, over all machines: in an idle node few, and always as many.
    pub fn pending_timeouts(&self) -> usize {
        self.timers.len()
    }
}
