//! The cryptographic primitives, one by one: known answers, and what each costs in stack and instructions.
//!
//! They are the floor under the engine's figures: a handshake can take no less stack than one X25519.
//! Answers are those of the RFCs. Inputs go through `black_box`, or the compiler might work them out itself.

use crate::steps::ensure;
use blake2::{Blake2s256, Digest};
use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
use core::hint::black_box;
use edgemesh_core::signature;

/// RFC 7693, appendix B.
#[inline(never)]
pub fn blake2s() -> Result<(), &'static str> {
    let digest: [u8; 32] = Blake2s256::digest(black_box(b"abc")).into();
    ensure(digest == hex("508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"), "wrong digest")
}

/// RFC 8439, section 2.8.2, sealed and opened again in place.
#[inline(never)]
pub fn chacha20poly1305() -> Result<(), &'static str> {
    let text =
        *b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
        sunscreen would be it.";
    let mut buffer = black_box(text);
    let key: [u8; 32] = black_box(hex("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f"));
    let nonce: [u8; 12] = hex("070000004041424344454647");
    let header: [u8; 12] = hex("50515253c0c1c2c3c4c5c6c7");
    let aead = ChaCha20Poly1305::new(&key.into());
    let tag = aead
        .encrypt_inout_detached(&nonce.into(), &header, buffer.as_mut_slice().into())
        .map_err(|_| "sealing failed")?;
    ensure(tag == hex::<16>("1ae10b594f09e26a7e902ecbd0600691"), "wrong tag")?;
    let mut forged = tag;
    forged[0] ^= 1;
    let opened = aead.decrypt_inout_detached(&nonce.into(), &header, buffer.as_mut_slice().into(), &forged);
    ensure(opened.is_err(), "a forged tag was taken")?;
    aead.decrypt_inout_detached(&nonce.into(), &header, buffer.as_mut_slice().into(), &tag)
        .map_err(|_| "opening failed")?;
    ensure(buffer == text, "opened to other bytes")
}

/// RFC 7748, section 5.2, first vector.
#[inline(never)]
pub fn x25519() -> Result<(), &'static str> {
    let shared = x25519_dalek::x25519(
        black_box(hex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")),
        black_box(hex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")),
    );
    ensure(shared == hex("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"), "wrong secret")
}

/// RFC 8032, section 7.1, test 2.
#[inline(never)]
pub fn signature() -> Result<(), &'static str> {
    let key = black_box(hex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"));
    let signature = black_box(hex(concat!(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da",
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )));
    signature::verify(&key, &[black_box(&[0x72])], &signature).map_err(|_| "good signature refused")?;
    ensure(signature::verify(&key, &[black_box(&[0x73])], &signature).is_err(), "bad signature taken")
}

/// Bytes from hexadecimal digits; malformed input fails the build where the call is const, else panics.
const fn hex<const N: usize>(digits: &str) -> [u8; N] {
    let digits = digits.as_bytes();
    assert!(digits.len() == 2 * N);
    let mut out = [0; N];
    let mut at = 0;
    while at < N {
        out[at] = nibble(digits[2 * at]) << 4 | nibble(digits[2 * at + 1]);
        at += 1;
    }
    out
}

const fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => panic!("not a hexadecimal digit"),
    }
}
