//! Nodes that the directory is asked about; when full, a new wish is refused and its packet dropped.
//!
//! A wish is asked at once, again every [`RETRY`], and given up after [`PATIENCE`]. A connection that comes up
//! late is no problem: what was not asked yet is asked then.

use crate::counters::DropReason;
use crate::time::{Duration, Instant};

const RETRY: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);

/// One wish; all-zero is free.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct LookupSlot {
    index: u32,
    asked: bool,
    /// Not to be asked: only waited for.
    quiet: bool,
    since: u64,
    next: u64,
}

impl LookupSlot {
    /// A free slot.
    pub const EMPTY: Self = Self { index: 0, asked: false, quiet: false, since: 0, next: 0 };
}

/// All wishes.
pub struct Lookups<'a> {
    slots: &'a mut [LookupSlot],
}

impl<'a> Lookups<'a> {
    /// Over all-zero memory.
    pub fn new(slots: &'a mut [LookupSlot]) -> Self {
        Self { slots }
    }

    /// Wishes for the node with this index: [`Lookups::next_question`] has it, unless it was asked already.
    ///
    /// # Errors
    /// [`DropReason::QueueFull`] when no slot is free.
    pub fn want(&mut self, now: Instant, index: u32) -> Result<(), DropReason> {
        match self.slots.iter_mut().find(|s| s.index == index) {
            // What was only waited for is asked from now on.
            Some(slot) => slot.asked &= !core::mem::take(&mut slot.quiet),
            None => {
                let (since, next) = (now.as_micros(), now.as_micros());
                *self.free()? = LookupSlot { index, asked: false, quiet: false, since, next };
            }
        }
        Ok(())
    }

    /// Waits for a node that the directory has told of already, but to which there is no way yet: nothing is
    /// asked, the wait ends by itself or with [`Lookups::answered`].
    ///
    /// # Errors
    /// [`DropReason::QueueFull`] when no slot is free.
    pub fn wait(&mut self, now: Instant, index: u32) -> Result<(), DropReason> {
        if !self.slots.iter().any(|s| s.index == index) {
            let (since, next) = (now.as_micros(), now.after(PATIENCE).as_micros());
            *self.free()? = LookupSlot { index, asked: true, quiet: true, since, next };
        }
        Ok(())
    }

    /// The wish is answered, with a record or with the news that there is none. False when there was no wish.
    pub fn answered(&mut self, index: u32) -> bool {
        let found = self.slots.iter_mut().find(|s| s.index == index && index != 0);
        found.map(|slot| *slot = LookupSlot::EMPTY).is_some()
    }

    /// The next index to ask the directory about.
    pub fn next_question(&mut self, now: Instant) -> Option<u32> {
        let slot = self.slots.iter_mut().find(|s| s.index != 0 && !s.asked)?;
        slot.asked = true;
        slot.next = now.after(RETRY).as_micros();
        Some(slot.index)
    }

    /// Whether [`Lookups::next_question`] has one.
    pub fn has_question(&self) -> bool {
        self.slots.iter().any(|s| s.index != 0 && !s.asked)
    }

    /// When to call [`Lookups::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.slots.iter().filter(|s| s.index != 0 && s.asked).map(|s| Instant::from_micros(s.next)).min()
    }

    /// Handles one due wish: to be asked again, or given up, and then its index is returned, because what waits
    /// for it is to be dropped.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<u32> {
        let due = |s: &&mut LookupSlot| s.index != 0 && s.asked && s.next <= now.as_micros();
        let slot = self.slots.iter_mut().find(due)?;
        if now.since(Instant::from_micros(slot.since)) >= PATIENCE {
            let index = slot.index;
            *slot = LookupSlot::EMPTY;
            return Some(index);
        }
        slot.asked = false;
        None
    }

    fn free(&mut self) -> Result<&mut LookupSlot, DropReason> {
        self.slots.iter_mut().find(|s| s.index == 0).ok_or(DropReason::QueueFull)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_asked_again_each_second_and_given_up_in_the_end() {
        let mut slots = [LookupSlot::EMPTY; 1];
        let mut lookups = Lookups::new(&mut slots);
        let mut now = Instant::ZERO;
        assert_eq!(lookups.want(now, 5), Ok(()));
        assert_eq!((lookups.want(now, 5), lookups.want(now, 6)), (Ok(()), Err(DropReason::QueueFull)));
        let mut asked = 0;
        let given_up = loop {
            assert_eq!(lookups.next_question(now), Some(5));
            assert!(!lookups.has_question());
            asked += 1;
            now = lookups.poll_timeout().unwrap();
            if let Some(index) = lookups.handle_timeout(now) {
                break index;
            }
        };
        assert_eq!((given_up, asked), (5, 10));
        assert_eq!(lookups.poll_timeout(), None);
    }

    #[test]
    fn a_wait_asks_nothing_until_it_becomes_a_wish() {
        let mut slots = [LookupSlot::EMPTY; 1];
        let mut lookups = Lookups::new(&mut slots);
        assert_eq!(lookups.wait(Instant::ZERO, 5), Ok(()));
        assert!(!lookups.has_question());
        assert_eq!(lookups.want(Instant::ZERO, 5), Ok(()));
        assert_eq!(lookups.next_question(Instant::ZERO), Some(5));
        assert!(lookups.answered(5));
        assert_eq!(lookups.wait(Instant::ZERO, 6), Ok(()));
        let end = lookups.poll_timeout().unwrap();
        assert_eq!(lookups.handle_timeout(end), Some(6));
    }

    #[test]
    fn an_answer_frees_the_slot() {
        let mut slots = [LookupSlot::EMPTY; 1];
        let mut lookups = Lookups::new(&mut slots);
        assert_eq!(lookups.want(Instant::ZERO, 5), Ok(()));
        assert!(!lookups.answered(6));
        assert!(lookups.answered(5));
        assert_eq!(lookups.next_question(Instant::ZERO), None);
        assert_eq!(lookups.want(Instant::ZERO, 6), Ok(()));
    }
}
