//! The server's side of what boards/probe plays: a board cannot sign, so the frames that a server would send it
//! lie beside it as files. This test makes them anew and compares; `BLESS=1` writes them.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::std_instead_of_core
)]

use ed25519_dalek::{Signer, SigningKey};
use edgemesh_core::control::Network;
use edgemesh_core::noise::StaticSecret;
use edgemesh_core::wire::control::{
    CERTIFICATE_CONTEXT, FEED_CONTEXT, FeedCommit, Greeting, NodeRecord, PLAINTEXT_MAX, Peer, RECORD_CONTEXT,
    SignedRecord, ToNode, VERSION, Welcome,
};
use edgemesh_core::wire::feed::{
    ENDPOINT_READY, ENDPOINT_SERVING, EndpointDef, PortDef, Protocol, ServiceDef, ServiceKind, Update,
};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

const EPOCH: u32 = 4;
/// Of the gateway's table: full.
const SERVICES: u8 = 64;
const RELAY_KEY: [u8; 32] = [8; 32];
const NEAR_TO_FAR: u32 = 11;
const FAR_TO_NEAR: u32 = 12;

struct Directory(SigningKey);

impl Directory {
    fn signed<T>(&self, node: u32, then: impl FnOnce(SignedRecord<'_>) -> T) -> T {
        let name = ["gateway", "edge"][node as usize - 1];
        let key = StaticSecret::from_bytes([4 + node as u8; 32]).public().0;
        let record = NodeRecord { index: node, name, key, serial: 1, epoch: EPOCH, ..NodeRecord::default() };
        let record = postcard::to_slice(&record, &mut [0; 300]).unwrap().to_vec();
        let signature = self.0.sign(&[RECORD_CONTEXT, &record].concat()).to_bytes();
        then(SignedRecord { record: &record, signature: &signature })
    }

    fn welcome(&self, node: u32) -> Vec<u8> {
        let network = Network {
            mesh_v4: [242, 0, 0, 0],
            mesh_v4_len: 8,
            mesh_v6: [0xfd, 0, 2, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        };
        self.signed(node, |record| {
            plaintext(&ToNode::Welcome(Welcome {
                record,
                network,
                domain: "cluster.local",
                relay_key: RELAY_KEY,
                relay_epoch: 1,
                unix_secs: 1_700_000_000,
                observed: "203.0.113.5:4000".parse().unwrap(),
                features: 0,
            }))
        })
    }

    fn peer(&self, node: u32, send_session: u32, receive_session: u32) -> Vec<u8> {
        self.signed(node, |record| plaintext(&ToNode::Peer(Peer { record, send_session, receive_session })))
    }

    /// A full list of so many services with two endpoints each, in frames, and its commit.
    fn feed(&self, services: u8) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut body = Vec::new();
        push(&mut frames, &mut body, &[Update::Begin]);
        for n in 0..services {
            let name = format!("s{n:02}");
            let kind = ServiceKind::ClusterIp(heapless::Vec::from_slice(&[ip([10, 96, 0, n + 1])]).unwrap());
            let endpoint = |subnet| EndpointDef {
                node: 2,
                address: ip([172, 17, subnet, n + 2]),
                vip: None,
                hostname: "",
                conditions: ENDPOINT_READY | ENDPOINT_SERVING,
                zones: &[],
            };
            push(
                &mut frames,
                &mut body,
                &[
                    Update::Service(ServiceDef {
                        namespace: "default",
                        name: &name,
                        kind,
                        affinity_secs: 0,
                        flags: 0,
                    }),
                    Update::Port(PortDef { name: "", protocol: Protocol::Tcp, port: 80 }),
                    Update::Targets(&8080u16.to_le_bytes()),
                    Update::Endpoint(endpoint(0)),
                    Update::Endpoint(endpoint(1)),
                    Update::Commit,
                ],
            );
        }
        push(&mut frames, &mut body, &[Update::End]);
        frames.push(plaintext(&ToNode::Feed(&body)));
        let digest = [7; 32];
        let signed = [FEED_CONTEXT, &1u64.to_le_bytes(), &digest].concat();
        let signature = self.0.sign(&signed).to_bytes();
        frames.push(plaintext(&ToNode::FeedCommit(FeedCommit {
            sequence: 1,
            digest,
            signature: &signature,
        })));
        frames
    }
}

fn ip(octets: [u8; 4]) -> IpAddr {
    Ipv4Addr::from(octets).into()
}

/// Appends updates to the body of a frame; a full one is closed first.
fn push(frames: &mut Vec<Vec<u8>>, body: &mut Vec<u8>, updates: &[Update<'_>]) {
    let mut bytes = Vec::new();
    for update in updates {
        bytes.extend_from_slice(postcard::to_slice(update, &mut [0; 300]).unwrap());
    }
    if body.len() + bytes.len() > PLAINTEXT_MAX - 8 {
        frames.push(plaintext(&ToNode::Feed(body)));
        body.clear();
    }
    body.append(&mut bytes);
}

fn plaintext(message: &ToNode<'_>) -> Vec<u8> {
    let mut out = [0; PLAINTEXT_MAX];
    let len = message.encode(&mut out).unwrap();
    out[..len].to_vec()
}

/// Frames one after the other, each behind its length as u16 little-endian.
fn joined(frames: &[Vec<u8>]) -> Vec<u8> {
    frames.iter().flat_map(|f| [&(f.len() as u16).to_le_bytes()[..], f].concat()).collect()
}

#[test]
fn the_frames_that_the_probe_is_given_are_those_of_a_server() {
    let (root, directory) = (SigningKey::from_bytes(&[1; 32]), Directory(SigningKey::from_bytes(&[2; 32])));
    let noise_key = StaticSecret::from_bytes([3; 32]).public().0;
    let directory_key = directory.0.verifying_key().to_bytes();
    let said = [CERTIFICATE_CONTEXT, &noise_key, &directory_key, &EPOCH.to_le_bytes()].concat();
    let certificate = root.sign(&said).to_bytes();
    let greeting =
        Greeting { version: VERSION, noise_key, directory_key, epoch: EPOCH, certificate: &certificate };
    let greeting = postcard::to_slice(&greeting, &mut [0; 300]).unwrap().to_vec();
    let files = [
        ("root.key", root.verifying_key().to_bytes().to_vec()),
        ("greeting.frames", joined(&[greeting])),
        ("near-welcome.frames", joined(&[directory.welcome(1)])),
        ("far-welcome.frames", joined(&[directory.welcome(2)])),
        ("near-feed.frames", joined(&directory.feed(SERVICES))),
        ("far-feed.frames", joined(&directory.feed(1))),
        ("near-peer.frames", joined(&[directory.peer(2, NEAR_TO_FAR, FAR_TO_NEAR)])),
        ("far-peer.frames", joined(&[directory.peer(1, FAR_TO_NEAR, NEAR_TO_FAR)])),
    ];
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../platform-gateway/boards/probe/golden");
    for (name, made) in files {
        let path = folder.join(name);
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &made).unwrap();
        }
        let found = std::fs::read(&path).unwrap_or_default();
        assert!(
            found == made,
            "{} is not what a server sends now: run this test with BLESS=1",
            path.display()
        );
    }
}
