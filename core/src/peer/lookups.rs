//! Nodes, and fingerprints of Services, that a server is asked about; when full, answers that are remembered make
//! room, then a new wish is refused and its packet dropped.
//!
//! A wish is asked at once, again every [`RETRY`], and given up after [`PATIENCE`], also when there was no connection
//! to ask by: what waits for it would wait for ever. A connection that comes up before is no problem: what was not
//! asked yet is asked then. A node that is unknown, or that finds the table of peers full, is refused: that is
//! remembered, so that its packets do not ask again one by one, and makes room like every answer.

use crate::counters::DropReason;
use crate::time::{Duration, Instant};
use crate::wire::ask::{ASK, FORGET};

/// Also how long a node that was refused is not asked for.
const RETRY: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer about Services is final. What changes meanwhile is told by the server.
const SETTLED_FOR: Duration = Duration::from_secs(30);

/// How far a wish is.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum State {
    /// To be asked.
    New = 0,
    Asked,
    /// Not to be asked: only waited for.
    Quiet,
    /// Refused, and what waits for it does not know yet.
    Refused,
    /// Answered: what is not known now does not exist, or has no place here.
    Settled,
}

/// One wish; all-zero is free.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct LookupSlot {
    index: u32,
    state: State,
    since: u64,
    next: u64,
}

impl LookupSlot {
    /// A free slot.
    pub const EMPTY: Self = Self { index: 0, state: State::New, since: 0, next: 0 };

    /// When it is to be looked at again.
    fn due(&self) -> Instant {
        if self.state == State::New { self.given_up() } else { Instant::from_micros(self.next) }
    }

    fn given_up(&self) -> Instant {
        Instant::from_micros(self.since).after(PATIENCE)
    }
}

/// All wishes. Every packet asks whether something is due, hardly any changes that: the answers are kept.
pub struct Lookups<'a> {
    slots: &'a mut [LookupSlot],
    /// Something is to be asked.
    asks: bool,
    due: Option<Instant>,
}

impl<'a> Lookups<'a> {
    /// Over all-zero memory.
    pub fn new(slots: &'a mut [LookupSlot]) -> Self {
        let mut lookups = Self { slots, asks: false, due: None };
        lookups.look();
        lookups
    }

    /// Wishes for the node with this index: [`Lookups::next_question`] has it, unless it was asked already.
    ///
    /// # Errors
    /// [`DropReason::QueueFull`] when no slot is free; [`DropReason::NoSession`] for a node that was refused of late.
    pub fn want(&mut self, now: Instant, index: u32) -> Result<(), DropReason> {
        match self.slots.iter_mut().find(|s| s.index == index) {
            Some(slot) => match slot.state {
                State::Refused => return Err(DropReason::NoSession),
                State::Settled if index & ASK == 0 => return Err(DropReason::NoSession),
                State::Quiet => slot.state = State::New,
                State::New | State::Asked | State::Settled => {}
            },
            None => {
                let (since, next) = (now.as_micros(), now.as_micros());
                *self.free()? = LookupSlot { index, since, next, ..LookupSlot::EMPTY };
            }
        }
        self.look();
        Ok(())
    }

    /// Waits for a node that the directory has told of already, but to which there is no way yet: nothing is
    /// asked, the wait ends by itself or with [`Lookups::answered`].
    ///
    /// # Errors
    /// [`DropReason::QueueFull`] when no slot is free.
    pub fn wait(&mut self, now: Instant, index: u32) -> Result<(), DropReason> {
        if !self.slots.iter().any(|s| s.index == index && s.state != State::Settled) {
            let (since, next) = (now.as_micros(), now.after(PATIENCE).as_micros());
            *self.place(index)? = LookupSlot { index, state: State::Quiet, since, next };
            self.look();
        }
        Ok(())
    }

    /// The node was found. False when nobody waited for it.
    pub fn answered(&mut self, index: u32) -> bool {
        let slot = self.slots.iter_mut().find(|s| s.index == index && index != 0);
        let wished =
            slot.is_some_and(|slot| core::mem::replace(slot, LookupSlot::EMPTY).state != State::Settled);
        self.look();
        wished
    }

    /// There is no such node, or no place for it. What waits for it is told by [`Lookups::handle_timeout`], at once.
    pub fn refused(&mut self, now: Instant, index: u32) {
        let wish = |s: &&mut LookupSlot| s.index == index && index != 0 && s.state != State::Settled;
        if let Some(slot) = self.slots.iter_mut().find(wish) {
            slot.state = State::Refused;
            slot.next = now.as_micros();
        }
        self.look();
    }

    /// Remembers for a while that the server has answered about the Services with this fingerprint.
    pub fn settle(&mut self, now: Instant, key: u32) {
        let next = now.after(SETTLED_FOR).as_micros();
        if let Ok(slot) = self.place(key) {
            *slot = LookupSlot { index: key, state: State::Settled, since: 0, next };
        }
        self.look();
    }

    /// Whether the server has answered about them of late.
    pub fn is_settled(&self, key: u32) -> bool {
        self.slots.iter().any(|s| s.index == key && s.state == State::Settled)
    }

    /// Services were given up: what is not known now may exist again. The server is told of the one with `key`.
    pub fn unsettle(&mut self, now: Instant, key: u32) {
        let settled = |s: &&mut LookupSlot| s.state == State::Settled && s.index & ASK != 0;
        self.slots.iter_mut().filter(settled).for_each(|s| *s = LookupSlot::EMPTY);
        // Without a place the server goes on telling changes of it, which bring it back.
        let _ = self.want(now, key | FORGET);
        self.look();
    }

    /// The next index to ask the directory about, or fingerprint.
    pub fn next_question(&mut self, now: Instant) -> Option<u32> {
        if !self.asks {
            return None;
        }
        let slot = self.slots.iter_mut().find(|s| s.index != 0 && s.state == State::New)?;
        let index = slot.index;
        slot.state = State::Asked;
        slot.next = now.after(RETRY).as_micros();
        if index & ASK != 0 && index & FORGET != 0 {
            *slot = LookupSlot::EMPTY;
        }
        self.look();
        Some(index)
    }

    /// Whether [`Lookups::next_question`] has one.
    pub fn has_question(&self) -> bool {
        self.asks
    }

    /// When to call [`Lookups::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Handles one due wish: to be asked again, or given up, and then its index is returned, because what waits
    /// for it is to be dropped.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<u32> {
        let given_up = self.expire(now);
        self.look();
        given_up
    }

    fn expire(&mut self, now: Instant) -> Option<u32> {
        let due = |s: &&mut LookupSlot| s.index != 0 && s.due() <= now;
        let slot = self.slots.iter_mut().find(due)?;
        let index = slot.index;
        match slot.state {
            State::Settled => {
                *slot = LookupSlot::EMPTY;
                None
            }
            State::Refused => {
                slot.state = State::Settled;
                slot.next = now.after(RETRY).as_micros();
                Some(index)
            }
            _ if slot.given_up() <= now => {
                *slot = LookupSlot::EMPTY;
                Some(index)
            }
            _ => {
                slot.state = State::New;
                None
            }
        }
    }

    /// What the slots say, after one has changed.
    fn look(&mut self) {
        let used = || self.slots.iter().filter(|s| s.index != 0);
        self.asks = used().any(|s| s.state == State::New);
        self.due = used().map(LookupSlot::due).min();
    }

    /// The slot of this index, or a free one.
    fn place(&mut self, index: u32) -> Result<&mut LookupSlot, DropReason> {
        match self.slots.iter().position(|s| s.index == index) {
            Some(at) => self.slots.get_mut(at).ok_or(DropReason::QueueFull),
            None => self.free(),
        }
    }

    fn free(&mut self) -> Result<&mut LookupSlot, DropReason> {
        let free = |s: &&mut LookupSlot| s.index == 0 || s.state == State::Settled;
        self.slots.iter_mut().filter(free).min_by_key(|s| s.next).ok_or(DropReason::QueueFull)
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

    /// Without a connection to the server: a packet would be parked for ever, and its place taken.
    #[test]
    fn a_wish_that_cannot_be_asked_is_given_up_too() {
        let mut slots = [LookupSlot::EMPTY; 1];
        let mut lookups = Lookups::new(&mut slots);
        assert_eq!(lookups.want(Instant::ZERO, 5), Ok(()));
        let end = lookups.poll_timeout().unwrap();
        assert_eq!((end, lookups.handle_timeout(end)), (Instant::ZERO.after(PATIENCE), Some(5)));
        assert!(!lookups.has_question() && lookups.poll_timeout().is_none());
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
    fn an_answer_about_services_is_final_for_a_while_and_makes_room() {
        let mut slots = [LookupSlot::EMPTY; 2];
        let mut lookups = Lookups::new(&mut slots);
        let (now, key) = (Instant::ZERO, ASK | 7);
        assert_eq!(lookups.want(now, key), Ok(()));
        assert_eq!(lookups.next_question(now), Some(key));
        assert!(!lookups.is_settled(key));
        lookups.settle(now, key);
        lookups.settle(now.after(RETRY), ASK | 8);
        assert!(lookups.is_settled(key) && lookups.is_settled(ASK | 8));
        assert_eq!((lookups.want(now, key), lookups.next_question(now)), (Ok(()), None));
        assert_eq!(lookups.want(now, 5), Ok(()));
        assert!(!lookups.is_settled(key) && lookups.is_settled(ASK | 8), "the older one made room");
        assert_eq!(lookups.next_question(now), Some(5));
        lookups.unsettle(now, ASK | 9);
        assert!(!lookups.is_settled(ASK | 8));
        assert_eq!(lookups.next_question(now), Some(ASK | FORGET | 9));
        lookups.settle(now, key);
        assert!(lookups.answered(5));
        let end = lookups.poll_timeout().unwrap();
        assert_eq!((end, lookups.handle_timeout(end)), (now.after(SETTLED_FOR), None));
        assert!(!lookups.is_settled(key));
    }

    /// Wishes that could not be granted filled the slots, and who waited for an answer in vain could not ask again.
    #[test]
    fn a_refusal_is_told_at_once_remembered_and_makes_room() {
        let mut slots = [LookupSlot::EMPTY; 1];
        let mut lookups = Lookups::new(&mut slots);
        let now = Instant::ZERO;
        lookups.refused(now, 5);
        assert_eq!(lookups.poll_timeout(), None, "nobody wanted it");
        assert_eq!((lookups.want(now, 5), lookups.next_question(now)), (Ok(()), Some(5)));
        lookups.refused(now, 5);
        assert_eq!((lookups.poll_timeout(), lookups.handle_timeout(now)), (Some(now), Some(5)));
        assert_eq!((lookups.want(now, 5), lookups.next_question(now)), (Err(DropReason::NoSession), None));
        let later = lookups.poll_timeout().unwrap();
        assert_eq!((later, lookups.handle_timeout(later)), (now.after(RETRY), None));
        assert_eq!((lookups.want(now, 5), lookups.next_question(now)), (Ok(()), Some(5)));
        lookups.refused(now, 5);
        assert_eq!(lookups.handle_timeout(now), Some(5));
        assert_eq!((lookups.want(now, 6), lookups.next_question(now)), (Ok(()), Some(6)), "it made room");
        lookups.refused(now, 6);
        assert_eq!(lookups.handle_timeout(now), Some(6));
        assert!(!lookups.answered(6), "nothing waited for it any more");
        assert_eq!((lookups.want(now, 6), lookups.next_question(now)), (Ok(()), Some(6)));
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
