//! The tunnel's handshake is Noise_IKpsk2: `snow`, which knows nothing of WireGuard, is the other side in both roles.
//! Only what WireGuard puts around Noise is written here: headers, indices and mac1 (whitepaper, 5.4).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::std_instead_of_core,
    missing_docs,
    unreachable_pub,
    dead_code
)]

#[path = "tunnel/net.rs"]
mod net;

use edgemesh_core::noise::{PublicKey, StaticSecret, hash, mac};
use edgemesh_core::rng::Rng;
use edgemesh_core::time::Instant;
use net::*;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState, TransportState};

const PROTOCOL: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
/// Their index.
const INDEX: [u8; 4] = [77, 0, 0, 0];
const NOW: Instant = Instant::from_micros(1_000_000);

struct Pair {
    ours: Node,
    our_key: PublicKey,
    theirs: StaticSecret,
    psk: [u8; 32],
}

impl Pair {
    fn new(psk: Option<[u8; 32]>) -> Self {
        let mut rng = Rng::new([22; 32]);
        let (mine, theirs) = (StaticSecret::generate(&mut rng), StaticSecret::generate(&mut rng));
        let our_key = mine.public();
        let mut ours = Node::with(mine, rng, 0, memory(1, 17, 8));
        ours.tunnels.add_peer(PEER, &theirs.public(), psk.as_ref()).unwrap();
        Self { ours, our_key, theirs, psk: psk.unwrap_or_default() }
    }

    fn builder(&self) -> Builder<'_> {
        let builder = Builder::with_resolver(PROTOCOL.parse().unwrap(), Box::new(Seeded));
        let builder = builder.prologue(PROLOGUE).unwrap();
        let builder = builder.local_private_key(self.theirs.as_bytes()).unwrap();
        builder.psk(2, &self.psk).unwrap()
    }

    /// Hands us a message of theirs with its mac1, and an empty mac2.
    fn give(&mut self, mut message: Vec<u8>) {
        let key = hash(&[b"mac1----", &self.our_key.0]);
        let mac1 = mac(&key, &[&message]).unwrap();
        message.extend(mac1);
        message.extend([0; 16]);
        self.ours.receive(NOW, origin(1), &message).unwrap();
    }

    /// Packets both ways, with the keys that both made.
    fn talk(&mut self, mut theirs: TransportState, our_index: &[u8]) {
        for n in 0..20_u64 {
            let packet = packet(20 + n as usize * 16);
            let sealed = self.ours.seal(NOW, &packet, true).unwrap();
            assert_eq!(sealed[..8], [[4, 0, 0, 0], INDEX].concat());
            assert_eq!(sealed[8..16], theirs.receiving_nonce().to_le_bytes());
            let mut text = [0; 512];
            let len = theirs.read_message(&sealed[16..], &mut text).unwrap();
            assert_eq!(text[..packet.len()], packet);
            assert!(text[packet.len()..len].iter().all(|byte| *byte == 0));

            let mut sealed = [&[4, 0, 0, 0][..], our_index, &theirs.sending_nonce().to_le_bytes()].concat();
            let len = theirs.write_message(&packet, &mut text).unwrap();
            sealed.extend(&text[..len]);
            self.ours.receive(NOW, origin(1), &sealed).unwrap();
            assert_eq!(self.ours.received.pop().unwrap(), packet);
        }
    }
}

/// snow's own algorithms, with our generator instead of the system's.
struct Seeded;

impl CryptoResolver for Seeded {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SeededRng(Rng::new([23; 32]))))
    }
    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }
    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }
    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

struct SeededRng(Rng);

impl Random for SeededRng {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill(dest);
        Ok(())
    }
}

/// An IPv4 packet of `n` bytes.
fn packet(n: usize) -> Vec<u8> {
    let mut packet = vec![n as u8; n];
    packet[..4].copy_from_slice(&[0x45, 0, (n >> 8) as u8, n as u8]);
    packet
}

const PSKS: [Option<[u8; 32]>; 2] = [None, Some([3; 32])];

#[test]
fn we_initiate() {
    for psk in PSKS {
        let mut pair = Pair::new(psk);
        pair.ours.tunnels.initiate(NOW, PEER);
        let initiation = pair.ours.drain(NOW).remove(0);
        let mut theirs: HandshakeState = pair.builder().build_responder().unwrap();
        let mut out = [0; 128];
        let len = theirs.read_message(&initiation[8..116], &mut out).unwrap();
        assert_eq!((len, out[0]), (12, 0x40), "a TAI64N stamp");
        assert_eq!(theirs.get_remote_static().unwrap(), pair.our_key.0);
        let len = theirs.write_message(&[], &mut out).unwrap();
        let our_index = &initiation[4..8];
        pair.give([&[2, 0, 0, 0][..], &INDEX, our_index, &out[..len]].concat());
        let mut theirs = theirs.into_transport_mode().unwrap();
        let confirm = pair.ours.drain(NOW).remove(0);
        assert_eq!(theirs.read_message(&confirm[16..], &mut out).unwrap(), 0, "a keepalive confirms");
        pair.talk(theirs, our_index);
    }
}

#[test]
fn they_initiate() {
    for psk in PSKS {
        let mut pair = Pair::new(psk);
        let mut theirs =
            pair.builder().remote_public_key(&pair.our_key.0).unwrap().build_initiator().unwrap();
        let mut out = [0; 128];
        let stamp = [&[0x40, 0, 0, 0, 0x65, 0, 0, 0][..], &[0; 4]].concat();
        let len = theirs.write_message(&stamp, &mut out).unwrap();
        pair.give([&[1, 0, 0, 0][..], &INDEX, &out[..len]].concat());
        let response = pair.ours.drain(NOW).remove(0);
        assert_eq!(response[8..12], INDEX);
        assert_eq!(theirs.read_message(&response[12..60], &mut out).unwrap(), 0);
        let mut theirs = theirs.into_transport_mode().unwrap();
        // The responder may send once the initiator has shown that it has the keys.
        let mut confirm = [&[4, 0, 0, 0][..], &response[4..8], &[0; 8]].concat();
        let len = theirs.write_message(&[], &mut out).unwrap();
        confirm.extend(&out[..len]);
        pair.ours.receive(NOW, origin(1), &confirm).unwrap();
        assert!(pair.ours.tunnels.is_up(PEER));
        pair.talk(theirs, &response[4..8]);
    }
}

/// Another psk on either side: the response cannot be read.
#[test]
fn the_psk_counts() {
    let mut pair = Pair::new(Some([3; 32]));
    pair.ours.tunnels.initiate(NOW, PEER);
    let initiation = pair.ours.drain(NOW).remove(0);
    pair.psk = [4; 32];
    let mut theirs = pair.builder().build_responder().unwrap();
    let mut out = [0; 128];
    theirs.read_message(&initiation[8..116], &mut out).unwrap();
    let len = theirs.write_message(&[], &mut out).unwrap();
    pair.give([&[2, 0, 0, 0][..], &INDEX, &initiation[4..8], &out[..len]].concat());
    pair.ours.drain(NOW);
    assert!(!pair.ours.tunnels.is_up(PEER));
}
