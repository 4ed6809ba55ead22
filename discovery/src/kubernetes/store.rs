//! Which objects there are, with generations for the sweep, and what is new of them.
//!
//! The objects themselves go to whoever takes the changes; of each a hash stays, by which a repetition is known.
//! There is no second copy during a list: each object that a list names is marked with the list's generation, and
//! those without the mark go at its end. Bounded by what the server has; objects that do not apply are told once
//! per version, [`TOLD_MAX`] of them at a time.

use super::decode::{Bad, Decoded, kind_name};
use crate::change::{Change, Changes};
use crate::object::{Identity, Kind};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

/// Objects remembered as told of.
const TOLD_MAX: usize = 1_024;
/// From how many objects on losing more than half of them in one list is not believed at once.
const SHRINK_MIN: usize = 10;

struct Held {
    hash: u64,
    generation: u32,
    version: u64,
}

/// How far a kind has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum State {
    /// Nothing asked yet, or no answer.
    #[default]
    Silent,
    /// Asked and failed, never heard.
    Failed,
    /// The server has no such kind.
    Absent,
    /// A whole list was heard.
    Heard,
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Store {
    objects: BTreeMap<Identity, Held>,
    told: BTreeMap<Identity, u64>,
    changes: Changes,
    hasher: RandomState,
}

/// What an object did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// The table may differ.
    Changed,
    /// It says what was known, in the version that was known.
    Same,
    /// It says what was known, in another version.
    Newer,
}

impl Store {
    /// Takes an object.
    pub(super) fn set(&mut self, decoded: Decoded, generation: u32) -> Effect {
        let Decoded { identity, object, version, triggered } = decoded;
        self.told.remove(&identity);
        let hash = self.hasher.hash_one(&object);
        let held = Held { hash, generation, version };
        let effect = match self.objects.get_mut(&identity) {
            Some(before) => {
                let effect = match (before.hash == hash, before.version == version) {
                    (false, _) => Effect::Changed,
                    (true, true) => Effect::Same,
                    (true, false) => Effect::Newer,
                };
                *before = held;
                effect
            }
            None => {
                self.objects.insert(identity.clone(), held);
                Effect::Changed
            }
        };
        if effect == Effect::Changed {
            self.changes.add(identity, Change { object: Some(object), triggered });
        }
        effect
    }

    /// Takes an object that does not apply: what it said before stays. The text to tell, if it is news.
    pub(super) fn refuse(&mut self, kind: Kind, bad: Bad, generation: u32) -> Option<String> {
        // All nameless ones count as one object: they cannot be told apart.
        let nameless = || Identity { kind, namespace: String::new(), name: String::new() };
        let identity = bad.identity.unwrap_or_else(nameless);
        let held = self.objects.get_mut(&identity);
        let stays = if held.is_some() { "its last good version stays" } else { "skipped" };
        if let Some(held) = held {
            held.generation = generation;
        }
        if self.told.get(&identity) == Some(&bad.version) {
            return None;
        }
        if self.told.len() >= TOLD_MAX {
            self.told.pop_first();
        }
        let text = format!("{} {}: {}; {stays}", kind_name(kind), path(&identity), bad.error);
        self.told.insert(identity, bad.version);
        Some(text)
    }

    /// Takes an object away.
    pub(super) fn remove(&mut self, identity: &Identity) -> bool {
        self.told.remove(identity);
        let known = self.objects.remove_entry(identity);
        known.map(|(identity, _)| self.changes.set(identity, None)).is_some()
    }

    /// How many objects of a kind there are.
    pub(super) fn count(&self, kind: Kind) -> usize {
        self.of(kind).count()
    }

    /// Whether a list of this generation leaves out so much that it should be asked for again.
    pub(super) fn shrinks(&self, kind: Kind, generation: u32, known: usize) -> bool {
        let held = self.count(kind).max(known);
        let named = self.of(kind).filter(|(_, held)| held.generation == generation).count();
        (named == 0 && held > 0) || (held >= SHRINK_MIN && named < held / 2)
    }

    /// Takes away what the list of this generation did not name; whether there was something.
    pub(super) fn sweep(&mut self, kind: Kind, generation: u32) -> bool {
        self.remove_all(kind, |held| held.generation != generation)
    }

    /// Takes away all of a kind; whether there was something.
    pub(super) fn clear(&mut self, kind: Kind) -> bool {
        self.remove_all(kind, |_| true)
    }

    fn remove_all(&mut self, kind: Kind, which: impl Fn(&Held) -> bool) -> bool {
        let gone = self.of(kind).filter(|(_, held)| which(held)).map(|(identity, _)| identity.clone());
        let gone: Vec<Identity> = gone.collect();
        gone.iter().filter(|identity| self.remove(identity)).count() > 0
    }

    /// What is new since this was asked last.
    pub(super) fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// How much is new.
    pub(super) fn changes(&self) -> usize {
        self.changes.len()
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = (&Identity, &Held)> {
        let first = Identity { kind, namespace: String::new(), name: String::new() };
        self.objects.range(first..).take_while(move |(identity, _)| identity.kind == kind)
    }
}

/// Namespace and name, for people.
fn path(identity: &Identity) -> String {
    if identity.name.is_empty() {
        "without a usable name".to_owned()
    } else if identity.namespace.is_empty() {
        identity.name.clone()
    } else {
        format!("{}/{}", identity.namespace, identity.name)
    }
}
