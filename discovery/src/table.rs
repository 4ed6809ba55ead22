//! Objects joined into what a node needs to know: one entry per Service, endpoints grouped by target ports.
//!
//! The join is by port name and protocol, never by number (kube-proxy's rule). A table takes objects one by one and
//! keeps them by the Service that they are of, so that a change concerns that Service only, and those that claim an
//! address with it ([`Table::take_changed`] names them). What an entry says is a pure function of the objects that
//! are there, so lost, repeated and reordered events cannot matter. Endpoints are keyed by (node, address, port,
//! protocol): without a CNI two nodes own the same addresses. Node names stay names here; indices and endpoint VIPs
//! come in when the table is encoded. Bounded by the objects; it keeps one copy of each, and joins on demand.

use crate::claims::{Claims, asked};
use crate::held::Held;
use crate::names::Names;
use crate::object::{
    Endpoint, EndpointGroup, EndpointSlice, Endpoints, EntryPoints, Identity, Kind, Node, Object, Service,
    ServiceKind, ServicePort,
};
use crate::pods::Pods;
use edgemesh_core::wire::feed;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// Namespace and name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Key {
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
}

/// All Services and Namespaces, and what is known of the cluster they are in.
#[derive(Clone, Debug, Default)]
pub struct Table {
    services: BTreeMap<Arc<Key>, Parts>,
    /// Which Service a slice is of.
    owners: BTreeMap<Key, Arc<Key>>,
    namespaces: BTreeSet<String>,
    nodes: BTreeMap<String, Node>,
    names: Names,
    /// Prefixes that ClusterIPs come from, by the object that says so.
    service_cidrs: BTreeMap<String, Vec<(IpAddr, u8)>>,
    claims: Claims,
    held: Held,
    /// Of those sources that tell of pods.
    pods: Arc<Pods>,
    changed: Changed,
    /// Nodes that are ready now and were not, or the other way.
    turned: BTreeSet<String>,
}

/// What may differ from before.
#[derive(Clone, Debug, Default)]
pub struct Changed {
    /// Services that are new, different or gone.
    pub services: BTreeSet<Arc<Key>>,
    /// Whether namespaces have come or gone.
    pub namespaces: bool,
    /// Whether Nodes have.
    pub nodes: bool,
    /// Whether entry points of Services have.
    pub entries: bool,
}

/// The objects of one Service.
#[derive(Clone, Debug, Default)]
struct Parts {
    service: Option<Service>,
    /// By name.
    slices: Vec<(String, EndpointSlice)>,
    mirrored: Option<Endpoints>,
}

/// A Service with its endpoints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The Service.
    pub service: Service,
    /// Its endpoints.
    pub groups: Vec<Group>,
    /// What of it does not apply because of others, and why.
    pub problem: Option<String>,
}

/// Endpoints that serve the Service's ports on the same numbers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// Per port of the Service, in order, the port number at the endpoint; 0 where it does not serve that port.
    pub targets: Vec<u16>,
    /// The endpoints, ordered.
    pub endpoints: Vec<Endpoint>,
}

impl Table {
    /// An object is as given, or gone.
    pub fn apply(&mut self, now: Instant, identity: Identity, object: Option<Object>) {
        let Identity { kind, namespace, name } = identity;
        match (kind, object) {
            (Kind::Service, object) => {
                let service = if let Some(Object::Service(service)) = object { Some(service) } else { None };
                self.set_service(Key { namespace, name }, service);
            }
            (Kind::EndpointSlice, object) => {
                let slice = if let Some(Object::EndpointSlice(slice)) = object { Some(slice) } else { None };
                self.set_slice(now, Key { namespace, name }, slice);
            }
            (Kind::Endpoints, object) => {
                let endpoints = if let Some(Object::Endpoints(e)) = object { Some(e) } else { None };
                self.set_mirrored(now, Key { namespace, name }, endpoints.filter(|e| !e.skip));
            }
            (Kind::Namespace, Some(_)) => self.changed.namespaces |= self.namespaces.insert(name),
            (Kind::Namespace, None) => self.changed.namespaces |= self.namespaces.remove(&name),
            (Kind::Node, Some(Object::Node(node))) => self.set_node(now, name, Some(node)),
            (Kind::Node, _) => self.set_node(now, name, None),
            (Kind::ServiceCidr, Some(Object::ServiceCidr(cidrs))) => {
                drop(self.service_cidrs.insert(name, cidrs));
            }
            (Kind::ServiceCidr, _) => drop(self.service_cidrs.remove(&name)),
            (Kind::Pod, Some(Object::Pod(addresses))) => self.pods.set(Key { namespace, name }, &addresses),
            (Kind::Pod, _) => self.pods.set(Key { namespace, name }, &[]),
        }
    }

    /// What may differ since this was asked last.
    pub fn take_changed(&mut self, now: Instant) -> Changed {
        let mut changed = std::mem::take(&mut self.changed);
        changed.services.extend(self.held.expire(now));
        let turned = std::mem::take(&mut self.turned);
        if !turned.is_empty() {
            changed.services.extend(self.keys_on(&turned).cloned());
        }
        changed
    }

    /// When [`Table::take_changed`] has something although no object has changed.
    pub fn due(&self) -> Option<Instant> {
        self.held.due()
    }

    /// What is held of Nodes that are not ready, to be stored for the next process, if that may have changed since this
    /// was asked last.
    pub fn take_held(&mut self) -> Option<Vec<u8>> {
        self.held.take()
    }

    /// Holds what an earlier process stored, before the source is heard.
    ///
    /// # Errors
    /// When the bytes are no such thing.
    pub fn restore_held(&mut self, now: Instant, bytes: &[u8]) -> Result<(), postcard::Error> {
        self.held.restore(now, bytes)
    }

    /// The source has told everything.
    pub(crate) fn settle(&mut self) {
        let Self { services, nodes, held, .. } = self;
        let is_service = |key: &Key| services.get(key).is_some_and(|parts| parts.service.is_some());
        let changed = held.settle(is_service, nodes);
        self.changed.services.extend(changed);
    }

    /// How many Services there are. One walk.
    pub fn len(&self) -> usize {
        self.keys().count()
    }

    /// Whether there is no Service.
    pub fn is_empty(&self) -> bool {
        self.keys().next().is_none()
    }

    /// The Services, in order.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<Key>> {
        self.services.iter().filter(|(_, parts)| parts.service.is_some()).map(|(key, _)| key)
    }

    /// Services that may have an endpoint on one of these nodes.
    pub fn keys_on(&self, nodes: &BTreeSet<String>) -> impl Iterator<Item = &Arc<Key>> {
        let on = |parts: &Parts| parts.endpoints().any(|e| nodes.contains(&*e.node));
        self.services.iter().filter(move |(_, parts)| on(parts)).map(|(key, _)| key)
    }

    /// The names of nodes that endpoints are on.
    pub fn named_nodes(&self) -> BTreeSet<&str> {
        self.services.values().flat_map(Parts::endpoints).map(|e| &*e.node).collect()
    }

    /// The Services as their objects are, in order.
    pub fn services(&self) -> impl Iterator<Item = (&Arc<Key>, &Service)> {
        self.services.iter().filter_map(|(key, parts)| Some((key, parts.service.as_ref()?)))
    }

    /// A Service with its endpoints.
    pub fn entry(&self, key: &Key) -> Option<Entry> {
        let parts = self.services.get(key)?;
        let mut service = parts.service.clone()?;
        let others = |key: &Key| self.services.get(key)?.service.as_ref();
        let problem = self.claims.settle(key, &mut service, others);
        let mut groups = parts.groups(self.held.of(key));
        for endpoint in groups.iter_mut().flat_map(|group| &mut group.endpoints) {
            let ready = endpoint.conditions & feed::ENDPOINT_READY != 0;
            if ready && self.nodes.get(&*endpoint.node).is_some_and(Node::is_down) {
                endpoint.conditions |= feed::ENDPOINT_HELD;
            }
        }
        Some(Entry { service, groups, problem })
    }

    /// Namespaces that are known as such; every Service's namespace exists besides.
    pub fn namespaces(&self) -> &BTreeSet<String> {
        &self.namespaces
    }

    /// The Nodes that the source told of.
    pub fn nodes(&self) -> &BTreeMap<String, Node> {
        &self.nodes
    }

    /// The addresses of pods.
    pub fn pods(&self) -> &Arc<Pods> {
        &self.pods
    }

    /// The prefixes that ClusterIPs come from, as far as the source told.
    pub fn service_cidrs(&self) -> BTreeSet<(IpAddr, u8)> {
        self.service_cidrs.values().flatten().copied().collect()
    }

    fn set_service(&mut self, key: Key, service: Option<Service>) {
        let after = asked(service.as_ref()).to_vec();
        let mut before = Vec::new();
        let mut entries = false;
        if service.is_none() {
            self.held.forget(&key);
        }
        let key = self.edit(key, |parts| {
            before = asked(parts.service.as_ref()).to_vec();
            entries = entry_points(parts.service.as_ref()) != entry_points(service.as_ref());
            parts.service = service;
        });
        self.changed.entries |= entries;
        self.changed.services.extend(self.claims.service(&key, &before, &after));
    }

    fn set_slice(&mut self, now: Instant, slice: Key, mut content: Option<EndpointSlice>) {
        let gone = content.is_none();
        let owner = content.as_mut().and_then(|slice| slice.service.take());
        let owner = owner.map(|name| Key { namespace: slice.namespace.clone(), name });
        let before = self.owners.get(&slice).cloned();
        if let Some(before) = before.filter(|before| Some(&**before) != owner.as_ref()) {
            self.owners.remove(&slice);
            let mut old = None;
            let before = self.edit((*before).clone(), |parts| {
                old = parts.find(&slice.name).ok().map(|at| parts.slices.remove(at).1.group);
            });
            if gone {
                self.note(now, &before, old.as_ref().map(std::slice::from_ref), |_| None);
            }
        }
        let (Some(owner), Some(mut content)) = (owner, content) else { return };
        self.names.share(&mut content.group);
        let mut old = None;
        let owner = self.edit(owner, |parts| {
            match parts.find(&slice.name) {
                Ok(at) => old = Some(std::mem::replace(&mut parts.slices[at].1, content).group),
                Err(at) => {
                    // Most Services have one slice.
                    parts.slices.reserve_exact(1);
                    parts.slices.insert(at, (slice.name.clone(), content));
                }
            }
        });
        let before = old.as_ref().map(std::slice::from_ref);
        self.note(now, &owner, before, |parts| Some(std::slice::from_ref(parts.slice(&slice.name)?)));
        self.owners.insert(slice, owner);
    }

    fn set_mirrored(&mut self, now: Instant, key: Key, mut endpoints: Option<Endpoints>) {
        endpoints.iter_mut().flat_map(|e| &mut e.groups).for_each(|group| self.names.share(group));
        let mut old = None;
        let key = self.edit(key, |parts| old = std::mem::replace(&mut parts.mirrored, endpoints));
        let before = old.as_ref().map(|old| &*old.groups);
        self.note(now, &key, before, |parts| Some(&parts.mirrored.as_ref()?.groups));
    }

    /// Endpoints of a Service were these, and are now those that its parts have: some may be held.
    fn note(
        &mut self,
        now: Instant,
        key: &Arc<Key>,
        before: Option<&[EndpointGroup]>,
        after: impl Fn(&Parts) -> Option<&[EndpointGroup]>,
    ) {
        let parts = self.services.get(key);
        let groups = [before, parts.and_then(after)];
        self.held.note(now, key, groups, |group| parts?.listed(group), &self.nodes);
    }

    fn set_node(&mut self, now: Instant, name: String, node: Option<Node>) {
        let before = self.nodes.get(&name);
        let addresses = |node: Option<&Node>| node.map(|node| node.addresses.clone()).unwrap_or_default();
        let (old, new) = (addresses(before), addresses(node.as_ref()));
        if before.is_some_and(Node::is_down) != node.as_ref().is_some_and(Node::is_down) {
            let services = &self.services;
            let listed = |key: &Key, group: &EndpointGroup| {
                let conditions = services.get(key).and_then(|parts| parts.listed(group));
                conditions.is_some_and(|conditions| conditions & feed::ENDPOINT_TERMINATING == 0)
            };
            self.changed.services.extend(self.held.node(now, &name, node.as_ref(), listed));
            self.turned.insert(name.clone());
        }
        if old != new {
            self.changed.services.extend(self.claims.node(&name, &old, &new));
        }
        match node {
            Some(node) => self.changed.nodes |= self.nodes.insert(name, node.clone()) != Some(node),
            None => self.changed.nodes |= self.nodes.remove(&name).is_some(),
        }
    }

    /// Changes the parts of a Service, and what depends on them.
    fn edit(&mut self, key: Key, change: impl FnOnce(&mut Parts)) -> Arc<Key> {
        let key = self.services.get_key_value(&key).map_or_else(|| Arc::new(key), |(known, _)| known.clone());
        let parts = self.services.entry(key.clone()).or_default();
        change(parts);
        let is_api = key.namespace == "default" && key.name == "kubernetes";
        let servers = is_api.then(|| parts.groups([]).into_iter().flat_map(|group| group.endpoints));
        let servers = servers.map(|endpoints| endpoints.map(|e| e.address).collect());
        if parts.is_empty() {
            self.services.remove(&key);
        }
        if let Some(servers) = servers {
            self.changed.services.extend(self.claims.api_servers(servers));
        }
        self.changed.services.insert(key.clone());
        key
    }
}

/// The entry points that nodes serve for a Service: none if that is left to another proxy.
pub(crate) fn entry_points(service: Option<&Service>) -> Option<&EntryPoints> {
    let service = service.filter(|service| service.flags & feed::FLAG_NO_PROXY == 0)?;
    service.entry.as_deref()
}

impl Parts {
    fn is_empty(&self) -> bool {
        self.service.is_none() && self.slices.is_empty() && self.mirrored.is_none()
    }

    /// Where the slice of this name is, or belongs.
    fn find(&self, name: &str) -> Result<usize, usize> {
        self.slices.binary_search_by(|(other, _)| other.as_str().cmp(name))
    }

    fn slice(&self, name: &str) -> Option<&EndpointGroup> {
        Some(&self.slices.get(self.find(name).ok()?)?.1.group)
    }

    fn all_groups(&self) -> impl Iterator<Item = &EndpointGroup> {
        let mirrored = self.mirrored.iter().flat_map(|endpoints| &endpoints.groups);
        self.slices.iter().map(|(_, slice)| &slice.group).chain(mirrored)
    }

    fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.all_groups().flat_map(|group| &group.endpoints)
    }

    /// The endpoints, joined with the Service's ports, and those that are held; none without the Service.
    fn groups<'a>(&'a self, held: impl IntoIterator<Item = &'a EndpointGroup>) -> Vec<Group> {
        let Some(service) = &self.service else { return Vec::new() };
        if !self.slices.is_empty() {
            // The controllers make slices of Endpoints: with both at hand, Endpoints are copies.
            let headless = service.kind == ServiceKind::Headless;
            let slices = self.slices.iter().map(|(_, slice)| (&slice.group, slice.headless && !headless));
            return groups(&service.ports, slices.chain(held.into_iter().map(|group| (group, false))));
        }
        let mirrored = self.mirrored.iter().flat_map(|endpoints| &endpoints.groups);
        groups(&service.ports, mirrored.chain(held).map(|group| (group, false)))
    }

    /// The best conditions under which an endpoint (a group of one) is listed at these ports.
    fn listed(&self, one: &EndpointGroup) -> Option<u8> {
        let wanted = one.endpoints.first()?;
        let same = |e: &&Endpoint| (&e.node, e.address) == (&wanted.node, wanted.address);
        let at_these = self.all_groups().filter(|group| group.ports == one.ports);
        let found = at_these.flat_map(|group| &group.endpoints);
        found.filter(same).map(|e| e.conditions).max_by_key(|c| c & feed::ENDPOINT_READY)
    }
}

/// One (port, target, node, address): a backend.
type Backend<'a> = (usize, u16, &'a str, IpAddr);

/// Unites slices (row S6): equal backends become one, the one that does not terminate wins (row S7). Endpoints of slices
/// that are only to be named (row S3) serve no port.
fn groups<'a>(ports: &[ServicePort], slices: impl Iterator<Item = (&'a EndpointGroup, bool)>) -> Vec<Group> {
    let mut candidates: Vec<(&Endpoint, Vec<u16>)> = Vec::new();
    let mut named = Vec::new();
    for (slice, is_named) in slices {
        let targets = targets(ports, &slice.ports);
        if is_named {
            named.extend(slice.endpoints.iter().map(|e| (e, vec![0; ports.len()])));
        } else if ports.is_empty() || targets.iter().any(|t| *t != 0) {
            candidates.extend(slice.endpoints.iter().map(|e| (e, targets.clone())));
        }
    }
    // Ready ones first, so that which duplicate wins does not depend on the order of files.
    let rank =
        |e: &Endpoint| (e.conditions & feed::ENDPOINT_TERMINATING, !e.conditions & feed::ENDPOINT_READY);
    candidates.sort_by(|(a, at), (b, bt)| (rank(a), a, at).cmp(&(rank(b), b, bt)));
    named.sort_by(|(a, _), (b, _)| (rank(a), a).cmp(&(rank(b), b)));
    let served = candidates.len();
    candidates.append(&mut named);
    let mut taken: HashSet<Backend<'a>> = HashSet::new();
    let mut out: BTreeMap<Vec<u16>, Vec<Endpoint>> = BTreeMap::new();
    for (place, (endpoint, mut targets)) in candidates.into_iter().enumerate() {
        let mut any = false;
        for (n, target) in targets.iter_mut().enumerate().filter(|(_, target)| **target != 0) {
            if taken.insert((n, *target, &endpoint.node, endpoint.address)) {
                any = true;
            } else {
                *target = 0;
            }
        }
        let is_new = taken.insert((usize::MAX, 0, &endpoint.node, endpoint.address));
        // A headless Service without ports still has addresses (row D17).
        if any || is_new && (ports.is_empty() || place >= served) {
            out.entry(targets).or_default().push(endpoint.clone());
        }
    }
    let group = |(targets, mut endpoints): (Vec<u16>, Vec<Endpoint>)| {
        endpoints.sort();
        Group { targets, endpoints }
    };
    out.into_iter().map(group).collect()
}

/// The number of each Service port in a slice: same name, same protocol.
fn targets(ports: &[ServicePort], slice: &[ServicePort]) -> Vec<u16> {
    let target = |port: &ServicePort| {
        let same = |other: &&ServicePort| other.name == port.name && other.protocol == port.protocol;
        slice.iter().find(same).map_or(0, |found| found.port)
    };
    ports.iter().map(target).collect()
}

impl FromIterator<(Identity, Object)> for Table {
    fn from_iter<T: IntoIterator<Item = (Identity, Object)>>(objects: T) -> Self {
        let mut table = Self::default();
        let now = Instant::now();
        objects.into_iter().for_each(|(identity, object)| table.apply(now, identity, Some(object)));
        table
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
