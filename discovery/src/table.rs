//! Objects joined into what a node needs to know: one entry per Service, endpoints grouped by target ports.
//!
//! The join is by port name and protocol, never by number (kube-proxy's rule). [`Table::join`] is a pure
//! function of the object set, so lost, repeated and reordered events cannot matter. Endpoints are keyed by
//! (node, address, port, protocol): without a CNI two nodes own the same addresses.
//! Node names stay names here; indices and endpoint VIPs come in when the table is encoded.

use crate::claims;
use crate::object::{
    Endpoint, EndpointGroup, Identity, Kind, Node, Object, Service, ServiceKind, ServicePort,
};
use edgemesh_core::wire::feed;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;

/// Namespace and name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Key {
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
}

/// All Services and Namespaces, and what is known of the cluster they are in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Table {
    /// The Services.
    pub services: BTreeMap<Key, Entry>,
    /// Namespaces that are known as such; every Service's namespace exists besides.
    pub namespaces: BTreeSet<String>,
    /// The Nodes that the source told of.
    pub nodes: BTreeMap<String, Node>,
    /// The prefixes that ClusterIPs come from, as far as the source told.
    pub service_cidrs: BTreeSet<(IpAddr, u8)>,
    /// What of a Service does not apply because of others, and why.
    pub problems: BTreeMap<Key, String>,
}

/// A Service with its endpoints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The Service.
    pub service: Service,
    /// Its endpoints.
    pub groups: Vec<Group>,
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
    /// The table of these objects.
    pub fn join<'a>(objects: impl Iterator<Item = (&'a Identity, &'a Object)>) -> Self {
        let mut table = Self::default();
        let mut slices: BTreeMap<Key, Vec<(bool, &EndpointGroup)>> = BTreeMap::new();
        let mut mirrored: BTreeMap<Key, &[EndpointGroup]> = BTreeMap::new();
        for (identity, object) in objects {
            let key = |name: &str| Key { namespace: identity.namespace.clone(), name: name.to_owned() };
            match object {
                Object::Service(service) => {
                    let entry = Entry { service: service.clone(), groups: Vec::new() };
                    table.services.insert(key(&identity.name), entry);
                }
                Object::EndpointSlice(slice) => {
                    if let Some(service) = &slice.service {
                        slices.entry(key(service)).or_default().push((slice.headless, &slice.group));
                    }
                }
                Object::Endpoints(endpoints) if !endpoints.skip => {
                    mirrored.insert(key(&identity.name), &endpoints.groups);
                }
                Object::Endpoints(_) => {}
                Object::Namespace => drop(table.namespaces.insert(identity.name.clone())),
                Object::Node(node) => drop(table.nodes.insert(identity.name.clone(), node.clone())),
                Object::ServiceCidr(cidrs) => table.service_cidrs.extend(cidrs),
            }
            debug_assert_eq!(identity.kind == Kind::Namespace, matches!(object, Object::Namespace));
        }
        for (key, entry) in &mut table.services {
            // The controllers make slices of Endpoints: with both at hand, Endpoints are copies.
            entry.groups = match (slices.get(key), mirrored.get(key)) {
                (Some(found), _) => {
                    let headless = entry.service.kind == ServiceKind::Headless;
                    let used =
                        found.iter().filter(|(labelled, _)| headless || !labelled).map(|(_, group)| *group);
                    groups(&entry.service.ports, used)
                }
                (None, Some(found)) => groups(&entry.service.ports, found.iter()),
                (None, None) => Vec::new(),
            };
        }
        claims::settle(&mut table);
        table
    }
}

/// One (port, target, node, address): a backend.
type Backend<'a> = (usize, u16, &'a str, IpAddr);

/// Unites slices (row S6): equal backends become one, the one that does not terminate wins (row S7).
fn groups<'a>(ports: &[ServicePort], slices: impl Iterator<Item = &'a EndpointGroup>) -> Vec<Group> {
    let mut candidates: Vec<(&Endpoint, Vec<u16>)> = Vec::new();
    for slice in slices {
        let targets = targets(ports, &slice.ports);
        if ports.is_empty() || targets.iter().any(|t| *t != 0) {
            candidates.extend(slice.endpoints.iter().map(|e| (e, targets.clone())));
        }
    }
    // Ready ones first, so that which duplicate wins does not depend on the order of files.
    let rank =
        |e: &Endpoint| (e.conditions & feed::ENDPOINT_TERMINATING, !e.conditions & feed::ENDPOINT_READY);
    candidates.sort_by(|(a, at), (b, bt)| (rank(a), a, at).cmp(&(rank(b), b, bt)));
    let mut taken: HashSet<Backend<'a>> = HashSet::new();
    let mut out: BTreeMap<Vec<u16>, Vec<Endpoint>> = BTreeMap::new();
    for (endpoint, mut targets) in candidates {
        let mut any = false;
        for (n, target) in targets.iter_mut().enumerate().filter(|(_, target)| **target != 0) {
            if taken.insert((n, *target, &endpoint.node, endpoint.address)) {
                any = true;
            } else {
                *target = 0;
            }
        }
        // A headless Service without ports still has addresses (row D17).
        if any || (ports.is_empty() && taken.insert((0, 0, &endpoint.node, endpoint.address))) {
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

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
