//! Which address and port of this node leads where: kube-proxy's rules for entry points, as a pure function.
//!
//! NodePorts are taken on the given addresses of this node, external IPs and addresses of load balancers wherever
//! they are. All lead to the ClusterIP, also for pods and processes of this node whatever the traffic policy (row
//! T4); with `externalTrafficPolicy: Local` clients from elsewhere get endpoints of this node or none. An address
//! that a Service must not have, because this node or the mesh needs it, is left out and told, and of two Services
//! with one entry point the first by name has it.

use super::known::{Known, Port};
use super::place::Place;
use crate::agent::claims::Owners;
use crate::interception::entry::{Entries, EntryPoint, Way};
use crate::prefix::Prefix;
use edgemesh_core::service::protocol_number;
use edgemesh_discovery::object::EntryPoints;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// What no Service may have.
pub(super) struct Reserved<'r> {
    /// Addresses that this node needs to stay what they are, and whose they are; its own are not among them.
    pub(super) addresses: &'r Owners,
    /// The UDP port of this node's tunnels.
    pub(super) tunnels: u16,
}

/// The entry points of this node, and what of the Services does not apply, in words.
pub(super) fn entries<'s>(
    services: impl Iterator<Item = (String, &'s EntryPoints, &'s Known)>,
    place: &Place,
    reserved: &Reserved<'_>,
) -> (Entries, Vec<String>) {
    let mut rules =
        Rules { place, reserved, ways: BTreeMap::new(), owners: BTreeMap::new(), problems: Vec::new() };
    for (name, points, known) in services {
        for vip in &known.vips {
            for port in &known.ports {
                rules.port(&name, points, known, *vip, port);
            }
        }
    }
    (Entries { outside: place.outside.clone(), ways: rules.ways }, rules.problems)
}

struct Rules<'r> {
    place: &'r Place,
    reserved: &'r Reserved<'r>,
    ways: BTreeMap<EntryPoint, Way>,
    owners: BTreeMap<EntryPoint, String>,
    problems: Vec<String>,
}

impl Rules<'_> {
    /// All entry points of one port in the family of `vip`.
    fn port(&mut self, name: &str, points: &EntryPoints, known: &Known, vip: IpAddr, port: &Port) {
        let v6 = vip.is_ipv6();
        let of_family = |ip: &&IpAddr| ip.is_ipv6() == v6;
        // Endpoints that are nowhere are refused by the engine: as without a policy.
        let outside = (points.local && port.any[usize::from(v6)])
            .then(|| port.local.iter().filter(|at| at.is_ipv6() == v6).copied().collect());
        let keep = port.serving.iter().filter(|at| at.is_ipv6() == v6).copied().collect();
        let to = SocketAddr::new(vip, port.port);
        let way = Way { to, outside, keep, sticky: known.sticky, sources: None };
        let protocol = protocol_number(port.protocol);
        for ip in points.load_balancer_ips.iter().filter(of_family) {
            let sources = sources(points, *ip, &self.place.addresses);
            let at = EntryPoint { address: *ip, protocol, port: port.port };
            self.add(name, at, Way { sources, ..way.clone() });
        }
        for ip in points.external_ips.iter().filter(of_family) {
            self.add(name, EntryPoint { address: *ip, protocol, port: port.port }, way.clone());
        }
        let numbers = points.node_ports.iter().filter(|p| (p.protocol, p.port) == (port.protocol, port.port));
        for number in numbers {
            for ip in self.place.addresses.iter().filter(of_family) {
                let at = EntryPoint { address: *ip, protocol, port: number.node_port };
                self.add(name, at, way.clone());
            }
        }
    }

    fn add(&mut self, name: &str, at: EntryPoint, way: Way) {
        let EntryPoint { address, port, .. } = at;
        let owner = match self.owners.get(&at) {
            // An external IP may be the address of the Service's load balancer, too.
            Some(owner) if owner == name => return,
            Some(owner) => Some(format!("is one of {owner}")),
            None => self.reserved.addresses.get(&address).map(|owner| format!("is {owner}")),
        };
        let tunnels = self.place.own.contains(&address) && (at.protocol, port) == (17, self.reserved.tunnels);
        match owner.or_else(|| tunnels.then(|| "is where this node's tunnels are".to_owned())) {
            None => {
                self.owners.insert(at, name.to_owned());
                self.ways.insert(at, way);
            }
            Some(owner) => {
                let protocol = named(at.protocol);
                let text = format!("Service {name}: its entry point {address} port {port} ({protocol})");
                self.problems.push(format!("{text} {owner}; left out"));
            }
        }
    }
}

fn named(protocol: u8) -> &'static str {
    match protocol {
        6 => "TCP",
        17 => "UDP",
        _ => "SCTP",
    }
}

/// Whom the load balancer's address `ip` is open to; `None` for everybody (row X6). Ranges count within their
/// family: where there are none of this one, they do not speak of it.
fn sources(points: &EntryPoints, ip: IpAddr, own: &[IpAddr]) -> Option<Vec<Prefix>> {
    if points.restricted && points.source_ranges.is_empty() {
        return Some(Vec::new());
    }
    let ranges = points.source_ranges.iter().filter_map(|(ip, bits)| Prefix::new(*ip, *bits));
    let mut ranges: Vec<Prefix> = ranges.filter(|range| range.is_ipv6() == ip.is_ipv6()).collect();
    if ranges.is_empty() || ranges.iter().any(|range| range.bits() == 0) {
        return None;
    }
    // What this node sends to an address that somebody gave it comes from that address.
    if ranges.iter().any(|range| own.iter().any(|own| range.contains(*own))) {
        ranges.push(Prefix::host(ip));
    }
    // A set of ranges has no room for one that lies in another.
    ranges.sort_by_key(|range| (range.bits(), range.address()));
    let mut out: Vec<Prefix> = Vec::new();
    for range in ranges {
        if !out.iter().any(|wide| wide.contains(range.address())) {
            out.push(range);
        }
    }
    Some(out)
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
