//! What the engine's table knows of a Service with entry points.

use edgemesh_core::service::{EndpointView, ServiceView, Table};
use edgemesh_core::wire::feed::{
    ENDPOINT_EXIT, ENDPOINT_READY, ENDPOINT_SERVING, ENDPOINT_TERMINATING, FLAG_NO_PROXY, Protocol,
};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// A Service.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Known {
    /// Its ClusterIPs that lead to it.
    pub(super) vips: Vec<IpAddr>,
    /// It has client affinity.
    pub(super) sticky: bool,
    /// Its ports.
    pub(super) ports: Vec<Port>,
    /// How many addresses of ready endpoints this node has (row T7).
    pub(super) ready_here: usize,
}

/// One of its ports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Port {
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    /// The endpoints of this node that are to be used (row T6).
    pub(super) local: Vec<SocketAddr>,
    /// Those and the others of this node that still serve (row Q5).
    pub(super) serving: Vec<SocketAddr>,
    /// Whether any node has one that is, for IPv4 and IPv6.
    pub(super) any: [bool; 2],
}

/// The Service of this name, if this node forwards for it; `own`: this node's index.
pub(super) fn known(table: &Table<'_>, own: u32, namespace: &str, name: &str) -> Option<Known> {
    let service = table.service(namespace, name).filter(|s| s.flags() & FLAG_NO_PROXY == 0)?;
    let is_its = |vip: &IpAddr| table.service_of_vip(*vip).is_some_and(|owner| owner.id() == service.id());
    // One that is reached from outside, as its node's own, is on no node of ours.
    let here = |e: &EndpointView<'_>| own != 0 && e.node() == own && e.conditions() & ENDPOINT_EXIT == 0;
    let ready = service.endpoints().filter(|e| here(e) && e.ready()).map(|e| e.address());
    Some(Known {
        vips: service.vips().filter(is_its).collect(),
        sticky: service.affinity_secs() != 0,
        ready_here: ready.collect::<BTreeSet<_>>().len(),
        ports: service.ports().map(|p| port(&service, p.protocol(), p.port(), p.index(), &here)).collect(),
    })
}

/// Ready endpoints, and where there is none of a family those that end but still serve.
fn port(
    service: &ServiceView<'_>,
    protocol: Protocol,
    number: u16,
    index: u8,
    here: &impl Fn(&EndpointView<'_>) -> bool,
) -> Port {
    let ready = |e: &EndpointView<'_>| e.conditions() & ENDPOINT_READY != 0;
    const ENDING: u8 = ENDPOINT_SERVING | ENDPOINT_TERMINATING;
    let serves = |e: &EndpointView<'_>| e.conditions() & (ENDPOINT_READY | ENDPOINT_SERVING) != 0;
    let ending = |e: &EndpointView<'_>| e.conditions() & ENDING == ENDING;
    let mut out = Port { protocol, port: number, local: Vec::new(), serving: Vec::new(), any: [false; 2] };
    for v6 in [false, true] {
        let of = |good: &dyn Fn(&EndpointView<'_>) -> bool, only_here: bool| -> BTreeSet<SocketAddr> {
            let fits =
                |e: &EndpointView<'_>| e.address().is_ipv6() == v6 && good(e) && (!only_here || here(e));
            let at = |e: EndpointView<'_>| Some(SocketAddr::new(e.address(), e.target(index)?));
            service.endpoints().filter(fits).filter_map(at).collect()
        };
        let first = of(&ready, true);
        out.local.extend(if first.is_empty() { of(&ending, true) } else { first });
        out.serving.extend(of(&serves, true));
        out.any[usize::from(v6)] = !of(&ready, false).is_empty() || !of(&ending, false).is_empty();
    }
    out
}
