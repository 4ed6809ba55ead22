//! The handshake of the control connection, from both sides.

use crate::input::Input;
use edgemesh_core::noise::StaticSecret;
use edgemesh_core::noise::ik::{Initiator, Responder};
use edgemesh_core::rng::Rng;

const PROLOGUE: &[u8] = b"fuzz";

/// Bytes as either message and as transport frames; or a right handshake in which the bytes change something, which
/// must be noticed.
pub(crate) fn handshake(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut rng = Rng::new([1; 32]);
    let (a, b) = (StaticSecret::from_bytes([3; 32]), StaticSecret::from_bytes([5; 32]));
    let initiator = Initiator::new(a, b.public(), PROLOGUE, &mut rng);
    let responder = Responder::new(b, PROLOGUE);
    let mut wire = [0; 400];
    let (what, payload) = (input.byte(), input.some());
    let (pending, len) = initiator.write_message1(payload, &mut wire).unwrap();
    if what == 0 {
        let mut raw = input.some().to_vec();
        assert!(responder.read_message1(&mut raw).is_err());
        assert!(pending.read_message2(&mut input.rest().to_vec()).is_err());
        return;
    }
    let changed = change(&mut wire[..len], what & 1 != 0, &mut input);
    let answer = match responder.read_message1(&mut wire[..len]) {
        Ok((answer, got)) => {
            assert!(!changed && got == payload);
            answer
        }
        Err(_) => return assert!(changed, "a right first message was refused"),
    };
    let (mut there, len) = answer.write_message2(payload, &mut wire, &mut rng).unwrap();
    let changed = change(&mut wire[..len], what & 2 != 0, &mut input);
    let mut here = match pending.read_message2(&mut wire[..len]) {
        Ok((here, got)) => {
            assert!(!changed && got == payload);
            here
        }
        Err(_) => return assert!(changed, "a right second message was refused"),
    };
    while !input.is_empty() {
        let text = input.some();
        let mut frame = [0; 300];
        frame[..text.len()].copy_from_slice(text);
        let len = here.seal(&mut frame, text.len()).unwrap();
        let bad = input.flag();
        let changed = change(&mut frame[..len], bad, &mut input);
        match there.open(&mut frame[..len]) {
            Ok(got) => assert!(!changed && got == text),
            Err(_) => return assert!(changed),
        }
        std::mem::swap(&mut here, &mut there);
    }
}

/// Changes one byte if asked to; whether it is another one now.
fn change(message: &mut [u8], change: bool, input: &mut Input<'_>) -> bool {
    if !change {
        return false;
    }
    let (at, flip) = (usize::from(input.u16()) % message.len(), input.byte());
    message[at] ^= flip;
    // X25519 ignores the highest bit of a public key, but the transcript does not.
    flip != 0
}
