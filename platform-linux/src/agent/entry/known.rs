//! What the engine's table knows of a Service with entry points.

use edgemesh_core::service::view::PortView;
use edgemesh_core::service::{EndpointView, ServiceView, Table};
use edgemesh_core::wire::feed::{
    ENDPOINT_EXIT, ENDPOINT_READY, ENDPOINT_SERVING, ENDPOINT_TERMINATING, FLAG_NO_PROXY, Protocol,
};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// Conditions of an endpoint that ends and still serves.
const ENDING: u8 = ENDPOINT_SERVING | ENDPOINT_TERMINATING;

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
        ports: service.ports().map(|view| port(&service, &view, &here)).collect(),
    })
}

/// Ready endpoints, and where there is none of a family those that end but still serve.
fn port(service: &ServiceView<'_>, view: &PortView<'_>, here: &impl Fn(&EndpointView<'_>) -> bool) -> Port {
    let ready = |e: &EndpointView<'_>| e.ready();
    let serves = |e: &EndpointView<'_>| e.conditions() & (ENDPOINT_READY | ENDPOINT_SERVING) != 0;
    let ending = |e: &EndpointView<'_>| e.conditions() & ENDING == ENDING;
    let (protocol, port) = (view.protocol(), view.port());
    let mut out = Port { protocol, port, local: Vec::new(), serving: Vec::new(), any: [false; 2] };
    for v6 in [false, true] {
        let of = |good: &dyn Fn(&EndpointView<'_>) -> bool, only_here: bool| -> BTreeSet<SocketAddr> {
            let fits =
                |e: &EndpointView<'_>| e.address().is_ipv6() == v6 && good(e) && (!only_here || here(e));
            let at = |e: EndpointView<'_>| Some(SocketAddr::new(e.address(), e.target(view.index())?));
            service.endpoints().filter(fits).filter_map(at).collect()
        };
        let first = of(&ready, true);
        out.local.extend(if first.is_empty() { of(&ending, true) } else { first });
        out.serving.extend(of(&serves, true));
        out.any[usize::from(v6)] = !of(&ready, false).is_empty() || !of(&ending, false).is_empty();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgemesh_core::rng::Rng;
    use edgemesh_core::wire::feed::{EndpointDef, PortDef, ServiceDef, ServiceKind, Update};

    edgemesh_core::memory! {
        struct Memory {
            peers: 2, window: 17, handshakes: 2, flows: 8, admitted: 8,
            services: 4, ports: 4, endpoints: 16, names: 16, namespaces: 8, side: 8,
        }
    }

    const OWN: u32 = 7;
    const SERVING: u8 = ENDPOINT_READY | ENDPOINT_SERVING;

    /// What is known of a Service with port 80 and these endpoints: node, last byte of the address, conditions.
    fn of(flags: u8, endpoints: &[(u32, u8, u8)]) -> Option<Known> {
        let memory = Box::leak(Box::new(Memory::ZERO));
        let mut table = Table::new(memory.lend().services, &mut Rng::new([1; 32]));
        let vip = heapless::Vec::from_iter([IpAddr::from([10, 96, 0, 1])]);
        let kind = ServiceKind::ClusterIp(vip);
        let head = ServiceDef { namespace: "n", name: "s", kind, affinity_secs: 0, flags };
        let port = PortDef { name: "http", protocol: Protocol::Tcp, port: 80 };
        let all = endpoints.iter().map(|(node, last, conditions)| EndpointDef {
            node: *node,
            address: IpAddr::from([172, 17, 0, *last]),
            vip: None,
            hostname: "",
            conditions: *conditions,
            zones: &[],
        });
        let begin = [Update::Service(head), Update::Port(port), Update::Targets(&[0x90, 0x1f])];
        for update in begin.into_iter().chain(all.map(Update::Endpoint)).chain([Update::Commit]) {
            table.apply(&update).unwrap();
        }
        known(&table, OWN, "n", "s")
    }

    fn at(last: u8) -> SocketAddr {
        SocketAddr::new([172, 17, 0, last].into(), 8080)
    }

    #[test]
    fn t4_t6_ready_endpoints_of_this_node_else_those_that_end_and_serve() {
        let port = |endpoints: &[(u32, u8, u8)]| of(0, endpoints).unwrap().ports.remove(0);
        let both = port(&[(OWN, 2, SERVING), (OWN, 3, ENDING), (8, 4, SERVING), (OWN, 5, 0)]);
        assert_eq!((both.local, both.serving, both.any), (vec![at(2)], vec![at(2), at(3)], [true, false]));
        let ending = port(&[(OWN, 3, ENDING), (OWN, 5, ENDPOINT_TERMINATING), (8, 4, SERVING)]);
        assert_eq!((ending.local, ending.any), (vec![at(3)], [true, false]));
        let away = port(&[(8, 4, SERVING), (0, 5, SERVING)]);
        assert_eq!((away.local, away.any), (Vec::new(), [true, false]));
        let none = port(&[(OWN, 5, 0), (8, 4, ENDPOINT_TERMINATING)]);
        assert_eq!((none.local, none.any), (Vec::new(), [false, false]));
    }

    #[test]
    fn t4_an_endpoint_behind_this_node_as_an_exit_is_not_one_of_its_own() {
        let exit = of(0, &[(OWN, 2, SERVING | ENDPOINT_EXIT)]).unwrap();
        assert_eq!((exit.ports[0].local.len(), exit.ready_here), (0, 0));
    }

    #[test]
    fn t7_addresses_of_ready_endpoints_count_once() {
        let some = [(OWN, 2, SERVING), (OWN, 3, SERVING), (OWN, 4, ENDING), (8, 5, SERVING)];
        assert_eq!(of(0, &some).unwrap().ready_here, 2);
    }

    #[test]
    fn x8_a_service_of_another_proxy_is_not_known() {
        assert_eq!(of(FLAG_NO_PROXY, &[(OWN, 2, SERVING)]), None);
    }
}
