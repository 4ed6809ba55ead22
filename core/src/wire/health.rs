//! Health messages: what a node says, inside a WireGuard session, of the endpoints that it has.
//!
//! ```text
//!  0          1       2        3          4
//!  version    kind    count    reserved   count entries: family (4 or 6), address in 16 bytes
//! ```
//! The version byte's high nibble is 2, which no IP packet has, so a stock WireGuard drops the message after
//! decryption. The session proves who says it; nobody can speak for another node's endpoints, because an address
//! stands for the sender's own. Bytes behind the entries are ignored, entries of an unknown family skipped.
//!
//! * `Down`: these of my endpoints do not answer, all others do. A message takes the place of the one before.

use super::{ip_bytes, ip_of};
use crate::counters::DropReason;
use core::net::IpAddr;

/// First byte of every health message: high nibble 2, low nibble the version.
pub const HEAD: u8 = 0x21;
/// Most endpoints in one message; further ones count as answering.
pub const DOWN_MAX: usize = 16;
/// Length of the longest message in bytes.
pub const MESSAGE_MAX: usize = 4 + DOWN_MAX * ENTRY;

const ENTRY: usize = 17;
const KIND_DOWN: u8 = 1;

/// Whether an inner packet is a health message of any version.
pub fn is_health(inner: &[u8]) -> bool {
    inner.first().is_some_and(|head| head >> 4 == HEAD >> 4)
}

/// The endpoints of its sender that do not answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Down<'a> {
    entries: &'a [u8],
}

impl<'a> Down<'a> {
    /// Reads an inner packet for which [`is_health`] holds.
    ///
    /// # Errors
    /// [`DropReason::HealthMessage`] for an unknown version or kind, or fewer bytes than the message says.
    pub fn parse(inner: &'a [u8]) -> Result<Self, DropReason> {
        let entries = match inner.split_first_chunk::<4>() {
            Some(([HEAD, KIND_DOWN, count, _], rest)) => {
                rest.get(..usize::from(*count).saturating_mul(ENTRY))
            }
            _ => None,
        };
        Ok(Self { entries: entries.ok_or(DropReason::HealthMessage)? })
    }

    /// Their addresses, at most [`DOWN_MAX`].
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<'a> {
        self.entries.chunks_exact(ENTRY).take(DOWN_MAX).filter_map(|entry| {
            let (family, address) = entry.split_first()?;
            ip_of(*family, address.first_chunk()?)
        })
    }

    /// Writes a message and returns its length; addresses beyond [`DOWN_MAX`] are left out.
    ///
    /// # Errors
    /// [`DropReason::NoRoom`] when `out` is shorter than [`MESSAGE_MAX`].
    pub fn emit(out: &mut [u8], down: impl Iterator<Item = IpAddr>) -> Result<usize, DropReason> {
        let out = out.get_mut(..MESSAGE_MAX).ok_or(DropReason::NoRoom)?;
        out.fill(0);
        let (head, rest) = out.split_first_chunk_mut::<4>().ok_or(DropReason::NoRoom)?;
        let mut count = 0u8;
        for (address, entry) in down.zip(rest.chunks_exact_mut(ENTRY)) {
            if let [family, rest @ ..] = entry {
                let (its_family, bytes) = ip_bytes(address);
                *family = its_family;
                rest.copy_from_slice(&bytes);
            }
            count = count.saturating_add(1);
        }
        *head = [HEAD, KIND_DOWN, count, 0];
        Ok(usize::from(count).saturating_mul(ENTRY).saturating_add(head.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Golden bytes: these cross releases.
    #[test]
    fn a_message_is_these_bytes() {
        let mut out = [0xAA; MESSAGE_MAX];
        let len = Down::emit(&mut out, [ip("172.17.0.2"), ip("fd00::5")].into_iter()).unwrap();
        let mut expected = Vec::from([0x21, 1, 2, 0, 4, 172, 17, 0, 2]);
        expected.extend([0; 12]);
        expected.extend([6, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
        assert_eq!(out[..len], expected);
    }

    #[test]
    fn lists_are_bounded_and_unknown_entries_skipped() {
        let mut out = [0; MESSAGE_MAX];
        let many = (1..40).map(|n| IpAddr::from([10, 0, 0, n]));
        assert_eq!(Down::emit(&mut out, many), Ok(MESSAGE_MAX));
        out[4] = 9;
        let read: Vec<_> = Down::parse(&out).unwrap().iter().collect();
        assert_eq!((read.len(), read[0]), (DOWN_MAX - 1, ip("10.0.0.2")));
        assert_eq!(Down::parse(&out[..MESSAGE_MAX - 1]), Err(DropReason::HealthMessage));
        assert_eq!(Down::emit(&mut out[..MESSAGE_MAX - 1], core::iter::empty()), Err(DropReason::NoRoom));
        assert_eq!(Down::emit(&mut out, core::iter::empty()), Ok(4));
        assert_eq!(Down::parse(&out).unwrap().iter().count(), 0);
        for (at, byte) in [(0, 0x22), (1, 2)] {
            let mut other = out;
            other[at] = byte;
            assert_eq!(Down::parse(&other), Err(DropReason::HealthMessage));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(down) = Down::parse(&bytes) {
                prop_assert!(is_health(&bytes) && down.iter().count() <= DOWN_MAX);
            }
        }

        #[test]
        fn what_was_written_is_read(list in prop::collection::vec(any::<IpAddr>(), 0..=DOWN_MAX)) {
            let mut out = [0xEE; MESSAGE_MAX + 9];
            Down::emit(&mut out, list.iter().copied()).unwrap();
            prop_assert_eq!(Down::parse(&out).unwrap().iter().collect::<Vec<_>>(), list);
        }
    }
}
