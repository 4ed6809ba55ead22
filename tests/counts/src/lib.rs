//! What the core does for a packet, with everything around it done beforehand, for whoever counts or measures it.
//!
//! A [`Field`] is the engine of a node with sessions and direct paths to its peers, with flows and Services, in tables of
//! the agent's sizes and more. Its calls are those of the agent's data thread, one packet each, in an order of flows that
//! is random but the same each time. `benches/packets.rs` counts their instructions, and [`gate`] holds these to what
//! they were; `edgemesh-bench growth` measures their time.

mod cipher;
pub mod gate;
mod room;

pub use cipher::{Opener, Sealer};

use edgemesh_aead::FastChaChaPoly;
use edgemesh_core::PeerId;
use edgemesh_core::dns::{Transport, Verdict};
use edgemesh_core::node::{Burst, Classified, Engine, From, Grant, Inbound, Outbound};
use edgemesh_core::packet::{HEADROOM, Packet, TAILROOM};
use edgemesh_core::path::Routes;
use edgemesh_core::rng::Rng;
use edgemesh_core::time::{Duration, Instant};
use edgemesh_core::tunnel::{self, Opened};
use edgemesh_testkit::star::{MTU, Star, address, packets};
use std::net::Ipv4Addr;

/// Bytes of every packet.
pub const LEN: usize = MTU as usize;
/// Of them, those that a flow's packets differ in.
pub const HEAD: usize = 28;
/// What the tunnel puts in front of a packet.
const DATA: usize = 16;
/// Packets in a microsecond. All that are ever sent must fit into 30 s, after which paths have to be proven again.
const RATE: u64 = 8;

/// How many of everything.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Peers, at most 1,024.
    pub peers: u32,
    /// Flows, at most 131,072, spread over the Services.
    pub flows: u32,
    /// Services, at most 16,384, spread over the peers.
    pub services: u32,
}

/// A packet that a peer has sent.
#[derive(Clone)]
pub struct Arrival {
    peer: u32,
    /// The data message's header, and the head of the packet in it.
    data: [u8; DATA],
    head: [u8; HEAD],
    opened: Opened,
}

/// A datagram that a peer has sent.
#[derive(Clone)]
pub struct Sealed {
    peer: u32,
    bytes: Vec<u8>,
}

/// See the crate's documentation.
pub struct Field {
    size: Size,
    start: Instant,
    calls: u64,
    now: Instant,
    near: Engine<'static>,
    far: Vec<Engine<'static>>,
    /// The head of each flow's packets, in the order of use.
    flows: Vec<[u8; HEAD]>,
    /// Which of the far engines answers each of them, and the head of its answers.
    answers: Vec<(u32, [u8; HEAD])>,
    queries: Vec<Vec<u8>>,
    peers: Vec<PeerId>,
    buffer: Vec<u8>,
    out: Vec<u8>,
}

fn head(packet: &[u8]) -> [u8; HEAD] {
    *packet.first_chunk().expect("a whole packet")
}

/// The head of the packets of a flow; no two numbers give the same one.
fn flow(size: Size, number: u32) -> [u8; HEAD] {
    let (service, client) = (number % size.services, number / size.services);
    let [_, a, b, c] = (client >> 8).to_be_bytes();
    let from = (Ipv4Addr::new(172, 30 + a, b, c), 1_024 + (client & 0xff) as u16);
    head(&packets::udp(from, (packets::vip(service), packets::PORT), LEN))
}

impl Field {
    /// Peers, Services and flows are there.
    pub fn new(size: Size) -> Self {
        let rooms = (0..=size.peers).map(|n| if n == 0 { room::wide() } else { room::narrow() });
        let mut star = Star::new(Instant::ZERO, rooms.zip((1..).map(address)));
        packets::define(star.engine(1), size.services, |service| 2 + service % size.peers);
        star.connect();
        let now = star.now;
        let mut engines = star.into_engines().into_iter();
        let near = engines.next().expect("the hub");
        let mut rng = Rng::new([9; 32]);
        // Heads and questions lie in the order of use: what a network brings is in the cache.
        let flows = shuffled(size.flows, &mut rng).map(|n| flow(size, n)).collect();
        let queries = shuffled(size.services, &mut rng).map(|n| packets::query(&packets::name(n))).collect();
        let mut field = Self {
            size,
            start: now,
            calls: 0,
            now,
            near,
            far: engines.collect(),
            flows,
            answers: Vec::new(),
            queries,
            peers: Vec::new(),
            buffer: vec![0x5a; HEADROOM + LEN + TAILROOM],
            out: vec![0; 4_096],
        };
        for n in 0..size.flows as usize {
            let peer = field.outbound(n).sending.peer;
            field.peers.push(peer);
            let sent = &field.buffer[HEADROOM..HEADROOM + LEN];
            field.answers.push((field.serving(sent), head(&packets::answer(sent, LEN))));
        }
        field
    }

    fn tick(&mut self) -> Instant {
        self.calls += 1;
        self.now = self.start.after(Duration::from_micros(self.calls / RATE));
        self.now
    }

    /// Which of the far engines a Service's endpoint is on.
    fn serving(&self, packet: &[u8]) -> u32 {
        let address = u32::from_be_bytes([0, packet[17], packet[18], packet[19]]);
        let first = u32::from(packets::endpoint(0)) & 0x00ff_ffff;
        (address - first) % self.size.peers
    }

    /// The next packet of a flow, as the engine translates it.
    pub fn outbound(&mut self, flow: usize) -> Grant {
        let head = self.flows[flow % self.flows.len()];
        self.translate(&head)
    }

    /// The same with the cipher: what the agent sends.
    pub fn send(&mut self, flow: usize) {
        let grant = self.outbound(flow);
        self.seal(&grant);
    }

    /// The heads of the first packets of so many new flows.
    pub fn fresh(&self, count: usize) -> Vec<[u8; HEAD]> {
        (self.size.flows..).take(count).map(|number| flow(self.size, number)).collect()
    }

    /// The packet with this head, as the engine translates it.
    pub fn translate(&mut self, head: &[u8; HEAD]) -> Grant {
        let now = self.tick();
        self.buffer[HEADROOM..HEADROOM + HEAD].copy_from_slice(head);
        let mut packet = Packet::new(&mut self.buffer, HEADROOM, LEN).expect("room");
        match self.near.outbound(now, &mut packet, Burst::single(LEN)) {
            Outbound::Seal(grant) if grant.copy.is_none() => grant,
            other => panic!("not sent on one direct path: {other:?}"),
        }
    }

    /// Seals what is in the buffer.
    pub fn seal(&mut self, grant: &Grant) {
        let key = self.near.tunnels().send_key::<FastChaChaPoly>(grant.sending.key).expect("a session's key");
        let mut packet = Packet::new(&mut self.buffer, HEADROOM, LEN).expect("room");
        tunnel::seal(&key, grant.sending.first, &mut packet, usize::MAX).expect("room");
    }

    /// The peers' answers to the flows from this one on, sealed.
    pub fn sealed(&mut self, from: usize, count: usize) -> Vec<Sealed> {
        (from..from + count).map(|flow| self.answer(flow)).collect()
    }

    /// The same, opened.
    pub fn arrivals(&mut self, from: usize, count: usize) -> Vec<Arrival> {
        (from..from + count)
            .map(|flow| {
                let Sealed { peer, mut bytes } = self.answer(flow);
                let data = *bytes.first_chunk().expect("a header");
                let (opened, _) = self.open(peer, &mut bytes);
                Arrival { peer, data, head: head(&bytes[DATA..]), opened }
            })
            .collect()
    }

    /// The answer to a flow's packet, sealed by its peer. What the node itself knows is left alone.
    fn answer(&mut self, flow: usize) -> Sealed {
        let now = self.tick();
        let (peer, head) = self.answers[flow % self.answers.len()];
        let mut bytes = vec![0x5a; HEADROOM + LEN + TAILROOM];
        bytes[HEADROOM..HEADROOM + HEAD].copy_from_slice(&head);
        let far = &mut self.far[peer as usize];
        let Outbound::Seal(grant) = far.resume(now, 1, Burst::single(LEN), LEN) else {
            panic!("peer {peer} sends nothing");
        };
        let key = far.tunnels().send_key::<FastChaChaPoly>(grant.sending.key).expect("a session's key");
        let mut packet = Packet::new(&mut bytes, HEADROOM, LEN).expect("room");
        tunnel::seal(&key, grant.sending.first, &mut packet, usize::MAX).expect("room");
        Sealed { peer, bytes: packet.bytes().to_vec() }
    }

    fn classify(&mut self, peer: u32, datagram: &[u8]) -> (tunnel::OpenTicket, edgemesh_core::path::Source) {
        let from = From::Socket { local: 0, remote: address(peer + 2) };
        match self.near.classify(self.now, from, datagram) {
            Classified::Data(ticket, source, 0) => (ticket, source),
            other => panic!("no data: {other:?}"),
        }
    }

    /// What of a datagram is taken in after it was opened.
    fn open(&mut self, peer: u32, datagram: &mut [u8]) -> (Opened, edgemesh_core::path::Source) {
        let (ticket, source) = self.classify(peer, datagram);
        let key = self.near.tunnels().recv_key::<FastChaChaPoly>(ticket.key).expect("a session's key");
        let len = datagram.len();
        let mut packet = Packet::new(datagram, 0, len).expect("all of it");
        (tunnel::open(&key, ticket, &mut packet).expect("authentic"), source)
    }

    /// Takes a packet in that was opened before.
    pub fn inbound(&mut self, arrival: &Arrival) {
        let now = self.tick();
        let start = HEADROOM - DATA;
        self.buffer[start..HEADROOM].copy_from_slice(&arrival.data);
        self.buffer[HEADROOM..HEADROOM + HEAD].copy_from_slice(&arrival.head);
        let buffer = std::mem::take(&mut self.buffer);
        let (_, source) = self.classify(arrival.peer, &buffer[start..]);
        self.buffer = buffer;
        let mut packet = Packet::new(&mut self.buffer, HEADROOM, LEN).expect("room");
        let verdict = self.near.inbound(now, source, arrival.opened, &mut packet);
        assert_eq!(verdict, Inbound::Deliver);
    }

    /// The same with the cipher: what the agent receives.
    pub fn receive(&mut self, sealed: &mut Sealed) {
        let now = self.tick();
        let (opened, source) = self.open(sealed.peer, &mut sealed.bytes);
        let mut packet = Packet::new(&mut sealed.bytes, DATA, LEN).expect("as it was sealed");
        let verdict = self.near.inbound(now, source, opened, &mut packet);
        assert_eq!(verdict, Inbound::Deliver);
    }

    /// The cipher alone, to seal with.
    pub fn sealer(&mut self) -> Sealer {
        let sending = self.outbound(0).sending;
        let key = self.near.tunnels().send_key(sending.key).expect("a session's key");
        Sealer { key, counter: sending.first, buffer: self.buffer.clone() }
    }

    /// The cipher alone, to open so many datagrams with.
    pub fn opener(&mut self, count: usize) -> Opener {
        let sealed = self.sealed(0, count);
        let mut sealed: Vec<_> =
            sealed.into_iter().map(|one| (self.classify(one.peer, &one.bytes).0, one.bytes)).collect();
        let of = sealed[0].0;
        sealed.retain(|(ticket, _)| ticket.key == of.key);
        let key = self.near.tunnels().recv_key(of.key).expect("a session's key");
        Opener { key, sealed }
    }

    /// Answers the query for a Service's name.
    pub fn query(&mut self, service: usize) {
        let now = self.tick();
        let query = &self.queries[service % self.queries.len()];
        let verdict = self.near.query(now, Transport::Udp, query, &mut self.out);
        assert!(matches!(verdict, Verdict::Answer { .. }), "{verdict:?}");
    }

    /// Where a flow's packets go.
    pub fn route(&mut self, flow: usize) -> Routes {
        let now = self.tick();
        self.near.paths().route(now, self.peers[flow % self.peers.len()], LEN)
    }
}

/// The numbers below `count` in random order.
fn shuffled(count: u32, rng: &mut Rng) -> impl Iterator<Item = u32> + use<> {
    let mut all: Vec<u32> = (0..count).collect();
    for n in (1..count).rev() {
        all.swap(n as usize, rng.below(n + 1) as usize);
    }
    all.into_iter()
}
