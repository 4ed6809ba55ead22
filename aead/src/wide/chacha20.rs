//! ChaCha20 (RFC 8439, section 2.4), four blocks in a group, several groups at a time.
//!
//! A block's state is four rows of four words. A vector has one row of a group's four blocks, so a quarter round on it is
//! one on all their columns. For the diagonals each row is turned in itself: not the second, as is usual, but the
//! others against it, since the second is what a round has ready last.

use core::arch::x86_64::*;

use super::{load, longest, store};

/// Bytes in a block.
pub(super) const BLOCK: usize = 64;
/// Blocks in a group.
pub(super) const GROUP: usize = 4;
/// The first row (section 2.3).
const CONSTANTS: &[u8; 16] = b"expand 32-byte k";

/// The rows of a group's blocks, at last its blocks.
type Group = [__m512i; 4];

/// Blocks from number 0 on.
pub(super) struct Keystream<const GROUPS: usize>([Group; GROUPS]);

impl<const GROUPS: usize> Keystream<GROUPS> {
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn new(key: &[u8; 32], nonce: &[u8; 12]) -> Self {
        let start = start(key, nonce);
        let mut groups = start;
        for _ in 0..10 {
            quarter_rounds(&mut groups);
            for [a, _, c, d] in &mut groups {
                *a = _mm512_shuffle_epi32::<LAST_FIRST>(*a);
                *d = _mm512_shuffle_epi32::<HALVES>(*d);
                *c = _mm512_shuffle_epi32::<FIRST_LAST>(*c);
            }
            quarter_rounds(&mut groups);
            for [a, _, c, d] in &mut groups {
                *a = _mm512_shuffle_epi32::<FIRST_LAST>(*a);
                *d = _mm512_shuffle_epi32::<HALVES>(*d);
                *c = _mm512_shuffle_epi32::<LAST_FIRST>(*c);
            }
        }
        for (group, start) in groups.iter_mut().zip(&start) {
            for (row, start) in group.iter_mut().zip(start) {
                *row = _mm512_add_epi32(*row, *start);
            }
            *group = blocks(*group);
        }
        Self(groups)
    }

    /// The one-time key of Poly1305: the first half of block 0 (section 2.6).
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn tag_key(&self) -> [u8; 32] {
        let mut block = [0; BLOCK];
        store(&mut block, self.0[0][0]);
        *block.first_chunk().expect("half of it")
    }

    /// Encrypts or decrypts `text` with the blocks from 1 on (section 2.8).
    ///
    /// # Panics
    /// When there are not enough of them: nothing may leave in the clear.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn apply(&self, text: &mut [u8]) {
        assert!(text.len() <= longest(GROUPS), "{} bytes for {GROUPS} groups", text.len());
        let mut keystream = self.0.as_flattened()[1..].iter();
        let (whole, rest) = text.as_chunks_mut::<BLOCK>();
        for (text, key) in whole.iter_mut().zip(&mut keystream) {
            store(text, _mm512_xor_si512(load(text), *key));
        }
        if let Some(key) = keystream.next() {
            let mut block = [0; BLOCK];
            store(&mut block, *key);
            rest.iter_mut().zip(block).for_each(|(text, key)| *text ^= key);
        }
    }
}

/// Turn a row's words: by one to the right, by one to the left, by two.
const LAST_FIRST: i32 = 0b10_01_00_11;
const FIRST_LAST: i32 = 0b00_11_10_01;
const HALVES: i32 = 0b01_00_11_10;

/// The states that the rounds begin with (section 2.3).
#[inline]
#[target_feature(enable = "avx512f")]
fn start<const GROUPS: usize>(key: &[u8; 32], nonce: &[u8; 12]) -> [Group; GROUPS] {
    let mut last = [0; 16];
    last[4..].copy_from_slice(nonce);
    let (front, back) = key.as_chunks::<16>().0.split_at(1);
    let mut state = [row(CONSTANTS), row(&front[0]), row(&back[0]), row(&last)];
    state[3] = _mm512_add_epi32(state[3], _mm512_setr_epi32(0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0));
    let next_group = row(&[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    core::array::from_fn(|_| {
        let group = state;
        state[3] = _mm512_add_epi32(state[3], next_group);
        group
    })
}

/// The same row in all blocks of a group.
#[inline]
#[target_feature(enable = "avx512f")]
fn row(bytes: &[u8; 16]) -> __m512i {
    let [a, b, c, d] = core::array::from_fn(|at| {
        let word = bytes.as_chunks().0[at];
        i32::from_le_bytes(word)
    });
    _mm512_set4_epi32(d, c, b, a)
}

/// A quarter round on each column (section 2.1); each step in all groups before the next, which waits for it.
#[inline]
#[target_feature(enable = "avx512f")]
fn quarter_rounds<const GROUPS: usize>(groups: &mut [Group; GROUPS]) {
    for [a, b, _, _] in groups.iter_mut() {
        *a = _mm512_add_epi32(*a, *b);
    }
    for [a, _, _, d] in groups.iter_mut() {
        *d = _mm512_rol_epi32::<16>(_mm512_xor_si512(*d, *a));
    }
    for [_, _, c, d] in groups.iter_mut() {
        *c = _mm512_add_epi32(*c, *d);
    }
    for [_, b, c, _] in groups.iter_mut() {
        *b = _mm512_rol_epi32::<12>(_mm512_xor_si512(*b, *c));
    }
    for [a, b, _, _] in groups.iter_mut() {
        *a = _mm512_add_epi32(*a, *b);
    }
    for [a, _, _, d] in groups.iter_mut() {
        *d = _mm512_rol_epi32::<8>(_mm512_xor_si512(*d, *a));
    }
    for [_, _, c, d] in groups.iter_mut() {
        *c = _mm512_add_epi32(*c, *d);
    }
    for [_, b, c, _] in groups.iter_mut() {
        *b = _mm512_rol_epi32::<7>(_mm512_xor_si512(*b, *c));
    }
}

/// The four blocks that a group's rows are of.
#[inline]
#[target_feature(enable = "avx512f")]
fn blocks([a, b, c, d]: Group) -> Group {
    /// Of both vectors the lower two quarters, the upper two, the even ones, the odd ones.
    const LOWER: i32 = 0b01_00_01_00;
    const UPPER: i32 = 0b11_10_11_10;
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    let (front, front_end) = (_mm512_shuffle_i32x4::<LOWER>(a, b), _mm512_shuffle_i32x4::<LOWER>(c, d));
    let (back, back_end) = (_mm512_shuffle_i32x4::<UPPER>(a, b), _mm512_shuffle_i32x4::<UPPER>(c, d));
    [
        _mm512_shuffle_i32x4::<EVEN>(front, front_end),
        _mm512_shuffle_i32x4::<ODD>(front, front_end),
        _mm512_shuffle_i32x4::<EVEN>(back, back_end),
        _mm512_shuffle_i32x4::<ODD>(back, back_end),
    ]
}
