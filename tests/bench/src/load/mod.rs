//! What makes and takes the load: plain threads of this process with blocking sockets in the nodes' namespaces.
//!
//! Servers run until the process ends. Clients stop when their value is dropped.

mod bulk;
mod flows;
mod queries;
mod servers;
mod small;

pub(crate) use bulk::{Sources, bulk};
pub(crate) use flows::flood_flows;
pub(crate) use queries::queries;
pub(crate) use servers::{Held, Sink, serve_echo, serve_once};
pub(crate) use small::{Pings, first_answer, flood, interactive, new_connections, pings, round_trips};

use edgemesh_lab::machine::Machine;
use edgemesh_lab::wait::secs;
use edgemesh_lab::{Context, Result};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};

/// The numbers below `count` in an order in which neighbours are far apart, each once.
pub(crate) fn spread(count: u16) -> impl Iterator<Item = u16> + Clone {
    /// A prime, so it divides none of our counts.
    const STEP: u32 = 7_919;
    let count = u32::from(count);
    (0..count).map(move |n| (n * STEP % count) as u16)
}

/// Connects from a machine.
///
/// # Errors
/// When nobody accepts within 5 s.
pub(crate) fn dial(from: &Machine, to: SocketAddr) -> Result<TcpStream> {
    let stream = from.ns.enter(|| TcpStream::connect_timeout(&to, secs(5)))?.context(to)?;
    stream.set_nodelay(true).context("nodelay")?;
    stream.set_read_timeout(Some(secs(5))).context("timeout")?;
    Ok(stream)
}

/// A UDP socket of a machine that talks to one address.
///
/// # Errors
/// When the kernel refuses.
fn udp(from: &Machine, to: SocketAddr) -> Result<UdpSocket> {
    let socket = from.ns.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?.context("UDP socket")?;
    socket.connect(to).context(to)?;
    socket.set_read_timeout(Some(secs(1))).context("timeout")?;
    Ok(socket)
}
