//! Which machine a deadline belongs to: one dense key range for each, over one [`Deadlines`].

use crate::storage::{DeadlineEntry, Deadlines};
use crate::time::Instant;

/// Whose deadline it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Timer {
    /// The control connection.
    Control,
    /// Lookups of nodes.
    Lookups,
    /// A peer's session.
    Tunnel(u32),
    /// A peer's path; 0 is the relay.
    Path(u32),
    /// A slot of the flow tables.
    Flow(u32),
}

/// All deadlines of the engine.
pub(crate) struct Timers<'a> {
    deadlines: Deadlines<'a>,
    peers: u32,
}

const SINGLES: u32 = 2;

impl<'a> Timers<'a> {
    /// For `peers` peers; `entries` must hold two, two for each peer and the relay, and one for each flow slot.
    /// `flows`: the deadlines of flows that an earlier run left.
    pub(crate) fn new(
        entries: &'a mut [DeadlineEntry],
        peers: u32,
        flows: impl Iterator<Item = (u32, Instant)>,
    ) -> Self {
        let mut timers = Self { deadlines: Deadlines::new(entries), peers: peers.saturating_add(1) };
        for (slot, at) in flows {
            timers.set(Timer::Flow(slot), Some(at));
        }
        timers
    }

    pub(crate) fn set(&mut self, timer: Timer, at: Option<Instant>) {
        let key = self.key(timer);
        if self.deadlines.get(key) != at {
            self.deadlines.set(key, at);
        }
    }

    pub(crate) fn first(&self) -> Option<(Instant, Timer)> {
        self.deadlines.first().map(|(at, key)| (at, self.timer(key)))
    }

    pub(crate) fn len(&self) -> usize {
        self.deadlines.len()
    }

    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        self.deadlines.pop_due(now).map(|key| self.timer(key))
    }

    fn key(&self, timer: Timer) -> u32 {
        let peers = |n: u32| SINGLES.saturating_add(self.peers.saturating_mul(n));
        match timer {
            Timer::Control => 0,
            Timer::Lookups => 1,
            Timer::Tunnel(peer) => peers(0).saturating_add(peer),
            Timer::Path(slot) => peers(1).saturating_add(slot),
            Timer::Flow(slot) => peers(2).saturating_add(slot),
        }
    }

    fn timer(&self, key: u32) -> Timer {
        match key.checked_sub(SINGLES) {
            None if key == 0 => Timer::Control,
            None => Timer::Lookups,
            Some(n) if n < self.peers => Timer::Tunnel(n),
            Some(n) => match n.saturating_sub(self.peers) {
                n if n < self.peers => Timer::Path(n),
                n => Timer::Flow(n.saturating_sub(self.peers)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_timer_comes_back_as_it_was_set() {
        let mut entries = [DeadlineEntry::EMPTY; 2 + 2 * 4 + 5];
        let mut timers = Timers::new(&mut entries, 3, core::iter::empty());
        let mut all = std::vec![Timer::Control, Timer::Lookups];
        all.extend((0..4).flat_map(|n| [Timer::Tunnel(n), Timer::Path(n)]));
        all.extend((0..5).map(Timer::Flow));
        for (n, timer) in all.iter().enumerate() {
            timers.set(*timer, Some(Instant::from_micros(n as u64)));
        }
        for timer in all {
            assert_eq!(timers.pop_due(Instant::from_micros(100)), Some(timer));
        }
        assert_eq!(timers.first(), None);
    }
}
