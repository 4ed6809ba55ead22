//! Round trips: measured on demand, and followed while packets flow.

use super::world::{D, HOME, MS, PEER, R, SECOND, SYMMETRIC, Site, World};
use crate::path::{Event, Route};
use crate::time::Duration;
use std::vec::Vec;

fn connected(a: Site, b: Site) -> World {
    let mut world = World::new(a, b);
    world.bind();
    world.connect();
    world.run(SECOND.times(2));
    world
}

fn ping(world: &mut World) -> Vec<Duration> {
    world.nodes[0].events.clear();
    let now = world.now;
    world.nodes[0].paths.ping(now, PEER);
    world.run(SECOND);
    let pongs = world.nodes[0].events.iter().filter_map(|event| match event {
        Event::Pong { peer, rtt } => {
            assert_eq!(*peer, PEER);
            Some(*rtt)
        }
        _ => None,
    });
    pongs.collect()
}

#[test]
fn a_ping_measures_the_way_in_use_and_is_answered_once() {
    let mut near = connected(Site::Public, Site::Public);
    assert!(near.is_direct(0));
    assert_eq!(ping(&mut near), [D]);
    assert_eq!(ping(&mut near), [D], "again");
    let mut far = connected(SYMMETRIC, SYMMETRIC);
    assert!(matches!(far.nodes[0].paths.route(far.now, PEER, 0).first, Some(Route::Relay { .. })));
    assert_eq!(ping(&mut far), [R]);
}

#[test]
fn pings_that_find_a_dead_path_lead_back_to_the_relay() {
    let mut world = connected(Site::Public, Site::Public);
    world.cut = [true; 2];
    assert_eq!(ping(&mut world), []);
    world.run(SECOND.times(2));
    assert_eq!(ping(&mut world), [R]);
}

#[test]
fn round_trips_follow_the_network_while_packets_flow() {
    for (site, before) in [(HOME, D), (SYMMETRIC, R)] {
        let mut world = World::chatty(site, site);
        world.bind();
        world.connect();
        world.run(SECOND.times(15));
        let rtt = |world: &World| world.nodes[0].paths.info(world.now, PEER).rtt.unwrap();
        assert!(rtt(&world) < before.plus(MS.times(10)), "{site:?} {:?}", rtt(&world));
        world.slower = MS.times(100);
        world.run(SECOND.times(40));
        let now = rtt(&world);
        assert!(now > before.plus(MS.times(150)), "{site:?} {now:?}");
        world.slower = Duration::ZERO;
        world.run(SECOND.times(40));
        assert!(rtt(&world) < before.plus(MS.times(50)), "{site:?} {:?}", rtt(&world));
    }
}
