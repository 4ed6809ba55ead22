//! Where this node is: the addresses that have its NodePorts, and the devices by which others come.
//!
//! A NodePort is on the node's primary address, the first one of the device that leads to the internet, as kubelet
//! chooses it; or on every address in the prefixes of `--nodeport-addresses`. Never on a loopback or link-local
//! address, nor on the mesh's own device. A client comes from off this node by a device with a default route, by
//! hardware, or by one with such an address that no container runtime made; by all others come pods.

use crate::agent::locals::is_foreign;
use crate::netlink::{Address, Link, MAIN_TABLE, Netlink, Route, RouteKind};
use crate::prefix::Prefix;
use crate::tun::DEFAULT_NAME;
use edgemesh_core::wire::ip::is_confined;
use std::collections::{BTreeSet, HashSet};
use std::io;
use std::net::IpAddr;

/// See the module's documentation.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Place {
    /// Addresses that have this node's NodePorts.
    pub(super) addresses: Vec<IpAddr>,
    /// All addresses of this node.
    pub(super) own: HashSet<IpAddr>,
    /// Devices by which clients come from off this node.
    pub(super) outside: Vec<String>,
}

impl Place {
    /// As the kernel says now; `prefixes`: where NodePorts are wanted, empty for the primary address.
    ///
    /// # Errors
    /// When the kernel does not list devices, addresses or routes.
    pub(super) fn look(prefixes: &[Prefix]) -> io::Result<Self> {
        let mut netlink = Netlink::open()?;
        Ok(Self::of(&netlink.links()?, &netlink.addresses()?, &netlink.routes()?, prefixes))
    }

    fn of(links: &[Link], addresses: &[Address], routes: &[Route], prefixes: &[Prefix]) -> Self {
        let is_default =
            |r: &&Route| r.table == MAIN_TABLE && r.to.bits() == 0 && r.kind == RouteKind::Unicast;
        let defaults: Vec<&Route> = routes.iter().filter(is_default).collect();
        let ours = links.iter().find(|link| link.name == DEFAULT_NAME).map(|link| link.index);
        let usable = |a: &&Address| Some(a.index) != ours && !is_confined(a.ip);
        let on = |index: u32, v6: bool| {
            addresses.iter().filter(usable).find(move |a| a.index == index && a.ip.is_ipv6() == v6)
        };
        let chosen: Vec<Address> = if prefixes.is_empty() {
            let primary = |v6: bool| {
                let routes = defaults.iter().filter(|route| route.to.is_ipv6() == v6);
                routes.min_by_key(|route| route.priority).and_then(|route| on(route.device, v6)).copied()
            };
            [primary(false), primary(true)].into_iter().flatten().collect()
        } else {
            let wanted = |a: &&Address| prefixes.iter().any(|prefix| prefix.contains(a.ip));
            addresses.iter().filter(usable).filter(wanted).copied().collect()
        };
        let ways_out: HashSet<u32> = defaults.iter().map(|route| route.device).collect();
        let with_ports: HashSet<u32> = chosen.iter().map(|a| a.index).collect();
        let leads_out = |link: &&Link| {
            let by_address = with_ports.contains(&link.index) && !is_foreign(&link.name);
            ways_out.contains(&link.index) || by_address || link.kind.is_empty()
        };
        let outside =
            links.iter().filter(|link| link.name != "lo" && Some(link.index) != ours).filter(leads_out);
        Self {
            addresses: chosen.iter().map(|a| a.ip).collect::<BTreeSet<_>>().into_iter().collect(),
            own: addresses.iter().map(|a| a.ip).collect(),
            outside: outside.map(|link| link.name.clone()).collect::<BTreeSet<_>>().into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{in_namespace, sh};

    const MACHINE: &str = "ip link add eth0 type veth peer name far && ip link set eth0 up && ip link set far up && \
        ip addr add 192.0.2.1/24 dev eth0 && ip addr add 192.0.2.2/24 dev eth0 && \
        ip link add docker0 type bridge && ip link set docker0 up && ip addr add 172.17.0.1/16 dev docker0 && \
        ip addr add 198.51.100.1/32 dev lo && ip link add edgemesh0 type bridge && ip link set edgemesh0 up && \
        ip addr add 242.0.0.1/32 dev edgemesh0 && ip addr add 169.254.96.16/32 dev edgemesh0";

    fn look(prefixes: &[&str]) -> Place {
        let prefixes: Vec<Prefix> = prefixes.iter().map(|p| p.parse().unwrap()).collect();
        Place::look(&prefixes).unwrap()
    }

    fn texts(ips: &[IpAddr]) -> Vec<String> {
        ips.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn x1_node_ports_are_on_the_primary_address() {
        in_namespace(|| {
            sh(MACHINE);
            assert_eq!(look(&[]).addresses, [] as [IpAddr; 0], "no way out, no primary address");
            sh("ip route add default via 192.0.2.254");
            let place = look(&[]);
            assert_eq!(
                (texts(&place.addresses), place.outside),
                (vec!["192.0.2.1".into()], vec!["eth0".into()])
            );
        });
    }

    #[test]
    fn x1_or_on_those_in_the_given_prefixes_but_never_on_the_loopback_address_or_the_mesh() {
        in_namespace(|| {
            sh(MACHINE);
            let place = look(&["192.0.2.2/32", "198.51.100.0/24"]);
            assert_eq!(texts(&place.addresses), ["192.0.2.2", "198.51.100.1"]);
            assert_eq!(place.outside, ["eth0"], "pods do not come from outside");
            let all = look(&["0.0.0.0/0"]);
            assert_eq!(texts(&all.addresses), ["172.17.0.1", "192.0.2.1", "192.0.2.2", "198.51.100.1"]);
            assert_eq!(all.outside, ["eth0"], "pods never do");
        });
    }
}
