//! ChaCha20-Poly1305 (RFC 8439) without associated data, by AVX-512 and IFMA.
//!
//! A packet's whole keystream is made at once, the block for its Poly1305 key with it. All of it is on the stack and in
//! registers, which bounds the text; longer ones, and short ones that would leave most of the lanes without work, are
//! for `ring`.
//!
//! No branch and no address depends on key or text, only on the text's length and on whether it is authentic.
#![allow(unsafe_code)]

mod chacha20;
mod poly1305;
#[cfg(test)]
mod tests;

use core::arch::x86_64::*;
use core::ops::RangeInclusive;

use edgemesh_core::noise::TAG;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use chacha20::{BLOCK, GROUP, Keystream};

/// Bytes of text that [`Wide`] takes. More than six groups of blocks would not fit into the registers.
pub(crate) const LENGTHS: RangeInclusive<usize> = 256..=longest(6);

/// The longest text for a keystream of so many groups of blocks; the first block is for the key of Poly1305.
const fn longest(groups: usize) -> usize {
    (groups * GROUP - 1) * BLOCK
}

/// One key, on a processor that can.
pub(crate) struct Wide(Zeroizing<[u8; 32]>);

impl Wide {
    /// `None` where the processor cannot.
    pub(crate) fn new(key: &[u8; 32]) -> Option<Self> {
        is_supported().then(|| Self(Zeroizing::new(*key)))
    }

    /// Encrypts `text`, whose length is one of [`LENGTHS`]; its tag.
    pub(crate) fn seal(&self, nonce: &[u8; 12], text: &mut [u8]) -> [u8; TAG] {
        // SAFETY: there is no `Wide` where `is_supported` is false.
        unsafe {
            match text.len() {
                len if len <= longest(2) => seal::<2>(&self.0, nonce, text),
                len if len <= longest(4) => seal::<4>(&self.0, nonce, text),
                _ => seal::<6>(&self.0, nonce, text),
            }
        }
    }

    /// Decrypts `text` if it has this tag; otherwise it stays as it is. Whether it did.
    #[must_use]
    pub(crate) fn open(&self, nonce: &[u8; 12], text: &mut [u8], tag: &[u8; TAG]) -> bool {
        // SAFETY: there is no `Wide` where `is_supported` is false.
        unsafe {
            match text.len() {
                len if len <= longest(2) => open::<2>(&self.0, nonce, text, tag),
                len if len <= longest(4) => open::<4>(&self.0, nonce, text, tag),
                _ => open::<6>(&self.0, nonce, text, tag),
            }
        }
    }
}

/// Whether the processor has the instructions that everything here is compiled for.
fn is_supported() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512ifma")
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn seal<const GROUPS: usize>(key: &[u8; 32], nonce: &[u8; 12], text: &mut [u8]) -> [u8; TAG] {
    let keystream = Keystream::<GROUPS>::new(key, nonce);
    keystream.apply(text);
    poly1305::tag(&keystream.tag_key(), text)
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn open<const GROUPS: usize>(key: &[u8; 32], nonce: &[u8; 12], text: &mut [u8], tag: &[u8; TAG]) -> bool {
    let keystream = Keystream::<GROUPS>::new(key, nonce);
    let authentic = poly1305::tag(&keystream.tag_key(), text).ct_eq(tag).into();
    if authentic {
        keystream.apply(text);
    }
    authentic
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: reads 64 bytes, at any alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(bytes: &mut [u8; 64], vector: __m512i) {
    // SAFETY: writes 64 bytes, at any alignment.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), vector) };
}
