//! Two nodes, 1 with a client and 2 with an endpoint of the same address, and what passes between them.

mod admitted;
mod fragments;
mod handed;
mod life;
mod model;
mod refusals;
mod sctp;
mod sizes;
mod translation;

use super::*;
use crate::rng::Rng;
use crate::time::Duration;
use crate::wire::control::Network;
use crate::wire::ip::Address;
use crate::wire::ip::testing::*;
use crate::wire::ip::{ACK, FIN, ICMP, RST, SYN, TCP, UDP};
use std::vec;
use std::vec::Vec;

/// One address family's cast. Client and endpoint have the same address, on two nodes.
#[derive(Clone, Copy, Debug)]
struct Cast {
    client: &'static str,
    vip: &'static str,
    pod: &'static str,
    endpoint_vip: &'static str,
    mesh: [&'static str; 2],
    alias: &'static str,
    router: &'static str,
}

const V4: Cast = Cast {
    client: "172.17.0.2",
    vip: "10.96.0.1",
    pod: "172.17.0.2",
    endpoint_vip: "242.128.0.1",
    mesh: ["242.0.0.1", "242.0.0.2"],
    alias: "242.63.255.255",
    router: "172.17.0.1",
};
const V6: Cast = Cast {
    client: "fd17::2",
    vip: "fd96::1",
    pod: "fd17::2",
    endpoint_vip: "fd00:242::8000:0:0:1",
    mesh: ["fd00:242::1", "fd00:242::2"],
    alias: "fd00:242::3fff:ffff:ffff:ffff",
    router: "fd17::1",
};
const BOTH: [Cast; 2] = [V4, V6];

fn mesh(own: u32) -> Mesh {
    let mesh_v6 = "fd00:242::".parse::<core::net::Ipv6Addr>().unwrap().octets();
    Mesh::new(Network { mesh_v4: [242, 0, 0, 0], mesh_v4_len: 8, mesh_v6 }, own)
}

/// Owned memory of one machine.
struct Memory {
    flows: Vec<FlowSlot>,
    admitted: Vec<AdmittedSlot>,
    fragments: Vec<FragmentSlot>,
    indices: [Vec<u32>; 3],
    shares: [Vec<u32>; 2],
}

impl Memory {
    fn new(size: usize) -> Self {
        Self {
            flows: vec![FlowSlot::ZERO; size],
            admitted: vec![AdmittedSlot::ZERO; size],
            fragments: vec![FragmentSlot::ZERO; 8],
            indices: std::array::from_fn(|_| vec![0; 2 * size]),
            shares: std::array::from_fn(|_| vec![0; 64]),
        }
    }

    fn lend(&mut self) -> Resources<'_> {
        self.lend_kept([0, 0])
    }

    /// With the slots of an earlier run, of which it may have used so many; the rest is fresh.
    fn lend_kept(&mut self, used: [usize; 2]) -> Resources<'_> {
        self.indices.iter_mut().chain(&mut self.shares).for_each(|memory| memory.fill(0));
        self.fragments.fill(FragmentSlot::ZERO);
        let [by_client, by_mapped, by_tuple] = &mut self.indices;
        let [sources, admitters] = &mut self.shares;
        Resources {
            flows: Kept { slots: &mut self.flows, used: used[0] },
            by_client,
            by_mapped,
            sources,
            admitted: Kept { slots: &mut self.admitted, used: used[1] },
            by_tuple,
            admitters,
            fragments: &mut self.fragments,
        }
    }
}

/// A machine with `size` slots in each table.
fn flows(own: u32, size: usize) -> Flows<'static> {
    let memory = std::boxed::Box::leak(std::boxed::Box::new(Memory::new(size)));
    Flows::new(Instant::ZERO, memory.lend(), mesh(own), &mut Rng::new([own as u8; 32]))
}

/// The rest of a node, as simple as can be.
#[derive(Clone)]
struct Rules {
    /// What is admitted on this node.
    serves: Vec<(u8, IpAddr, u16)>,
    /// Whether flows may stay where they are.
    keeps: bool,
    /// How long a connection may be without an answer.
    patience: Duration,
    /// Whether the endpoint's node does not answer.
    silent: bool,
    generation: u32,
    mtu: u16,
}

impl Policy for Rules {
    fn vip(&self, address: IpAddr) -> Vip {
        match address {
            ip if BOTH.iter().any(|c| ip == super::tests::ip(c.vip)) => Vip::Service,
            ip if BOTH.iter().any(|c| ip == super::tests::ip(c.endpoint_vip)) => Vip::Endpoint,
            _ => Vip::None,
        }
    }
    fn admits(&self, protocol: u8, address: IpAddr, port: u16) -> bool {
        self.serves.contains(&(protocol, address, port))
    }
    fn still_serves(&self, _: &NewFlow, _: &Endpoint) -> bool {
        self.keeps
    }
    fn gives_up(&self, _: &NewFlow, _: &Endpoint, waited: Duration) -> bool {
        waited > if self.silent { Duration::ZERO } else { self.patience }
    }
    fn is_silent(&self, _: PeerRef) -> bool {
        self.silent
    }
    fn generation(&self) -> u32 {
        self.generation
    }
    fn mtu(&self, peer: PeerRef) -> u16 {
        if peer == PeerRef::SELF { u16::MAX } else { self.mtu }
    }
}

fn rules() -> Rules {
    let mut serves = vec![];
    for c in BOTH {
        for protocol in [TCP, UDP, crate::wire::ip::SCTP] {
            serves.push((protocol, ip(c.pod), 8080));
        }
        serves.extend([(ICMP, ip(c.pod), 0), (crate::wire::ip::ICMPV6, ip(c.pod), 0)]);
    }
    Rules { serves, keeps: true, patience: Duration::from_secs(3), silent: false, generation: 1, mtu: 1400 }
}

struct Pair {
    now: Instant,
    client: Flows<'static>,
    server: Flows<'static>,
    client_rules: Rules,
    server_rules: Rules,
    /// Where new flows go; node 0 is the client's own.
    node: u32,
    rng: Rng,
}

impl Pair {
    fn new() -> Self {
        Self {
            now: Instant::ZERO.after(Duration::from_secs(1000)),
            client: flows(1, 64),
            server: flows(2, 64),
            client_rules: rules(),
            server_rules: rules(),
            node: 2,
            rng: Rng::new([8; 32]),
        }
    }

    /// Lets time pass and the timers fire.
    fn wait(&mut self, secs: u64) {
        self.now = self.now.after(Duration::from_secs(secs));
        for flows in [&mut self.client, &mut self.server] {
            for key in 0..flows.timers() {
                let _ = flows.handle_timeout(self.now, key);
            }
        }
    }

    /// From the client's TUN device; a miss is opened to the pod.
    fn send(&mut self, bytes: &[u8]) -> (Outcome, Vec<u8>) {
        let (outcome, bytes) = self.client_out(bytes);
        let Translated::Miss(new) = outcome.verdict else { return (outcome, bytes) };
        let cast = if new.vip.is_ipv6() { V6 } else { V4 };
        let port = if new.client_port != 0 && new.vip_port == 0 { 0 } else { 8080 };
        let endpoint = Endpoint { peer: PeerRef(self.node), address: ip(cast.pod), port };
        let generation = self.client_rules.generation;
        if let Err(reason) = self.client.open(self.now, &new, &endpoint, generation, &mut self.rng) {
            return (drop_it(reason), bytes);
        }
        self.client_out(&bytes)
    }

    fn client_out(&mut self, bytes: &[u8]) -> (Outcome, Vec<u8>) {
        let (now, rules) = (self.now, self.client_rules.clone());
        with(bytes, |p, o| self.client.outbound(now, p, o, &rules))
    }

    fn client_in(&mut self, from: u32, bytes: &[u8]) -> (Outcome, Vec<u8>) {
        let (now, rules) = (self.now, self.client_rules.clone());
        with(bytes, |p, o| self.client.inbound(now, PeerRef(from), p, o, &rules))
    }

    fn server_out(&mut self, bytes: &[u8]) -> (Outcome, Vec<u8>) {
        let (now, rules) = (self.now, self.server_rules.clone());
        with(bytes, |p, o| self.server.outbound(now, p, o, &rules))
    }

    fn server_in(&mut self, from: u32, bytes: &[u8]) -> (Outcome, Vec<u8>) {
        let (now, rules) = (self.now, self.server_rules.clone());
        with(bytes, |p, o| self.server.inbound(now, PeerRef(from), p, o, &rules))
    }

    /// All the way from the client to the endpoint.
    fn request(&mut self, bytes: &[u8]) -> Vec<u8> {
        let (outcome, bytes) = self.send(bytes);
        assert_eq!(outcome.verdict, Translated::To(PeerRef(2)));
        let (outcome, bytes) = self.server_in(1, &bytes);
        assert_eq!(outcome.verdict, Translated::Local);
        bytes
    }

    /// All the way from the endpoint to the client.
    fn response(&mut self, bytes: &[u8]) -> Vec<u8> {
        let (outcome, bytes) = self.server_out(bytes);
        assert_eq!(outcome.verdict, Translated::To(PeerRef(1)));
        let (outcome, bytes) = self.client_in(2, &bytes);
        assert_eq!(outcome.verdict, Translated::Local);
        bytes
    }

    /// Opens a TCP connection through its handshake.
    fn connect(&mut self, c: Cast, port: u16) {
        self.request(&tcp((c.client, port), (c.vip, 80), SYN, b""));
        self.response(&tcp((c.pod, 8080), (c.mesh[0], port), SYN | ACK, b""));
        self.request(&tcp((c.client, port), (c.vip, 80), ACK, b""));
    }
}

/// Runs `work` over a copy of the packet with room around it.
fn with(bytes: &[u8], work: impl FnOnce(&mut Packet<'_>, Offload) -> Outcome) -> (Outcome, Vec<u8>) {
    let mut room = vec![0; bytes.len().max(1280) + 128];
    room[32..32 + bytes.len()].copy_from_slice(bytes);
    let mut packet = Packet::new(&mut room, 32, bytes.len()).unwrap();
    let outcome = work(&mut packet, Offload { checksum: Checksum::Complete, largest: bytes.len() });
    (outcome, packet.bytes().to_vec())
}

/// An ICMP error of this type about `cause`.
fn icmp_error(src: &str, dst: &str, message: u8, code: u8, cause: &[u8]) -> Vec<u8> {
    let mut body = vec![message, code, 0, 0, 0, 0, 0, 0];
    body.extend_from_slice(&cause[..cause.len().min(520)]);
    spec(src, dst, if ip(src).is_ipv6() { crate::wire::ip::ICMPV6 } else { ICMP }, body).build()
}

/// Source, source port, destination, destination port; panics unless all checksums are right.
fn ends(bytes: &[u8]) -> (IpAddr, u16, IpAddr, u16) {
    let t = verify(bytes, Checksum::Complete);
    (t.src, t.src_port, t.dst, t.dst_port)
}

fn at(src: &str, src_port: u16, dst: &str, dst_port: u16) -> (IpAddr, u16, IpAddr, u16) {
    (ip(src), src_port, ip(dst), dst_port)
}
