//! One deadline per key, earliest first; it cannot overflow, because every key has its place from the start.
//!
//! A binary heap with a back-pointer per key: the next deadline is read in O(1), setting one costs O(log n).
//! Machines that push a deadline out with every packet do not call it with every packet: they let the old one
//! fire and answer with the new one. Keys are dense numbers; `bridge/` gives each machine a range of them.

use super::link::{Link, MOST, id, link};
use crate::time::Instant;

/// One heap place; all-zero is free. Packed, so that a board's twelve bytes are not rounded up to sixteen.
#[derive(Clone, Copy, Default)]
#[repr(C, packed(4))]
pub struct DeadlineEntry {
    at: u64,
    key: Link,
    /// For the key equal to this place's number: its heap place plus one, 0 when it has no deadline.
    place: Link,
}

impl DeadlineEntry {
    /// A free place.
    pub const EMPTY: Self = Self { at: 0, key: 0, place: 0 };
}

/// Deadlines of the keys `0..entries.len()`.
pub struct Deadlines<'a> {
    entries: &'a mut [DeadlineEntry],
    len: usize,
}

impl<'a> Deadlines<'a> {
    /// No deadlines; `entries` must be all zero. Keys at or above its length are ignored by every call.
    pub fn new(entries: &'a mut [DeadlineEntry]) -> Self {
        let len = entries.len().min(MOST);
        Self { entries: entries.split_at_mut(len).0, len: 0 }
    }

    /// Sets, moves or (with `None`) clears the deadline of `key`.
    pub fn set(&mut self, key: u32, at: Option<Instant>) {
        let Some(entry) = self.entries.get(key as usize) else { return };
        match (id(entry.place).checked_sub(1), at) {
            (None, None) => {}
            (None, Some(at)) => {
                let place = self.len;
                self.len = self.len.saturating_add(1);
                self.put(place, at.as_micros(), key);
                self.up(place);
            }
            (Some(place), Some(at)) if self.at(place as usize) == at.as_micros() => {}
            (Some(place), Some(at)) => {
                self.put(place as usize, at.as_micros(), key);
                self.settle(place as usize);
            }
            (Some(place), None) => self.remove(place as usize, key),
        }
    }

    /// How many keys have a deadline.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The earliest deadline and its key.
    pub fn first(&self) -> Option<(Instant, u32)> {
        if self.len == 0 {
            return None;
        }
        self.entries.first().map(|e| (Instant::from_micros(e.at), id(e.key)))
    }

    /// Takes the earliest deadline if it is at or before `now`.
    pub fn pop_due(&mut self, now: Instant) -> Option<u32> {
        let (at, key) = self.first()?;
        if at > now {
            return None;
        }
        self.set(key, None);
        Some(key)
    }

    /// The deadline of `key`.
    pub fn get(&self, key: u32) -> Option<Instant> {
        let place = id(self.entries.get(key as usize)?.place).checked_sub(1)?;
        self.entries.get(place as usize).map(|e| Instant::from_micros(e.at))
    }

    fn remove(&mut self, place: usize, key: u32) {
        self.set_place(key, 0);
        self.len = self.len.saturating_sub(1);
        if place != self.len
            && let Some(&last) = self.entries.get(self.len)
        {
            self.put(place, last.at, id(last.key));
            self.settle(place);
        }
    }

    fn settle(&mut self, place: usize) {
        self.up(place);
        self.down(place);
    }

    fn up(&mut self, mut place: usize) {
        while let Some(parent) = place.checked_sub(1).map(|p| p / 2) {
            if self.at(parent) <= self.at(place) {
                break;
            }
            self.swap(parent, place);
            place = parent;
        }
    }

    fn down(&mut self, mut place: usize) {
        loop {
            let left = place.saturating_mul(2).saturating_add(1);
            let right = left.saturating_add(1);
            let mut least = place;
            for child in [left, right] {
                if child < self.len && self.at(child) < self.at(least) {
                    least = child;
                }
            }
            if least == place {
                return;
            }
            self.swap(least, place);
            place = least;
        }
    }

    fn at(&self, place: usize) -> u64 {
        self.entries.get(place).map_or(u64::MAX, |e| e.at)
    }

    fn swap(&mut self, a: usize, b: usize) {
        if let (Some(&x), Some(&y)) = (self.entries.get(a), self.entries.get(b)) {
            self.put(a, y.at, id(y.key));
            self.put(b, x.at, id(x.key));
        }
    }

    fn put(&mut self, place: usize, at: u64, key: u32) {
        if let Some(entry) = self.entries.get_mut(place) {
            (entry.at, entry.key) = (at, link(key));
        }
        self.set_place(key, place.saturating_add(1) as u32);
    }

    fn set_place(&mut self, key: u32, place: u32) {
        if let Some(entry) = self.entries.get_mut(key as usize) {
            entry.place = link(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn agrees_with_a_map(ops in proptest::collection::vec((0u32..18, proptest::option::of(0u64..50)), 1..400)) {
            let mut memory = [DeadlineEntry::EMPTY; 16];
            let mut deadlines = Deadlines::new(&mut memory);
            let mut model = BTreeMap::new();
            for (key, at) in ops {
                deadlines.set(key, at.map(Instant::from_micros));
                match at {
                    Some(at) if key < 16 => { model.insert(key, at); }
                    _ => { model.remove(&key); }
                }
                let first = model.values().min().copied();
                prop_assert_eq!(deadlines.first().map(|f| f.0.as_micros()), first);
                for key in 0..16 {
                    prop_assert_eq!(deadlines.get(key).map(Instant::as_micros), model.get(&key).copied());
                }
            }
            let mut last = 0;
            while let Some(key) = deadlines.pop_due(Instant::from_micros(50)) {
                let at = model.remove(&key).unwrap();
                prop_assert!(at >= last);
                last = at;
            }
            prop_assert!(model.is_empty());
        }
    }
}
