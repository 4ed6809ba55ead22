//! A server in virtual time: directory, control connections, feed of Services and relay.
//!
//! The server proper is bound to its sockets and threads, so this one is written for the test, on the same wire
//! formats and keys and by the same rules: who may bind where, which session leads where, what a lookup tells
//! both sides, what a restart forgets. It deliberately has no rate limits, no bounds and no deltas.

use crate::ledger::{End, Ledger};
use crate::node::BEGINNING;
use crate::pods::{self, ENDPOINT};
use ed25519_dalek::{Signer, SigningKey};
use edgemesh_core::noise::StaticSecret;
use edgemesh_core::noise::ik::{Responder, Transport};
use edgemesh_core::rng::Rng;
use edgemesh_core::time::{Duration, Instant};
use edgemesh_core::wire::control::{
    CERTIFICATE_CONTEXT, FEED_CONTEXT, FRAME_MAX, FeedCommit, Greeting, Network, NodeRecord, PROLOGUE, Peer,
    Preamble, RECORD_CONTEXT, Refusal, SignedRecord, ToNode, ToServer, VERSION, Welcome,
};
use edgemesh_core::wire::feed::{
    ENDPOINT_READY, ENDPOINT_SERVING, EndpointDef, PortDef, Protocol, ServiceDef, ServiceKind, Update,
};
use edgemesh_core::wire::relay::{BIND, Cookie, Message, verify};
use edgemesh_testkit::network::{Datagram, Tail};
use edgemesh_testkit::pipe::{PipeEvent, PipeId};
use edgemesh_testkit::world::{Participant, Transmit};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The address of a server, by number.
pub(crate) fn address(n: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1 + n as u8))
}
/// UDP, and TCP for control.
pub(crate) const PORT: u16 = 20_006;
/// TCP for relayed datagrams: one port serves both, but a simulated node tells its connections apart by it.
pub(crate) const RELAY_PORT: u16 = 20_007;
/// What the nodes join with.
pub(crate) const SECRET: [u8; 16] = [0x5e; 16];

const EPOCH: u32 = 1;
const SEQUENCE: u64 = 1;
/// A control connection that is silent for so long is gone.
const SILENT_MAX: Duration = Duration::from_secs(60);
const NETWORK: Network = Network {
    mesh_v4: [242, 0, 0, 0],
    mesh_v4_len: 8,
    mesh_v6: [0xfd, 0x65, 0x64, 0x67, 0x65, 0x6d, 0x65, 0x73, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// What survives a restart: keys, and the names and keys of the nodes that joined, by index from 1.
#[derive(Clone)]
pub(crate) struct Store {
    root: SigningKey,
    directory: SigningKey,
    noise: [u8; 32],
    relay: [u8; 16],
    nodes: Vec<(String, [u8; 32])>,
    /// How many nodes serve something.
    serving: u8,
}

impl Store {
    pub(crate) fn new(serving: usize, rng: &mut Rng) -> Self {
        Self {
            root: SigningKey::from_bytes(&rng.bytes()),
            directory: SigningKey::from_bytes(&rng.bytes()),
            noise: rng.bytes(),
            relay: rng.bytes(),
            nodes: Vec::new(),
            serving: serving as u8,
        }
    }

    /// What nodes pin.
    pub(crate) fn root(&self) -> [u8; 32] {
        self.root.verifying_key().to_bytes()
    }

    fn relay_key(&self, index: u32) -> [u8; 32] {
        edgemesh_core::noise::hash(&[&self.relay, &index.to_le_bytes()])
    }

    fn greeting(&self) -> Vec<u8> {
        let noise_key = StaticSecret::from_bytes(self.noise).public().0;
        let directory_key = self.directory.verifying_key().to_bytes();
        let said = [CERTIFICATE_CONTEXT, &noise_key, &directory_key, &EPOCH.to_le_bytes()].concat();
        let certificate = self.root.sign(&said).to_bytes();
        let (version, epoch) = (VERSION, EPOCH);
        let greeting = Greeting { version, noise_key, directory_key, epoch, certificate: &certificate };
        postcard::to_allocvec(&greeting).unwrap()
    }

    fn record(&self, index: u32) -> Option<(Vec<u8>, [u8; 64])> {
        let (name, key) = self.nodes.get(index.checked_sub(1)? as usize)?;
        let record = NodeRecord { index, name, key: *key, serial: 1, epoch: EPOCH, ..NodeRecord::default() };
        let record = postcard::to_allocvec(&record).unwrap();
        let signature = self.directory.sign(&[RECORD_CONTEXT, &record].concat()).to_bytes();
        Some((record, signature))
    }

    /// Index of a node that may join.
    fn admit(&mut self, name: &str, key: [u8; 32], secret: &[u8]) -> Option<u32> {
        let known = self.nodes.iter().position(|(_, k)| *k == key);
        let place = known.or_else(|| {
            (secret == SECRET).then(|| {
                self.nodes.push((name.to_owned(), key));
                self.nodes.len() - 1
            })
        })?;
        Some(place as u32 + 1)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Udp(SocketAddr),
    Tcp(PipeId),
}

enum Stage {
    Preamble,
    /// The greeting is sent.
    Greeted,
    Hello(Transport, [u8; 32]),
    Up(Transport, u32),
    Relay,
}

struct Connection {
    from: SocketAddr,
    stage: Stage,
    buffer: Vec<u8>,
    heard: Instant,
}

/// The server.
pub(crate) struct SimServer {
    pub(crate) store: Store,
    ledger: Ledger,
    rng: Rng,
    connections: BTreeMap<PipeId, Connection>,
    hub: BTreeMap<u32, PipeId>,
    /// Sender and receiver of each relay session.
    sessions: BTreeMap<u32, (u32, u32)>,
    pairs: BTreeMap<(u32, u32), u32>,
    bindings: BTreeMap<u32, (u64, Way)>,
    cookies: BTreeMap<(SocketAddr, u32), Cookie>,
    /// Who was not bound when a datagram came, and that datagram's sender and receiver.
    missed: BTreeSet<(u32, u32, u32)>,
    queue: VecDeque<Transmit>,
    /// Lookups so far.
    pub(crate) lookups: usize,
}

impl SimServer {
    pub(crate) fn new(store: Store, ledger: Ledger, rng: Rng) -> Self {
        Self {
            store,
            ledger,
            rng,
            connections: BTreeMap::new(),
            hub: BTreeMap::new(),
            sessions: BTreeMap::new(),
            pairs: BTreeMap::new(),
            bindings: BTreeMap::new(),
            cookies: BTreeMap::new(),
            missed: BTreeSet::new(),
            queue: VecDeque::new(),
            lookups: 0,
        }
    }

    fn session(&mut self, from: u32, to: u32) -> u32 {
        *self.pairs.entry((from, to)).or_insert_with(|| {
            let session = self.rng.u32() | 1;
            self.sessions.insert(session, (from, to));
            session
        })
    }

    /// A relay datagram; what goes back to its sender.
    fn relay(&mut self, from: Way, address: SocketAddr, datagram: &[u8]) -> Option<Vec<u8>> {
        let mut out = [0; BIND];
        let Ok(message) = Message::parse(datagram) else {
            self.ends(datagram);
            return None;
        };
        if !matches!(message, Message::Data { .. }) {
            self.ends(datagram);
        }
        match message {
            Message::Data { session, .. } => {
                let bound = |index: u32| self.bindings.get(&index).map(|(_, way)| *way);
                match self.sessions.get(&session).copied() {
                    Some((sender, receiver)) if bound(sender) == Some(from) => {
                        match bound(receiver) {
                            Some(way) => self.send(way, datagram),
                            None => {
                                self.ends(datagram);
                                self.missed.insert((receiver, sender, receiver));
                            }
                        }
                        None
                    }
                    unbound => {
                        self.ends(datagram);
                        self.missed.extend(unbound.map(|(sender, receiver)| (sender, sender, receiver)));
                        let len = Message::Unbound { session }.emit(&[0; 32], &mut out).ok()?;
                        Some(out[..len].to_vec())
                    }
                }
            }
            Message::Bind { index, epoch, cookie } => {
                self.store.record(index)?;
                let key = self.store.relay_key(index);
                if !verify(&key, datagram) {
                    return None;
                }
                let known = self.bindings.get(&index).copied();
                let here = known.is_some_and(|(_, way)| way == from);
                if known.is_some_and(|(last, _)| epoch < last || (epoch == last && !here)) {
                    return None;
                }
                let expected = *self.cookies.entry((address, index)).or_insert_with(|| self.rng.bytes());
                let answer = if here || matches!(from, Way::Tcp(_)) || cookie == expected {
                    self.bindings.insert(index, (epoch, from));
                    if !here {
                        self.met(index);
                    }
                    Message::Bound { index, epoch, observed: address }
                } else {
                    Message::Challenge { index, cookie: expected }
                };
                let len = answer.emit(&key, &mut out).ok()?;
                Some(out[..len].to_vec())
            }
            Message::Challenge { .. } | Message::Bound { .. } | Message::Unbound { .. } => None,
        }
    }

    fn send(&mut self, way: Way, datagram: &[u8]) {
        match way {
            Way::Udp(dst) => {
                self.queue.push_back(Transmit::Datagram { port: PORT, dst, bytes: datagram.to_vec() });
            }
            Way::Tcp(pipe) => {
                self.ledger.enters(self.ledger.find(Tail::of(datagram)), pipe);
                self.write(pipe, datagram);
            }
        }
    }

    /// A datagram goes no further, if a pod's packet is in it.
    fn ends(&self, datagram: &[u8]) {
        self.ledger.ends(self.ledger.find(Tail::of(datagram)), End::Server);
    }

    fn write(&mut self, pipe: PipeId, frame: &[u8]) {
        let bytes = [&(frame.len() as u16).to_le_bytes()[..], frame].concat();
        self.queue.push_back(Transmit::Write { pipe, bytes });
    }

    fn close(&mut self, pipe: PipeId) {
        self.forget(pipe);
        self.queue.push_back(Transmit::Close { pipe });
    }

    fn forget(&mut self, pipe: PipeId) {
        self.connections.remove(&pipe);
        self.hub.retain(|_, p| *p != pipe);
        self.bindings.retain(|_, (_, way)| *way != Way::Tcp(pipe));
    }

    /// Says something to a node; nothing when it is not connected.
    fn say(&mut self, pipe: PipeId, message: &ToNode<'_>) {
        let mut frame = [0; FRAME_MAX];
        let len = message.encode(&mut frame).unwrap();
        if let Some(Connection { stage: Stage::Up(transport, _) | Stage::Hello(transport, _), .. }) =
            self.connections.get_mut(&pipe)
        {
            let len = transport.seal(&mut frame, len).unwrap();
            self.write(pipe, &frame[..len]);
        }
    }

    /// Takes the frames that are complete.
    fn read(&mut self, now: Instant, pipe: PipeId) {
        while let Some(connection) = self.connections.get_mut(&pipe) {
            if matches!(connection.stage, Stage::Preamble) {
                let Some((preamble, rest)) = connection.buffer.split_first_chunk::<4>() else { return };
                let (preamble, rest) = (Preamble::parse(*preamble).unwrap(), rest.to_vec());
                connection.buffer = rest;
                connection.stage = if preamble == Preamble::Relay { Stage::Relay } else { Stage::Greeted };
                if preamble == Preamble::Control {
                    let greeting = self.store.greeting();
                    self.write(pipe, &greeting);
                }
                continue;
            }
            let Some((len, rest)) = connection.buffer.split_first_chunk::<2>() else { return };
            let len = usize::from(u16::from_le_bytes(*len));
            let Some((frame, rest)) = rest.split_at_checked(len) else { return };
            let (mut frame, rest) = (frame.to_vec(), rest.to_vec());
            connection.buffer = rest;
            connection.heard = now;
            if matches!(connection.stage, Stage::Relay) {
                let from = connection.from;
                self.ledger.leaves(self.ledger.find(Tail::of(&frame)), pipe);
                if let Some(answer) = self.relay(Way::Tcp(pipe), from, &frame) {
                    self.write(pipe, &answer);
                }
            } else {
                self.frame(pipe, &mut frame);
            }
        }
    }

    fn frame(&mut self, pipe: PipeId, frame: &mut [u8]) {
        let Some(connection) = self.connections.get_mut(&pipe) else { return };
        match &mut connection.stage {
            Stage::Greeted => {
                let noise = StaticSecret::from_bytes(self.store.noise);
                let (answer, _) = Responder::new(noise, PROLOGUE).read_message1(frame).unwrap();
                let key = answer.initiator().0;
                let mut message2 = [0; 96];
                let (transport, len) = answer.write_message2(&[], &mut message2, &mut self.rng).unwrap();
                connection.stage = Stage::Hello(transport, key);
                self.write(pipe, &message2[..len]);
            }
            Stage::Hello(transport, key) => {
                let (key, text) = (*key, transport.open(frame).unwrap().to_vec());
                self.hello(pipe, key, &text);
            }
            Stage::Up(transport, index) => {
                let index = *index;
                let text = transport.open(frame).unwrap().to_vec();
                match ToServer::decode(&text).unwrap() {
                    Some(ToServer::Ping(number)) => self.say(pipe, &ToNode::Pong(number)),
                    Some(ToServer::LookupIndex(wanted)) => self.lookup(pipe, index, wanted),
                    // Nobody is.
                    Some(ToServer::Revocations(_)) => {}
                    other => panic!("a node said {other:?}"),
                }
            }
            Stage::Preamble | Stage::Relay => unreachable!(),
        }
    }

    fn hello(&mut self, pipe: PipeId, key: [u8; 32], text: &[u8]) {
        let Some(ToServer::Hello(hello)) = ToServer::decode(text).unwrap() else { panic!("no hello") };
        let Some(index) = self.store.admit(hello.name, key, hello.secret) else {
            return self.say(pipe, &ToNode::Refused { reason: Refusal::WrongToken, detail: "" });
        };
        let (record, signature) = self.store.record(index).unwrap();
        let (observed, now) = (self.connections[&pipe].from, self.connections[&pipe].heard);
        let welcome = Welcome {
            record: SignedRecord { record: &record, signature: &signature },
            network: NETWORK,
            domain: "cluster.local",
            relay_key: self.store.relay_key(index),
            relay_epoch: self.bindings.get(&index).map_or(0, |(epoch, _)| *epoch),
            unix_secs: BEGINNING + now.as_micros() / 1_000_000,
            observed,
            features: 0,
        };
        self.say(pipe, &ToNode::Welcome(welcome));
        let connection = self.connections.get_mut(&pipe).unwrap();
        let stage = std::mem::replace(&mut connection.stage, Stage::Preamble);
        let Stage::Hello(transport, _) = stage else { unreachable!() };
        connection.stage = Stage::Up(transport, index);
        if let Some(old) = self.hub.insert(index, pipe) {
            self.close(old);
            self.hub.insert(index, pipe);
        }
        if hello.sequence != SEQUENCE {
            self.say(pipe, &ToNode::Feed(&feed(self.store.serving)));
        }
        let digest = [7; 32];
        let said = [FEED_CONTEXT, &SEQUENCE.to_le_bytes(), &digest].concat();
        let signature = self.store.directory.sign(&said).to_bytes();
        self.say(pipe, &ToNode::FeedCommit(FeedCommit { sequence: SEQUENCE, digest, signature: &signature }));
    }

    /// The node is bound now: whose datagrams were lost because it was not is told again of their receivers.
    fn met(&mut self, index: u32) {
        let (met, rest) = self.missed.iter().partition(|(missing, ..)| *missing == index);
        self.missed = rest;
        let met: BTreeSet<(u32, u32, u32)> = met;
        for (_, from, to) in met {
            if let (Some(record), Some(pipe)) = (self.store.record(to), self.hub.get(&from).copied()) {
                let sessions = (self.session(from, to), self.session(to, from));
                self.tell_of(pipe, &record, sessions);
            }
        }
    }

    /// Both sides are told of each other.
    fn lookup(&mut self, pipe: PipeId, asker: u32, index: u32) {
        self.lookups += 1;
        let (Some(theirs), Some(own)) = (self.store.record(index), self.store.record(asker)) else {
            return self.say(pipe, &ToNode::NoPeer { index, name: "" });
        };
        let (there, back) = (self.session(asker, index), self.session(index, asker));
        if let Some(other) = self.hub.get(&index).copied() {
            self.tell_of(other, &own, (back, there));
        }
        self.tell_of(pipe, &theirs, (there, back));
    }

    fn tell_of(&mut self, pipe: PipeId, signed: &(Vec<u8>, [u8; 64]), sessions: (u32, u32)) {
        let record = SignedRecord { record: &signed.0, signature: &signed.1 };
        let (send_session, receive_session) = sessions;
        self.say(pipe, &ToNode::Peer(Peer { record, send_session, receive_session }));
    }
}

/// The Services of all nodes, as updates.
fn feed(serving: u8) -> Vec<u8> {
    let mut body = Vec::new();
    let mut put = |update: &Update<'_>| body.extend(postcard::to_allocvec(update).unwrap());
    put(&Update::Begin);
    put(&Update::Namespace("default"));
    for node in 1..=serving {
        let (name, vip) = pods::service(node);
        let kind = ServiceKind::ClusterIp([IpAddr::from(vip)].into_iter().collect());
        put(&Update::Service(ServiceDef { namespace: "default", name, kind, affinity_secs: 0, flags: 0 }));
        put(&Update::Port(PortDef { name: "", protocol: Protocol::Udp, port: pods::PORT }));
        put(&Update::Targets(&ENDPOINT.1.to_le_bytes()));
        let (address, conditions) = (IpAddr::from(ENDPOINT.0), ENDPOINT_READY | ENDPOINT_SERVING);
        put(&Update::Endpoint(EndpointDef {
            node: node.into(),
            address,
            vip: None,
            hostname: "",
            conditions,
            zones: &[],
        }));
        put(&Update::Commit);
    }
    put(&Update::End);
    body
}

impl Participant for SimServer {
    fn handle_datagram(&mut self, _: Instant, datagram: Datagram) {
        let way = Way::Udp(datagram.src);
        if let Some(answer) = self.relay(way, datagram.src, &datagram.bytes) {
            self.send(way, &answer);
        }
    }

    fn handle_pipe(&mut self, now: Instant, pipe: PipeId, event: PipeEvent) {
        match event {
            PipeEvent::Accepted { from, .. } => {
                let connection = Connection { from, stage: Stage::Preamble, buffer: Vec::new(), heard: now };
                self.connections.insert(pipe, connection);
            }
            PipeEvent::Data(bytes) => {
                if let Some(connection) = self.connections.get_mut(&pipe) {
                    connection.buffer.extend(bytes);
                    self.read(now, pipe);
                }
            }
            PipeEvent::Closed => self.forget(pipe),
            PipeEvent::Opened { .. } | PipeEvent::Refused { .. } => {
                unreachable!("the server connects nowhere")
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        let silent = |c: &Connection| c.heard.after(SILENT_MAX) <= now;
        let silent: Vec<_> = self.connections.iter().filter(|(_, c)| silent(c)).map(|(p, _)| *p).collect();
        silent.into_iter().for_each(|pipe| self.close(pipe));
    }

    fn poll_transmit(&mut self, _: Instant) -> Option<Transmit> {
        self.queue.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.connections.values().map(|c| c.heard.after(SILENT_MAX)).min()
    }

    fn timeout_reason(&self) -> &'static str {
        "silent connections"
    }
}
