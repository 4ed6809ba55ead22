//! What a source says of objects: one is as it is given, or gone.
//!
//! Sources tell differences, so that what a change costs depends on the change. [`Changes`] gathers them until somebody
//! takes them: of several about one object only the last counts. Bounded by the number of objects.

use crate::object::{Identity, Kind, Object};
use std::collections::BTreeMap;
use std::collections::btree_map::{Entry, IntoIter};

/// What is new of one object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The object; `None` when it is gone.
    pub object: Option<Object>,
    /// When what the object tells of happened, in Unix milliseconds, where it says so: annotation
    /// `endpoints.kubernetes.io/last-change-trigger-time`.
    pub triggered: Option<u64>,
}

/// Changes by object.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    objects: BTreeMap<Identity, Change>,
    /// The source has not told everything yet: a table of what it has told so far would be wrong. A long list is told
    /// in pieces, so that there is never a second copy of it.
    more: bool,
}

impl Changes {
    /// Whether there is nothing new.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The same, said by a source that has not told everything yet.
    pub fn piece(self) -> Self {
        Self { more: true, ..self }
    }

    /// Whether the source has told everything, with this.
    pub fn is_all(&self) -> bool {
        !self.more
    }

    /// Whether all that is new is of this kind.
    pub fn is_only(&self, kind: Kind) -> bool {
        !self.is_empty() && self.objects.keys().all(|identity| identity.kind == kind)
    }

    /// How many objects are new, different or gone.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// An object is as given, or gone. What triggered it first goes on waiting for its effect.
    pub fn add(&mut self, identity: Identity, change: Change) {
        match self.objects.entry(identity) {
            Entry::Occupied(mut old) => {
                let triggered = change.object.as_ref().and(old.get().triggered).or(change.triggered);
                *old.get_mut() = Change { triggered, ..change };
            }
            Entry::Vacant(place) => drop(place.insert(change)),
        }
    }

    /// An object is as given, or gone.
    pub fn set(&mut self, identity: Identity, object: Option<Object>) {
        self.add(identity, Change { object, triggered: None });
    }

    /// What came later.
    pub fn merge(&mut self, later: Self) {
        self.more &= later.more;
        later.into_iter().for_each(|(identity, change)| self.add(identity, change));
    }

    /// The moments at which what is told here began, in Unix milliseconds; of what is gone none is known.
    pub fn triggers(&self) -> impl Iterator<Item = u64> {
        self.objects.values().filter_map(|change| change.triggered)
    }
}

impl IntoIterator for Changes {
    type Item = (Identity, Change);
    type IntoIter = IntoIter<Identity, Change>;

    fn into_iter(self) -> Self::IntoIter {
        self.objects.into_iter()
    }
}

impl FromIterator<(Identity, Object)> for Changes {
    fn from_iter<T: IntoIterator<Item = (Identity, Object)>>(objects: T) -> Self {
        let mut changes = Self::default();
        objects.into_iter().for_each(|(identity, object)| changes.set(identity, Some(object)));
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r2_the_last_word_on_an_object_counts_and_the_first_trigger() {
        let identity = || Identity { kind: Kind::Namespace, namespace: String::new(), name: "n".to_owned() };
        let there = |triggered| Change { object: Some(Object::Namespace), triggered };
        let gone = Change { object: None, triggered: None };
        let mut changes = Changes::default();
        changes.add(identity(), there(Some(5)));
        changes.add(identity(), there(Some(9)));
        assert_eq!(changes.triggers().collect::<Vec<_>>(), [5]);
        changes.merge(std::iter::once((identity(), Object::Namespace)).collect());
        assert_eq!((changes.len(), changes.triggers().next()), (1, Some(5)));
        changes.add(identity(), gone.clone());
        assert_eq!(changes.triggers().next(), None, "a deletion is not measured (row R5)");
        assert_eq!(changes.into_iter().next(), Some((identity(), gone)));
    }
}
