//! The rtnetlink messages that we send and read: fixed parts, attribute numbers, and their meaning.
//!
//! Pure. Numbers are those of `linux/rtnetlink.h`, `linux/if_link.h` and `linux/if_addr.h`. Parsers return `None`
//! for messages of other types and for what does not add up.

use std::net::IpAddr;

use super::wire::{self, Message, Request};
use super::{Address, Link, MAIN_TABLE, ROUTE_PROTOCOL, Route, RouteKind, Scope};
use crate::prefix::Prefix;

const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;
pub(super) const RTM_GETLINK: u16 = 18;
pub(super) const RTM_SETLINK: u16 = 19;
pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_DELADDR: u16 = 21;
pub(super) const RTM_GETADDR: u16 = 22;
pub(super) const RTM_NEWROUTE: u16 = 24;
pub(super) const RTM_DELROUTE: u16 = 25;
pub(super) const RTM_GETROUTE: u16 = 26;

pub(super) const IFLA_IFNAME: u16 = 3;
pub(super) const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
pub(super) const IFLA_IFALIAS: u16 = 20;
pub(super) const IFLA_AF_SPEC: u16 = 26;
pub(super) const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
pub(super) const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
pub(super) const IFLA_GSO_MAX_SIZE: u16 = 41;
const IFLA_INFO_KIND: u16 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 2;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;

pub(super) fn terminated(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// `struct ifinfomsg`.
pub(super) fn link_body(index: u32, up: bool) -> [u8; 16] {
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
pub(super) fn address_request(kind: u16, flags: u16, index: u32, ip: IpAddr, scope: Scope) -> Request {
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
pub(super) fn route_request(
    kind: u16,
    flags: u16,
    to: Prefix,
    device: u32,
    source: Option<IpAddr>,
) -> Request {
    const SCOPE_LINK: u8 = 253;
    const UNICAST: u8 = 1;
    let (family, scope) = if to.is_ipv6() { (libc::AF_INET6, 0) } else { (libc::AF_INET, SCOPE_LINK) };
    let body = [family as u8, to.bits(), 0, 0, MAIN_TABLE as u8, ROUTE_PROTOCOL, scope, UNICAST, 0, 0, 0, 0];
    let mut request = Request::new(kind, flags, &body);
    request = with_ip(request, RTA_DST, to.address()).number(RTA_OIF, device);
    match source {
        Some(source) => with_ip(request, RTA_PREFSRC, source),
        None => request,
    }
}

/// A question for the route that a packet to `ip` takes.
pub(super) fn lookup_request(ip: IpAddr) -> Request {
    /// Answer with the route as it stands in its table.
    const FIB_MATCH: u32 = 0x2000;
    let (family, bits) = if ip.is_ipv6() { (libc::AF_INET6, 128) } else { (libc::AF_INET, 32) };
    let mut body = [family as u8, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    body[8..].copy_from_slice(&FIB_MATCH.to_ne_bytes());
    with_ip(Request::new(RTM_GETROUTE, 0, &body), RTA_DST, ip)
}

fn with_ip(request: Request, kind: u16, ip: IpAddr) -> Request {
    match ip {
        IpAddr::V4(v4) => request.attribute(kind, &v4.octets()),
        IpAddr::V6(v6) => request.attribute(kind, &v6.octets()),
    }
}

/// An address as an attribute.
pub(super) fn ip(kind: u16, ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => wire::attribute(kind, &v4.octets()),
        IpAddr::V6(v6) => wire::attribute(kind, &v6.octets()),
    }
}

pub(super) fn parse_ip(value: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(value)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from))
        .ok()
}

pub(super) fn parse_link(message: &Message<'_>) -> Option<Link> {
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

pub(super) fn parse_address(message: &Message<'_>) -> Option<Address> {
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

pub(super) fn parse_route(message: &Message<'_>) -> Option<Route> {
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
        by_gateway: false,
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
            RTA_GATEWAY | RTA_VIA => route.by_gateway = true,
            RTA_PREFSRC => route.source = parse_ip(value),
            RTA_PRIORITY => route.priority = wire::u32_at(value, 0)?,
            RTA_TABLE => route.table = wire::u32_at(value, 0)?,
            _ => {}
        }
    }
    route.to = Prefix::new(to, bits)?;
    Some(route)
}
