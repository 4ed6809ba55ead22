//! The UDP sockets of probes: one for each address at which this node may be probed, and one of each family that
//! sends as the kernel chooses. Ports are the kernel's choice; offers tell them.

use super::message::{DATAGRAM_MAX, Place};
use super::sight::Sight;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A datagram that came in.
#[derive(Debug)]
pub(super) struct Came {
    pub(super) from: SocketAddr,
    /// The address that it was sent to; `None` at the sockets of no address.
    pub(super) to: Option<IpAddr>,
    pub(super) bytes: Vec<u8>,
}

struct Socket {
    socket: std::net::UdpSocket,
    reader: JoinHandle<()>,
    /// See [`Place::pods`].
    pods: bool,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// See the module's documentation.
pub(super) struct Sockets {
    came: mpsc::Sender<Came>,
    open: BTreeMap<IpAddr, Socket>,
}

impl Sockets {
    /// None yet; what comes in goes there.
    pub(super) fn new(came: mpsc::Sender<Came>) -> Self {
        Self { came, open: BTreeMap::new() }
    }

    pub(super) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Has one at each of the addresses as they are now. One that cannot be opened is left out.
    pub(super) fn open(&mut self, sight: &Sight) {
        let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let wanted: BTreeMap<IpAddr, bool> = any
            .iter()
            .chain(&sight.node)
            .map(|ip| (*ip, false))
            .chain(sight.pods.iter().map(|ip| (*ip, true)))
            .collect();
        self.open.retain(|ip, socket| wanted.get(ip) == Some(&socket.pods));
        for (ip, pods) in wanted {
            if !self.open.contains_key(&ip)
                && let Some(socket) = self.bind(ip, pods)
            {
                self.open.insert(ip, socket);
            }
        }
    }

    fn bind(&self, ip: IpAddr, pods: bool) -> Option<Socket> {
        let socket = std::net::UdpSocket::bind((ip, 0)).ok()?;
        socket.set_nonblocking(true).ok()?;
        let reading = UdpSocket::from_std(socket.try_clone().ok()?).ok()?;
        let to = Some(ip).filter(|ip| !ip.is_unspecified());
        let reader = tokio::task::spawn_local(read(reading, to, self.came.clone()));
        Some(Socket { socket, reader, pods })
    }

    /// Where this node may be probed.
    pub(super) fn places(&self) -> Vec<Place> {
        let addressed = self.open.values().filter_map(|s| Some((s.socket.local_addr().ok()?, s.pods)));
        let mut places: Vec<_> = addressed
            .filter(|(at, _)| !at.ip().is_unspecified())
            .map(|(at, pods)| Place { at, pods })
            .collect();
        places.sort_by_key(|place| !place.pods);
        places
    }

    /// Sends from that address of this node, or as the kernel chooses. What cannot be sent was lost on the way.
    pub(super) fn send(&self, from: Option<IpAddr>, to: SocketAddr, datagram: &[u8]) {
        let any: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        if let Some(socket) = self.open.get(&from.unwrap_or(any)) {
            let _ = socket.socket.send_to(datagram, to);
        }
    }
}

async fn read(socket: UdpSocket, to: Option<IpAddr>, came: mpsc::Sender<Came>) {
    let mut room = [0; DATAGRAM_MAX + 1];
    loop {
        // An error is an ICMP message about an earlier datagram; the next call goes on.
        let Ok((len, from)) = socket.recv_from(&mut room).await else { continue };
        let bytes = room.get(..len).unwrap_or_default().to_vec();
        // A full queue loses it: who floods this cannot make it grow.
        let _ = came.try_send(Came { from, to, bytes });
    }
}
