//! Links, addresses and routes through rtnetlink (`rtnetlink(7)`), and news of their changes.
//!
//! [`Netlink`] is a blocking request-and-answer client without an async runtime: set-up, `cleanup` and the
//! keeper run a handful of requests, each answered by the kernel at once. [`Monitor`] is a nonblocking stream of
//! changes. Written on plain sockets because the agent needs seven requests, and a typed netlink stack brings a
//! dozen crates and an executor.
//!
//! Bounds: one receive buffer of 64 KiB; a dump that keeps changing under our eyes is retried five times. It
//! decides nothing: what ought to be there is [`crate::interception`]'s.

mod monitor;
pub(crate) mod wire;

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use crate::prefix::Prefix;
use crate::sys;
use wire::{Message, Request};

pub use monitor::{Change, Monitor};

/// `rtm_protocol` of our routes: how they are told from others', by us and by `ip route` (`proto 237`).
pub const ROUTE_PROTOCOL: u8 = 237;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;

const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const IFLA_GSO_MAX_SIZE: u16 = 41;
const IFLA_INFO_KIND: u16 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 2;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;

const RT_TABLE_MAIN: u8 = 254;

/// A network device.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is (`tun`, `dummy`, `bridge` ..); empty for hardware.
    pub kind: String,
    /// The free text that `ip link set .. alias` gives it.
    pub alias: String,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Largest super-packet in bytes; zero when the kernel does not tell.
    pub gso_max_size: u32,
}

/// What to change on a device; `None` leaves a field alone.
#[derive(Clone, Debug, Default)]
pub struct LinkChange<'a> {
    /// Largest packet in bytes.
    pub mtu: Option<u32>,
    /// Largest super-packet in bytes.
    pub gso_max_size: Option<u32>,
    /// The free text.
    pub alias: Option<&'a str>,
    /// Bring it up.
    pub up: bool,
    /// Give it no IPv6 link-local address; to be asked for before it is up.
    pub no_link_local: bool,
}

/// How far an address is valid (`rtm_scope`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Everywhere: it may become a source address.
    Global,
    /// Only on this machine: it is never chosen as a source towards others.
    Host,
}

/// An address of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address {
    /// The device's number.
    pub index: u32,
    /// The address itself.
    pub ip: IpAddr,
    /// Length of its prefix in bits.
    pub bits: u8,
}

/// What a route does with packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RouteKind {
    /// Sends them on.
    Unicast,
    /// Delivers them to this machine.
    Local,
    /// Drops them (`blackhole`, `unreachable`, `prohibit`, `throw`).
    Refusal,
    /// Broadcast, multicast and the rest.
    Other,
}

/// A route in any table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// Where to.
    pub to: Prefix,
    /// The device's number; zero when it has none.
    pub device: u32,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// The table; 254 is `main`, 255 `local`.
    pub table: u32,
    /// Who made it; ours have [`ROUTE_PROTOCOL`].
    pub protocol: u8,
    /// What it does.
    pub kind: RouteKind,
    /// The metric; lower wins.
    pub priority: u32,
}

impl Route {
    /// Whether this agent made it.
    pub fn is_ours(&self) -> bool {
        self.protocol == ROUTE_PROTOCOL
    }
}

/// A client of the kernel's routing configuration, in the network namespace of the thread that opened it.
pub struct Netlink {
    socket: File,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens it.
    ///
    /// # Errors
    /// As `socket(2)`.
    pub fn open() -> io::Result<Self> {
        let fd = sys::socket::netlink(libc::NETLINK_ROUTE, true)?;
        sys::option::set_read_timeout(fd.as_fd(), Duration::from_secs(5))?;
        Ok(Self { socket: File::from(fd), sequence: 0, buffer: vec![0; 64 * 1024] })
    }

    /// The device `name`; `None` when there is none.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let request =
            Request::new(RTM_GETLINK, 0, &link_body(0, false)).attribute(IFLA_IFNAME, &terminated(name));
        let mut found = None;
        match self.exchange(request, |message| found = parse_link(message).or(found.take())) {
            Ok(()) => Ok(found),
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Every device.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        self.dump(RTM_GETLINK, &link_body(0, false), parse_link)
    }

    /// Changes the device with number `index`.
    ///
    /// # Errors
    /// As the kernel answers; `EPERM` without CAP_NET_ADMIN.
    pub fn change_link(&mut self, index: u32, change: &LinkChange<'_>) -> io::Result<()> {
        let mut request = Request::new(RTM_SETLINK, 0, &link_body(index, change.up));
        if let Some(mtu) = change.mtu {
            request = request.number(IFLA_MTU, mtu);
        }
        if let Some(size) = change.gso_max_size {
            request = request.number(IFLA_GSO_MAX_SIZE, size);
        }
        if let Some(alias) = change.alias {
            request = request.attribute(IFLA_IFALIAS, alias.as_bytes());
        }
        if change.no_link_local {
            let mode = wire::attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
            let family = wire::attribute(libc::AF_INET6 as u16, &mode);
            request = request.attribute(IFLA_AF_SPEC, &family);
        }
        self.command(request)
    }

    /// Removes the device with number `index`, its addresses and its routes.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn delete_link(&mut self, index: u32) -> io::Result<()> {
        self.command(Request::new(RTM_DELLINK, 0, &link_body(index, false)))
    }

    /// Every address, in the order in which devices prefer them.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn addresses(&mut self) -> io::Result<Vec<Address>> {
        self.dump(RTM_GETADDR, &[0; 8], parse_address)
    }

    /// Gives `ip` as a host address to the device with number `index`; an address that it has is fine.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn add_address(&mut self, index: u32, ip: IpAddr, scope: Scope) -> io::Result<()> {
        let flags = wire::NLM_F_CREATE | wire::NLM_F_EXCL;
        match self.command(address_request(RTM_NEWADDR, flags, index, ip, scope)) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    /// Takes `ip` from the device with number `index`.
    ///
    /// # Errors
    /// As the kernel answers; `EADDRNOTAVAIL` when it has no such address.
    pub fn delete_address(&mut self, index: u32, ip: IpAddr) -> io::Result<()> {
        self.command(address_request(RTM_DELADDR, 0, index, ip, Scope::Global))
    }

    /// Every route of every table and both families.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn routes(&mut self) -> io::Result<Vec<Route>> {
        self.dump(RTM_GETROUTE, &[0; 12], parse_route)
    }

    /// Adds our route to `to` through a device, with the preferred source given.
    ///
    /// # Errors
    /// `EEXIST` when the main table holds a route to the very same prefix; otherwise as the kernel answers.
    pub fn add_route(&mut self, to: Prefix, device: u32, source: Option<IpAddr>) -> io::Result<()> {
        let flags = wire::NLM_F_CREATE | wire::NLM_F_EXCL;
        self.command(route_request(RTM_NEWROUTE, flags, to, device, source))
    }

    /// The same in place of a route to the very same prefix.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn replace_route(&mut self, to: Prefix, device: u32, source: Option<IpAddr>) -> io::Result<()> {
        let flags = wire::NLM_F_CREATE | wire::NLM_F_REPLACE;
        self.command(route_request(RTM_NEWROUTE, flags, to, device, source))
    }

    /// Removes our route to `to` through a device.
    ///
    /// # Errors
    /// `ESRCH` when there is none.
    pub fn delete_route(&mut self, to: Prefix, device: u32) -> io::Result<()> {
        self.command(route_request(RTM_DELROUTE, 0, to, device, None))
    }

    fn command(&mut self, request: Request) -> io::Result<()> {
        self.exchange(request, |_| ())
    }

    /// Sends `request` and hands every message of the answer to `each` until it is acknowledged.
    fn exchange(&mut self, request: Request, mut each: impl FnMut(&Message<'_>)) -> io::Result<()> {
        self.send(request, wire::NLM_F_ACK)?;
        loop {
            let n = self.socket.read(&mut self.buffer)?;
            for message in wire::messages(self.buffer.get(..n).unwrap_or_default()) {
                match (message.sequence == self.sequence, message.kind) {
                    (false, _) => {}
                    (true, wire::NLMSG_ERROR) => return code_to_result(message.error_code()),
                    (true, _) => each(&message),
                }
            }
        }
    }

    fn dump<T>(
        &mut self,
        kind: u16,
        body: &[u8],
        parse: impl Fn(&Message<'_>) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..5 {
            if let Some(all) = self.dump_once(Request::new(kind, 0, body), &parse)? {
                return Ok(all);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            "the kernel's tables kept changing while they were read",
        ))
    }

    /// `None` when the table changed under the dump.
    fn dump_once<T>(
        &mut self,
        request: Request,
        parse: &impl Fn(&Message<'_>) -> Option<T>,
    ) -> io::Result<Option<Vec<T>>> {
        self.send(request, wire::NLM_F_DUMP)?;
        let (mut all, mut whole) = (Vec::new(), true);
        loop {
            let n = self.socket.read(&mut self.buffer)?;
            for message in wire::messages(self.buffer.get(..n).unwrap_or_default()) {
                if message.sequence != self.sequence {
                    continue;
                }
                whole &= message.flags & wire::NLM_F_DUMP_INTR == 0;
                match message.kind {
                    wire::NLMSG_ERROR => code_to_result(message.error_code())?,
                    wire::NLMSG_DONE => {
                        code_to_result(message.error_code())?;
                        return Ok(whole.then_some(all));
                    }
                    _ => all.extend(parse(&message)),
                }
            }
        }
    }

    fn send(&mut self, request: Request, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let mut bytes = request.finish(self.sequence);
        let all = wire::u16_at(&bytes, 6).unwrap_or_default() | flags;
        bytes[6..8].copy_from_slice(&all.to_ne_bytes());
        self.socket.write_all(&bytes)
    }
}

fn code_to_result(code: i32) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code.wrapping_neg())) }
}

fn terminated(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// `struct ifinfomsg`.
fn link_body(index: u32, up: bool) -> [u8; 16] {
    let mut body = [0; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    if up {
        let bit = (libc::IFF_UP as u32).to_ne_bytes();
        body[8..12].copy_from_slice(&bit);
        body[12..16].copy_from_slice(&bit);
    }
    body
}

/// `struct ifaddrmsg` and the address.
fn address_request(kind: u16, flags: u16, index: u32, ip: IpAddr, scope: Scope) -> Request {
    const SCOPE_HOST: u8 = 254;
    let scope = match scope {
        Scope::Global => 0,
        Scope::Host => SCOPE_HOST,
    };
    let [a, b, c, d] = index.to_ne_bytes();
    match ip {
        IpAddr::V4(v4) => Request::new(kind, flags, &[libc::AF_INET as u8, 32, 0, scope, a, b, c, d])
            .attribute(IFA_LOCAL, &v4.octets())
            .attribute(IFA_ADDRESS, &v4.octets()),
        // The kernel derives the scope of an IPv6 address from the address.
        IpAddr::V6(v6) => Request::new(kind, flags, &[libc::AF_INET6 as u8, 128, IFA_F_NODAD, 0, a, b, c, d])
            .attribute(IFA_ADDRESS, &v6.octets()),
    }
}

/// `struct rtmsg` and its attributes.
fn route_request(kind: u16, flags: u16, to: Prefix, device: u32, source: Option<IpAddr>) -> Request {
    const SCOPE_LINK: u8 = 253;
    const UNICAST: u8 = 1;
    let (family, scope) = if to.is_ipv6() { (libc::AF_INET6, 0) } else { (libc::AF_INET, SCOPE_LINK) };
    let body = [family as u8, to.bits(), 0, 0, RT_TABLE_MAIN, ROUTE_PROTOCOL, scope, UNICAST, 0, 0, 0, 0];
    let mut request = Request::new(kind, flags, &body);
    request = with_ip(request, RTA_DST, to.address()).number(RTA_OIF, device);
    match source {
        Some(source) => with_ip(request, RTA_PREFSRC, source),
        None => request,
    }
}

fn with_ip(request: Request, kind: u16, ip: IpAddr) -> Request {
    match ip {
        IpAddr::V4(v4) => request.attribute(kind, &v4.octets()),
        IpAddr::V6(v6) => request.attribute(kind, &v6.octets()),
    }
}

fn parse_ip(value: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(value)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from))
        .ok()
}

fn parse_link(message: &Message<'_>) -> Option<Link> {
    if message.kind != RTM_NEWLINK && message.kind != RTM_DELLINK {
        return None;
    }
    let mut link = Link {
        index: wire::u32_at(message.body, 4)?,
        up: wire::u32_at(message.body, 8)? & libc::IFF_UP as u32 != 0,
        ..Link::default()
    };
    for (kind, value) in wire::attributes(message.body.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = wire::text(value),
            IFLA_IFALIAS => link.alias = wire::text(value),
            IFLA_MTU => link.mtu = wire::u32_at(value, 0)?,
            IFLA_GSO_MAX_SIZE => link.gso_max_size = wire::u32_at(value, 0)?,
            IFLA_LINKINFO => {
                link.kind = wire::attributes(value)
                    .find(|(kind, _)| *kind == IFLA_INFO_KIND)
                    .map(|(_, value)| wire::text(value))
                    .unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(link)
}

fn parse_address(message: &Message<'_>) -> Option<Address> {
    if message.kind != RTM_NEWADDR && message.kind != RTM_DELADDR {
        return None;
    }
    let bits = *message.body.get(1)?;
    let index = wire::u32_at(message.body, 4)?;
    let (mut local, mut address) = (None, None);
    for (kind, value) in wire::attributes(message.body.get(8..)?) {
        match kind {
            IFA_LOCAL => local = parse_ip(value),
            IFA_ADDRESS => address = parse_ip(value),
            _ => {}
        }
    }
    Some(Address { index, ip: local.or(address)?, bits })
}

fn parse_route(message: &Message<'_>) -> Option<Route> {
    const CLONED: u32 = 0x200;
    if message.kind != RTM_NEWROUTE && message.kind != RTM_DELROUTE {
        return None;
    }
    let &[family, bits, _, _, table, protocol, _, kind, ..] = message.body else { return None };
    if wire::u32_at(message.body, 8)? & CLONED != 0 {
        return None;
    }
    let any = match libc::c_int::from(family) {
        libc::AF_INET => IpAddr::from([0; 4]),
        libc::AF_INET6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let mut to = any;
    let mut route = Route {
        to: Prefix::host(any),
        device: 0,
        source: None,
        table: u32::from(table),
        protocol,
        kind: match kind {
            1 => RouteKind::Unicast,
            2 => RouteKind::Local,
            6..=9 => RouteKind::Refusal,
            _ => RouteKind::Other,
        },
        priority: 0,
    };
    for (kind, value) in wire::attributes(message.body.get(12..)?) {
        match kind {
            RTA_DST => to = parse_ip(value)?,
            RTA_OIF => route.device = wire::u32_at(value, 0)?,
            RTA_PREFSRC => route.source = parse_ip(value),
            RTA_PRIORITY => route.priority = wire::u32_at(value, 0)?,
            RTA_TABLE => route.table = wire::u32_at(value, 0)?,
            _ => {}
        }
    }
    route.to = Prefix::new(to, bits)?;
    Some(route)
}
