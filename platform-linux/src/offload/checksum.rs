//! The Internet checksum (RFC 1071) over whole buffers.
//!
//! Pure functions. Sums are kept as one's-complement sums in `u64`, which a 64 KiB packet cannot overflow, and
//! folded at the end. Word order does not matter to a one's-complement sum, so the loop reads the machine's own
//! order, which the compiler can vectorise, and swaps once.

/// The sum of `bytes` as big-endian 16-bit words, folded; an odd last byte is padded with zero.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(4);
    let mut total: u64 = 0;
    for word in words.by_ref() {
        let mut four = [0u8; 4];
        four.copy_from_slice(word);
        total += u64::from(u32::from_ne_bytes(four));
    }
    let mut last = [0u8; 4];
    for (to, from) in last.iter_mut().zip(words.remainder()) {
        *to = *from;
    }
    total += u64::from(u32::from_ne_bytes(last));
    u64::from(u16::from_be(fold(total)))
}

/// Folds a sum into 16 bits with end-around carry.
pub(crate) fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// The sum of a TCP or UDP pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1), folded.
///
/// `addresses` are source and destination as they stand in the IP header; `len` is the transport header and its
/// payload.
pub(crate) fn pseudo_header(addresses: &[u8], protocol: u8, len: usize) -> u64 {
    u64::from(fold(sum(addresses) + u64::from(protocol) + len as u64))
}

#[cfg(test)]
pub(crate) mod slow {
    //! The same sums the way RFC 1071 writes them, to check the fast ones against.

    /// Adds big-endian words one at a time with immediate end-around carry.
    pub(crate) fn sum(bytes: &[u8]) -> u16 {
        let mut total: u32 = 0;
        for (i, byte) in bytes.iter().enumerate() {
            total += if i % 2 == 0 { u32::from(*byte) * 256 } else { u32::from(*byte) };
            if total > 0xffff {
                total -= 0xffff;
            }
        }
        total as u16
    }

    /// Whether the transport checksum and, for IPv4, the header checksum of a whole packet are right.
    pub(crate) fn packet_is_sound(packet: &[u8]) -> bool {
        let (l4, protocol, addresses) = if packet[0] >> 4 == 4 {
            if sum(&packet[..20]) != 0xffff {
                return false;
            }
            (20, packet[9], packet[12..20].to_vec())
        } else {
            (40, packet[6], packet[8..40].to_vec())
        };
        let transport = &packet[l4..];
        let mut all = addresses;
        all.extend_from_slice(&(transport.len() as u32).to_be_bytes());
        all.extend_from_slice(&[0, 0, 0, protocol]);
        all.extend_from_slice(transport);
        sum(&all) == 0xffff
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 0 and 0xffff are the same one's-complement number.
    fn same(a: u16, b: u16) -> bool {
        a == b || (a.is_multiple_of(0xffff) && b.is_multiple_of(0xffff))
    }

    proptest! {
        #[test]
        fn the_fast_sum_equals_the_slow_one(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(same(fold(sum(&bytes)), slow::sum(&bytes)));
        }
    }

    #[test]
    fn a_full_packet_of_ones_does_not_overflow() {
        assert_eq!(fold(sum(&[0xff; 65536])), 0xffff);
    }

    #[test]
    fn the_example_of_rfc_1071_section_3() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
    }
}
