//! Sockets that the standard library cannot make or use to the full: netlink, and UDP with control messages.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::{check, check_len, option};

/// A new netlink socket of the family given (`NETLINK_ROUTE` ..).
pub(crate) fn netlink(family: libc::c_int, blocking: bool) -> io::Result<OwnedFd> {
    let flags = if blocking { 0 } else { libc::SOCK_NONBLOCK };
    let fd = open(libc::AF_NETLINK, libc::SOCK_RAW | flags, family)?;
    // SAFETY: sockaddr_nl is a C struct of integers, for which all-zero is a valid value.
    let mut name: libc::sockaddr_nl = unsafe { core::mem::zeroed() };
    name.nl_family = libc::AF_NETLINK as _;
    // An unbound socket has port 0, which multicasts take for the requester that they leave out.
    // SAFETY: `name` is a valid netlink address of the length given and outlives the call.
    check(unsafe {
        libc::bind(fd.as_raw_fd(), (&raw const name).cast(), size_of::<libc::sockaddr_nl>() as _)
    })?;
    Ok(fd)
}

fn open(domain: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer.
    let fd = check(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: the call returned a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A nonblocking UDP socket bound to `address`; an IPv6 one carries IPv6 only.
pub(crate) fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let domain = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let fd = open(domain, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK, 0)?;
    if address.is_ipv6() {
        option::set(fd.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    let name = Name::of(address);
    // SAFETY: `name` holds a valid socket address of `name.len` bytes and outlives the call.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const name.storage).cast(), name.len) })?;
    Ok(UdpSocket::from(fd))
}

/// A socket address in the kernel's form.
struct Name {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl Name {
    fn empty() -> Self {
        // SAFETY: sockaddr_storage is a C struct of integers, for which all-zero is a valid value.
        Self { storage: unsafe { core::mem::zeroed() }, len: size_of::<libc::sockaddr_storage>() as _ }
    }

    fn of(address: SocketAddr) -> Self {
        let mut name = Self::empty();
        match address {
            SocketAddr::V4(v4) => {
                // SAFETY: sockaddr_storage is large and aligned enough for every socket address.
                let to = unsafe { &mut *(&raw mut name.storage).cast::<libc::sockaddr_in>() };
                to.sin_family = libc::AF_INET as _;
                to.sin_port = v4.port().to_be();
                to.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                name.len = size_of::<libc::sockaddr_in>() as _;
            }
            SocketAddr::V6(v6) => {
                // SAFETY: as above.
                let to = unsafe { &mut *(&raw mut name.storage).cast::<libc::sockaddr_in6>() };
                to.sin6_family = libc::AF_INET6 as _;
                to.sin6_port = v6.port().to_be();
                to.sin6_addr.s6_addr = v6.ip().octets();
                to.sin6_scope_id = v6.scope_id();
                name.len = size_of::<libc::sockaddr_in6>() as _;
            }
        }
        name
    }

    fn address(&self) -> Option<SocketAddr> {
        match libc::c_int::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the kernel wrote a sockaddr_in, as its family says; the storage is large enough.
                let from = unsafe { &*(&raw const self.storage).cast::<libc::sockaddr_in>() };
                Some(SocketAddr::V4(SocketAddrV4::new(v4(from.sin_addr), u16::from_be(from.sin_port))))
            }
            libc::AF_INET6 => {
                // SAFETY: as above, for sockaddr_in6.
                let from = unsafe { &*(&raw const self.storage).cast::<libc::sockaddr_in6>() };
                let ip = Ipv6Addr::from(from.sin6_addr.s6_addr);
                Some(SocketAddr::V6(SocketAddrV6::new(
                    ip,
                    u16::from_be(from.sin6_port),
                    0,
                    from.sin6_scope_id,
                )))
            }
            _ => None,
        }
    }
}

fn v4(address: libc::in_addr) -> Ipv4Addr {
    Ipv4Addr::from(address.s_addr.to_ne_bytes())
}

/// Room for the control messages of one datagram, aligned as `cmsghdr` asks.
#[repr(C, align(8))]
struct Control([u8; 128]);

/// Sends one datagram, or with `segment` a burst that the kernel cuts into datagrams of that many bytes.
pub(crate) fn send(
    fd: BorrowedFd<'_>,
    to: SocketAddr,
    from: Option<IpAddr>,
    segment: Option<u16>,
    parts: &[IoSlice<'_>],
) -> io::Result<usize> {
    let mut name = Name::of(to);
    let mut control = Control([0; 128]);
    // SAFETY: msghdr is a C struct of integers and pointers, for which all-zero is a valid value.
    let mut message: libc::msghdr = unsafe { core::mem::zeroed() };
    message.msg_name = (&raw mut name.storage).cast();
    message.msg_namelen = name.len;
    // IoSlice is guaranteed to have the layout of iovec; sendmsg does not write through it.
    message.msg_iov = parts.as_ptr().cast_mut().cast();
    message.msg_iovlen = parts.len() as _;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    let mut used = 0;
    if let Some(bytes) = segment {
        used += put_control(&message, used, libc::SOL_UDP, libc::UDP_SEGMENT, bytes);
    }
    match from {
        Some(IpAddr::V4(ip)) => {
            let source = libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) };
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: source,
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            used += put_control(&message, used, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
        }
        Some(IpAddr::V6(ip)) => {
            let source = libc::in6_addr { s6_addr: ip.octets() };
            let info = libc::in6_pktinfo { ipi6_addr: source, ipi6_ifindex: 0 };
            used += put_control(&message, used, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
        }
        None => {}
    }
    message.msg_controllen = used as _;
    if used == 0 {
        message.msg_control = core::ptr::null_mut();
    }
    // SAFETY: every pointer in `message` is to a local or to `parts`, all of which outlive the call, with the
    // lengths that belong to them.
    check_len(unsafe { libc::sendmsg(fd.as_raw_fd(), &message, libc::MSG_NOSIGNAL) })
}

/// Writes one control message behind `used` bytes of others and returns its size.
fn put_control<T: Copy>(
    message: &libc::msghdr,
    used: usize,
    level: libc::c_int,
    kind: libc::c_int,
    value: T,
) -> usize {
    // SAFETY: CMSG_SPACE and CMSG_LEN are arithmetic.
    let (space, len) =
        unsafe { (libc::CMSG_SPACE(size_of::<T>() as _) as usize, libc::CMSG_LEN(size_of::<T>() as _)) };
    assert!(used + space <= size_of::<Control>(), "control messages exceed their buffer");
    // SAFETY: the message's control buffer is a `Control`, aligned for cmsghdr, and `used`, a sum of CMSG_SPACE
    // values, keeps that alignment; header and value lie inside it as was just checked.
    unsafe {
        let header = message.msg_control.cast::<u8>().add(used).cast::<libc::cmsghdr>();
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = len as _;
        libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
    }
    space
}

/// What one receive brought.
#[derive(Debug)]
pub(crate) struct Datagrams {
    /// Bytes in the buffer.
    pub(crate) len: usize,
    /// The buffer was too small.
    pub(crate) truncated: bool,
    pub(crate) from: SocketAddr,
    /// Our address that it came to.
    pub(crate) to: Option<IpAddr>,
    /// Bytes of each datagram but the last, when the kernel joined several.
    pub(crate) segment: Option<usize>,
}

/// Receives one datagram or one burst that the kernel joined.
pub(crate) fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Datagrams> {
    let mut name = Name::empty();
    let mut control = Control([0; 128]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: msghdr is a C struct of integers and pointers, for which all-zero is a valid value.
    let mut message: libc::msghdr = unsafe { core::mem::zeroed() };
    message.msg_name = (&raw mut name.storage).cast();
    message.msg_namelen = name.len;
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: every pointer in `message` is to a local or to `buffer`, all of which outlive the call and are
    // exclusively borrowed, with the lengths that belong to them.
    let len = check_len(unsafe { libc::recvmsg(fd.as_raw_fd(), &mut message, 0) })?;
    let from = name.address().ok_or(io::ErrorKind::InvalidData)?;
    let truncated = message.msg_flags & libc::MSG_TRUNC != 0;
    let mut datagrams = Datagrams { len, truncated, from, to: None, segment: None };
    // SAFETY: the kernel wrote whole control messages and their total length; the macros stay inside it.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&message) };
    // SAFETY: `next` is null or points to a whole cmsghdr in `control`.
    while let Some(header) = unsafe { next.as_ref() } {
        // SAFETY: arithmetic on a header inside `control`.
        let data = unsafe { libc::CMSG_DATA(header) };
        match (header.cmsg_level, header.cmsg_type) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                // SAFETY: UDP_GRO carries one int.
                let bytes = unsafe { data.cast::<libc::c_int>().read_unaligned() };
                datagrams.segment = usize::try_from(bytes).ok();
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // SAFETY: IP_PKTINFO carries one in_pktinfo.
                let info = unsafe { data.cast::<libc::in_pktinfo>().read_unaligned() };
                datagrams.to = Some(IpAddr::V4(v4(info.ipi_spec_dst)));
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                // SAFETY: IPV6_PKTINFO carries one in6_pktinfo.
                let info = unsafe { data.cast::<libc::in6_pktinfo>().read_unaligned() };
                datagrams.to = Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)));
            }
            _ => {}
        }
        // SAFETY: `header` lies in the message's control buffer.
        next = unsafe { libc::CMSG_NXTHDR(&message, header) };
    }
    Ok(datagrams)
}
