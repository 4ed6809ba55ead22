//! Other service proxies on this node, which claim the VIPs of Services beside us.
//!
//! kube-proxy is known by what it leaves in the kernel, in each of its modes; K3s and others embed it and leave the
//! same. What is looked for is there as long as its rules work, also when the program has ended. One look; nothing
//! is kept. Not recognised: proxies that work in eBPF, but for Cilium's socket load balancer, against which nothing
//! here helps ([`socket_balancer`]).

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use super::SetupError;
use super::tool;
use crate::netlink::{Netfilter, Netlink};

/// Devices that hold the VIPs of IPVS: those of kube-proxy and of kube-router. Their addresses are not this node's.
pub const IPVS_DEVICES: [&str; 2] = ["kube-ipvs0", "kube-dummy-if"];
/// Tables of nftables in which others' rules show: iptables mode, nftables mode.
pub(super) const TABLES: [&str; 2] = ["nat", "kube-proxy"];
const CHAIN: &str = "KUBE-SERVICES";

/// A service proxy, by where it was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proxy {
    /// VIPs are addresses of this device.
    Ipvs(&'static str),
    /// Rules of iptables, written by its flavour on nftables.
    Iptables,
    /// The same in the legacy tables.
    Legacy,
    /// A table of nftables.
    Nftables,
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipvs(device) => write!(f, "a service proxy in IPVS mode (device {device})"),
            Self::Iptables => write!(f, "kube-proxy in iptables mode (chain {CHAIN})"),
            Self::Legacy => write!(f, "kube-proxy in iptables mode (chain {CHAIN} of the legacy tables)"),
            Self::Nftables => write!(f, "kube-proxy in nftables mode (table kube-proxy)"),
        }
    }
}

/// Looks for another service proxy.
///
/// # Errors
/// When the kernel does not say what it has.
pub fn find() -> Result<Option<Proxy>, SetupError> {
    match find_quickly()? {
        None if is_in_legacy_tables()? => Ok(Some(Proxy::Legacy)),
        found => Ok(found),
    }
}

/// The same without the legacy tables, whose tool prints all rules there are.
pub(super) fn find_quickly() -> Result<Option<Proxy>, SetupError> {
    let failed = |e: io::Error| SetupError::Netlink("looking for another service proxy", e);
    let mut netlink = Netlink::open().map_err(failed)?;
    for device in IPVS_DEVICES {
        if netlink.link(device).map_err(failed)?.is_some() {
            return Ok(Some(Proxy::Ipvs(device)));
        }
    }
    let mut netfilter = Netfilter::open().map_err(failed)?;
    for v6 in [false, true] {
        if netfilter.has_table(v6, "kube-proxy").map_err(failed)? {
            return Ok(Some(Proxy::Nftables));
        }
        if netfilter.has_chain(v6, "nat", CHAIN).map_err(failed)? {
            return Ok(Some(Proxy::Iptables));
        }
    }
    Ok(None)
}

/// Running the tool where the legacy tables are not loaded would load them.
fn is_in_legacy_tables() -> Result<bool, SetupError> {
    for (names, tool) in [("ip_tables_names", "iptables-legacy"), ("ip6_tables_names", "ip6tables-legacy")] {
        let loaded = fs::read_to_string(format!("/proc/thread-self/net/{names}")).unwrap_or_default();
        if loaded.lines().any(|line| line == "nat")
            && tool::run(tool, &["-w", "5", "-t", "nat", "-S", CHAIN], "")?.status.success()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What Cilium pins while its socket load balancer is on: a program since 1.14, and a map before and after.
const SOCKET_BALANCER: [&str; 2] =
    ["cilium/socketlb/links/cgroup/cil_sock4_connect", "tc/globals/cilium_lb4_reverse_sk"];

/// Where Cilium's socket load balancer shows below the BPF file system at `bpf`. It translates VIPs when a program
/// connects, before there is a packet that we could intercept.
pub fn socket_balancer(bpf: &Path) -> Option<String> {
    let found = SOCKET_BALANCER.iter().map(|pin| bpf.join(pin)).find(|pin| pin.exists())?;
    Some(format!(
        "Cilium's socket load balancer is on ({}): it takes connections to Services before this agent sees them; \
         start Cilium with kubeProxyReplacement=false and socketLB.enabled=false on this node",
        found.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Scratch, in_namespace, sh};

    #[test]
    fn each_mode_is_recognised_and_nothing_is_loaded_by_looking() {
        in_namespace(|| {
            assert_eq!(find().unwrap(), None);
            assert!(!sh("cat /proc/thread-self/net/ip_tables_names").contains("nat"));
            for (make, unmake, wanted) in [
                ("ip link add kube-ipvs0 type bridge", "ip link del kube-ipvs0", Proxy::Ipvs("kube-ipvs0")),
                ("nft add table ip6 kube-proxy", "nft delete table ip6 kube-proxy", Proxy::Nftables),
                (
                    "iptables-nft -t nat -N KUBE-SERVICES",
                    "iptables-nft -t nat -X KUBE-SERVICES",
                    Proxy::Iptables,
                ),
                (
                    "iptables-legacy -t nat -N KUBE-SERVICES",
                    "iptables-legacy -t nat -X KUBE-SERVICES",
                    Proxy::Legacy,
                ),
            ] {
                sh(make);
                assert_eq!(find().unwrap(), Some(wanted), "{make}");
                sh(unmake);
                assert_eq!(find().unwrap(), None, "{unmake}");
            }
            // What kubelet leaves on every node is no proxy.
            sh("iptables-nft -t nat -N KUBE-KUBELET-CANARY; iptables-nft -t mangle -N KUBE-SERVICES");
            assert_eq!(find().unwrap(), None);
        });
    }

    #[test]
    fn ciliums_socket_balancer_is_named_with_what_to_do() {
        let scratch = Scratch::new();
        assert_eq!(socket_balancer(scratch.path()), None);
        for pin in SOCKET_BALANCER {
            let scratch = Scratch::new();
            let path = scratch.path().join(pin);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            let text = socket_balancer(scratch.path()).unwrap();
            assert!(text.contains(pin) && text.contains("socketLB.enabled=false"), "{text}");
        }
    }
}
