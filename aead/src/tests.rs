use edgemesh_core::counters::DropReason;
use edgemesh_core::noise::{Aead, ChaChaPoly, TAG};
use proptest::prelude::*;

use super::FastChaChaPoly;

/// Past the greatest that is not left to `ring`.
const LONGEST: usize = 2_100;

#[test]
fn every_length_is_sealed_as_by_the_portable_cipher_and_opened() {
    let (fast, portable) = (FastChaChaPoly::new(&[7; 32]), ChaChaPoly::new(&[7; 32]));
    for len in 0..LONGEST {
        let text: Vec<u8> = (0..len).map(|at| (at * 7 + len) as u8).collect();
        for associated in [&b""[..], b"aad"] {
            let mut sealed = [&text[..], &[0; TAG]].concat();
            let mut expected = sealed.clone();
            fast.seal(len as u64, associated, &mut sealed).unwrap();
            portable.seal(len as u64, associated, &mut expected).unwrap();
            assert_eq!(sealed, expected, "{len} bytes");
            fast.open(len as u64, associated, &mut sealed).unwrap();
            assert_eq!(sealed[..len], text);
        }
    }
}

#[test]
fn what_is_not_authentic_is_refused() {
    let cipher = FastChaChaPoly::new(&[9; 32]);
    for len in [0, 1, 127, 128, 1_400, LONGEST] {
        let mut sealed = vec![3; len + TAG];
        cipher.seal(9, &[], &mut sealed).unwrap();
        assert_eq!(cipher.open(8, &[], &mut sealed.clone()), Err(DropReason::Authentication));
        assert_eq!(cipher.open(9, b"more", &mut sealed.clone()), Err(DropReason::Authentication));
        assert!(cipher.open(9, &[], &mut sealed[..len + TAG - 1].to_vec()).is_err());
        for byte in (0..len + TAG).step_by(7).chain([len + TAG - 1]) {
            let mut bad = sealed.clone();
            bad[byte] ^= 1 << (byte % 8);
            assert_eq!(
                cipher.open(9, &[], &mut bad),
                Err(DropReason::Authentication),
                "byte {byte} of {len}"
            );
        }
        cipher.open(9, &[], &mut sealed).unwrap();
    }
    assert_eq!(cipher.open(0, &[], &mut [0; 15]), Err(DropReason::Truncated));
    assert_eq!(cipher.seal(0, &[], &mut [0; 15]), Err(DropReason::NoRoom));
}

proptest! {
    #[test]
    fn any_key_counter_and_text_is_sealed_as_by_the_portable_cipher(
        key: [u8; 32],
        counter: u64,
        mut sealed in prop::collection::vec(any::<u8>(), TAG..LONGEST),
    ) {
        let mut expected = sealed.clone();
        FastChaChaPoly::new(&key).seal(counter, &[], &mut sealed).unwrap();
        ChaChaPoly::new(&key).seal(counter, &[], &mut expected).unwrap();
        prop_assert_eq!(sealed, expected);
    }
}
