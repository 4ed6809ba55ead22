//! Two nodes, a wire with a delay, a virtual clock, and an eavesdropper.

use std::collections::VecDeque;

use edgemesh_core::PeerId;
use edgemesh_core::counters::DropReason;
use edgemesh_core::noise::{ChaChaPoly, StaticSecret};
use edgemesh_core::packet::{HEADROOM, Packet, TAILROOM};
use edgemesh_core::rng::Rng;
use edgemesh_core::time::{Duration, Instant, WallTime};
use edgemesh_core::tunnel::*;
use edgemesh_core::wire::wireguard::Kind;

/// The other node, to both.
pub const PEER: PeerId = PeerId(1);
pub const MTU: usize = 1408;

fn leak<T: Clone>(empty: T, n: usize) -> &'static mut [T] {
    Box::leak(vec![empty; n].into_boxed_slice())
}

/// Memory for `peers` peers; windows of `words * 64 - 64` counters.
pub fn memory(peers: usize, words: usize, jobs: usize) -> TunnelResources<'static> {
    TunnelResources {
        peers: leak(PeerSlot::EMPTY, peers),
        keypairs: leak(KeypairSlot::EMPTY, peers * KEYPAIRS),
        windows: leak(0, peers * KEYPAIRS * words),
        indices: leak(0, (peers * 8).next_power_of_two()),
        keys: leak(0, (peers * 2).next_power_of_two()),
        jobs: leak(JobSlot::EMPTY, jobs),
        cookies: leak(CookieSlot::EMPTY, 4),
        buckets: leak(BucketSlot::EMPTY, 16),
    }
}

pub fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub fn origin(node: usize) -> Origin {
    Origin { port: 1000 + node as u16, ..Origin::EMPTY }
}

pub struct Node {
    pub tunnels: Tunnels<'static>,
    pub rng: Rng,
    /// As a shell would know it: from `poll_deadline` and `handle_timeout` only.
    pub deadline: Option<Instant>,
    pub events: Vec<TunnelEvent>,
    pub received: Vec<Vec<u8>>,
    pub drops: Vec<DropReason>,
    /// Seconds that this node's wall clock is off.
    pub skew: i64,
}

impl Node {
    pub fn new(seed: u8, floor: u64) -> Self {
        let mut rng = Rng::new([seed; 32]);
        let identity = StaticSecret::generate(&mut rng);
        Self::with(identity, rng, floor, memory(2, 17, 8))
    }

    pub fn with(identity: StaticSecret, rng: Rng, floor: u64, memory: TunnelResources<'static>) -> Self {
        let tunnels = Tunnels::new(memory, identity, floor);
        Self { tunnels, rng, deadline: None, events: vec![], received: vec![], drops: vec![], skew: 0 }
    }

    pub fn wall(&self, now: Instant) -> WallTime {
        let secs = 1_700_000_000u64.saturating_add_signed(self.skew) + now.as_micros() / 1_000_000;
        WallTime { secs, nanos: (now.as_micros() % 1_000_000) as u32 * 1000 }
    }

    /// Seals `payload`, or says why not.
    pub fn seal(&mut self, now: Instant, payload: &[u8], user: bool) -> Result<Vec<u8>, NoSession> {
        let grant = self.tunnels.reserve(now, PEER, 1, user)?;
        Ok(self.seal_with(grant, payload))
    }

    pub fn seal_with(&self, grant: SendGrant, payload: &[u8]) -> Vec<u8> {
        let key = self.tunnels.send_key::<ChaChaPoly>(grant.key).unwrap();
        let mut buffer = vec![0; HEADROOM + payload.len() + TAILROOM];
        buffer[HEADROOM..HEADROOM + payload.len()].copy_from_slice(payload);
        let mut packet = Packet::new(&mut buffer, HEADROOM, payload.len()).unwrap();
        seal(&key, grant.first, &mut packet, MTU).unwrap();
        packet.bytes().to_vec()
    }

    /// Takes a datagram as a shell does.
    pub fn receive(&mut self, now: Instant, from: Origin, datagram: &[u8]) -> Result<(), DropReason> {
        let mut datagram = datagram.to_vec();
        match self.tunnels.classify(&datagram) {
            Datagram::Drop(reason) => Err(reason),
            Datagram::Message => self.tunnels.message(now, &from, &mut datagram, &mut self.rng),
            Datagram::Data(ticket) => {
                let key = self.tunnels.recv_key::<ChaChaPoly>(ticket.key).unwrap();
                let len = datagram.len();
                let mut packet = Packet::new(&mut datagram, 0, len).unwrap();
                let opened = open(&key, ticket, &mut packet)?;
                assert_eq!(self.tunnels.commit(now, opened)?, ticket.peer);
                if opened.content() != Content::Keepalive {
                    self.received.push(packet.bytes().to_vec());
                }
                Ok(())
            }
        }
    }

    /// Drains everything; returns what goes onto the wire.
    pub fn drain(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut out = vec![];
        loop {
            while let Some(event) = self.tunnels.poll_event() {
                self.events.push(event);
            }
            let mut buffer = [0; 148];
            assert_eq!(self.tunnels.poll_transmit(now, &mut buffer[..147]), None, "too small a buffer");
            while let Some(transmit) = self.tunnels.poll_transmit(now, &mut buffer) {
                out.push(buffer[..transmit.len].to_vec());
            }
            while let Some((peer, at)) = self.tunnels.poll_deadline() {
                assert_eq!(peer, PEER);
                self.deadline = Some(at);
            }
            let wall = self.wall(now);
            let work = self.tunnels.work(now, wall, &mut self.rng);
            self.drops.extend(work.dropped);
            if !work.more && !self.tunnels.has_output() {
                break;
            }
        }
        if let Some(true) = self.tunnels.deadline(PEER).map(|at| self.deadline.is_none_or(|known| known > at))
        {
            panic!(
                "the caller was not told of {:?}, it knows {:?}",
                self.tunnels.deadline(PEER),
                self.deadline
            );
        }
        out
    }

    pub fn said(&self, event: &TunnelEvent) -> usize {
        self.events.iter().filter(|e| *e == event).count()
    }
}

/// A datagram as the eavesdropper saw it.
pub struct Seen {
    pub at: Instant,
    pub from: usize,
    pub bytes: Vec<u8>,
}

/// Whether a datagram from this node arrives.
type Filter = dyn FnMut(usize, &[u8]) -> bool;

pub struct Net {
    pub now: Instant,
    pub nodes: [Node; 2],
    pub delay: Duration,
    pub log: Vec<Seen>,
    pub passes: Box<Filter>,
    /// What node 0 confirmed the session of [`Net::connected`] with.
    pub confirmation: Vec<u8>,
    flying: VecDeque<(Instant, usize, Vec<u8>)>,
}

impl Net {
    pub fn new() -> Self {
        Self::of([Node::new(1, 0), Node::new(2, 0)], None)
    }

    pub fn of(mut nodes: [Node; 2], psk: Option<[u8; 32]>) -> Self {
        let keys = [nodes[0].tunnels.public(), nodes[1].tunnels.public()];
        for (node, key) in nodes.iter_mut().zip([keys[1], keys[0]]) {
            node.tunnels.add_peer(PEER, &key, psk.as_ref()).unwrap();
        }
        Self {
            now: Instant::from_micros(1_000_000),
            nodes,
            delay: Duration::from_millis(50),
            log: vec![],
            passes: Box::new(|_, _| true),
            confirmation: vec![],
            flying: VecDeque::new(),
        }
    }

    /// Two nodes with a session that node 0 initiated; the log is empty.
    pub fn connected() -> Self {
        let mut net = Self::new();
        assert_eq!(net.send(0, b"E"), Err(NoSession::Handshaking));
        net.run(Duration::from_millis(200));
        assert!(net.nodes.iter().all(|node| node.tunnels.is_up(PEER)));
        net.confirmation = net.log.pop().unwrap().bytes;
        net.log.clear();
        net.nodes.iter_mut().for_each(|node| node.events.clear());
        net
    }

    /// Sends a user's packet.
    pub fn send(&mut self, from: usize, payload: &[u8]) -> Result<(), NoSession> {
        let sealed = self.nodes[from].seal(self.now, payload, true);
        if let Ok(datagram) = &sealed {
            self.put(from, datagram.clone());
        }
        self.drain();
        sealed.map(drop)
    }

    /// Sends a message of the path layer.
    pub fn probe(&mut self, from: usize) -> Result<(), NoSession> {
        let datagram = self.nodes[from].seal(self.now, b"\x01probe", false)?;
        self.put(from, datagram);
        self.drain();
        Ok(())
    }

    /// Puts bytes onto the wire.
    pub fn put(&mut self, from: usize, bytes: Vec<u8>) {
        if (self.passes)(from, &bytes) {
            self.flying.push_back((self.now.after(self.delay), 1 - from, bytes.clone()));
        }
        self.log.push(Seen { at: self.now, from, bytes });
    }

    pub fn drain(&mut self) {
        for from in 0..2 {
            for bytes in self.nodes[from].drain(self.now) {
                self.put(from, bytes);
            }
        }
    }

    /// Lets time pass.
    pub fn run(&mut self, span: Duration) {
        self.run_until(self.now.after(span));
    }

    pub fn run_until(&mut self, end: Instant) {
        self.drain();
        loop {
            let arrival = self.flying.iter().map(|f| f.0).min();
            let next = arrival.into_iter().chain(self.nodes.iter().filter_map(|n| n.deadline)).min();
            let Some(next) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(next);
            while let Some(at) = self.flying.iter().position(|f| f.0 <= self.now) {
                let (_, to, bytes) = self.flying.remove(at).unwrap();
                if let Err(reason) = self.nodes[to].receive(self.now, origin(1 - to), &bytes) {
                    self.nodes[to].drops.push(reason);
                }
                self.drain();
            }
            for node in &mut self.nodes {
                if node.deadline.is_some_and(|at| at <= self.now) {
                    node.deadline = node.tunnels.handle_timeout(self.now, PEER);
                    assert_eq!(node.deadline, node.tunnels.deadline(PEER));
                    assert!(node.deadline.is_none_or(|at| at > self.now), "a deadline without progress");
                }
            }
            self.drain();
        }
        self.now = end;
    }

    /// How many messages of a kind a node sent; data by whether it is a keepalive.
    pub fn count(&self, from: usize, kind: Seek) -> usize {
        self.log.iter().filter(|seen| seen.from == from && seek(&seen.bytes) == kind).count()
    }

    /// When a node sent messages of a kind, in milliseconds since the virtual epoch.
    pub fn times(&self, from: usize, kind: Seek) -> Vec<u64> {
        let sent = self.log.iter().filter(|seen| seen.from == from && seek(&seen.bytes) == kind);
        sent.map(|seen| seen.at.as_micros() / 1000).collect()
    }
}

/// What the eavesdropper tells apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seek {
    Initiation,
    Response,
    Cookie,
    Data,
    Keepalive,
}

pub fn seek(bytes: &[u8]) -> Seek {
    match Kind::of(bytes).unwrap() {
        Kind::Initiation => Seek::Initiation,
        Kind::Response => Seek::Response,
        Kind::CookieReply => Seek::Cookie,
        Kind::Data if bytes.len() == 32 => Seek::Keepalive,
        Kind::Data => Seek::Data,
    }
}
