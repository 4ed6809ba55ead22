//! BLAKE2s-256, HMAC and HKDF over it (Noise section 4.3), and the keyed BLAKE2s-128 of WireGuard's MACs.

use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, KeyInit, Update};
use blake2::{Blake2s256, Blake2sMac, Digest};
use zeroize::Zeroize;

use crate::counters::DropReason;

const BLOCK: usize = 64;

/// BLAKE2s-256 over the parts in order.
pub fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut state = Blake2s256::new();
    for part in parts {
        Update::update(&mut state, part);
    }
    state.finalize().into()
}

/// Keyed BLAKE2s with 16 bytes of output, as WireGuard's mac1, mac2 and cookies use it.
///
/// # Errors
/// [`DropReason::Malformed`] when the key is longer than BLAKE2s takes, 32 bytes.
pub fn mac(key: &[u8], parts: &[&[u8]]) -> Result<[u8; 16], DropReason> {
    let mut state = Blake2sMac::<U16>::new_from_slice(key).map_err(|_| DropReason::Malformed)?;
    for part in parts {
        state.update(part);
    }
    Ok(state.finalize_fixed().into())
}

/// HMAC-BLAKE2s-256 (RFC 2104).
fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut pad = [0x36; BLOCK];
    for (byte, k) in pad.iter_mut().zip(key) {
        *byte ^= k;
    }
    let mut inner = Blake2s256::new();
    Update::update(&mut inner, &pad);
    for part in parts {
        Update::update(&mut inner, part);
    }
    let mut digest: [u8; 32] = inner.finalize().into();
    for byte in &mut pad {
        *byte ^= 0x36 ^ 0x5c;
    }
    let out = hash(&[&pad, &digest]);
    pad.zeroize();
    digest.zeroize();
    out
}

/// HKDF with one output.
pub fn hkdf1(key: &[u8; 32], input: &[u8]) -> [u8; 32] {
    let mut temporary = hmac(key, &[input]);
    let first = hmac(&temporary, &[&[1]]);
    temporary.zeroize();
    first
}

/// HKDF with two outputs.
pub fn hkdf2(key: &[u8; 32], input: &[u8]) -> ([u8; 32], [u8; 32]) {
    let mut temporary = hmac(key, &[input]);
    let first = hmac(&temporary, &[&[1]]);
    let second = hmac(&temporary, &[&first, &[2]]);
    temporary.zeroize();
    (first, second)
}

/// HKDF with three outputs.
pub fn hkdf3(key: &[u8; 32], input: &[u8]) -> ([u8; 32], [u8; 32], [u8; 32]) {
    let mut temporary = hmac(key, &[input]);
    let first = hmac(&temporary, &[&[1]]);
    let second = hmac(&temporary, &[&first, &[2]]);
    let third = hmac(&temporary, &[&second, &[3]]);
    temporary.zeroize();
    (first, second, third)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::vectors::unhex;

    /// BLAKE2s("abc"), RFC 7693 appendix B.
    #[test]
    fn hashes_as_the_rfc_says() {
        let expected = unhex("508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982");
        assert_eq!(hash(&[b"a", b"", b"bc"]).as_slice(), expected);
    }

    /// The three outputs for key "test-key" and input "test-input" of wireguard-go, device/kdf_test.go,
    /// with the key padded to the 32 bytes of a chaining key (HMAC pads with zeros alike).
    #[test]
    fn derives_as_wireguard_go_does() {
        let mut key = [0; 32];
        key[..8].copy_from_slice(b"test-key");
        let expected = [
            "6f0e5ad38daba1bea8a0d213688736f19763239305e0f58aba697f9ffc41c633",
            "df1194df20802a4fe594cde27e92991c8cae66c366e8106aaa937a55fa371e8a",
            "fac6e2745a325f5dc5d11a5b165aad08b0ada28e7b4e666b7c077934a4d76c24",
        ];
        let (a, b, c) = hkdf3(&key, b"test-input");
        assert_eq!([a, b, c].map(|k| k.to_vec()), expected.map(unhex));
        assert_eq!(hkdf2(&key, b"test-input"), (a, b));
        assert_eq!(hkdf1(&key, b"test-input"), a);
    }

    #[test]
    fn macs_of_any_split_are_equal_and_long_keys_are_refused() {
        assert_eq!(mac(b"key", &[b"one", b"two"]), mac(b"key", &[b"onetwo"]));
        assert_ne!(mac(b"key", &[b"one"]), mac(b"kez", &[b"one"]));
        assert_eq!(mac(&[0; 33], &[]), Err(DropReason::Malformed));
    }
}
