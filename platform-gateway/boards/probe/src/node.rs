//! The engine's calls in the order in which a gateway's first minutes make them.

use crate::memory::{ENDPOINTS, FLOWS, SERVICES};
use crate::segment::{ends, tcp};
use crate::steps::ensure;
use crate::world::{MTU, SERVER, World};
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use edgemesh_core::control::Network;
use edgemesh_core::counters::DropReason;
use edgemesh_core::dns::{Transport, Verdict};
use edgemesh_core::node::{Burst, Event, From, Outbound};
use edgemesh_core::packet::{HEADROOM, Packet};
use edgemesh_core::path::Local;
use edgemesh_core::service::TableError;
use edgemesh_core::time::Duration;
use edgemesh_core::wire::feed::Update;
use edgemesh_core::wire::ip::{ACK, Mesh, RST, SYN};

const NETWORK: Network = Network {
    mesh_v4: [242, 0, 0, 0],
    mesh_v4_len: 8,
    mesh_v6: [0xfd, 0, 2, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Both nodes believe the server and come to an encrypted connection.
pub fn control(world: &mut World) -> Result<(), &'static str> {
    world.connect(0)?;
    world.connect(1)
}

/// Both learn who they are, and bind to the relay.
pub fn welcome(world: &mut World) -> Result<(), &'static str> {
    for who in 0..2 {
        let text = world.nodes[who].script.welcome;
        world.say(who, text)?;
    }
    world.run()?;
    let bound = |node: &crate::world::Node| node.engine.paths().relay_via().is_some();
    ensure(world.near().own_index() == 1 && world.nodes.iter().all(bound), "not bound to the relay")
}

/// The server's list fills the gateway's table.
pub fn feed(world: &mut World) -> Result<(), &'static str> {
    for who in 0..2 {
        let text = world.nodes[who].script.feed;
        world.say(who, text)?;
    }
    world.run()?;
    let table = world.near().services();
    let found = (table.is_complete(), table.len(), table.endpoint_count());
    ensure(found == (true, SERVICES, ENDPOINTS), "the table is not full")?;
    ensure(world.nodes[0].changed == 1, "the change was not told")?;
    ensure(world.dropped().is_none(), "something was dropped")
}

/// A name is answered, and that alone brings up the tunnel to the node that serves it.
pub fn query(world: &mut World) -> Result<(), &'static str> {
    const QUERY: &[u8] =
        b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03s00\x07default\x03svc\x07cluster\x05local\0\0\x01\0\x01";
    let now = world.now;
    let (engine, out) = (&mut *world.nodes[0].engine, &mut world.buffers.packet);
    let Verdict::Answer { len, service: Some(_) } = engine.query(now, Transport::Udp, QUERY, out) else {
        return Err("the name has no answer");
    };
    ensure(out[..len].ends_with(&[0, 4, 10, 96, 0, 1]), "the answer is another address")?;
    ensure(!world.is_up(0), "a session before its handshake")?;
    world.run()?;
    ensure(world.is_up(0) && world.is_up(1), "the session is not up")?;
    ensure(world.nodes.iter().all(|node| node.ready > 0), "the session was not told of")
}

/// A client's SYN crosses both engines and the tunnel; the endpoint's answer comes back from the VIP.
pub fn flow(world: &mut World) -> Result<(), &'static str> {
    let client = SocketAddr::new(address(99), 40_000);
    let arrived = cross(world, 0, (client, vip(0)), SYN)?;
    let endpoints = [address(2), IpAddr::V4(Ipv4Addr::new(172, 17, 1, 2))];
    ensure(endpoints.map(|ip| SocketAddr::new(ip, 8080)).contains(&arrived.1), "the SYN went elsewhere")?;
    ensure(arrived.0.ip() == Mesh::new(NETWORK, 1).own(false), "the SYN has another source")?;
    let back = cross(world, 1, (arrived.1, arrived.0), SYN | ACK)?;
    ensure(back == (vip(0), client), "the answer does not come from the VIP")?;
    world.run()?;
    ensure(world.near().flows().len() == 1, "not one flow")
}

/// Takes a segment from the TUN of one node to that of the other.
#[inline(never)]
fn cross(
    world: &mut World,
    who: usize,
    (from, to): (SocketAddr, SocketAddr),
    flags: u8,
) -> Result<(SocketAddr, SocketAddr), &'static str> {
    let now = world.now;
    let mut packet = tcp(&mut world.buffers.packet, from, to, flags)?;
    let burst = Burst::single(packet.len());
    let (verdict, len) = (world.nodes[who].engine.outbound(now, &mut packet, burst), packet.len());
    let Outbound::Seal(grant) = verdict else { return Err("the segment was not sent") };
    world.carry(who, &grant, len)?;
    let packet = Packet::new(&mut world.buffers.packet, HEADROOM, len).map_err(|reason| reason.name())?;
    ends(packet.bytes()).ok_or("the segment was mangled")
}

/// As many flows as there is room for and one more: an unanswered one gives way.
pub fn full(world: &mut World) -> Result<(), &'static str> {
    let now = world.now;
    for n in 0..=FLOWS as u16 {
        let (engine, buffer) = (&mut *world.nodes[0].engine, &mut world.buffers.packet);
        let mut packet = tcp(buffer, many(n), vip(0), SYN)?;
        let verdict = engine.outbound(now, &mut packet, Burst::single(40));
        ensure(matches!(verdict, Outbound::Seal(_)), "a SYN opened no flow")?;
    }
    ensure(world.near().flows().len() == FLOWS, "the table is not full")?;
    // A reset ends each at once.
    for n in 0..=FLOWS as u16 {
        let (engine, buffer) = (&mut *world.nodes[0].engine, &mut world.buffers.packet);
        let mut packet = tcp(buffer, many(n), vip(0), RST)?;
        let _ = engine.outbound(now, &mut packet, Burst::single(40));
    }
    ensure(world.near().flows().len() <= 1, "flows outlived their reset")
}

/// The relay's TCP connection comes and goes while UDP passes.
pub fn relay_tcp(world: &mut World) -> Result<(), &'static str> {
    let now = world.now;
    let refused = world.near().classify(now, From::RelayTcp, &[0xe4, 1, 0, 0, 0, 0, 0, 0]);
    ensure(
        matches!(refused, edgemesh_core::node::Classified::Drop(DropReason::Relay)),
        "a relay message without a connection was taken",
    )?;
    world.near().relay_tcp_up(now);
    world.near().relay_tcp_down(now);
    ensure(world.near().paths().relay_via().is_some(), "the binding was lost")
}

/// Every deadline of five minutes: refreshes, pings, keepalives, rekeys.
pub fn timers(world: &mut World) -> Result<(), &'static str> {
    let end = world.now.after(Duration::from_secs(300));
    while world.now < end {
        world.wait()?;
    }
    ensure(world.near().own_index() == 1, "the node forgot itself")
}

/// What no step before has called.
pub fn others(world: &mut World) -> Result<(), &'static str> {
    let now = world.now;
    let near = world.near();
    near.set_local(now, &[Local { socket: 0, address: SocketAddr::new(address(1), 20_006) }]);
    near.connect(now, 2);
    let _ = near.resume(now, 2, Burst::single(40), 40);
    near.count(DropReason::Malformed);
    ensure(near.update(&Update::Commit) == Err(TableError::OutOfOrder), "a commit of nothing was taken")?;
    ensure(near.peers(now).count() == 1 && near.link().is_up(), "the lists are wrong")?;
    near.relay_tcp_down(now);
    near.control_down(now);
    near.forget_feed();
    ensure(!near.link().is_up() && near.link().server() == Some(SERVER), "the connection is not down")?;
    while let Some(event) = near.poll_event() {
        ensure(event != Event::ServicesChanged, "a change out of nothing")?;
    }
    let mut packet = tcp(&mut world.buffers.packet, SocketAddr::new(address(98), 1), vip(0), SYN)?;
    let peer = edgemesh_core::PeerId(1);
    let again = world.nodes[0].engine.again(now, peer, &mut packet);
    let refused = edgemesh_core::node::Inbound::Drop(DropReason::SourceAddress);
    ensure(again == refused && MTU > 40, "a peer's packet with another source was taken")
}

/// One of many clients on eight pods: no source takes more than its share.
fn many(n: u16) -> SocketAddr {
    SocketAddr::new(address(90 + (n % 8) as u8), 50_000 + n)
}

/// An address of the pods' subnet.
fn address(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(172, 17, 0, n))
}

fn vip(n: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, n + 1)), 80)
}
