//! Sealed datagrams that leave together.
//!
//! A super-packet's segments leave at once. Single packets wait for what else the same turn brings for the same way:
//! small ones cost a system call each otherwise. Nothing is waited for beyond the turn. Bounds: a burst's
//! datagrams are of one size but for a shorter last one, as the kernel cuts them.

use crate::offload::SEGMENT_BUFFER;
use crate::udp::MAX_BURST;
use edgemesh_core::node::{Grant, Way};
use edgemesh_core::noise::TAG;
use edgemesh_core::packet::HEADROOM;
use edgemesh_core::wire::wireguard::{DATA_HEADER, PADDING};
use std::ops::Range;

/// Where the sealed datagram of the packet at `place` is: header before it, padding and tag behind it.
pub(super) fn sealed(place: Range<usize>) -> Range<usize> {
    place.start - DATA_HEADER..place.start + place.len().next_multiple_of(PADDING) + TAG
}

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

    /// Whether the datagram of one more packet of `len` bytes may leave with these.
    pub(super) fn takes(&self, grant: &Grant, len: usize) -> bool {
        let len = sealed(HEADROOM..HEADROOM + len).len();
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

    /// One packet of these bytes waits.
    fn one_of(len: usize, grant: &Grant) -> Batch {
        Batch { ways: [Some(grant.first), grant.copy], sealed: vec![sealed(HEADROOM..HEADROOM + len)] }
    }

    #[test]
    fn a_burst_has_one_way_and_one_size_but_for_a_shorter_end() {
        let one = grant(None);
        assert!(Batch::default().takes(&one, 1_000));
        let mut batch = one_of(100, &one);
        assert!(batch.takes(&one, 100) && batch.takes(&one, 90));
        assert!(!batch.takes(&grant(Some(one.first)), 100), "another way");
        batch.sealed.push(sealed(300..390));
        assert!(!batch.takes(&one, 90), "a shorter one was the last");
        batch.sealed = vec![sealed(HEADROOM..HEADROOM + 100); MAX_BURST];
        assert!(!batch.takes(&one, 100), "full");
    }

    /// The datagram's header was not counted in what is to be added, so one longer by that was, and the kernel cut the burst in
    /// wrong places.
    #[test]
    fn a_longer_one_never_follows() {
        let one = grant(None);
        for (first, next) in (20..200).flat_map(|first| (20..200).map(move |next| (first, next))) {
            let fits = usize::next_multiple_of(next, PADDING) <= usize::next_multiple_of(first, PADDING);
            assert_eq!(one_of(first, &one).takes(&one, next), fits, "{next} after {first}");
        }
    }
}
