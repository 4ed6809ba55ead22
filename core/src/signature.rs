//! Ed25519 signature checks (RFC 8032, section 5.1.7) within a board's stack.
//!
//! Directory records, service digests and revocations are signed; every node checks them, the microcontroller
//! too. `ed25519-dalek` holds both operands' tables, the points and the hash at once: 8.5 KB of stack on a
//! Cortex-M3, more than the whole core may take. Here the two products are made one after the other, each step
//! in a frame of its own: 4 KB, for twice the instructions (3 million, about two X25519).
//!
//! Verdicts are those of its strict check, which tests hold it to: canonical scalar, no point of small order,
//! no cofactor. It deliberately cannot sign: keys that sign live on the server, which has a real stack.

use core::ops::{Mul, Sub};
use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
use curve25519_dalek::edwards::CompressedEdwardsY;
use curve25519_dalek::{EdwardsPoint, Scalar};
use sha2::{Digest, Sha512};

/// Length of a public key in bytes.
pub const KEY: usize = 32;
/// Length of a signature in bytes.
pub const SIGNATURE: usize = 64;

/// The signature is not this key's over this message, or key or signature is no valid encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadSignature;

impl core::fmt::Display for BadSignature {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the signature does not match")
    }
}

impl core::error::Error for BadSignature {}

/// Checks `signature` by `key` over the concatenation of `message`'s parts.
///
/// Its time depends on key and signature only by their being valid encodings; all of it is public anyway.
///
/// # Errors
/// [`BadSignature`], whatever is wrong.
pub fn verify(key: &[u8; KEY], message: &[&[u8]], signature: &[u8; SIGNATURE]) -> Result<(), BadSignature> {
    let (r, s) = signature.split_first_chunk::<32>().ok_or(BadSignature)?;
    let s: [u8; 32] = s.try_into().map_err(|_| BadSignature)?;
    let s = Option::<Scalar>::from(Scalar::from_canonical_bytes(s)).ok_or(BadSignature)?;
    point(r)?;
    let challenge = challenge(r, key, message);
    let hidden = times(&point(key)?, &challenge);
    let commitment = encode_difference(&times(&ED25519_BASEPOINT_POINT, &s), &hidden);
    if commitment == *r { Ok(()) } else { Err(BadSignature) }
}

/// A point that is on the curve and not of small order.
#[inline(never)]
fn point(encoded: &[u8; 32]) -> Result<EdwardsPoint, BadSignature> {
    CompressedEdwardsY(*encoded).decompress().filter(|point| !point.is_small_order()).ok_or(BadSignature)
}

/// SHA-512(R, A, M) as a scalar.
#[inline(never)]
fn challenge(r: &[u8; 32], key: &[u8; KEY], message: &[&[u8]]) -> Scalar {
    let mut hash = Sha512::new();
    hash.update(r);
    hash.update(key);
    for part in message {
        hash.update(part);
    }
    Scalar::from_bytes_mod_order_wide(&hash.finalize().into())
}

#[inline(never)]
fn times(point: &EdwardsPoint, scalar: &Scalar) -> EdwardsPoint {
    point.mul(scalar)
}

#[inline(never)]
fn encode_difference(left: &EdwardsPoint, right: &EdwardsPoint) -> [u8; 32] {
    left.sub(right).compress().0
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
    use proptest::prelude::*;
    use std::vec::Vec;

    /// The order of the group, little-endian (RFC 8032, section 5.1): the first scalar that is not canonical.
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];

    /// What `ed25519-dalek` says, strictly.
    fn oracle(key: &[u8; KEY], message: &[u8], signature: &[u8; SIGNATURE]) -> bool {
        VerifyingKey::from_bytes(key)
            .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn good_signatures_pass_and_any_flipped_bit_fails(
            seed in any::<[u8; 32]>(),
            message in proptest::collection::vec(any::<u8>(), 0..300),
            cut in 0usize..300,
            bit in 0usize..256,
        ) {
            let signer = SigningKey::from_bytes(&seed);
            let (key, good) = (signer.verifying_key().to_bytes(), signer.sign(&message).to_bytes());
            let (front, back) = message.split_at(cut.min(message.len()));
            prop_assert_eq!(verify(&key, &[front, back], &good), Ok(()));
            for half in [0, 32] {
                let mut forged = good;
                forged[half + bit / 8] ^= 1 << (bit % 8);
                prop_assert_eq!(verify(&key, &[&message], &forged), Err(BadSignature));
            }
            let mut other = key;
            other[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(verify(&other, &[&message], &good).is_ok(), oracle(&other, &message, &good));
            let mut longer = message.clone();
            longer.push(0);
            prop_assert_eq!(verify(&key, &[&longer], &good), Err(BadSignature));
        }
    }

    /// Points of small order and encodings at the edge, for key and R, with scalars at the edge: the places
    /// where Ed25519 implementations disagree. Verdicts must be the library's.
    #[test]
    fn edge_encodings_get_the_strict_verdict() {
        let mut edges: Vec<[u8; 32]> = curve25519_dalek::constants::EIGHT_TORSION
            .iter()
            .map(|point| point.compress().0)
            .chain([ED25519_BASEPOINT_POINT.compress().0, [0xff; 32], [0; 32]])
            .collect();
        // The identity and its neighbours with y + p, which fits the 255 bits: non-canonical encodings.
        for low in 0xed..=0xf0 {
            let mut beyond = [0xff; 32];
            (beyond[0], beyond[31]) = (low, 0x7f);
            edges.push(beyond);
        }
        let mut accepted = 0;
        for key in &edges {
            for r in &edges {
                for s in [[0; 32], ORDER, Scalar::ONE.to_bytes()] {
                    let mut signature = [0; SIGNATURE];
                    signature[..32].copy_from_slice(r);
                    signature[32..].copy_from_slice(&s);
                    let verdict = verify(key, &[b"edge"], &signature).is_ok();
                    assert_eq!(verdict, oracle(key, b"edge", &signature), "{key:?} {signature:?}");
                    accepted += usize::from(verdict);
                }
            }
        }
        assert_eq!(accepted, 0, "none of these is a signature");
    }

    /// A scalar beyond the group order makes a second valid-looking signature: it must be refused.
    #[test]
    fn a_malleated_signature_is_refused() {
        let signer = SigningKey::from_bytes(&[3; 32]);
        let (key, good) = (signer.verifying_key().to_bytes(), signer.sign(b"record").to_bytes());
        let (mut malleated, mut carry) = (good, 0u16);
        for (byte, add) in malleated[32..].iter_mut().zip(ORDER) {
            carry += u16::from(*byte) + u16::from(add);
            (*byte, carry) = (carry as u8, carry >> 8);
        }
        assert_eq!(verify(&key, &[b"record"], &good), Ok(()));
        assert_eq!(verify(&key, &[b"record"], &malleated), Err(BadSignature));
    }
}
