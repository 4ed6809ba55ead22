//! Random traffic over a bad wire: deadlines are honest, nothing is delivered twice or altered, nothing leaks.

use std::cell::Cell;
use std::collections::HashSet;
use std::rc::Rc;

use edgemesh_core::rng::Rng;
use edgemesh_core::time::Duration;
use edgemesh_core::tunnel::*;
use proptest::prelude::*;

use crate::net::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The harness itself checks after every step that the caller knows a deadline no later than the real one, and
    /// that handling it moves it on.
    #[test]
    fn sessions_survive_loss_and_come_back(
        seed: u8,
        loss in 0u32..60,
        steps in proptest::collection::vec((0usize..2, 0u8..8, 0u64..40_000), 1..60),
    ) {
        let mut net = Net::new();
        let dice = Rc::new(Cell::new(Some(Rng::new([seed; 32]))));
        let lossy = Rc::clone(&dice);
        net.passes = Box::new(move |_, _| {
            let mut rng = lossy.take().unwrap();
            let passes = rng.below(100) >= loss;
            lossy.set(Some(rng));
            passes
        });
        let mut sent = [HashSet::new(), HashSet::new()];
        for (n, (from, what, millis)) in steps.into_iter().enumerate() {
            match what {
                0 => net.nodes[from].tunnels.initiate(net.now, PEER),
                1 => drop(net.probe(from)),
                _ => {
                    let text = format!("E{n:015}").into_bytes();
                    if net.send(from, &text).is_ok() {
                        sent[from].insert(text);
                    }
                }
            }
            net.run(Duration::from_millis(millis));
        }
        net.run(secs(20));
        for to in 0..2 {
            let got: Vec<_> = net.nodes[to].received.iter().filter(|m| m[0] == b'E').collect();
            let unique: HashSet<_> = got.iter().collect();
            prop_assert_eq!(unique.len(), got.len(), "delivered twice");
            prop_assert!(got.iter().all(|m| sent[1 - to].contains(*m)));
        }
        // The wire heals: both can talk again within one retry.
        net.passes = Box::new(|_, _| true);
        let _ = net.send(0, b"E");
        net.run(secs(25));
        let _ = net.send(0, b"E");
        net.run(secs(6));
        net.send(0, b"Eagain").unwrap();
        net.run(secs(1));
        net.send(1, b"Eagain").unwrap();
        net.run(secs(1));
        for node in &net.nodes {
            prop_assert_eq!(&node.received.last().unwrap()[..6], b"Eagain");
        }
        // Left alone, everything is forgotten, and quiet.
        net.run(secs(1200));
        let quiet = net.log.len();
        net.run(secs(1200));
        prop_assert_eq!(net.log.len(), quiet);
        for node in &net.nodes {
            prop_assert_eq!(node.tunnels.deadline(PEER), None);
            let began = node.events.iter().filter(|e| matches!(e, TunnelEvent::SessionUp { .. })).count();
            let ended = node.events.iter().filter(|e| matches!(e, TunnelEvent::SessionDown { .. })).count();
            prop_assert_eq!(began, ended);
        }
    }

    #[test]
    fn any_bytes_cost_a_counter(
        datagrams in proptest::collection::vec((1u8..6, proptest::collection::vec(any::<u8>(), 0..200)), 1..50),
    ) {
        let mut net = Net::connected();
        let now = net.now;
        for (kind, mut bytes) in datagrams {
            let len = [148, 92, 64, bytes.len(), bytes.len()][usize::from(kind) - 1];
            bytes.resize(len, 0);
            if let Some(head) = bytes.first_chunk_mut() {
                *head = [kind, 0, 0, 0];
            }
            prop_assert!(net.nodes[0].receive(now, origin(1), &bytes).is_err());
        }
        net.send(0, b"E").unwrap();
        net.run(secs(1));
        prop_assert_eq!(net.nodes[1].received.len(), 1);
    }
}
