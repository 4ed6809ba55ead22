//! Checksums: the Internet checksum (RFC 1071), its incremental update (RFC 1624), and SCTP's CRC32c.
//!
//! The SCTP update uses that a CRC is linear: changing four bytes changes the CRC by the CRC of the change,
//! moved over the bytes that follow. So it costs the same for every packet length and, like the Internet
//! checksum's update, leaves a wrong checksum wrong.

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

/// The SCTP checksum `field` (as in the packet) after its first four bytes changed from `old` to `new`, in a
/// packet of `len` bytes (RFC 9260, 6.8 and appendix A).
#[must_use]
pub fn update_crc32c(field: [u8; 4], old: [u8; 4], new: [u8; 4], len: usize) -> [u8; 4] {
    let change = u32::from_le_bytes(old) ^ u32::from_le_bytes(new);
    let moved = times(change, power((len as u64).saturating_mul(8)));
    (u32::from_le_bytes(field) ^ moved).to_le_bytes()
}

/// Castagnoli's polynomial, reflected: the top bit is the coefficient of x^0.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// `a * b` modulo the polynomial.
fn times(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    for bit in (0..32).rev() {
        if a & (1u32 << bit) != 0 {
            product ^= b;
        }
        b = if b & 1 == 1 { (b >> 1) ^ POLYNOMIAL } else { b >> 1 };
    }
    product
}

/// `x^n` modulo the polynomial.
fn power(mut n: u64) -> u32 {
    let (mut result, mut square) = (1u32 << 31, 1u32 << 30);
    while n != 0 {
        if n & 1 == 1 {
            result = times(result, square);
        }
        square = times(square, square);
        n >>= 1;
    }
    result
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
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// CRC32c bit by bit, the slow way.
    pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            }
        }
        !crc
    }

    #[test]
    fn known_vectors() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        // RFC 1071, section 3.
        assert_eq!(sum(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    proptest! {
        #[test]
        fn a_crc_updated_is_the_crc_recomputed(mut bytes in proptest::collection::vec(any::<u8>(), 4..200), new: [u8; 4]) {
            let before = crc32c(&bytes).to_le_bytes();
            let old = *bytes.first_chunk().unwrap();
            bytes[..4].copy_from_slice(&new);
            prop_assert_eq!(update_crc32c(before, old, new, bytes.len()), crc32c(&bytes).to_le_bytes());
        }

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
