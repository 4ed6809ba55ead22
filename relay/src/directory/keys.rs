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
    CERTIFICATE_CONTEXT, ENTRIES_CONTEXT, FEED_CONTEXT, Greeting, RECORD_CONTEXT, REVOCATIONS_CONTEXT,
    VERSION,
};
use edgemesh_host::state::{Directory, StateError};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

const FILE: &str = "keys";

/// All secrets as they are stored. Version 1 had no epoch.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct Stored {
    version: u8,
    root: [u8; 32],
    directory: [u8; 32],
    noise: [u8; 32],
    relay: [u8; 32],
    /// The epoch that these keys begin, if no log has heard of it: a new key and a restore write this file first.
    #[serde(skip)]
    epoch: u32,
}

impl Stored {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (stored, rest) = postcard::take_from_bytes::<Self>(bytes).ok()?;
        match stored.version {
            1 => Some(stored),
            2 => postcard::from_bytes(rest).ok().map(|epoch| Self { epoch, ..stored.clone() }),
            _ => None,
        }
    }

    fn bytes(&self) -> Sealed {
        // Plain data always has a postcard form.
        let head = Zeroizing::new(postcard::to_allocvec(self).unwrap_or_default());
        let epoch = postcard::to_allocvec(&self.epoch).unwrap_or_default();
        Sealed([head.as_slice(), epoch.as_slice()].concat())
    }
}

/// The file of the keys, unopened.
#[derive(Serialize, Deserialize, ZeroizeOnDrop)]
pub(crate) struct Sealed(Vec<u8>);

impl Sealed {
    /// That of a state directory, if there is one.
    pub(super) fn find(state: &Directory) -> Result<Option<Self>, StateError> {
        Ok(state.read_secret(FILE)?.map(|bytes| Self(bytes.to_vec())))
    }

    /// That of a state directory that has one.
    pub(super) fn read(state: &Directory) -> Result<Self, StateError> {
        Self::find(state)?.ok_or_else(|| StateError::invalid(state.path(FILE), "missing"))
    }

    /// Puts it into a state directory.
    pub(super) fn write(&self, state: &Directory) -> Result<(), StateError> {
        state.write(FILE, &self.0)
    }

    /// The root's public key; `None` when these are no keys.
    pub(super) fn root(&self) -> Option<[u8; 32]> {
        Stored::parse(&self.0).map(|stored| SigningKey::from_bytes(&stored.root).verifying_key().to_bytes())
    }

    /// The same keys at the beginning of this epoch.
    pub(super) fn in_epoch(&self, epoch: u32) -> Option<Self> {
        Stored::parse(&self.0).map(|stored| Stored { version: 2, epoch, ..stored.clone() }.bytes())
    }
}

/// The keys in use.
pub(crate) struct Keys {
    root: SigningKey,
    directory: SigningKey,
    noise: StaticSecret,
    relay: Zeroizing<[u8; 32]>,
    epoch: u32,
}

impl Keys {
    /// Reads the keys, or makes them where `fresh` says that nobody has relied on any yet.
    pub(super) fn open(state: &Directory, fresh: bool, rng: &mut Rng) -> Result<Self, StateError> {
        if let Some(bytes) = state.read_secret(FILE)? {
            let invalid = "these are no keys of this server; restore them from a backup";
            let stored =
                Stored::parse(&bytes).ok_or_else(|| StateError::invalid(state.path(FILE), invalid))?;
            return Ok(Self::of(&stored));
        }
        if !fresh {
            let what = "missing, while nodes have joined under these keys; restore them from a backup";
            return Err(StateError::invalid(state.path(FILE), what));
        }
        let [root, directory, noise, relay] = [(); 4].map(|()| rng.bytes());
        let stored = Stored { version: 2, root, directory, noise, relay, epoch: 1 };
        stored.bytes().write(state)?;
        Ok(Self::of(&stored))
    }

    fn of(stored: &Stored) -> Self {
        Self {
            root: SigningKey::from_bytes(&stored.root),
            directory: SigningKey::from_bytes(&stored.directory),
            noise: StaticSecret::from_bytes(stored.noise),
            relay: Zeroizing::new(stored.relay),
            epoch: stored.epoch,
        }
    }

    /// Stores other keys for the directory and for connections, which begin `epoch`; root and relay keep theirs.
    pub(super) fn renewed(&self, state: &Directory, epoch: u32, rng: &mut Rng) -> Result<Self, StateError> {
        let (root, relay) = (self.root.to_bytes(), *self.relay);
        let stored = Stored { version: 2, root, directory: rng.bytes(), noise: rng.bytes(), relay, epoch };
        stored.bytes().write(state)?;
        Ok(Self::of(&stored))
    }

    /// The epoch that these keys began.
    pub(super) fn epoch(&self) -> u32 {
        self.epoch
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

    /// The directory's signature over revocations of an epoch, which follow the first `after`.
    pub(crate) fn sign_revocations(&self, epoch: u32, after: u32, list: &[u8]) -> [u8; 64] {
        let said = [REVOCATIONS_CONTEXT, &epoch.to_le_bytes(), &after.to_le_bytes(), list].concat();
        self.directory.sign(&said).to_bytes()
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
