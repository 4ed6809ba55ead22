//! The engine as a whole, with the example's shell around it: what only the composition does.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::std_instead_of_core,
    clippy::indexing_slicing,
    dead_code
)]

#[path = "../examples/two_nodes/cloud.rs"]
mod cloud;
#[path = "../examples/two_nodes/node.rs"]
mod node;
#[path = "../examples/two_nodes/world.rs"]
mod world;

use edgemesh_core::counters::DropReason;
use edgemesh_core::path::RelayLeg;
use edgemesh_core::time::WallTime;
use edgemesh_core::wire::control::ToNode;
use edgemesh_core::wire::feed::{
    ENDPOINT_READY, ENDPOINT_SERVING, EndpointDef, FLAG_INTERNAL_LOCAL, PortDef, Protocol, ServiceDef,
    ServiceKind, Update,
};
use std::error::Error;
use std::net::IpAddr;
use world::{Room, World};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const CLIENT: [u8; 4] = [172, 17, 0, 5];
/// The example's Service, with UDP port 80.
const ECHO: [u8; 4] = [10, 96, 0, 10];

/// A joined world of two nodes.
fn joined(rooms: &mut [Room; 2]) -> World<'_> {
    let mut world = World::new(rooms).unwrap();
    world.run().unwrap();
    assert!(world.joined());
    world
}

/// A UDP datagram without checksum in an IPv4 packet.
fn udp(to: [u8; 4], port: u8) -> Vec<u8> {
    let ip = [&[0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0][..], &CLIENT, &to].concat();
    [&ip[..], &[0x9c, 0x40, 0, port, 0, 8, 0, 0]].concat()
}

/// A Service of one UDP port, 53.
fn service(name: &'static str, vip: [u8; 4], flags: u8, nodes: &[u32]) -> Vec<Update<'static>> {
    let kind = ServiceKind::ClusterIp([IpAddr::from(vip)].into_iter().collect());
    let mut updates = vec![
        Update::Service(ServiceDef { namespace: "default", name, kind, affinity_secs: 0, flags }),
        Update::Port(PortDef { name: "", protocol: Protocol::Udp, port: 53 }),
        Update::Targets(&[53, 0]),
    ];
    let (address, conditions) = (IpAddr::from([172, 17, 0, 9]), ENDPOINT_READY | ENDPOINT_SERVING);
    let endpoint = |node| EndpointDef { node, address, vip: None, hostname: "", conditions, zones: &[] };
    updates.extend(nodes.iter().map(|node| Update::Endpoint(endpoint(*node))));
    updates.push(Update::Commit);
    updates
}

#[test]
fn a_new_flow_that_leads_nowhere_says_why() {
    let mut rooms = [Room::ZERO, Room::ZERO];
    let mut world = joined(&mut rooms);
    let engine = &mut world.node(1).unwrap().engine;
    let services = [
        service("empty", [10, 96, 0, 20], 0, &[]),
        service("elsewhere", [10, 96, 0, 21], FLAG_INTERNAL_LOCAL, &[2]),
    ];
    for update in services.iter().flatten() {
        engine.update(update).unwrap();
    }
    for (to, port, reason) in [
        (ECHO, 53, DropReason::UnknownPort),
        ([10, 96, 0, 20], 53, DropReason::NoEndpoints),
        ([10, 96, 0, 21], 53, DropReason::NotLocal),
        ([10, 96, 0, 99], 53, DropReason::NoRoute),
    ] {
        // Some clients are told, the others' packets are only dropped: both are counted.
        let _ = world.send(1, &udp(to, port));
        assert_eq!(world.node(1).unwrap().engine.counters().get(reason), 1, "{reason}");
    }
    assert_eq!(world.node(1).unwrap().engine.flows().len(), 0);
}

/// What the server says of Services is signed, and still only taken where it makes sense.
#[test]
fn a_feed_that_the_table_refuses_is_counted() {
    let mut rooms = [Room::ZERO, Room::ZERO];
    let mut world = joined(&mut rooms);
    // A port without a Service.
    let update = Update::Port(PortDef { name: "", protocol: Protocol::Udp, port: 53 });
    let mut body = [0; 64];
    let body = postcard::to_slice(&update, &mut body).unwrap();
    let mut frame = world.cloud.seal(1, &ToNode::Feed(body)).unwrap();
    let now = world.now;
    world.node(1).unwrap().engine.control(now, &mut frame).unwrap();
    assert_eq!(world.node(1).unwrap().engine.counters().get(DropReason::Table), 1);
    let vip = world.resolve(1, "echo.default.svc.cluster.local").unwrap();
    assert_eq!(vip.octets(), ECHO, "what there was stays");
}

/// A handshake message that is computed when the way to its peer is gone is not sent nowhere: it is counted, and made anew
/// when there is a way.
#[test]
fn a_message_that_lost_its_way_is_counted() {
    let mut rooms = [Room::ZERO, Room::ZERO];
    let mut world = joined(&mut rooms);
    let (mut now, mut out, mut frame) = (world.now, [0; 2048], [0; 1600]);
    world.node(1).unwrap().engine.connect(now, 2);
    while let Some(len) = world.node(1).unwrap().engine.poll_frame(now, &mut frame).unwrap() {
        for (to, mut answer) in world.cloud.frame(1, frame[..len].to_vec()).unwrap() {
            world.node(to).unwrap().engine.control(now, &mut answer).unwrap();
        }
    }
    // The initiation waits to be computed while the relay falls silent.
    let engine = &mut world.node(1).unwrap().engine;
    while engine.paths().relay_leg() != RelayLeg::None {
        now = engine.poll_timeout().unwrap().0;
        engine.handle_timeout(now);
        while engine.poll_transmit(now, &mut out).is_some() {}
    }
    let wall = WallTime { secs: 1_700_000_000, nanos: 0 };
    while engine.work(now, wall) {}
    while let Some(sent) = engine.poll_transmit(now, &mut out) {
        assert!(sent.range.len() < 148, "an initiation went out");
    }
    assert_eq!(engine.counters().get(DropReason::NoPath), 1);
}
