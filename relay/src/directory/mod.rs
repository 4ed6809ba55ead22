//! The directory: which node has which index and key, which tokens are out, which addresses are assigned.
//!
//! Life cycle: opened (and made) at start under the state directory's lock; every change is an entry in the log,
//! durable before it is believed; the log is rewritten when it has grown far beyond what it says, at start and while
//! the server runs. An epoch begins with the first start, with every restore of a backup and with every new key: what was
//! signed in the ones before counts no more. Indices and endpoint VIPs are assigned at first mention and never reused.
//! Bounds: as many nodes as the mesh prefix has addresses; endpoint VIPs likewise; 100,000 tokens.
//! It knows nothing of connections, and it judges time by the server's clock only.

mod assign;
mod backup;
mod keys;
mod log;
mod members;
mod tokens;

pub(crate) use backup::Backup;
pub(crate) use keys::Keys;
pub(crate) use members::NodeError;
pub(crate) use tokens::{Invite, NewToken, TokenError};

use edgemesh_core::rng::Rng;
use edgemesh_core::wire::control::{Held, Network, NodeRecord, REVOCATIONS_MAX, Revocation};
use edgemesh_host::clock;
use edgemesh_host::state::{self, StateError};
use log::Log;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tokens::Token;

const FILE: &str = "directory";
const HELD: &str = "held";
/// Room for a record: its name has at most 253 bytes.
const RECORD_MAX: usize = 512;
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

/// The key that a node had before the present one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Overlap {
    key: [u8; 32],
    /// Unix time in seconds.
    until: u64,
    /// The node was seen with its present key.
    seen: bool,
}

impl Overlap {
    fn is_on(&self, now: u64) -> bool {
        now < self.until
    }
}

/// A change. New kinds are appended.
#[derive(Serialize, Deserialize)]
enum Entry {
    /// Begins an epoch, without revocations.
    Epoch(u32),
    Settings(Settings),
    Node(u32, Node),
    Token([u8; 32], Token),
    Vip(String, u32),
    Feed {
        sequence: u64,
        digest: [u8; 32],
    },
    Revocation(Revocation),
    Overlap(u32, Option<Overlap>),
    /// The token counts no more.
    Void([u8; 32]),
    /// The list of entry points.
    Doors {
        sequence: u64,
        digest: [u8; 32],
    },
}

/// Where the feed, or the list of entry points, was when it last changed.
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
    overlaps: BTreeMap<u32, Overlap>,
    /// Those of this epoch, in the order of their numbers.
    revocations: Vec<Revocation>,
    tokens: HashMap<[u8; 32], Token>,
    vips: HashMap<String, u32>,
    mark: FeedMark,
    entry_points: FeedMark,
}

impl Directory {
    /// Opens the directory in `state`, whose lock is held.
    pub(crate) fn open(state: state::Directory, rng: &mut Rng) -> Result<Self, StateError> {
        backup::take_over(&state)?;
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
            overlaps: BTreeMap::new(),
            revocations: Vec::new(),
            tokens: HashMap::new(),
            vips: HashMap::new(),
            mark: FeedMark::default(),
            entry_points: FeedMark::default(),
        };
        entries.into_iter().for_each(|entry| directory.apply(entry));
        let epoch = directory.keys.epoch().max(1);
        if directory.epoch < epoch {
            // The first start, or one that follows new keys.
            directory.commit(directory.beginning(epoch))?;
        }
        directory.compact();
        Ok(directory)
    }

    fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Epoch(epoch) => {
                self.epoch = epoch;
                self.revocations.clear();
            }
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
            Entry::Revocation(revocation) => self.revocations.push(revocation),
            Entry::Overlap(index, overlap) => {
                if let Some(old) = self.overlaps.remove(&index) {
                    self.by_key.remove(&old.key);
                }
                if let Some(overlap) = overlap {
                    self.by_key.insert(overlap.key, index);
                    self.overlaps.insert(index, overlap);
                }
            }
            Entry::Void(hash) => drop(self.tokens.remove(&hash)),
            Entry::Doors { sequence, digest } => self.entry_points = FeedMark { sequence, digest },
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

    /// What an epoch begins with: the nodes that are out, of which older records say otherwise, and sequences of the feed
    /// and of the list of entry points above all before it.
    fn beginning(&self, epoch: u32) -> Vec<Entry> {
        let revoked = self.nodes.iter().filter(|(_, node)| node.revoked);
        let revoked = revoked.map(|(index, node)| Revocation { index: *index, serial: node.serial });
        let mut entries = vec![Entry::Epoch(epoch)];
        entries.extend(revoked.map(Entry::Revocation));
        let above = |mark: FeedMark| mark.sequence.saturating_add(1).max(u64::from(epoch) << 32);
        if self.mark.sequence != 0 {
            entries.push(Entry::Feed { sequence: above(self.mark), digest: self.mark.digest });
        }
        if self.entry_points.sequence != 0 {
            entries
                .push(Entry::Doors { sequence: above(self.entry_points), digest: self.entry_points.digest });
        }
        entries
    }

    /// Gives the directory another key, certified by the same root, in an epoch of its own: what was signed before counts
    /// no more.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub(crate) fn rotate_key(&mut self, now: u64, rng: &mut Rng) -> Result<(), StateError> {
        let epoch = epoch_after(self.epoch, now);
        self.keys = self.keys.renewed(&self.state, epoch, rng)?;
        self.commit(self.beginning(epoch))
    }

    /// All that is to be kept, in as few entries as it takes.
    fn entries(&self) -> Vec<Entry> {
        let now = clock::wall().secs;
        let mut entries = vec![Entry::Epoch(self.epoch)];
        entries.extend(self.settings.clone().map(Entry::Settings));
        entries.extend(self.nodes.iter().map(|(index, node)| Entry::Node(*index, node.clone())));
        entries.extend(self.overlaps.iter().map(|(index, overlap)| Entry::Overlap(*index, Some(*overlap))));
        entries.extend(self.revocations.iter().copied().map(Entry::Revocation));
        let live = self.tokens.iter().filter(|(_, token)| !token.is_forgotten(now));
        entries.extend(live.map(|(hash, token)| Entry::Token(*hash, token.clone())));
        entries.extend(self.vips.iter().map(|(key, number)| Entry::Vip(key.clone(), *number)));
        entries.push(Entry::Feed { sequence: self.mark.sequence, digest: self.mark.digest });
        if self.entry_points.sequence != 0 {
            entries.push(Entry::Doors {
                sequence: self.entry_points.sequence,
                digest: self.entry_points.digest,
            });
        }
        entries
    }

    /// Rewrites a log that has grown far beyond what it says. What fails is tried again once it has grown further:
    /// everything is in the log as it is.
    fn compact(&mut self) {
        let entries = self.entries();
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
        let now = clock::wall().secs;
        let record = NodeRecord {
            index,
            name: &node.name,
            key: node.key?,
            serial: node.serial,
            epoch: self.epoch,
            listed: self.revocations.len() as u32,
            follows: self.overlaps.get(&index).filter(|o| o.is_on(now) || !o.seen).map(|o| o.key),
        };
        let mut bytes = vec![0; RECORD_MAX];
        let len = record.encode(&mut bytes).ok()?;
        bytes.truncate(len);
        let signature = self.keys.sign_record(&bytes);
        Some((bytes, signature))
    }

    /// How far the list of revocations goes.
    pub(crate) fn listed(&self) -> Held {
        Held { epoch: self.epoch, count: self.revocations.len() as u32 }
    }

    /// The next revocations after the first `after` of them: how many, their bytes, the signature. `None` when there are
    /// no more.
    pub(crate) fn revocations(&self, after: u32) -> Option<(u32, Vec<u8>, [u8; 64])> {
        let next = self.revocations.get(after as usize..).filter(|rest| !rest.is_empty())?;
        let next = next.get(..REVOCATIONS_MAX).unwrap_or(next);
        let list: Vec<u8> =
            next.iter().filter_map(|each| postcard::to_allocvec(each).ok()).flatten().collect();
        let signature = self.keys.sign_revocations(self.epoch, after, &list);
        Some((next.len() as u32, list, signature))
    }

    /// Where the feed was when it last changed.
    pub(crate) fn mark(&self) -> FeedMark {
        self.mark
    }

    /// Where the list of entry points is that has this digest; durable. Its sequence grows exactly when the digest
    /// changes, beginning above those of the feed: by these it was signed once.
    pub(crate) fn number_entry_points(&mut self, digest: [u8; 32]) -> Result<FeedMark, StateError> {
        if digest != self.entry_points.digest || self.entry_points.sequence == 0 {
            let sequence = self.mark.sequence.max(self.entry_points.sequence).saturating_add(1);
            self.commit(vec![Entry::Doors { sequence, digest }])?;
        }
        Ok(self.entry_points)
    }

    /// Where the list of entry points was when it last changed.
    pub(crate) fn entry_points(&self) -> FeedMark {
        self.entry_points
    }

    /// The relay key of a node that has joined and is not revoked.
    pub(crate) fn relay_key(&self, index: u32) -> Option<[u8; 32]> {
        let node = self.nodes.get(&index).filter(|node| !node.revoked)?;
        Some(self.keys.relay_key(index, &node.key?))
    }
}

/// The epoch after `before`: it carries the time, so that of two restores of one backup the later one counts.
fn epoch_after(before: u32, now: u64) -> u32 {
    before.saturating_add(1).max(u32::try_from(now).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests;
