//! How large a packet may be, on links of any width.

use super::world::{HOME, PEER, R, SECOND, SYMMETRIC, World};
use crate::path::Route;

#[test]
fn every_mtu_is_found_and_a_smaller_one_later_too() {
    // IPv4 and UDP 28, seal 32, a multiple of 16.
    for (outer, inner) in [(1_500, 1_440), (1_492, 1_424), (1_400, 1_328), (1_280, 1_216)] {
        let mut world = World::chatty(HOME, HOME);
        world.mtu = outer;
        world.bind();
        let start = world.connect();
        world.until_direct(start, SECOND).unwrap();
        assert!(world.nodes[0].paths.mtu(world.now, PEER) <= inner.max(1_280));
        world.run(SECOND.times(5));
        for n in 0..2 {
            assert_eq!(world.nodes[n].paths.mtu(world.now, PEER), inner, "outer {outer}");
        }
    }
    let mut world = World::direct(HOME, HOME);
    assert_eq!(world.nodes[0].paths.mtu(world.now, PEER), 1_440);
    world.mtu = 1_400;
    world.run(SECOND.times(70));
    assert_eq!(world.nodes[0].paths.mtu(world.now, PEER), 1_328);
    world.mtu = 1_500;
    world.run(SECOND.times(800));
    assert_eq!(world.nodes[0].paths.mtu(world.now, PEER), 1_440);
}

#[test]
fn a_datagram_too_big_for_the_system_restarts_the_search() {
    let mut world = World::direct(HOME, HOME);
    world.mtu = 1_400;
    world.nodes[0].paths.too_big(world.now, PEER);
    // While it is searched for, what may be too large takes the relay.
    let by = |world: &World, len| world.nodes[0].paths.route(world.now, PEER, len).first;
    assert_eq!(world.nodes[0].paths.mtu(world.now, PEER), 1_408);
    assert_eq!(by(&world, 1_281), Some(Route::Relay { session: 0x100 }));
    assert!(matches!(by(&world, 1_280), Some(Route::Direct { .. })));
    world.run(SECOND.times(2));
    assert!(matches!(by(&world, 1_400), Some(Route::Direct { .. })));
    assert_eq!(world.nodes[0].paths.mtu(world.now, PEER), 1_328);
}

#[test]
fn a_search_during_an_outage_is_repeated() {
    let mut world = World::chatty(SYMMETRIC, SYMMETRIC);
    world.bind();
    world.connect();
    world.run(R);
    world.server_down = true;
    world.run(SECOND.times(4));
    world.server_down = false;
    assert_eq!(world.nodes[0].paths.mtu(world.now, PEER), 1_184);
    world.run(SECOND.times(70));
    assert_eq!(world.nodes[0].paths.mtu(world.now, PEER), 1_408);
}
