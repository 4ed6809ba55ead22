//! Slots with stable ids; when full, [`Pool::insert`] returns `None` and the caller evicts by its own rule.

use super::link::MOST;

/// A value that can live in a [`Pool`]: plain data with room for one link.
pub trait Slot: Copy {
    /// The all-zero value.
    const EMPTY: Self;
    /// The link, while the slot is free. A slot may use the same field for itself while it is live.
    fn link(&self) -> u32;
    /// Sets the link.
    fn set_link(&mut self, id: u32);
}

/// A slab over borrowed slots. Id `n` is slot `n - 1`.
///
/// The pool does not know which ids are live: an owner that frees an id twice corrupts its own table, never
/// memory. Owners keep a state in the slot when they need to ask.
pub struct Pool<'a, T> {
    slots: &'a mut [T],
    /// Slots ever used; those above are still untouched memory.
    used: u32,
    free: u32,
    live: u32,
}

impl<'a, T: Slot> Pool<'a, T> {
    /// An empty pool over `slots`, which must be all [`Slot::EMPTY`].
    pub fn new(slots: &'a mut [T]) -> Self {
        Self::at_most(slots, MOST)
    }

    /// As [`Pool::new`], over no more than `most` of the slots: as many as an index over them can hold.
    pub fn at_most(slots: &'a mut [T], most: usize) -> Self {
        let len = slots.len().min(most).min(MOST);
        Self { slots: slots.split_at_mut(len).0, used: 0, free: 0, live: 0 }
    }

    /// Takes over the first `used` slots, which another run used: what `keep` accepts is moved to the ids from 1
    /// up, the rest is freed. `keep` may mend a slot; it sees every used slot once. The slots behind are not read.
    pub fn adopt(slots: &'a mut [T], used: usize, most: usize, mut keep: impl FnMut(&mut T) -> bool) -> Self {
        let mut pool = Self::at_most(slots, most);
        for at in 0..used.min(pool.slots.len()) {
            let Some(slot) = pool.slots.get_mut(at) else { break };
            let mut value = core::mem::replace(slot, T::EMPTY);
            if keep(&mut value) {
                // Never ahead of `at`: at most as many were kept as were seen.
                let _ = pool.insert(value);
            }
        }
        pool
    }

    /// Stores `value` and returns its id, or `None` when every slot is live.
    pub fn insert(&mut self, value: T) -> Option<u32> {
        let id = match self.get(self.free) {
            Some(slot) => {
                let id = self.free;
                self.free = slot.link();
                id
            }
            None => {
                let id = self.used.checked_add(1)?;
                if id as usize > self.slots.len() {
                    return None;
                }
                self.used = id;
                id
            }
        };
        *self.get_mut(id)? = value;
        self.live = self.live.saturating_add(1);
        Some(id)
    }

    /// Frees a live id; an id that was never given out is ignored.
    pub fn remove(&mut self, id: u32) {
        let free = self.free;
        if id > self.used {
            return;
        }
        if let Some(slot) = self.get_mut(id) {
            *slot = T::EMPTY;
            slot.set_link(free);
            self.free = id;
            self.live = self.live.saturating_sub(1);
        }
    }

    /// The slot of `id`, live or not; `None` for 0 and for ids beyond the pool.
    pub fn get(&self, id: u32) -> Option<&T> {
        self.slots.get((id as usize).checked_sub(1)?)
    }

    /// As [`Pool::get`], to change.
    pub fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.slots.get_mut((id as usize).checked_sub(1)?)
    }

    /// Live slots.
    pub fn len(&self) -> usize {
        self.live as usize
    }

    /// Whether no slot is live.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// All slots.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// The highest id ever given out: ids `1..=high_water` are worth a look when a whole table is walked.
    pub fn high_water(&self) -> u32 {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy)]
    struct Item(u32, u32);
    impl Slot for Item {
        const EMPTY: Self = Self(0, 0);
        fn link(&self) -> u32 {
            self.1
        }
        fn set_link(&mut self, id: u32) {
            self.1 = id;
        }
    }

    #[test]
    fn adopted_slots_close_up_and_the_rest_is_free() {
        let mut memory = [Item(0, 9), Item(5, 1), Item(0, 0), Item(6, 3), Item::EMPTY];
        let mut seen = 0;
        let mut pool = Pool::adopt(&mut memory, 4, 4, |item| {
            seen += 1;
            item.0 += 10;
            item.0 > 10
        });
        assert_eq!(seen, 4);
        assert_eq!((pool.len(), pool.high_water()), (2, 2));
        assert_eq!((pool.get(1).unwrap().0, pool.get(2).unwrap().0), (15, 16));
        assert_eq!(
            [pool.insert(Item(1, 0)), pool.insert(Item(1, 0)), pool.insert(Item(1, 0))],
            [Some(3), Some(4), None]
        );
    }

    #[test]
    fn ids_are_reused_last_freed_first_and_a_full_pool_says_so() {
        let mut memory = [Item::EMPTY; 3];
        let mut pool = Pool::new(&mut memory);
        let ids: std::vec::Vec<_> = (0..4).map(|n| pool.insert(Item(n, 0))).collect();
        assert_eq!(ids, [Some(1), Some(2), Some(3), None]);
        pool.remove(1);
        pool.remove(3);
        assert_eq!(pool.len(), 1);
        assert_eq!(pool.insert(Item(7, 0)), Some(3));
        assert_eq!(pool.insert(Item(8, 0)), Some(1));
        assert_eq!(pool.insert(Item(9, 0)), None);
        assert_eq!(pool.get(3).unwrap().0, 7);
        assert!(pool.get(0).is_none() && pool.get(4).is_none());
    }
}
