//! Which ClusterIPs are routed to the device: not those that belong to this node, or to a machine without which it
//! has neither table nor tunnels nor names.
//!
//! The API server hands out no such address; a manifest can claim one, and its route would cut this node off. The
//! Service keeps its name, and everything else is routed. Each claim is told once. Bounds: [`TOLD_MAX`] lines are
//! remembered, then they are forgotten and told again. Not done: names of servers that are not addresses.

use crate::cli::Run;
use crate::interception::IPVS_DEVICES;
use crate::netlink::{Link, Netlink};
use crate::tun::DEFAULT_NAME;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};

const TOLD_MAX: usize = 1024;

/// Whose an address is that no Service may have.
pub(super) type Owners = HashMap<IpAddr, &'static str>;
/// The owner of this node's own addresses. An entry point may be at one of them.
pub(super) const OWN: &str = "this node's own";

/// What was told already.
#[derive(Default)]
pub(super) struct Claims {
    told: HashSet<String>,
}

impl Claims {
    /// Whether this Service may have the address here. `reserved`: whose an address is that nobody may claim.
    pub(super) fn allows(&mut self, service: &str, ip: IpAddr, reserved: &Owners) -> bool {
        if let Some(owner) = reserved.get(&ip) {
            self.warn_once(format!("Service {service}: its ClusterIP {ip} is {owner}; not routed"));
        }
        !reserved.contains_key(&ip)
    }

    /// Logs a line unless it was logged before.
    pub(super) fn warn_once(&mut self, line: String) {
        if self.is_news(&line) {
            tracing::warn!("{line}");
        }
    }

    fn is_news(&mut self, line: &str) -> bool {
        if self.told.len() >= TOLD_MAX {
            self.told.clear();
        }
        self.told.insert(line.to_owned())
    }
}

/// Whose the addresses are that no Service may have here. `servers`: `HOST:PORT` each.
///
/// # Errors
/// When the kernel does not list this node's addresses.
pub(super) fn reserved(settings: &Run, servers: &[String]) -> io::Result<Owners> {
    let mut netlink = Netlink::open()?;
    let links = netlink.links()?;
    // Where a proxy in IPVS mode has every ClusterIP, and where we have that of the cluster's DNS: they are not this
    // node's own.
    let has_vips = |link: &&Link| IPVS_DEVICES.contains(&link.name.as_str()) || link.name == DEFAULT_NAME;
    let proxies: Vec<u32> = links.iter().filter(has_vips).map(|link| link.index).collect();
    let own = netlink.addresses()?.into_iter().filter(|address| !proxies.contains(&address.index));
    let servers = servers.iter().filter_map(|server| server.parse::<SocketAddr>().ok());
    let mut reserved = HashMap::new();
    reserved.extend(settings.upstream_dns.iter().map(|at| (at.ip(), "a DNS server's that this node asks")));
    reserved.extend(servers.map(|at| (at.ip(), "the edgemesh-server's")));
    reserved.extend(own.map(|address| (address.ip, OWN)));
    reserved.insert(settings.dns, OWN);
    Ok(reserved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::settings;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn hostile_claims_are_not_routed_and_told_once() {
        let reserved = HashMap::from([(ip("192.0.2.1"), "this node's own")]);
        let mut told = Claims::default();
        for _ in 0..2 {
            assert!(told.allows("default/web", ip("10.96.0.1"), &reserved));
            assert!(!told.allows("default/bad", ip("192.0.2.1"), &reserved));
            assert_eq!(told.told.len(), 1);
        }
        assert!(!told.is_news("Service default/bad: its ClusterIP 192.0.2.1 is this node's own; not routed"));
        assert!((0..2 * TOLD_MAX).all(|n| told.is_news(&n.to_string())));
        assert!(told.told.len() <= TOLD_MAX);
    }

    #[test]
    fn hostile_claims_of_this_nodes_and_its_servers_addresses_are_known() {
        let settings = settings(&["--upstream-dns", "192.0.2.53"]);
        let reserved =
            reserved(&settings, &["192.0.2.9:20004".to_owned(), "name.example:1".to_owned()]).unwrap();
        for address in ["127.0.0.1", "192.0.2.9", "192.0.2.53", "169.254.96.16"] {
            assert!(reserved.contains_key(&ip(address)), "{address}");
        }
        assert!(!reserved.contains_key(&ip("10.96.0.1")));
    }
}
