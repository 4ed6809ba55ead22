//! TAI64N stamps that only grow, across restarts too.
//!
//! A peer refuses an initiation whose stamp is not greater than the last one it saw, so a node whose clock goes
//! back (a board without a battery starts in 1970) would be locked out until it passes its old stamps. A floor
//! is therefore stored ahead of use: no stamp is below it, and a new floor is announced before the stored one
//! is reached. Where that floor was lost, the server's time serves ([`StampClock::not_before`]). It does not store
//! anything itself.

use crate::time::WallTime;

/// How far ahead of the stamps in use the floor is set, in seconds: one write to flash a day, or two.
pub const FLOOR_MARGIN: u64 = 86_400;
/// The same while the clock is behind the stamps, which then grow by handshakes only: that is some 200,000 of them. Each
/// life without a clock begins at the floor of the one before, so this is how far a reboot takes the stamps ahead.
const FLOOR_MARGIN_BEHIND: u64 = 3_600;

/// TAI64 label of the Unix epoch: 2^62, and TAI's 10 s lead in 1970.
const EPOCH: u64 = 0x4000_0000_0000_000a;
/// Stamps are multiples of this many nanoseconds, so that they do not serve as a clock to an observer.
const STEP: u32 = 1 << 24;

/// Hands out stamps.
pub(super) struct StampClock {
    secs: u64,
    nanos: u32,
    floor: u64,
    due: bool,
}

impl StampClock {
    /// `floor`: Unix seconds, as announced by an earlier life; 0 if there was none.
    pub(super) const fn new(floor: u64) -> Self {
        Self { secs: floor, nanos: 0, floor, due: false }
    }

    /// A stamp greater than all before.
    pub(super) fn next(&mut self, wall: WallTime) -> [u8; 12] {
        let nanos = wall.nanos & !STEP.wrapping_sub(1);
        if (wall.secs, nanos) > (self.secs, self.nanos) {
            (self.secs, self.nanos) = (wall.secs, nanos);
        } else {
            self.nanos = self.nanos.saturating_add(STEP);
        }
        if self.nanos >= 1_000_000_000 {
            (self.secs, self.nanos) = (self.secs.saturating_add(1), 0);
        }
        let margin = if wall.secs < self.secs { FLOOR_MARGIN_BEHIND } else { FLOOR_MARGIN };
        if self.secs.saturating_add(margin / 2) >= self.floor {
            self.floor = self.secs.saturating_add(margin);
            self.due = true;
        }
        let mut stamp = [0; 12];
        let parts = EPOCH.saturating_add(self.secs).to_be_bytes().into_iter().chain(self.nanos.to_be_bytes());
        for (to, from) in stamp.iter_mut().zip(parts) {
            *to = from;
        }
        stamp
    }

    /// It is at least this late: a node without a clock or a floor is told by its server.
    pub(super) fn not_before(&mut self, secs: u64) {
        if secs > self.secs {
            (self.secs, self.nanos) = (secs, 0);
        }
    }

    /// A floor to be stored, once.
    pub(super) fn poll_floor(&mut self) -> Option<u64> {
        core::mem::take(&mut self.due).then_some(self.floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn wall(secs: u64, nanos: u32) -> WallTime {
        WallTime { secs, nanos }
    }

    #[test]
    fn stamps_are_tai64n_and_whitened() {
        let mut clock = StampClock::new(0);
        let stamp = clock.next(wall(1_700_000_000, 123_456_789));
        assert_eq!(stamp[..8], 0x4000_0000_6553_f10a_u64.to_be_bytes());
        assert_eq!(stamp[8..], (123_456_789u32 / STEP * STEP).to_be_bytes());
    }

    #[test]
    fn stamps_grow_when_the_clock_stands_or_goes_back() {
        let mut clock = StampClock::new(0);
        let mut last = clock.next(wall(1_000_000, 999_999_999));
        for n in 0..200 {
            let now = if n % 3 == 0 { wall(5, 0) } else { wall(1_000_000, 999_999_999) };
            let next = clock.next(now);
            assert!(next > last);
            last = next;
        }
    }

    #[test]
    fn a_node_in_1970_is_taken_to_the_servers_time_and_never_back() {
        let mut other_life = StampClock::new(0);
        let last = other_life.next(wall(1_700_000_000, 0));
        let mut clock = StampClock::new(0);
        assert!(clock.next(wall(0, 0)) < last, "refused by who has seen the last one");
        clock.not_before(1_700_000_100);
        let next = clock.next(wall(1, 0));
        assert!(next > last);
        assert_eq!(clock.poll_floor(), Some(1_700_000_100 + FLOOR_MARGIN_BEHIND));
        clock.not_before(5);
        assert!(clock.next(wall(2, 0)) > next);
    }

    #[test]
    fn the_floor_is_announced_ahead_of_use_and_seldom() {
        let mut clock = StampClock::new(0);
        assert_eq!(clock.poll_floor(), None);
        let _ = clock.next(wall(1_000_000, 0));
        let floor = clock.poll_floor().unwrap();
        assert_eq!(floor, 1_000_000 + FLOOR_MARGIN);
        let _ = clock.next(wall(1_000_000 + FLOOR_MARGIN / 2 - 1, 0));
        assert_eq!(clock.poll_floor(), None);
        let before = clock.next(wall(1_000_000 + FLOOR_MARGIN / 2, 0));
        assert_eq!(clock.poll_floor(), Some(1_000_000 + FLOOR_MARGIN / 2 + FLOOR_MARGIN));
        // The next life knows the first floor only and has no clock.
        let mut clock = StampClock::new(floor);
        assert!(clock.next(wall(0, 0)) > before);
        assert_eq!(clock.poll_floor(), Some(floor + FLOOR_MARGIN_BEHIND));
    }

    #[test]
    fn many_lives_without_a_clock_take_the_stamps_ahead_by_an_hour_each() {
        let mut floor = 1_700_000_000;
        let mut last = [0; 12];
        for _ in 0..1_000 {
            let mut clock = StampClock::new(floor);
            for _ in 0..10 {
                let next = clock.next(wall(9, 0));
                assert!(next > last);
                last = next;
            }
            floor = clock.poll_floor().unwrap();
        }
        assert_eq!(floor, 1_700_000_000 + 1_000 * FLOOR_MARGIN_BEHIND);
        // A clock that is right from here on is followed as soon as it is there, whatever was stored.
        let mut clock = StampClock::new(floor);
        let _ = clock.next(wall(floor + 1, 0));
        assert_eq!(clock.poll_floor(), Some(floor + 1 + FLOOR_MARGIN));
    }
}
