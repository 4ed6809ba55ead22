//! What this node's kernel says of ways to pods: where its own are, and which addresses have a route of their own.
//!
//! A CNI makes such routes, by a gateway, for the pods of other nodes. The default route is none: whoever has it in
//! hand may lead what is not encrypted wherever he likes. One look; nothing is kept.

use crate::agent::data::handover::POD_DEVICES;
use crate::netlink::{Address, Link, MAIN_TABLE, Netlink, Route, RouteKind};
use crate::prefix::Prefix;
use crate::tun::DEFAULT_NAME;
use edgemesh_core::wire::ip::is_confined;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::net::IpAddr;

/// Addresses on the side of pods that are looked at.
const SIDES_MAX: usize = 4;

/// See the module's documentation.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Sight {
    /// Addresses of devices that pods are behind.
    pub(super) pods: Vec<IpAddr>,
    /// The primary address of each family.
    pub(super) node: Vec<IpAddr>,
    /// All addresses of this node.
    pub(super) own: HashSet<IpAddr>,
    /// Number of the mesh's own device.
    device: u32,
    routes: Routes,
}

/// Prefixes with a route, each with whether that is one of its own by a gateway.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Routes {
    by_prefix: HashMap<Prefix, bool>,
    /// Their lengths, the longest first.
    lengths: Vec<u8>,
}

impl Sight {
    /// As the kernel says now.
    ///
    /// # Errors
    /// When it does not list devices, addresses or routes.
    pub(super) fn look(netlink: &mut Netlink) -> io::Result<Self> {
        Ok(Self::of(&netlink.links()?, &netlink.addresses()?, &netlink.routes()?))
    }

    fn of(links: &[Link], addresses: &[Address], routes: &[Route]) -> Self {
        let main = |r: &&Route| r.table == MAIN_TABLE && r.kind == RouteKind::Unicast;
        let defaults: Vec<&Route> = routes.iter().filter(main).filter(|r| r.to.bits() == 0).collect();
        let is_way_out = |index: u32| defaults.iter().any(|route| route.device == index);
        let device = links.iter().find(|link| link.name == DEFAULT_NAME).map_or(0, |link| link.index);
        let is_pods = |index: u32| {
            let is_it = |l: &Link| l.index == index && l.up && POD_DEVICES.contains(&l.kind.as_str());
            index != device && !is_way_out(index) && links.iter().any(is_it)
        };
        let mut seen = BTreeSet::new();
        let usable = addresses.iter().filter(|a| !is_confined(a.ip));
        let pods = usable.clone().filter(|a| is_pods(a.index)).map(|a| a.ip).filter(|ip| seen.insert(*ip));
        let primary = |v6: bool| {
            let first = defaults.iter().filter(|r| r.to.is_ipv6() == v6).min_by_key(|r| r.priority)?;
            usable.clone().find(|a| a.index == first.device && a.ip.is_ipv6() == v6).map(|a| a.ip)
        };
        let node = [primary(false), primary(true)].into_iter().flatten().collect();
        let by_prefix: HashMap<Prefix, bool> =
            routes.iter().filter(main).map(|r| (r.to, r.device != device && is_of_its_own(r))).collect();
        let lengths: BTreeSet<u8> = by_prefix.keys().map(Prefix::bits).collect();
        let routes = Routes { by_prefix, lengths: lengths.into_iter().rev().collect() };
        let pods = pods.take(SIDES_MAX).collect();
        Self { pods, node, own: addresses.iter().map(|a| a.ip).collect(), device, routes }
    }

    /// The routes, unless none is one of its own: then no node has to be asked anything.
    pub(super) fn routes(&self) -> Option<&Routes> {
        self.routes.by_prefix.values().any(|own| *own).then_some(&self.routes)
    }

    /// The addresses that a probe to `ip` speaks for, as packets of this node go there now: `pods`, all of the route of
    /// its own that leads there, or itself alone. `None` where it leads nowhere, to this node itself, or into the mesh.
    pub(super) fn range(&self, netlink: &mut Netlink, ip: IpAddr, pods: bool) -> Option<Prefix> {
        let route = netlink.route_to(ip).ok().flatten()?;
        if route.kind != RouteKind::Unicast || route.device == self.device {
            return None;
        }
        if pods { is_of_its_own(&route).then_some(route.to) } else { Some(Prefix::host(ip)) }
    }
}

impl Routes {
    /// Whether the route to this address is one of its own.
    pub(super) fn lead_to(&self, ip: IpAddr) -> bool {
        let at = |bits: &u8| Prefix::new(ip, *bits).and_then(|prefix| self.by_prefix.get(&prefix));
        self.lengths.iter().find_map(at) == Some(&true)
    }
}

fn is_of_its_own(route: &Route) -> bool {
    route.by_gateway && route.to.bits() != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{in_namespace, sh};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn routes_of_their_own_are_told_from_all_others() {
        in_namespace(|| {
            sh("ip link add eth0 type veth peer name far && ip link add docker0 type bridge && \
                ip link add cni0 type bridge && ip link add name tap0 type veth peer name tap1 && \
                for i in eth0 far docker0 cni0 tap0 tap1; do ip link set $i up; done && \
                ip addr add 192.0.2.1/24 dev eth0 && ip route add default via 192.0.2.254 && \
                ip addr add 172.17.0.1/16 dev docker0 && ip addr add 10.244.1.1/24 dev cni0 && \
                ip addr add 169.254.1.1/32 dev tap0 && ip addr add 10.244.1.1/32 dev tap0");
            let mut netlink = Netlink::open().unwrap();
            let alone = Sight::look(&mut netlink).unwrap();
            assert!(alone.routes().is_none(), "no CNI");
            assert_eq!(alone.pods, [ip("172.17.0.1"), ip("10.244.1.1")]);
            assert_eq!(alone.node, [ip("192.0.2.1")]);
            sh("ip route add 10.244.2.0/24 via 192.0.2.12 && ip route add 10.244.2.128/25 dev docker0");
            let sight = Sight::look(&mut netlink).unwrap();
            let routes = sight.routes().unwrap();
            for (address, own) in [
                ("10.244.2.2", true),
                ("10.244.2.129", false),
                ("10.244.1.2", false),
                ("172.17.0.2", false),
                ("192.0.2.12", false),
                ("198.51.100.1", false),
                ("fd00::1", false),
            ] {
                assert_eq!(routes.lead_to(ip(address)), own, "{address}");
            }
            let mut range = |address: &str, pods| {
                sight.range(&mut netlink, ip(address), pods).map(|prefix| prefix.to_string())
            };
            assert_eq!(range("10.244.2.1", true).as_deref(), Some("10.244.2.0/24"));
            assert_eq!(range("192.0.2.12", false).as_deref(), Some("192.0.2.12/32"));
            for address in ["192.0.2.12", "172.17.0.2", "172.17.0.1", "198.51.100.1", "fd00::1"] {
                assert_eq!(range(address, true), None, "{address}");
            }
            assert_eq!(range("192.0.2.1", false), None, "this node itself");
        });
    }
}
