use super::nat::Depends;
use super::world::{D, PEER, R, Site, World};
use crate::path::{Event, Route};
use crate::time::Duration;
use std::vec::Vec;

const SECOND: Duration = Duration::from_secs(1);
const HARD: Site = Site::Nat(Depends::Port, Depends::Port);

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
    let mut far = connected(HARD, HARD);
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
