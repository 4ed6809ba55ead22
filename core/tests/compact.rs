//! The feature `compact`: IPv6 is refused by name, and what has IPv4 besides goes on with that.
#![cfg(feature = "compact")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use core::net::IpAddr;
use edgemesh_core::counters::DropReason;
use edgemesh_core::flow::{Endpoint, FlowRecord, Flows, NewFlow, Offload, PeerRef, Policy, Translated, Vip};
use edgemesh_core::packet::Packet;
use edgemesh_core::rng::Rng;
use edgemesh_core::service::{Place, Request, Selection, Table, TableError};
use edgemesh_core::time::{Duration, Instant};
use edgemesh_core::wire::feed::{
    ENDPOINT_READY, EndpointDef, PortDef, Protocol, ServiceDef, ServiceKind, Update,
};
use edgemesh_core::wire::ip::{Address, Checksum, Mesh, TCP};

edgemesh_core::memory! {
    struct Memory {
        peers: 2, window: 17, handshakes: 2, flows: 8, admitted: 8,
        services: 4, ports: 4, endpoints: 8, names: 8, namespaces: 4, side: 4,
    }
}

const V6: IpAddr = IpAddr::V6(core::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn an_address_is_four_bytes_and_a_mapped_one_is_ipv4() {
    assert_eq!(size_of::<Address>(), 4);
    assert!(!Address::holds(V6) && Address::holds(ip("::ffff:10.0.0.1")));
    assert_eq!(Address::from(ip("::ffff:10.0.0.1")).ip(), Some(ip("10.0.0.1")));
}

#[test]
fn a_dual_stack_service_keeps_its_ipv4_half_and_says_so() {
    let mut memory = Memory::ZERO;
    let mut rng = Rng::new([1; 32]);
    let mut table = Table::new(memory.lend().services, &mut rng);
    let vips = [V6, ip("10.96.0.1")].into_iter().collect();
    let kind = ServiceKind::ClusterIp(vips);
    let def = ServiceDef { namespace: "default", name: "park", kind, affinity_secs: 0, flags: 0 };
    assert_eq!(table.apply(&Update::Service(def)), Err(TableError::Family));
    let port = PortDef { name: "", protocol: Protocol::Tcp, port: 80 };
    assert_eq!(table.apply(&Update::Port(port)), Ok(()));
    assert_eq!(table.apply(&Update::Targets(&8080u16.to_le_bytes())), Ok(()));
    let mut endpoint =
        EndpointDef { node: 2, address: V6, vip: None, hostname: "", conditions: ENDPOINT_READY, zones: &[] };
    assert_eq!(table.apply(&Update::Endpoint(endpoint.clone())), Err(TableError::Family));
    endpoint.address = ip("172.17.0.2");
    endpoint.vip = Some(V6);
    assert_eq!(table.apply(&Update::Endpoint(endpoint.clone())), Err(TableError::Family));
    endpoint.vip = None;
    assert_eq!(table.apply(&Update::Endpoint(endpoint)), Ok(()));
    assert_eq!(table.apply(&Update::Commit), Ok(()));
    assert_eq!((table.len(), table.endpoint_count()), (1, 1));
    assert!(!table.is_vip(V6) && table.endpoint_of_vip(V6).is_none());
    let request = Request { protocol: TCP, vip: ip("10.96.0.1"), port: 80, client: ip("172.17.0.9") };
    let chosen = Selection::Endpoint { node: 2, address: ip("172.17.0.2"), port: 8080, handed: false };
    let place = Place { own: 1, cost: &|_, _| Some(0), tried: None };
    assert_eq!(table.select(Instant::ZERO, &request, &place, &mut rng), chosen);
}

struct Nothing;

impl Policy for Nothing {
    fn vip(&self, _: IpAddr) -> Vip {
        Vip::Service
    }
    fn admits(&self, _: u8, _: IpAddr, _: u16) -> bool {
        true
    }
    fn still_serves(&self, _: &NewFlow, _: &Endpoint) -> bool {
        true
    }
    fn gives_up(&self, _: &NewFlow, _: &Endpoint, _: Duration) -> bool {
        false
    }
    fn is_silent(&self, _: PeerRef) -> bool {
        false
    }
    fn generation(&self) -> u32 {
        0
    }
    fn mtu(&self, _: PeerRef) -> u16 {
        1408
    }
}

#[test]
fn ipv6_packets_and_flows_are_dropped_by_name() {
    let mut memory = Memory::ZERO;
    let mut flows = Flows::new(Instant::ZERO, memory.lend().flows, Mesh::NONE, &mut Rng::new([1; 32]));
    let mut bytes = [0; 60];
    bytes[0] = 0x60;
    (bytes[5], bytes[6], bytes[7]) = (20, TCP, 64);
    (bytes[8], bytes[23], bytes[24], bytes[39]) = (0xfd, 1, 0xfd, 2);
    bytes[52] = 0x50;
    let offload = Offload { checksum: Checksum::Complete, largest: 60 };
    let mut packet = Packet::new(&mut bytes, 0, 60).unwrap();
    let out = flows.outbound(Instant::ZERO, &mut packet, offload, &Nothing).verdict;
    assert_eq!(out, Translated::Drop(DropReason::Family));
    let back = flows.inbound(Instant::ZERO, PeerRef(2), &mut packet, offload, &Nothing).verdict;
    assert_eq!(back, Translated::Drop(DropReason::Family));
    let record = FlowRecord {
        protocol: TCP,
        client: (V6, 1),
        vip: (V6, 2),
        peer: 2,
        endpoint: (V6, 3),
        mapped: 4,
        established: true,
        idle_secs: 0,
    };
    assert_eq!(flows.restore(Instant::ZERO, &record), Err(DropReason::Family));
    assert!(flows.is_empty());
}
