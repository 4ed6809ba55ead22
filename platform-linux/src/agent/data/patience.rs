//! How long the data thread looks for the next packet before it rests.
//!
//! A thread that rests lets its processor sleep, and to wake that, most of all a virtual one, costs an answer more than
//! all that is done with it. So while single packets follow each other closely, as questions and answers on one
//! connection do, the thread looks for the next for a while: longer each time it was worth it, not at all after a gap
//! longer than [`LIMIT`], as the kernel's governor haltpoll does in virtual machines
//! (`drivers/cpuidle/governors/haltpoll.c`). Between two looks whoever else wants the processor has it. Bursts end
//! it: a stream does not hang on wake-ups, and its processor time is wanted elsewhere.
//!
//! Bounds: at most [`LIMIT`] of looking for each turn of a single packet, and never beyond a deadline.

use edgemesh_core::time::{Duration, Instant};

/// The longest look, and the longest gap after which there is one.
const LIMIT: Duration = Duration::from_micros(100);
/// The first look.
const FIRST: Duration = Duration::from_micros(10);
/// Datagrams of a turn that is no burst: a question, and an acknowledgement that crosses it.
const FEW: u64 = 2;

/// What was carried so far.
#[derive(Clone, Copy, Default)]
pub(super) struct Carried {
    /// Packets read from the TUN and written to it.
    pub(super) packets: u64,
    /// Datagrams sent and received.
    pub(super) datagrams: u64,
}

/// What is learnt from turn to turn.
#[derive(Default)]
pub(super) struct Patience {
    /// When the last turn ended.
    last: Instant,
    /// What was carried until then.
    carried: Carried,
    /// How long to look after it.
    span: Duration,
}

impl Patience {
    /// A turn ends at `now`. Datagrams that bring no packet, as strangers' can, are nothing to look for.
    pub(super) fn turn(&mut self, now: Instant, carried: Carried) {
        let lone = carried.packets > self.carried.packets
            && carried.datagrams.saturating_sub(self.carried.datagrams) <= FEW;
        let span = if lone && now.since(self.last) <= LIMIT {
            self.span.times(2).clamp(FIRST, LIMIT)
        } else {
            Duration::ZERO
        };
        *self = Self { last: now, carried, span };
    }

    /// Until when to look before the next rest, if at all.
    pub(super) fn until(&self) -> Option<Instant> {
        (self.span > Duration::ZERO).then(|| self.last.after(self.span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long it looks after turns with these gaps before them, so many packets and so many datagrams in them.
    fn looks(turns: &[(u64, u64, u64)]) -> Vec<u64> {
        let (mut patience, mut now) = (Patience::default(), Instant::from_micros(1_000_000));
        let mut carried = Carried::default();
        let turns = turns.iter().map(|(gap, packets, datagrams)| {
            now = now.after(Duration::from_micros(*gap));
            carried.packets += packets;
            carried.datagrams += datagrams;
            patience.turn(now, carried);
            patience.until().map_or(0, |until| until.since(now).as_micros())
        });
        turns.collect()
    }

    #[test]
    fn it_grows_while_single_packets_follow_closely() {
        let turns = [(500, 1, 1), (60, 1, 1), (60, 2, 2), (60, 1, 1), (60, 1, 1), (100, 1, 1), (60, 1, 1)];
        assert_eq!(looks(&turns), [0, 10, 20, 40, 80, 100, 100]);
    }

    #[test]
    fn a_gap_a_burst_and_a_turn_without_a_packet_end_it() {
        for end in [(101, 1, 1), (60, 1, 3), (60, 0, 0), (60, 0, 1)] {
            let turns = [(500, 1, 1), (60, 1, 1), (60, 1, 1), end, (60, 1, 1)];
            assert_eq!(looks(&turns), [0, 10, 20, 0, 10], "{end:?}");
        }
    }

    #[test]
    fn packets_far_apart_are_never_looked_for() {
        assert_eq!(looks(&[(101, 1, 1); 50]), [0; 50]);
    }
}
