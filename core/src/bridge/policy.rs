//! What the flow machine may ask of the rest of the node, and what it is told.

use crate::PeerId;
use crate::counters::DropReason;
use crate::flow::{Endpoint, NewFlow, PeerRef, Policy, Vip};
use crate::path::{Paths, Route, is_near};
use crate::peer::Peers;
use crate::service::{Place, Selection, Serves, Table};
use crate::time::{Duration, Instant};
use crate::tunnel::Tunnels;
use core::net::IpAddr;

/// A connection without an answer stays with its endpoint for at least this long, and for three round trips.
const PATIENCE: Duration = Duration::from_secs(3);

/// The node's answers.
pub(crate) struct NodePolicy<'p, 'a> {
    pub(crate) services: &'p Table<'a>,
    pub(crate) distances: Distances<'p, 'a>,
}

impl Policy for NodePolicy<'_, '_> {
    fn vip(&self, address: IpAddr) -> Vip {
        if self.services.is_vip(address) {
            Vip::Service
        } else if self.services.endpoint_of_vip(address).is_some() {
            Vip::Endpoint
        } else {
            Vip::None
        }
    }

    fn admits(&self, protocol: u8, address: IpAddr, port: u16) -> bool {
        match self.services.serves(self.distances.own, protocol, address, port) {
            Serves::Port => true,
            // Pings only: whether the address is a pod's or this host's own is not known here, and on the host
            // it would open every port.
            Serves::Headless => port == 0,
            Serves::Nothing => false,
        }
    }

    fn still_serves(&self, flow: &NewFlow, endpoint: &Endpoint) -> bool {
        let node = node_of(endpoint, self.distances.own);
        self.services.still_serves(
            flow.protocol,
            flow.vip,
            flow.vip_port,
            (node, endpoint.address, endpoint.port),
        )
    }

    /// Never under client affinity: that promises the same endpoint, not an answer.
    fn gives_up(&self, flow: &NewFlow, endpoint: &Endpoint, waited: Duration) -> bool {
        waited > self.distances.patience(endpoint) && self.services.may_choose_again(flow.vip)
    }

    fn is_silent(&self, peer: PeerRef) -> bool {
        self.distances.is_silent(peer)
    }

    fn generation(&self) -> u32 {
        self.distances.generation(self.services)
    }

    fn mtu(&self, peer: PeerRef) -> u16 {
        let Distances { peers, paths, now, .. } = self.distances;
        match peers.find(peer.0) {
            Some(id) => paths.mtu(now, id),
            None if peer == PeerRef::SELF => u16::MAX,
            None => paths.mtu(now, PeerId(0)),
        }
    }
}

/// How far the other nodes are.
#[derive(Clone, Copy)]
pub(crate) struct Distances<'p, 'a> {
    pub(crate) paths: &'p Paths<'a>,
    pub(crate) peers: &'p Peers<'a>,
    pub(crate) tunnels: &'p Tunnels<'a>,
    pub(crate) own: u32,
    pub(crate) now: Instant,
}

impl Distances<'_, '_> {
    /// What a flow to this endpoint costs: on this node nothing, then on one of its site, one with a direct path, one
    /// over the relay and one without a session yet, by round trip within each; `None` when the node does not answer,
    /// or says that the endpoint does not.
    pub(crate) fn cost(&self, node: u32, address: IpAddr) -> Option<u32> {
        if self.peers.is_down(self.now, node, address) {
            return None;
        }
        if node == self.own {
            return Some(0);
        }
        let Some(peer) = self.peers.find(node) else { return Some(u32::MAX) };
        if self.tunnels.is_silent(self.now, peer) {
            return None;
        }
        let info = self.paths.info(self.now, peer);
        let class: u32 = match info.route {
            Some(Route::Direct { remote, .. }) if is_near(remote.ip()) => 1,
            Some(Route::Direct { .. }) => 2,
            Some(Route::Relay { .. } | Route::RelayTcp { .. }) if self.tunnels.is_up(peer) => 3,
            _ => return Some(u32::MAX),
        };
        let rtt = info.rtt.and_then(|rtt| u32::try_from(rtt.as_micros()).ok()).unwrap_or(u32::MAX);
        Some(class << 28 | rtt.min(0x0fff_ffff))
    }

    /// Changes with all that choices of endpoints for new flows depend on, but for nodes that fall silent.
    pub(crate) fn generation(&self, services: &Table<'_>) -> u32 {
        services.generation().wrapping_add(self.peers.health_generation())
    }

    /// How long an answer of the endpoint may take; nothing is awaited of one that is known not to answer.
    fn patience(&self, endpoint: &Endpoint) -> Duration {
        let node = node_of(endpoint, self.own);
        if self.is_silent(endpoint.peer) || self.peers.is_down(self.now, node, endpoint.address) {
            return Duration::ZERO;
        }
        let rtt = self.peers.find(node).and_then(|peer| self.paths.info(self.now, peer).rtt);
        let trips = rtt.unwrap_or(Duration::ZERO).as_micros().saturating_mul(3);
        Duration::from_micros(trips).max(PATIENCE)
    }

    fn is_silent(&self, node: PeerRef) -> bool {
        self.peers.find(node.0).is_some_and(|peer| self.tunnels.is_silent(self.now, peer))
    }
}

/// What to choose for a new flow: not the endpoint that its client has tried in vain, if there is another.
pub(crate) fn place<'p>(
    distances: &'p Distances<'_, '_>,
    cost: &'p dyn Fn(u32, IpAddr) -> Option<u32>,
    unanswered: Option<Endpoint>,
) -> Place<'p> {
    let tried = unanswered.map(|endpoint| (node_of(&endpoint, distances.own), endpoint.address));
    Place { own: distances.own, cost, tried }
}

fn node_of(endpoint: &Endpoint, own: u32) -> u32 {
    if endpoint.peer == PeerRef::SELF { own } else { endpoint.peer.0 }
}

/// A chosen endpoint as the flow machine knows it.
///
/// # Errors
/// Why there is none, and so what becomes of the client: [`DropReason::NoEndpoints`] and
/// [`DropReason::UnknownPort`] where kube-proxy rejects, the others where it drops.
pub(crate) fn endpoint(selection: Selection, own: u32) -> Result<Endpoint, DropReason> {
    match selection {
        Selection::Endpoint { node, address, port, handed } if node != 0 => {
            let peer = match handed {
                true => PeerRef::KERNEL,
                false if node == own => PeerRef::SELF,
                false => PeerRef(node),
            };
            Ok(Endpoint { peer, address, port })
        }
        Selection::Endpoint { .. } | Selection::NoEndpoints => Err(DropReason::NoEndpoints),
        Selection::UnknownPort => Err(DropReason::UnknownPort),
        Selection::NotLocal => Err(DropReason::NotLocal),
        Selection::NotAVip => Err(DropReason::NoRoute),
    }
}
