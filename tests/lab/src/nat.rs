//! What happens to packets between the machines: the NAT boxes of the sites and the internet's router.
//!
//! Both are machines whose nft table `lab` is replaced as a whole by every change, so that there is no moment
//! without rules and no order in which changes must be undone.
//!
//! A NAT box drops unsolicited input on its WAN side, as home and factory routers do. (Accepting it would also
//! let an early probe claim the mapping that a punch needs: measured.)
//!
//! Not here: delay and loss; the simulator has them.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::ops::Deref;
use std::path::Path;

use crate::machine::Machine;
use crate::topology::{SERVER, address, connect};
use crate::wait::{secs, wait_until};
use crate::{Result, ensure};

/// How a NAT box maps and filters (RFC 4787 section 4 and 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NatKind {
    /// Endpoint-independent mapping that keeps the port, address-and-port-dependent filtering.
    PortPreserving,
    /// A fresh random port for every destination ("symmetric").
    Symmetric,
}

/// The router between a site's LAN 192.168.1.0/24 and the internet.
#[derive(Debug)]
pub struct NatBox {
    machine: Machine,
    kind: Cell<NatKind>,
    icmp_lost: Cell<bool>,
    answers_lost: Cell<bool>,
}

impl Deref for NatBox {
    type Target = Machine;
    fn deref(&self) -> &Machine {
        &self.machine
    }
}

impl NatBox {
    /// Makes the box; its LAN side is 192.168.1.1, its WAN side `wan`.
    ///
    /// # Errors
    /// When the namespace cannot be made or configured.
    pub fn create(prefix: &str, name: &str, wan: Ipv4Addr, directory: &Path) -> Result<Self> {
        let machine = Machine::create(prefix, name, wan, directory)?;
        machine.ns.ip(&["link add lan type bridge", "addr add 192.168.1.1/24 dev lan", "link set lan up"])?;
        machine.ns.sysctl("net/ipv4/ip_forward", "1")?;
        let made = Self {
            machine,
            kind: Cell::new(NatKind::PortPreserving),
            icmp_lost: Cell::new(false),
            answers_lost: Cell::new(false),
        };
        made.apply()?;
        Ok(made)
    }

    /// Plugs a machine into the LAN.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach(&self, machine: &Machine, port: &str) -> Result {
        connect((self, port), (machine, "eth0"))?;
        self.ns.ip(&[&format!("link set {port} master lan up")])?;
        address(machine, Ipv4Addr::new(192, 168, 1, 1))
    }

    /// Changes the kind of NAT and forgets every mapping, as a new router would.
    ///
    /// # Errors
    /// When nft or conntrack refuses.
    pub fn set_kind(&self, kind: NatKind) -> Result {
        self.kind.set(kind);
        self.apply()?;
        self.forget()
    }

    /// Forgets every mapping, as after a power cycle of the box.
    ///
    /// # Errors
    /// When conntrack fails.
    pub fn forget(&self) -> Result {
        self.ns.exec(&["conntrack", "-F"]).map(|_| ())
    }

    /// Whether data that comes in over TCP is lost from now on: connections are made and requests arrive, but no
    /// answer does.
    ///
    /// # Errors
    /// When nft refuses.
    pub fn lose_answers(&self, lost: bool) -> Result {
        self.answers_lost.set(lost);
        self.apply()
    }

    /// Waits until an answer was lost.
    ///
    /// # Errors
    /// When none is within 15 s.
    pub fn wait_lost_answer(&self) -> Result {
        wait_until("an answer is lost", secs(15), || {
            let counted = self.ns.exec(&["nft", "list", "counter", "ip", "lab", "lost"])?;
            ensure!(!counted.contains("packets 0 "), "{counted}");
            Ok(())
        })
    }

    fn apply(&self) -> Result {
        let answers = if self.answers_lost.get() {
            "iifname wan tcp flags & (syn | psh) == psh counter name lost drop"
        } else {
            ""
        };
        let random = match self.kind.get() {
            NatKind::PortPreserving => "",
            NatKind::Symmetric => "fully-random",
        };
        let icmp = if self.icmp_lost.get() { "icmp type destination-unreachable drop" } else { "" };
        self.ns.nft(&format!(
            "table ip lab {{}}
             delete table ip lab
             table ip lab {{
               counter lost {{ }}
               chain post {{ type nat hook postrouting priority srcnat; oifname wan masquerade {random}; }}
               chain in {{ type filter hook input priority filter;
                 {icmp}
                 iifname wan ct state != {{ established, related }} drop; }}
               chain pass {{ type filter hook forward priority filter;
                 {icmp}
                 {answers}
                 iifname wan ct state != {{ established, related }} drop; }}
               chain out {{ type filter hook output priority filter;
                 {icmp}
               }}
             }}"
        ))
    }
}

/// The cloud's network.
const CLOUD_NET: &str = "203.0.113.0/24";

/// What the internet does not carry. Within the cloud's network nothing is lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// UDP straight from site to site is lost: every tunnel must go over the server.
    pub no_udp_between_sites: bool,
    /// UDP between a site and the cloud node is lost.
    pub no_udp_to_cloud_node: bool,
    /// No UDP at all crosses the internet: the server is reached by TCP only.
    pub no_udp: bool,
    /// The server cannot be reached from the sites.
    pub no_server: bool,
}

/// The router between the cloud network and the sites.
#[derive(Debug)]
pub struct Internet {
    machine: Machine,
    policy: Cell<Policy>,
    icmp_lost: Cell<bool>,
}

impl Deref for Internet {
    type Target = Machine;
    fn deref(&self) -> &Machine {
        &self.machine
    }
}

impl Internet {
    /// Makes the router with the cloud network's gateway.
    ///
    /// # Errors
    /// When the namespace cannot be made or configured.
    pub fn create(prefix: &str, directory: &Path) -> Result<Self> {
        let gateway = Ipv4Addr::new(203, 0, 113, 1);
        let machine = Machine::create(prefix, "inet", gateway, directory)?;
        machine.ns.ip(&[
            "link add cloud-net type bridge",
            &format!("addr add {gateway}/24 dev cloud-net"),
            "link set cloud-net up",
        ])?;
        machine.ns.sysctl("net/ipv4/ip_forward", "1")?;
        Ok(Self { machine, policy: Cell::default(), icmp_lost: Cell::new(false) })
    }

    /// Plugs a machine into the cloud network.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach_cloud(&self, machine: &Machine, port: &str) -> Result {
        connect((self, port), (machine, "eth0"))?;
        self.ns.ip(&[&format!("link set {port} master cloud-net up")])?;
        address(machine, self.address)
    }

    /// Plugs a site's NAT box in; `port` is the router's interface.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach_site(&self, site: &NatBox, port: &str) -> Result {
        let [a, b, c, _] = site.address.octets();
        let gateway = Ipv4Addr::new(a, b, c, 1);
        connect((self, port), (site, "wan"))?;
        self.ns.ip(&[&format!("addr add {gateway}/24 dev {port}"), &format!("link set {port} up")])?;
        site.ns.ip(&[
            &format!("addr add {}/24 dev wan", site.address),
            "link set wan up",
            &format!("route add default via {gateway}"),
        ])
    }

    /// Decides what is carried from now on; [`Policy::default`] restores everything.
    ///
    /// # Errors
    /// When nft refuses.
    pub fn set_policy(&self, policy: Policy) -> Result {
        self.policy.set(policy);
        self.apply()
    }

    /// Makes the site's access link narrow, like PPPoE or a tunnel, and loses the ICMP errors that would tell.
    ///
    /// # Errors
    /// When the kernel or nft refuses.
    pub fn narrow(&self, site: &NatBox, port: &str, mtu: u16) -> Result {
        self.set_link(site, port, mtu, true)
    }

    /// Makes the site's access link an ordinary one of 1500 bytes.
    ///
    /// # Errors
    /// When the kernel or nft refuses.
    pub fn widen(&self, site: &NatBox, port: &str) -> Result {
        self.set_link(site, port, 1500, false)
    }

    fn set_link(&self, site: &NatBox, port: &str, mtu: u16, icmp_lost: bool) -> Result {
        self.ns.ip(&[&format!("link set {port} mtu {mtu}")])?;
        site.ns.ip(&[&format!("link set wan mtu {mtu}")])?;
        self.icmp_lost.set(icmp_lost);
        site.icmp_lost.set(icmp_lost);
        self.apply()?;
        site.apply()
    }

    fn apply(&self) -> Result {
        let policy = self.policy.get();
        // What is bridged comes here on some kernels only.
        let mut rules = vec![format!("ip saddr {CLOUD_NET} ip daddr {CLOUD_NET} accept")];
        if self.icmp_lost.get() {
            rules.push("icmp type destination-unreachable drop".to_owned());
        }
        if policy.no_udp {
            rules.push("meta l4proto udp drop".to_owned());
        }
        if policy.no_udp_between_sites {
            rules.push(
                "iifname { site-a, site-b } oifname { site-a, site-b } meta l4proto udp drop".to_owned(),
            );
        }
        if policy.no_udp_to_cloud_node {
            let node = crate::topology::CLOUD_NODE;
            rules.push(format!("ip daddr {node} meta l4proto udp drop"));
            rules.push(format!("ip saddr {node} meta l4proto udp drop"));
        }
        if policy.no_server {
            rules.push(format!("ip daddr {SERVER} drop"));
            rules.push(format!("ip saddr {SERVER} drop"));
        }
        let out = if self.icmp_lost.get() { "icmp type destination-unreachable drop" } else { "" };
        self.ns.nft(&format!(
            "table ip lab {{}}
             delete table ip lab
             table ip lab {{
               chain pass {{ type filter hook forward priority filter;
                 {}
               }}
               chain out {{ type filter hook output priority filter;
                 {out}
               }}
             }}",
            rules.join("\n")
        ))
    }
}
