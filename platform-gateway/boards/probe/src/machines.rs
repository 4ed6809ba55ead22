//! The machines, each driven as an engine would: two tunnels talk to each other through a loop, a control link
//! shakes hands, peers are learnt and probed, the Service table takes a full list and chooses endpoints, a
//! connection is opened from one node to the other.

use crate::memory;
use crate::steps::{Bench, ensure};
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use edgemesh_core::counters::DropReason;
use edgemesh_core::flow::{Endpoint, NewFlow, Offload, PeerRef, Policy, Translated, Vip};
use edgemesh_core::noise::ik::{Initiator, Responder};
use edgemesh_core::noise::{ChaChaPoly, StaticSecret};
use edgemesh_core::packet::{HEADROOM, Packet};
use edgemesh_core::path::{self, Local, Route};
use edgemesh_core::peer::{Learned, Wanted};
use edgemesh_core::rng::Rng;
use edgemesh_core::service::{Request, Selection, Table};
use edgemesh_core::time::{Instant, WallTime};
use edgemesh_core::tunnel::{Content, Datagram, Origin, PeerId, Tunnels, open, seal};
use edgemesh_core::wire::control::Network;
use edgemesh_core::wire::feed::{
    ENDPOINT_READY, ENDPOINT_SERVING, EndpointDef, PortDef, Protocol, ServiceDef, ServiceKind, Update,
};
use edgemesh_core::wire::ip::{ACK, Checksum, Mesh, SYN, TCP};

const NOW: Instant = Instant::from_micros(1_000_000);
const WALL: WallTime = WallTime { secs: 1_700_000_000, nanos: 0 };
const PEER: PeerId = PeerId(1);
/// The mesh prefixes; this node is number 1, the other 2.
pub const NETWORK: Network = Network {
    mesh_v4: [242, 0, 0, 0],
    mesh_v4_len: 8,
    mesh_v6: [0xfd, 0, 2, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
};
const PSK: [u8; 32] = [9; 32];
const MTU: usize = 1408;
/// Calls of `work` that a handshake may take on one side.
const WORK_LIMIT: usize = 16;

/// Both tunnels know each other's key.
pub fn introduce(bench: &mut Bench) -> Result<(), &'static str> {
    let [near, far] = &mut bench.tunnels;
    let (near_key, far_key) = (near.public(), far.public());
    near.add_peer(PEER, &far_key, Some(&PSK)).map_err(|_| "near took no peer")?;
    far.add_peer(PEER, &near_key, Some(&PSK)).map_err(|_| "far took no peer")
}

/// Initiation, response, and the keepalive that confirms them.
pub fn handshake(bench: &mut Bench) -> Result<(), &'static str> {
    let Bench { tunnels: [near, far], rng, buffer, .. } = bench;
    near.initiate(NOW, PEER);
    compute(near, rng)?;
    carry(near, far, rng, buffer, "no initiation")?;
    compute(far, rng)?;
    carry(far, near, rng, buffer, "no response")?;
    compute(near, rng)?;
    carry(near, far, rng, buffer, "no confirmation")?;
    ensure(near.is_up(PEER) && far.is_up(PEER), "the session is not up")
}

/// A user's packet in both directions, sealed and opened in place.
pub fn data(bench: &mut Bench) -> Result<(), &'static str> {
    let Bench { tunnels: [near, far], buffer, .. } = bench;
    send(near, far, buffer)?;
    send(far, near, buffer)
}

/// Runs the tunnel's X25519s one after the other.
#[inline(never)]
fn compute(tunnel: &mut Tunnels<'_>, rng: &mut Rng) -> Result<(), &'static str> {
    for _ in 0..WORK_LIMIT {
        let work = tunnel.work(NOW, WALL, rng);
        if let Some(reason) = work.dropped {
            return Err(reason.name());
        }
        if !work.more {
            return Ok(());
        }
    }
    Err("work has no end")
}

/// Takes the next message of one tunnel to the other.
#[inline(never)]
fn carry(
    from: &mut Tunnels<'_>,
    to: &mut Tunnels<'_>,
    rng: &mut Rng,
    buffer: &mut [u8],
    missing: &'static str,
) -> Result<(), &'static str> {
    let len = from.poll_transmit(NOW, buffer).ok_or(missing)?.len;
    let datagram = buffer.get_mut(..len).ok_or("a message longer than its buffer")?;
    match to.classify(datagram) {
        Datagram::Message => to.message(NOW, &Origin::EMPTY, datagram, rng).map_err(|reason| reason.name()),
        Datagram::Data(_) => receive(to, buffer, 0, len).map(|_| ()),
        Datagram::Drop(reason) => Err(reason.name()),
    }
}

#[inline(never)]
fn send(from: &mut Tunnels<'_>, to: &mut Tunnels<'_>, buffer: &mut [u8]) -> Result<(), &'static str> {
    const LEN: usize = 1300;
    buffer.get_mut(HEADROOM..HEADROOM + LEN).ok_or("a short buffer")?.fill(0x45);
    let grant = from.reserve(NOW, PEER, 1, true).map_err(|_| "no session to send in")?;
    let key = from.send_key::<ChaChaPoly>(grant.key).ok_or("no key to seal with")?;
    let mut packet = Packet::new(buffer, HEADROOM, LEN).map_err(|reason| reason.name())?;
    seal(&key, grant.first, &mut packet, MTU).map_err(|reason| reason.name())?;
    let (start, len) = (packet.start(), packet.len());
    let content = receive(to, buffer, start, len)?;
    let text = buffer.get(HEADROOM..HEADROOM + LEN).ok_or("a short buffer")?;
    ensure(content == Content::Ip && text.iter().all(|byte| *byte == 0x45), "another packet came out")
}

#[inline(never)]
fn receive(
    tunnel: &mut Tunnels<'_>,
    buffer: &mut [u8],
    start: usize,
    len: usize,
) -> Result<Content, &'static str> {
    let mut packet = Packet::new(buffer, start, len).map_err(|reason| reason.name())?;
    let Datagram::Data(ticket) = tunnel.classify(packet.bytes()) else { return Err("not data") };
    let key = tunnel.recv_key::<ChaChaPoly>(ticket.key).ok_or("no key to open with")?;
    let opened = open(&key, ticket, &mut packet).map_err(|reason| reason.name())?;
    tunnel.commit(NOW, opened).map_err(|reason| reason.name())?;
    Ok(opened.content())
}

/// The control connection's handshake, both sides. The gateway is the initiator.
pub fn control(bench: &mut Bench) -> Result<(), &'static str> {
    let Bench { rng, buffer, .. } = bench;
    let (agent, server) = (StaticSecret::generate(rng), StaticSecret::generate(rng));
    let (agent_key, server_key) = (agent.public(), server.public());
    let initiator = Initiator::new(agent, server_key, b"probe", rng);
    let (pending, len) = initiator.write_message1(b"hello", buffer).map_err(|reason| reason.name())?;
    let message = buffer.get_mut(..len).ok_or("message 1 beyond its buffer")?;
    let (answer, payload) =
        Responder::new(server, b"probe").read_message1(message).map_err(|reason| reason.name())?;
    ensure(payload == b"hello" && answer.initiator() == agent_key, "message 1 came out changed")?;
    let (theirs, len) = answer.write_message2(b"welcome", buffer, rng).map_err(|reason| reason.name())?;
    let message = buffer.get_mut(..len).ok_or("message 2 beyond its buffer")?;
    let (ours, payload) = pending.read_message2(message).map_err(|reason| reason.name())?;
    ensure(payload == b"welcome", "message 2 came out changed")?;
    ensure(ours.transcript() == theirs.transcript(), "the two sides disagree")
}

/// As many nodes as there is room for are learnt, one more is refused, and another one is asked for.
pub fn peers(bench: &mut Bench) -> Result<(), &'static str> {
    let Bench { peers, lookups, .. } = bench;
    for index in 1..=memory::PEERS as u32 {
        let learnt = peers.learn(NOW, index, [index as u8; 32], 1, 1);
        ensure(matches!(learnt, Ok(Learned::New(_))), "a record was not taken")?;
        ensure(peers.find(index).is_some(), "a record was not found")?;
    }
    ensure(peers.learn(NOW, 99, [99; 32], 1, 1) == Err(DropReason::PeersFull), "a full table took one more")?;
    ensure(lookups.want(NOW, 99) == Wanted::Asked, "a lookup was not taken")?;
    ensure(lookups.next_question(NOW) == Some(99), "a lookup was not asked")
}

/// A session comes up with a peer known by a hint; the path layer has something to say to it.
pub fn path(bench: &mut Bench) -> Result<(), &'static str> {
    let Bench { paths, buffer, .. } = bench;
    let (peer, remote) = (path::PeerId(1), SocketAddr::new(endpoint(7), 20006));
    paths.hint(peer, 0, remote);
    let hinted = Some(Route::Direct { local: 0, remote });
    ensure(paths.route(NOW, peer, MTU).first == hinted, "the hint is not used")?;
    paths.set_local(NOW, &[Local { socket: 0, address: SocketAddr::new(vip(9), 20006) }]);
    paths.session_up(NOW, peer, None);
    let said = paths.poll_message(NOW, buffer).ok_or("nothing to say to a new session")?;
    ensure(said.peer == peer && said.len > 0, "said to another peer")
}

/// A full list that fills the table: every service with one port and two endpoints.
pub fn service_list(bench: &mut Bench) -> Result<(), &'static str> {
    let table = &mut bench.services;
    apply(table, &Update::Begin)?;
    for n in 0..memory::SERVICES as u8 {
        let name = [b's', b'a' + n / 16, b'a' + n % 16];
        let name = core::str::from_utf8(&name).map_err(|_| "letters are text")?;
        let vips = heapless::Vec::from_slice(&[vip(n)]).map_err(|_| "no room for one address")?;
        let kind = ServiceKind::ClusterIp(vips);
        apply(
            table,
            &Update::Service(ServiceDef { namespace: "default", name, kind, affinity_secs: 0, flags: 0 }),
        )?;
        apply(table, &Update::Port(PortDef { name: "", protocol: Protocol::Tcp, port: 80 }))?;
        apply(table, &Update::Targets(&8080u16.to_le_bytes()))?;
        for node in [1, 2] {
            let conditions = ENDPOINT_READY | ENDPOINT_SERVING;
            let address = endpoint(n);
            apply(
                table,
                &Update::Endpoint(EndpointDef { node, address, vip: None, hostname: "", conditions }),
            )?;
        }
        apply(table, &Update::Commit)?;
    }
    apply(table, &Update::End)?;
    let full = (memory::SERVICES, memory::ENDPOINTS);
    ensure((table.len(), table.endpoint_count()) == full, "the table is not full")
}

fn apply(table: &mut Table<'_>, update: &Update<'_>) -> Result<(), &'static str> {
    table.apply(update).map_err(|_| "an update was refused")
}

/// What the flow table asks of the node; the endpoint's node serves everything.
struct Rules<'t>(&'t Table<'static>);

impl Policy for Rules<'_> {
    fn vip(&self, address: IpAddr) -> Vip {
        if self.0.is_vip(address) { Vip::Service } else { Vip::None }
    }
    fn admits(&self, _: u8, address: IpAddr, port: u16) -> bool {
        address == endpoint(0) && port == 8080
    }
    fn still_serves(&self, _: &NewFlow, _: &Endpoint) -> bool {
        true
    }
    fn generation(&self) -> u32 {
        self.0.generation()
    }
    fn mtu(&self, _: PeerRef) -> u16 {
        MTU as u16
    }
}

/// A client's SYN is translated and reaches the endpoint of another node; the answer comes back from the VIP.
pub fn flow(bench: &mut Bench) -> Result<(), &'static str> {
    let Bench { flows: [near, far], services, rng, buffer, .. } = bench;
    let (client, rules) = (SocketAddr::new(endpoint(99), 40_000), Rules(services));
    let (offload, near_peer, far_peer) =
        (Offload { checksum: Checksum::Complete, largest: 40 }, PeerRef(1), PeerRef(2));
    let mut packet = tcp(buffer, client, SocketAddr::new(vip(0), 80), SYN)?;
    let Translated::Miss(new) = near.outbound(NOW, &mut packet, offload, &rules).verdict else {
        return Err("a SYN opened no flow");
    };
    let chosen = Endpoint { peer: far_peer, address: endpoint(0), port: 8080 };
    near.open(NOW, &new, &chosen, rules.generation(), rng).map_err(|reason| reason.name())?;
    let sent = near.outbound(NOW, &mut packet, offload, &rules).verdict;
    ensure(sent == Translated::To(far_peer), "the flow's SYN was not sent")?;
    let arrived = far.inbound(NOW, near_peer, &mut packet, offload, &rules).verdict;
    ensure(arrived == Translated::Local, "the endpoint's node refused the SYN")?;
    let (source, target) = ends(packet.bytes()).ok_or("the SYN was mangled")?;
    ensure(target == SocketAddr::new(endpoint(0), 8080), "the SYN went elsewhere")?;
    ensure(source.ip() == Mesh::new(NETWORK, 1).own(false), "the SYN has another source")?;

    let mut packet = tcp(buffer, target, source, SYN | ACK)?;
    let sent = far.outbound(NOW, &mut packet, offload, &rules).verdict;
    ensure(sent == Translated::To(near_peer), "the answer was not sent")?;
    let arrived = near.inbound(NOW, far_peer, &mut packet, offload, &rules).verdict;
    ensure(arrived == Translated::Local, "the answer was refused")?;
    let back = (SocketAddr::new(vip(0), 80), client);
    ensure(ends(packet.bytes()) == Some(back), "the answer does not come from the VIP")
}

/// A TCP segment without data at the start of `buffer`, checksums in place.
fn tcp<'b>(
    buffer: &'b mut [u8],
    from: SocketAddr,
    to: SocketAddr,
    flags: u8,
) -> Result<Packet<'b>, &'static str> {
    let (IpAddr::V4(source), IpAddr::V4(target)) = (from.ip(), to.ip()) else { return Err("not IPv4") };
    let segment = buffer.first_chunk_mut::<40>().ok_or("a short buffer")?;
    *segment = [0; 40];
    segment[..4].copy_from_slice(&[0x45, 0, 0, 40]);
    (segment[8], segment[9]) = (64, TCP);
    segment[12..16].copy_from_slice(&source.octets());
    segment[16..20].copy_from_slice(&target.octets());
    segment[20..22].copy_from_slice(&from.port().to_be_bytes());
    segment[22..24].copy_from_slice(&to.port().to_be_bytes());
    (segment[32], segment[33]) = (5 << 4, flags);
    let header = !ones_sum(&segment[..20], 0);
    segment[10..12].copy_from_slice(&header.to_be_bytes());
    let sum = !ones_sum(&segment[12..], u32::from(TCP) + 20);
    segment[36..38].copy_from_slice(&sum.to_be_bytes());
    Packet::new(buffer, 0, 40).map_err(|reason| reason.name())
}

/// Source and destination of such a segment, if both checksums hold.
fn ends(packet: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let segment = packet.first_chunk::<40>()?;
    let sums = [ones_sum(&segment[..20], 0), ones_sum(&segment[12..], u32::from(TCP) + 20)];
    let end = |address: usize, port: usize| {
        let ip = Ipv4Addr::from(*segment[address..].first_chunk::<4>()?);
        Some(SocketAddr::new(ip.into(), u16::from_be_bytes(*segment[port..].first_chunk()?)))
    };
    Some((end(12, 20)?, end(16, 22)?)).filter(|_| sums == [0xffff; 2])
}

/// The one's complement sum of big-endian words (RFC 1071), written apart from the core's to check that one.
fn ones_sum(words: &[u8], start: u32) -> u16 {
    let sum = words.chunks_exact(2).fold(start, |sum, w| sum + u32::from(u16::from_be_bytes([w[0], w[1]])));
    let folded = (sum >> 16) + (sum & 0xffff);
    (folded + (folded >> 16)) as u16
}

/// An endpoint for a new flow to each service.
pub fn service_select(bench: &mut Bench) -> Result<(), &'static str> {
    let Bench { services, rng, .. } = bench;
    for n in 0..memory::SERVICES as u8 {
        let client = endpoint(99);
        let request = Request { protocol: TCP, vip: vip(n), port: 80, client };
        match services.select(NOW, &request, 1, rng) {
            Selection::Endpoint { node: 1 | 2, address, port: 8080 } if address == endpoint(n) => {}
            _ => return Err("a service chose no endpoint of its own"),
        }
    }
    let request = Request { protocol: TCP, vip: vip(0), port: 81, client: endpoint(99) };
    ensure(services.select(NOW, &request, 1, rng) == Selection::UnknownPort, "an unknown port was served")
}

fn vip(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, n.saturating_add(1)))
}

fn endpoint(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(172, 17, 0, n.saturating_add(2)))
}
