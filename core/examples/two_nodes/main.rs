//! Two engines, a wire in memory and a clock that is only a number: how a packet for a Service gets from a program on
//! one node to a program on the other.
//!
//!     cargo run -p edgemesh-core --example two_nodes
//!
//! Here is the story; `node.rs` is the shell around an engine, `cloud.rs` the server and the relay between the nodes,
//! `world.rs` has them all. The wire is perfect: nothing is lost, nothing is late and no NAT is in the way.
#![allow(clippy::std_instead_of_core, reason = "an example is a shell: it has an operating system")]

mod cloud;
mod node;
mod world;

use edgemesh_core::wire::ip::Transport;
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use world::{Room, World};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const SERVICE: &str = "echo.default.svc.cluster.local";
const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(172, 17, 0, 5), 40_000);
const QUESTION: &[u8] = b"is anybody there?";

fn main() -> Result<()> {
    let mut rooms = [Room::ZERO, Room::ZERO];
    let mut world = World::new(&mut rooms)?;
    world.run()?;
    println!("both nodes have joined: {}", if world.joined() { "yes" } else { "no" });

    let vip = world.resolve(1, SERVICE)?;
    println!("edge-1's DNS: {SERVICE} is at {vip}");
    println!("  asked for edge-2 at the same time: what is resolved will soon be connected to");

    let packet = udp(CLIENT, SocketAddrV4::new(vip, 80), QUESTION);
    world.send(1, &packet)?;
    let arrived = world.delivered(2)?;
    println!("a program on edge-1 sends {}", told(&packet)?);
    println!("  and edge-2 delivers     {}", told(&arrived)?);

    let (client, server) = addresses(&arrived)?;
    world.send(2, &udp(server, client, b"yes"))?;
    println!("the answer comes back as  {}", told(&world.delivered(1)?)?);

    let seen = |datagram: &Vec<u8>| datagram.windows(QUESTION.len()).any(|part| part == QUESTION);
    let (datagrams, read) = (world.wire.len(), world.wire.iter().filter(|datagram| seen(datagram)).count());
    println!("{datagrams} datagrams crossed the wire; the question could be read in {read} of them");

    println!("edge-1 reaches edge-2 {}", world.path()?);
    world.wait_until_direct()?;
    println!("  and, some probes later, {}", world.path()?);
    if read == 0 { Ok(()) } else { Err("the question went in clear".into()) }
}

/// An IPv4 packet with a UDP datagram without checksum, which RFC 768 allows.
fn udp(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let length = |headers: usize| u16::try_from(payload.len().saturating_add(headers)).unwrap_or(u16::MAX);
    let total = length(28).to_be_bytes();
    let addresses = [from.ip().octets(), to.ip().octets()].concat();
    let ip = [&[0x45, 0][..], &total, &[0, 0, 0, 0, 64, 17, 0, 0], &addresses].concat();
    let ports =
        [from.port().to_be_bytes(), to.port().to_be_bytes(), length(8).to_be_bytes(), [0, 0]].concat();
    [&ip, &ports, payload].concat()
}

/// Source and destination of such a packet.
fn addresses(packet: &[u8]) -> Result<(SocketAddrV4, SocketAddrV4)> {
    let t = Transport::parse(packet)?;
    match (SocketAddr::new(t.src, t.src_port), SocketAddr::new(t.dst, t.dst_port)) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => Ok((from, to)),
        _ => Err("not IPv4".into()),
    }
}

fn told(packet: &[u8]) -> Result<String> {
    let (from, to) = addresses(packet)?;
    let payload = String::from_utf8_lossy(packet.get(28..).unwrap_or_default());
    Ok(format!("{from} -> {to} {payload:?}"))
}

#[cfg(test)]
#[test]
fn the_story_comes_to_its_end() -> Result<()> {
    main()
}
