//! Hash to id; when full, [`Index::insert`] returns false. Size it at twice its pool and it never fills.
//!
//! Open addressing with linear probing and backward-shift deletion: no tombstones, so a table that lives for
//! years stays as fast as a fresh one. Keys stay in the owner's slots; the caller hashes them (with a keyed hash
//! where a stranger chooses the key) and compares them.

use super::link::{Link, id, link};

/// A multimap from 64-bit hash to non-zero `u32` id over borrowed memory.
pub struct Index<'a> {
    table: &'a mut [Link],
}

impl<'a> Index<'a> {
    /// An empty index over all-zero `table`. Only the largest power of two of it is used.
    pub fn new(table: &'a mut [Link]) -> Self {
        let size = match table.len().checked_ilog2() {
            Some(bits) => 1usize << bits,
            None => 0,
        };
        Self { table: table.split_at_mut(size).0 }
    }

    /// How many ids it holds.
    pub fn capacity(&self) -> usize {
        self.table.len()
    }

    /// The first id under `hash` that `is_it` accepts.
    pub fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut at = self.home(hash);
        for _ in 0..self.table.len() {
            match self.table.get(at) {
                None | Some(0) => return None,
                Some(&found) if is_it(id(found)) => return Some(id(found)),
                Some(_) => at = self.step(at),
            }
        }
        None
    }

    /// Adds `new` under `hash`. False when the table is full; nothing is changed then.
    pub fn insert(&mut self, hash: u64, new: u32) -> bool {
        let mut at = self.home(hash);
        for _ in 0..self.table.len() {
            let next = self.step(at);
            match self.table.get_mut(at) {
                Some(place) if *place == 0 => {
                    *place = link(new);
                    return true;
                }
                _ => at = next,
            }
        }
        false
    }

    /// Removes `old` from under `hash`; `hash_of` recomputes the hash of any other id in the table.
    /// Unknown ids are ignored.
    pub fn remove(&mut self, hash: u64, old: u32, hash_of: impl Fn(u32) -> u64) {
        let mut hole = self.home(hash);
        let mut steps = 0usize;
        while self.table.get(hole).is_some_and(|&found| id(found) != old) {
            if self.table.get(hole) == Some(&0) || steps >= self.table.len() {
                return;
            }
            hole = self.step(hole);
            steps = steps.saturating_add(1);
        }
        // Shift later members of the run back, unless that would put one before its home.
        let mut at = hole;
        for _ in 0..self.table.len() {
            at = self.step(at);
            let Some(&next) = self.table.get(at) else { break };
            if next == 0 {
                break;
            }
            let home = self.home(hash_of(id(next)));
            if self.distance(home, at) >= self.distance(hole, at) {
                self.set(hole, next);
                hole = at;
            }
        }
        self.set(hole, 0);
    }

    /// Empties the table.
    pub fn clear(&mut self) {
        self.table.fill(0);
    }

    fn mask(&self) -> usize {
        self.table.len().wrapping_sub(1)
    }

    fn home(&self, hash: u64) -> usize {
        hash as usize & self.mask()
    }

    fn step(&self, at: usize) -> usize {
        at.wrapping_add(1) & self.mask()
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & self.mask()
    }

    fn set(&mut self, at: usize, found: Link) {
        if let Some(place) = self.table.get_mut(at) {
            *place = found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        /// Against a plain map, under hashes that collide and wrap round the end.
        #[test]
        fn agrees_with_a_map(ops in proptest::collection::vec((0u32..3, 1u32..40), 1..300)) {
            let hash_of = |id: u32| u64::from(id % 7) + 60;
            let mut memory = [0; 64];
            let mut index = Index::new(&mut memory);
            let mut model: HashMap<u32, ()> = HashMap::new();
            for (op, id) in ops {
                match op {
                    0 if !model.contains_key(&id) => {
                        prop_assert!(index.insert(hash_of(id), id));
                        model.insert(id, ());
                    }
                    1 => {
                        index.remove(hash_of(id), id, hash_of);
                        model.remove(&id);
                    }
                    _ => {}
                }
                for id in 1..40 {
                    let found = index.find(hash_of(id), |x| x == id);
                    prop_assert_eq!(found.is_some(), model.contains_key(&id));
                }
            }
        }
    }

    #[test]
    fn a_full_or_empty_table_answers() {
        let mut memory = [0; 2];
        let mut index = Index::new(&mut memory);
        assert!(index.insert(5, 1) && index.insert(5, 2));
        assert!(!index.insert(5, 3));
        assert_eq!(index.find(5, |id| id == 3), None);
        let mut none = Index::new(&mut []);
        assert!(!none.insert(1, 1));
        assert_eq!(none.find(1, |_| true), None);
        none.remove(1, 1, |_| 1);
    }
}
