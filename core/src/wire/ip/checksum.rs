//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

/// A change to a ones' complement sum: `~old + new` of everything that was replaced.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Delta(u32);

impl Delta {
    /// Records that `old` was replaced by `new`, of the same even length, at an even offset of the sum.
    pub fn replace(&mut self, old: &[u8], new: &[u8]) {
        for (old, new) in old.chunks(2).zip(new.chunks(2)) {
            self.replace_word(word(old), word(new));
        }
    }

    /// Records that the 16-bit word `old` was replaced by `new`.
    pub fn replace_word(&mut self, old: u16, new: u16) {
        self.add(!old);
        self.add(new);
    }

    /// Both changes together.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.add(fold(other.0));
        self
    }

    /// The complete checksum `field` after the change (RFC 1624, equation 3).
    #[must_use]
    pub fn complete(self, field: u16) -> u16 {
        !fold(u32::from(!field).saturating_add(u32::from(fold(self.0))))
    }

    /// The partial checksum `field`, a sum that is not complemented, after the change.
    #[must_use]
    pub fn partial(self, field: u16) -> u16 {
        fold(u32::from(field).saturating_add(u32::from(fold(self.0))))
    }

    fn add(&mut self, word: u16) {
        self.0 = u32::from(fold(self.0)).saturating_add(u32::from(word));
    }
}

/// The folded ones' complement sum of `bytes`, not complemented, continuing from `start`.
#[must_use]
pub fn sum(start: u16, bytes: &[u8]) -> u16 {
    let mut total = u64::from(start);
    for chunk in bytes.chunks(2) {
        // 2^48 words fit before this could saturate.
        total = total.saturating_add(u64::from(word(chunk)));
    }
    let total = (total & 0xffff_ffff).saturating_add(total >> 32);
    let total = (total & 0xffff).saturating_add(total >> 16);
    fold(total as u32)
}

/// The sum of the pseudo-header of RFC 9293 3.1 / RFC 8200 8.1. `addresses`: source and destination bytes.
#[must_use]
pub fn pseudo_header(addresses: &[u8], protocol: u8, len: usize) -> u16 {
    let [_, _, _, _, a, b, c, d] = (len as u64).to_be_bytes();
    sum(sum(u16::from(protocol), addresses), &[a, b, c, d])
}

fn word(chunk: &[u8]) -> u16 {
    match *chunk {
        [high, low] => u16::from_be_bytes([high, low]),
        [high] => u16::from_be_bytes([high, 0]),
        _ => 0,
    }
}

fn fold(total: u32) -> u16 {
    let total = (total & 0xffff).saturating_add(total >> 16);
    let total = (total & 0xffff).saturating_add(total >> 16);
    total as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_vectors() {
        // RFC 1071, section 3.
        assert_eq!(sum(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    proptest! {
        #[test]
        fn a_sum_updated_is_the_sum_recomputed(mut bytes in proptest::collection::vec(1u8.., 8..200), new: [u8; 4]) {
            let before = sum(0, &bytes);
            let mut delta = Delta::default();
            delta.replace(&bytes[4..8], &new);
            bytes[4..8].copy_from_slice(&new);
            prop_assert_eq!(delta.partial(before), sum(0, &bytes));
            prop_assert_eq!(delta.complete(!before), !sum(0, &bytes));
        }
    }
}
