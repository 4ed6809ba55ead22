//! Services from a directory of manifests on this node.
//!
//! Node names in EndpointSlices become indices by the records that this node has; a name that is not known yet is
//! asked for, and the table is made again once the directory has answered.

use super::join::Join;
use super::status::Shared;
use edgemesh_discovery::encoded::{Resolver, VipKey};
use edgemesh_discovery::manifests;
use edgemesh_discovery::table::Table;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// Pauses between questions about nodes that the directory did not know.
const ASK_AGAIN: Duration = Duration::from_secs(1);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(60);
/// Nodes asked about at a time.
const QUESTIONS: usize = 64;

/// Follows `directory` until dropped.
///
/// # Errors
/// When the directory cannot be read or watched.
pub fn follow(directory: &Path, join: &Join) -> io::Result<manifests::Source> {
    let tables = join.tables();
    manifests::Source::spawn(
        directory,
        move |table| {
            let _ = tables.send(table);
        },
        |problem| tracing::warn!("{problem}"),
    )
}

/// A table of a source on this node that names nodes which no record names yet.
#[derive(Default)]
pub(super) struct Unresolved {
    pub(super) table: Option<Table>,
    pub(super) nodes: BTreeSet<String>,
    pub(super) ask_due: Option<Instant>,
    pause: Duration,
    pub(super) remake_due: Option<Instant>,
}

impl Unresolved {
    /// Takes note of nodes whose index is not known, and has the directory asked about new ones.
    pub(super) fn note(&mut self, table: &Table, unknown: BTreeSet<String>) {
        let waiting = self;
        if !unknown.is_subset(&waiting.nodes) {
            (waiting.ask_due, waiting.pause) = (Some(Instant::now()), ASK_AGAIN);
        }
        if unknown.is_empty() {
            *waiting = Unresolved::default();
        } else {
            (waiting.table, waiting.nodes) = (Some(table.clone()), unknown);
        }
    }

    /// The next nodes to ask about.
    pub(super) fn questions(&self, status: &Shared) -> Vec<String> {
        let unknown = self.nodes.iter().filter(|name| status.index_of(name) == 0);
        unknown.take(QUESTIONS).cloned().collect()
    }

    /// They were asked about: again after a pause, which grows.
    pub(super) fn asked(&mut self) {
        self.ask_due = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(ASK_AGAIN_MAX);
    }
}

/// Node names by the records of this node.
pub(super) struct Names<'s> {
    pub(super) status: &'s Shared,
    pub(super) own: u32,
    /// Those that no record has.
    pub(super) unknown: BTreeSet<String>,
}

impl Resolver for Names<'_> {
    fn node(&mut self, name: &str) -> u32 {
        let index = if name == self.status.node { self.own } else { self.status.index_of(name) };
        if index == 0 && !name.is_empty() && !self.unknown.contains(name) {
            self.unknown.insert(name.to_owned());
        }
        index
    }

    fn endpoint_vip(&mut self, _: &VipKey<'_>) -> Option<IpAddr> {
        None
    }
}
