//! The Service table: what the source says of Services, and which endpoint a new flow gets.
//!
//! Filled by [`Table::apply`] with [`Update`]s. A service is built aside and replaces its old definition on `Commit`
//! as a whole; a definition that does not fit leaves the old one in force. A full list (`Begin` .. `End`) sweeps what
//! it did not name. Lookups are by VIP, by what stands for one beside another service proxy ([`Table::shadow_of`]), by
//! name and by endpoint address; forwarding asks [`Table::select`] and [`Table::serves`], DNS the views of [`view`].
//! A table that is fed on demand holds what was asked for, and gives up what was used longest ago.
//!
//! Bounds: every pool is borrowed; when one is full, an update is refused with [`TableError::Full`]. A replaced
//! service needs room for both definitions. Client affinity is a cache: the entry that would expire first of its
//! set gives way. Choosing is O(1) while most endpoints are ready and serve the port, else one walk over the
//! service's endpoints.
//!
//! Not done here: joining Services with EndpointSlices, and duplicates among endpoints (row S7): the source does
//! those. Endpoints are keyed (node, address, port, protocol), so 172.17.0.2 of two nodes is two.

mod affinity;
mod build;
mod demand;
mod names;
mod reached;
mod select;
mod slots;
pub mod view;

pub use crate::wire::feed::Update;
pub use affinity::AffinitySlot;
pub use names::{NameBlock, Text};
pub use reached::Reached;
pub use select::{Place, Request, Selection, Serves};
pub use slots::{EndpointSlot, NamespaceSlot, PortSlot, ServiceSlot, TargetSlot, VIPS};
pub use view::{EndpointView, ServiceView};

use crate::rng::Rng;
use crate::storage::link::{self, id};
use crate::storage::{Index, Link, Pool};
use crate::wire::feed::{ENDPOINT_READY, Home, Protocol};
use crate::wire::ip::{Address, Mesh, SCTP, SHADOW_BITS, TCP, UDP};
use build::Pending;
use core::hash::Hasher;
use core::net::IpAddr;
use names::Names;
use siphasher::sip::SipHasher13;

/// Ports that one service may have; a hostile definition must not make lookups slow.
pub const MAX_PORTS: usize = 128;

/// Why an update was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableError {
    /// No slot is left in this part; the service's old definition stays in force.
    Full(Part),
    /// A part of a service without a service, or an endpoint without a group.
    OutOfOrder,
    /// A name is empty where it may not be, longer than 255 bytes, or not ASCII.
    Name,
    /// More than [`MAX_PORTS`] ports, or a group with another number of ports than the service.
    Ports,
    /// A VIP that no client may be sent to (the service is refused) or such an endpoint address (only this
    /// endpoint is left out): loopback, link-local, multicast or unspecified.
    Address,
    /// An IPv6 VIP (left out of its service) or endpoint (left out) that this build does not keep (feature
    /// `compact`).
    Family,
}

impl core::fmt::Display for TableError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Full(part) => write!(f, "no room for more {part:?}"),
            Self::OutOfOrder => f.write_str("update out of order"),
            Self::Name => f.write_str("unusable name"),
            Self::Ports => f.write_str("unusable list of ports"),
            Self::Address => f.write_str("unusable address"),
            Self::Family => f.write_str("IPv6 is not kept here"),
        }
    }
}

impl core::error::Error for TableError {}

/// The parts of the table that can be full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// [`Resources::services`].
    Services,
    /// [`Resources::ports`].
    Ports,
    /// [`Resources::targets`].
    Targets,
    /// [`Resources::endpoints`].
    Endpoints,
    /// [`Resources::names`].
    Names,
    /// [`Resources::namespaces`].
    Namespaces,
}

/// All-zero memory for one table. An index should have at least twice the places that its pool has slots (the
/// VIP index: one for each VIP that a service may have); a pool with a smaller index is used only as far as the index reaches.
pub struct Resources<'a> {
    /// One per service.
    pub services: &'a mut [ServiceSlot],
    /// One per service port.
    pub ports: &'a mut [PortSlot],
    /// One per group of endpoints and four ports.
    pub targets: &'a mut [TargetSlot],
    /// One per endpoint.
    pub endpoints: &'a mut [EndpointSlot],
    /// One per 28 bytes of each name of a service, port, hostname and namespace.
    pub names: &'a mut [NameBlock],
    /// One per namespace.
    pub namespaces: &'a mut [NamespaceSlot],
    /// One per client with affinity; used in sets of four.
    pub affinity: &'a mut [AffinitySlot],
    /// Index of services by name.
    pub by_name: &'a mut [Link],
    /// Index of services by VIP.
    pub by_vip: &'a mut [Link],
    /// Index of namespaces by name.
    pub by_namespace: &'a mut [Link],
    /// Index of endpoints by node and address.
    pub by_address: &'a mut [Link],
    /// Index of endpoints by endpoint VIP.
    pub by_endpoint_vip: &'a mut [Link],
    /// Index of ready endpoints by service and number.
    pub by_ordinal: &'a mut [Link],
    /// One per range of addresses of other nodes that the kernel reaches.
    pub reached: &'a mut [Reached],
}

/// The Service table.
pub struct Table<'a> {
    services: Pool<'a, ServiceSlot>,
    ports: Pool<'a, PortSlot>,
    targets: Pool<'a, TargetSlot>,
    endpoints: Pool<'a, EndpointSlot>,
    names: Names<'a>,
    namespaces: Pool<'a, NamespaceSlot>,
    affinity: affinity::Affinity<'a>,
    by_name: Index<'a>,
    by_vip: Index<'a>,
    by_namespace: Index<'a>,
    by_address: Index<'a>,
    by_endpoint_vip: Index<'a>,
    by_ordinal: Index<'a>,
    reached: reached::List<'a>,
    keys: Keys,
    /// Full lists begun so far.
    list: u32,
    next_uid: u32,
    generation: u32,
    complete: bool,
    hands_over: bool,
    demand: demand::Demand,
    /// This node's.
    home: Home,
    mesh: Mesh,
    pending: Pending,
}

impl<'a> Table<'a> {
    /// An empty table.
    pub fn new(memory: Resources<'a>, rng: &mut Rng) -> Self {
        let (by_name, by_vip) = (Index::new(memory.by_name), Index::new(memory.by_vip));
        let by_namespace = Index::new(memory.by_namespace);
        let (by_address, by_ordinal) = (Index::new(memory.by_address), Index::new(memory.by_ordinal));
        let by_endpoint_vip = Index::new(memory.by_endpoint_vip);
        // An id and one bit that says which VIP are a key of the VIP index.
        let services = by_name.capacity().min(by_vip.capacity() / slots::VIPS).min(link::MOST / 2);
        let endpoints = by_address.capacity().min(by_ordinal.capacity()).min(by_endpoint_vip.capacity());
        let keys = Keys { a: rng.u64(), b: rng.u64() };
        Self {
            services: Pool::at_most(memory.services, services),
            ports: Pool::new(memory.ports),
            targets: Pool::new(memory.targets),
            endpoints: Pool::at_most(memory.endpoints, endpoints),
            names: Names::new(memory.names),
            namespaces: Pool::at_most(memory.namespaces, by_namespace.capacity()),
            affinity: affinity::Affinity::new(memory.affinity),
            by_name,
            by_vip,
            by_namespace,
            by_address,
            by_endpoint_vip,
            by_ordinal,
            reached: reached::List::new(memory.reached),
            keys,
            list: 0,
            next_uid: 0,
            generation: 0,
            complete: false,
            hands_over: false,
            demand: demand::Demand::default(),
            home: Home::default(),
            mesh: Mesh::NONE,
            pending: Pending::None,
        }
    }

    /// A number that changes whenever a service does; what was looked up under an older one may be stale.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Whether a full list has arrived: until then, what is not here may exist all the same.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Gives this node its place in the mesh, once it has joined.
    pub fn set_mesh(&mut self, mesh: Mesh) {
        self.mesh = mesh;
    }

    /// Says whether connections to endpoints that this node's kernel reaches are handed over to it: at first they
    /// are not ([`Selection::Endpoint`]).
    pub fn set_hands_over(&mut self, on: bool) {
        self.hands_over = on;
    }

    /// This node's kernel reaches these addresses of nodes without a domain, and no others, as long as this node has
    /// none either ([`Reached`]). It counts for what is defined from here on: what it changes is to be defined anew.
    pub fn set_reached(&mut self, list: &[Reached]) {
        self.reached.set(list);
    }

    /// Where this node is.
    pub fn home(&self) -> Home {
        self.home
    }

    /// The address that stands for the VIP beside another service proxy ([`Mesh::shadow`]). `None` where forwarding
    /// does not serve the VIP, or where another VIP had the same stand-in first.
    pub fn shadow_of(&self, vip: IpAddr) -> Option<IpAddr> {
        let shadow = self.mesh.shadow(vip)?;
        let (owner, _) = self.proxied(vip)?;
        (self.shadowed(shadow) == Some((owner, Address::from(vip)))).then_some(shadow)
    }

    /// The VIP that `shadow` stands for: the other way round.
    pub fn vip_of(&self, shadow: IpAddr) -> Option<IpAddr> {
        self.mesh.is_shadow(shadow).then(|| self.shadowed(shadow))?.and_then(|(_, vip)| vip.ip())
    }

    /// Whether forwarding serves `ip` as a Service's VIP, or as what stands for one.
    pub fn is_vip(&self, ip: IpAddr) -> bool {
        self.proxied(ip).is_some()
    }

    /// Whether a client of this VIP may be led to another endpoint than at first: not under client affinity.
    pub fn may_choose_again(&self, vip: IpAddr) -> bool {
        self.proxied(vip).is_some_and(|(_, service)| service.affinity_secs == 0)
    }

    /// The endpoint that `ip` stands for cluster-wide, if it is an endpoint VIP.
    pub fn endpoint_of_vip(&self, ip: IpAddr) -> Option<EndpointView<'_>> {
        let vip = Address::from(ip);
        let hash = self.keys.address(0, vip);
        let is_it = |id| self.endpoints.get(id).is_some_and(|e| e.vip == vip);
        let id = self.by_endpoint_vip.find(hash, is_it)?;
        EndpointView::new(self, id)
    }

    /// The service that has VIP `ip`, whether forwarding serves it or only DNS.
    pub fn service_of_vip(&self, ip: IpAddr) -> Option<ServiceView<'_>> {
        ServiceView::new(self, self.vip_owner(Address::from(ip), |_| true)?)
    }

    /// The ready endpoints that `node` has at `address`, one for each service, for names of addresses. Each step
    /// looks at all endpoints there.
    pub fn endpoints_at(&self, node: u32, address: IpAddr) -> impl Iterator<Item = EndpointView<'_>> {
        let (address, mut last) = (Address::from(address), Link::MIN);
        core::iter::from_fn(move || {
            let mut next: Option<(Link, u32)> = None;
            self.by_address.find(self.keys.address(node, address), |id| {
                let at = self.endpoints.get(id).filter(|e| e.node == node && e.address == address);
                if let Some(e) = at.filter(|e| e.has(ENDPOINT_READY) && e.service > last) {
                    next = next.into_iter().chain([(e.service, id)]).min();
                }
                false
            });
            let (service, id) = next?;
            last = service;
            EndpointView::new(self, id)
        })
    }

    /// The service of this name; case does not matter.
    pub fn service(&self, namespace: &str, name: &str) -> Option<ServiceView<'_>> {
        ServiceView::new(self, self.find_service(namespace, name)?)
    }

    /// The service with this handle.
    pub fn service_by_id(&self, id: u32) -> Option<ServiceView<'_>> {
        ServiceView::new(self, id)
    }

    /// The first `N` other nodes that a tunnel leads to for a ready endpoint of this service.
    pub fn nodes_of<const N: usize>(&self, service: u32) -> heapless::Vec<u32, N> {
        let mut nodes = heapless::Vec::new();
        let endpoints = self.service_by_id(service).into_iter().flat_map(|s| s.endpoints());
        let own = self.mesh.own_index();
        for node in endpoints.filter(|e| e.ready() && !e.is_direct(own)).map(|e| e.node()) {
            if !nodes.contains(&node) && nodes.push(node).is_err() {
                break;
            }
        }
        nodes
    }

    /// The endpoint with this handle.
    pub fn endpoint_by_id(&self, id: u32) -> Option<EndpointView<'_>> {
        EndpointView::new(self, id)
    }

    /// Whether the namespace exists, by itself or because a service is in it; case does not matter.
    pub fn has_namespace(&self, name: &str) -> bool {
        self.find_namespace(name).is_some()
    }

    /// Every service, in no particular order.
    pub fn services(&self) -> impl Iterator<Item = ServiceView<'_>> {
        (1..=self.services.high_water()).filter_map(|id| ServiceView::new(self, id))
    }

    /// Every namespace, in no particular order.
    pub fn namespaces(&self) -> impl Iterator<Item = Text<'_>> {
        (1..=self.namespaces.high_water())
            .filter_map(|id| self.namespaces.get(id))
            .filter(|slot| slot.live())
            .map(|slot| self.names.text(slot.name))
    }

    /// How many services there are.
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// Whether there is no service.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// How many endpoints there are.
    pub fn endpoint_count(&self) -> usize {
        self.endpoints.len()
    }

    fn proxied(&self, ip: IpAddr) -> Option<(u32, &ServiceSlot)> {
        let id = if self.mesh.is_shadow(ip) {
            self.shadowed(ip)?.0
        } else {
            self.vip_owner(Address::from(ip), ServiceSlot::proxied)?
        };
        Some((id, self.services.get(id)?))
    }

    fn vip_owner(&self, vip: Address, want: impl Fn(&ServiceSlot) -> bool) -> Option<u32> {
        if vip.is_none() {
            return None;
        }
        self.first_claim(vip, |service, claimed| claimed == vip && want(service)).map(|(id, _)| id)
    }

    /// The service and the VIP of it that `shadow` stands for.
    fn shadowed(&self, shadow: IpAddr) -> Option<(u32, Address)> {
        let is_it = |vip: Address| vip.ip().and_then(|vip| self.mesh.shadow(vip)) == Some(shadow);
        self.first_claim(Address::from(shadow), |service, vip| service.proxied() && is_it(vip))
    }

    /// Of several services whose VIP is wanted the one that had it first, and that VIP. `like`: an address with the
    /// last bits of the VIP.
    fn first_claim(
        &self,
        like: Address,
        want: impl Fn(&ServiceSlot, Address) -> bool,
    ) -> Option<(u32, Address)> {
        let mut first: Option<(u32, u32, Address)> = None;
        self.by_vip.find(self.keys.vip(like), |key| {
            let service = self.services.get(key >> 1);
            let claim = service.and_then(|s| Some((s, *s.vips.get(key as usize & 1)?)));
            if let Some((service, vip)) = claim.filter(|(service, vip)| want(service, *vip))
                && first.is_none_or(|(uid, ..)| service.uid < uid)
            {
                first = Some((service.uid, key >> 1, vip));
            }
            false
        });
        first.map(|(_, id, vip)| (id, vip))
    }

    fn find_service(&self, namespace: &str, name: &str) -> Option<u32> {
        let namespace = self.find_namespace(namespace)?;
        let is_it = |at| {
            self.services
                .get(at)
                .is_some_and(|s| id(s.namespace) == namespace && self.names.text(s.name).eq_ignore_case(name))
        };
        self.by_name.find(self.keys.name(namespace, name.bytes()), is_it)
    }

    fn find_namespace(&self, name: &str) -> Option<u32> {
        let is_it =
            |id| self.namespaces.get(id).is_some_and(|n| self.names.text(n.name).eq_ignore_case(name));
        self.by_namespace.find(self.keys.name(0, name.bytes()), is_it)
    }

    fn find_endpoint(
        &self,
        node: u32,
        address: Address,
        want: impl Fn(&EndpointSlot) -> bool,
    ) -> Option<u32> {
        let is_it =
            |id| self.endpoints.get(id).is_some_and(|e| e.node == node && e.address == address && want(e));
        self.by_address.find(self.keys.address(node, address), is_it)
    }
}

/// Keys of the hashes: VIPs, names and addresses are chosen by others.
#[derive(Clone, Copy)]
struct Keys {
    a: u64,
    b: u64,
}

impl Keys {
    fn name(&self, namespace: u32, name: impl Iterator<Item = u8>) -> u64 {
        let mut hasher = self.hasher();
        hasher.write_u32(namespace);
        for byte in name {
            hasher.write_u8(byte.to_ascii_lowercase());
        }
        hasher.finish()
    }

    /// By the bits that a VIP and its stand-in share.
    fn vip(&self, vip: Address) -> u64 {
        let mut hasher = self.hasher();
        hasher.write(vip.bytes().rchunks(SHADOW_BITS as usize / 8).next().unwrap_or_default());
        hasher.finish()
    }

    fn address(&self, node: u32, address: Address) -> u64 {
        let mut hasher = self.hasher();
        hasher.write_u32(node);
        hasher.write(address.bytes());
        hasher.finish()
    }

    fn ordinal(&self, service: u32, ordinal: u32) -> u64 {
        let mut hasher = self.hasher();
        hasher.write_u32(service);
        hasher.write_u32(ordinal);
        hasher.finish()
    }

    fn hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.a, self.b)
    }
}

/// IP protocol number of a Service port's protocol.
pub const fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
        Protocol::Sctp => SCTP,
    }
}

#[cfg(test)]
mod tests;
