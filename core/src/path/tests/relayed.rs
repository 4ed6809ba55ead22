//! What goes by the relay: how soon a node notices that UDP has died, and takes it up again.

use super::world::{HOME, MS, PEER, R, SECOND, SYMMETRIC, World};
use crate::path::{Event, RelayLeg, Route};
use crate::time::Duration;

/// A has sent for a while, B has only received; their NATs leave them the relay.
fn streaming() -> World {
    let mut world = World::new(SYMMETRIC, SYMMETRIC);
    world.traffic = [Some((MS.times(100), 100)), None];
    world.bind();
    world.connect();
    world.run(SECOND.times(40));
    world
}

#[test]
fn a_node_that_only_receives_notices_soon_that_udp_died() {
    let mut world = streaming();
    world.nodes[1].longest_gap = Duration::ZERO;
    world.udp_blocked = [false, true];
    world.run(SECOND.times(20));
    assert_eq!(world.nodes[1].paths.relay_leg(), RelayLeg::Tcp);
    // 5 s of silence, 1 s without an answer, the connection.
    let gap = world.nodes[1].longest_gap;
    assert!(gap > SECOND.times(5) && gap < SECOND.times(7), "{gap:?}");
}

#[test]
fn the_end_of_a_stream_costs_one_bind() {
    let mut world = streaming();
    world.traffic = [None; 2];
    let before = world.nodes[1].binds;
    world.run(SECOND.times(120));
    // Refreshes every 15 to 25 s besides.
    let binds = world.nodes[1].binds - before;
    assert!(binds <= 120 / 15 + 1, "{binds} binds");
}

#[test]
fn udp_blocked_means_tcp_and_back_when_it_opens() {
    let mut world = World::chatty(HOME, HOME);
    world.udp_blocked = [true, false];
    let start = world.now;
    world.bind();
    while world.nodes[0].paths.route(world.now, PEER, 100).first.is_none() {
        world.run(MS.times(10));
    }
    // A second of patience, the connection, the bind.
    assert!(world.now.since(start) <= SECOND.plus(R.times(2)));
    world.connect();
    world.run(SECOND.times(10));
    let route = world.nodes[0].paths.route(world.now, PEER, 100).first;
    assert_eq!(route, Some(Route::RelayTcp { session: 0x100 }));
    assert!(world.nodes.iter().all(|n| n.got.len() > 480));
    world.udp_blocked = [false; 2];
    world.run(SECOND.times(9));
    assert!(world.is_direct(0) && world.is_direct(1), "with the first answer to a bind");
    world.run(SECOND.times(5));
    assert!(world.is_direct(0) && world.is_direct(1) && !world.nodes[0].tcp_open);
    let legs = |leg| world.events(0, |e| *e == Event::RelayChanged { leg });
    assert_eq!([legs(RelayLeg::Tcp), legs(RelayLeg::Udp)], [1, 1]);
}

#[test]
fn udp_that_dies_later_falls_back_to_tcp() {
    let mut world = World::direct(HOME, HOME);
    world.udp_blocked = [true, true];
    world.run(SECOND.times(40));
    for n in 0..2 {
        assert!(matches!(
            world.nodes[n].paths.route(world.now, PEER, 100).first,
            Some(Route::RelayTcp { .. })
        ));
        let before = world.nodes[n].got.len();
        world.run(SECOND);
        assert!(world.nodes[n].got.len() >= before + 45);
    }
}

#[test]
fn traffic_notices_within_seconds_that_udp_died() {
    let mut world = World::direct(HOME, HOME);
    world.udp_blocked = [true, true];
    world.run(SECOND.times(6));
    for n in 0..2 {
        let route = world.nodes[n].paths.route(world.now, PEER, 100).first;
        assert!(matches!(route, Some(Route::RelayTcp { .. })), "{route:?}");
    }
}
