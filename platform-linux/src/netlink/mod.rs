//! Links, addresses and routes through rtnetlink (`rtnetlink(7)`), and news of their changes.
//!
//! [`Netlink`] is a blocking request-and-answer client without an async runtime: set-up, `cleanup` and the
//! keeper run a handful of requests, each answered by the kernel at once. [`Monitor`] is a nonblocking stream of
//! changes. Written on plain sockets because the agent needs seven requests, and a typed netlink stack brings a
//! dozen crates and an executor.
//!
//! Bounds: one receive buffer of 64 KiB; a dump that keeps changing under our eyes is retried five times. It
//! decides nothing: what ought to be there is [`crate::interception`]'s.

mod messages;
mod monitor;
mod netfilter;
pub(crate) mod wire;

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use crate::prefix::Prefix;
use crate::sys;
use messages::{
    IFLA_AF_SPEC, IFLA_GSO_MAX_SIZE, IFLA_IFALIAS, IFLA_IFNAME, IFLA_INET6_ADDR_GEN_MODE, IFLA_MTU,
    IN6_ADDR_GEN_MODE_NONE, RTM_DELADDR, RTM_DELLINK, RTM_DELROUTE, RTM_GETADDR, RTM_GETLINK, RTM_GETROUTE,
    RTM_NEWADDR, RTM_NEWROUTE, RTM_SETLINK, address_request, link_body, parse_address, parse_link,
    parse_route, route_request, terminated,
};
use wire::{Message, Request};

pub use monitor::{Change, Monitor};
pub use netfilter::{Connection, Netfilter};

/// `rtm_protocol` of our routes: how they are told from others', by us and by `ip route` (`proto 237`).
pub const ROUTE_PROTOCOL: u8 = 237;
/// The kernel's table `main`.
pub const MAIN_TABLE: u32 = libc::RT_TABLE_MAIN as u32;

/// How many links, addresses, routes and connections one read of a netlink socket tells of. The clients look for what
/// they asked for; this looks for all of it, for the parsers' sake.
pub fn understood(bytes: &[u8]) -> usize {
    let understood = |m: Message<'_>| {
        let known = [parse_link(&m).is_some(), parse_address(&m).is_some(), parse_route(&m).is_some()];
        known.into_iter().chain([netfilter::parse(&m).is_some()]).filter(|known| *known).count()
    };
    wire::messages(bytes).map(understood).sum()
}

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
    /// Whether the next hop is a router.
    pub by_gateway: bool,
    /// The table; [`MAIN_TABLE`], or 255 for `local`, among others.
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
        Self::of(libc::NETLINK_ROUTE)
    }

    fn of(family: libc::c_int) -> io::Result<Self> {
        let fd = sys::socket::netlink(family, true)?;
        sys::option::set_read_timeout(fd.as_fd(), Duration::from_secs(5))?;
        Ok(Self { socket: File::from(fd), sequence: 0, buffer: vec![0; 64 * 1024] })
    }

    /// The device `name`; `None` when there is none.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let request = Request::new(RTM_GETLINK, 0, &link_body(0, false));
        self.find_link(request.attribute(IFLA_IFNAME, &terminated(name)))
    }

    /// Every device.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        self.dump(RTM_GETLINK, &link_body(0, false), parse_link)
    }

    /// The device with number `index`; `None` when there is none.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn link_at(&mut self, index: u32) -> io::Result<Option<Link>> {
        self.find_link(Request::new(RTM_GETLINK, 0, &link_body(index, false)))
    }

    fn find_link(&mut self, request: Request) -> io::Result<Option<Link>> {
        let mut found = None;
        match self.exchange(request, |message| found = parse_link(message).or(found.take())) {
            Ok(()) => Ok(found),
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(e) => Err(e),
        }
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

    /// The route that a packet of this machine to `ip` takes; `None` when there is none.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn route_to(&mut self, ip: IpAddr) -> io::Result<Option<Route>> {
        let mut found = None;
        match self
            .exchange(messages::lookup_request(ip), |message| found = parse_route(message).or(found.take()))
        {
            Ok(()) => Ok(found),
            Err(e) if [Some(libc::ENETUNREACH), Some(libc::EHOSTUNREACH)].contains(&e.raw_os_error()) => {
                Ok(None)
            }
            Err(e) => Err(e),
        }
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
