//! A node that is fed on demand: what it asked for, and what it was told of it.
//!
//! Every question is answered with all that there is with its fingerprint, and again whenever that changes, until
//! the node forgets it. Bounds: [`INTERESTS_MAX`] fingerprints a node; beyond that those go first that nothing has.

use super::Shared;
use crate::feed::{Cursor, Found, Version};
use edgemesh_core::wire::ask;
use edgemesh_core::wire::feed::{Home, Update};
use edgemesh_discovery::encoded::Run;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

const INTERESTS_MAX: usize = 16_384;

/// What one node wants to know.
pub(super) struct Interest {
    told: BTreeMap<u32, Vec<Found>>,
    due: VecDeque<u32>,
}

impl Interest {
    /// Of the node with this index: it has to know what it has endpoints of.
    pub(super) fn new(index: u32) -> Self {
        Self { told: BTreeMap::new(), due: [index].into() }
    }

    /// The node asks. It is answered even if it was before.
    pub(super) fn want(&mut self, key: u32) {
        if key & ask::ASK == 0 || self.due.contains(&key) {
            return;
        }
        if self.told.len() >= INTERESTS_MAX && !self.told.contains_key(&key) {
            let idle = self.told.iter().find(|(_, found)| found.is_empty()).or(self.told.iter().next());
            if let Some(idle) = idle.map(|(key, _)| *key) {
                self.told.remove(&idle);
            }
        }
        self.told.remove(&key);
        self.due.push_back(key);
    }

    /// The node does not hold the Service with this fingerprint any more, however it came to it.
    pub(super) fn forget(&mut self, key: u32, own: u32) {
        let is_it = |found: &Found| {
            found.0.as_ref().is_some_and(|k| ask::service(k.namespace.bytes(), k.name.bytes()) == key)
        };
        self.told.retain(|asked, found| *asked == own || !found.iter().any(is_it));
    }

    /// The table has changed: what was told may be another thing now.
    pub(super) fn look_again(&mut self) {
        let due = &self.due;
        let all: Vec<u32> = self.told.keys().filter(|key| !due.contains(key)).copied().collect();
        self.due.extend(all);
    }

    /// Hints mean something else now: everything is to be told again.
    pub(super) fn tell_again(&mut self) {
        self.look_again();
        self.told.clear();
    }

    /// Whether there may be something to say.
    pub(super) fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// The next answer; `home` is what the node is to be told first.
    pub(super) fn next(&mut self, shared: &Shared, home: Option<Home>) -> Option<Cursor> {
        while let Some(key) = self.due.pop_front() {
            let Some((version, found)) = shared.feed.asked(key) else {
                self.due.push_front(key);
                return None;
            };
            let before = self.told.insert(key, found.clone());
            if home.is_some() || before.as_ref() != Some(&found) {
                let runs = runs(shared, before.unwrap_or_default(), &found);
                return Some(answer(shared, version, key, found.len(), runs, home));
            }
        }
        None
    }
}

/// What leads from `before` to `now`: first what has this fingerprint no more.
fn runs(shared: &Shared, before: Vec<Found>, now: &[Found]) -> Arc<[Run]> {
    let gone = before
        .into_iter()
        .filter_map(|(key, _)| key.filter(|key| !now.iter().any(|(k, _)| k.as_ref() == Some(key))));
    let gone = gone.filter_map(|key| {
        let removal = Update::Remove { namespace: &key.namespace, name: &key.name };
        shared.feed.run(&key).or_else(|| postcard::to_allocvec(&removal).ok().map(Run::from))
    });
    gone.chain(now.iter().map(|(_, run)| run.clone())).collect()
}

fn answer(
    shared: &Shared,
    version: Arc<Version>,
    key: u32,
    found: usize,
    runs: Arc<[Run]>,
    home: Option<Home>,
) -> Cursor {
    Cursor::answer(version, runs, home, key, u32::try_from(found).unwrap_or(u32::MAX), |text, said| {
        shared.feed.signature(key, *said, || shared.directory().keys.sign_answer(text))
    })
}
