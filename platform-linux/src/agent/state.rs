//! What the agent keeps on disk: its key, its membership, the records of nodes, the last good table and list of entry
//! points.
//!
//! The private key is made here and never leaves. Everything else lets a node that boots without a cloud serve
//! what it last knew. Files are whole postcard values, replaced atomically, but for the table, to which changes are
//! appended; one that cannot be read is reported, set aside and treated as absent, except the key: without it the
//! node would be somebody else, so the agent refuses to start.

use edgemesh_core::noise::StaticSecret;
use edgemesh_core::wire::control::Network;
use edgemesh_host::state::{Directory, StateError};
use edgemesh_host::token::Invitation;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use zeroize::Zeroize;

const IDENTITY: &str = "identity";
const MEMBERSHIP: &str = "membership";
const RECORDS: &str = "records";
const SERVICES: &str = "services";
const ENTRIES: &str = "entry-points";
const HELD: &str = "held";
const STAMP: &str = "handshake-stamp";

/// What a node knows of the cluster it belongs to.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The name it joined under.
    pub node: String,
    /// Servers to try, in order.
    pub servers: Vec<String>,
    /// The root key it pinned.
    pub root: [u8; 32],
    /// The join secret, until the directory has enrolled this node's key; then empty.
    pub secret: Vec<u8>,
    /// What the directory said, once it has.
    pub joined: Option<Joined>,
}

/// What the directory says of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The node's index.
    pub index: u32,
    /// The cluster's settings.
    pub network: Network,
    /// Cluster domain.
    pub domain: String,
    /// The key that signs records.
    pub directory_key: [u8; 32],
    /// The directory's epoch.
    pub epoch: u32,
}

/// A signed record as it came.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRecord {
    /// Postcard bytes of the record.
    pub record: Vec<u8>,
    /// The directory's signature.
    pub signature: Vec<u8>,
}

/// The agent's state directory.
pub struct State {
    directory: Directory,
}

impl State {
    /// Opens and locks `path`.
    ///
    /// # Errors
    /// When it cannot be made, is no directory, or another agent uses it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let mut directory = Directory::open(path)?;
        directory.lock()?;
        Ok(Self { directory })
    }

    /// This node's key; made and stored at the first start.
    ///
    /// # Errors
    /// When it cannot be stored, or what is stored is no key.
    pub fn identity(&self, fresh: impl FnOnce() -> [u8; 32]) -> Result<StaticSecret, StateError> {
        if let Some(mut bytes) = self.directory.read(IDENTITY)? {
            let key: Result<[u8; 32], _> = bytes.as_slice().try_into();
            bytes.zeroize();
            return key.map(StaticSecret::from_bytes).map_err(|_| {
                StateError::invalid(
                    self.directory.path(IDENTITY),
                    "not a 32-byte key; restore it, or remove the directory and join again with a new token",
                )
            });
        }
        let mut key = fresh();
        self.directory.write(IDENTITY, &key)?;
        let secret = StaticSecret::from_bytes(key);
        key.zeroize();
        Ok(secret)
    }

    /// The membership on disk, brought up to date with what lets the node join when that is given.
    ///
    /// # Errors
    /// When there is neither, or the token is for another node; the text is for the user.
    pub fn membership(&self, node: &str, invitation: Option<Invitation>) -> Result<Membership, String> {
        let stored = self.load::<Membership>(MEMBERSHIP).filter(|m| m.node == node);
        let Some(invitation) = invitation else {
            return stored.ok_or_else(|| {
                format!(
                    "--join: node {node:?} has not joined yet; accepted: a token, or @FILE that holds one \
                     (made by: edgemesh-server token --node {node}; where a ServiceAccount token joins: \
                     edgemesh-server token --cluster)"
                )
            });
        };
        let (servers, root, secret) = match &invitation {
            Invitation::Token(token) if token.node != node => {
                return Err(format!(
                    "--join: the token is for node {:?}, but --node is {node:?}",
                    token.node
                ));
            }
            Invitation::Token(token) => (token.servers.clone(), token.root, token.secret.to_vec()),
            Invitation::Cluster(cluster) => (cluster.servers.clone(), cluster.root, Vec::new()),
        };
        match stored.filter(|stored| stored.root == root && stored.joined.is_some()) {
            Some(stored) => Ok(Membership { servers, secret: Vec::new(), ..stored }),
            None => Ok(Membership { node: node.to_owned(), servers, root, secret, joined: None }),
        }
    }

    /// Stores the membership.
    ///
    /// # Errors
    /// When the file cannot be written; the last good one stays.
    pub fn save_membership(&self, membership: &Membership) -> Result<(), StateError> {
        self.save(MEMBERSHIP, membership)
    }

    /// The records of nodes, by index.
    pub fn records(&self) -> BTreeMap<u32, StoredRecord> {
        self.load(RECORDS).unwrap_or_default()
    }

    /// Stores the records.
    ///
    /// # Errors
    /// As [`State::save_membership`].
    pub fn save_records(&self, records: &BTreeMap<u32, StoredRecord>) -> Result<(), StateError> {
        self.save(RECORDS, records)
    }

    /// The last good table, as written by [`State::save_services`].
    pub fn services(&self) -> Option<Vec<u8>> {
        self.directory.read(SERVICES).unwrap_or_else(|error| {
            tracing::warn!(%error, "no snapshot of the Services");
            None
        })
    }

    /// Stores the table, as [`edgemesh_discovery::snapshot`] writes it.
    ///
    /// # Errors
    /// As [`State::save_membership`].
    pub fn save_services(&self, snapshot: &[u8]) -> Result<(), StateError> {
        self.directory.write(SERVICES, snapshot)
    }

    /// Appends what has changed since to the table.
    ///
    /// # Errors
    /// When the file cannot be written: a part of `more` may be there.
    pub fn append_services(&self, more: &[u8]) -> Result<(), StateError> {
        self.directory.append(SERVICES, more)
    }

    /// The last good list of entry points, as written by [`State::save_entries`].
    pub fn entries(&self) -> Option<Vec<u8>> {
        self.load(ENTRIES)
    }

    /// Stores the list of entry points.
    ///
    /// # Errors
    /// As [`State::save_membership`].
    pub fn save_entries(&self, list: &Vec<u8>) -> Result<(), StateError> {
        self.save(ENTRIES, list)
    }

    /// What was held of Nodes that were not ready, as written by [`State::save_held`].
    pub fn held(&self) -> Option<Vec<u8>> {
        self.directory.read(HELD).unwrap_or_else(|error| {
            tracing::warn!(%error, "nothing is held");
            None
        })
    }

    /// Stores what is held of Nodes that are not ready.
    ///
    /// # Errors
    /// As [`State::save_membership`].
    pub fn save_held(&self, held: &[u8]) -> Result<(), StateError> {
        self.directory.write(HELD, held)
    }

    /// Unix seconds that handshakes must be stamped after, however wrong the clock is.
    pub fn stamp(&self) -> u64 {
        self.load(STAMP).unwrap_or_default()
    }

    /// Stores the stamp.
    ///
    /// # Errors
    /// As [`State::save_membership`].
    pub fn save_stamp(&self, unix_secs: u64) -> Result<(), StateError> {
        self.save(STAMP, &unix_secs)
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        self.directory.root()
    }

    fn load<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let bytes = match self.directory.read(name) {
            Ok(bytes) => bytes?,
            Err(error) => {
                tracing::warn!(%error, "going on without it");
                return None;
            }
        };
        match postcard::from_bytes(&bytes) {
            Ok(value) => Some(value),
            Err(_) => {
                let (path, aside) =
                    (self.directory.path(name), self.directory.path(&format!("{name}.damaged")));
                let _ = std::fs::rename(&path, &aside);
                tracing::warn!(file = %path.display(), kept_as = %aside.display(), "damaged state file, going on without it");
                None
            }
        }
    }

    fn save<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StateError> {
        let mut bytes = postcard::to_allocvec(value)
            .map_err(|error| StateError::invalid(self.directory.path(name), error.to_string()))?;
        let written = self.directory.write(name, &bytes);
        bytes.zeroize();
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgemesh_host::token::{Cluster, Token};

    fn state(name: &str) -> (State, std::path::PathBuf) {
        let path = std::env::temp_dir().join(format!("edgemesh-agent-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        (State::open(&path).unwrap(), path)
    }

    fn token(node: &str, root: u8) -> Invitation {
        Invitation::Token(Token {
            servers: vec!["s:1".into()],
            root: [root; 32],
            node: node.into(),
            secret: [4; 16],
            expires: 9,
        })
    }

    fn cluster(server: &str, root: u8) -> Invitation {
        Invitation::Cluster(Cluster { servers: vec![server.into()], root: [root; 32] })
    }

    #[test]
    fn the_key_is_made_once_and_a_damaged_one_stops_the_agent() {
        let (state, path) = state("identity");
        let first = state.identity(|| [5; 32]).unwrap().public();
        assert_eq!(state.identity(|| [6; 32]).unwrap().public().0, first.0);
        std::fs::write(path.join(IDENTITY), b"short").unwrap();
        assert!(state.identity(|| [6; 32]).unwrap_err().to_string().contains("not a 32-byte key"));
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_token_is_needed_once_and_must_be_for_this_node() {
        let (state, path) = state("membership");
        assert!(state.membership("a", None).err().unwrap().contains("has not joined yet"));
        assert!(state.membership("a", Some(token("b", 1))).err().unwrap().contains("for node \"b\""));
        let mut member = state.membership("a", Some(token("a", 1))).unwrap();
        assert_eq!(member.secret, [4; 16]);
        let network = Network { mesh_v4: [242, 0, 0, 0], mesh_v4_len: 8, mesh_v6: [0xFD; 16] };
        member.joined = Some(Joined {
            index: 3,
            network,
            domain: "cluster.local".into(),
            directory_key: [1; 32],
            epoch: 1,
        });
        state.save_membership(&member).unwrap();
        assert_eq!(state.membership("a", None).unwrap().joined.unwrap().index, 3);
        assert!(state.membership("a", Some(token("a", 1))).unwrap().secret.is_empty());
        assert!(state.membership("a", Some(token("a", 2))).unwrap().joined.is_none());
        let moved = state.membership("a", Some(cluster("t:1", 1))).unwrap();
        assert_eq!((moved.servers, moved.joined.unwrap().index), (vec!["t:1".to_owned()], 3));
        let other = state.membership("a", Some(cluster("t:1", 2))).unwrap();
        assert!(other.joined.is_none() && other.secret.is_empty());
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_damaged_file_is_set_aside() {
        let (state, path) = state("damaged");
        std::fs::write(path.join(MEMBERSHIP), [0xFF; 40]).unwrap();
        assert!(state.membership("a", None).is_err());
        assert!(path.join("membership.damaged").exists());
        std::fs::remove_dir_all(path).unwrap();
    }
}
