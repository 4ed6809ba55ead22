//! The service feed: the table as every node should have it, and the way there from what a node has.
//!
//! A version is immutable and shared; a connection holds the version that its node has, so the way to the newest
//! one is computed when the connection has room for it. A slow node skips versions instead of filling a queue,
//! and one that comes back after a while gets the difference, or the whole list when its version is forgotten.

use crate::directory::Directory;
use edgemesh_core::wire::control::{FeedCommit, PLAINTEXT_MAX, ToNode};
use edgemesh_core::wire::feed::Update;
use edgemesh_discovery::encoded::{Encoded, Run};
use edgemesh_discovery::object::Node;
use edgemesh_discovery::place::Placement;
use edgemesh_discovery::table::Table;
use edgemesh_host::state::StateError;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Versions that are remembered for nodes that come back.
const HISTORY: usize = 16;
/// Version, kind and length in front of a feed frame's updates.
const FEED_HEAD: usize = 2 + 2;

/// How long enrolments are gathered before the table is placed anew.
const GATHER: Duration = Duration::from_millis(200);

/// One state of the table.
pub(crate) struct Version {
    pub(crate) sequence: u64,
    pub(crate) table: Encoded,
    /// Zones of nodes, by name, where they have one.
    zones: BTreeMap<String, u32>,
    digest: [u8; 32],
    signature: [u8; 64],
    /// The way here from the version before.
    step: Option<(u64, Vec<Run>)>,
}

impl Version {
    /// The zone of a node, 0 without one.
    pub(crate) fn zone(&self, node: &str) -> u32 {
        self.zones.get(node).copied().unwrap_or_default()
    }
}

/// The newest version and the ones before it.
pub(crate) struct Feed {
    newest: watch::Sender<Option<Arc<Version>>>,
    history: Mutex<VecDeque<Arc<Version>>>,
    /// Nodes through which endpoints without a node of ours are reached, beside those with a label.
    exits: Vec<String>,
    /// What the source said last: where it is served depends on who has joined. Locked while it is published.
    source: Mutex<Arc<Table>>,
    joined: Notify,
}

impl Feed {
    /// A feed that says nothing until the first table is published.
    pub(crate) fn new(exits: Vec<String>) -> Self {
        Self {
            newest: watch::Sender::new(None),
            history: Mutex::default(),
            exits,
            source: Mutex::default(),
            joined: Notify::new(),
        }
    }

    /// Follows the newest version.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Arc<Version>>> {
        self.newest.subscribe()
    }

    /// The newest version.
    pub(crate) fn newest(&self) -> Option<Arc<Version>> {
        self.newest.borrow().clone()
    }

    /// The version with this sequence, while it is remembered.
    pub(crate) fn version(&self, sequence: u64) -> Option<Arc<Version>> {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.iter().rev().find(|version| version.sequence == sequence).cloned()
    }

    /// Makes `table` the newest version. Numbers it needs are assigned by the directory first.
    ///
    /// # Errors
    /// When the directory cannot be written: the feed stays as it was.
    pub(crate) fn publish(&self, directory: &Mutex<Directory>, table: Arc<Table>) -> Result<(), StateError> {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        *source = table;
        self.place(directory, &source)
    }

    /// A node has joined, or was revoked: endpoints may be reached there now, or not any more.
    pub(crate) fn nodes_changed(&self) {
        self.joined.notify_one();
    }

    /// Places the table anew whenever the nodes have changed, until the future is dropped. Without exits an endpoint
    /// is where it says, whoever has joined: then there is nothing to do.
    pub(crate) async fn follow_nodes(self: Arc<Self>, directory: Arc<Mutex<Directory>>) {
        loop {
            self.joined.notified().await;
            tokio::time::sleep(GATHER).await;
            let (feed, directory) = (self.clone(), directory.clone());
            let placed = tokio::task::spawn_blocking(move || {
                let source = feed.source.lock().unwrap_or_else(PoisonError::into_inner);
                let matters = feed.newest().is_some() && Placement::has_exits(&source.nodes, &feed.exits);
                if matters { feed.place(&directory, &source) } else { Ok(()) }
            });
            if let Ok(Err(error)) = placed.await {
                tracing::error!(%error, "the Services cannot be fed");
                self.nodes_changed();
            }
        }
    }

    fn place(&self, directory: &Mutex<Directory>, table: &Table) -> Result<(), StateError> {
        let old = self.newest();
        let mut directory = directory.lock().unwrap_or_else(PoisonError::into_inner);
        let placement = Placement::new(&table.nodes, &self.exits, Some(directory.members()));
        let zones = zones(table);
        let (table, mark) = directory.assign(|assigner| {
            let table = Encoded::new(table, &placement, assigner);
            let table = if let Some(old) = &old { table.sharing(&old.table) } else { table };
            let digest = table.digest();
            (table, digest)
        })?;
        let signature = directory.keys.sign_commit(mark.sequence, &mark.digest);
        drop(directory);
        if old.as_ref().is_some_and(|old| old.sequence == mark.sequence && old.zones == zones) {
            return Ok(());
        }
        let version = Arc::new(Version {
            sequence: mark.sequence,
            step: old.map(|old| (old.sequence, table.changes_since(&old.table))),
            table,
            zones,
            digest: mark.digest,
            signature,
        });
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back(version.clone());
        drop(history);
        self.newest.send_replace(Some(version));
        Ok(())
    }
}

/// The zones of the nodes that have one.
fn zones(table: &Table) -> BTreeMap<String, u32> {
    let zone = |(name, node): (&String, &Node)| (name.clone(), node.zone());
    table.nodes.iter().map(zone).filter(|(_, zone)| *zone != 0).collect()
}

/// A version on its way to one node.
pub(crate) struct Cursor {
    version: Arc<Version>,
    runs: Vec<Run>,
    run: usize,
    at: usize,
    committed: bool,
}

impl Cursor {
    /// From what the node holds, if that is known, to `version`. `zone`: the node's, unless it knows it; `moved`: it
    /// knows another one, so that it has to hear everything again.
    pub(crate) fn new(version: Arc<Version>, held: Option<&Version>, zone: Option<u32>, moved: bool) -> Self {
        let mut runs = match (held.filter(|_| !moved), &version.step) {
            (Some(held), _) if held.sequence == version.sequence => Vec::new(),
            (Some(held), Some((from, step))) if held.sequence == *from => step.clone(),
            (Some(held), _) => version.table.changes_since(&held.table),
            (None, _) => version.table.full(),
        };
        if let Some(zone) = zone.and_then(|zone| postcard::to_allocvec(&Update::Zone(zone)).ok()) {
            runs.insert(0, zone.into());
        }
        Self { version, runs, run: 0, at: 0, committed: false }
    }

    /// The next plaintext, written to `out`; `None` when the node has it all.
    pub(crate) fn next(&mut self, out: &mut [u8; PLAINTEXT_MAX]) -> Option<usize> {
        if self.committed {
            return None;
        }
        let body = self.body();
        let message = if body.is_empty() {
            self.committed = true;
            ToNode::FeedCommit(FeedCommit {
                sequence: self.version.sequence,
                digest: self.version.digest,
                signature: &self.version.signature,
            })
        } else {
            ToNode::Feed(&body)
        };
        message.encode(out).ok()
    }

    /// What the node has once the cursor is at its end.
    pub(crate) fn version(&self) -> &Arc<Version> {
        &self.version
    }

    /// As many whole updates as fit one frame.
    fn body(&mut self) -> Vec<u8> {
        let mut body = Vec::with_capacity(PLAINTEXT_MAX);
        while let Some(run) = self.runs.get(self.run) {
            let rest = run.get(self.at..).unwrap_or_default();
            if rest.is_empty() {
                (self.run, self.at) = (self.run + 1, 0);
                continue;
            }
            let Ok((_, after)) = postcard::take_from_bytes::<Update<'_>>(rest) else { break };
            let len = rest.len() - after.len();
            if body.len() + len > PLAINTEXT_MAX - FEED_HEAD {
                break;
            }
            body.extend_from_slice(rest.get(..len).unwrap_or_default());
            self.at += len;
        }
        body
    }
}
