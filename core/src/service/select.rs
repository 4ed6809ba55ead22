//! Choosing endpoints, and saying what this node serves itself.

use super::affinity::Key;
use super::slots::{EndpointSlot, FOR_OWN_ZONE, ServiceSlot};
use super::{Table, slots};
use crate::rng::Rng;
use crate::storage::link::id;
use crate::time::Instant;
use crate::wire::feed::{
    ENDPOINT_EXIT, ENDPOINT_READY, ENDPOINT_SERVING, ENDPOINT_TERMINATING, FLAG_INTERNAL_LOCAL, FLAG_NEAREST,
    FLAG_NO_PROXY,
};
use crate::wire::ip::{Address, is_confined};
use core::hash::Hasher;
use core::net::IpAddr;

/// Draws before the walk over all endpoints: with half of them usable one in 256 new flows walks.
const DRAWS: usize = 8;

/// A new flow that wants an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// IP protocol number.
    pub protocol: u8,
    /// The address that the client connects to.
    pub vip: IpAddr,
    /// The port that the client connects to.
    pub port: u16,
    /// The client's address.
    pub client: IpAddr,
}

/// Where a new flow goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Selection {
    /// To this endpoint.
    Endpoint {
        /// Index of the node that has it, this node's for one of its domain; 0 when no node of ours does.
        node: u32,
        /// Its address on that node.
        address: IpAddr,
        /// Its port.
        port: u16,
        /// Whether this node's kernel is to carry the connection: it reaches the endpoint, which is neither behind
        /// an exit nor the client itself.
        handed: bool,
    },
    /// Nowhere: no endpoint is usable (row C2: reject).
    NoEndpoints,
    /// Nowhere: `internalTrafficPolicy: Local`, and all usable endpoints are elsewhere (row T3: drop).
    NotLocal,
    /// The VIP has no such port (row C3: reject).
    UnknownPort,
    /// No VIP that forwarding serves.
    NotAVip,
}

/// What this node serves at an address and port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Serves {
    /// Nothing.
    Nothing,
    /// The port of a service's endpoint.
    Port,
    /// An endpoint with a cluster-wide VIP, whose port no service names: clients of headless services may use
    /// any port of a pod. Not to be admitted when the address is the node's own, where it would open every port
    /// of the host.
    Headless,
}

/// Where a choice is made.
#[derive(Clone, Copy)]
pub struct Place<'p> {
    /// This node's index.
    pub own: u32,
    /// How far an endpoint (node, address) is, less being nearer; `None` when it is proven that it cannot be reached
    /// now.
    pub cost: &'p dyn Fn(u32, IpAddr) -> Option<u32>,
    /// An endpoint (node, address) that was tried in vain: taken only when there is no other.
    pub tried: Option<(u32, IpAddr)>,
}

impl Place<'_> {
    /// How far the endpoint is; `None` when it cannot be reached or was tried.
    fn cost(&self, endpoint: &EndpointSlot) -> Option<u32> {
        let (node, address) = (endpoint.node, endpoint.address.ip_or_unspecified());
        let by = endpoint.reached_by(self.own);
        match self.tried {
            Some(tried) if tried == (by, address) => None,
            // Behind those of this node itself; how far its node is in the mesh does not matter.
            _ if by != node => Some(1),
            _ => (self.cost)(node, address),
        }
    }
}

impl Table<'_> {
    /// The endpoint of a new flow: uniformly random over the ready ones of the VIP's family that topology hints
    /// leave (rows T8 to T10) and that can be reached; the serving and terminating ones when none is ready (row T1);
    /// the same as before under client affinity, reachable or not.
    pub fn select(&mut self, now: Instant, request: &Request, place: &Place<'_>, rng: &mut Rng) -> Selection {
        self.touch_address(request.vip);
        let Some((owner, service)) = self.proxied(request.vip) else { return self.select_by_vip(request) };
        let Some(port) = self.port_index(service, request.protocol, request.port) else {
            return Selection::UnknownPort;
        };
        let want = Want {
            service: owner,
            port,
            v6: request.vip.is_ipv6(),
            scope: Scope::All,
            nearest: service.flags & FLAG_NEAREST != 0,
            list: id(service.endpoints),
            ready: id(service.ready),
        };
        let want = Want { scope: self.scope(&want, service, request.vip, place), ..want };
        let affinity = (service.affinity_secs, service.uid);
        if affinity.0 == 0 {
            return self.outcome(&want, request.client, self.pick(&want, place, rng));
        }
        let key = Key {
            client: request.client.into(),
            service: affinity.1,
            port: request.port,
            protocol: request.protocol,
        };
        let hash = self.affinity_hash(&key);
        let before = self.affinity.get(now, hash, &key);
        let picked =
            before.and_then(|e| self.still_usable(&want, e)).or_else(|| self.pick(&want, place, rng));
        if let Some(endpoint) = picked.and_then(|id| self.endpoints.get(id)) {
            self.affinity.put(now, hash, key, affinity.0, (endpoint.node, endpoint.address));
        }
        self.outcome(&want, request.client, picked)
    }

    /// Which endpoints are eligible. Hints count only when every ready endpoint of the family has them and one
    /// of them names this node or its zone, nodes before zones (kube-proxy `topologyModeFromHints`). The internal
    /// policy does not bind entry points, which lead to the stand-in of such a Service (row T5).
    fn scope(&self, want: &Want, service: &ServiceSlot, vip: IpAddr, place: &Place<'_>) -> Scope {
        if service.flags & FLAG_INTERNAL_LOCAL != 0 && !self.mesh.is_shadow(vip) {
            return Scope::Own(place.own);
        }
        let (for_node, for_zone) = service.hinted(want.v6);
        let candidates = [(for_node, Scope::Node(place.own)), (for_zone, Scope::Zone)].into_iter();
        let has = |scope| self.list(want).any(|e| self.usable(&Want { scope, ..*want }, e, READY));
        candidates
            .filter(|(hinted, _)| *hinted)
            .map(|(_, scope)| scope)
            .find(|scope| has(*scope))
            .unwrap_or(Scope::All)
    }

    /// Whether a flow that was opened to this endpoint would still be left there: it serves the port, and is
    /// ready or at least serving (row Q5).
    pub fn still_serves(&self, protocol: u8, vip: IpAddr, port: u16, endpoint: (u32, IpAddr, u16)) -> bool {
        let (node, address, number) = (endpoint.0, Address::from(endpoint.1), endpoint.2);
        let serving = |e: &EndpointSlot| e.conditions & (ENDPOINT_READY | ENDPOINT_SERVING) != 0;
        match self.proxied(vip) {
            Some((owner, service)) => self.port_index(service, protocol, port).is_some_and(|index| {
                let is_it = |e: &EndpointSlot| {
                    id(e.service) == owner && serving(e) && self.target(id(e.targets), index) == number
                };
                let direct = |e: &EndpointSlot| e.in_domain && e.address == address && is_it(e);
                self.find_endpoint(node, address, is_it).is_some()
                    || node == self.mesh.own_index() && self.chain(id(service.endpoints)).any(direct)
            }),
            None => {
                let vip = Address::from(vip);
                number == port && self.find_endpoint(node, address, |e| e.vip == vip && serving(e)).is_some()
            }
        }
    }

    /// What the node `own` serves at `address` and `port`. Conditions do not matter: they steer choice, not
    /// permission, and a peer may know of an endpoint's readiness earlier than this node. Addresses that must
    /// not leave their link are never served, whatever the source says.
    pub fn serves(&self, own: u32, protocol: u8, address: IpAddr, port: u16) -> Serves {
        if is_confined(address) {
            return Serves::Nothing;
        }
        let address = Address::from(address);
        let named = |e: &EndpointSlot| {
            self.services.get(id(e.service)).is_some_and(|service| {
                self.service_ports(service)
                    .any(|p| p.protocol == protocol && self.target(id(e.targets), p.index) == port)
            })
        };
        if port != 0 && self.find_endpoint(own, address, named).is_some() {
            Serves::Port
        } else if self.find_endpoint(own, address, |e| !e.vip.is_none()).is_some() {
            Serves::Headless
        } else {
            Serves::Nothing
        }
    }

    pub(super) fn service_ports(&self, service: &ServiceSlot) -> impl Iterator<Item = &slots::PortSlot> {
        let mut at = id(service.ports);
        core::iter::from_fn(move || {
            let slot = self.ports.get(at)?;
            at = id(slot.next);
            Some(slot)
        })
    }

    /// Port number that a group has for the service port at `index`; 0 where it serves none.
    pub(super) fn target(&self, group: u32, index: u8) -> u16 {
        let (mut at, index) = (group, usize::from(index));
        for _ in 0..index / slots::TARGETS {
            at = self.targets.get(at).map_or(0, |slot| id(slot.next));
        }
        let place = index % slots::TARGETS;
        self.targets.get(at).and_then(|slot| slot.ports.get(place)).copied().unwrap_or_default()
    }

    fn select_by_vip(&self, request: &Request) -> Selection {
        let Some(endpoint) = self.endpoint_of_vip(request.vip) else { return Selection::NotAVip };
        if endpoint.service().is_none_or(|service| service.flags() & FLAG_NO_PROXY != 0) {
            return Selection::NotAVip;
        }
        if endpoint.address().is_ipv6() != request.vip.is_ipv6() {
            return Selection::NoEndpoints;
        }
        Selection::Endpoint {
            node: endpoint.node(),
            address: endpoint.address(),
            port: request.port,
            handed: false,
        }
    }

    fn port_index(&self, service: &ServiceSlot, protocol: u8, port: u16) -> Option<u8> {
        self.service_ports(service).find(|p| p.protocol == protocol && p.port == port).map(|p| p.index)
    }

    fn outcome(&self, want: &Want, client: IpAddr, picked: Option<u32>) -> Selection {
        match picked.and_then(|id| self.endpoints.get(id)) {
            Some(endpoint) => Selection::Endpoint {
                node: endpoint.reached_by(self.mesh.own_index()),
                address: endpoint.address.ip_or_unspecified(),
                port: self.target(id(endpoint.targets), want.port),
                handed: self.hands_over && self.is_plain(endpoint) && endpoint.address.ip() != Some(client),
            },
            None if matches!(want.scope, Scope::Own(_)) && self.any(&want.of(Scope::All)) => {
                Selection::NotLocal
            }
            None => Selection::NoEndpoints,
        }
    }

    /// Whether this node's kernel reaches the endpoint, and it the clients of this node, by their own addresses.
    pub(super) fn is_plain(&self, endpoint: &EndpointSlot) -> bool {
        let own = self.mesh.own_index();
        own != 0 && endpoint.is_direct(own) && !endpoint.has(ENDPOINT_EXIT)
    }

    fn any(&self, want: &Want) -> bool {
        self.list(want).any(|e| self.usable(want, e, READY) || self.usable(want, e, DRAINING))
    }

    /// A usable endpoint, each as likely as any other; one that can be reached, if there is any, even where hints
    /// ask for others.
    fn pick(&self, want: &Want, place: &Place<'_>, rng: &mut Rng) -> Option<u32> {
        let reachable = |e: &EndpointSlot| place.cost(e).is_some();
        let wider = if matches!(want.scope, Scope::Own(_)) { *want } else { want.of(Scope::All) };
        if want.nearest {
            let nearest = self.nearest(want, place, rng);
            if nearest.is_some() {
                return nearest;
            }
        }
        self.draw(want, reachable, rng)
            .or_else(|| self.sample(want, READY, reachable, rng))
            .or_else(|| self.sample(&wider, READY, reachable, rng))
            .or_else(|| self.sample(want, READY, |_| true, rng))
            .or_else(|| self.sample(want, DRAINING, reachable, rng))
            .or_else(|| self.sample(want, DRAINING, |_| true, rng))
    }

    /// A ready endpoint, without a walk over all.
    fn draw(&self, want: &Want, filter: impl Fn(&EndpointSlot) -> bool, rng: &mut Rng) -> Option<u32> {
        if want.scope != Scope::All || want.ready == 0 {
            return None;
        }
        for _ in 0..DRAWS {
            let ordinal = rng.below(want.ready).saturating_add(1);
            let is_it = |at| {
                let same = |e: &EndpointSlot| (id(e.service), id(e.ordinal)) == (want.service, ordinal);
                self.endpoints.get(at).is_some_and(same)
            };
            let at = self.by_ordinal.find(self.keys.ordinal(want.service, ordinal), is_it);
            let usable = |e: &EndpointSlot| self.usable(want, e, READY) && filter(e);
            if let Some(at) = at.filter(|at| self.endpoints.get(*at).is_some_and(usable)) {
                return Some(at);
            }
        }
        None
    }

    /// The nearest of the ready endpoints that can be reached; of equally near ones any.
    fn nearest(&self, want: &Want, place: &Place<'_>, rng: &mut Rng) -> Option<u32> {
        let ready = self.list(want).filter(|e| self.usable(want, e, READY));
        let least = ready.filter_map(|e| place.cost(e)).min()?;
        self.sample(want, READY, |e| place.cost(e) == Some(least), rng)
    }

    /// Reservoir sampling over the service's endpoints.
    fn sample(
        &self,
        want: &Want,
        conditions: Conditions,
        filter: impl Fn(&EndpointSlot) -> bool,
        rng: &mut Rng,
    ) -> Option<u32> {
        let (mut at, mut seen, mut picked) = (want.list, 0u32, None);
        while let Some(endpoint) = self.endpoints.get(at) {
            if self.usable(want, endpoint, conditions) && filter(endpoint) {
                seen = seen.saturating_add(1);
                if rng.below(seen) == 0 {
                    picked = Some(at);
                }
            }
            at = id(endpoint.next);
        }
        picked
    }

    fn list(&self, want: &Want) -> impl Iterator<Item = &EndpointSlot> {
        self.chain(want.list)
    }

    fn chain(&self, first: u32) -> impl Iterator<Item = &EndpointSlot> {
        let mut at = first;
        core::iter::from_fn(move || {
            let slot = self.endpoints.get(at)?;
            at = id(slot.next);
            Some(slot)
        })
    }

    fn usable(&self, want: &Want, endpoint: &EndpointSlot, (set, clear): Conditions) -> bool {
        endpoint.has(set)
            && endpoint.conditions & clear == 0
            && want.scope.has(endpoint)
            && endpoint.address.ip_or_unspecified().is_ipv6() == want.v6
            && self.target(id(endpoint.targets), want.port) != 0
    }

    /// The endpoint that a client had last, while a new choice could fall on it too (row A4).
    fn still_usable(&self, want: &Want, (node, address): (u32, Address)) -> Option<u32> {
        let with = |conditions| {
            self.find_endpoint(node, address, |e| {
                id(e.service) == want.service && self.usable(want, e, conditions)
            })
        };
        with(READY).or_else(|| {
            let ready = self.list(want).any(|e| self.usable(want, e, READY));
            if ready { None } else { with(DRAINING) }
        })
    }

    fn affinity_hash(&self, key: &Key) -> u64 {
        let mut hasher = self.keys.hasher();
        hasher.write(key.client.bytes());
        hasher.write_u32(key.service);
        hasher.write_u16(key.port);
        hasher.write_u8(key.protocol);
        hasher.finish()
    }
}

/// Condition bits that must be set, and those that must not.
type Conditions = (u8, u8);
const READY: Conditions = (ENDPOINT_READY, 0);
const DRAINING: Conditions = (ENDPOINT_SERVING | ENDPOINT_TERMINATING, ENDPOINT_READY);

/// Which endpoints of a service are eligible.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    All,
    /// Those of this node and no others (`internalTrafficPolicy: Local`).
    Own(u32),
    /// Those hinted for this node.
    Node(u32),
    /// Those hinted for this node's zone.
    Zone,
}

impl Scope {
    fn has(self, endpoint: &EndpointSlot) -> bool {
        match self {
            Self::All => true,
            Self::Own(node) | Self::Node(node) => endpoint.node == node,
            Self::Zone => endpoint.has(FOR_OWN_ZONE),
        }
    }
}

/// What a choice is made over.
#[derive(Clone, Copy)]
struct Want {
    service: u32,
    port: u8,
    v6: bool,
    scope: Scope,
    nearest: bool,
    list: u32,
    ready: u32,
}

impl Want {
    fn of(self, scope: Scope) -> Self {
        Self { scope, ..self }
    }
}
