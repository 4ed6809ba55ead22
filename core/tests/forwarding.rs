//! The Service table and the flow machine together, as the node composes them: rows of `docs/forwarding.md`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use core::net::{IpAddr, Ipv4Addr};
use edgemesh_core::counters::DropReason;
use edgemesh_core::flow::{
    self, AdmittedSlot, Endpoint, FlowSlot, Flows, FragmentSlot, Kept, NewFlow, Offload, Outcome, PeerRef,
    Policy, Translated, Vip,
};
use edgemesh_core::packet::Packet;
use edgemesh_core::rng::Rng;
use edgemesh_core::service::{self, Place, Request, Selection, Serves, Table};
use edgemesh_core::time::{Duration, Instant};
use edgemesh_core::wire::control::Network;
use edgemesh_core::wire::feed::{
    ENDPOINT_READY, ENDPOINT_SERVING, ENDPOINT_TERMINATING, EndpointDef, FLAG_INTERNAL_LOCAL, PortDef,
    Protocol, ServiceDef, ServiceKind, Update,
};
use edgemesh_core::wire::ip::{Checksum, Kind, Mesh, TCP, Transport};

const OWN: u32 = 1;
const CLIENT: [u8; 4] = [172, 17, 0, 2];
const VIP: [u8; 4] = [10, 96, 0, 1];

/// What the flow machine asks, answered from the table: the node's part.
struct View<'v>(&'v Table<'v>);

impl Policy for View<'_> {
    fn vip(&self, address: IpAddr) -> Vip {
        if self.0.is_vip(address) {
            Vip::Service
        } else if self.0.endpoint_of_vip(address).is_some() {
            Vip::Endpoint
        } else {
            Vip::None
        }
    }
    fn admits(&self, protocol: u8, address: IpAddr, port: u16) -> bool {
        self.0.serves(OWN, protocol, address, port) != Serves::Nothing
    }
    fn still_serves(&self, flow: &NewFlow, endpoint: &Endpoint) -> bool {
        let node = if endpoint.peer == PeerRef::SELF { OWN } else { endpoint.peer.0 };
        self.0.still_serves(flow.protocol, flow.vip, flow.vip_port, (node, endpoint.address, endpoint.port))
    }
    fn gives_up(&self, flow: &NewFlow, _: &Endpoint, waited: Duration) -> bool {
        self.0.may_choose_again(flow.vip) && waited > Duration::from_secs(3)
    }
    fn is_silent(&self, _: PeerRef) -> bool {
        false
    }
    fn generation(&self) -> u32 {
        self.0.generation()
    }
    fn mtu(&self, _: PeerRef) -> u16 {
        1408
    }
}

struct Node {
    table: Table<'static>,
    flows: Flows<'static>,
    rng: Rng,
    now: Instant,
    /// Client affinity of what is defined.
    affinity_secs: u32,
}

fn leak<T: Clone>(value: T, n: usize) -> &'static mut [T] {
    vec![value; n].leak()
}

impl Node {
    fn new() -> Self {
        let mut rng = Rng::new([1; 32]);
        let table = Table::new(
            service::Resources {
                services: leak(service::ServiceSlot::ZERO, 16),
                ports: leak(service::PortSlot::ZERO, 32),
                targets: leak(service::TargetSlot::ZERO, 32),
                endpoints: leak(service::EndpointSlot::ZERO, 32),
                names: leak(service::NameBlock::ZERO, 64),
                namespaces: leak(service::NamespaceSlot::ZERO, 8),
                affinity: leak(service::AffinitySlot::ZERO, 16),
                by_name: leak(0, 64),
                by_vip: leak(0, 64),
                by_namespace: leak(0, 64),
                by_address: leak(0, 64),
                by_endpoint_vip: leak(0, 64),
                by_ordinal: leak(0, 64),
                reached: &mut [],
            },
            &mut rng,
        );
        let network = Network { mesh_v4: [242, 0, 0, 0], mesh_v4_len: 8, mesh_v6: [0xfd; 16] };
        let flows = Flows::new(
            Instant::ZERO,
            flow::Resources {
                flows: Kept::none(leak(FlowSlot::ZERO, 16)),
                by_client: leak(0, 32),
                by_mapped: leak(0, 32),
                sources: leak(0, 16),
                admitted: Kept::none(leak(AdmittedSlot::ZERO, 16)),
                by_tuple: leak(0, 32),
                admitters: leak(0, 16),
                fragments: leak(FragmentSlot::ZERO, 8),
            },
            Mesh::new(network, OWN),
            &mut rng,
        );
        Self { table, flows, rng, now: Instant::ZERO.after(Duration::from_secs(1)), affinity_secs: 0 }
    }

    /// The service "web" at the VIP, with its endpoints (node, last octet, conditions).
    fn define(&mut self, flags: u8, endpoints: &[(u32, u8, u8)]) {
        self.define_at(8080, flags, endpoints);
    }

    /// The same at another target port.
    fn define_at(&mut self, target: u16, flags: u8, endpoints: &[(u32, u8, u8)]) {
        let vips = [IpAddr::from(VIP)].into_iter().collect();
        let kind = ServiceKind::ClusterIp(vips);
        let affinity_secs = self.affinity_secs;
        let head = ServiceDef { namespace: "default", name: "web", kind, affinity_secs, flags };
        self.table.apply(&Update::Service(head)).unwrap();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            self.table.apply(&Update::Port(PortDef { name: "", protocol, port: 80 })).unwrap();
        }
        let [low, high] = target.to_le_bytes();
        self.table.apply(&Update::Targets(&[low, high, low, high])).unwrap();
        for (node, host, conditions) in endpoints {
            let address = IpAddr::from([172, 17, 0, *host]);
            let def = EndpointDef {
                node: *node,
                address,
                vip: None,
                hostname: "",
                conditions: *conditions,
                zones: &[],
            };
            self.table.apply(&Update::Endpoint(def)).unwrap();
        }
        self.table.apply(&Update::Commit).unwrap();
    }

    /// A packet from the TUN device, through selection if it opens a flow.
    fn send(&mut self, bytes: &[u8]) -> (Translated, Vec<u8>) {
        let mut room = [0; 1500];
        room[..bytes.len()].copy_from_slice(bytes);
        let mut packet = Packet::new(&mut room, 0, bytes.len()).unwrap();
        let offload = Offload { checksum: Checksum::Complete, largest: bytes.len() };
        let mut verdict = self.outbound(&mut packet, offload).verdict;
        if let Translated::Miss(new) = verdict {
            let request =
                Request { protocol: new.protocol, vip: new.vip, port: new.vip_port, client: new.client };
            let tried = self.flows.unanswered(&new).map(|endpoint| (endpoint.peer.0, endpoint.address));
            let place = Place { own: OWN, cost: &|_, _| Some(0), tried };
            verdict = match self.table.select(self.now, &request, &place, &mut self.rng) {
                Selection::Endpoint { node, address, port, .. } => {
                    let peer = if node == OWN { PeerRef::SELF } else { PeerRef(node) };
                    let endpoint = Endpoint { peer, address, port };
                    let generation = self.table.generation();
                    self.flows.open(self.now, &new, &endpoint, generation, &mut self.rng).unwrap();
                    self.outbound(&mut packet, offload).verdict
                }
                Selection::NoEndpoints => self.flows.refuse(&mut packet, DropReason::NoEndpoints),
                Selection::UnknownPort => self.flows.refuse(&mut packet, DropReason::UnknownPort),
                Selection::NotLocal => Translated::Drop(DropReason::NoEndpoints),
                Selection::NotAVip => Translated::Drop(DropReason::NoRoute),
            };
        }
        (verdict, packet.bytes().to_vec())
    }

    fn outbound(&mut self, packet: &mut Packet<'_>, offload: Offload) -> Outcome {
        self.flows.outbound(self.now, packet, offload, &View(&self.table))
    }

    fn receive(&mut self, from: u32, bytes: &[u8]) -> Translated {
        let mut bytes = bytes.to_vec();
        let len = bytes.len();
        let mut packet = Packet::new(&mut bytes, 0, len).unwrap();
        let offload = Offload { checksum: Checksum::Complete, largest: len };
        self.flows.inbound(self.now, PeerRef(from), &mut packet, offload, &View(&self.table)).verdict
    }
}

/// An IPv4 packet without transport checksum: a TCP SYN, or a UDP datagram.
fn packet(tcp: bool, src: [u8; 4], src_port: u16, dst: [u8; 4], dst_port: u16) -> Vec<u8> {
    let mut bytes =
        vec![0x45, 0, 0, if tcp { 40 } else { 28 }, 0, 0, 0, 0, 64, if tcp { 6 } else { 17 }, 0, 0];
    bytes.extend([src, dst].concat());
    bytes.extend([src_port.to_be_bytes(), dst_port.to_be_bytes()].concat());
    if tcp {
        bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0, 0, 0, 0, 0, 0]);
    } else {
        bytes.extend([0, 8, 0, 0]);
    }
    bytes
}

const UP: u8 = ENDPOINT_READY | ENDPOINT_SERVING;
const DRAINING: u8 = ENDPOINT_SERVING | ENDPOINT_TERMINATING;

#[test]
fn new_flows_go_where_the_table_says() {
    let mut node = Node::new();
    let syn = packet(true, CLIENT, 4000, VIP, 80);
    assert_eq!(node.send(&syn).0, Translated::Drop(DropReason::NoRoute), "unallocated VIP: dropped (row C3)");
    node.define(0, &[(2, 9, UP)]);
    let (verdict, sent) = node.send(&syn);
    let t = Transport::parse(&sent).unwrap();
    assert_eq!(verdict, Translated::To(PeerRef(2)));
    assert_eq!(
        (t.src, t.dst, t.dst_port),
        (Ipv4Addr::new(242, 0, 0, 1).into(), Ipv4Addr::new(172, 17, 0, 9).into(), 8080)
    );
    node.define(0, &[(OWN, 9, UP)]);
    assert_eq!(
        node.send(&packet(true, CLIENT, 4001, VIP, 80)).0,
        Translated::Local,
        "an endpoint of this node"
    );
}

/// A TCP reset from the VIP.
fn is_reset((verdict, bytes): (Translated, Vec<u8>)) -> bool {
    let t = Transport::parse(&bytes).unwrap();
    verdict == Translated::Reply && t.protocol == TCP && t.src == IpAddr::from(VIP)
}

/// An ICMP error from the VIP.
fn is_unreachable((verdict, bytes): (Translated, Vec<u8>)) -> bool {
    let t = Transport::parse(&bytes).unwrap();
    verdict == Translated::Reply && matches!(t.kind, Kind::IcmpError { .. }) && t.src == IpAddr::from(VIP)
}

#[test]
fn c2_a_service_without_endpoints_refuses_at_once() {
    let mut node = Node::new();
    for endpoints in [&[][..], &[(2, 9, 0)], &[(OWN, 9, ENDPOINT_SERVING), (2, 9, 0)]] {
        node.define(0, endpoints);
        assert!(is_reset(node.send(&packet(true, CLIENT, 4000, VIP, 80))), "{endpoints:?}");
        assert!(is_unreachable(node.send(&packet(false, CLIENT, 4000, VIP, 80))), "{endpoints:?}");
    }
    assert!(node.flows.is_empty());
}

#[test]
fn c3_other_ports_are_refused_and_other_addresses_dropped() {
    let mut node = Node::new();
    node.define(0, &[(2, 9, UP)]);
    assert!(is_reset(node.send(&packet(true, CLIENT, 4000, VIP, 81))));
    assert!(is_unreachable(node.send(&packet(false, CLIENT, 4000, VIP, 53))));
    for tcp in [true, false] {
        let unallocated = packet(tcp, CLIENT, 4000, [10, 96, 77, 77], 80);
        assert_eq!(node.send(&unallocated).0, Translated::Drop(DropReason::NoRoute));
    }
    assert!(node.flows.is_empty());
}

#[test]
fn t3_a_local_policy_drops_while_there_are_endpoints_elsewhere() {
    let mut node = Node::new();
    node.define(FLAG_INTERNAL_LOCAL, &[(2, 9, UP)]);
    let elsewhere = node.send(&packet(true, CLIENT, 4000, VIP, 80)).0;
    assert_eq!(elsewhere, Translated::Drop(DropReason::NoEndpoints));
    node.define(FLAG_INTERNAL_LOCAL, &[]);
    assert!(is_reset(node.send(&packet(true, CLIENT, 4000, VIP, 80))));
    assert!(node.flows.is_empty());
}

/// Flags and endpoints of the service, and what becomes of a packet then.
type Step = (u8, &'static [(u32, u8, u8)], Translated);

/// What a UDP client that keeps its port gets, as the endpoints change under it.
fn followed(steps: &[Step]) {
    let mut node = Node::new();
    let query = packet(false, CLIENT, 4000, VIP, 80);
    for (n, (flags, endpoints, expected)) in steps.iter().enumerate() {
        node.define(*flags, endpoints);
        assert_eq!(node.send(&query).0, *expected, "step {n}");
    }
}

const fn to(node: u32) -> Translated {
    Translated::To(PeerRef(node))
}

#[test]
fn q1_a_udp_client_is_moved_when_its_endpoint_is_deleted() {
    followed(&[
        (0, &[(2, 9, UP)], to(2)),
        (0, &[(3, 9, UP)], to(3)),
        (0, &[(OWN, 9, UP)], Translated::Local),
    ]);
    followed(&[
        (FLAG_INTERNAL_LOCAL, &[(OWN, 9, UP), (2, 9, UP)], Translated::Local),
        (FLAG_INTERNAL_LOCAL, &[(2, 9, UP)], Translated::Drop(DropReason::NoEndpoints)),
        (FLAG_INTERNAL_LOCAL, &[(OWN, 8, UP), (2, 9, UP)], Translated::Local),
    ]);
}

#[test]
fn q2_a_udp_client_is_served_once_there_are_endpoints() {
    followed(&[
        (0, &[], Translated::Reply),
        (0, &[(2, 9, ENDPOINT_SERVING)], Translated::Reply),
        (0, &[(2, 9, UP)], to(2)),
    ]);
}

#[test]
fn q3_a_udp_client_is_refused_once_there_are_none() {
    followed(&[(0, &[(2, 9, UP)], to(2)), (0, &[], Translated::Reply), (0, &[(4, 9, UP)], to(4))]);
}

#[test]
fn q4_a_udp_client_follows_the_target_port() {
    let mut node = Node::new();
    let query = packet(false, CLIENT, 4000, VIP, 80);
    for target in [8080, 9090] {
        node.define_at(target, 0, &[(2, 9, UP)]);
        let (verdict, sent) = node.send(&query);
        assert_eq!((verdict, Transport::parse(&sent).unwrap().dst_port), (to(2), target));
    }
}

#[test]
fn q5_a_udp_client_stays_with_an_endpoint_that_ends_but_serves_whatever_the_policy() {
    followed(&[
        (0, &[(2, 9, UP)], to(2)),
        (0, &[(2, 9, DRAINING), (3, 9, UP)], to(2)),
        (FLAG_INTERNAL_LOCAL, &[(2, 9, UP), (OWN, 9, UP)], to(2)),
        (0, &[(2, 9, ENDPOINT_TERMINATING), (3, 9, UP)], to(3)),
    ]);
}

#[test]
fn s14_no_flow_stays_with_a_service_that_is_gone() {
    let mut node = Node::new();
    let query = packet(false, CLIENT, 4000, VIP, 80);
    node.define(0, &[(2, 9, UP)]);
    assert_eq!(node.send(&query).0, to(2));
    node.table.apply(&Update::Remove { namespace: "default", name: "web" }).unwrap();
    assert_eq!(node.send(&query).0, Translated::Drop(DropReason::NoRoute));
    node.define(0, &[(3, 9, UP)]);
    assert_eq!(node.send(&query).0, to(3));
}

#[test]
fn a_connection_without_an_answer_is_opened_elsewhere_but_never_under_affinity() {
    for affinity_secs in [0, 10_800] {
        let mut node = Node { affinity_secs, ..Node::new() };
        node.define(0, &[(2, 9, UP), (3, 9, UP)]);
        for port in 4000..4010 {
            let syn = packet(true, CLIENT, port, VIP, 80);
            let first = node.send(&syn).0;
            node.now = node.now.after(Duration::from_secs(4));
            let second = node.send(&syn).0;
            assert!([to(2), to(3)].contains(&first) && [to(2), to(3)].contains(&second));
            assert_eq!(first == second, affinity_secs != 0, "{first:?}, then {second:?}");
        }
        node.define(0, &[(2, 9, UP)]);
        node.now = node.now.after(Duration::from_secs(4));
        assert_eq!(node.send(&packet(true, CLIENT, 4000, VIP, 80)).0, to(2), "there is no other");
    }
}

#[test]
fn peers_reach_what_this_node_serves_until_it_is_done() {
    let mut node = Node::new();
    node.define(0, &[(OWN, 9, UP), (2, 8, UP)]);
    let peer = [242, 0, 0, 2];
    let to = |host, port| packet(true, peer, 4000, [172, 17, 0, host], port);
    assert_eq!(node.receive(2, &to(9, 8080)), Translated::Local);
    for refused in [to(9, 22), to(8, 8080), packet(true, peer, 4000, [192, 168, 1, 1], 8080)] {
        assert_eq!(node.receive(2, &refused), Translated::Drop(DropReason::NotAnEndpoint));
    }
    assert_eq!(node.receive(3, &to(9, 8080)), Translated::Drop(DropReason::SourceAddress));
    node.define(0, &[]);
    assert_eq!(node.receive(2, &to(9, 8080)), Translated::Local, "admitted before");
    let later = packet(true, peer, 4001, [172, 17, 0, 9], 8080);
    assert_eq!(node.receive(2, &later), Translated::Drop(DropReason::NotAnEndpoint));
}
