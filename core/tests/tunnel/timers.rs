//! Every timer of the whitepaper's section 6, as the eavesdropper sees it.

use edgemesh_core::counters::DropReason;
use edgemesh_core::time::Duration;
use edgemesh_core::tunnel::*;

use crate::net::*;

const DOWN: TunnelEvent = TunnelEvent::SessionDown { peer: PEER };
const UP: TunnelEvent = TunnelEvent::SessionUp { peer: PEER };
const FAILED: TunnelEvent = TunnelEvent::HandshakeFailed { peer: PEER };

/// Keeps a flow in one direction going, a packet every 100 ms.
fn stream(net: &mut Net, from: usize, span: Duration) {
    let end = net.now.after(span);
    while net.now < end {
        net.send(from, b"E").unwrap();
        net.run(Duration::from_millis(100));
    }
}

#[test]
fn an_idle_session_says_nothing_and_dies() {
    let mut net = Net::connected();
    net.run(secs(179));
    assert!(net.log.is_empty());
    assert!(net.nodes.iter().all(|node| node.said(&DOWN) == 0));
    net.run(secs(2));
    assert!(net.nodes.iter().all(|node| node.said(&DOWN) == 1 && !node.tunnels.is_up(PEER)));
    assert!(net.log.is_empty());
    // The keys are still there, and forgotten at 540 s.
    net.run(secs(350));
    let known = |net: &Net| net.nodes[1].tunnels.classify(&net.confirmation);
    assert_eq!(known(&net), Datagram::Drop(DropReason::Replay));
    net.run(secs(20));
    assert_eq!(known(&net), Datagram::Drop(DropReason::UnknownIndex));
    assert!(net.nodes.iter().all(|node| node.events == [DOWN] && node.tunnels.deadline(PEER).is_none()));
    assert!(net.log.is_empty());
}

#[test]
fn an_expired_session_is_neither_sent_nor_received_in() {
    let mut net = Net::connected();
    let late = net.nodes[1].seal(net.now, b"Elate", true).unwrap();
    let now = net.now.after(secs(181));
    assert_eq!(net.nodes[0].receive(now, origin(1), &late), Err(DropReason::SessionExpired));
    // Even when the timer has not run yet.
    assert_eq!(net.nodes[0].seal(now, b"E", false).err(), Some(NoSession::Idle));
    assert_eq!(net.nodes[0].seal(now, b"E", true).err(), Some(NoSession::Handshaking));
    net.now = now;
    net.run(secs(1));
    assert_eq!((net.nodes[0].said(&DOWN), net.nodes[0].said(&UP)), (1, 1));
    let at = |event| net.nodes[0].events.iter().position(|e| *e == event);
    assert!(at(DOWN) < at(UP));
}

#[test]
fn the_initiator_renews_at_120_s_when_it_sends() {
    let mut net = Net::connected();
    stream(&mut net, 0, secs(118));
    assert_eq!(net.count(0, Seek::Initiation), 0);
    stream(&mut net, 0, secs(400));
    let times = net.times(0, Seek::Initiation);
    assert_eq!((times.len(), net.count(1, Seek::Initiation)), (4, 0));
    assert!(times.windows(2).all(|w| (120_000..120_500).contains(&(w[1] - w[0]))), "{times:?}");
    assert_eq!(net.nodes[1].received.len(), 5180, "none was lost on the way");
    assert!(
        net.nodes.iter().all(|node| node.drops.is_empty() && node.said(&DOWN) == 0 && node.said(&UP) == 0)
    );
}

/// The responder never renews on sending; the initiator, which only hears it, does: by its keepalives at 120 s,
/// as the kernel does.
#[test]
fn a_one_way_flow_from_the_responder_is_renewed_by_the_initiator() {
    let mut net = Net::connected();
    stream(&mut net, 1, secs(300));
    assert_eq!(net.count(1, Seek::Initiation), 0);
    let times = net.times(0, Seek::Initiation);
    assert_eq!(times.len(), 2);
    assert!((120_000..131_500).contains(&(times[0] - 1000)), "{times:?}");
    assert!(net.nodes.iter().all(|node| node.drops.is_empty() && node.said(&DOWN) == 0));
}

/// At 165 s the initiator renews on receiving, once; here its keepalives are due later than that.
#[test]
fn the_initiator_renews_at_165_s_when_it_receives() {
    let mut net = Net::connected();
    net.run(secs(164));
    net.send(1, b"E").unwrap();
    net.run(secs(2));
    assert_eq!(net.count(0, Seek::Initiation), 0, "164 s is too early");
    net.passes = Box::new(|from, bytes| !(from == 0 && seek(bytes) == Seek::Initiation));
    for _ in 0..30 {
        net.send(1, b"E").unwrap();
        net.run(Duration::from_millis(100));
    }
    assert_eq!(net.count(0, Seek::Initiation), 1);
    net.passes = Box::new(|_, _| true);
    net.run(secs(6));
    assert_eq!((net.count(0, Seek::Initiation), net.count(1, Seek::Response)), (2, 1));
    assert!(net.nodes.iter().all(|node| node.said(&DOWN) == 0));
}

#[test]
fn initiations_repeat_every_5_s_for_90_s_and_then_stop() {
    let mut net = Net::new();
    net.passes = Box::new(|_, _| false);
    let _ = net.send(0, b"E");
    net.run(secs(200));
    let times = net.times(0, Seek::Initiation);
    assert_eq!(times.len(), 18, "{times:?}");
    let gaps: Vec<_> = times.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(gaps.iter().all(|gap| (5000..5335).contains(gap)), "{gaps:?}");
    assert!(gaps.iter().any(|gap| *gap != gaps[0]), "no jitter");
    let unique: std::collections::HashSet<_> = net.log.iter().map(|seen| &seen.bytes[4..40]).collect();
    assert_eq!(unique.len(), 18, "every initiation has its own index and ephemeral key");
    assert_eq!(net.nodes[0].said(&FAILED), 1);
    // The next packet tries again.
    let _ = net.send(0, b"E");
    assert_eq!(net.count(0, Seek::Initiation), 19);
}

#[test]
fn packets_do_not_speed_initiations_up_but_keep_them_going() {
    let mut net = Net::new();
    net.passes = Box::new(|_, _| false);
    for _ in 0..2000 {
        assert_eq!(net.send(0, b"E"), Err(NoSession::Handshaking));
        net.run(Duration::from_millis(100));
    }
    let gaps: Vec<_> = net.times(0, Seek::Initiation).windows(2).map(|w| w[1] - w[0]).collect();
    assert!(gaps.iter().all(|gap| (5000..5335).contains(gap)), "{gaps:?}");
    assert!(gaps.len() >= 37, "{}", gaps.len());
    assert_eq!(net.nodes[0].said(&FAILED), 0);
}

#[test]
fn initiate_has_its_own_rate_limit() {
    let mut net = Net::connected();
    for _ in 0..30 {
        net.nodes[0].tunnels.initiate(net.now, PEER);
        net.drain();
        net.run(Duration::from_millis(500));
    }
    let times = net.times(0, Seek::Initiation);
    assert!((2..=3).contains(&times.len()), "{times:?}");
    assert!(times.windows(2).all(|w| w[1] - w[0] >= 5000), "{times:?}");
    net.run(secs(10));
    assert!(net.nodes.iter().all(|node| node.drops.is_empty()));
}

#[test]
fn an_initiation_in_doubt_is_repeated_once_after_1_s_and_a_lost_one_at_once() {
    let mut net = Net::new();
    net.passes = Box::new(|_, _| false);
    let _ = net.send(0, b"E");
    let gaps = |net: &Net| net.times(0, Seek::Initiation).windows(2).map(|w| w[1] - w[0]).collect::<Vec<_>>();
    net.run(Duration::from_millis(100));
    // Somebody tells of the peer, by the same way as before.
    net.nodes[0].tunnels.found(net.now, PEER, false, [Some(1), Some(1)]);
    net.run(secs(8));
    let doubted = gaps(&net);
    assert!(matches!(doubted[..], [1000..1335, 5000..5335]), "{doubted:?}");
    // The way is another one; then again, but there is none.
    net.nodes[0].tunnels.found(net.now, PEER, false, [Some(1), Some(2)]);
    net.run(Duration::from_millis(1));
    net.nodes[0].tunnels.found(net.now, PEER, true, [Some(2), None]);
    net.run(secs(3));
    assert_eq!(gaps(&net).len(), 3);
    // A message that could not be sent does not count.
    net.nodes[0].tunnels.unsent(&Transmit { peer: Some(PEER), answer: None, len: 0 });
    net.nodes[0].tunnels.initiate(net.now, PEER);
    net.run(Duration::from_millis(1));
    assert_eq!(gaps(&net).len(), 4);
}

#[test]
fn news_of_a_peer_that_nobody_wants_or_that_is_up_starts_nothing() {
    let mut net = Net::new();
    net.nodes[0].tunnels.found(net.now, PEER, false, [None, Some(1)]);
    net.run(secs(10));
    let mut up = Net::connected();
    up.nodes[0].tunnels.found(up.now, PEER, true, [Some(1), Some(2)]);
    up.run(secs(10));
    assert_eq!((net.log.len(), up.log.len()), (0, 0));
}

#[test]
fn a_response_that_did_not_arrive_is_followed_by_an_initiation_after_1_s() {
    let mut net = Net::new();
    net.passes = Box::new(|from, _| from == 0);
    let _ = net.send(0, b"E");
    net.run(Duration::from_millis(100));
    assert_eq!(net.count(1, Seek::Response), 1);
    // Data in a session that this node does not know.
    net.nodes[1].tunnels.initiate(net.now, PEER);
    net.run(Duration::from_millis(1400));
    assert_eq!(net.count(1, Seek::Initiation), 1);
}

#[test]
fn a_receiver_with_nothing_to_say_sends_a_keepalive_after_10_s() {
    let mut net = Net::connected();
    let start = net.now.as_micros() / 1000;
    net.send(0, b"E").unwrap();
    net.run(secs(60));
    assert_eq!(net.times(1, Seek::Keepalive), [start + 50 + 10_000]);
    assert_eq!(net.count(0, Seek::Keepalive), 0, "a keepalive is not answered");
    // Data of its own makes one needless.
    net.send(0, b"E").unwrap();
    net.run(secs(5));
    net.send(1, b"E").unwrap();
    net.run(secs(4));
    net.send(0, b"E").unwrap();
    net.run(secs(2));
    net.send(1, b"E").unwrap();
    net.run(secs(9));
    assert_eq!((net.count(0, Seek::Keepalive), net.count(1, Seek::Keepalive)), (0, 1));
}

#[test]
fn data_while_a_keepalive_waits_asks_for_one_more() {
    let mut net = Net::connected();
    let start = net.now.as_micros() / 1000;
    stream(&mut net, 0, secs(25));
    net.run(secs(60));
    // Data came during each of the first three waits, so each is followed by another, as in the kernel.
    let times: Vec<_> = net.times(1, Seek::Keepalive).iter().map(|at| at - start).collect();
    assert_eq!(times, [10_050, 20_050, 30_050, 40_050]);
    assert_eq!(net.count(0, Seek::Initiation), 0);
}

#[test]
fn silence_for_15_s_after_data_starts_a_handshake() {
    let mut net = Net::connected();
    net.passes = Box::new(|from, _| from == 0);
    let start = net.now.as_micros() / 1000;
    net.send(0, b"E").unwrap();
    net.run(secs(14));
    assert_eq!(net.count(0, Seek::Initiation), 0);
    net.run(secs(2));
    let times = net.times(0, Seek::Initiation);
    assert!(times.len() == 1 && (15_000..15_335).contains(&(times[0] - start)), "{times:?}");
    net.passes = Box::new(|_, _| true);
    net.run(secs(6));
    assert_eq!(net.nodes[0].said(&DOWN), 0);
    assert_eq!(net.count(0, Seek::Initiation), 2);
    net.run(secs(100));
    assert_eq!(net.count(0, Seek::Initiation), 2);
}

/// Messages of the path layer use a session; they neither make it nor keep it.
#[test]
fn probes_neither_start_nor_renew_a_session() {
    let mut net = Net::new();
    assert_eq!(net.probe(0), Err(NoSession::Idle));
    net.run(secs(5));
    assert!(net.log.is_empty());
    let mut net = Net::connected();
    for _ in 0..178 {
        net.probe(0).unwrap();
        net.probe(1).unwrap();
        net.run(secs(1));
    }
    assert!(net.nodes.iter().all(|node| node.received.len() == 178));
    assert_eq!(net.log.len(), 2 * 178, "only probes were seen");
    net.run(secs(5));
    assert_eq!(net.probe(0), Err(NoSession::Idle));
    assert_eq!(net.nodes[0].said(&DOWN), 1);
    // While a handshake is under way, a probe may wait for it.
    let _ = net.send(0, b"E");
    assert_eq!(net.probe(0), Err(NoSession::Handshaking));
}

#[test]
fn a_handshake_that_fails_in_the_end_does_not_keep_keys_for_ever() {
    let mut net = Net::connected();
    let late = net.nodes[1].seal(net.now, b"Elate", true).unwrap();
    net.passes = Box::new(|_, _| false);
    net.send(0, b"E").unwrap();
    net.run(secs(700));
    assert_eq!((net.nodes[0].said(&FAILED), net.nodes[0].said(&DOWN)), (1, 1));
    assert_eq!(net.nodes[0].tunnels.deadline(PEER), None);
    assert_eq!(net.nodes[0].receive(net.now, origin(1), &late), Err(DropReason::UnknownIndex));
}
