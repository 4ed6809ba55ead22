//! The server in the middle: it accepts every node, introduces any two of them to each other and relays between them.

use ed25519_dalek::{Signer, SigningKey};
use edgemesh_core::noise::ik::{Responder, Transport};
use edgemesh_core::noise::{StaticSecret, hash};
use edgemesh_core::rng::Rng;
use edgemesh_core::wire::control::{
    CERTIFICATE_CONTEXT, FRAME_MAX, Greeting, Network, NodeRecord, PROLOGUE, Peer, RECORD_CONTEXT,
    SignedRecord, ToNode, ToServer, VERSION, Welcome,
};
use edgemesh_core::wire::relay::{BIND, Message};
use std::collections::HashMap;
use std::net::SocketAddr;

const EPOCH: u32 = 1;
const COOKIE: [u8; 16] = [7; 16];
/// The relay session that leads to a node is its index and this.
const SESSIONS: u32 = 1_000_000;

/// Frames for nodes, by index.
pub(super) type Frames = Vec<(u32, Vec<u8>)>;

pub(super) struct Cloud {
    root: SigningKey,
    directory: SigningKey,
    /// Public key and address of each node, from index 1 on.
    nodes: Vec<([u8; 32], SocketAddr)>,
    connections: HashMap<u32, Transport>,
    rng: Rng,
}

impl Cloud {
    pub(super) fn new(mut rng: Rng) -> Self {
        let (root, directory) = (SigningKey::from_bytes(&rng.bytes()), SigningKey::from_bytes(&rng.bytes()));
        Self { root, directory, nodes: Vec::new(), connections: HashMap::new(), rng }
    }

    /// Enrols the next node.
    pub(super) fn enrol(&mut self, key: [u8; 32], address: SocketAddr) {
        self.nodes.push((key, address));
    }

    pub(super) fn root(&self) -> [u8; 32] {
        self.root.verifying_key().to_bytes()
    }

    fn node(&self, index: u32) -> ([u8; 32], SocketAddr) {
        self.nodes[index as usize - 1]
    }

    fn noise() -> StaticSecret {
        StaticSecret::from_bytes([3; 32])
    }

    fn relay_key(index: u32) -> [u8; 32] {
        hash(&[b"relay", &index.to_le_bytes()])
    }

    pub(super) fn greeting(&self) -> Vec<u8> {
        let noise_key = Self::noise().public().0;
        let directory_key = self.directory.verifying_key().to_bytes();
        let said = [CERTIFICATE_CONTEXT, &noise_key, &directory_key, &EPOCH.to_le_bytes()].concat();
        let certificate = self.root.sign(&said).to_bytes();
        let greeting =
            Greeting { version: VERSION, noise_key, directory_key, epoch: EPOCH, certificate: &certificate };
        postcard::to_allocvec(&greeting).expect("it has a form")
    }

    fn record(&self, index: u32) -> (Vec<u8>, [u8; 64]) {
        let name = super::name(index);
        let (key, _) = self.node(index);
        let record = NodeRecord { index, name: &name, key, serial: 1, epoch: EPOCH, ..NodeRecord::default() };
        let record = postcard::to_allocvec(&record).expect("it has a form");
        let signature = self.directory.sign(&[RECORD_CONTEXT, &record].concat()).to_bytes();
        (record, signature)
    }

    /// A frame of node `from`; what is said to whom because of it.
    pub(super) fn frame(&mut self, from: u32, mut frame: Vec<u8>) -> Frames {
        let Some(connection) = self.connections.get_mut(&from) else {
            let responder = Responder::new(Self::noise(), PROLOGUE);
            let (answer, _) = responder.read_message1(&mut frame).expect("a first message");
            let mut out = [0; 96];
            let written = answer.write_message2(&[], &mut out, &mut self.rng);
            let (transport, len) = written.expect("room for a second message");
            self.connections.insert(from, transport);
            return vec![(from, out[..len].to_vec())];
        };
        let message = connection.open(&mut frame).expect("a node's frame");
        match ToServer::decode(message).expect("a node's message") {
            Some(ToServer::Hello(_)) => vec![self.welcome(from)],
            Some(ToServer::Ping(number)) => vec![self.seal(from, &ToNode::Pong(number))],
            // Both sides are told of each other, so that one handshake suffices.
            Some(ToServer::LookupIndex(to)) => vec![self.tell(to, from), self.tell(from, to)],
            _ => Vec::new(),
        }
    }

    fn welcome(&mut self, to: u32) -> (u32, Vec<u8>) {
        let (record, signature) = self.record(to);
        let mut mesh_v6 = [0; 16];
        mesh_v6[0] = 0xfd;
        let welcome = Welcome {
            record: SignedRecord { record: &record, signature: &signature },
            network: Network { mesh_v4: [242, 0, 0, 0], mesh_v4_len: 8, mesh_v6 },
            domain: super::DOMAIN,
            relay_key: Self::relay_key(to),
            relay_epoch: 0,
            unix_secs: super::WALL.secs,
            observed: self.node(to).1,
            features: 0,
        };
        self.seal(to, &ToNode::Welcome(welcome))
    }

    fn tell(&mut self, to: u32, about: u32) -> (u32, Vec<u8>) {
        let (record, signature) = self.record(about);
        let record = SignedRecord { record: &record, signature: &signature };
        let (send_session, receive_session) = (SESSIONS + about, SESSIONS + to);
        self.seal(to, &ToNode::Peer(Peer { record, send_session, receive_session }))
    }

    fn seal(&mut self, to: u32, message: &ToNode<'_>) -> (u32, Vec<u8>) {
        let mut frame = [0; FRAME_MAX];
        let len = message.encode(&mut frame).expect("room for a message");
        let connection = self.connections.get_mut(&to).expect("who is told of others has connected");
        let len = connection.seal(&mut frame, len).expect("room for a frame");
        (to, frame[..len].to_vec())
    }

    /// A datagram of node `from`: an answer to it, or the same datagram for the node that its session leads to.
    pub(super) fn relay(&self, from: u32, datagram: &[u8]) -> (u32, Vec<u8>) {
        let answer = match Message::parse(datagram).expect("a node's datagram") {
            Message::Data { session, .. } => return (session - SESSIONS, datagram.to_vec()),
            Message::Bind { index, epoch, cookie: COOKIE } => {
                Message::Bound { index, epoch, observed: self.node(from).1 }
            }
            // It must show first that it receives where it sends from.
            Message::Bind { index, .. } => Message::Challenge { index, cookie: COOKIE },
            other => panic!("a node said {other:?} to the relay"),
        };
        let mut out = [0; BIND];
        let len = answer.emit(&Self::relay_key(from), &mut out).expect("room for an answer");
        (from, out[..len].to_vec())
    }
}
