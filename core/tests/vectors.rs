//! The primitives against the vectors of their RFCs, as this build of them computes; Noise's own vectors are beside
//! its code (`src/noise/vectors.rs`).
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::std_instead_of_core
)]

use blake2::digest::consts::{U16, U20, U28, U32};
use blake2::digest::{FixedOutput, KeyInit, Update};
use blake2::{Blake2s, Blake2s256, Blake2sMac};
use chacha20poly1305::{AeadInOut, ChaCha20Poly1305};
use edgemesh_core::noise::{PublicKey, StaticSecret};

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn key(text: &str) -> [u8; 32] {
    unhex(text).try_into().unwrap()
}

/// RFC 7748 section 5.2: two products, and the iteration after 1 and 1,000 rounds.
#[test]
fn x25519_multiplies_as_rfc_7748_says() {
    let times = |scalar: [u8; 32], point| {
        *StaticSecret::from_bytes(scalar).agree(&PublicKey(point)).unwrap().as_bytes()
    };
    for [scalar, point, product] in [
        [
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ],
        [
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ],
    ] {
        assert_eq!(times(key(scalar), key(point)), key(product));
    }
    let mut base = [0; 32];
    base[0] = 9;
    let (mut k, mut u) = (base, base);
    for round in 1..=1_000 {
        (k, u) = (times(k, u), k);
        if round == 1 {
            assert_eq!(k, key("422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"));
        }
    }
    assert_eq!(k, key("684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"));
}

/// RFC 8439 section 2.8.2. Its nonce is one that no counter yields, so this is the cipher below ours; how a counter
/// makes the nonce is proven by Noise's vectors.
#[test]
fn the_aead_seals_as_rfc_8439_says() {
    let key: [u8; 32] = std::array::from_fn(|n| 0x80 + n as u8);
    let nonce: [u8; 12] = unhex("070000004041424344454647").try_into().unwrap();
    let associated = unhex("50515253c0c1c2c3c4c5c6c7");
    let mut sealed = *b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the \
        future, sunscreen would be it.";
    let cipher = ChaCha20Poly1305::new(&key.into());
    let tag = cipher.encrypt_inout_detached(&nonce.into(), &associated, (&mut sealed[..]).into()).unwrap();
    let expected = "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b\
                    1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc3f\
                    f4def08e4b7a9de576d26586cec64b6116";
    assert_eq!(sealed[..], unhex(expected));
    assert_eq!(tag[..], unhex("1ae10b594f09e26a7e902ecbd0600691"));
}

/// The self-test of RFC 7693, appendix E: plain and keyed hashes of four lengths over inputs of six, hashed together.
#[test]
fn blake2s_passes_the_self_test_of_rfc_7693() {
    fn sequence(len: usize) -> Vec<u8> {
        let (mut a, mut b) = (0xdead_4bad_u32.wrapping_mul(len as u32), 1u32);
        let next = || {
            (a, b) = (b, a.wrapping_add(b));
            (b >> 24) as u8
        };
        std::iter::repeat_with(next).take(len).collect()
    }
    let mut whole = Blake2s256::default();
    macro_rules! add {
        ($size:ty, $len:expr) => {
            for input in [0, 3, 64, 65, 255, 1024].map(sequence) {
                let mut plain = Blake2s::<$size>::default();
                plain.update(&input);
                whole.update(&plain.finalize_fixed());
                let mut keyed = Blake2sMac::<$size>::new_from_slice(&sequence($len)).unwrap();
                keyed.update(&input);
                whole.update(&keyed.finalize_fixed());
            }
        };
    }
    add!(U16, 16);
    add!(U20, 20);
    add!(U28, 28);
    add!(U32, 32);
    let expected = unhex("6a411f08ce25adcdfb02aba641451cec53c598b24f4fc787fbdc88797f4c1dfe");
    assert_eq!(whole.finalize_fixed()[..], expected);
}
