//! Keys that change while data flows: the mesh's PSK, a node's own key, and stamps of nodes without a clock.

use edgemesh_core::noise::{PublicKey, StaticSecret};
use edgemesh_core::tunnel::{MeshPsk, NoSession, pair_psk};

use crate::net::*;

const A: [u8; 32] = [0xa; 32];
const B: [u8; 32] = [0xb; 32];
const NONE: [u8; 32] = [0; 32];

fn psk(current: [u8; 32], next: Option<[u8; 32]>) -> MeshPsk {
    let mut psk = MeshPsk::default();
    (psk.current, psk.next) = (current, next);
    psk
}

/// Lets data flow both ways for so many seconds, one packet a second each way: none of it is lost.
fn flow(net: &mut Net, seconds: u64) {
    for _ in 0..seconds {
        for from in 0..2 {
            net.send(from, b"E").unwrap();
        }
        net.run(secs(1));
        let received = [0, 1].map(|n| std::mem::take(&mut net.nodes[n].received).len());
        assert_eq!(received, [1, 1], "at {:?}", net.now);
    }
}

fn handshakes(net: &Net) -> usize {
    net.count(0, Seek::Response) + net.count(1, Seek::Response)
}

#[test]
fn each_pair_has_a_psk_of_its_own() {
    let [one, two, three] = [1, 2, 3].map(|n| PublicKey([n; 32]));
    assert_eq!(pair_psk(&A, &one, &two), pair_psk(&A, &two, &one));
    assert_ne!(pair_psk(&A, &one, &two), pair_psk(&A, &one, &three));
    assert_ne!(pair_psk(&A, &one, &two), pair_psk(&B, &one, &two));
    assert_eq!(pair_psk(&NONE, &one, &two), NONE, "none is none, as in WireGuard");
}

#[test]
fn nodes_of_different_psks_have_no_session() {
    for (ours, theirs, meet) in [
        (psk(A, None), psk(A, None), true),
        (psk(A, None), psk(B, None), false),
        (psk(A, None), psk(NONE, None), false),
        (psk(A, Some(B)), psk(B, None), true),
        (psk(A, Some(NONE)), psk(NONE, Some(A)), true),
        (psk(A, None), psk(B, Some(A)), false),
    ] {
        let mut net = Net::new();
        net.nodes[0].tunnels.set_psk(ours);
        net.nodes[1].tunnels.set_psk(theirs);
        assert_eq!(net.send(0, b"E"), Err(NoSession::Handshaking));
        net.run(secs(4));
        assert_eq!(net.nodes[0].tunnels.is_up(PEER), meet);
    }
}

/// From no PSK to A, and from A to B, one node after the other, over several handshakes each.
#[test]
fn a_mesh_changes_its_psk_node_by_node_and_loses_nothing() {
    let mut net = Net::connected();
    for step in
        [psk(NONE, Some(A)), psk(A, Some(NONE)), psk(A, None), psk(A, Some(B)), psk(B, Some(A)), psk(B, None)]
    {
        for node in 0..2 {
            net.nodes[node].tunnels.set_psk(step.clone());
            flow(&mut net, 260);
        }
    }
    assert!(handshakes(&net) >= 20, "{}", handshakes(&net));
}

/// Another key for node 0.
fn fresh() -> StaticSecret {
    StaticSecret::from_bytes([0x77; 32])
}

#[test]
fn a_node_changes_its_key_and_sessions_go_on() {
    let mut net = Net::connected();
    net.nodes[0].tunnels.rotate(fresh());
    flow(&mut net, 30);
    assert_eq!(handshakes(&net), 0, "the session is as it was");
    let key = net.nodes[0].tunnels.public();
    assert_eq!(key, fresh().public());
    assert!(net.nodes[1].tunnels.rekey_peer(net.now, PEER, &key));
    flow(&mut net, 600);
    assert!(handshakes(&net) >= 4);
    net.nodes[0].tunnels.forget_before();
    flow(&mut net, 300);
    assert_eq!(net.nodes[1].tunnels.find_peer(&key), Some(PEER));
}

/// The other side hears of it only when the overlap is over; whoever begins a handshake.
#[test]
fn who_has_not_heard_of_the_new_key_is_reached_under_the_old_one() {
    for beginner in 0..2 {
        let mut net = Net::new();
        assert_eq!(net.send(beginner, b"E"), Err(NoSession::Handshaking));
        net.run(secs(1));
        net.nodes[0].tunnels.rotate(fresh());
        flow(&mut net, 900);
        assert!(handshakes(&net) >= 7);
        let key = net.nodes[0].tunnels.public();
        assert!(net.nodes[1].tunnels.rekey_peer(net.now, PEER, &key));
        net.nodes[0].tunnels.forget_before();
        flow(&mut net, 400);
    }
}

#[test]
fn the_old_key_opens_nothing_once_it_is_forgotten() {
    let mut net = Net::new();
    net.nodes[0].tunnels.rotate(fresh());
    net.nodes[0].tunnels.forget_before();
    assert_eq!(net.send(1, b"E"), Err(NoSession::Handshaking));
    net.run(secs(20));
    assert!(!net.nodes[1].tunnels.is_up(PEER));
    let key = net.nodes[0].tunnels.public();
    assert!(net.nodes[1].tunnels.rekey_peer(net.now, PEER, &key));
    let _ = net.send(1, b"E");
    net.run(secs(6));
    assert!(net.nodes[1].tunnels.is_up(PEER));
}

/// A handshake is under way when the key changes, on either side of it.
#[test]
fn a_change_in_the_middle_of_a_handshake_costs_a_repetition_at_most() {
    for millis in (0..=160).step_by(10) {
        for beginner in 0..2 {
            let mut net = Net::new();
            let _ = net.send(beginner, b"E");
            net.run(edgemesh_core::time::Duration::from_millis(millis));
            net.nodes[0].tunnels.rotate(fresh());
            let key = net.nodes[0].tunnels.public();
            assert!(net.nodes[1].tunnels.rekey_peer(net.now, PEER, &key));
            net.run(secs(7));
            assert!(net.nodes.iter().all(|node| node.tunnels.is_up(PEER)), "{millis} ms, {beginner}");
            flow(&mut net, 200);
        }
    }
}

#[test]
fn a_key_of_two_peers_is_refused() {
    let mut net = Net::connected();
    let own = net.nodes[0].tunnels.public();
    assert!(!net.nodes[0].tunnels.rekey_peer(net.now, PEER, &own), "it is this node's own");
    flow(&mut net, 5);
}

/// A node whose clock starts in 1970; its peer has seen later stamps. The floor that it stored serves, or the time that
/// the server tells; without both it is not let in.
#[test]
fn the_servers_time_lets_a_node_without_a_clock_in() {
    let identity = || {
        let mut rng = edgemesh_core::rng::Rng::new([1; 32]);
        StaticSecret::generate(&mut rng)
    };
    for (floor, told, meets) in [(0, false, false), (0, true, true), (1_700_086_400, false, true)] {
        let mut net = Net::connected();
        let peer = net.nodes[1].tunnels.public();
        let rng = edgemesh_core::rng::Rng::new([9; 32]);
        net.nodes[0] = Node::with(identity(), rng, floor, memory(2, 17, 8));
        net.nodes[0].skew = -1_700_000_000;
        net.nodes[0].tunnels.add_peer(PEER, &peer, None).unwrap();
        if told {
            let now = net.nodes[1].wall(net.now).secs;
            net.nodes[0].tunnels.not_before(now + 1);
        }
        let _ = net.send(0, b"E");
        net.run(secs(4));
        assert_eq!(net.nodes[0].tunnels.is_up(PEER), meets, "floor {floor}, told {told}");
    }
}
