//! SCTP (RFC 9260): what a packet does to its association, its CRC32c, and the ABORT that refuses one.
//!
//! A change of ports is carried into the CRC, never recomputed: a CRC is linear, so changing four bytes changes it
//! by the CRC of the change, moved over the bytes that follow. That costs the same for every packet length, needs
//! no table and, like the Internet checksum's update, leaves a wrong checksum wrong.
//!
//! Bounds: [`CHUNKS`] chunks of a packet are looked at. Not done: addresses inside INIT and INIT ACK. An end that
//! announces several keeps to the one that it was reached by, as behind any address translation.

use super::{array, put};
use crate::counters::DropReason;

/// Opens an association.
pub const INIT: u8 = 1;
/// Answers [`INIT`].
pub const INIT_ACK: u8 = 2;
/// Ends an association at once.
pub const ABORT: u8 = 6;
/// Tells of a failure; in a packet of no association it is not answered.
pub const ERROR: u8 = 9;
/// The last packet of an orderly end.
pub const SHUTDOWN_COMPLETE: u8 = 14;
/// No chunk is there to be read.
pub const NONE: u8 = u8::MAX;

/// Chunks of one packet that are looked at.
pub const CHUNKS: usize = 8;
const DATA: u8 = 0;
/// Flag T: the verification tag is the one of the packet that is answered.
const REFLECTED: u8 = 1;

/// The chunk type that decides: the first one, unless an ABORT follows. `chunks`: what is behind the header.
pub(super) fn signal(chunks: &[u8]) -> u8 {
    let (mut first, mut at) = (NONE, 0usize);
    for _ in 0..CHUNKS {
        let Ok([kind, _, high, low]) = array::<4>(chunks, at) else { break };
        match kind {
            ABORT => return ABORT,
            _ if first == NONE => first = kind,
            _ => {}
        }
        let len = usize::from(u16::from_be_bytes([high, low]));
        // An ABORT is never behind data (3.3.7), and a length below four leads nowhere.
        if kind == DATA || len < 4 {
            break;
        }
        at = at.saturating_add(len.saturating_add(3) & !3);
    }
    first
}

/// Writes the ABORT that answers the packet `cause`, whose SCTP part starts at `l4`; its sender is told that there
/// is no such association (8.4). The caller writes the IP header before it.
///
/// # Errors
/// [`DropReason::NoFlow`] when such a packet gets no answer, [`DropReason::Truncated`].
pub(super) fn abort(cause: &[u8], l4: usize, chunk: u8) -> Result<[u8; 16], DropReason> {
    let at = |offset: usize| l4.saturating_add(offset);
    let (tag, flags): ([u8; 4], u8) = match chunk {
        // 3.3.2: an initiate tag of zero gets no answer.
        INIT => (array(cause, at(16))?, 0),
        INIT_ACK | ABORT | ERROR | SHUTDOWN_COMPLETE | NONE => return Err(DropReason::NoFlow),
        _ => (array(cause, at(4))?, REFLECTED),
    };
    if tag == [0; 4] {
        return Err(DropReason::NoFlow);
    }
    let [a, b, c, d] = array(cause, l4)?;
    let mut out = [0; 16];
    put(&mut out, 0, [c, d, a, b])?;
    put(&mut out, 4, tag)?;
    put(&mut out, 12, [ABORT, flags, 0, 4])?;
    let crc = crc32c(&out);
    put(&mut out, 8, crc.to_le_bytes())?;
    Ok(out)
}

/// CRC32c of `bytes`, bit by bit: for the few bytes of a packet of our own.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, next: &u8| (0..8).fold(crc ^ u32::from(*next), |crc, _| times_x(crc));
    !bytes.iter().fold(u32::MAX, step)
}

/// The SCTP checksum `field` (as in the packet) after its first four bytes changed from `old` to `new`, in a
/// packet of `len` bytes (RFC 9260, 6.8 and appendix A).
pub(super) fn update_crc32c(field: [u8; 4], old: [u8; 4], new: [u8; 4], len: usize) -> [u8; 4] {
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
        b = times_x(b);
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

/// `a * x` modulo the polynomial.
fn times_x(a: u32) -> u32 {
    if a & 1 == 1 { (a >> 1) ^ POLYNOMIAL } else { a >> 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn known_vectors() {
        // RFC 3720, B.4.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn the_first_chunk_decides_unless_an_abort_follows() {
        let signal = |chunks: &[&[u8]]| super::signal(&chunks.concat());
        assert_eq!(signal(&[&[INIT, 0, 0, 20], &[0; 16]]), INIT);
        assert_eq!(signal(&[&[3, 0, 0, 4], &[ABORT, 0, 0, 4]]), ABORT);
        // A chunk of five bytes is followed by three of padding.
        assert_eq!(signal(&[&[3, 0, 0, 5, 9, 0, 0, 0], &[ABORT, 0, 0, 4]]), ABORT);
        assert_eq!(signal(&[&[DATA, 0, 0, 4], &[ABORT, 0, 0, 4]]), DATA, "nothing is behind data");
        assert_eq!(signal(&[&[3, 0, 0, 0], &[ABORT, 0, 0, 4]]), 3, "a length that leads nowhere");
        assert_eq!(signal(&[&[10, 0, 0, 4].repeat(CHUNKS), &[ABORT, 0, 0, 4]]), 10);
        assert_eq!(signal(&[&[10, 0, 0xff, 0xff]]), 10);
        assert_eq!((signal(&[]), signal(&[b"abc"])), (NONE, NONE));
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
        fn any_bytes_are_survived(bytes: Vec<u8>, l4 in 0usize..64, chunk: u8) {
            let _ = (signal(&bytes), abort(&bytes, l4, chunk));
        }
    }
}
