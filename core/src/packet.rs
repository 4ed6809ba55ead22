//! A packet in the caller's buffer, with room around it for what a tunnel adds.
//!
//! The shell reads into the middle of a buffer; sealing grows the packet into [`HEADROOM`] and [`TAILROOM`]
//! without copying it. A `Packet` never allocates and never outlives its buffer.
//!
//! ```
//! use edgemesh_core::packet::{HEADROOM, Packet, TAILROOM};
//!
//! let mut buffer = [0; HEADROOM + 1500 + TAILROOM];
//! let read = 84; // what a device said that it put behind the headroom
//! let mut packet = Packet::new(&mut buffer, HEADROOM, read).unwrap();
//! packet.grow(16, 16).unwrap(); // a header in front, a tag behind
//! assert_eq!((packet.start(), packet.len()), (HEADROOM - 16, read + 32));
//! ```

use crate::counters::DropReason;

/// Bytes to keep free in front: 16 for the WireGuard data header, 8 for the relay envelope, rounded up.
pub const HEADROOM: usize = 32;
/// Bytes to keep free behind: 16 for the tag, up to 15 of padding, rounded up.
pub const TAILROOM: usize = 32;

/// `len` bytes at `start` of a caller's buffer.
pub struct Packet<'b> {
    buffer: &'b mut [u8],
    start: usize,
    len: usize,
}

impl<'b> Packet<'b> {
    /// The packet at `start..start + len`.
    ///
    /// # Errors
    /// [`DropReason::Truncated`] when it does not lie inside `buffer`.
    pub fn new(buffer: &'b mut [u8], start: usize, len: usize) -> Result<Self, DropReason> {
        match start.checked_add(len) {
            Some(end) if end <= buffer.len() => Ok(Self { buffer, start, len }),
            _ => Err(DropReason::Truncated),
        }
    }

    /// The packet's bytes.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.start.wrapping_add(self.len)).unwrap_or_default()
    }

    /// The packet's bytes, to edit in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.buffer.get_mut(self.start..self.start.wrapping_add(self.len)).unwrap_or_default()
    }

    /// Where it starts in the buffer.
    pub fn start(&self) -> usize {
        self.start
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Grows by `front` bytes before and `back` bytes behind; the new bytes hold whatever the buffer held.
    ///
    /// # Errors
    /// [`DropReason::NoRoom`] when the buffer is too small on either side; the packet is unchanged.
    pub fn grow(&mut self, front: usize, back: usize) -> Result<(), DropReason> {
        let start = self.start.checked_sub(front).ok_or(DropReason::NoRoom)?;
        let len = self.len.checked_add(front).and_then(|n| n.checked_add(back)).ok_or(DropReason::NoRoom)?;
        if start.checked_add(len).is_none_or(|end| end > self.buffer.len()) {
            return Err(DropReason::NoRoom);
        }
        (self.start, self.len) = (start, len);
        Ok(())
    }

    /// Drops `front` bytes at the start and `back` bytes at the end.
    ///
    /// # Errors
    /// [`DropReason::Truncated`] when the packet is shorter than that; it is unchanged.
    pub fn shrink(&mut self, front: usize, back: usize) -> Result<(), DropReason> {
        let cut = front.checked_add(back).ok_or(DropReason::Truncated)?;
        self.len = self.len.checked_sub(cut).ok_or(DropReason::Truncated)?;
        self.start = self.start.saturating_add(front);
        Ok(())
    }

    /// Replaces the packet by one of `len` bytes at the same start, for replies written over their cause.
    ///
    /// # Errors
    /// [`DropReason::NoRoom`] when the buffer ends before that; the packet is unchanged.
    pub fn resize(&mut self, len: usize) -> Result<(), DropReason> {
        if self.start.checked_add(len).is_none_or(|end| end > self.buffer.len()) {
            return Err(DropReason::NoRoom);
        }
        self.len = len;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_and_shrinks_only_inside_its_buffer() {
        let mut buffer = [0u8; 10];
        assert!(Packet::new(&mut buffer, 8, 3).is_err());
        let mut packet = Packet::new(&mut buffer, 4, 3).unwrap();
        assert_eq!(packet.grow(5, 0), Err(DropReason::NoRoom));
        assert_eq!(packet.grow(0, 4), Err(DropReason::NoRoom));
        assert_eq!(packet.grow(4, 3), Ok(()));
        assert_eq!((packet.start(), packet.len()), (0, 10));
        assert_eq!(packet.shrink(4, 7), Err(DropReason::Truncated));
        assert_eq!(packet.shrink(4, 3), Ok(()));
        assert_eq!((packet.start(), packet.len()), (4, 3));
        assert_eq!(packet.resize(6), Ok(()));
        assert_eq!(packet.resize(7), Err(DropReason::NoRoom));
    }
}
