//! Datagrams lost because a node was not bound, until it is; when full, any other makes room.
//!
//! Kept is only who would send to whom. Not here: telling them.

use super::Met;
use std::collections::BTreeSet;

/// Pairs remembered.
const MISSED_MAX: usize = 4_096;

/// Who waits for which node.
#[derive(Default)]
pub(super) struct Missed {
    /// First the node that was not bound.
    waiting: BTreeSet<(u32, Met)>,
}

impl Missed {
    /// A datagram was lost because `unbound` was not bound.
    pub(super) fn note(&mut self, unbound: u32, met: Met) {
        if self.waiting.insert((unbound, met)) && self.waiting.len() > MISSED_MAX {
            self.waiting.pop_first();
        }
    }

    /// The node is bound: whose datagrams were lost meanwhile.
    pub(super) fn take(&mut self, bound: u32) -> Vec<Met> {
        let all = |n| Met { from: n, to: n };
        let found: Vec<_> = self.waiting.range((bound, all(0))..=(bound, all(u32::MAX))).copied().collect();
        self.waiting.retain(|entry| entry.0 != bound);
        found.into_iter().map(|(_, met)| met).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_takes_its_own_once_and_a_full_set_forgets() {
        let mut missed = Missed::default();
        let met = |from, to| Met { from, to };
        for (unbound, pair) in
            [(2, met(1, 2)), (2, met(1, 2)), (2, met(3, 2)), (1, met(1, 2)), (3, met(3, 1))]
        {
            missed.note(unbound, pair);
        }
        assert_eq!(missed.take(2), [met(1, 2), met(3, 2)]);
        assert_eq!(missed.take(2), []);
        assert_eq!(missed.take(1), [met(1, 2)]);
        for from in 10..10 + 2 * MISSED_MAX as u32 {
            missed.note(9, met(from, 9));
        }
        assert_eq!(missed.take(3), [], "it made room");
        assert_eq!(missed.take(9).len(), MISSED_MAX);
    }
}
