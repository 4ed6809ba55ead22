//! The UDP sockets that carry the tunnel.
//!
//! A [`Socket`] sends a burst of equal datagrams with one system call (`UDP_SEGMENT`) and receives what the kernel
//! joined with one (`UDP_GRO`). Data may be fragmented on its way (DF clear): a path whose MTU is not known yet
//! must carry it all the same; [`Socket::send_probe`] alone sets DF. Where the kernel cannot cut a burst (a
//! device without checksum offload, a path narrower than the datagrams), it is sent one by one, which is
//! remembered: for the socket after `EIO`, for the destination and size after `EMSGSIZE` or `EINVAL`.
//!
//! Nothing a network does is fatal: unreachable networks, firewalls and full buffers are counted in
//! [`SendErrors`] and the datagram is lost, as UDP may. Bounds: [`MAX_BURST`] datagrams and 65,507 bytes per
//! burst handed to the kernel (longer ones are split), a table of 32 destinations. Not thread-safe by intent: one
//! thread owns a socket.

mod narrow;

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use crate::sys::{option, socket};
use narrow::Narrow;

/// Datagrams in one burst: `UDP_MAX_SEGMENTS` of the kernels that have the fewest.
pub const MAX_BURST: usize = 64;
/// Bytes that hold everything one receive can bring.
pub const RECEIVE_BUFFER: usize = 65_535;

/// Largest UDP payload over IPv4; a burst is cut from one of at most this size.
const MAX_PAYLOAD: usize = 65_507;
/// What is asked for as socket buffers, in bytes: a burst of 100 ms at 300 Mbit/s.
const SOCKET_BUFFER: libc::c_int = 4 << 20;

/// Datagrams that could not be sent, by cause.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SendErrors {
    /// No route, or a host or network that does not answer.
    pub unreachable: u64,
    /// A firewall or policy of this machine.
    pub denied: u64,
    /// Larger than the kernel sends at all.
    pub too_big: u64,
    /// No room in the socket's or the device's queue.
    pub full: u64,
    /// Anything else.
    pub other: u64,
}

impl SendErrors {
    fn count(&mut self, error: &io::Error, datagrams: u64) {
        let counter = match error.raw_os_error() {
            Some(
                libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EADDRNOTAVAIL | libc::EINVAL,
            ) => &mut self.unreachable,
            Some(libc::EPERM | libc::EACCES) => &mut self.denied,
            Some(libc::EMSGSIZE) => &mut self.too_big,
            Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => &mut self.full,
            _ => &mut self.other,
        };
        *counter = counter.saturating_add(datagrams);
    }
}

/// What one receive brought: one datagram, or several of one sender that the kernel joined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// Bytes in the buffer.
    pub len: usize,
    /// Bytes of each datagram but the last.
    pub segment: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// Our address that it came to, to answer from.
    pub to: Option<IpAddr>,
}

impl Received {
    /// Where each datagram lies in the buffer.
    pub fn datagrams(&self) -> impl Iterator<Item = core::ops::Range<usize>> + use<> {
        let Self { len, segment, .. } = *self;
        (0..len.max(1)).step_by(segment.max(1)).map(move |start| start..(start + segment).min(len))
    }
}

/// A bound UDP socket of one family.
pub struct Socket {
    socket: UdpSocket,
    /// Whether the kernel cuts bursts at all.
    bursts: bool,
    narrow: Narrow,
    errors: SendErrors,
    truncated: u64,
}

impl Socket {
    /// Binds to `address`. A socket bound to an IPv6 address carries IPv6 only.
    ///
    /// # Errors
    /// As `bind(2)`: port in use, address not of this machine, family not available.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = socket::udp(address)?;
        let fd = socket.as_fd();
        if address.is_ipv4() {
            option::set(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
        } else {
            option::set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        }
        // Speed only: kernels without these (before 4.18 and 5.0) send and receive one by one.
        let bursts = option::get(fd, libc::SOL_UDP, libc::UDP_SEGMENT).is_ok();
        let _ = option::set(fd, libc::SOL_UDP, libc::UDP_GRO, 1);
        option::set_buffers(fd, SOCKET_BUFFER);
        let this =
            Self { socket, bursts, narrow: Narrow::new(), errors: SendErrors::default(), truncated: 0 };
        this.set_dont_fragment(false)?;
        Ok(this)
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// As `getsockname(2)`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// What could not be sent since it was bound.
    pub fn errors(&self) -> SendErrors {
        self.errors
    }

    /// Received datagrams that were dropped because the buffer was too small.
    pub fn truncated(&self) -> u64 {
        self.truncated
    }

    /// Sends `datagrams` in order to `to`, from our address `from` when given. All but the last must be of one
    /// size and the last no longer. Returns how many the kernel took; the others are in [`Socket::errors`].
    pub fn send(&mut self, to: SocketAddr, from: Option<IpAddr>, datagrams: &[IoSlice<'_>]) -> usize {
        let size = datagrams.first().map_or(0, |first| first.len());
        let per_burst = MAX_PAYLOAD.checked_div(size).unwrap_or(1).clamp(1, MAX_BURST);
        datagrams.chunks(per_burst).map(|burst| self.send_burst(to, from, size, burst)).sum()
    }

    fn send_burst(
        &mut self,
        to: SocketAddr,
        from: Option<IpAddr>,
        size: usize,
        burst: &[IoSlice<'_>],
    ) -> usize {
        if burst.len() > 1 && self.bursts && self.narrow.allows(to.ip(), size) {
            match socket::send(self.socket.as_fd(), to, from, u16::try_from(size).ok(), burst) {
                Ok(_) => return burst.len(),
                Err(e) => match e.raw_os_error() {
                    Some(libc::EIO | libc::EOPNOTSUPP) => self.bursts = false,
                    Some(libc::EMSGSIZE | libc::EINVAL) => self.narrow.learn(to.ip(), size),
                    _ => {
                        self.errors.count(&e, burst.len() as u64);
                        return 0;
                    }
                },
            }
        }
        let mut sent = 0;
        for one in burst {
            match socket::send(self.socket.as_fd(), to, from, None, core::slice::from_ref(one)) {
                Ok(_) => sent += 1,
                Err(e) => self.errors.count(&e, 1),
            }
        }
        sent
    }

    /// Sends one datagram that must not be fragmented, to learn whether the path carries its size.
    ///
    /// # Errors
    /// `EMSGSIZE` when it exceeds the outgoing device's MTU; otherwise as `sendmsg(2)`. Not counted in
    /// [`Socket::errors`].
    pub fn send_probe(&mut self, to: SocketAddr, from: Option<IpAddr>, datagram: &[u8]) -> io::Result<()> {
        self.set_dont_fragment(true)?;
        let sent = socket::send(self.socket.as_fd(), to, from, None, &[IoSlice::new(datagram)]);
        self.set_dont_fragment(false)?;
        sent.map(drop)
    }

    /// Receives into `buffer`, which should be of [`RECEIVE_BUFFER`] bytes; `None` when nothing waits.
    ///
    /// # Errors
    /// As `recvmsg(2)`, none of them lasting.
    pub fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        loop {
            match socket::receive(self.socket.as_fd(), buffer) {
                Ok(got) if got.truncated => self.truncated = self.truncated.saturating_add(1),
                Ok(got) => {
                    let segment = got.segment.filter(|n| *n > 0).unwrap_or(got.len);
                    return Ok(Some(Received { len: got.len, segment, from: got.from, to: got.to }));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// With DF the kernel also ignores what it believes of the path's MTU: a probe is to find out.
    fn set_dont_fragment(&self, on: bool) -> io::Result<()> {
        let fd = self.socket.as_fd();
        if self.socket.local_addr()?.is_ipv4() {
            let value = if on { libc::IP_PMTUDISC_PROBE } else { libc::IP_PMTUDISC_DONT };
            return option::set(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, value);
        }
        let value = if on { libc::IPV6_PMTUDISC_PROBE } else { libc::IPV6_PMTUDISC_DONT };
        option::set(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, value)?;
        option::set(fd, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, libc::c_int::from(on))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests;
