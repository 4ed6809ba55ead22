//! What a hostile peer, a stranger and a full table can do: cost a counter.

use super::world::{PEER, R, SECOND, server};
use crate::counters::DropReason;
use crate::path::{
    AckSlot, Config, Event, Local, PathSlot, Paths, PeerId, RelayVia, Relayed, Resources, Route, Source,
    Terms, Transmit,
};
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use crate::wire::control::Network;
use crate::wire::path::{self, Candidates, Kind, Message as PathMessage, Probe, ProbeAck, Proof};
use crate::wire::relay::Message;
use proptest::prelude::*;
use std::boxed::Box;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::vec;
use std::vec::Vec;

const KEY: [u8; 32] = [5; 32];
const UDP: RelayVia = RelayVia::Udp {
    local: 0,
    server: SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1)), 20_004),
};

fn at(ms: u64) -> Instant {
    Instant::from_micros(1_000_000 + ms * 1_000)
}

fn paths(peers: usize, acks: usize) -> Paths<'static> {
    let resources = Resources {
        peers: Box::leak(vec![PathSlot::EMPTY; peers].into_boxed_slice()),
        acks: Box::leak(vec![AckSlot::EMPTY; acks].into_boxed_slice()),
        sessions: Box::leak(vec![0; (peers * 2).next_power_of_two()].into_boxed_slice()),
    };
    Paths::new(resources, Config { inner_mtu_max: 1_408 }, &mut Rng::new([3; 32]))
}

fn terms() -> Terms {
    Terms { server: server(), local: 0, index: 1, key: KEY, epoch: 10 }
}

/// Bound, with a session to peer 1.
fn bound(peers: usize, acks: usize) -> Paths<'static> {
    let mut paths = paths(peers, acks);
    paths.welcome(at(0), &terms());
    let mut out = [0; 64];
    paths.poll_relay(at(0), &mut out).unwrap();
    let len = Message::Challenge { index: 1, cookie: [7; 16] }.emit(&KEY, &mut out).unwrap();
    assert_eq!(paths.relay_datagram(at(1), UDP, &out[..len]), Ok(Relayed::Handled));
    paths.poll_relay(at(1), &mut out).unwrap();
    let observed = "198.51.100.2:30000".parse().unwrap();
    let len = Message::Bound { index: 1, epoch: 12, observed }.emit(&KEY, &mut out).unwrap();
    assert_eq!(paths.relay_datagram(at(2), UDP, &out[..len]), Ok(Relayed::Handled));
    paths.set_sessions(at(2), PEER, 0x100, 0x101).unwrap();
    paths.session_up(at(3), PEER, Some(R));
    paths
}

fn drain(paths: &mut Paths<'_>, now: Instant) -> Vec<(Transmit, Vec<u8>)> {
    let mut out = [0; 1_500];
    let mut all = Vec::new();
    while let Some(transmit) = paths.poll_message(now, &mut out) {
        all.push((transmit, out[..transmit.len].to_vec()));
        assert!(all.len() < 1_000);
    }
    all
}

/// Runs `paths` to `until`, handling its deadlines, and returns what it sent.
fn run(paths: &mut Paths<'_>, from: Instant, until: Instant) -> Vec<(Transmit, Vec<u8>)> {
    let mut all = drain(paths, from);
    while let Some(next) = paths.deadline(PEER.0).filter(|next| *next <= until) {
        paths.handle_timeout(next.max(from), PEER.0);
        all.extend(drain(paths, next.max(from)));
    }
    all
}

fn direct(address: &str) -> Source {
    Source::Direct { local: 0, remote: address.parse().unwrap() }
}

fn list(generation: u32, addresses: &[&str]) -> Vec<u8> {
    list_of(generation, false, addresses)
}

fn list_of(generation: u32, asks: bool, addresses: &[&str]) -> Vec<u8> {
    let mut out = [0; 512];
    let entries = addresses.iter().map(|a| (Kind::Host, a.parse().unwrap()));
    let len = Candidates::emit(&mut out, generation, true, asks, entries).unwrap();
    out[..len].to_vec()
}

fn probe(stamp: u32) -> Vec<u8> {
    let mut out = [0; 48];
    Probe { proof: Proof { nonce: [1; 8], tag: 0, stamp, size: 48 } }.emit(&mut out).unwrap();
    out.to_vec()
}

fn directs(sent: &[(Transmit, Vec<u8>)]) -> HashMap<SocketAddr, usize> {
    let mut count = HashMap::new();
    for (transmit, _) in sent {
        if let Route::Direct { remote, .. } = transmit.route {
            *count.entry(remote).or_default() += 1;
        }
    }
    count
}

#[test]
fn forbidden_addresses_are_never_probed_nor_told() {
    let forbidden = [
        "127.0.0.1:9",
        "[::1]:9",
        "0.0.0.0:9",
        "0.1.2.3:9",
        "[::]:9",
        "224.0.0.1:9",
        "[ff02::1]:9",
        "255.255.255.255:9",
        "169.254.96.16:53",
        "192.0.2.1:0",
        "242.0.0.7:9",
        "[fd00:1::7]:9",
        "[fe80::1]:9",
        "[::ffff:127.0.0.1]:9",
        "[::ffff:242.1.2.3]:9",
        "203.0.113.1:20004",
        "192.168.1.2:20006",
    ];
    let mut paths = bound(1, 16);
    paths.set_network(&Network {
        mesh_v4: [242, 0, 0, 0],
        mesh_v4_len: 8,
        mesh_v6: [0xFD, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    });
    let mut locals = vec![Local { socket: 0, address: "192.168.1.2:20006".parse().unwrap() }];
    locals.push(Local { socket: 1, address: "[2001:db8::2]:20006".parse().unwrap() });
    locals.extend(forbidden[..15].iter().take(5).map(|a| Local { socket: 0, address: a.parse().unwrap() }));
    paths.set_local(at(5), &locals);
    let told = drain(&mut paths, at(5));
    let Ok(PathMessage::Candidates(ours)) = PathMessage::parse(&told[0].1) else { panic!("no list") };
    assert_eq!(ours.iter().count(), 3, "two of our own and the reflexive one");
    for (n, some) in forbidden.chunks(6).enumerate() {
        let now = at(20_000 * (n as u64 + 1));
        paths.message(now, PEER, &Source::Relay, &list(n as u32, some)).unwrap();
        for address in some {
            paths.message(now, PEER, &direct(address), &probe(1)).unwrap();
        }
        assert!(directs(&run(&mut paths, now, now.after(SECOND.times(3)))).is_empty());
    }
    // And the filter does not filter everything.
    paths.message(at(200_000), PEER, &Source::Relay, &list(9, &["[2001:db8::3]:1", "192.0.2.9:1"])).unwrap();
    let sent = directs(&run(&mut paths, at(200_000), at(202_000)));
    assert_eq!(sent.len(), 2);
    assert!(sent.values().all(|n| *n == 5), "at most five small probes: {sent:?}");
}

#[test]
fn a_hostile_peer_gets_no_more_than_its_ration_sent_anywhere() {
    let mut paths = bound(1, 16);
    let mut sent = 0;
    for n in 0..3_000u32 {
        let now = at(100 + u64::from(n) * 10);
        let victims: Vec<_> = (0..8).map(|k| std::format!("192.0.2.{k}:{}", 1_000 + n)).collect();
        let victims: Vec<_> = victims.iter().map(|v| v.as_str()).collect();
        let _ = paths.message(now, PEER, &Source::Relay, &list(n.wrapping_mul(1_000), &victims));
        let _ = paths.message(now, PEER, &direct(victims[0]), &probe(n));
        paths.received(now, PEER, &direct(victims[1]));
        paths.handle_timeout(now, PEER.0);
        sent += directs(&drain(&mut paths, now)).values().sum::<usize>();
    }
    // 30 seconds: 64 at once, then four a second.
    assert!((64..=64 + 30 * 4 + 4).contains(&sent), "{sent}");
}

#[test]
fn only_an_acknowledgement_of_our_own_probe_promotes() {
    let mut paths = bound(1, 16);
    drain(&mut paths, at(3));
    paths.message(at(4), PEER, &Source::Relay, &list(1, &["192.0.2.9:1"])).unwrap();
    let sent = run(&mut paths, at(4), at(60));
    let target: SocketAddr = "192.0.2.9:1".parse().unwrap();
    let to_target = |t: &Transmit| t.route == Route::Direct { local: 0, remote: target };
    let bytes = &sent.iter().find(|(t, _)| to_target(t)).unwrap().1;
    let Ok(PathMessage::Probe(Probe { proof })) = PathMessage::parse(bytes) else { panic!("no probe") };
    let acknowledge = |paths: &mut Paths<'_>, now, proof| {
        let mut out = [0; 64];
        let len = ProbeAck { proof, observed: None }.emit(&mut out).unwrap();
        paths.message(now, PEER, &Source::Relay, &out[..len])
    };
    let forgeries = [
        Proof { nonce: [0; 8], ..proof },
        Proof { tag: proof.tag + 1, ..proof },
        Proof { tag: 200, ..proof },
        Proof { tag: 0xFF, ..proof },
        Proof { stamp: proof.stamp + 1, ..proof },
        Proof { size: 1_408, ..proof },
    ];
    for forged in forgeries {
        assert_eq!(acknowledge(&mut paths, at(70), forged), Err(DropReason::ProbeAck), "{forged:?}");
    }
    for _ in 0..100 {
        paths.received(at(71), PEER, &Source::Direct { local: 0, remote: target });
    }
    let late = at(70 + 10_100);
    assert_eq!(acknowledge(&mut paths, late, proof), Err(DropReason::ProbeAck), "too old");
    assert_eq!(paths.route(at(72), PEER, 100).first, Some(Route::Relay { session: 0x100 }));
    assert_eq!(acknowledge(&mut paths, at(75), proof), Ok(()));
    assert_eq!(paths.route(at(76), PEER, 100).first, Some(Route::Direct { local: 0, remote: target }));
    // Repeating it does not keep the path alive.
    for n in 0..40 {
        let now = at(100 + n * 100);
        paths.sent(now, PEER, 100);
        let _ = acknowledge(&mut paths, now, proof);
        paths.handle_timeout(now, PEER.0);
        drain(&mut paths, now);
    }
    assert_eq!(paths.route(at(4_200), PEER, 100).first, Some(Route::Relay { session: 0x100 }));
}

#[test]
fn an_acknowledgement_of_an_earlier_life_is_not_the_next_one_s() {
    let mut paths = bound(1, 16);
    let lists = |sent: Vec<(Transmit, Vec<u8>)>| {
        let lists = sent.iter().filter_map(|(_, bytes)| match PathMessage::parse(bytes) {
            Ok(PathMessage::Candidates(list)) => Some((list.generation, list.asks)),
            _ => None,
        });
        lists.collect::<Vec<_>>()
    };
    let ours = lists(drain(&mut paths, at(3)));
    let &[(generation, true)] = ours.as_slice() else { panic!("{ours:?}") };
    // The peer's first life heard our list, and its own were all lost.
    let mut heard = [0; 8];
    path::emit_candidates_ack(&mut heard, generation).unwrap();
    paths.message(at(4), PEER, &Source::Relay, &heard).unwrap();
    assert_eq!(lists(drain(&mut paths, at(900))), []);
    paths.message(at(901), PEER, &Source::Relay, &list_of(1, true, &["192.0.2.9:1"])).unwrap();
    assert_eq!(lists(drain(&mut paths, at(901))), [(generation, false)]);
    // And who holds it is not told again.
    paths.message(at(902), PEER, &Source::Relay, &heard).unwrap();
    paths.message(at(903), PEER, &Source::Relay, &list_of(1, false, &["192.0.2.9:1"])).unwrap();
    assert_eq!(lists(drain(&mut paths, at(903))), []);
}

#[test]
fn observed_sources_take_only_the_places_left_for_them() {
    let mut paths = bound(1, 64);
    let listed: Vec<_> = (0..8).map(|n| std::format!("192.0.2.{n}:1")).collect();
    let listed: Vec<_> = listed.iter().map(|a| a.as_str()).collect();
    paths.message(at(4), PEER, &Source::Relay, &list(1, &listed)).unwrap();
    for n in 0..100 {
        paths.message(at(5), PEER, &direct(&std::format!("198.51.100.9:{}", 100 + n)), &probe(n)).unwrap();
        drain(&mut paths, at(5));
    }
    let sent = directs(&run(&mut paths, at(6), at(2_000)));
    let (listed, observed): (Vec<SocketAddr>, Vec<SocketAddr>) =
        sent.keys().copied().partition(|a| a.port() == 1);
    assert_eq!((listed.len(), observed.len()), (6, 2));
}

#[test]
fn a_full_queue_of_acknowledgements_says_so() {
    let mut paths = bound(1, 2);
    drain(&mut paths, at(3));
    assert_eq!(paths.message(at(4), PEER, &Source::Relay, &probe(1)), Ok(()));
    assert_eq!(paths.message(at(4), PEER, &Source::Relay, &probe(2)), Ok(()));
    assert_eq!(paths.message(at(4), PEER, &Source::Relay, &probe(3)), Err(DropReason::QueueFull));
    assert_eq!(paths.deadline(0), Some(at(4)));
    assert_eq!(drain(&mut paths, at(4)).len(), 2);
    assert_eq!(paths.message(at(4), PEER, &Source::Relay, &probe(3)), Ok(()));
}

#[test]
fn messages_without_session_and_unknown_peers_are_refused() {
    let mut paths = bound(1, 16);
    assert_eq!(paths.message(at(4), PeerId(2), &Source::Relay, &probe(1)), Err(DropReason::NoSession));
    assert_eq!(paths.message(at(4), PeerId(0), &Source::Relay, &probe(1)), Err(DropReason::NoSession));
    assert_eq!(paths.message(at(4), PEER, &Source::Relay, &[0x11, 9, 0, 0]), Err(DropReason::PathMessage));
    assert_eq!(paths.set_sessions(at(4), PeerId(2), 1, 2), Err(DropReason::PeersFull));
    paths.session_down(at(5), PEER);
    assert!(drain(&mut paths, at(5)).is_empty() && paths.deadline(1).is_none());
    // A message that overtakes the tunnel's event is as good as the event.
    assert_eq!(paths.message(at(6), PEER, &Source::Relay, &list(1, &["192.0.2.9:1"])), Ok(()));
    paths.session_up(at(6), PEER, Some(R));
    let sent = run(&mut paths, at(6), at(100));
    assert!(directs(&sent).contains_key(&"192.0.2.9:1".parse().unwrap()));
    assert!(matches!(PathMessage::parse(&sent[0].1), Ok(PathMessage::Candidates(_))));
    paths.remove(PEER);
    assert_eq!(paths.message(at(7), PEER, &Source::Relay, &probe(1)), Err(DropReason::NoSession));
}

#[test]
fn strangers_cannot_bind_unbind_or_inject() {
    let mut paths = bound(1, 16);
    let mut out = [0; 64];
    let stranger = RelayVia::Udp { local: 0, server: "203.0.113.1:9".parse().unwrap() };
    let data = [&crate::wire::relay::envelope(0x101)[..], b"\x04"].concat();
    assert_eq!(paths.relay_datagram(at(5), stranger, &data), Err(DropReason::Relay));
    assert_eq!(paths.relay_datagram(at(5), RelayVia::Tcp, &data), Err(DropReason::Relay));
    let expected = Relayed::Data { peer: Some(PEER), source: Source::Relay, payload: b"\x04" };
    assert_eq!(paths.relay_datagram(at(5), UDP, &data), Ok(expected));
    let unknown = [&crate::wire::relay::envelope(0x999)[..], b"\x04"].concat();
    // A peer's first message may come before the directory has announced it: the tunnel decides.
    let expected = Relayed::Data { peer: None, source: Source::Relay, payload: b"\x04" };
    assert_eq!(paths.relay_datagram(at(5), UDP, &unknown), Ok(expected));

    let observed = "192.0.2.66:66".parse().unwrap();
    let len = Message::Bound { index: 1, epoch: 12, observed }.emit(&[6; 32], &mut out).unwrap();
    assert_eq!(paths.relay_datagram(at(5), UDP, &out[..len]), Err(DropReason::Authentication));
    let len = Message::Bound { index: 1, epoch: 12, observed }.emit(&KEY, &mut out).unwrap();
    assert_eq!(paths.relay_datagram(at(5), UDP, &out[..len]), Err(DropReason::Replay));
    let len = Message::Bound { index: 1, epoch: 99, observed }.emit(&KEY, &mut out).unwrap();
    assert_eq!(paths.relay_datagram(at(5), UDP, &out[..len]), Err(DropReason::Replay));
    let len = Message::Challenge { index: 1, cookie: [1; 16] }.emit(&[6; 32], &mut out).unwrap();
    assert_eq!(paths.relay_datagram(at(5), UDP, &out[..len]), Err(DropReason::Authentication));
    // A challenge that nothing of ours asked for.
    let len = Message::Challenge { index: 1, cookie: [1; 16] }.emit(&KEY, &mut out).unwrap();
    let (mut binds, mut unasked) = (0, 0);
    for _ in 0..10 {
        unasked += u32::from(paths.relay_datagram(at(5), UDP, &out[..len]) == Err(DropReason::Challenge));
        binds += usize::from(paths.poll_relay(at(5), &mut [0; 64]).is_some());
    }
    assert!(binds <= 1 && unasked >= 9, "{binds} {unasked}");
    assert_eq!(paths.reflexive(), Some("198.51.100.2:30000".parse().unwrap()));
}

#[test]
fn unbound_binds_again_at_a_bounded_rate_and_then_asks_for_the_session() {
    let mut paths = bound(1, 16);
    let mut out = [0; 64];
    let unbound = crate::wire::relay::Message::Unbound { session: 0x100 };
    let len = unbound.emit(&KEY, &mut out).unwrap();
    let unbound = out[..len].to_vec();
    let mut binds = 0;
    while paths.poll_event().is_some() {}
    for n in 0..100 {
        let now = at(5_000 + n * 5);
        paths.relay_datagram(now, UDP, &unbound).unwrap();
        binds += usize::from(paths.poll_relay(now, &mut out).is_some());
    }
    // One for the first of them in a second, and its own retry.
    assert!((1..=3).contains(&binds), "{binds}");
    assert_eq!(paths.poll_event(), None);
    // Once a bind is answered and the session still unknown, the directory is asked.
    paths.relay_datagram(at(7_000), UDP, &unbound).unwrap();
    let (_, len) = paths.poll_relay(at(7_000), &mut out).unwrap();
    let Ok(Message::Bind { epoch, .. }) = Message::parse(&out[..len]) else { panic!("no bind") };
    let observed = "198.51.100.2:30000".parse().unwrap();
    let len = Message::Bound { index: 1, epoch, observed }.emit(&KEY, &mut out).unwrap();
    paths.relay_datagram(at(7_050), UDP, &out[..len]).unwrap();
    paths.relay_datagram(at(7_060), UDP, &unbound).unwrap();
    assert_eq!(paths.poll_event(), Some(Event::Lookup { peer: PEER }));
    // A session that is none of ours asks nobody.
    let len = Message::Unbound { session: 0x777 }.emit(&KEY, &mut out).unwrap();
    paths.relay_datagram(at(7_500), UDP, &out[..len]).unwrap();
    assert_eq!(paths.poll_event(), None);
}

#[test]
fn hints_serve_without_a_relay_and_near_ones_beside_it() {
    let mut unbound = paths(1, 4);
    let far: SocketAddr = "192.0.2.9:1".parse().unwrap();
    let near: SocketAddr = "192.168.7.7:1".parse().unwrap();
    assert_eq!(unbound.route(at(0), PEER, 100).first, None);
    unbound.hint(PEER, 0, "127.0.0.1:1".parse().unwrap());
    assert_eq!(unbound.route(at(0), PEER, 100).first, None);
    unbound.hint(PEER, 0, far);
    assert_eq!(unbound.route(at(0), PEER, 100).first, Some(Route::Direct { local: 0, remote: far }));
    let mut bound = bound(1, 4);
    bound.session_down(at(9), PEER);
    bound.hint(PEER, 0, far);
    assert_eq!(bound.route(at(9), PEER, 100).copy, None);
    bound.hint(PEER, 0, near);
    assert_eq!(bound.route(at(9), PEER, 100).first, Some(Route::Relay { session: 0x100 }));
    assert_eq!(bound.route(at(9), PEER, 100).copy, Some(Route::Direct { local: 0, remote: near }));
    bound.session_up(at(10), PEER, None);
    assert_eq!(bound.route(at(10), PEER, 100).copy, None);
}

#[test]
fn a_hint_that_nothing_proves_is_called_at_five_times() {
    let mut paths = paths(1, 4);
    let far: SocketAddr = "192.0.2.9:1".parse().unwrap();
    let there = Some(Route::Direct { local: 0, remote: far });
    for _ in 0..2 {
        paths.hint(PEER, 0, far);
        assert_eq!((0..5).map(|n| paths.call(at(n), PEER)).collect::<Vec<_>>(), [there; 5]);
        assert_eq!((paths.call(at(6), PEER), paths.route(at(6), PEER, 0).first), (None, None));
    }
    // A session that came about there is as good as a proof while it lasts.
    paths.hint(PEER, 0, far);
    paths.session_up(at(7), PEER, None);
    assert!((0..9).all(|n| paths.call(at(8 + n), PEER) == there));
    // The relay's way is called by as often as it takes, and leaves the hint alone.
    let mut bound = bound(1, 4);
    bound.session_down(at(9), PEER);
    bound.hint(PEER, 0, far);
    assert!((0..9).all(|_| bound.call(at(9), PEER) == Some(Route::Relay { session: 0x100 })));
}

#[test]
fn sessions_are_replaced_and_forgotten() {
    let mut paths = bound(2, 4);
    paths.set_sessions(at(4), PeerId(2), 0x200, 0x201).unwrap();
    paths.set_sessions(at(4), PEER, 0x300, 0x301).unwrap();
    assert_eq!(paths.peer_of_session(0x101), None);
    assert_eq!(paths.peer_of_session(0x301), Some(PEER));
    // Queued output of a removed peer is gone with it, and its neighbour's is not.
    paths.session_up(at(5), PeerId(2), None);
    paths.remove(PEER);
    assert_eq!(paths.peer_of_session(0x301), None);
    assert!(drain(&mut paths, at(5)).iter().all(|(t, _)| t.peer == PeerId(2)));
    assert_eq!(paths.peer_of_session(0x201), Some(PeerId(2)));
    for n in 0..1_000 {
        paths.set_sessions(at(6), PEER, n, 10_000 + n).unwrap();
    }
}

#[test]
fn what_does_not_fit_the_buffer_is_not_lost() {
    let mut paths = bound(1, 4);
    assert_eq!(paths.poll_message(at(3), &mut [0; 100]), None);
    assert!(paths.deadline(0) == Some(at(3)) && !drain(&mut paths, at(3)).is_empty());
    paths.control_lost(at(4));
    assert_eq!(paths.poll_relay(at(4), &mut [0; 55]), None);
    assert!(paths.poll_relay(at(4), &mut [0; 56]).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any bytes from a peer or the relay, in any order: no panic, and never more than the ration.
    #[test]
    fn any_messages_are_survived(
        messages in proptest::collection::vec(
            (0u8..6, proptest::collection::vec(any::<u8>(), 0..120), any::<bool>(), 0u64..400), 1..80
        )
    ) {
        let mut paths = bound(1, 4);
        let mut now = at(10);
        let mut sent = 0;
        for (kind, mut bytes, relay, wait) in messages {
            now = now.after(Duration::from_millis(wait));
            if kind > 0 {
                for (place, value) in [(0, 0x11), (1, kind)] {
                    if let Some(byte) = bytes.get_mut(place) {
                        *byte = value;
                    }
                }
            }
            let source = if relay { Source::Relay } else { direct("192.0.2.50:50") };
            let _ = paths.message(now, PEER, &source, &bytes);
            if let Some(byte) = bytes.first_mut() {
                *byte = 0xDF + kind;
            }
            let _ = paths.relay_datagram(now, UDP, &bytes);
            paths.handle_timeout(now, PEER.0);
            paths.handle_timeout(now, 0);
            sent += directs(&drain(&mut paths, now)).values().sum::<usize>();
        }
        let seconds = now.since(at(0)).as_secs() as usize;
        prop_assert!(sent <= 64 + 4 * (seconds + 1));
    }
}
