//! The tag alone, by keys and texts that no cipher would come upon: where carries are many, and about p.
//! Processors without the instructions have no such code to run.

use ::poly1305::universal_hash::KeyInit;
use proptest::prelude::*;

use super::{is_supported, poly1305::tag};

fn agree(key: [u8; 32], text: &[u8]) -> Result<(), TestCaseError> {
    let mut padded = text.to_vec();
    padded.resize(text.len().next_multiple_of(16) + 8, 0);
    padded.extend((text.len() as u64).to_le_bytes());
    let expected = ::poly1305::Poly1305::new(&key.into()).compute_unpadded(&padded);
    if is_supported() {
        // SAFETY: it is.
        let ours = unsafe { tag(&key, text) };
        prop_assert_eq!(&ours[..], &expected[..], "{:x?} {} bytes", key, text.len());
    }
    Ok(())
}

/// With r = 1 the polynomial is the sum of all blocks, here p and its neighbours: 9 * 2^128, the lengths' 2^71, and
/// what three blocks add to them, modulo 2^130 - 5.
#[test]
fn sums_about_the_modulus() {
    let mut key = [0; 32];
    key[0] = 1;
    for about in 0..=24 {
        let last = (u128::MAX - (1 << 71) - 24).wrapping_add(about);
        let mut text = [u128::MAX, u128::MAX, last].map(u128::to_le_bytes).concat();
        text.resize(128, 0);
        agree(key, &text).unwrap();
    }
}

/// Bytes that make limbs full, empty, or with one bit.
fn extreme() -> impl Strategy<Value = u8> {
    prop::sample::select(&[0, 0, 0xff, 0xff, 0xff, 1, 0x80, 0xfc, 0x0f][..])
}

proptest! {
    #[test]
    fn extreme_keys_and_texts(
        r in prop::collection::vec(extreme(), 16),
        s in prop::array::uniform16(extreme()),
        text in prop::collection::vec(extreme(), 0..2_100),
        fill in prop::option::of(extreme()),
    ) {
        let mut key = [0; 32];
        key[..16].copy_from_slice(&r);
        key[16..].copy_from_slice(&s);
        let text = fill.map_or(text.clone(), |byte| vec![byte; text.len()]);
        agree(key, &text)?;
    }
}
