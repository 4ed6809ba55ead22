//! Datagrams of many flows, as a whole site's clients send them, made by one thread.

use super::{Sink, spread, udp};
use crate::meter::{Cost, Meter};
use edgemesh_lab::machine::Machine;
use edgemesh_lab::{Context, Error, Result, ensure};
use edgemesh_testkit::star::packets;
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// Bytes of a datagram, headers included.
const SIZE: usize = 28 + 64;
/// Where source port and checksum are in it.
const PORT: usize = 20;
const CHECKSUM: usize = 26;
/// The first flow's source port.
const FIRST: u16 = 2_000;

/// Sends small datagrams as fast as it can, of each flow one before any has a second; the cost of those that arrived.
///
/// # Errors
/// When the socket cannot be had, or nothing arrives.
pub(crate) fn flood_flows(
    from: &Machine,
    to: (Ipv4Addr, u16),
    flows: u16,
    sink: &Sink,
    meter: &Meter,
    span: Duration,
) -> Result<Cost> {
    let own = match udp(from, to.into())?.local_addr().context("own address")?.ip() {
        IpAddr::V4(own) => own,
        IpAddr::V6(own) => return Err(Error::new(format!("{own} talks to an IPv4 address"))),
    };
    // The kernel fills in what the header lacks (raw(7)).
    let raw = Protocol::from(255);
    let socket = from.ns.enter(|| Socket::new(Domain::IPV4, Type::RAW, Some(raw)))?.context("raw socket")?;
    let target = SocketAddr::from(to).into();
    let mut datagram = packets::udp((own, FIRST), to, SIZE);
    // None, as RFC 768 allows: the port changes.
    datagram[CHECKSUM..CHECKSUM + 2].fill(0);
    let mut send = |flow: u16| {
        datagram[PORT..PORT + 2].copy_from_slice(&(FIRST + flow).to_be_bytes());
        // No room in the queue: the next one may find some.
        let _ = socket.send_to(&datagram, &target);
    };
    // Their tables' places in another order than that of use.
    (0..flows).for_each(&mut send);
    let (before, taken, began) = (meter.sample()?, sink.datagrams(), Instant::now());
    let mut order = spread(flows).cycle();
    while began.elapsed() < span {
        order.by_ref().take(64).for_each(&mut send);
    }
    let cost = meter.since(&before, sink.datagrams() - taken)?;
    ensure!(cost.amount > 0, "nothing arrived from {}", SocketAddr::from(to));
    Ok(cost)
}
