//! What stands between the nodes: a server with a directory and a relay, as small as one can be. Two nodes, named
//! by their indices 1 and 2, known beforehand; no bounds, no doubts. The real one is `edgemesh-server`.

use ed25519_dalek::{Signer, SigningKey};
use edgemesh_core::noise::ik::{Responder, Transport};
use edgemesh_core::noise::{StaticSecret, hash};
use edgemesh_core::rng::Rng;
use edgemesh_core::wire::control::{
    CERTIFICATE_CONTEXT, FRAME_MAX, Greeting, Network, NodeRecord, PROLOGUE, Peer, RECORD_CONTEXT,
    SignedRecord, ToNode, ToServer, VERSION, Welcome,
};
use edgemesh_core::wire::relay::{BIND, Message};
use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::Result;

const EPOCH: u32 = 1;
const COOKIE: [u8; 16] = [7; 16];

/// A node as the directory knows it.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) key: [u8; 32],
    pub(crate) address: SocketAddr,
}

/// The server.
pub(crate) struct Cloud {
    root: SigningKey,
    directory: SigningKey,
    entries: BTreeMap<u32, Entry>,
    connections: BTreeMap<u32, Transport>,
    rng: Rng,
}

impl Cloud {
    pub(crate) fn new(entries: BTreeMap<u32, Entry>, mut rng: Rng) -> Self {
        let (root, directory) = (SigningKey::from_bytes(&rng.bytes()), SigningKey::from_bytes(&rng.bytes()));
        Self { root, directory, entries, connections: BTreeMap::new(), rng }
    }

    /// The key that nodes pin when they join: all else is believed by its signature.
    pub(crate) fn root(&self) -> [u8; 32] {
        self.root.verifying_key().to_bytes()
    }

    fn noise() -> StaticSecret {
        StaticSecret::from_bytes([3; 32])
    }

    fn relay_key(index: u32) -> [u8; 32] {
        hash(&[b"relay", &index.to_le_bytes()])
    }

    /// The relay session that leads to a node.
    const fn session(to: u32) -> u32 {
        to.wrapping_add(1000)
    }

    /// What is said before encryption: keys, and the root's word for them.
    pub(crate) fn greeting(&self) -> Result<Vec<u8>> {
        let (noise_key, directory_key) =
            (Self::noise().public().0, self.directory.verifying_key().to_bytes());
        let said = [CERTIFICATE_CONTEXT, &noise_key, &directory_key, &EPOCH.to_le_bytes()].concat();
        let certificate = self.root.sign(&said).to_bytes();
        let greeting =
            Greeting { version: VERSION, noise_key, directory_key, epoch: EPOCH, certificate: &certificate };
        let mut out = [0; 256];
        Ok(postcard::to_slice(&greeting, &mut out)?.to_vec())
    }

    fn record(&self, index: u32) -> Result<(Vec<u8>, [u8; 64])> {
        let entry = self.entries.get(&index).ok_or("an unknown node")?;
        let record = NodeRecord {
            index,
            name: entry.name,
            key: entry.key,
            serial: 1,
            epoch: EPOCH,
            ..NodeRecord::default()
        };
        let mut out = [0; 128];
        let record = postcard::to_slice(&record, &mut out)?.to_vec();
        let signature = self.directory.sign(&[RECORD_CONTEXT, &record].concat()).to_bytes();
        Ok((record, signature))
    }

    /// A frame of node `from`; the frames that answer it, each with its receiver.
    pub(crate) fn frame(&mut self, from: u32, mut frame: Vec<u8>) -> Result<Vec<(u32, Vec<u8>)>> {
        let Some(connection) = self.connections.get_mut(&from) else {
            let (answer, _) = Responder::new(Self::noise(), PROLOGUE).read_message1(&mut frame)?;
            let mut out = [0; 96];
            let (transport, len) = answer.write_message2(&[], &mut out, &mut self.rng)?;
            self.connections.insert(from, transport);
            return Ok(vec![(from, out.get(..len).unwrap_or_default().to_vec())]);
        };
        match ToServer::decode(connection.open(&mut frame)?)? {
            Some(ToServer::Hello(_)) => self.welcome(from),
            Some(ToServer::Ping(number)) => Ok(vec![(from, self.seal(from, &ToNode::Pong(number))?)]),
            // Both sides are told of each other, so that one handshake suffices.
            Some(ToServer::LookupIndex(to)) => Ok(vec![self.tell(to, from)?, self.tell(from, to)?]),
            Some(_) | None => Ok(Vec::new()),
        }
    }

    fn welcome(&mut self, to: u32) -> Result<Vec<(u32, Vec<u8>)>> {
        let (record, signature) = self.record(to)?;
        let welcome = ToNode::Welcome(Welcome {
            record: SignedRecord { record: &record, signature: &signature },
            network: Network {
                mesh_v4: [242, 0, 0, 0],
                mesh_v4_len: 8,
                mesh_v6: [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            },
            domain: "cluster.local",
            relay_key: Self::relay_key(to),
            relay_epoch: 0,
            unix_secs: 1_700_000_000,
            observed: self.entries.get(&to).ok_or("an unknown node")?.address,
            features: 0,
        });
        Ok(vec![(to, self.seal(to, &welcome)?)])
    }

    fn tell(&mut self, to: u32, about: u32) -> Result<(u32, Vec<u8>)> {
        let (record, signature) = self.record(about)?;
        let record = SignedRecord { record: &record, signature: &signature };
        let (send_session, receive_session) = (Self::session(about), Self::session(to));
        Ok((to, self.seal(to, &ToNode::Peer(Peer { record, send_session, receive_session }))?))
    }

    /// The frame that says `message` to node `to`.
    pub(crate) fn seal(&mut self, to: u32, message: &ToNode<'_>) -> Result<Vec<u8>> {
        let mut frame = [0; FRAME_MAX];
        let len = message.encode(&mut frame)?;
        let len = self.connections.get_mut(&to).ok_or("not connected")?.seal(&mut frame, len)?;
        Ok(frame.get(..len).unwrap_or_default().to_vec())
    }

    /// A datagram of node `from`: an answer to it, or the same datagram for the node that its session leads to. What
    /// is in the envelope is sealed for that node.
    pub(crate) fn relay(&self, from: u32, datagram: &[u8]) -> Result<(u32, Vec<u8>)> {
        let answer = match Message::parse(datagram)? {
            Message::Data { session, .. } => return Ok((session.wrapping_sub(1000), datagram.to_vec())),
            Message::Bind { index, epoch, cookie: COOKIE } => {
                let observed = self.entries.get(&from).ok_or("an unknown node")?.address;
                Message::Bound { index, epoch, observed }
            }
            // It must show first that it receives where it sends from.
            Message::Bind { index, .. } => Message::Challenge { index, cookie: COOKIE },
            other => return Err(format!("a node said {other:?} to the relay").into()),
        };
        let mut out = [0; BIND];
        let len = answer.emit(&Self::relay_key(from), &mut out)?;
        Ok((from, out.get(..len).unwrap_or_default().to_vec()))
    }
}
