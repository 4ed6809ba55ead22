//! What a stranger, an eavesdropper or a flood can do: cost a counter.

use edgemesh_core::counters::DropReason;
use edgemesh_core::noise::StaticSecret;
use edgemesh_core::rng::Rng;
use edgemesh_core::time::{Duration, Instant};
use edgemesh_core::tunnel::*;

use crate::net::*;

/// An initiation by node 0, unsent.
fn initiation(net: &mut Net) -> Vec<u8> {
    net.nodes[0].tunnels.initiate(net.now, PEER);
    net.nodes[0].drain(net.now).remove(0)
}

#[test]
fn replayed_and_altered_initiations_are_refused() {
    let mut net = Net::new();
    let good = initiation(&mut net);
    let now = net.now;
    for at in 0..148 {
        let mut bad = good.clone();
        bad[at] ^= 0x20;
        let verdict = net.nodes[1].receive(now, origin(0), &bad);
        match at {
            0..4 => assert_eq!(verdict, Err(DropReason::UnknownDatagram)),
            4..132 => assert_eq!(verdict, Err(DropReason::Authentication)),
            _ => assert_eq!(verdict, Ok(()), "mac2 does not count without load"),
        }
        if at >= 132 {
            net.nodes[1].drain(now);
        }
    }
    // The copies with a bad mac2 were one valid initiation and its replays.
    assert_eq!(net.nodes[1].drops, [DropReason::OldHandshake; 15]);
    assert_eq!(net.nodes[1].receive(now, origin(0), &good), Ok(()));
    assert!(net.nodes[1].drain(now).is_empty());
    assert_eq!(net.nodes[1].drops.len(), 16);
}

#[test]
fn initiations_that_come_too_fast_are_refused() {
    let mut net = Net::new();
    let first = initiation(&mut net);
    net.now = net.now.after(secs(6));
    let second = initiation(&mut net);
    let now = net.now;
    net.nodes[1].receive(now, origin(0), &first).unwrap();
    net.nodes[1].receive(now, origin(0), &second).unwrap();
    assert_eq!(net.nodes[1].drain(now).len(), 1);
    assert_eq!(net.nodes[1].drops, [DropReason::HandshakeLimit]);
    let later = now.after(INITIATION_GAP);
    net.nodes[1].receive(later, origin(0), &second).unwrap();
    assert_eq!(net.nodes[1].drain(later).len(), 1);
}

#[test]
fn altered_and_foreign_responses_change_nothing() {
    let mut net = Net::new();
    let init = initiation(&mut net);
    let now = net.now;
    net.nodes[1].receive(now, origin(0), &init).unwrap();
    let good = net.nodes[1].drain(now).remove(0);
    for at in 0..76 {
        let mut bad = good.clone();
        bad[at] ^= 4;
        assert!(net.nodes[0].receive(now, origin(1), &bad).is_err());
    }
    let mut twice = good.clone();
    twice[91] ^= 1;
    net.nodes[0].receive(now, origin(1), &good).unwrap();
    net.nodes[0].receive(now, origin(1), &twice).unwrap();
    assert_eq!(net.nodes[0].drain(now).len(), 1);
    assert_eq!(net.nodes[0].drops, [DropReason::UnknownIndex], "the second finds its handshake done");
    assert_eq!(net.nodes[0].receive(now, origin(1), &good), Err(DropReason::UnknownIndex));
}

#[test]
fn a_stranger_costs_one_agreement_and_gets_no_answer() {
    let mut net = Net::new();
    let mut stranger = Node::new(9, 0);
    let key = net.nodes[1].tunnels.public();
    stranger.tunnels.add_peer(PEER, &key, None).unwrap();
    stranger.tunnels.initiate(net.now, PEER);
    let init = stranger.drain(net.now).remove(0);
    let now = net.now;
    net.nodes[1].receive(now, origin(0), &init).unwrap();
    assert!(net.nodes[1].drain(now).is_empty());
    assert_eq!(net.nodes[1].events, [TunnelEvent::Stranger(stranger.tunnels.public())]);
}

/// A peer whose key is a point of small order: the directory should not have signed it, and we do not use it.
#[test]
fn a_weak_key_fails_the_handshake() {
    let mut node = Node::new(1, 0);
    node.tunnels.add_peer(PEER, &edgemesh_core::noise::PublicKey([0; 32]), None).unwrap();
    let now = Instant::ZERO;
    assert_eq!(node.tunnels.reserve(now, PEER, 1, true), Err(NoSession::Handshaking));
    assert!(node.drain(now).is_empty());
    assert_eq!(node.drops, [DropReason::WeakKey]);
    assert_eq!(node.said(&TunnelEvent::HandshakeFailed { peer: PEER }), 1);
}

#[test]
fn data_is_accepted_once_and_only_unaltered() {
    let mut net = Net::connected();
    let now = net.now;
    let good = net.nodes[0].seal(now, b"Eonce", true).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        let reason = match at {
            0..4 => DropReason::UnknownDatagram,
            4..8 => DropReason::UnknownIndex,
            _ => DropReason::Authentication,
        };
        if at == 8 {
            continue; // Counter 1 becomes 0, which the keepalive had: checked below.
        }
        assert_eq!(net.nodes[1].receive(now, origin(0), &bad), Err(reason), "byte {at}");
    }
    let mut old = good.clone();
    old[8] ^= 1;
    assert_eq!(net.nodes[1].receive(now, origin(0), &old), Err(DropReason::Replay));
    assert_eq!(net.nodes[1].receive(now, origin(0), &good), Ok(()));
    assert_eq!(net.nodes[1].receive(now, origin(0), &good), Err(DropReason::Replay));
    assert_eq!(net.nodes[1].received.len(), 1);
    assert_eq!(net.nodes[1].receive(now, origin(0), &good[..31]), Err(DropReason::Malformed));
}

/// Two threads may open the same datagram; one commit wins.
#[test]
fn opening_twice_commits_once() {
    let mut net = Net::connected();
    let now = net.now;
    let sealed = net.nodes[0].seal(now, b"E", true).unwrap();
    let node = &mut net.nodes[1];
    let opened = [(); 2].map(|()| {
        let Datagram::Data(ticket) = node.tunnels.classify(&sealed) else { panic!("no data") };
        let key = node.tunnels.recv_key::<edgemesh_core::noise::ChaChaPoly>(ticket.key).unwrap();
        let mut bytes = sealed.clone();
        let len = bytes.len();
        open(&key, ticket, &mut edgemesh_core::packet::Packet::new(&mut bytes, 0, len).unwrap()).unwrap()
    });
    assert_eq!(node.tunnels.commit(now, opened[0]), Ok(PEER));
    assert_eq!(node.tunnels.commit(now, opened[1]), Err(DropReason::Replay));
    node.tunnels.remove_peer(PEER);
    assert_eq!(node.tunnels.commit(now, opened[1]), Err(DropReason::UnknownIndex));
}

#[test]
fn reordering_within_the_window_is_accepted_and_beyond_it_is_not() {
    let mut net = Net::connected();
    let now = net.now;
    let all: Vec<_> = (0..1100).map(|_| net.nodes[0].seal(now, b"E", true).unwrap()).collect();
    let node = &mut net.nodes[1];
    assert_eq!(node.receive(now, origin(0), &all[1099]), Ok(()));
    // A window of 17 words covers 1,024 counters below the greatest.
    for at in (0..1099).rev() {
        let expected = if at >= 1099 - 1024 { Ok(()) } else { Err(DropReason::Replay) };
        assert_eq!(node.receive(now, origin(0), &all[at]), expected, "{at}");
    }
}

/// A flood fills half the queue; then senders must prove their address, and a peer that does gets through.
#[test]
fn under_load_a_peer_gets_through_with_a_cookie() {
    let mut net = Net::new();
    let now = net.now;
    // Initiations that pass mac1 only: anybody who knows the public key can make them.
    let mut rng = Rng::new([40; 32]);
    let flood: Vec<_> = (0..6)
        .map(|_| {
            let mut node =
                Node::with(StaticSecret::generate(&mut rng), Rng::new(rng.bytes()), 0, memory(1, 2, 4));
            node.tunnels.add_peer(PEER, &net.nodes[1].tunnels.public(), None).unwrap();
            node.tunnels.initiate(now, PEER);
            node.drain(now).remove(0)
        })
        .collect();
    let verdicts: Vec<_> = flood.iter().map(|m| net.nodes[1].receive(now, origin(5), m)).collect();
    assert_eq!(verdicts[..4], [Ok(()); 4]);
    assert_eq!(verdicts[4..], [Err(DropReason::HandshakeLimit); 2]);
    // The peer comes in the middle of it.
    let init = initiation(&mut net);
    assert_eq!(net.nodes[1].receive(now, origin(0), &init), Err(DropReason::HandshakeLimit));
    let mut out = [0; 148];
    let mut replies = vec![];
    while let Some(transmit) = net.nodes[1].tunnels.poll_transmit(now, &mut out) {
        assert_eq!((transmit.peer, transmit.len), (None, 64));
        if transmit.answer == Some(origin(0)) {
            replies.push(out[..64].to_vec());
        }
    }
    assert_eq!(replies.len(), 1);
    let mut bad = replies[0].clone();
    bad[40] ^= 1;
    assert_eq!(net.nodes[0].receive(now, origin(1), &bad), Err(DropReason::Authentication));
    assert_eq!(net.nodes[0].receive(now, origin(1), &replies[0]), Ok(()));
    assert_eq!(net.nodes[0].receive(now, origin(1), &replies[0]), Err(DropReason::UnknownIndex));
    // The cookie does not make it send sooner; its next initiation carries it, while the load lasts.
    assert!(net.nodes[0].drain(now).is_empty());
    net.nodes[1].drain(now);
    let now = now.after(Duration::from_millis(5500));
    net.now = now;
    for message in &flood[..4] {
        net.nodes[1].receive(now, origin(5), message).unwrap();
    }
    net.nodes[0].deadline = net.nodes[0].tunnels.handle_timeout(now, PEER);
    let init = net.nodes[0].drain(now).remove(0);
    assert_ne!(init[132..], [0; 16]);
    assert_eq!(
        net.nodes[1].receive(now, origin(3), &init),
        Err(DropReason::HandshakeLimit),
        "not its address"
    );
    assert_eq!(net.nodes[1].receive(now, origin(0), &init), Ok(()));
    let answer = net.nodes[1].drain(now);
    let response = answer.iter().find(|m| seek(m) == Seek::Response).unwrap();
    net.nodes[0].receive(now, origin(1), response).unwrap();
    net.nodes[0].drain(now);
    assert!(net.nodes[0].tunnels.is_up(PEER));
}

#[test]
fn a_full_queue_refuses_and_leaves_room_for_our_own() {
    let mut net = Net::new();
    net.nodes[1] = {
        let mut rng = Rng::new([2; 32]);
        let identity = StaticSecret::generate(&mut rng);
        Node::with(identity, rng, 0, memory(2, 17, 2))
    };
    let key = net.nodes[0].tunnels.public();
    net.nodes[1].tunnels.add_peer(PEER, &key, None).unwrap();
    let init = initiation(&mut net);
    let now = net.now;
    // A stranger takes the only place until somebody else needs it.
    let mut stranger = Node::new(9, 0);
    stranger.tunnels.add_peer(PEER, &net.nodes[1].tunnels.public(), None).unwrap();
    stranger.tunnels.initiate(now, PEER);
    let strange = stranger.drain(now).remove(0);
    assert_eq!(net.nodes[1].receive(now, origin(7), &strange), Ok(()));
    assert_eq!(net.nodes[1].receive(now, origin(0), &init), Err(DropReason::QueueFull));
    assert!(net.nodes[1].drain(now).is_empty());
    assert_eq!(net.nodes[1].receive(now, origin(0), &init), Ok(()));
    assert_eq!(net.nodes[1].receive(now, origin(0), &init), Err(DropReason::QueueFull));
    net.nodes[1].tunnels.initiate(now, PEER);
    let sent: Vec<_> = net.nodes[1].drain(now).iter().map(|m| seek(m)).collect();
    assert!(sent.contains(&Seek::Response), "{sent:?}");
}

#[test]
fn things_that_are_no_messages_are_refused() {
    let mut net = Net::connected();
    let now = net.now;
    let data = net.nodes[0].seal(now, b"E", true).unwrap();
    let node = &mut net.nodes[1];
    let mut message = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        node.tunnels.message(now, &origin(0), &mut bytes, &mut node.rng)
    };
    assert_eq!(message(&data), Err(DropReason::Malformed));
    assert_eq!(message(b"GET / HTTP/1.1"), Err(DropReason::UnknownDatagram));
    assert_eq!(message(&[1, 0, 0, 0, 0]), Err(DropReason::Malformed));
    let mut cookie = [0; 64];
    cookie[0] = 3;
    assert_eq!(message(&cookie), Err(DropReason::UnknownIndex));
    assert_eq!(
        net.nodes[1].tunnels.classify(b"\0\x01\0\0\x21\x12\xa4\x42"),
        Datagram::Drop(DropReason::UnknownDatagram)
    );
}
