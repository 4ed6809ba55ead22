//! What lies around the two engines: the server with its control connections and its relay, and the wire.
//!
//! A board cannot sign, so the server's words lie in `golden/` as frames in the clear, made by a test of the core;
//! here they are sealed for the connection. Everything runs to completion in [`World::run`], one call of an engine
//! at a time, as a shell would.

use crate::steps::ensure;
use core::net::{Ipv4Addr, SocketAddr};
use edgemesh_core::control::{Authority, Credentials};
use edgemesh_core::counters::DropReason;
use edgemesh_core::dns::{Domain, PodRecords, Settings};
use edgemesh_core::memory::Resources;
use edgemesh_core::node::{Classified, Config, Destination, Engine, Event, From, Grant, Inbound};
use edgemesh_core::noise::ik::{Responder, Transport};
use edgemesh_core::noise::{ChaChaPoly, StaticSecret};
use edgemesh_core::packet::{HEADROOM, Packet};
use edgemesh_core::rng::Rng;
use edgemesh_core::time::{Instant, WallTime};
use edgemesh_core::tunnel::{open, seal};
use edgemesh_core::wire::control::{PROLOGUE, ToNode, ToServer};
use edgemesh_core::wire::relay::{self, Message};
use edgemesh_core::{PeerId, path};

pub const SERVER: SocketAddr = SocketAddr::new(core::net::IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)), 20_004);
const START: Instant = Instant::from_micros(1_000_000);
const WALL: WallTime = WallTime { secs: 1_700_000_000, nanos: 0 };
const RELAY_KEY: [u8; 32] = [8; 32];
const COOKIE: relay::Cookie = [9; 16];
pub const MTU: usize = 1408;
/// Rounds of [`World::run`]; what has not come to rest by then never will.
const ROUNDS: usize = 64;

/// Frames that the server sends, each behind its length.
pub struct Script {
    greeting: &'static [u8],
    pub welcome: &'static [u8],
    pub feed: &'static [u8],
    peer: &'static [u8],
}

macro_rules! golden {
    ($name:literal) => {
        include_bytes!(concat!("../golden/", $name))
    };
}

/// For the gateway, and for the node at the other end.
pub const SCRIPTS: [Script; 2] = [
    Script {
        greeting: golden!("greeting.frames"),
        welcome: golden!("near-welcome.frames"),
        feed: golden!("near-feed.frames"),
        peer: golden!("near-peer.frames"),
    },
    Script {
        greeting: golden!("greeting.frames"),
        welcome: golden!("far-welcome.frames"),
        feed: golden!("far-feed.frames"),
        peer: golden!("far-peer.frames"),
    },
];

/// The buffers of a shell, in a static.
pub struct Buffers {
    /// A datagram on its way.
    datagram: [u8; 2048],
    /// A frame of a control connection.
    frame: [u8; 1600],
    /// A packet of the TUN device, with room around it.
    pub packet: [u8; 1500],
}

impl Buffers {
    pub const ZERO: Self = Self { datagram: [0; 2048], frame: [0; 1600], packet: [0; 1500] };
}

/// How the relay's datagrams come.
const RELAYED: From = From::Socket { local: 0, remote: SERVER };

/// A node's address as others see it.
fn outside(who: usize) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(198, 51, 100, 1 + who as u8).into(), 20_006)
}

/// One side.
pub struct Node {
    pub engine: &'static mut Engine<'static>,
    pub script: &'static Script,
    /// The server's end of the control connection.
    server: Option<Transport>,
    /// Sessions and services that the engine told of.
    pub ready: u32,
    pub changed: u32,
}

impl Node {
    pub fn new(engine: &'static mut Engine<'static>, script: &'static Script) -> Self {
        Self { engine, script, server: None, ready: 0, changed: 0 }
    }
}

/// Both sides and what is between them. 0 is the gateway.
pub struct World {
    pub nodes: [Node; 2],
    pub buffers: &'static mut Buffers,
    pub now: Instant,
    /// Lookups of the other node that the server has yet to answer.
    lookups: usize,
    pings: [Option<u64>; 2],
    rng: Rng,
}

/// The engine of node 1 or 2 over its memory.
pub fn engine(memory: Resources<'static>, node: u8) -> Engine<'static> {
    Engine::new(START, memory, config(node))
}

#[inline(never)]
fn config(node: u8) -> Config {
    let domain = Domain::new("cluster.local").expect("a domain");
    Config {
        identity: StaticSecret::from_bytes([4 + node; 32]),
        credentials: Credentials {
            name: heapless::String::try_from(if node == 1 { "gateway" } else { "edge" })
                .expect("a short name"),
            secret: None,
            account: false,
            agent: "probe",
            feed: edgemesh_core::control::Feed::Whole,
        },
        authority: Authority { root: *golden!("root.key"), directory: [0; 32], epoch: 0 },
        dns: Settings {
            domain,
            ttl: 30,
            negative_ttl: 30,
            address: None,
            pods: PodRecords::Disabled,
            recursion: false,
        },
        paths: path::Config { inner_mtu_max: MTU as u16 },
        stamp: 0,
        seed: [40 + node; 32],
    }
}

impl World {
    pub fn new(near: Node, far: Node, buffers: &'static mut Buffers) -> Self {
        Self {
            nodes: [near, far],
            buffers,
            now: START,
            lookups: 0,
            pings: [None; 2],
            rng: Rng::new([42; 32]),
        }
    }

    /// The gateway's engine.
    pub fn near(&mut self) -> &mut Engine<'static> {
        self.nodes[0].engine
    }

    /// The control connection of a node, up to its `Hello`.
    pub fn connect(&mut self, who: usize) -> Result<(), &'static str> {
        let node = &mut self.nodes[who];
        node.engine.control_up(self.now, SERVER);
        node.server = None;
        let greeting = node.script.greeting;
        self.say(who, greeting)?;
        self.run()?;
        ensure(self.nodes[who].server.is_some(), "the control connection's handshake did not end")
    }

    /// Frames of the server for a node, sealed once the connection is.
    #[inline(never)]
    pub fn say(&mut self, who: usize, frames: &[u8]) -> Result<(), &'static str> {
        let (node, frame) = (&mut self.nodes[who], &mut self.buffers.frame);
        let mut rest = frames;
        while let Some((len, tail)) = rest.split_first_chunk::<2>() {
            let (text, tail) = tail.split_at(usize::from(u16::from_le_bytes(*len)));
            frame[..text.len()].copy_from_slice(text);
            let len = match &mut node.server {
                Some(transport) => transport.seal(frame, text.len()).map_err(|reason| reason.name())?,
                None => text.len(),
            };
            node.engine.control(self.now, &mut frame[..len]).map_err(|reason| reason.name())?;
            rest = tail;
        }
        Ok(())
    }

    /// Lets everybody compute and talk until nobody has anything left to say.
    pub fn run(&mut self) -> Result<(), &'static str> {
        for _ in 0..ROUNDS {
            let mut busy = false;
            for who in 0..2 {
                busy |= self.compute(who)? | self.frames(who)? | self.datagrams(who)?;
                busy |= self.tell()?;
            }
            if !busy {
                return Ok(());
            }
        }
        Err("no end of talking")
    }

    /// Goes to the next deadline of either node and does what is due.
    pub fn wait(&mut self) -> Result<(), &'static str> {
        let next = self.nodes.iter().filter_map(|node| node.engine.poll_timeout()).map(|(at, _)| at).min();
        self.now = self.now.max(next.ok_or("no deadline")?);
        for node in &mut self.nodes {
            node.engine.handle_timeout(self.now);
        }
        self.run()
    }

    /// The server answers pings, and tells whoever is looked up of the other.
    #[inline(never)]
    fn tell(&mut self) -> Result<bool, &'static str> {
        for who in 0..2 {
            if let Some(number) = self.pings[who].take() {
                let mut pong = [0; 16];
                let len = ToNode::Pong(number).encode(&mut pong[2..]).map_err(|reason| reason.name())?;
                pong[0] = len as u8;
                self.say(who, &pong[..len + 2])?;
            }
        }
        let asked = core::mem::take(&mut self.lookups);
        for who in 0..if asked == 0 { 0 } else { 2 } {
            let peer = self.nodes[who].script.peer;
            self.say(who, peer)?;
        }
        Ok(asked != 0)
    }

    #[inline(never)]
    fn compute(&mut self, who: usize) -> Result<bool, &'static str> {
        let node = &mut self.nodes[who];
        let more = node.engine.work(self.now, WALL);
        while let Some(event) = node.engine.poll_event() {
            match event {
                Event::Ready(_) => node.ready += 1,
                Event::ServicesChanged => node.changed += 1,
                Event::Expired(_) => return Err("something expired"),
                _ => {}
            }
        }
        Ok(more)
    }

    /// Carries the node's frames to the server, which answers.
    #[inline(never)]
    fn frames(&mut self, who: usize) -> Result<bool, &'static str> {
        let mut any = false;
        loop {
            let (node, frame) = (&mut self.nodes[who], &mut self.buffers.frame);
            let written = node.engine.poll_frame(self.now, frame).map_err(|reason| reason.name())?;
            let Some(len) = written else { break };
            any = true;
            match &mut node.server {
                None => {
                    let len = self.shake(who, len)?;
                    self.nodes[who]
                        .engine
                        .control(self.now, &mut self.buffers.frame[..len])
                        .map_err(|reason| reason.name())?;
                }
                Some(transport) => {
                    let text = transport.open(&mut frame[..len]).map_err(|reason| reason.name())?;
                    let said = ToServer::decode(text).map_err(|reason| reason.name())?;
                    match said {
                        Some(ToServer::LookupIndex(2)) => self.lookups += 1,
                        Some(ToServer::Ping(number)) => self.pings[who] = Some(number),
                        _ => {}
                    }
                }
            }
        }
        Ok(any)
    }

    /// The server's part of the control connection's handshake.
    #[inline(never)]
    fn shake(&mut self, who: usize, len: usize) -> Result<usize, &'static str> {
        let (node, frame) = (&mut self.nodes[who], &mut self.buffers.frame);
        let responder = Responder::new(StaticSecret::from_bytes([3; 32]), PROLOGUE);
        let (answer, _) = responder.read_message1(&mut frame[..len]).map_err(|reason| reason.name())?;
        let (transport, len) =
            answer.write_message2(&[], frame, &mut self.rng).map_err(|reason| reason.name())?;
        node.server = Some(transport);
        Ok(len)
    }

    /// Carries the node's own datagrams.
    #[inline(never)]
    fn datagrams(&mut self, who: usize) -> Result<bool, &'static str> {
        let mut any = false;
        while let Some(sent) = self.nodes[who].engine.poll_transmit(self.now, &mut self.buffers.datagram) {
            any = true;
            self.buffers.datagram.copy_within(sent.range.clone(), 0);
            match sent.to {
                Destination::Socket { remote: SERVER, .. } => self.relay(who, sent.range.len())?,
                to => self.arrive(1 - who, self.source(who, to)?, sent.range.len()).map(|_| ())?,
            }
        }
        Ok(any)
    }

    /// What the relay does with a datagram at the front of the buffer: answers a bind, passes an envelope on.
    #[inline(never)]
    fn relay(&mut self, who: usize, len: usize) -> Result<(), &'static str> {
        let datagram = &mut self.buffers.datagram;
        let observed = outside(who);
        let answer = match Message::parse(&datagram[..len]).map_err(|reason| reason.name())? {
            Message::Data { .. } => return self.arrive(1 - who, RELAYED, len).map(|_| ()),
            Message::Bind { index, epoch, cookie: COOKIE } => Message::Bound { index, epoch, observed },
            Message::Bind { index, .. } => Message::Challenge { index, cookie: COOKIE },
            _ => return Err("an odd message to the relay"),
        };
        let len = answer.emit(&RELAY_KEY, datagram).map_err(|reason| reason.name())?;
        self.arrive(who, RELAYED, len).map(|_| ())
    }

    /// A datagram at the front of the buffer reaches a node; what became of the packet in it, and where it lies.
    #[inline(never)]
    pub fn arrive(
        &mut self,
        who: usize,
        from: From,
        len: usize,
    ) -> Result<(Inbound, usize, usize), &'static str> {
        let (engine, datagram) = (&mut self.nodes[who].engine, &mut self.buffers.datagram);
        match engine.classify(self.now, from, &datagram[..len]) {
            Classified::Handled => Ok((Inbound::Handled, 0, 0)),
            Classified::Message(sender, start) => {
                engine.message(self.now, sender, &mut datagram[start..len]);
                Ok((Inbound::Handled, 0, 0))
            }
            Classified::Data(ticket, source, start) => {
                let mut packet = Packet::new(datagram, start, len - start).map_err(|reason| reason.name())?;
                let key = engine.tunnels().recv_key::<ChaChaPoly>(ticket.key).ok_or("no key to open with")?;
                let opened = open(&key, ticket, &mut packet).map_err(|reason| reason.name())?;
                let verdict = engine.inbound(self.now, source, opened, &mut packet);
                Ok((verdict, packet.start(), packet.len()))
            }
            Classified::Drop(reason) => Err(reason.name()),
        }
    }

    /// Seals the packet of `len` bytes behind the headroom and takes it to the other node, which delivers it into
    /// the packet buffer.
    #[inline(never)]
    pub fn carry(&mut self, who: usize, grant: &Grant, len: usize) -> Result<(), &'static str> {
        let (engine, buffers) = (&self.nodes[who].engine, &mut *self.buffers);
        buffers.datagram[HEADROOM..HEADROOM + len].copy_from_slice(&buffers.packet[HEADROOM..HEADROOM + len]);
        let key = engine.tunnels().send_key::<ChaChaPoly>(grant.sending.key).ok_or("no key to seal with")?;
        let mut packet = Packet::new(&mut buffers.datagram, HEADROOM, len).map_err(|reason| reason.name())?;
        seal(&key, grant.sending.first, &mut packet, MTU).map_err(|reason| reason.name())?;
        let (start, sealed) = (packet.start(), packet.len());
        let envelope = grant.first.envelope.as_ref().map_or(&[][..], |envelope| envelope);
        let first = start - envelope.len();
        buffers.datagram[first..start].copy_from_slice(envelope);
        buffers.datagram.copy_within(first..start + sealed, 0);
        let from = self.source(who, grant.first.to)?;
        let (verdict, start, len) = self.arrive(1 - who, from, envelope.len() + sealed)?;
        ensure(verdict == Inbound::Deliver, "the packet was not delivered")?;
        let Buffers { datagram, packet, .. } = &mut *self.buffers;
        packet[HEADROOM..HEADROOM + len].copy_from_slice(&datagram[start..start + len]);
        Ok(())
    }

    /// Where a datagram of a node seems to come from.
    fn source(&self, who: usize, to: Destination) -> Result<From, &'static str> {
        match to {
            Destination::Socket { remote: SERVER, .. } => Ok(RELAYED),
            Destination::Socket { remote, .. } if remote == outside(1 - who) => {
                Ok(From::Socket { local: 0, remote: outside(who) })
            }
            _ => Err("sent to nobody"),
        }
    }

    /// Whether the gateway counted a drop for any reason.
    pub fn dropped(&self) -> Option<DropReason> {
        let counters = self.nodes.iter().map(|node| node.engine.counters());
        counters.flat_map(|c| DropReason::ALL.iter().filter(|r| c.get(**r) != 0)).next().copied()
    }

    /// The peer of a node as its tunnel knows it.
    pub fn is_up(&self, who: usize) -> bool {
        self.nodes[who].engine.tunnels().is_up(PeerId(1))
    }
}
