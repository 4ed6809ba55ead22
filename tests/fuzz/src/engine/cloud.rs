//! The server's side of control connections: whatever it says comes authentic to the engines.

use ed25519_dalek::{Signer, SigningKey};
use edgemesh_core::noise::ik::{Responder, Transport};
use edgemesh_core::noise::{StaticSecret, hash};
use edgemesh_core::rng::Rng;
use edgemesh_core::wire::control::{
    ANSWER_CONTEXT, Answer, CERTIFICATE_CONTEXT, FEED_CONTEXT, FRAME_MAX, FeedCommit, Greeting, Network,
    NodeRecord, PROLOGUE, Peer, RECORD_CONTEXT, SignedRecord, ToNode, ToServer, VERSION, Welcome, said,
};
use edgemesh_core::wire::relay::{BIND, Cookie, Message};
use std::net::SocketAddr;
use std::sync::LazyLock;

pub(crate) const NETWORK: Network = Network {
    mesh_v4: [242, 0, 0, 0],
    mesh_v4_len: 8,
    mesh_v6: [0xfd, 0x65, 0x64, 0x67, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
};
pub(crate) const NAMES: [&str; 3] = ["a", "b", "c"];
const EPOCH: u32 = 1;
const COOKIE: Cookie = [7; 16];

/// Keys are the same for every input: signing is what takes longest.
struct Keys {
    root: SigningKey,
    directory: SigningKey,
    greeting: Vec<u8>,
    records: Vec<(Vec<u8>, [u8; 64])>,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let (root, directory) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
    let (noise_key, directory_key) = (noise().public().0, directory.verifying_key().to_bytes());
    let text = [CERTIFICATE_CONTEXT, &noise_key, &directory_key, &EPOCH.to_le_bytes()].concat();
    let certificate = root.sign(&text).to_bytes();
    let greeting =
        Greeting { version: VERSION, noise_key, directory_key, epoch: EPOCH, certificate: &certificate };
    let greeting = postcard::to_allocvec(&greeting).unwrap_or_default();
    let records = (1..).zip(NAMES).map(|(index, name)| {
        let record = NodeRecord {
            index,
            name,
            key: identity(index).public().0,
            serial: 1,
            epoch: EPOCH,
            ..NodeRecord::default()
        };
        let record = postcard::to_allocvec(&record).unwrap_or_default();
        let signature = directory.sign(&[RECORD_CONTEXT, &record].concat()).to_bytes();
        (record, signature)
    });
    let records = records.collect();
    Keys { root, directory, greeting, records }
});

fn noise() -> StaticSecret {
    StaticSecret::from_bytes([3; 32])
}

/// A node's key.
pub(crate) fn identity(index: u32) -> StaticSecret {
    StaticSecret::from_bytes([0x10 + index as u8; 32])
}

/// What nodes pin.
pub(crate) fn root() -> [u8; 32] {
    KEYS.root.verifying_key().to_bytes()
}

pub(crate) fn greeting() -> Vec<u8> {
    KEYS.greeting.clone()
}

fn relay_key(index: u32) -> [u8; 32] {
    hash(&[b"relay", &index.to_le_bytes()])
}

/// The relay session from one node to another.
pub(crate) const fn session(from: u32, to: u32) -> u32 {
    from * 16 + to
}

fn record(index: u32) -> SignedRecord<'static> {
    let (record, signature) = &KEYS.records[index as usize - 1];
    SignedRecord { record, signature }
}

/// The connection of one node.
pub(crate) struct Connection {
    transport: Option<Transport>,
    rng: Rng,
    /// Digest of the feed on demand so far.
    fed: [u8; 32],
}

impl Connection {
    pub(crate) fn new(seed: u8) -> Self {
        Self { transport: None, rng: Rng::new([seed; 32]), fed: [0; 32] }
    }

    /// The node's next frame; what answers it, and whom the asker has to be announced to because he was looked up.
    pub(crate) fn frame(
        &mut self,
        node: u32,
        from: SocketAddr,
        frame: &mut [u8],
    ) -> (Vec<Vec<u8>>, Option<u32>) {
        let Some(transport) = &mut self.transport else {
            let (answer, _) =
                Responder::new(noise(), PROLOGUE).read_message1(frame).expect("an engine's first message");
            let mut out = [0; 96];
            let (transport, len) =
                answer.write_message2(&[], &mut out, &mut self.rng).expect("there is room");
            self.transport = Some(transport);
            return (vec![out[..len].to_vec()], None);
        };
        let text = transport.open(frame).expect("an engine's frame opens").to_vec();
        match ToServer::decode(&text).expect("an engine's message can be read") {
            Some(ToServer::Hello(hello)) => {
                assert_eq!(hello.name, NAMES[node as usize - 1]);
                (vec![self.welcome(node, from)], None)
            }
            Some(ToServer::Ping(number)) => (vec![self.say(&ToNode::Pong(number))], None),
            Some(ToServer::LookupIndex(index)) if (1..=3).contains(&index) => {
                (vec![self.tell(node, index)], Some(index))
            }
            Some(ToServer::LookupIndex(index)) => (vec![self.say(&ToNode::NoPeer { index, name: "" })], None),
            _ => (Vec::new(), None),
        }
    }

    fn welcome(&mut self, node: u32, observed: SocketAddr) -> Vec<u8> {
        self.say(&ToNode::Welcome(Welcome {
            record: record(node),
            network: NETWORK,
            domain: "cluster.local",
            relay_key: relay_key(node),
            relay_epoch: 0,
            unix_secs: 1_700_000_000,
            observed,
            features: 0,
        }))
    }

    /// Tells a node of another.
    pub(crate) fn tell(&mut self, node: u32, about: u32) -> Vec<u8> {
        let (send_session, receive_session) = (session(node, about), session(about, node));
        self.say(&ToNode::Peer(Peer { record: record(about), send_session, receive_session }))
    }

    /// Updates of the feed.
    pub(crate) fn feed(&mut self, updates: &[u8]) -> Vec<u8> {
        self.fed = said(&self.fed, updates);
        self.say(&ToNode::Feed(updates))
    }

    pub(crate) fn commit(&mut self, sequence: u64) -> Vec<u8> {
        let digest = [7; 32];
        let text = [FEED_CONTEXT, &sequence.to_le_bytes(), &digest].concat();
        let signature = KEYS.directory.sign(&text).to_bytes();
        self.say(&ToNode::FeedCommit(FeedCommit { sequence, digest, signature: &signature }))
    }

    pub(crate) fn answer(&mut self, key: u32, found: u32) -> Vec<u8> {
        let fed = std::mem::take(&mut self.fed);
        let (sequence, parts) = (1_u64, [key.to_le_bytes(), found.to_le_bytes()]);
        let text = [ANSWER_CONTEXT, &parts[0], &sequence.to_le_bytes(), &parts[1], &fed].concat();
        let signature = KEYS.directory.sign(&text).to_bytes();
        self.say(&ToNode::Answer(Answer { key, sequence, found, signature: &signature }))
    }

    fn say(&mut self, message: &ToNode<'_>) -> Vec<u8> {
        let mut frame = [0; FRAME_MAX];
        match message.encode(&mut frame) {
            Ok(len) => self.seal(&mut frame, len),
            Err(_) => Vec::new(),
        }
    }

    /// A plaintext of any content.
    pub(crate) fn raw(&mut self, text: &[u8]) -> Vec<u8> {
        let mut frame = [0; FRAME_MAX];
        let text = &text[..text.len().min(FRAME_MAX - 16)];
        frame[..text.len()].copy_from_slice(text);
        self.seal(&mut frame, text.len())
    }

    fn seal(&mut self, frame: &mut [u8], len: usize) -> Vec<u8> {
        let Some(transport) = &mut self.transport else { return frame[..len].to_vec() };
        transport.seal(frame, len).map(|len| frame[..len].to_vec()).unwrap_or_default()
    }
}

/// What the relay makes of a datagram: who gets what.
pub(crate) fn relay(from: u32, address: SocketAddr, datagram: &[u8]) -> Option<(u32, Vec<u8>)> {
    let answer = match Message::parse(datagram).expect("an engine's relay datagram") {
        Message::Data { session, .. } => {
            return (session / 16 == from).then(|| (session % 16, datagram.to_vec()));
        }
        Message::Bind { index, epoch, cookie: COOKIE } => Message::Bound { index, epoch, observed: address },
        Message::Bind { index, .. } => Message::Challenge { index, cookie: COOKIE },
        other => panic!("a node said {other:?} to the relay"),
    };
    let mut out = [0; BIND];
    let len = answer.emit(&relay_key(from), &mut out).expect("there is room");
    Some((from, out[..len].to_vec()))
}
