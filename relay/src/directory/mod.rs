//! The directory: which node has which index and key, which tokens are out, which addresses are assigned.
//!
//! Life cycle: opened (and made) at start under the state directory's lock; every change is an entry in the log,
//! durable before it is believed; the log is rewritten when it has grown far beyond what it says, at start and while
//! the server runs. Indices and endpoint VIPs are assigned at first mention and never reused.
//! Bounds: as many nodes as the mesh prefix has addresses; endpoint VIPs likewise; 100,000 tokens.
//! It knows nothing of connections, and it judges time by the server's clock only.

mod keys;
mod log;
mod tokens;

pub(crate) use keys::Keys;
pub(crate) use tokens::{Invite, NewToken};

use blake2::digest::Digest;
use edgemesh_core::rng::Rng;
use edgemesh_core::wire::control::{Network, NodeRecord, Refusal, mesh_capacity};
use edgemesh_discovery::encoded::{Resolver, VipKey};
use edgemesh_host::state::{self, StateError};
use log::Log;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use tokens::Token;

const FILE: &str = "directory";
const HELD: &str = "held";
/// The log is rewritten when it may be twice as long as it has to be, but not for less than this many bytes.
const SLACK: u64 = 256 * 1024;

/// What the operator decides; kept from the first start on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) network: Network,
    pub(crate) domain: String,
    /// Servers that join tokens name.
    pub(crate) servers: Vec<String>,
}

/// A node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// `None` until it joins: Services may mention it before.
    pub(crate) key: Option<[u8; 32]>,
    pub(crate) serial: u64,
    pub(crate) revoked: bool,
}

#[derive(Serialize, Deserialize)]
enum Entry {
    Epoch(u32),
    Settings(Settings),
    Node(u32, Node),
    Token([u8; 32], Token),
    Vip(String, u32),
    Feed { sequence: u64, digest: [u8; 32] },
}

/// Where the feed was when it last changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct FeedMark {
    pub(crate) sequence: u64,
    pub(crate) digest: [u8; 32],
}

/// A node that was let in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Admission {
    pub(crate) index: u32,
    /// Its key is new to the directory.
    pub(crate) enrolled: bool,
}

/// The open directory.
pub(crate) struct Directory {
    pub(crate) keys: Keys,
    state: state::Directory,
    log: Log,
    /// Length of the log in bytes beyond which it is looked at.
    limit: u64,
    epoch: u32,
    settings: Option<Settings>,
    nodes: BTreeMap<u32, Node>,
    names: HashMap<String, u32>,
    by_key: HashMap<[u8; 32], u32>,
    tokens: HashMap<[u8; 32], Token>,
    vips: HashMap<String, u32>,
    mark: FeedMark,
}

impl Directory {
    /// Opens the directory in `state`, whose lock is held.
    pub(crate) fn open(state: state::Directory, rng: &mut Rng) -> Result<Self, StateError> {
        let (log, entries) = Log::open(&state, FILE)?;
        let keys = Keys::open(&state, entries.is_empty(), rng)?;
        let mut directory = Self {
            keys,
            state,
            log,
            limit: 0,
            epoch: 0,
            settings: None,
            nodes: BTreeMap::new(),
            names: HashMap::new(),
            by_key: HashMap::new(),
            tokens: HashMap::new(),
            vips: HashMap::new(),
            mark: FeedMark::default(),
        };
        entries.into_iter().for_each(|entry| directory.apply(entry));
        if directory.epoch == 0 {
            directory.commit(vec![Entry::Epoch(1)])?;
        }
        directory.compact();
        Ok(directory)
    }

    fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Epoch(epoch) => self.epoch = epoch,
            Entry::Settings(settings) => self.settings = Some(settings),
            Entry::Node(index, node) => {
                if let Some(old) = self.nodes.get(&index).and_then(|old| old.key) {
                    self.by_key.remove(&old);
                }
                if let Some(key) = node.key {
                    self.by_key.insert(key, index);
                }
                self.names.insert(node.name.clone(), index);
                self.nodes.insert(index, node);
            }
            Entry::Token(hash, token) => drop(self.tokens.insert(hash, token)),
            Entry::Vip(key, number) => drop(self.vips.insert(key, number)),
            Entry::Feed { sequence, digest } => self.mark = FeedMark { sequence, digest },
        }
    }

    /// Makes changes durable, then believes them.
    fn commit(&mut self, entries: Vec<Entry>) -> Result<(), StateError> {
        self.log.append(&entries)?;
        entries.into_iter().for_each(|entry| self.apply(entry));
        if self.log.len() > self.limit {
            self.compact();
        }
        Ok(())
    }

    /// Rewrites a log that has grown far beyond what it says. What fails is tried again once it has grown further:
    /// everything is in the log as it is.
    fn compact(&mut self) {
        let now = edgemesh_host::clock::wall().secs;
        let mut entries = vec![Entry::Epoch(self.epoch)];
        entries.extend(self.settings.clone().map(Entry::Settings));
        entries.extend(self.nodes.iter().map(|(index, node)| Entry::Node(*index, node.clone())));
        let live = self.tokens.iter().filter(|(_, token)| !token.is_forgotten(now));
        entries.extend(live.map(|(hash, token)| Entry::Token(*hash, token.clone())));
        entries.extend(self.vips.iter().map(|(key, number)| Entry::Vip(key.clone(), *number)));
        entries.push(Entry::Feed { sequence: self.mark.sequence, digest: self.mark.digest });
        let needed = log::write(&entries).len() as u64;
        if self.log.len() > needed + SLACK
            && let Err(error) = self.log.replace(&self.state, &entries)
        {
            tracing::warn!(%error, "the directory's log stays longer than it has to be");
        }
        self.limit = self.log.len() + needed.max(SLACK);
    }

    /// Stores what is held of Nodes that are not ready, for the next start.
    pub(crate) fn keep_held(&self, bytes: &[u8]) -> Result<(), StateError> {
        self.state.write(HELD, bytes)
    }

    /// What [`Directory::keep_held`] stored.
    pub(crate) fn held(&self) -> Result<Option<Vec<u8>>, StateError> {
        self.state.read(HELD)
    }

    /// The directory's epoch.
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The cluster's settings.
    pub(crate) fn settings(&self) -> Option<&Settings> {
        self.settings.as_ref()
    }

    /// Stores the settings when they differ.
    pub(crate) fn set_settings(&mut self, settings: Settings) -> Result<(), StateError> {
        if self.settings.as_ref() == Some(&settings) {
            Ok(())
        } else {
            self.commit(vec![Entry::Settings(settings)])
        }
    }

    /// All nodes, by index.
    pub(crate) fn nodes(&self) -> &BTreeMap<u32, Node> {
        &self.nodes
    }

    /// The index of a name.
    pub(crate) fn index_of(&self, name: &str) -> Option<u32> {
        self.names.get(name).copied()
    }

    /// The names of all nodes that have joined and are not revoked.
    pub(crate) fn members(&self) -> BTreeSet<String> {
        let joined = self.nodes.values().filter(|node| node.key.is_some() && !node.revoked);
        joined.map(|node| node.name.clone()).collect()
    }

    /// The signed record of a node that has joined and is not revoked: its bytes and the signature.
    pub(crate) fn record(&self, index: u32) -> Option<(Vec<u8>, [u8; 64])> {
        let node = self.nodes.get(&index).filter(|node| !node.revoked)?;
        let record =
            NodeRecord { index, name: &node.name, key: node.key?, serial: node.serial, epoch: self.epoch };
        let bytes = postcard::to_allocvec(&record).ok()?;
        let signature = self.keys.sign_record(&bytes);
        Some((bytes, signature))
    }

    /// The relay key of a node that has joined and is not revoked.
    pub(crate) fn relay_key(&self, index: u32) -> Option<[u8; 32]> {
        let node = self.nodes.get(&index).filter(|node| !node.revoked)?;
        Some(self.keys.relay_key(index, &node.key?))
    }

    /// Lets a node in, enrolling its key when the token's secret allows it. The inner error is the answer for the
    /// node; the outer one means that the directory cannot be written.
    pub(crate) fn admit(
        &mut self,
        name: &str,
        key: [u8; 32],
        secret: &[u8],
        now: u64,
    ) -> Result<Result<Admission, (Refusal, String)>, StateError> {
        let refuse = |reason, detail: String| Ok(Err((reason, detail)));
        if let Some(known) = self.known(name, &key) {
            return Ok(known);
        }
        if secret.is_empty() {
            if let Some(taken) = self.taken(name) {
                return Ok(Err(taken));
            }
            return refuse(Refusal::NotEnrolled, format!("node {name} is unknown and shows no join token"));
        }
        let hash: [u8; 32] = blake2::Blake2s256::digest(secret).into();
        let Some(token) = self.tokens.get(&hash).filter(|token| token.node == name) else {
            return refuse(Refusal::WrongToken, format!("no join token for node {name} has this secret"));
        };
        if token.key.is_some() {
            return refuse(Refusal::UsedByAnotherKey, "the join token has enrolled another key".to_owned());
        }
        if now > token.expires {
            let ago = now.saturating_sub(token.expires);
            return refuse(Refusal::Expired, format!("the join token expired {ago} s ago"));
        }
        let token = Token { key: Some(key), ..token.clone() };
        self.enrol(name, key, vec![Entry::Token(hash, token)])
    }

    /// Lets a node in whose name the cluster itself vouches for. A name that has a key keeps it: the cluster knows
    /// where a pod runs, not that the machine is the one that joined; that is the operator's word, a join token.
    /// Results as in [`Directory::admit`].
    pub(crate) fn admit_vouched(
        &mut self,
        name: &str,
        key: [u8; 32],
    ) -> Result<Result<Admission, (Refusal, String)>, StateError> {
        if let Some(known) = self.known(name, &key) {
            return Ok(known);
        }
        match self.taken(name) {
            Some(taken) => Ok(Err(taken)),
            None => self.enrol(name, key, Vec::new()),
        }
    }

    /// What there is to say to a node whose key is in the directory.
    fn known(&self, name: &str, key: &[u8; 32]) -> Option<Result<Admission, (Refusal, String)>> {
        let index = self.by_key.get(key).copied()?;
        let node = self.nodes.get(&index)?;
        Some(if node.revoked {
            Err((Refusal::Revoked, format!("node {name} was revoked")))
        } else if node.name == name {
            Ok(Admission { index, enrolled: false })
        } else {
            Err((Refusal::NameTaken, format!("this key belongs to node {}", node.name)))
        })
    }

    /// The answer to a node that shows no join token, when its name has a key that is not the node's.
    fn taken(&self, name: &str) -> Option<(Refusal, String)> {
        let node = self.index_of(name).and_then(|index| self.nodes.get(&index));
        node.filter(|node| node.key.is_some()).map(|_| {
            let how = "was it installed anew? A new join token for it makes it known again";
            (Refusal::NameTaken, format!("node {name} has another key; {how}"))
        })
    }

    /// Gives `key` to `name`, durable together with `more`.
    fn enrol(
        &mut self,
        name: &str,
        key: [u8; 32],
        more: Vec<Entry>,
    ) -> Result<Result<Admission, (Refusal, String)>, StateError> {
        let Some((index, old)) = self.slot(name) else {
            return Ok(Err((Refusal::NotEnrolled, "the mesh prefix has no address left".to_owned())));
        };
        let serial = old.map_or(1, |node| node.serial.saturating_add(1));
        let node = Node { name: name.to_owned(), key: Some(key), serial, revoked: false };
        let mut entries = vec![Entry::Node(index, node)];
        entries.extend(more);
        self.commit(entries)?;
        Ok(Ok(Admission { index, enrolled: true }))
    }

    /// The index that `name` has or would get, and the node if there is one.
    fn slot(&self, name: &str) -> Option<(u32, Option<&Node>)> {
        match self.index_of(name) {
            Some(index) => Some((index, self.nodes.get(&index))),
            None => self.free_index(0).map(|index| (index, None)),
        }
    }

    /// The next unused index after `taken` more.
    fn free_index(&self, taken: u32) -> Option<u32> {
        let last = self.nodes.last_key_value().map_or(0, |(index, _)| *index);
        let index = last.checked_add(taken)?.checked_add(1)?;
        let capacity = mesh_capacity(&self.settings.as_ref()?.network);
        (index <= capacity).then_some(index)
    }

    /// Runs `encode` with a resolver that assigns indices and endpoint VIPs at first mention, and makes these and
    /// the feed's new mark durable. The mark's sequence grows exactly when the digest changes.
    pub(crate) fn assign<T>(
        &mut self,
        encode: impl FnOnce(&mut Assigner<'_>) -> (T, [u8; 32]),
    ) -> Result<(T, FeedMark), StateError> {
        let mut assigner =
            Assigner { directory: self, entries: Vec::new(), names: HashMap::new(), vips: HashMap::new() };
        let (out, digest) = encode(&mut assigner);
        let mut entries = assigner.entries;
        if digest != self.mark.digest || self.mark.sequence == 0 {
            entries.push(Entry::Feed { sequence: self.mark.sequence.saturating_add(1), digest });
        }
        self.commit(entries)?;
        Ok((out, self.mark))
    }
}

/// Assigns numbers on top of a directory without changing it yet.
pub(crate) struct Assigner<'d> {
    directory: &'d Directory,
    entries: Vec<Entry>,
    names: HashMap<String, u32>,
    vips: HashMap<String, u32>,
}

impl Resolver for Assigner<'_> {
    fn node(&mut self, name: &str) -> u32 {
        if let Some(index) = self.directory.index_of(name).or_else(|| self.names.get(name).copied()) {
            return index;
        }
        let Some(index) = self.directory.free_index(self.names.len() as u32) else { return 0 };
        self.names.insert(name.to_owned(), index);
        let node = Node { name: name.to_owned(), key: None, serial: 0, revoked: false };
        self.entries.push(Entry::Node(index, node));
        index
    }

    fn endpoint_vip(&mut self, endpoint: &VipKey<'_>) -> Option<IpAddr> {
        let network = self.directory.settings.as_ref()?.network;
        let text = endpoint.text();
        let known = self.directory.vips.get(&text).or_else(|| self.vips.get(&text)).copied();
        let number = match known {
            Some(number) => number,
            None => {
                let number =
                    u32::try_from(self.directory.vips.len() + self.vips.len()).ok()?.checked_add(1)?;
                self.entries.push(Entry::Vip(text.clone(), number));
                self.vips.insert(text, number);
                number
            }
        };
        endpoint_vip(&network, number, endpoint.address.is_ipv4())
    }
}

/// Endpoint VIP `number` (from 1): the upper half of the mesh prefix.
fn endpoint_vip(network: &Network, number: u32, v4: bool) -> Option<IpAddr> {
    if !v4 {
        let upper = u128::from_be_bytes(network.mesh_v6) | (1 << 63) | u128::from(number);
        return Some(IpAddr::from(upper.to_be_bytes()));
    }
    let half = 1u32.checked_shl(31u32.checked_sub(u32::from(network.mesh_v4_len))?)?;
    // The last address of the prefix stays free: it looks like a broadcast address.
    (number < half - 1).then(|| Ipv4Addr::from(u32::from_be_bytes(network.mesh_v4) | half | number).into())
}

#[cfg(test)]
mod tests;
