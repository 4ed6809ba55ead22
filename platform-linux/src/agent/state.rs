//! What the agent keeps on disk: its key, its membership, the records of nodes, the last good table and list of entry
//! points.
//!
//! The private key is made here and never leaves. Everything else lets a node that boots without a cloud serve
//! what it last knew. Files are replaced atomically, but for the table, to which changes are appended. All but the key
//! begin with [`MAGIC`] and a [`Seal`]: one that is damaged, of another version, another node's or another cluster's is
//! reported, set aside and treated as absent. Without its key the node would be somebody else, so the agent refuses to
//! start; one of another node's has no membership here, and the directory knows whose it is.

use edgemesh_core::noise::{StaticSecret, hash};
use edgemesh_core::wire::control::{Network, Revocation};
use edgemesh_host::state::{Directory, StateError};
use edgemesh_host::token::Invitation;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

const IDENTITY: &str = "identity";
/// The key that the directory is asked for in place of it.
const NEXT: &str = "identity-next";
/// The key that this node had before, and until when it answers to it.
const BEFORE: &str = "identity-before";
const MEMBERSHIP: &str = "membership";
const RECORDS: &str = "records";
const SERVICES: &str = "services";
const ENTRIES: &str = "entry-points";
const HELD: &str = "held";
const STAMP: &str = "handshake-stamp";
const REVOCATIONS: &str = "revocations";
const HINTS: &str = "hints";
/// There while the directory says that the key of this node was revoked.
const REVOKED: &str = "revoked";

/// A key that this node had.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct KeyBefore {
    key: [u8; 32],
    /// Unix time in seconds.
    until: u64,
}

impl KeyBefore {
    /// The key.
    pub fn secret(&self) -> StaticSecret {
        StaticSecret::from_bytes(self.key)
    }

    /// How long it still counts, at most `most`: the clock may be wrong.
    pub fn left(&self, now: u64, most: Duration) -> Duration {
        Duration::from_secs(self.until.saturating_sub(now)).min(most)
    }
}

/// Files that hold secrets: keys of this node, and the secret that it joins with. Others than their owner must not be
/// able to read or write them.
const SECRETS: [&str; 4] = [IDENTITY, NEXT, BEFORE, MEMBERSHIP];

/// First bytes of a state file, its version included.
const MAGIC: &[u8; 9] = b"EMSTATE2\n";
/// What is before the content: those, the owner and the sum.
const HEAD: usize = 9 + 8 + 16;

/// Whose a file is, and what shows that it is whole: hashes of node and root, and of name, owner and content.
type Seal = ([u8; 8], [u8; 16]);

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
    /// Hash of node and cluster; zero before the membership is known.
    owner: AtomicU64,
}

impl State {
    /// Opens and locks `path`.
    ///
    /// # Errors
    /// When it cannot be made, is no directory, or another agent uses it; when others than its owner may read or write
    /// a file of it that holds a secret.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let mut directory = Directory::open(path)?;
        directory.lock()?;
        SECRETS.iter().try_for_each(|name| directory.read_secret(name).map(drop))?;
        Ok(Self { directory, owner: AtomicU64::default() })
    }

    /// This node's key; made and stored at the first start.
    ///
    /// # Errors
    /// When it cannot be stored, or what is stored is no key.
    pub fn identity(&self, fresh: impl FnOnce() -> [u8; 32]) -> Result<StaticSecret, StateError> {
        if let Some(bytes) = self.directory.read_secret(IDENTITY)? {
            let key: Result<[u8; 32], _> = bytes.as_slice().try_into();
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

    /// The key that the directory is asked for, if an earlier run did not see its answer.
    pub fn next_key(&self) -> Option<StaticSecret> {
        self.secret(NEXT)?.as_slice().try_into().ok().map(StaticSecret::from_bytes)
    }

    fn secret(&self, name: &str) -> Option<Zeroizing<Vec<u8>>> {
        self.directory.read_secret(name).unwrap_or_else(|error| {
            tracing::warn!(%error, "going on without it");
            None
        })
    }

    /// Stores it.
    ///
    /// # Errors
    /// As [`State::save_membership`].
    pub fn save_next_key(&self, key: &StaticSecret) -> Result<(), StateError> {
        self.directory.write(NEXT, key.as_bytes())
    }

    /// It will not be.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_next_key(&self) -> Result<(), StateError> {
        self.directory.remove(NEXT)
    }

    /// Makes `next` this node's key; it answers to the present one until then, in Unix seconds. Broken off in the middle
    /// it is done again, or not at all.
    ///
    /// # Errors
    /// As [`State::save_membership`].
    pub fn take_next_key(&self, next: &StaticSecret, until: u64) -> Result<(), StateError> {
        let present = self.directory.read_secret(IDENTITY)?;
        let key = present.as_ref().and_then(|bytes| bytes.as_slice().try_into().ok());
        if let Some(key) = key.filter(|key| key != next.as_bytes()) {
            self.save(BEFORE, &KeyBefore { key, until })?;
            self.directory.write(IDENTITY, next.as_bytes())?;
        }
        self.directory.remove(NEXT)
    }

    /// The key before the present one, while it counts.
    pub fn key_before(&self) -> Option<KeyBefore> {
        self.load(BEFORE)
    }

    /// It counts no more.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_key_before(&self) -> Result<(), StateError> {
        self.directory.remove(BEFORE)
    }

    /// The membership on disk, brought up to date with what lets the node join when that is given. Every other file is
    /// read and written as this node's in this cluster from now on.
    ///
    /// # Errors
    /// When there is neither, or the token is for another node; the text is for the user.
    pub fn membership(&self, node: &str, invitation: Option<Invitation>) -> Result<Membership, String> {
        let membership = self.find_membership(node, invitation)?;
        let owner = first(hash(&[b"owner", &membership.root, node.as_bytes()]));
        self.owner.store(u64::from_le_bytes(owner), Relaxed);
        Ok(membership)
    }

    fn find_membership(&self, node: &str, invitation: Option<Invitation>) -> Result<Membership, String> {
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
        let is_token = matches!(invitation, Invitation::Token(_));
        let stored = if is_token && self.is_revoked() {
            // The key counts no more: the token is for another one, made now.
            self.forget_revoked().map_err(|error| error.to_string())?;
            None
        } else {
            stored
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

    /// Notes that this node's key was revoked: with the next join token it gets another one.
    ///
    /// # Errors
    /// As [`State::save_membership`].
    pub fn note_revoked(&self) -> Result<(), StateError> {
        self.directory.write(REVOKED, b"")
    }

    /// Whether this node's key was revoked when a server was last asked.
    pub fn is_revoked(&self) -> bool {
        self.directory.path(REVOKED).exists()
    }

    /// Gives up a key that was revoked, and what came with it.
    fn forget_revoked(&self) -> Result<(), StateError> {
        [IDENTITY, NEXT, BEFORE, MEMBERSHIP, RECORDS, HINTS, REVOKED]
            .iter()
            .try_for_each(|name| self.directory.remove(name))?;
        tracing::warn!("the key of this node was revoked: it joins with a new one");
        Ok(())
    }

    /// The epoch and its revocations, in the order of their numbers.
    pub fn revocations(&self) -> (u32, Vec<Revocation>) {
        self.load(REVOCATIONS).unwrap_or_default()
    }

    /// Stores them.
    ///
    /// # Errors
    /// As [`State::save_membership`].
    pub fn save_revocations(&self, list: &(u32, Vec<Revocation>)) -> Result<(), StateError> {
        self.save(REVOCATIONS, list)
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

    /// Where nodes were reached directly, by index.
    pub fn hints(&self) -> Vec<(u32, SocketAddr)> {
        self.load(HINTS).unwrap_or_default()
    }

    /// Stores that.
    ///
    /// # Errors
    /// As [`State::save_membership`].
    pub fn save_hints(&self, hints: &Vec<(u32, SocketAddr)>) -> Result<(), StateError> {
        self.save(HINTS, hints)
    }

    /// The last good table, as written by [`State::save_services`].
    pub fn services(&self) -> Option<Vec<u8>> {
        self.content(SERVICES).and_then(|bytes| bytes.get(HEAD..).map(<[u8]>::to_vec))
    }

    /// Stores the table, as [`edgemesh_discovery::snapshot`] writes it.
    ///
    /// # Errors
    /// As [`State::save_membership`].
    pub fn save_services(&self, snapshot: &[u8]) -> Result<(), StateError> {
        self.directory.write(SERVICES, &self.sealed(SERVICES, snapshot))
    }

    /// Appends what has changed since to the table.
    ///
    /// # Errors
    /// When the file cannot be written: a part of `more` may be there.
    pub fn append_services(&self, more: &[u8]) -> Result<(), StateError> {
        self.directory.append(SERVICES, more)
    }

    /// The last good list of entry points with its sequence, as written by [`State::save_entries`]. Earlier builds wrote
    /// no sequence.
    pub fn entries(&self) -> Option<(Vec<u8>, u64)> {
        let bytes = self.content(ENTRIES)?;
        match postcard::take_from_bytes::<Vec<u8>>(bytes.get(HEAD..)?) {
            Ok((list, rest)) => Some((list, postcard::from_bytes(rest).unwrap_or_default())),
            Err(_) => {
                self.set_aside(ENTRIES, "it is of another version");
                None
            }
        }
    }

    /// Stores the list of entry points.
    ///
    /// # Errors
    /// As [`State::save_membership`].
    pub fn save_entries(&self, list: &(Vec<u8>, u64)) -> Result<(), StateError> {
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
        let bytes = self.content(name)?;
        let value = postcard::from_bytes(bytes.get(HEAD..)?);
        value.map_err(|_| self.set_aside(name, "it is of another version")).ok()
    }

    /// A file, if it is whole and this node's; what it says is behind [`HEAD`]. Some hold secrets: no copy of them is left.
    fn content(&self, name: &str) -> Option<Zeroizing<Vec<u8>>> {
        let read = match SECRETS.contains(&name) {
            true => self.directory.read_secret(name),
            false => self.directory.read(name).map(|bytes| bytes.map(Zeroizing::new)),
        };
        match read {
            Ok(bytes) => {
                let bytes = bytes?;
                let whole = self.check(name, &bytes);
                whole.map_err(|why| self.set_aside(name, why)).ok().map(|()| bytes)
            }
            Err(error) => {
                tracing::warn!(%error, "going on without it");
                None
            }
        }
    }

    /// Keeps a file that is of no use for whoever wants to know.
    fn set_aside(&self, name: &str, why: &str) {
        let (path, aside) = (self.directory.path(name), self.directory.path(&format!("{name}.damaged")));
        let _ = std::fs::rename(&path, &aside);
        tracing::warn!(file = %path.display(), kept_as = %aside.display(), "state file refused, going on without it: {why}");
    }

    fn save<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StateError> {
        let mut bytes = postcard::to_allocvec(value)
            .map_err(|error| StateError::invalid(self.directory.path(name), error.to_string()))?;
        let mut sealed = self.sealed(name, &bytes);
        let written = self.directory.write(name, &sealed);
        bytes.zeroize();
        sealed.zeroize();
        written
    }

    /// Whose the file of that name is: the membership says so itself.
    fn owner_of(&self, name: &str) -> [u8; 8] {
        if name == MEMBERSHIP { [0; 8] } else { self.owner.load(Relaxed).to_le_bytes() }
    }

    fn sealed(&self, name: &str, content: &[u8]) -> Vec<u8> {
        let (owner, sum) = seal(name, self.owner_of(name), content);
        [&MAGIC[..], &owner, &sum, content].concat()
    }

    fn check(&self, name: &str, bytes: &[u8]) -> Result<(), &'static str> {
        let rest = bytes.strip_prefix(MAGIC).ok_or("it is damaged, or of another version")?;
        let (owner, rest) = rest.split_first_chunk::<8>().ok_or("it was cut off")?;
        let (sum, content) = rest.split_first_chunk::<16>().ok_or("it was cut off")?;
        if seal(name, *owner, content).1 != *sum {
            return Err("it is damaged, or another file");
        }
        let ours = *owner == self.owner_of(name);
        ours.then_some(()).ok_or("it is another node's, or another cluster's")
    }
}

/// The table is appended to and sums its own records: only its beginning is sealed.
fn seal(name: &str, owner: [u8; 8], content: &[u8]) -> Seal {
    let content = if name == SERVICES { &[][..] } else { content };
    (owner, first(hash(&[b"state", name.as_bytes(), &owner, content])))
}

fn first<const N: usize>(hash: [u8; 32]) -> [u8; N] {
    hash.first_chunk().copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgemesh_host::token::{Cluster, Token};
    use std::os::unix::fs::PermissionsExt;

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

    /// Every file that holds a secret, by its mode alone: the agent does not start.
    #[test]
    fn a_secret_that_others_may_reach_stops_the_agent_and_is_named() {
        let (state, path) = state("modes");
        state.identity(|| [5; 32]).unwrap();
        state.save_membership(&state.membership("a", Some(token("a", 1))).unwrap()).unwrap();
        state.save_next_key(&StaticSecret::from_bytes([6; 32])).unwrap();
        state.take_next_key(&StaticSecret::from_bytes([6; 32]), 1_000).unwrap();
        state.save_next_key(&StaticSecret::from_bytes([7; 32])).unwrap();
        drop(state);
        for name in SECRETS {
            let set = |mode| {
                let permissions = std::fs::Permissions::from_mode(mode);
                std::fs::set_permissions(path.join(name), permissions).unwrap();
            };
            for mode in [0o640, 0o604, 0o660, 0o602] {
                set(mode);
                let text = State::open(&path).err().expect(name).to_string();
                assert!(text.contains(name) && text.contains(&format!("{mode:04o}")), "{text}");
            }
            set(0o600);
        }
        let state = State::open(&path).unwrap();
        assert!(state.membership("a", None).is_ok() && state.key_before().is_some());
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
    fn a_key_is_changed_in_steps_of_which_each_may_be_the_last() {
        let (state, path) = state("rotation");
        let secret = |n| StaticSecret::from_bytes([n; 32]);
        let present = |state: &State| *state.identity(|| [5; 32]).unwrap().as_bytes();
        assert_eq!(present(&state), [5; 32]);
        state.save_next_key(&secret(6)).unwrap();
        assert_eq!((present(&state), state.next_key().map(|key| *key.as_bytes())), ([5; 32], Some([6; 32])));
        state.take_next_key(&secret(6), 1_000).unwrap();
        let before = state.key_before().unwrap();
        assert_eq!((present(&state), *before.secret().as_bytes()), ([6; 32], [5; 32]));
        assert!(state.next_key().is_none());
        let hour = Duration::from_secs(3_600);
        for (now, left) in [(900, 100), (1_001, 0), (0, 1_000)] {
            assert_eq!(before.left(now, hour), Duration::from_secs(left));
        }
        assert_eq!(KeyBefore { key: [1; 32], until: 1_800_000_000 }.left(0, hour), hour, "a clock in 1970");
        // Taken twice, as after a crash behind the second step.
        state.save_next_key(&secret(6)).unwrap();
        state.take_next_key(&secret(6), 9_000).unwrap();
        assert_eq!(*state.key_before().unwrap().secret().as_bytes(), [5; 32]);
        state.remove_key_before().unwrap();
        assert!(state.key_before().is_none());
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_revoked_key_is_given_up_with_the_next_token_and_not_before() {
        let (state, path) = state("revoked");
        assert_eq!(*state.identity(|| [5; 32]).unwrap().as_bytes(), [5; 32]);
        let member = state.membership("a", Some(token("a", 1))).unwrap();
        state.save_membership(&member).unwrap();
        state.note_revoked().unwrap();
        assert!(state.membership("a", None).is_ok() && state.is_revoked());
        assert_eq!(*state.identity(|| [6; 32]).unwrap().as_bytes(), [5; 32]);
        let again = state.membership("a", Some(token("a", 1))).unwrap();
        assert!(again.joined.is_none() && again.secret == [4; 16] && !state.is_revoked());
        assert_eq!(*state.identity(|| [6; 32]).unwrap().as_bytes(), [6; 32]);
        std::fs::remove_dir_all(path).unwrap();
    }

    /// A file of the directory as it was, and what else may be found in its place: each is refused, told and set aside.
    #[test]
    fn files_that_are_damaged_or_not_ours_are_set_aside() {
        let (state, path) = state("damaged");
        let member = state.membership("a", Some(token("a", 1))).unwrap();
        let record = StoredRecord { record: vec![1; 40], signature: vec![2; 64] };
        let write = || {
            state.save_membership(&member).unwrap();
            state.save_records(&BTreeMap::from([(7, record.clone())])).unwrap();
            state.save_entries(&(vec![3; 50], 7)).unwrap();
            state.save_stamp(1_700_000_000).unwrap();
            state.save_hints(&vec![(7, "192.0.2.7:20006".parse().unwrap())]).unwrap();
            state.save_services(b"a snapshot").unwrap();
        };
        let whole = |name: &str| match name {
            MEMBERSHIP => state.membership("a", None).is_ok(),
            RECORDS => state.records().len() == 1,
            ENTRIES => state.entries() == Some((vec![3; 50], 7)),
            STAMP => state.stamp() == 1_700_000_000,
            HINTS => state.hints().len() == 1,
            _ => state.services().as_deref() == Some(b"a snapshot"),
        };
        let names = [MEMBERSHIP, RECORDS, ENTRIES, STAMP, HINTS, SERVICES];
        for name in names {
            write();
            let (file, aside) = (path.join(name), path.join(format!("{name}.damaged")));
            let good = std::fs::read(&file).unwrap();
            assert!(whole(name), "{name}");
            let mut bad = vec![b"garbage".to_vec(), Vec::new(), [b"EMSTATE1\n", &good[9..]].concat()];
            // What follows the seal of the table is for `edgemesh_discovery::snapshot` to check.
            let end = if name == SERVICES { 33 } else { good.len() };
            bad.extend((0..end).map(|cut| good[..cut].to_vec()));
            bad.extend((0..end).map(|at| [&good[..at], &[good[at] ^ 4], &good[at + 1..]].concat()));
            let other = names.into_iter().find(|other| *other != name).unwrap();
            bad.push(std::fs::read(path.join(other)).unwrap());
            for bad in bad {
                std::fs::write(&file, &bad).unwrap();
                std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
                assert!(!whole(name) && aside.exists() && !file.exists(), "{name}: {bad:?}");
                std::fs::remove_file(&aside).unwrap();
            }
        }
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_list_of_entry_points_of_an_earlier_build_has_no_sequence() {
        let (state, path) = state("old-list");
        state.membership("a", Some(token("a", 1))).unwrap();
        state.save(ENTRIES, &vec![3u8; 50]).unwrap();
        assert_eq!(state.entries(), Some((vec![3; 50], 0)));
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn files_of_another_node_or_cluster_are_set_aside() {
        for (node, root) in [("b", 1), ("a", 2)] {
            let (state, path) = state("owner");
            state.membership("a", Some(token("a", 1))).unwrap();
            state.save_stamp(5).unwrap();
            state.save_services(b"a snapshot").unwrap();
            assert_eq!((state.stamp(), state.services().is_some()), (5, true));
            state.membership(node, Some(token(node, root))).unwrap();
            assert_eq!((state.stamp(), state.services().is_some()), (0, false));
            assert!(path.join("services.damaged").exists());
            std::fs::remove_dir_all(path).unwrap();
        }
    }
}
