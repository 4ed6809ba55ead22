//! The lab's network, the same for every scenario:
//!
//! ```text
//!                    inet (router, the "internet")
//!      198.51.100.0/24 |      | 203.0.113.0/24     | 192.0.2.0/24
//!                nat-a |      +-- server .10       | nat-b
//!       192.168.1.0/24 |      +-- cloud  .20 (node)| 192.168.1.0/24
//!            a1 .11, a2 .12                        b1 .11
//! ```
//!
//! Both sites use the same LAN, a1 and b1 even the same address; every node has a bridge `docker0` with the same
//! 172.17.0.0/16, Docker's MASQUERADE rule, and two pods at .2 and .3, so that pod addresses overlap everywhere.
//!
//! Life cycle: [`Lab::build`] makes everything, dropping the value deletes it.
//!
//! Not here: what the NAT boxes and the internet do to packets (see [`crate::nat`]).

use std::net::Ipv4Addr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::machine::Machine;
use crate::nat::{Internet, NatBox};
use crate::process::run;
use crate::wait::secs;
use crate::{Context, Result};

/// The server's public address.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The cloud node's public address.
pub const CLOUD_NODE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);
/// The gateway of every `docker0`.
pub const POD_GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);
/// Pods on every node.
pub const PODS_PER_NODE: u8 = 2;

/// Namespace names differ between labs of one run, so that a leftover of one cannot disturb the next.
static BUILT: AtomicU32 = AtomicU32::new(0);

/// A node: a machine with a container bridge and pods.
#[derive(Debug)]
pub struct Node {
    host: Machine,
    /// Its pods, 172.17.0.2 first.
    pub pods: Vec<Machine>,
}

impl Deref for Node {
    type Target = Machine;
    fn deref(&self) -> &Machine {
        &self.host
    }
}

impl Node {
    fn create(prefix: &str, name: &str, address: Ipv4Addr, directory: &Path) -> Result<Self> {
        let host = Machine::create(prefix, name, address, directory)?;
        host.ns.ip(&[
            "link add docker0 type bridge",
            &format!("addr add {POD_GATEWAY}/16 dev docker0"),
            "link set docker0 up",
        ])?;
        host.ns.sysctl("net/ipv4/ip_forward", "1")?;
        host.ns.sysctl("net/ipv4/conf/all/rp_filter", "1")?;
        // The rule Docker makes for its default bridge.
        let masquerade = "iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE";
        host.ns.exec(&masquerade.split(' ').collect::<Vec<_>>())?;
        let mut node = Self { host, pods: Vec::new() };
        for number in 1..=PODS_PER_NODE {
            node.add_pod(prefix, number, directory)?;
        }
        Ok(node)
    }

    fn add_pod(&mut self, prefix: &str, number: u8, directory: &Path) -> Result {
        let address = Ipv4Addr::new(172, 17, 0, number.saturating_add(1));
        let pod = Machine::create(prefix, &format!("{}-p{number}", self.host.name), address, directory)?;
        let port = format!("veth{number}");
        connect((&self.host, &port), (&pod, "eth0"))?;
        self.host.ns.ip(&[&format!("link set {port} master docker0 up")])?;
        pod.ns.ip(&[
            &format!("addr add {address}/16 dev eth0"),
            "link set eth0 up",
            &format!("route add default via {POD_GATEWAY}"),
        ])?;
        self.pods.push(pod);
        Ok(())
    }

    /// The pod with that number, counted from 1.
    ///
    /// # Errors
    /// When there is no such pod.
    pub fn pod(&self, number: usize) -> Result<&Machine> {
        self.pods.get(number.wrapping_sub(1)).context(format!("{} has no pod {number}", self.name))
    }

    /// The rest of what Docker does to a node's firewall: forwarding is denied but for its own bridge's ways, and
    /// users have the chain DOCKER-USER. `tool`: iptables in one of its flavours.
    ///
    /// # Errors
    /// When iptables refuses.
    pub fn docker_firewall(&self, tool: &str) -> Result {
        for rule in [
            "-N DOCKER-USER",
            "-P FORWARD DROP",
            "-A FORWARD -j DOCKER-USER",
            "-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-A FORWARD -i docker0 ! -o docker0 -j ACCEPT",
            "-A FORWARD -i docker0 -o docker0 -j ACCEPT",
        ] {
            self.host.ns.exec(&[&[tool], &rule.split(' ').collect::<Vec<_>>()[..]].concat())?;
        }
        Ok(())
    }

    /// Switches checksum and segmentation offloads of a pod's link off on both ends and on the bridge, so that a
    /// wrong partial checksum is seen instead of being completed by the kernel.
    ///
    /// # Errors
    /// When ethtool refuses.
    pub fn pod_offloads_off(&self, number: usize) -> Result {
        let port = format!("veth{number}");
        let off = ["tx", "off", "tso", "off", "gso", "off"];
        self.pod(number)?.ns.exec(&[&["ethtool", "-K", "eth0"], &off[..]].concat())?;
        self.host.ns.exec(&[&["ethtool", "-K", &port], &off[..]].concat())?;
        self.host.ns.exec(&[&["ethtool", "-K", "docker0"], &off[..]].concat())?;
        Ok(())
    }
}

/// The whole network.
#[derive(Debug)]
pub struct Lab {
    /// The internet's router; its policy decides what passes between the networks.
    pub inet: Internet,
    /// The machine with the public address that runs `edgemesh-server`.
    pub server: Machine,
    /// A node in the cloud, with a public address.
    pub cloud: Node,
    /// The NAT box of site A.
    pub nat_a: NatBox,
    /// The NAT box of site B.
    pub nat_b: NatBox,
    /// First node of site A, 192.168.1.11.
    pub a1: Node,
    /// Second node of site A, 192.168.1.12.
    pub a2: Node,
    /// The node of site B, 192.168.1.11 as well.
    pub b1: Node,
    directory: PathBuf,
}

impl Lab {
    /// Builds the network with its files below `directory`.
    ///
    /// # Errors
    /// When the kernel or a tool refuses a step; the message names it.
    pub fn build(directory: &Path) -> Result<Self> {
        let number = BUILT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("em-{number}-");
        let directory = directory.join(format!("lab-{number}"));
        let dir = directory.as_path();
        let lab = Self {
            inet: Internet::create(&prefix, dir)?,
            server: Machine::create(&prefix, "server", SERVER, dir)?,
            cloud: Node::create(&prefix, "cloud", CLOUD_NODE, dir)?,
            nat_a: NatBox::create(&prefix, "nat-a", Ipv4Addr::new(198, 51, 100, 2), dir)?,
            nat_b: NatBox::create(&prefix, "nat-b", Ipv4Addr::new(192, 0, 2, 2), dir)?,
            a1: Node::create(&prefix, "a1", Ipv4Addr::new(192, 168, 1, 11), dir)?,
            a2: Node::create(&prefix, "a2", Ipv4Addr::new(192, 168, 1, 12), dir)?,
            b1: Node::create(&prefix, "b1", Ipv4Addr::new(192, 168, 1, 11), dir)?,
            directory: directory.clone(),
        };
        lab.inet.attach_cloud(&lab.server, "server")?;
        lab.inet.attach_cloud(&lab.cloud, "cloud")?;
        lab.inet.attach_site(&lab.nat_a, "site-a")?;
        lab.inet.attach_site(&lab.nat_b, "site-b")?;
        lab.nat_a.attach(&lab.a1, "a1")?;
        lab.nat_a.attach(&lab.a2, "a2")?;
        lab.nat_b.attach(&lab.b1, "b1")?;
        Ok(lab)
    }

    /// Where the files of this lab are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// All nodes.
    pub fn nodes(&self) -> [&Node; 4] {
        [&self.a1, &self.a2, &self.b1, &self.cloud]
    }

    /// The node with that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes().into_iter().find(|node| node.name == name).context(format!("node {name}"))
    }
}

/// Joins two machines with a virtual cable.
///
/// # Errors
/// When an interface name is taken.
pub fn connect(one: (&Machine, &str), other: (&Machine, &str)) -> Result {
    let (one_ns, other_ns) = (one.0.ns.name(), other.0.ns.name());
    let words =
        ["link", "add", one.1, "netns", one_ns, "type", "veth", "peer", "name", other.1, "netns", other_ns];
    run(Command::new("ip").args(words), b"", secs(30))?.success()?;
    Ok(())
}

/// Gives a machine its address on `eth0` and the way out.
///
/// # Errors
/// When the kernel refuses.
pub fn address(machine: &Machine, gateway: Ipv4Addr) -> Result {
    machine.ns.ip(&[
        &format!("addr add {}/24 dev eth0", machine.address),
        "link set eth0 up",
        &format!("route add default via {gateway}"),
    ])
}
