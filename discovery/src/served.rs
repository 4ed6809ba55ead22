//! A table, where its endpoints are, and its wire form, kept together: what the server's feed holds, and an agent with
//! a source of its own.
//!
//! Life of a change: [`Served::apply`] takes objects, and what depends on them is due; [`Served::encode`] joins and
//! encodes what is due, and nothing else. Nodes that come, go or move make only those Services due whose endpoints
//! name no node, unless there are exits: then everything. Bounds: one copy of the objects and of the wire form.

use crate::change::Changes;
use crate::claims::Told;
use crate::encoded::{Encoded, Resolver, Step};
use crate::entry::{Entries, entries};
use crate::place::Placement;
use crate::table::{Entry, Key, Table};
use edgemesh_core::wire::feed::Home;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Served {
    table: Table,
    whole: bool,
    placement: Placement,
    encoded: Encoded,
    told: Told,
    due: BTreeSet<Arc<Key>>,
    namespaces_due: bool,
    entries_due: bool,
    entries_told: bool,
    /// Services with endpoints that name no node.
    nodeless: BTreeSet<Arc<Key>>,
    /// Services encoded since the start: what changes have cost.
    encodings: u64,
}

impl Served {
    /// Takes what a source says, or nothing when [`Served::held_until`] is over. Whether Nodes have changed, so that
    /// [`Served::place`] is to be called.
    pub fn apply(&mut self, now: Instant, changes: Changes) -> bool {
        let first = changes.is_all() && !self.whole;
        self.whole |= changes.is_all();
        for (identity, change) in changes {
            self.table.apply(now, identity, change.object);
        }
        if first {
            self.table.settle();
        }
        let changed = self.table.take_changed(now);
        self.due.extend(changed.services);
        self.namespaces_due |= changed.namespaces;
        self.entries_due |= changed.entries;
        changed.nodes
    }

    /// Whether the source has told everything once. Before that nothing is to be encoded.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// When [`Served::apply`] is to be called although nothing has changed: an endpoint whose Node is ready again does
    /// not stand for longer without the cloud's word.
    pub fn held_until(&self) -> Option<Instant> {
        self.table.due()
    }

    /// Endpoints are where this says from now on.
    pub fn place(&mut self, placement: Placement) {
        if placement == self.placement {
            return;
        }
        let exits = [&placement, &self.placement].into_iter().any(Placement::exits);
        let concerned = if exits { self.table.keys().cloned().collect() } else { self.nodeless.clone() };
        self.due.extend(concerned);
        self.placement = placement;
    }

    /// The resolver knows more of these nodes than before.
    pub fn resolve_again(&mut self, nodes: &BTreeSet<String>) {
        self.due.extend(self.table.keys_on(nodes).cloned());
    }

    /// What this step led to was in vain, such as numbers that could not be stored: its Services are due again.
    pub fn encode_again(&mut self, step: &Step) {
        if step.is_whole() {
            self.due.extend(self.table.keys().cloned());
        } else {
            self.due.extend(step.services().iter().cloned());
        }
    }

    /// Encodes what is due. What that changed, and what is wrong with Services now and was not told before.
    pub fn encode(&mut self, resolver: &mut impl Resolver) -> (Step, Vec<String>) {
        let (mut step, mut news) = (Step::default(), Vec::new());
        if std::mem::take(&mut self.namespaces_due) {
            self.encoded.set_namespaces(self.table.namespaces(), &mut step);
        }
        for key in std::mem::take(&mut self.due) {
            let entry = self.table.entry(&key);
            self.encodings += 1;
            self.encoded.set(&key, entry.as_ref(), &self.placement, resolver, &mut step);
            if entry.as_ref().is_some_and(names_no_node) {
                self.nodeless.insert(key.clone());
            } else {
                self.nodeless.remove(&key);
            }
            news.extend(self.told.news(&key, entry.and_then(|entry| entry.problem)));
        }
        (step, news)
    }

    /// The entry points of all Services, the first time and if they have changed since this was asked last. One walk
    /// then.
    pub fn take_entries(&mut self) -> Option<Entries> {
        let first = !std::mem::replace(&mut self.entries_told, true);
        (std::mem::take(&mut self.entries_due) || first).then(|| entries(&self.table))
    }

    /// What was asked last did not reach who it is for: it is told the next time.
    pub fn tell_entries_again(&mut self) {
        self.entries_due = true;
    }

    /// The node that the table is for is here; what that changes is added to `step`.
    pub fn set_home(&mut self, home: Home, step: &mut Step) {
        self.encoded.set_home(home, step);
    }

    /// See [`Table::restore_held`].
    ///
    /// # Errors
    /// When the bytes are no such thing.
    pub fn restore_held(&mut self, now: Instant, bytes: &[u8]) -> Result<(), postcard::Error> {
        self.table.restore_held(now, bytes)
    }

    /// See [`Table::take_held`].
    pub fn take_held(&mut self) -> Option<Vec<u8>> {
        self.table.take_held()
    }

    /// The objects, joined.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The wire form, as of the last [`Served::encode`].
    pub fn encoded(&self) -> &Encoded {
        &self.encoded
    }

    /// How many Services were joined and encoded since the start, each time counting.
    pub fn encodings(&self) -> u64 {
        self.encodings
    }
}

fn names_no_node(entry: &Entry) -> bool {
    entry.groups.iter().flat_map(|group| &group.endpoints).any(|endpoint| endpoint.node.is_empty())
}

#[cfg(test)]
#[path = "served_tests.rs"]
mod tests;
