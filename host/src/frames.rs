//! Datagrams in a byte stream: before each its length in two octets, little-endian.
//!
//! [`Frames`] are those that wait for the stream, in one run of bytes. Bounded in bytes; when full, the oldest goes: a
//! tunnel wants fresh datagrams, and its own retransmission copes with the loss far better than with seconds of delay.
//! [`split`] takes what was read apart, in place. Nothing here reads or writes.

use std::collections::VecDeque;
use std::ops::Range;

/// Octets before each datagram.
pub const LENGTH: usize = 2;
/// Largest relayed datagram, in bytes: an envelope around a full tunnel datagram.
pub const DATAGRAM_MAX: usize = 2_048;
/// What waits for one stream at most, in bytes: 100 ms at 10 Mbit/s.
pub const WAIT_MAX: usize = 128 * 1024;
/// What leaves at once, in bytes: what has left cannot be dropped for fresher ones.
const PIECE: usize = 64 * 1024;
/// Room that is kept when nothing waits, in bytes.
const ROOM_KEPT: usize = 4 * 1024;

/// Datagrams that wait for a stream. See the module's documentation.
#[derive(Default, Debug)]
pub struct Frames(VecDeque<u8>);

impl Frames {
    /// Adds a datagram of at most 65,535 bytes; returns how many older ones had to go.
    pub fn push(&mut self, datagram: &[u8]) -> u64 {
        let Ok(length) = u16::try_from(datagram.len()) else { return 1 };
        let mut dropped = 0;
        while self.0.len() + LENGTH + datagram.len() > WAIT_MAX && self.drop_oldest() {
            dropped += 1;
        }
        self.0.extend(length.to_le_bytes());
        self.0.extend(datagram);
        dropped
    }

    fn drop_oldest(&mut self) -> bool {
        let oldest = self.frame(0);
        self.0.drain(..oldest);
        oldest > 0
    }

    /// Bytes of the frame that begins at `at`; none at the end.
    fn frame(&self, at: usize) -> usize {
        match (self.0.get(at), self.0.get(at + 1)) {
            (Some(low), Some(high)) => LENGTH + usize::from(u16::from_le_bytes([*low, *high])),
            _ => 0,
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Moves what has waited for longest to the end of `out`: about 64 KiB of whole frames, if there are so many.
    pub fn take(&mut self, out: &mut VecDeque<u8>) {
        let mut len = 0;
        while len < self.0.len().min(PIECE) {
            len += self.frame(len);
        }
        let (front, back) = self.0.as_slices();
        let cut = len.min(front.len());
        out.extend(&front[..cut]);
        out.extend(&back[..len - cut]);
        self.0.drain(..len);
        if self.is_empty() {
            // A burst's room is given back.
            self.0.shrink_to(ROOM_KEPT);
        }
    }
}

/// Where the datagram is whose frame begins at `at`; `None` while the rest of it has not come.
pub fn split(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let length = bytes.get(at..)?.first_chunk::<LENGTH>()?;
    let start = at + LENGTH;
    let end = start + usize::from(u16::from_le_bytes(*length));
    (end <= bytes.len()).then_some(start..end)
}

/// Where the datagrams are whose frames begin at `at`, as far as they are whole.
pub fn split_all(bytes: &[u8], at: usize) -> impl Iterator<Item = Range<usize>> {
    std::iter::successors(split(bytes, at), |before| split(bytes, before.end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagrams(bytes: &[u8]) -> Vec<Range<usize>> {
        split_all(bytes, 0).collect()
    }

    fn all(mut frames: Frames) -> Vec<u8> {
        let mut out = VecDeque::new();
        while !frames.is_empty() {
            frames.take(&mut out);
        }
        out.into()
    }

    #[test]
    fn the_oldest_goes_first_and_the_rest_comes_in_order() {
        let mut frames = Frames::default();
        let dropped: u64 = (0..200u8).map(|n| frames.push(&[n; 1_000])).sum();
        let fits = WAIT_MAX / (LENGTH + 1_000);
        assert_eq!(dropped as usize, 200 - fits);
        let taken = all(frames);
        let seen: Vec<u8> = datagrams(&taken).into_iter().map(|place| taken[place.start]).collect();
        assert_eq!(seen, (dropped as u8..200).collect::<Vec<_>>());
    }

    #[test]
    fn what_leaves_at_once_is_whole_frames_and_not_all_that_waits() {
        let mut frames = Frames::default();
        (0..100).for_each(|n| assert_eq!(frames.push(&[n; 1_000]), 0));
        let mut out = VecDeque::new();
        frames.take(&mut out);
        assert_eq!(out.len(), PIECE.next_multiple_of(LENGTH + 1_000));
        assert!(!frames.is_empty());
    }

    #[test]
    fn a_large_one_makes_room_and_one_that_is_too_large_does_not() {
        let mut frames = Frames::default();
        (0..200).for_each(|n| _ = frames.push(&[n; 600]));
        assert!(frames.push(&[1; 65_535]) > 0);
        assert_eq!(frames.push(&vec![1; 65_536]), 1);
        assert_eq!(datagrams(&all(frames)).last().map(ExactSizeIterator::len), Some(65_535));
    }

    #[test]
    fn a_frame_is_there_when_all_of_it_is() {
        let mut frames = Frames::default();
        for datagram in [&b"one"[..], b"", b"three"] {
            assert_eq!(frames.push(datagram), 0);
        }
        let taken = all(frames);
        assert_eq!(datagrams(&taken), [2..5, 7..7, 9..14]);
        for len in 9..taken.len() {
            assert_eq!(datagrams(&taken[..len]), [2..5, 7..7], "{len}");
        }
        assert_eq!(split(&taken[..1], 0), None);
    }
}
