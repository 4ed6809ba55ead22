//! Which pairs become direct, how soon, and what a direct path survives.

use super::nat::KINDS;
use super::world::{D, HOME, MS, PEER, R, SECOND, Site, World, server};
use crate::path::{Event, Route};
use crate::time::Duration;
use std::vec::Vec;

/// Pairs of [`KINDS`], as (row, column), that become direct for certain in both directions.
#[rustfmt::skip]
const CERTAIN: [(usize, usize); 25] = [
    (0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (0, 6), (0, 7), (0, 8),
    (1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (1, 6), (1, 7), (1, 8),
    (2, 2),
    (3, 3), (3, 4), (3, 6), (3, 7),
    (4, 6),
    (6, 6), (6, 7),
];
/// How soon a way that works is used while packets flow.
const SOON: Duration = Duration::from_secs(10);

fn nat(n: usize) -> Site {
    Site::Nat(KINDS[n].0, KINDS[n].1)
}

#[test]
fn certain_pairs_become_direct_within_a_relay_and_two_direct_round_trips() {
    for (a, b) in CERTAIN.into_iter().flat_map(|(a, b)| [(a, b), (b, a)]) {
        let mut world = World::chatty(nat(a), nat(b));
        world.bind();
        let start = world.connect();
        let took = world.until_direct(start, SECOND.times(5));
        assert!(took.is_some_and(|t| t <= R.plus(D.times(2))), "{:?} {:?}: {took:?}", KINDS[a], KINDS[b]);
        world.run(SECOND.times(20));
        assert!(world.is_direct(0) && world.is_direct(1), "{:?} {:?} fell back", KINDS[a], KINDS[b]);
    }
}

#[test]
fn other_pairs_stay_on_the_relay_without_flapping_or_flooding() {
    let certain = |a, b| CERTAIN.contains(&(a, b)) || CERTAIN.contains(&(b, a));
    for (a, b) in (0..9).flat_map(|a| (0..9).map(move |b| (a, b))).filter(|(a, b)| !certain(*a, *b)) {
        let mut world = World::chatty(nat(a), nat(b));
        world.bind();
        world.connect();
        world.run(SECOND.times(120));
        for n in 0..2 {
            assert!(!(world.is_direct(0) && world.is_direct(1)), "by luck only: {a} {b}");
            assert!(world.events(n, |e| matches!(e, Event::PathChanged { .. })) <= 1, "{a} {b} flaps");
            // All but the last few on their way have arrived.
            assert!(world.nodes[n].got.len() > 5_980, "{a} {b}: {}", world.nodes[n].got.len());
            let elsewhere = world.nodes[n].sent_to.iter().filter(|(to, _)| **to != server());
            let small = !world.is_direct(n);
            for (to, count) in elsewhere.filter(|_| small) {
                // Probes, and answers to those that came from there: less than one a second.
                assert!(*count < 120, "{count} datagrams to {to}, which never answered");
            }
        }
    }
}

#[test]
fn public_and_neighbouring_nodes_are_direct_at_once() {
    for (a, b) in [(Site::Public, HOME), (HOME, Site::Public), (Site::Public, Site::Public)] {
        let world = World::direct(a, b);
        assert!(world.is_direct(0) && world.is_direct(1));
    }
    let world = World::direct(HOME, Site::Neighbour);
    let inside = world.nodes[1].inside;
    assert_eq!(
        world.nodes[0].paths.route(world.now, PEER, 100).first,
        Some(Route::Direct { local: 0, remote: inside })
    );
    assert!(world.nodes[0].paths.info(world.now, PEER).rtt.unwrap() < MS.times(2));
}

#[test]
fn first_probes_leave_both_sides_together() {
    // Simultaneous to a tenth of the direct way: neither NAT sees the other side before its own.
    let mut world = World::chatty(HOME, HOME);
    world.bind();
    world.connect();
    let mut first = [None; 2];
    let begun = world.now;
    while first.contains(&None) {
        world.run(MS);
        for (n, first) in first.iter_mut().enumerate() {
            let toward = std::net::IpAddr::from([198, 51, 100, 3 - n as u8]);
            if world.nodes[n].sent_to.keys().any(|to| to.ip() == toward) {
                first.get_or_insert(world.now);
            }
        }
        assert!(world.now.since(begun) < SECOND);
    }
    let [Some(a), Some(b)] = first else { panic!("no probes") };
    let apart = a.since(b).max(b.since(a));
    assert!(apart <= D.over(10), "{apart:?} apart");
}

#[test]
fn loss_delays_the_direct_path_but_does_not_prevent_it() {
    for loss in [5, 3] {
        let mut world = World::chatty(HOME, HOME);
        world.bind();
        world.loss = loss;
        world.run(SECOND.times(2));
        let start = world.connect();
        assert!(world.until_direct(start, SECOND.times(10)).is_some(), "one in {loss} lost");
    }
}

#[test]
fn a_cut_path_costs_less_than_a_second_and_comes_back() {
    for cut in [[true, true], [true, false], [false, true]] {
        let mut world = World::direct(HOME, HOME);
        for node in &mut world.nodes {
            node.longest_gap = Duration::ZERO;
        }
        world.cut = cut;
        world.run(SECOND.times(12));
        for n in 0..2 {
            let gap = world.nodes[n].longest_gap;
            // When only one direction dies, datagrams of the other keep coming until a probe tells.
            let most = if cut == [true, true] { SECOND } else { SECOND.times(8) };
            assert!(gap < most, "{gap:?} without data after {cut:?}");
            assert!(!cut[n] || !world.is_direct(n));
            world.nodes[n].longest_gap = Duration::ZERO;
        }
        world.cut = [false; 2];
        let healed = world.now;
        assert!(world.until_direct(healed, SOON).is_some());
        assert!(world.nodes.iter().all(|n| n.longest_gap < MS.times(200)), "the way back loses nothing");
    }
}

#[test]
fn a_way_that_opens_while_packets_flow_is_used_soon() {
    for closed in [3, 28, 61, 115] {
        for traffic in [[true, true], [true, false], [false, true]] {
            let mut world = World::new(HOME, HOME);
            world.traffic = traffic.map(|flows| flows.then_some((SECOND, 100)));
            world.cut = [true; 2];
            world.bind();
            world.connect();
            world.run(SECOND.times(closed));
            assert!(!world.is_direct(0) && !world.is_direct(1));
            world.cut = [false; 2];
            let opened = world.now;
            assert!(world.until_direct(opened, SOON).is_some(), "closed for {closed} s, {traffic:?}");
        }
    }
}

#[test]
fn rounds_become_rare_when_nothing_flows_and_return_with_the_next_packet() {
    let mut world = World::chatty(HOME, HOME);
    world.cut = [true; 2];
    world.bind();
    world.connect();
    world.run(SECOND.times(30));
    world.traffic = [None; 2];
    let messages = |world: &World| world.nodes.iter().map(|n| n.path_messages).sum::<usize>();
    let before = messages(&world);
    world.run(SECOND.times(45));
    // Rounds come 5, 10, 20 and 40 s behind the last packet.
    let late = messages(&world) - before;
    assert!(late < 80, "{late} messages in 45 idle seconds");
    world.cut = [false; 2];
    let opened = world.now;
    world.send_data(0, 100);
    assert!(world.until_direct(opened, SECOND).is_some());
}

#[test]
fn lists_that_were_all_lost_are_told_again() {
    let mut world = World::chatty(HOME, HOME);
    world.bind();
    world.connect();
    world.run(R.over(4).plus(MS));
    world.server_down = true;
    world.run(SECOND.times(4));
    // B, whose session came up with the first datagram, has never said where it is.
    world.server_down = false;
    let start = world.now;
    let took = world.until_direct(start, SOON);
    assert!(took.is_some(), "never direct");
}

#[test]
fn only_one_side_that_knows_the_other_is_enough() {
    // Each round of A puts off those of B, which sends nothing and lost all its lists: it has to say them when it
    // hears A's.
    let mut world = World::new(HOME, HOME);
    world.traffic = [Some((MS.times(20), 100)), None];
    world.bind();
    world.nodes[1].muted = true;
    world.connect();
    world.run(SECOND.times(20));
    assert!(!world.is_direct(0));
    world.nodes[1].muted = false;
    let start = world.now;
    assert!(world.until_direct(start, SOON).is_some());
}

#[test]
fn copies_end_after_a_second_or_a_megabyte() {
    let mut world = World::direct(HOME, HOME);
    world.traffic = [Some((MS.times(10), 1_000)), None];
    world.run(SECOND);
    world.cut = [true; 2];
    while world.nodes[0].paths.route(world.now, PEER, 100).copy.is_none() {
        world.run(MS.times(10));
    }
    let begun = world.now;
    while world.is_direct(0) {
        world.run(MS.times(10));
    }
    let took = world.now.since(begun);
    assert!(took <= SECOND.plus(MS.times(10)), "{took:?}");

    let mut world = World::direct(HOME, HOME);
    world.traffic = [Some((MS.over(10), 1_000)), None];
    world.run(SECOND);
    world.cut = [true; 2];
    while world.nodes[0].paths.route(world.now, PEER, 100).copy.is_none() {
        world.run(MS);
    }
    let begun = world.now;
    while world.is_direct(0) {
        world.run(MS);
    }
    assert!(world.now.since(begun) <= MS.times(103), "10 kB/ms: a megabyte is 100 ms");
}

#[test]
fn a_rebooted_nat_is_survived_by_both_sides() {
    let mut world = World::direct(HOME, HOME);
    for node in &mut world.nodes {
        node.longest_gap = Duration::ZERO;
    }
    world.nats[1].as_mut().unwrap().reboot();
    let start = world.now;
    world.run(SECOND.times(30));
    assert!(world.is_direct(0) && world.is_direct(1));
    // B's binding at the relay is broken as well until its next refresh, at most 25 s later.
    assert!(world.nodes[1].longest_gap < SECOND.times(27), "{:?}", world.nodes[1].longest_gap);
    assert!(world.nodes[0].longest_gap < SECOND.times(2), "{:?}", world.nodes[0].longest_gap);
    assert!(world.now.since(start) >= SECOND.times(30));
}

#[test]
fn an_idle_path_falls_silent_and_its_first_packet_later_arrives() {
    let mut world = World::direct(HOME, HOME);
    world.traffic = [None, None];
    world.run(SECOND.times(100));
    let before = world.nodes.each_ref().map(|n| n.path_messages);
    world.run(SECOND.times(300));
    assert_eq!(world.nodes.each_ref().map(|n| n.path_messages), before, "idle peers are not probed");
    assert!((1..2).all(|slot| world.nodes.iter().all(|n| n.paths.deadline(slot).is_none())));
    // The NATs have forgotten the path; the relay's mapping lives by its refreshes.
    let count = world.nodes[0].got.len();
    world.send_data(1, 100);
    world.run(MS.times(100));
    assert_eq!(world.nodes[0].got.len(), count + 1);
}

#[test]
fn an_active_path_without_traffic_is_kept_alive() {
    let mut world = World::direct(HOME, HOME);
    // One packet in 50 s keeps a peer active; the NATs forget after 60 s without any.
    world.traffic = [Some((SECOND.times(50), 100)), None];
    world.run(SECOND.times(600));
    assert!(world.is_direct(0));
    assert_eq!(world.events(0, |e| matches!(e, Event::PathChanged { .. })), 1);
}

#[test]
fn direct_paths_outlive_the_server() {
    let mut world = World::direct(HOME, HOME);
    world.server_down = true;
    for n in 0..2 {
        world.nodes[n].paths.control_lost(world.now);
        world.nodes[n].longest_gap = Duration::ZERO;
    }
    world.run(SECOND.times(120));
    assert!(world.is_direct(0) && world.is_direct(1));
    assert!(world.nodes.iter().all(|n| n.longest_gap < MS.times(100)));
}

#[test]
fn a_new_network_doubts_the_path_and_finds_the_new_one() {
    let mut world = World::direct(Site::Public, Site::Public);
    let moved = std::net::SocketAddr::from(([198, 51, 100, 77], 20_006));
    world.nodes[1].inside = moved;
    world.nodes[0].longest_gap = Duration::ZERO;
    world.nodes[1].longest_gap = Duration::ZERO;
    let now = world.now;
    world.nodes[1].paths.set_local(now, &[crate::path::Local { socket: 0, address: moved }]);
    world.run(SECOND.times(3));
    assert_eq!(
        world.nodes[0].paths.route(world.now, PEER, 100).first,
        Some(Route::Direct { local: 0, remote: moved })
    );
    assert!(world.is_direct(1));
    let gaps: Vec<_> = world.nodes.iter().map(|n| n.longest_gap).collect();
    assert!(gaps.iter().all(|gap| *gap < SECOND), "{gaps:?}");
}

#[test]
fn a_restarted_node_is_direct_again_at_once() {
    let mut world = World::direct(HOME, HOME);
    world.run(SECOND.times(20));
    world.restart(1);
    let start = world.now;
    let took = world.until_direct(start, SECOND.times(5));
    assert!(took.is_some_and(|took| took <= R.plus(D.times(2))), "{took:?}");
}

#[test]
fn ipv6_is_direct_at_once_and_its_longer_header_counted() {
    let world = World::direct(Site::PublicV6, Site::PublicV6);
    let remote = world.nodes[1].inside;
    assert_eq!(
        world.nodes[0].paths.route(world.now, PEER, 100).first,
        Some(Route::Direct { local: 0, remote })
    );
    assert_eq!(world.nodes[0].paths.mtu(world.now, PEER), 1_408);
    assert!(world.is_direct(1));
}

#[test]
fn a_spoiled_nat_mapping_is_recovered_by_a_later_round() {
    // B's NAT takes a datagram that comes before B sent one for a flow of its own and maps B elsewhere for that
    // very remote (Linux, when the WAN side accepts input). B is kept from probing at first.
    let mut world = World::new(HOME, HOME);
    world.traffic = [Some((Duration::from_millis(500), 100)); 2];
    world.nats[1].as_mut().unwrap().spoilable = true;
    world.bind();
    world.cut = [false, true];
    let start = world.connect();
    world.run(SECOND.times(2));
    world.cut = [false; 2];
    assert!(!world.is_direct(0));
    let took = world.until_direct(start, SECOND.times(200));
    assert!(took.is_some(), "never direct");
}
