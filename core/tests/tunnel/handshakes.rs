//! How sessions come to be: order of messages, crossing handshakes, restarts, keys given up.

use edgemesh_core::PeerId;
use edgemesh_core::counters::DropReason;
use edgemesh_core::noise::{PublicKey, StaticSecret};
use edgemesh_core::rng::Rng;
use edgemesh_core::time::Duration;
use edgemesh_core::tunnel::*;

use crate::net::*;

const UP: TunnelEvent = TunnelEvent::SessionUp { peer: PEER };

#[test]
fn one_handshake_then_data_both_ways() {
    let mut net = Net::new();
    assert_eq!(net.send(0, b"E1"), Err(NoSession::Handshaking));
    net.run(Duration::from_millis(120));
    assert!(net.nodes[0].tunnels.is_up(PEER));
    assert!(!net.nodes[1].tunnels.is_up(PEER), "the responder waits for proof");
    assert_eq!(net.nodes[1].seal(net.now, b"E", false).err(), Some(NoSession::Idle));
    net.run(Duration::from_millis(100));
    let order: Vec<_> = net.log.iter().map(|seen| (seen.from, seek(&seen.bytes))).collect();
    assert_eq!(order, [(0, Seek::Initiation), (1, Seek::Response), (0, Seek::Keepalive)]);
    for (from, to) in [(0, 1), (1, 0)] {
        net.send(from, b"Ehello").unwrap();
        net.run(Duration::from_millis(100));
        assert_eq!(net.nodes[to].received.pop().unwrap()[..6], *b"Ehello");
        assert_eq!(net.nodes[to].said(&UP), 1);
    }
    assert!(net.nodes.iter().all(|node| node.drops.is_empty()));
    assert!(net.nodes[0].tunnels.last_handshake(PEER) < net.nodes[1].tunnels.last_handshake(PEER));
}

/// The responder's first word comes only after the initiator proved that it has the keys, even when that proof is
/// delayed and the responder has much to say.
#[test]
fn the_responder_stays_silent_until_the_initiator_confirms() {
    let mut net = Net::new();
    net.passes = Box::new(|from, bytes| !(from == 0 && seek(bytes) == Seek::Keepalive));
    let _ = net.send(0, b"E");
    for _ in 0..20 {
        net.run(Duration::from_millis(100));
        assert_eq!(net.send(1, b"E"), Err(NoSession::Handshaking));
    }
    assert_eq!(net.count(1, Seek::Data) + net.count(1, Seek::Keepalive), 0);
    net.send(0, b"Efirst").unwrap();
    net.run(Duration::from_millis(100));
    net.send(1, b"Eat last").unwrap();
    net.run(Duration::from_millis(100));
    assert_eq!(net.nodes[0].received.len(), 1);
}

#[test]
fn data_sent_at_once_takes_the_place_of_the_confirming_keepalive() {
    let mut net = Net::new();
    let now = net.now;
    let _ = net.nodes[0].tunnels.reserve(now, PEER, 1, true);
    let initiation = net.nodes[0].drain(now).remove(0);
    net.nodes[1].receive(now, origin(0), &initiation).unwrap();
    let response = net.nodes[1].drain(now).remove(0);
    let node = &mut net.nodes[0];
    node.receive(now, origin(1), &response).unwrap();
    let wall = node.wall(now);
    while node.tunnels.work(now, wall, &mut node.rng).more {}
    // The caller hears that the session is up and sends what it parked before it polls for transmits.
    assert_eq!(node.tunnels.poll_event(), Some(UP));
    let data = node.seal(now, b"Eparked", true).unwrap();
    assert!(node.drain(now).is_empty());
    net.nodes[1].receive(now, origin(0), &data).unwrap();
    net.nodes[1].drain(now);
    assert_eq!(net.nodes[1].said(&UP), 1);
}

#[test]
fn handshakes_that_cross_both_succeed_at_once() {
    let mut net = Net::new();
    let a = net.nodes[0].tunnels.reserve(net.now, PEER, 1, true);
    let b = net.nodes[1].tunnels.reserve(net.now, PEER, 1, true);
    assert_eq!((a, b), (Err(NoSession::Handshaking), Err(NoSession::Handshaking)));
    net.run(Duration::from_millis(300));
    for node in &net.nodes {
        assert_eq!(node.said(&UP), 1);
        assert!(node.drops.is_empty(), "{:?}", node.drops);
    }
    assert_eq!((net.count(0, Seek::Initiation), net.count(1, Seek::Initiation)), (1, 1));
    for n in 0..20u8 {
        for from in 0..2 {
            net.send(from, &[b'E', n]).unwrap();
        }
        net.run(Duration::from_millis(70));
    }
    assert!(net.nodes.iter().all(|node| node.received.len() == 20 && node.drops.is_empty()));
    net.run(secs(30));
    assert_eq!((net.count(0, Seek::Initiation), net.count(1, Seek::Initiation)), (1, 1));
}

/// A responder that wanted to initiate itself lets its own go when the other's came first.
#[test]
fn an_initiation_that_is_no_longer_needed_is_not_sent() {
    let mut net = Net::new();
    let _ = net.send(0, b"E");
    net.run(Duration::from_millis(60));
    assert_eq!(net.send(1, b"E"), Err(NoSession::Handshaking));
    net.run(secs(60));
    assert_eq!((net.count(0, Seek::Initiation), net.count(1, Seek::Initiation)), (1, 0));
    net.send(1, b"E").unwrap();
}

#[test]
fn a_response_to_an_older_initiation_is_refused_and_the_handshake_goes_on() {
    let mut net = Net::new();
    net.delay = secs(4);
    let _ = net.send(0, b"E");
    net.run(secs(7));
    assert_eq!(net.count(0, Seek::Initiation), 2);
    // The response to the first arrives at 8 s, after the second initiation left.
    net.run(secs(2));
    assert_eq!(net.nodes[0].drops, [DropReason::UnknownIndex]);
    net.delay = Duration::from_millis(50);
    net.run(secs(8));
    assert!(net.nodes[0].tunnels.is_up(PEER) && net.nodes[1].tunnels.is_up(PEER));
}

#[test]
fn a_pre_shared_key_must_match_and_counts_from_the_next_handshake() {
    let mut net = Net::of([Node::new(1, 0), Node::new(2, 0)], Some([7; 32]));
    let key = net.nodes[1].tunnels.public();
    net.nodes[0].tunnels.add_peer(PEER, &key, Some(&[8; 32])).unwrap();
    let _ = net.send(0, b"E");
    net.run(secs(1));
    assert_eq!(net.nodes[0].drops, [DropReason::Authentication]);
    net.nodes[0].tunnels.add_peer(PEER, &key, Some(&[7; 32])).unwrap();
    net.run(secs(6));
    assert!(net.nodes[1].tunnels.is_up(PEER));
    net.nodes[0].tunnels.add_peer(PEER, &key, None).unwrap();
    net.send(0, b"Estill").unwrap();
    net.run(secs(1));
    assert_eq!(net.nodes[1].received.len(), 1);
}

/// Data for a session that the receiver has lost: one initiation, at most every 5 s, and the flow goes on.
#[test]
fn a_restarted_node_initiates_when_data_with_an_unknown_index_comes() {
    let mut net = Net::connected();
    let identity = {
        let mut rng = Rng::new([1; 32]);
        StaticSecret::generate(&mut rng)
    };
    let peer = net.nodes[1].tunnels.public();
    net.nodes[0] = Node::with(identity, Rng::new([77; 32]), 0, memory(2, 17, 8));
    net.nodes[0].tunnels.add_peer(PEER, &peer, None).unwrap();
    net.run(secs(1));
    for n in 0..40u8 {
        net.send(1, &[b'E', n]).unwrap();
        net.run(Duration::from_millis(50));
        if net.nodes[0].drops.pop() == Some(DropReason::UnknownIndex) {
            net.nodes[0].tunnels.initiate(net.now, PEER);
            net.drain();
        }
    }
    assert_eq!(net.count(0, Seek::Initiation), 1);
    assert!(net.nodes[0].received.len() >= 36, "{}", net.nodes[0].received.len());
    assert_eq!(net.nodes[0].said(&UP), 1);
    assert_eq!(net.nodes[1].said(&UP), 0, "to node 1 nothing happened");
}

#[test]
fn a_clock_that_went_back_locks_a_node_out_unless_it_kept_its_floor() {
    for kept in [true, false] {
        let mut net = Net::connected();
        let floor = 1_700_000_000 + FLOOR_MARGIN;
        let identity = StaticSecret::generate(&mut Rng::new([1; 32]));
        let peer = net.nodes[1].tunnels.public();
        let floor = if kept { floor } else { 0 };
        net.nodes[0] = Node::with(identity, Rng::new([78; 32]), floor, memory(2, 17, 8));
        net.nodes[0].skew = -1_000_000;
        net.nodes[0].tunnels.add_peer(PEER, &peer, None).unwrap();
        let _ = net.send(0, b"E");
        net.run(secs(1));
        assert_eq!(net.nodes[0].tunnels.is_up(PEER), kept);
        assert_eq!(net.nodes[1].drops.contains(&DropReason::OldHandshake), !kept);
    }
}

#[test]
fn the_floor_is_told_before_the_initiation_leaves() {
    let mut node = Node::new(1, 0);
    node.tunnels.add_peer(PEER, &Node::new(2, 0).tunnels.public(), None).unwrap();
    let now = edgemesh_core::time::Instant::ZERO;
    let _ = node.tunnels.reserve(now, PEER, 1, true);
    let wall = node.wall(now);
    while node.tunnels.work(now, wall, &mut node.rng).more {}
    assert_eq!(node.tunnels.poll_event(), Some(TunnelEvent::PersistFloor(wall.secs + FLOOR_MARGIN)));
    assert!(node.tunnels.poll_transmit(now, &mut [0; 148]).is_some());
}

#[test]
fn keys_of_a_removed_peer_are_useless() {
    let mut net = Net::connected();
    let grant = net.nodes[0].tunnels.reserve(net.now, PEER, 3, true).unwrap();
    let sealed = net.nodes[1].seal(net.now, b"E", true).unwrap();
    assert_eq!(grant.count, 3);
    net.nodes[0].tunnels.remove_peer(PEER);
    assert_eq!(net.nodes[0].tunnels.poll_event(), None);
    assert!(net.nodes[0].tunnels.send_key::<edgemesh_core::noise::ChaChaPoly>(grant.key).is_none());
    assert!(net.nodes[0].tunnels.recv_key::<edgemesh_core::noise::ChaChaPoly>(grant.key).is_none());
    let now = net.now;
    assert_eq!(net.nodes[0].receive(now, origin(1), &sealed), Err(DropReason::UnknownIndex));
    assert_eq!(net.nodes[0].tunnels.reserve(now, PEER, 1, true), Err(NoSession::UnknownPeer));
    assert_eq!(net.nodes[0].tunnels.deadline(PEER), None);
    assert_eq!(net.nodes[0].tunnels.handle_timeout(now, PEER), None);
    // An initiation of the removed peer finds no one; the same peer added again finds a fresh start.
    net.nodes[1].tunnels.initiate(now.after(secs(6)), PEER);
    net.run(secs(7));
    let key = net.nodes[1].tunnels.public();
    assert_eq!(net.nodes[0].said(&TunnelEvent::Stranger(key)), 1);
    net.run(REKEY_TIMEOUT);
    net.nodes[0].tunnels.add_peer(PEER, &key, None).unwrap();
    net.nodes[0].deadline = None;
    net.drain();
    assert_eq!(net.nodes[0].drops, [DropReason::UnknownPeer], "it waited for too long");
    let _ = net.send(0, b"E");
    net.run(secs(1));
    net.send(0, b"E").unwrap();
}

#[test]
fn removing_a_peer_ends_its_handshake_wherever_it_is() {
    // The number of steps after which the peer goes.
    for steps in 0..12 {
        let mut net = Net::new();
        let _ = net.nodes[0].tunnels.reserve(net.now, PEER, 1, true);
        let _ = net.nodes[1].tunnels.reserve(net.now, PEER, 1, true);
        let out = net.nodes[1].drain(net.now);
        let now = net.now;
        net.nodes[0].receive(now, origin(1), &out[0]).unwrap();
        let node = &mut net.nodes[0];
        let wall = node.wall(now);
        for _ in 0..steps {
            let _ = node.tunnels.work(now, wall, &mut node.rng);
        }
        node.tunnels.remove_peer(PEER);
        node.deadline = None;
        while node.tunnels.poll_deadline().is_some() {}
        assert!(node.drain(now).is_empty(), "after {steps} steps");
        // A new peer in the same place has nothing of the old one.
        let other = Node::new(3, 0);
        node.tunnels.add_peer(PEER, &other.tunnels.public(), None).unwrap();
        assert!(node.drain(now).is_empty());
        assert_eq!(node.tunnels.deadline(PEER), None);
    }
}

/// Data in the old session is no proof that the initiator has the new keys.
#[test]
fn a_renewal_whose_response_is_lost_leaves_the_old_session_in_use() {
    let mut net = Net::connected();
    net.passes = Box::new(|_, bytes| seek(bytes) != Seek::Response);
    net.run(secs(10));
    net.nodes[0].tunnels.initiate(net.now, PEER);
    net.run(secs(1));
    assert_eq!(net.count(1, Seek::Response), 1);
    for _ in 0..3 {
        net.send(0, b"Eold").unwrap();
        net.run(Duration::from_millis(100));
        net.send(1, b"Eold").unwrap();
        net.run(Duration::from_millis(100));
    }
    assert!(net.nodes.iter().all(|node| node.received.len() == 3 && node.drops.is_empty()));
    net.passes = Box::new(|_, _| true);
    net.run(secs(6));
    net.send(1, b"Enew").unwrap();
    net.run(secs(1));
    assert_eq!(net.nodes[0].received.len(), 4);
}

#[test]
fn removing_a_peer_keeps_others_in_their_queues() {
    let mut node = Node::with(StaticSecret::from_bytes([1; 32]), Rng::new([1; 32]), 0, memory(4, 2, 8));
    let now = edgemesh_core::time::Instant::ZERO;
    for n in 1..=4 {
        let key = StaticSecret::from_bytes([10 + n; 32]).public();
        node.tunnels.add_peer(PeerId(u32::from(n)), &key, None).unwrap();
        node.tunnels.initiate(now, PeerId(u32::from(n)));
    }
    node.tunnels.remove_peer(PeerId(1));
    node.tunnels.remove_peer(PeerId(3));
    let wall = node.wall(now);
    while node.tunnels.work(now, wall, &mut node.rng).more {}
    let mut out = [0; 148];
    let mut next = || node.tunnels.poll_transmit(now, &mut out).and_then(|transmit| transmit.peer);
    assert_eq!([next(), next(), next()], [Some(PeerId(2)), Some(PeerId(4)), None]);
    let mut told: Vec<_> = core::iter::from_fn(|| node.tunnels.poll_deadline()).map(|d| d.0).collect();
    told.sort();
    assert_eq!(told, [PeerId(2), PeerId(4)]);
}

/// The record of a node may come after its first message.
#[test]
fn an_initiation_waits_for_its_sender_to_become_a_peer() {
    let mut net = Net::new();
    let [a, b] = [0, 1].map(|n: usize| net.nodes[n].tunnels.public());
    net.nodes[1].tunnels.remove_peer(PEER);
    let _ = net.send(0, b"E");
    net.run(secs(1));
    assert_eq!(net.nodes[1].events, [TunnelEvent::Stranger(a)]);
    net.nodes[1].tunnels.add_peer(PEER, &a, None).unwrap();
    net.run(Duration::from_millis(200));
    assert!(net.nodes[1].tunnels.is_up(PEER));
    assert_eq!((net.count(0, Seek::Initiation), net.count(1, Seek::Response)), (1, 1));
    assert_eq!(net.nodes[0].tunnels.find_peer(&b), Some(PEER));
    assert!(net.nodes.iter().all(|node| node.drops.is_empty()));
}

#[test]
fn the_oldest_stranger_gives_way() {
    let mut net = Net::new();
    let now = net.now;
    let strangers: Vec<_> = (10..16)
        .map(|seed| {
            let mut node = Node::new(seed, 0);
            node.tunnels.add_peer(PEER, &net.nodes[1].tunnels.public(), None).unwrap();
            node.tunnels.initiate(now, PEER);
            let message = node.drain(now).remove(0);
            (node.tunnels.public(), message)
        })
        .collect();
    for (key, message) in &strangers {
        net.nodes[1].receive(now, origin(7), message).unwrap();
        net.nodes[1].drain(now);
        assert_eq!(net.nodes[1].said(&TunnelEvent::Stranger(*key)), 1);
    }
    // Of eight jobs two may be strangers'.
    assert_eq!(net.nodes[1].drops, [DropReason::UnknownPeer; 4]);
    for (n, (key, _)) in strangers.iter().enumerate() {
        net.nodes[1].tunnels.add_peer(PeerId(2), key, None).unwrap();
        let answered = net.nodes[1].tunnels.work(now, net.nodes[1].wall(now), &mut Rng::new([0; 32])).more;
        assert_eq!(answered, n >= 4, "stranger {n}");
        while net.nodes[1].tunnels.poll_transmit(now, &mut [0; 148]).is_some() {}
    }
}

#[test]
fn the_round_trip_of_the_handshake_is_known() {
    let net = Net::connected();
    for node in &net.nodes {
        assert_eq!(node.tunnels.handshake_rtt(PEER), Some(Duration::from_millis(100)));
    }
}

#[test]
fn peers_are_unique_and_not_ourselves() {
    let mut node = Node::new(1, 0);
    let (me, a, b) = (node.tunnels.public(), PublicKey([1; 32]), PublicKey([2; 32]));
    let t = &mut node.tunnels;
    assert_eq!(t.add_peer(PeerId(1), &me, None), Err(AddPeerError::OwnKey));
    assert_eq!(t.add_peer(PeerId(0), &a, None), Err(AddPeerError::NoSlot));
    assert_eq!(t.add_peer(PeerId(3), &a, None), Err(AddPeerError::NoSlot));
    assert_eq!(t.add_peer(PeerId(1), &a, None), Ok(()));
    assert_eq!(t.add_peer(PeerId(2), &a, None), Err(AddPeerError::DuplicateKey));
    assert_eq!(t.add_peer(PeerId(1), &b, None), Ok(()));
    assert_eq!((t.find_peer(&a), t.find_peer(&b)), (None, Some(PeerId(1))));
    assert_eq!(t.add_peer(PeerId(2), &a, None), Ok(()));
    t.remove_peer(PeerId(1));
    assert_eq!((t.find_peer(&a), t.find_peer(&b)), (Some(PeerId(2)), None));
}

/// One X25519 a call: a responder that sees a peer for the first time takes five calls, later four; an initiator
/// three, then two, and two for the response.
#[test]
fn work_comes_in_single_steps() {
    let mut net = Net::new();
    let steps = |node: &mut Node, now| {
        let wall = node.wall(now);
        let mut n = 1;
        while node.tunnels.work(now, wall, &mut node.rng).more {
            n += 1;
        }
        let mut out = [0; 148];
        let len = node.tunnels.poll_transmit(now, &mut out).map_or(0, |t| t.len);
        (n, out[..len].to_vec())
    };
    for round in 0..2 {
        net.now = net.now.after(secs(10));
        let now = net.now;
        net.nodes[0].tunnels.initiate(now, PEER);
        let (n, initiation) = steps(&mut net.nodes[0], now);
        assert_eq!(n, 3 - round);
        net.nodes[1].receive(now, origin(0), &initiation).unwrap();
        let (n, response) = steps(&mut net.nodes[1], now);
        assert_eq!(n, 5 - round);
        net.nodes[0].receive(now, origin(1), &response).unwrap();
        let (n, keepalive) = steps(&mut net.nodes[0], now);
        assert_eq!((n, keepalive.len()), (2, 32));
        net.nodes[1].receive(now, origin(0), &keepalive).unwrap();
    }
}
