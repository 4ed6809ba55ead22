//! Packets as programs on a node send them, DNS queries, and a table of Services.

use edgemesh_core::heapless::Vec as Few;
use edgemesh_core::node::Engine;
use edgemesh_core::wire::feed::{
    ENDPOINT_READY, ENDPOINT_SERVING, EndpointDef, PortDef, Protocol, ServiceDef, ServiceKind, Update,
};
use std::net::{IpAddr, Ipv4Addr};

/// The port of every Service.
pub const PORT: u16 = 80;
/// The port of every endpoint.
pub const TARGET: u16 = 8080;
const UDP: u8 = 17;
const UDP_HEADERS: usize = 28;

/// The ClusterIP of a Service.
pub fn vip(service: u32) -> Ipv4Addr {
    let [_, a, b, c] = (service + 10).to_be_bytes();
    Ipv4Addr::new(10, 96 + a, b, c)
}

/// The address of a Service's endpoint, on whichever node it is.
pub fn endpoint(service: u32) -> Ipv4Addr {
    let [_, a, b, c] = (service + 10).to_be_bytes();
    Ipv4Addr::new(172, 17 + a, b, c)
}

/// The name of a Service, without the domain.
pub fn name(service: u32) -> String {
    format!("service-{service}")
}

/// Tells an engine of so many Services over UDP and TCP, with one endpoint each, on the node that `node` says.
pub fn define(engine: &mut Engine<'_>, services: u32, node: impl Fn(u32) -> u32) {
    let mut say = |update: &Update<'_>| engine.update(update).expect("room for a Service");
    say(&Update::Begin);
    say(&Update::Namespace("default"));
    for service in 0..services {
        let kind = ServiceKind::ClusterIp(Few::from_iter([IpAddr::V4(vip(service))]));
        let name = name(service);
        say(&Update::Service(ServiceDef {
            namespace: "default",
            name: &name,
            kind,
            affinity_secs: 0,
            flags: 0,
        }));
        say(&Update::Port(PortDef { name: "u", protocol: Protocol::Udp, port: PORT }));
        say(&Update::Port(PortDef { name: "t", protocol: Protocol::Tcp, port: PORT }));
        let [low, high] = TARGET.to_le_bytes();
        say(&Update::Targets(&[low, high, low, high]));
        say(&Update::Endpoint(EndpointDef {
            node: node(service),
            address: endpoint(service).into(),
            vip: None,
            hostname: "",
            conditions: ENDPOINT_READY | ENDPOINT_SERVING,
            zones: &[],
        }));
        say(&Update::Commit);
    }
    say(&Update::End);
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A datagram of `len` bytes with its headers, all checksums right.
pub fn udp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), len: usize) -> Vec<u8> {
    let mut packet = vec![0x5a; len.max(UDP_HEADERS)];
    let [high, low] = (packet.len() as u16).to_be_bytes();
    packet[..12].copy_from_slice(&[0x45, 0, high, low, 0, 1, 0x40, 0, 64, UDP, 0, 0]);
    packet[12..16].copy_from_slice(&from.0.octets());
    packet[16..20].copy_from_slice(&to.0.octets());
    packet[20..22].copy_from_slice(&from.1.to_be_bytes());
    packet[22..24].copy_from_slice(&to.1.to_be_bytes());
    let length = (packet.len() - 20) as u16;
    packet[24..26].copy_from_slice(&length.to_be_bytes());
    packet[26..28].fill(0);
    let head = fold(sum(&packet[..20]));
    packet[10..12].copy_from_slice(&head.to_be_bytes());
    let pseudo = sum(&packet[12..20]) + u32::from(UDP) + u32::from(length);
    let body = fold(pseudo + sum(&packet[20..]));
    packet[26..28].copy_from_slice(&body.to_be_bytes());
    packet
}

/// The answer to a datagram: from where it went, to where it came from.
pub fn answer(packet: &[u8], len: usize) -> Vec<u8> {
    let address = |at: usize| Ipv4Addr::from([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    udp((address(16), port(22)), (address(12), port(20)), len)
}

/// A query for the IPv4 address of a Service in the namespace "default", with EDNS as resolvers send it.
pub fn query(service: &str) -> Vec<u8> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in format!("{service}.default.svc.{}", super::DOMAIN).split('.') {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    // OPT: the root's name, its type, room for 1,232 bytes, nothing else.
    query.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    query
}
