//! The directory's secrets, made at the first start.
//!
//! The root certifies the server's other keys and is what nodes pin; losing it means a visit to every site, so
//! the file belongs into every backup. Relay keys are derived, so a restarted relay knows its nodes at once.

use blake2::Blake2sMac;
use blake2::digest::consts::U32;
use blake2::digest::{KeyInit, Mac};
use ed25519_dalek::{Signer, SigningKey};
use edgemesh_core::noise::StaticSecret;
use edgemesh_core::rng::Rng;
use edgemesh_core::wire::control::{
    CERTIFICATE_CONTEXT, ENTRIES_CONTEXT, FEED_CONTEXT, Greeting, RECORD_CONTEXT, VERSION,
};
use edgemesh_host::state::{Directory, StateError};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

const FILE: &str = "keys";

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct Stored {
    version: u8,
    root: [u8; 32],
    directory: [u8; 32],
    noise: [u8; 32],
    relay: [u8; 32],
}

/// The keys in use.
pub(crate) struct Keys {
    root: SigningKey,
    directory: SigningKey,
    noise: StaticSecret,
    relay: zeroize::Zeroizing<[u8; 32]>,
}

impl Keys {
    /// Reads the keys, or makes them where `fresh` says that nobody has relied on any yet.
    pub(super) fn open(state: &Directory, fresh: bool, rng: &mut Rng) -> Result<Self, StateError> {
        let stored = match state.read(FILE)? {
            Some(mut bytes) => {
                let stored = postcard::from_bytes::<Stored>(&bytes).ok().filter(|s| s.version == 1);
                bytes.zeroize();
                stored.ok_or_else(|| {
                    StateError::invalid(
                        state.path(FILE),
                        "these are no keys of this server; restore them from a backup",
                    )
                })?
            }
            None if !fresh => {
                let what = "missing, while nodes have joined under these keys; restore them from a backup";
                return Err(StateError::invalid(state.path(FILE), what));
            }
            None => {
                let stored = Stored {
                    version: 1,
                    root: rng.bytes(),
                    directory: rng.bytes(),
                    noise: rng.bytes(),
                    relay: rng.bytes(),
                };
                let mut bytes = postcard::to_allocvec(&stored)
                    .map_err(|e| StateError::invalid(state.path(FILE), e.to_string()))?;
                let written = state.write(FILE, &bytes);
                bytes.zeroize();
                written?;
                stored
            }
        };
        Ok(Self {
            root: SigningKey::from_bytes(&stored.root),
            directory: SigningKey::from_bytes(&stored.directory),
            noise: StaticSecret::from_bytes(stored.noise),
            relay: zeroize::Zeroizing::new(stored.relay),
        })
    }

    /// The root's public key: what join tokens carry.
    pub(crate) fn root(&self) -> [u8; 32] {
        self.root.verifying_key().to_bytes()
    }

    /// The server's key for Noise.
    pub(crate) fn noise(&self) -> StaticSecret {
        self.noise.clone()
    }

    /// The greeting for an epoch, as its frame.
    pub(crate) fn greeting(&self, epoch: u32) -> Vec<u8> {
        let (noise_key, directory_key) = (self.noise.public().0, self.directory.verifying_key().to_bytes());
        let said = [CERTIFICATE_CONTEXT, &noise_key, &directory_key, &epoch.to_le_bytes()].concat();
        let certificate = self.root.sign(&said).to_bytes();
        let greeting =
            Greeting { version: VERSION, noise_key, directory_key, epoch, certificate: &certificate };
        postcard::to_allocvec(&greeting).unwrap_or_default()
    }

    /// The directory's signature over a record's bytes.
    pub(crate) fn sign_record(&self, record: &[u8]) -> [u8; 64] {
        self.directory.sign(&[RECORD_CONTEXT, record].concat()).to_bytes()
    }

    /// The directory's signature over a state of the feed.
    pub(crate) fn sign_commit(&self, sequence: u64, digest: &[u8; 32]) -> [u8; 64] {
        self.directory.sign(&[FEED_CONTEXT, &sequence.to_le_bytes(), digest].concat()).to_bytes()
    }

    /// The directory's signature over a list of entry points.
    pub(crate) fn sign_entries(&self, sequence: u64, digest: &[u8; 32]) -> [u8; 64] {
        self.directory.sign(&[ENTRIES_CONTEXT, &sequence.to_le_bytes(), digest].concat()).to_bytes()
    }

    /// The directory's signature over an answer about Services.
    pub(crate) fn sign_answer(&self, text: &[u8]) -> [u8; 64] {
        self.directory.sign(text).to_bytes()
    }

    /// The key of a node's relay binds: another one for another node key.
    pub(crate) fn relay_key(&self, index: u32, node: &[u8; 32]) -> [u8; 32] {
        let mut mac = <Blake2sMac<U32> as KeyInit>::new((&*self.relay).into());
        mac.update(&index.to_le_bytes());
        mac.update(node);
        mac.finalize().into_bytes().into()
    }
}
