//! Sealed datagrams that leave together.
//!
//! A super-packet's segments leave at once. Single packets wait for what else the same turn brings for the same way:
//! small ones cost a system call each otherwise. Nothing is waited for beyond the turn. Bounds: a burst's
//! datagrams are of one size but for a shorter last one, as the kernel cuts them.

use crate::offload::SEGMENT_BUFFER;
use crate::udp::MAX_BURST;
use edgemesh_core::node::{Grant, Way};
use std::ops::Range;

/// Datagrams in the segment buffer, without the room for an envelope in front of each.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) ways: [Option<Way>; 2],
    pub(super) sealed: Vec<Range<usize>>,
}

impl Batch {
    /// With room for a burst, so that no packet has to make it.
    pub(super) fn with_room() -> Self {
        Self { ways: [None; 2], sealed: Vec::with_capacity(MAX_BURST) }
    }

    /// Whether one more datagram of `len` bytes may leave with these.
    pub(super) fn takes(&self, grant: &Grant, len: usize) -> bool {
        match self.sealed.as_slice() {
            [] => true,
            [.., last] if last.len() < self.size() => false,
            all => {
                let room = SEGMENT_BUFFER / 4;
                self.ways == [Some(grant.first), grant.copy]
                    && len <= self.size()
                    && all.len() < MAX_BURST
                    && (all.len() + 1) * self.size() <= room
            }
        }
    }

    /// Where the next one's room begins.
    pub(super) fn end(&self) -> usize {
        self.sealed.last().map_or(0, |last| last.end)
    }

    fn size(&self) -> usize {
        self.sealed.first().map_or(0, ExactSizeIterator::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgemesh_core::PeerId;
    use edgemesh_core::node::Destination;
    use edgemesh_core::tunnel::{KeyId, SendGrant};

    fn grant(copy: Option<Way>) -> Grant {
        let sending = SendGrant { peer: PeerId(1), key: KeyId { slot: 0, index: 1 }, first: 0, count: 1 };
        let first = Way { envelope: None, to: Destination::RelayTcp };
        Grant { sending, first, copy, split: None }
    }

    #[test]
    fn a_burst_has_one_way_and_one_size_but_for_a_shorter_end() {
        let one = grant(None);
        let mut batch = Batch::default();
        assert!(batch.takes(&one, 1_000));
        batch.ways = [Some(one.first), None];
        batch.sealed.push(100..200);
        assert!(batch.takes(&one, 100) && batch.takes(&one, 90));
        assert!(!batch.takes(&one, 101), "longer than the first");
        assert!(!batch.takes(&grant(Some(one.first)), 100), "another way");
        batch.sealed.push(300..390);
        assert!(!batch.takes(&one, 90), "a shorter one was the last");
        batch.sealed = vec![0..100; MAX_BURST];
        assert!(!batch.takes(&one, 100), "full");
    }
}
