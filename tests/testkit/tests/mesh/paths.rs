//! Ways that close and open under whole nodes: how soon the direct one is used, and what it costs when there is none.

use crate::mesh::{Mesh, Plan};
use crate::room::Room;
use crate::{RECOVER_WITHIN, START_WITHIN};
use edgemesh_core::path::{RelayLeg, Route};
use edgemesh_core::time::Duration;
use edgemesh_testkit::filter::Behaviour::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
use edgemesh_testkit::nat::NatConfig;
use edgemesh_testkit::seeds::for_each_seed;

/// How soon a direct way that opens is used while packets flow.
const SOON: Duration = Duration::from_secs(10);
/// Rounds do not rest before.
const CLOSED_MAX: u32 = 100;

/// Both nodes ask each other over good links, and the pair is one that must become direct; `None` where it is not.
fn asking(seed: u64, rooms: &mut [Room]) -> Option<Mesh<'_>> {
    let mut mesh = Mesh::pair(seed, rooms);
    mesh.good_links();
    let certain = mesh.must_be_direct(0, 1);
    certain.then(|| {
        mesh.ask(true);
        mesh
    })
}

#[test]
fn a_direct_way_that_opens_is_used_soon() {
    for_each_seed(40, |seed| {
        let mut rooms = Plan::PAIR.rooms();
        let Some(mut mesh) = asking(seed, &mut rooms) else { return };
        let (a, b) = (mesh.nodes[0], mesh.nodes[1]);
        mesh.world.network.block(a, b, true);
        mesh.exchange("answered by the relay", START_WITHIN);
        for turn in ["opened", "opened again"] {
            let span = mesh.seconds(1, CLOSED_MAX);
            mesh.note(format!("closed for {span:?}"));
            mesh.run(span);
            assert!(!mesh.is_direct(0, 1));
            mesh.world.network.block(a, b, false);
            mesh.until(turn, SOON, |mesh| mesh.is_direct(0, 1));
            mesh.world.network.block(a, b, true);
            mesh.until("given up", SOON, |mesh| !mesh.is_direct(0, 1));
            mesh.run(Duration::from_secs(3));
        }
    });
}

#[test]
fn shells_talk_inside_a_session_that_is_made_for_it() {
    for_each_seed(10, |seed| {
        let mut rooms = Plan::PAIR.rooms();
        let mut mesh = Mesh::pair(seed, &mut rooms);
        mesh.good_links();
        let index = |mesh: &mut Mesh, n: usize| mesh.node(n).disk.joined.map(|(index, _)| index);
        mesh.until("joined", START_WITHIN, |mesh| index(mesh, 0).is_some() && index(mesh, 1).is_some());
        let to = index(&mut mesh, 1).unwrap();
        // Like every datagram it is lost on a way that a node gives up, and said again.
        mesh.until("heard", START_WITHIN, |mesh| {
            let now = mesh.world.now();
            mesh.node(0).say(now, to, b"\x31 hello");
            !mesh.node(1).asides.is_empty()
        });
        let asides = &mesh.node(1).asides;
        assert!(asides.iter().all(|heard| heard == b"\x31 hello\0\0\0\0\0\0\0\0\0"), "{asides:?}");
        assert!(mesh.node(0).asides.is_empty());
    });
}

#[test]
fn udp_that_opens_leads_to_the_direct_way_soon() {
    for_each_seed(40, |seed| {
        let mut rooms = Plan::PAIR.rooms();
        let Some(mut mesh) = asking(seed, &mut rooms) else { return };
        if mesh.zone(0) == mesh.zone(1) {
            return;
        }
        mesh.exchange("answered", START_WITHIN);
        let site = mesh.rng.below(2) as usize;
        let site = mesh.zone(site);
        mesh.world.network.gateway(site).firewall.udp_out = false;
        let span = mesh.seconds(20, CLOSED_MAX);
        mesh.note(format!("without UDP for {span:?}"));
        mesh.run(span);
        assert!(!mesh.is_direct(0, 1));
        mesh.world.network.gateway(site).firewall.udp_out = true;
        mesh.until("direct", SOON, |mesh| mesh.is_direct(0, 1));
    });
}

#[test]
fn lists_lost_in_an_outage_are_told_again() {
    for_each_seed(40, |seed| {
        let mut rooms = Plan::PAIR.rooms();
        let Some(mut mesh) = asking(seed, &mut rooms) else { return };
        let up = |mesh: &mut Mesh, n: usize| {
            let now = mesh.world.now();
            mesh.node(n).engine.peers(now).any(|peer| peer.up)
        };
        mesh.until("in session", START_WITHIN, |mesh| up(mesh, 0) || up(mesh, 1));
        mesh.restart_server(8_000);
        mesh.exchange("answered after the outage", RECOVER_WITHIN);
        mesh.until("direct", SOON, |mesh| mesh.is_direct(0, 1));
    });
}

#[test]
fn sessions_outlive_paths_of_one_direction() {
    // The one side's box maps each address elsewhere and lets everybody in, the other's lets in only what was asked:
    // the second reaches the first straight, and nothing comes straight back.
    let open = NatConfig::new(AddressDependent, EndpointIndependent);
    let closed = NatConfig::new(EndpointIndependent, AddressAndPortDependent);
    for_each_seed(4, |seed| {
        let plan = Plan::behind([open.clone(), closed.clone()]);
        let mut rooms = plan.rooms();
        let mut mesh = Mesh::new(seed, plan, &mut rooms);
        mesh.good_links();
        mesh.ask(true);
        mesh.exchange("answered", START_WITHIN);
        for _ in 0..40 {
            mesh.run(Duration::from_secs(10));
            let now = mesh.world.now();
            for n in [0, 1] {
                let peer = mesh.node(n).engine.peers(now).next().unwrap();
                // Renewed behind 120 s, ended behind 180 s.
                let age = peer.handshake.unwrap();
                assert!(peer.up && age < Duration::from_secs(145), "{age:?}\n{}", mesh.story());
                let direct = matches!(peer.path.route, Some(Route::Direct { .. }));
                assert_eq!(direct, n == 1, "node {n}\n{}", mesh.story());
            }
        }
    });
}

#[test]
fn no_way_at_all_is_not_answered_by_a_storm_of_lookups() {
    const SPAN: Duration = Duration::from_secs(120);
    for_each_seed(20, |seed| {
        let mut rooms = Plan::PAIR.rooms();
        let mut mesh = Mesh::pair(seed, &mut rooms);
        mesh.good_links();
        for n in mesh.all() {
            let zone = mesh.zone(n);
            mesh.world.network.gateway(zone).firewall.udp_out = false;
        }
        // This ends the connections that some have made already.
        mesh.restart_server(10);
        mesh.listen_for_relay(false);
        mesh.until("connected, but without a relay", START_WITHIN, |mesh| {
            let engines = [0, 1].map(|n| {
                let engine = &mesh.node(n).engine;
                (engine.paths().relay_leg(), engine.link().is_up())
            });
            engines == [(RelayLeg::None, true); 2]
        });
        let before = mesh.server().lookups;
        mesh.ask(true);
        mesh.run(SPAN);
        let lookups = mesh.server().lookups - before;
        // Each node asks once: what it was told holds, there is only no way.
        assert!((1..=4).contains(&lookups), "{lookups} lookups\n{}", mesh.story());
        assert_eq!(mesh.answers().concat(), [0, 0]);
        mesh.listen_for_relay(true);
        mesh.exchange("answered over TCP", Duration::from_secs(60));
    });
}
