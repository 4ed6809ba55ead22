//! Connections that this node's kernel carries from client to endpoint, so that the endpoint sees the client itself,
//! as behind kube-proxy.
//!
//! The engine chooses the endpoint of every connection. Where the kernel reaches both ends ([`Outbound::HandOver`]),
//! the connection that it tracked on the packet's way to the TUN device is exchanged for one to the same destination
//! that leads to the endpoint, and the packet goes back as its client sent it. From then on the kernel translates, both
//! ways, and nothing of the connection comes here again: it outlives the agent. What an entry point or a stand-in was
//! before it became a ClusterIP is told by the connection that is exchanged.
//!
//! Only for clients that are pods of this node, and endpoints whose answers pass this node's rules: see [`Ways::allow`].
//! All others are carried by the engine, under the mesh's own source.
//!
//! Bounds: three exchanges with the kernel for each connection, two for each address that was not met within
//! [`KNOWN_FOR`]; [`KNOWN`] addresses and [`BEGUN`] connections are remembered for that long. Not done: SCTP.
//!
//! [`Outbound::HandOver`]: edgemesh_core::node::Outbound::HandOver

use crate::interception::entry::MARK;
use crate::interception::is_strict;
use crate::netlink::{Connection, MAIN_TABLE, Netfilter, Netlink, Route, RouteKind};
use crate::prefix::Prefix;
use crate::tun::DEFAULT_NAME;
use edgemesh_core::time::{Duration, Instant};
use edgemesh_core::wire::ip::{Checksum, Rewrite, TCP, Transport, UDP, rewrite};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};

/// How long it is believed where an address is.
const KNOWN_FOR: Duration = Duration::from_secs(5);
const KNOWN: usize = 1_024;
const BEGUN: usize = 1_024;
/// How long a connection without an answer is tracked, in seconds: the kernel's own values.
const SYN_SENT: u32 = 120;
const UNREPLIED: u32 = 30;
/// Kinds of devices that pods are behind.
pub(in crate::agent) const POD_DEVICES: [&str; 3] = ["veth", "bridge", "netkit"];

/// What became of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Handed {
    /// The kernel has it; the packet is to be written to the device.
    Over,
    /// It is not for the kernel.
    Not,
    /// The kernel had it and lost it; its client will send again.
    Lost,
}

/// See the module's documentation.
pub struct Handover {
    netfilter: Netfilter,
    ways: Ways,
    /// IPv4 and IPv6, each unless something is in the way.
    families: [bool; 2],
    /// What connections were before they came to the device, for packets that came with the first one.
    begun: HashMap<(u8, SocketAddr, SocketAddr), Connection>,
    begun_until: Instant,
}

impl Handover {
    /// Tries whether this kernel does it.
    ///
    /// # Errors
    /// What is in the way, in words.
    pub fn open() -> Result<Self, String> {
        if is_strict(DEFAULT_NAME) {
            return Err(format!("net.ipv4.conf.{DEFAULT_NAME}.rp_filter is 1"));
        }
        let opened = Netfilter::open().and_then(|netfilter| Ok((netfilter, Ways::open()?)));
        let (mut netfilter, ways) = opened.map_err(|error| format!("no netlink socket: {error}"))?;
        let refused = |error| format!("the kernel translates no connection for us: {error}");
        // Addresses for documentation (RFC 5737, RFC 3849).
        attempt(&mut netfilter, ["192.0.2.1:9", "192.0.2.2:9", "192.0.2.3:9"]).map_err(refused)?;
        let v6 = attempt(&mut netfilter, ["[2001:db8::1]:9", "[2001:db8::2]:9", "[2001:db8::3]:9"]).is_ok();
        Ok(Self { netfilter, ways, families: [true, v6], begun: HashMap::new(), begun_until: Instant::ZERO })
    }

    /// Has the kernel carry the connection of this packet to `endpoint`; `is_own`: whether that is on this node, by
    /// protocol. The packet is as its client sent it then.
    pub(super) fn take(
        &mut self,
        now: Instant,
        packet: &mut [u8],
        checksum: Checksum,
        endpoint: SocketAddr,
        is_own: impl FnOnce(u8) -> bool,
    ) -> Handed {
        let Ok(t) = Transport::parse(packet) else { return Handed::Not };
        let secs = match t.protocol {
            TCP => SYN_SENT,
            UDP => UNREPLIED,
            _ => return Handed::Not,
        };
        if !self.families[usize::from(t.src.is_ipv6())] {
            return Handed::Not;
        }
        let (client, to) = (SocketAddr::new(t.src, t.src_port), SocketAddr::new(t.dst, t.dst_port));
        let seen = (t.protocol, client, to);
        if now >= self.begun_until || self.begun.len() >= BEGUN {
            self.begun.clear();
            self.begun_until = now.after(KNOWN_FOR);
        }
        let tracked = match self.netfilter.answered(t.protocol, to, client) {
            Ok(Some(tracked)) => tracked,
            // Another packet of it was here a moment ago.
            Ok(None) => match self.begun.get(&seen) {
                Some(begun) => return back(packet, &t, begun, checksum),
                None => return Handed::Not,
            },
            Err(_) => return Handed::Not,
        };
        let own = is_own(t.protocol);
        if !self.ways.allow(now, tracked.client, endpoint.ip(), own).unwrap_or_default() {
            return Handed::Not;
        }
        let led = self
            .netfilter
            .forget(&tracked)
            .and_then(|()| self.netfilter.lead(&tracked, endpoint, secs, MARK));
        match led {
            // The client was faster: the packet comes here once more.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Handed::Lost,
            _ => {}
        }
        let handed = back(packet, &t, &tracked, checksum);
        self.begun.insert(seen, tracked);
        handed
    }

    /// Pods are answered by other nodes where one of these says so: endpoints in the prefix, to pods behind a device
    /// with the address. Without it they are by all that have a route of their own.
    pub fn answers(&mut self, proven: Option<BTreeSet<(Prefix, IpAddr)>>) {
        self.ways.proven = proven;
    }

    /// Has a connection of UDP tracked again that leads to a stand-in and was forgotten; one that its client has begun
    /// anew meanwhile is fine.
    ///
    /// # Errors
    /// As the kernel answers.
    pub(super) fn put_back(
        &mut self,
        client: SocketAddr,
        to: SocketAddr,
        shadow: SocketAddr,
    ) -> io::Result<()> {
        match self.netfilter.lead(&Connection::new(UDP, client, to), shadow, UNREPLIED, 0) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether pods of this node are seen by the endpoint as they are; `own`: it is on this node.
    pub fn shows_pods(&mut self, now: Instant, endpoint: IpAddr, own: bool) -> Shown {
        if !self.families[usize::from(endpoint.is_ipv6())] {
            return Shown::Never;
        }
        match self.ways.place(now, endpoint) {
            Ok(Place::Pod { device, bridge: true }) if own && !passes_rules(endpoint.is_ipv6()) => {
                Shown::FromElsewhere(self.ways.name_of(device))
            }
            Ok(Place::Pod { .. } | Place::Here) if own => Shown::Always,
            Ok(Place::Routed) if self.ways.is_proven(endpoint, |_| true) => Shown::Always,
            _ => Shown::Never,
        }
    }
}

/// Which pods of this node an endpoint sees by their own address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Shown {
    /// All of them.
    Always,
    /// All but those on the same bridge, which is this one.
    FromElsewhere(String),
    /// None.
    Never,
}

/// Gives the packet the ends that its client gave it.
fn back(packet: &mut [u8], t: &Transport, tracked: &Connection, checksum: Checksum) -> Handed {
    let to = Rewrite {
        src: tracked.client,
        dst: tracked.to,
        src_port: tracked.client_port,
        dst_port: tracked.to_port,
    };
    match rewrite(packet, t, &to, checksum) {
        Ok(()) => Handed::Over,
        Err(_) => Handed::Lost,
    }
}

/// Has a connection led that nobody makes, and forgotten again.
fn attempt(netfilter: &mut Netfilter, ends: [&str; 3]) -> io::Result<()> {
    let parsed = ends.map(|text| text.parse::<SocketAddr>());
    let [Ok(client), Ok(to), Ok(endpoint)] = parsed else { return Err(io::ErrorKind::InvalidInput.into()) };
    let begun = Connection::new(UDP, client, to);
    match netfilter.lead(&begun, endpoint, 1, MARK) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = netfilter.answered(UDP, endpoint, client)?;
    netfilter.forget(&begun)?;
    found.map(drop).ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Where an address is, as this node's kernel sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// This node's own.
    Here,
    /// Behind this device, which is one of pods.
    Pod { device: u32, bridge: bool },
    /// On another node, by a route of its own: as pods are within a CNI.
    Routed,
    /// Anywhere else.
    Elsewhere,
}

/// What is known of where addresses are.
struct Ways {
    netlink: Netlink,
    places: HashMap<IpAddr, Place>,
    /// Devices of default routes: not those of pods.
    ways_out: HashSet<u32>,
    /// Addresses of devices.
    addresses: HashSet<(u32, IpAddr)>,
    /// See [`Handover::answers`].
    proven: Option<BTreeSet<(Prefix, IpAddr)>>,
    until: Instant,
}

impl Ways {
    fn open() -> io::Result<Self> {
        let netlink = Netlink::open()?;
        let (places, ways_out, addresses) = Default::default();
        Ok(Self { netlink, places, ways_out, addresses, proven: None, until: Instant::ZERO })
    }

    /// The client is a pod of this node, for nobody else's answers need to pass here. The endpoint is of this node and
    /// behind another device than the client, or behind the same bridge if what passes a bridge passes the rules
    /// (kube-proxy needs that as well): else answers would go from pod to pod, and by the wrong address. Or it is a pod
    /// of another node: what is reached by a route of its own answers to pods, and a neighbour on the LAN may not.
    fn allow(&mut self, now: Instant, client: IpAddr, endpoint: IpAddr, own: bool) -> io::Result<bool> {
        let Place::Pod { device, .. } = self.place(now, client)? else { return Ok(false) };
        Ok(match self.place(now, endpoint)? {
            Place::Here => own,
            Place::Pod { device: other, bridge } => {
                own && (other != device || bridge && passes_rules(endpoint.is_ipv6()))
            }
            Place::Routed => self.is_proven(endpoint, |side| self.addresses.contains(&(device, side))),
            Place::Elsewhere => false,
        })
    }

    /// Whether a pod of another node is known to answer pods behind a device with a certain address.
    fn is_proven(&self, endpoint: IpAddr, is_there: impl Fn(IpAddr) -> bool) -> bool {
        let proven = |all: &BTreeSet<(Prefix, IpAddr)>| {
            all.iter().any(|(range, side)| range.contains(endpoint) && is_there(*side))
        };
        self.proven.as_ref().is_none_or(proven)
    }

    fn place(&mut self, now: Instant, ip: IpAddr) -> io::Result<Place> {
        if now >= self.until || self.places.len() >= KNOWN {
            self.places.clear();
            let is_default = |r: &Route| r.table == MAIN_TABLE && r.to.bits() == 0;
            self.ways_out =
                self.netlink.routes()?.iter().filter(|r| is_default(r)).map(|r| r.device).collect();
            self.addresses = self.netlink.addresses()?.iter().map(|a| (a.index, a.ip)).collect();
            self.until = now.after(KNOWN_FOR);
        }
        if let Some(place) = self.places.get(&ip) {
            return Ok(*place);
        }
        let place = match self.netlink.route_to(ip)? {
            Some(Route { kind: RouteKind::Local, .. }) => Place::Here,
            Some(route) if route.kind == RouteKind::Unicast && route.to.bits() != 0 => self.along(&route)?,
            _ => Place::Elsewhere,
        };
        self.places.insert(ip, place);
        Ok(place)
    }

    /// Where that leads.
    fn along(&mut self, route: &Route) -> io::Result<Place> {
        if route.by_gateway {
            return Ok(Place::Routed);
        }
        let link = self.netlink.link_at(route.device)?;
        let kind = link.map(|link| link.kind).filter(|_| !self.ways_out.contains(&route.device));
        Ok(match kind {
            Some(kind) if POD_DEVICES.contains(&kind.as_str()) => {
                Place::Pod { device: route.device, bridge: kind == "bridge" }
            }
            _ => Place::Elsewhere,
        })
    }

    fn name_of(&mut self, device: u32) -> String {
        self.netlink.link_at(device).ok().flatten().map_or_else(String::new, |link| link.name)
    }
}

/// Whether packets from port to port of a bridge pass the rules of a family.
fn passes_rules(v6: bool) -> bool {
    let family = if v6 { "ip6" } else { "ip" };
    let setting = std::fs::read_to_string(format!("/proc/sys/net/bridge/bridge-nf-call-{family}tables"));
    setting.is_ok_and(|text| text.trim() == "1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::testing::{in_namespace, sh};

    /// A way out, a bridge, two pods with cables of their own, and a route to pods of another node.
    const MACHINE: &str = "ip link add eth0 type veth peer name far && ip link add docker0 type bridge && \
        ip link add cali1 type veth peer name pod1 && ip link add cali2 type veth peer name pod2 && \
        for i in eth0 far docker0 cali1 pod1 cali2 pod2; do ip link set $i up; done && \
        ip addr add 192.0.2.1/24 dev eth0 && ip route add default via 192.0.2.254 && \
        ip addr add 172.17.0.1/16 dev docker0 && ip route add 10.244.1.2 dev cali1 && \
        ip route add 10.244.1.3 dev cali2 && ip route add 10.244.2.0/24 via 192.0.2.12 && \
        ip addr add fd10::1/128 dev cali1 nodad && ip route add fd10::2 dev cali1 && ip route add fd10::3 dev cali2";

    #[test]
    fn c7_only_pods_of_this_node_are_led_and_only_where_answers_come_back() {
        in_namespace(|| {
            sh(MACHINE);
            let mut ways = Ways::open().unwrap();
            let rules = |on: u8| {
                sh(&format!("sysctl -qw net.bridge.bridge-nf-call-iptables={on}"));
            };
            let now = clock::now();
            let mut allow = |client: &str, endpoint: &str, own: bool| {
                ways.allow(now, client.parse().unwrap(), endpoint.parse().unwrap(), own).unwrap()
            };
            for on in [0, 1] {
                rules(on);
                assert_eq!(allow("172.17.0.2", "172.17.0.3", true), on == 1, "within one bridge");
                assert!(allow("172.17.0.2", "10.244.1.2", true), "from a bridge to a cable");
                assert!(allow("10.244.1.2", "172.17.0.2", true), "and back");
                assert!(allow("10.244.1.2", "10.244.1.3", true), "from cable to cable");
                assert!(allow("fd10::2", "fd10::3", true), "IPv6");
                assert!(!allow("10.244.1.2", "10.244.1.2", true), "several pods behind one cable");
                assert!(allow("172.17.0.2", "192.0.2.1", true), "the node itself");
                assert!(allow("10.244.1.2", "10.244.2.2", false), "a pod of another node");
                assert!(!allow("10.244.1.2", "192.0.2.12", false), "a neighbour need not know pods");
                assert!(!allow("10.244.1.2", "198.51.100.1", false), "nor does the internet");
                assert!(!allow("10.244.1.2", "10.244.1.3", false), "no pod of another node is here");
                assert!(!allow("192.0.2.1", "10.244.1.2", true), "a process of the node");
                assert!(!allow("192.0.2.12", "10.244.1.2", true), "a machine off the node");
                assert!(!allow("10.244.2.2", "10.244.1.2", true), "a pod of another node");
                assert!(!allow("172.17.0.2", "2001:db8::1", true), "no route at all");
            }
        });
    }

    #[test]
    fn c7_pods_that_other_nodes_are_not_proven_to_answer_are_not_led_there() {
        in_namespace(|| {
            sh(MACHINE);
            sh("ip addr add 10.244.1.1/32 dev cali1");
            let mut ways = Ways::open().unwrap();
            let now = clock::now();
            ways.proven = Some([("10.244.2.0/24".parse().unwrap(), "10.244.1.1".parse().unwrap())].into());
            let mut allow = |client: &str, endpoint: &str| {
                ways.allow(now, client.parse().unwrap(), endpoint.parse().unwrap(), false).unwrap()
            };
            assert!(allow("10.244.1.2", "10.244.2.2"));
            assert!(!allow("172.17.0.2", "10.244.2.2"), "docker0 is on every node");
            sh("ip route add 10.244.3.0/24 via 192.0.2.13");
            assert!(!allow("10.244.1.2", "10.244.3.2"), "another range");
        });
    }

    #[test]
    fn c7_where_addresses_are_is_looked_up_again() {
        in_namespace(|| {
            sh(MACHINE);
            let mut ways = Ways::open().unwrap();
            let (now, pod) = (clock::now(), "10.244.1.2".parse().unwrap());
            assert!(matches!(ways.place(now, pod).unwrap(), Place::Pod { bridge: false, .. }));
            sh("ip route del 10.244.1.2");
            assert!(matches!(ways.place(now, pod).unwrap(), Place::Pod { .. }), "believed for a while");
            assert_eq!(ways.place(now.after(KNOWN_FOR), pod).unwrap(), Place::Elsewhere);
        });
    }

    #[test]
    fn c7_a_connection_is_exchanged_for_one_to_the_endpoint() {
        in_namespace(|| {
            sh(MACHINE);
            sh("nft add table ip t; nft 'add chain ip t pre { type nat hook prerouting priority -100; }'");
            sh("sysctl -qw net.ipv4.conf.all.rp_filter=0");
            let mut handover = Handover::open().unwrap();
            let [client, port, vip, stand_in, endpoint] =
                ["10.244.1.3:4000", "192.0.2.1:30080", "10.96.0.1:80", "242.96.0.1:80", "10.244.1.2:8080"]
                    .map(|text| text.parse::<SocketAddr>().unwrap());
            // What an entry point did: the device is given what stands for the ClusterIP.
            let begun = Connection::new(TCP, client, port);
            handover.netfilter.lead(&begun, stand_in, 60, 0).unwrap();
            let syn = syn(client, stand_in);
            let take = |handover: &mut Handover| {
                let mut packet = syn.clone();
                let handed = handover.take(clock::now(), &mut packet, Checksum::Complete, endpoint, |_| true);
                let t = Transport::parse(&packet).unwrap();
                (handed, SocketAddr::new(t.src, t.src_port), SocketAddr::new(t.dst, t.dst_port))
            };
            assert_eq!(take(&mut handover), (Handed::Over, client, port));
            let led = handover.netfilter.answered(TCP, endpoint, client).unwrap().unwrap();
            assert_eq!((led.client(), led.to(), led.mark), (client, port, MARK));
            assert_eq!(handover.netfilter.answered(TCP, stand_in, client).unwrap(), None);
            assert_eq!(take(&mut handover), (Handed::Over, client, port), "one that was on its way");
            handover.begun.clear();
            assert_eq!(take(&mut handover), (Handed::Not, client, stand_in), "nobody knows what it was");
            let other = Connection::new(TCP, "192.0.2.1:4000".parse().unwrap(), vip);
            let mut packet = super::tests::syn(other.client(), vip);
            let handed = handover.take(clock::now(), &mut packet, Checksum::Complete, endpoint, |_| true);
            assert_eq!(handed, Handed::Not, "a process of the node");
        });
    }

    /// A SYN without options; its checksums are nobody's business here.
    fn syn(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (from.ip(), to.ip()) else { panic!("IPv4 only") };
        let mut packet = vec![0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, TCP, 0, 0];
        packet.extend(src.octets().into_iter().chain(dst.octets()));
        packet.extend(from.port().to_be_bytes().into_iter().chain(to.port().to_be_bytes()));
        packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
        packet
    }
}
