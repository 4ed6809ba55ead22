//! Known answers by value, and a differential run against an independent implementation.

use std::vec;
use std::vec::Vec;

use super::ik::{Initiator, MESSAGE1_OVERHEAD, MESSAGE2_OVERHEAD, Responder, Transport};
use super::*;
use crate::counters::DropReason;
use crate::rng::Rng;

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

pub(crate) fn key(text: &str) -> [u8; 32] {
    unhex(text).try_into().unwrap()
}

/// (payload, ciphertext) of each message; the first two are the handshake.
type Messages<'a> = &'a [(&'a str, &'a str)];

struct Vector<'a> {
    prologue: &'a str,
    initiator: [&'a str; 2],
    responder: [&'a str; 2],
    transcript: Option<&'a str>,
    messages: Messages<'a>,
}

fn run(v: &Vector<'_>) {
    let prologue = unhex(v.prologue);
    let [is, ie] = v.initiator.map(|s| StaticSecret::from_bytes(key(s)));
    let [rs, re] = v.responder.map(|s| StaticSecret::from_bytes(key(s)));
    let initiator = Initiator::with_ephemeral(is.clone(), rs.public(), &prologue, ie);
    let mut wire = [0; 256];

    let payload = unhex(v.messages[0].0);
    let (pending, len) = initiator.write_message1(&payload, &mut wire).unwrap();
    assert_eq!(len, payload.len() + MESSAGE1_OVERHEAD);
    assert_eq!(wire[..len], unhex(v.messages[0].1));
    let (answer, got) = Responder::new(rs, &prologue).read_message1(&mut wire[..len]).unwrap();
    assert_eq!(got, payload);
    assert_eq!(answer.initiator(), is.public());

    let payload = unhex(v.messages[1].0);
    let (mut b, len) = answer.answer(&payload, &mut wire, &re).unwrap();
    assert_eq!(len, payload.len() + MESSAGE2_OVERHEAD);
    assert_eq!(wire[..len], unhex(v.messages[1].1));
    let (mut a, got) = pending.read_message2(&mut wire[..len]).unwrap();
    assert_eq!(got, payload);
    assert_eq!(a.transcript(), b.transcript());
    if let Some(transcript) = v.transcript {
        assert_eq!(*a.transcript(), key(transcript));
    }
    for (n, (payload, sealed)) in v.messages[2..].iter().enumerate() {
        let (from, to) = if n % 2 == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
        let payload = unhex(payload);
        wire[..payload.len()].copy_from_slice(&payload);
        let len = from.seal(&mut wire, payload.len()).unwrap();
        assert_eq!(wire[..len], unhex(sealed));
        assert_eq!(to.open(&mut wire[..len]).unwrap(), payload);
    }
}

/// `cacophony.txt` of the Noise test vectors, Noise_IK_25519_ChaChaPoly_BLAKE2s.
#[test]
fn ik_agrees_with_cacophony() {
    run(&Vector {
        prologue: "4a6f686e2047616c74",
        initiator: [
            "e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1",
            "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a",
        ],
        responder: [
            "4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893",
            "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b",
        ],
        transcript: Some("48f3cb8bc9319da4ba1e9933991b1c4ed4034f1f126a76d3a1fbcfd7f94248d4"),
        messages: &[
            (
                "4c756477696720766f6e204d69736573",
                "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c79440b03ddc7aac5123d06a1b23b71670e32e7\
                 6c28239a7ca4ac8f784de7e44c1adbfc6e83fef7352a58d9d56157400c0a737b1d171ce368229c7b752ac25b8faf4eca69\
                 0f6d896f543be02c996ab2b86b76",
            ),
            (
                "4d757272617920526f746862617264",
                "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843d9b5a8927f0ac9655ef76833bc7e5561f4\
                 2e691ac8404efd6fbd6308b6a27c",
            ),
            ("462e20412e20486179656b", "2c256ed08fcd08c2980f954ee4beaccb61c9581340f5dd2fd1cf3b"),
            ("4361726c204d656e676572", "d6033f70eee20945c7c9dba304e397ee3b284ff5e00fd9efb095d3"),
            (
                "4a65616e2d426170746973746520536179",
                "a9c068ca5d8babf72560652d8e851adbfac35c8a66e810d560863173e96adf4cfe",
            ),
            (
                "457567656e2042f6686d20766f6e2042617765726b",
                "2a09d8f459e5927e40fdd2eddc99bdafb04e13a26f145cb5cfe9e6ba34c94331ebc17d5156",
            ),
        ],
    });
}

/// `snow.txt` of the Noise test vectors, Noise_IK_25519_ChaChaPoly_BLAKE2s.
#[test]
fn ik_agrees_with_the_snow_vectors() {
    run(&Vector {
        prologue: "5468657265206973206e6f20726967687420616e642077726f6e672e2054686572652773206f6e6c792066756e20616e\
                   6420626f72696e672e",
        initiator: [
            "b7e117ce8ede06ceb89500799a3778d097fc54a3f90bea744493dfc24ec21f32",
            "cc95b4ccc4912c5a52c8d2f6b808e13712392c4468f4e3f02a7d2d1590cb9178",
        ],
        responder: [
            "e3187f5c10734e934be3a73c398c7fae07ba3e0cde2fcd9ab03a1c93dcae10f8",
            "587f83fe736432043d2665fbd47b0506b2cd103b6ba8577f72e117c7ffeb5105",
        ],
        transcript: None,
        messages: &[
            (
                "910ef4a7c04090f66403fcd8ffaed066e70ed38b576792c4a554cc5016fe5120",
                "df44a475167152d3e4767b9ad5b28468fb8bd6aaa0b0e7181afd87ede7a8c971e818de301c97393bfa71ac250becfc8ace\
                 f64a969e039f407fe44c5ffc3d66d94ff57627ad4cc53882a1b2993babac3940edd1eaff34a3d3f08c53570166b3d29d06\
                 bd5de3cfb9b85b66001a60a5bb98d72b80da9485655f86db72b46f745c4e",
            ),
            (
                "3ce1e4d6e5f02bfeea1d6620cbf1473b5f55372d6954e98d3e12b6ffd04879d5",
                "2818be348d38de5f9e3ef545c62e8e276c12e2a64410801a0284e02dfb0d450a848d1001977ef31dfe04b5c824acc04c7b\
                 da8490eab6cb6aaa844c4ddf0fda83ec84ed26cd6bee22fab17360b73de5b8",
            ),
            (
                "31e7554ebce419a76bf5cd464e00594ccf55bdc09c234c450850d26ab164238c",
                "89545eb9b2477d482156692214def7d5aecc00b9244b4435bdb768173841d2a2a2e52bcee32d64fe938c87594b17ee69",
            ),
            (
                "794f643ba08cc7ee7aa39bc055560a0850dbc77bf34d8ab22019bf160ab2c573",
                "fe35983c049b535cf9ca61cfad5b48e461da90c7c51cb5b873be10e58ae34a384aaebba7f96958b0ef0ac043c5e9c622",
            ),
        ],
    });
}

/// `cacophony.txt` as snow ships and runs it (`tests/vectors`; its own `snow.txt` has no IKpsk2 of this suite),
/// Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s, token by token as the tunnel does it. `tests/snow.rs` runs whole tunnels
/// against snow.
#[test]
fn the_state_agrees_with_cacophony_on_ikpsk2() {
    let secret = |s| StaticSecret::from_bytes(key(s));
    let is = secret("e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1");
    let ie = secret("893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a");
    let rs = secret("4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893");
    let re = secret("bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b");
    let psk = key("54686973206973206d7920417573747269616e20706572737065637469766521");
    let mut state = SymmetricState::new(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s", b"John Galt");
    state.mix_hash(&rs.public().0);
    let agree = |a: &StaticSecret, b: &StaticSecret| *a.agree(&b.public()).unwrap().as_bytes();
    let ephemeral = |state: &mut SymmetricState, e: &StaticSecret| {
        state.mix_hash(&e.public().0);
        state.mix_chain(&e.public().0);
    };
    let part = |state: &mut SymmetricState, key, text: &[u8]| {
        let mut out = text.to_vec();
        out.resize(text.len() + TAG, 0);
        state.seal(key, &mut out).unwrap();
        out
    };
    ephemeral(&mut state, &ie);
    let mut message = ie.public().0.to_vec();
    let key1 = state.mix_key(&agree(&ie, &rs));
    message.extend(part(&mut state, key1, &is.public().0));
    let key2 = state.mix_key(&agree(&is, &rs));
    message.extend(part(&mut state, key2, b"Ludwig von Mises"));
    let expected = "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944001e21de9f98ddd8e2ad57527207feb56253c9\
                    c94a9e496782ecfcb2a75fbcaf1b52948cc48daefe660c62119ab5000980c84831215f2441eba616548e832985464cf17e51\
                    ee93109008399a21f7e13f";
    assert_eq!(message, unhex(expected));
    ephemeral(&mut state, &re);
    let mut message = re.public().0.to_vec();
    let _ = state.mix_key(&agree(&re, &ie));
    let _ = state.mix_key(&agree(&re, &is));
    let key3 = state.mix_key_and_hash(&psk);
    message.extend(part(&mut state, key3, b"Murray Rothbard"));
    let expected = "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843cb765f2caef0751b8f007572dab0322217755c\
                    0632f365717edbf34d33e87a";
    assert_eq!(message, unhex(expected));
    let transcript = "f5191b875290abcd41347ac3622d9679688a7e980229cb937ef748336cfde0e5";
    assert_eq!(*state.transcript(), key(transcript));
    let (first, second) = state.split();
    for (cipher, text, expected) in [
        (first, "462e20412e20486179656b", "8153ca9833bc3c1b91a7e66e5f4d4f5b59bf9e64c2f20d15f0bba7"),
        (second, "4361726c204d656e676572", "07af0c9c86e1b4e80f36b04ff7688d51141af3debd0332f0a705ef"),
    ] {
        let mut out = unhex(text);
        out.resize(out.len() + TAG, 0);
        ChaChaPoly::new(cipher.as_bytes()).seal(0, &[], &mut out).unwrap();
        assert_eq!(out, unhex(expected));
    }
}

fn pair(rng: &mut Rng) -> (Transport, Transport) {
    let (a, b) = (StaticSecret::generate(rng), StaticSecret::generate(rng));
    let mut wire = [0; 200];
    let (pending, len) = Initiator::new(a, b.public(), b"p", rng).write_message1(b"hi", &mut wire).unwrap();
    let (answer, _) = Responder::new(b, b"p").read_message1(&mut wire[..len]).unwrap();
    let (transport, len) = answer.write_message2(b"", &mut wire, rng).unwrap();
    (pending.read_message2(&mut wire[..len]).unwrap().0, transport)
}

#[test]
fn a_transport_message_opens_once_and_in_order() {
    let (mut a, mut b) = pair(&mut Rng::new([5; 32]));
    let mut first = *b"one.................";
    let mut second = *b"two.................";
    assert_eq!(a.seal(&mut first, 4), Ok(20));
    assert_eq!(a.seal(&mut second, 4), Ok(20));
    assert_eq!(a.seal(&mut [0; 15], 0), Err(DropReason::NoRoom));
    assert_eq!(b.open(&mut second.clone()), Err(DropReason::Authentication));
    assert_eq!(b.open(&mut first.clone()).unwrap(), b"one.");
    assert_eq!(b.open(&mut first), Err(DropReason::Authentication));
    assert_eq!(b.open(&mut second).unwrap(), b"two.");
    assert_eq!(b.open(&mut []), Err(DropReason::Truncated));
}

#[test]
fn a_prologue_key_or_message_that_differs_ends_the_handshake() {
    let mut rng = Rng::new([6; 32]);
    let (a, b) = (StaticSecret::generate(&mut rng), StaticSecret::generate(&mut rng));
    let mut wire = [0; 96];
    let start = |rng: &mut Rng, wire: &mut [u8]| {
        Initiator::new(a.clone(), b.public(), b"v1", rng).write_message1(b"", wire).unwrap().0
    };
    let pending = start(&mut rng, &mut wire);
    let read = |identity: &StaticSecret, prologue, mut wire: [u8; 96]| {
        Responder::new(identity.clone(), prologue).read_message1(&mut wire).map(|r| r.0)
    };
    assert_eq!(read(&b, b"v2", wire).err(), Some(DropReason::Authentication));
    assert_eq!(read(&a, b"v1", wire).err(), Some(DropReason::Authentication));
    for at in 0..96 {
        let mut bad = wire;
        bad[at] ^= 0x10;
        assert!(read(&b, b"v1", bad).is_err(), "byte {at}");
    }
    let mut zero = wire;
    zero[..32].fill(0);
    assert_eq!(read(&b, b"v1", zero).err(), Some(DropReason::WeakKey));
    for len in 0..96 {
        assert!(Responder::new(b.clone(), b"v1").read_message1(&mut { wire }[..len]).is_err());
    }
    let answer = read(&b, b"v1", wire).unwrap();
    let mut reply = [0; 48];
    answer.write_message2(b"", &mut reply, &mut rng).unwrap();
    reply[40] ^= 1;
    assert_eq!(pending.read_message2(&mut reply).err(), Some(DropReason::Authentication));
    assert_eq!(
        Initiator::new(a.clone(), PublicKey([0; 32]), b"", &mut rng).write_message1(b"", &mut wire).err(),
        Some(DropReason::WeakKey)
    );
    assert_eq!(
        Initiator::new(a, b.public(), b"", &mut rng).write_message1(b"", &mut [0; 95]).err(),
        Some(DropReason::NoRoom)
    );
}

/// Both roles against `snow`, with keys, payloads and prologues of every kind.
#[test]
fn ik_agrees_with_snow_in_both_roles() {
    let mut rng = Rng::new([3; 32]);
    for round in 0..8usize {
        let (a, b) = (StaticSecret::generate(&mut rng), StaticSecret::generate(&mut rng));
        let mut prologue = vec![0; round * 5];
        rng.fill(&mut prologue);
        let payload = vec![round as u8; round * 9];
        let name = "Noise_IK_25519_ChaChaPoly_BLAKE2s".parse::<snow::params::NoiseParams>().unwrap();
        let (ours, theirs) = if round % 2 == 0 { (a, b) } else { (b, a) };
        let remote = ours.public().0;
        let mut other = snow::Builder::with_resolver(name, std::boxed::Box::new(Seeded(round as u8)))
            .prologue(&prologue)
            .unwrap()
            .local_private_key(theirs.as_bytes())
            .unwrap();
        let mut wire = [0; 256];
        let mut got = [0; 256];
        let (mut transport, mut other) = if round < 4 {
            let mut other = other.build_responder().unwrap();
            let initiator = Initiator::new(ours, theirs.public(), &prologue, &mut rng);
            let (pending, len) = initiator.write_message1(&payload, &mut wire).unwrap();
            let n = other.read_message(&wire[..len], &mut got).unwrap();
            assert_eq!(got[..n], payload);
            assert_eq!(other.get_remote_static().unwrap(), remote);
            let len = other.write_message(&payload, &mut wire).unwrap();
            let (transport, text) = pending.read_message2(&mut wire[..len]).unwrap();
            assert_eq!(text, payload);
            (transport, other.into_transport_mode().unwrap())
        } else {
            other = other.remote_public_key(&remote).unwrap();
            let mut other = other.build_initiator().unwrap();
            let len = other.write_message(&payload, &mut wire).unwrap();
            let (answer, text) = Responder::new(ours, &prologue).read_message1(&mut wire[..len]).unwrap();
            assert_eq!(text, payload);
            assert_eq!(answer.initiator(), theirs.public());
            let (transport, len) = answer.write_message2(&payload, &mut wire, &mut rng).unwrap();
            let n = other.read_message(&wire[..len], &mut got).unwrap();
            assert_eq!(got[..n], payload);
            (transport, other.into_transport_mode().unwrap())
        };
        for n in 0..20 {
            wire[..n].fill(n as u8);
            let len = transport.seal(&mut wire, n).unwrap();
            assert_eq!(other.read_message(&wire[..len], &mut got).unwrap(), n);
            let len = other.write_message(&got[..n], &mut wire).unwrap();
            assert_eq!(transport.open(&mut wire[..len]).unwrap(), &got[..n]);
        }
    }
}

/// snow's own algorithms, with our generator instead of the system's.
struct Seeded(u8);

impl snow::resolvers::CryptoResolver for Seeded {
    fn resolve_rng(&self) -> Option<std::boxed::Box<dyn snow::types::Random>> {
        Some(std::boxed::Box::new(SeededRng(Rng::new([self.0; 32]))))
    }
    fn resolve_dh(&self, choice: &snow::params::DHChoice) -> Option<std::boxed::Box<dyn snow::types::Dh>> {
        snow::resolvers::DefaultResolver.resolve_dh(choice)
    }
    fn resolve_hash(
        &self,
        choice: &snow::params::HashChoice,
    ) -> Option<std::boxed::Box<dyn snow::types::Hash>> {
        snow::resolvers::DefaultResolver.resolve_hash(choice)
    }
    fn resolve_cipher(
        &self,
        choice: &snow::params::CipherChoice,
    ) -> Option<std::boxed::Box<dyn snow::types::Cipher>> {
        snow::resolvers::DefaultResolver.resolve_cipher(choice)
    }
}

struct SeededRng(Rng);

impl snow::types::Random for SeededRng {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill(dest);
        Ok(())
    }
}
