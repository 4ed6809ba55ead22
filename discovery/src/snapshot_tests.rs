use super::*;
use crate::served::Served;
use crate::testing::{A, A_SLICE, NS, Numbers, objects};
use edgemesh_core::wire::feed::Home;
use std::time::Instant;

fn head(sequence: u64) -> Head {
    Head { epoch: 1, sequence, unix_secs: 1_800_000_000 }
}

#[test]
fn a_snapshot_comes_back_whole_or_not_at_all() {
    let (mut served, mut numbers) = (Served::default(), Numbers::default());
    served.apply(Instant::now(), objects(&[A, A_SLICE, NS].join("\n---\n")).into_iter().collect());
    let (mut step, _) = served.encode(&mut numbers);
    served.set_home(Home { zone: 7, domain: 0 }, &mut step);
    let bytes = to_snapshot(&head(9), served.encoded());
    assert_eq!(from_snapshot(&bytes), Ok((head(9), served.encoded().clone())));
    for len in 0..bytes.len() {
        assert!(from_snapshot(&bytes[..len]).is_err(), "{len}");
    }
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        assert!(from_snapshot(&bad).is_err(), "{at}");
    }
}

#[test]
fn r3_what_changed_is_appended_and_a_torn_end_is_left_out() {
    let (mut served, mut numbers) = (Served::default(), Numbers::default());
    served.apply(Instant::now(), objects(A).into_iter().collect());
    let _ = served.encode(&mut numbers);
    let (mut bytes, mut states) = (to_snapshot(&head(1), served.encoded()), Vec::new());
    for (sequence, yaml) in [(2, A_SLICE), (3, NS)] {
        states.push((bytes.len(), head(sequence - 1), served.encoded().clone()));
        served.apply(Instant::now(), objects(yaml).into_iter().collect());
        let (step, _) = served.encode(&mut numbers);
        bytes.extend(to_addition(&head(sequence), &served.encoded().way(&step)));
    }
    states.push((bytes.len(), head(3), served.encoded().clone()));
    for len in states[0].0..=bytes.len() {
        let (_, head, table) = states.iter().rev().find(|(at, ..)| *at <= len).unwrap().clone();
        assert_eq!(from_snapshot(&bytes[..len]), Ok((head, table)), "{len}");
    }
}
