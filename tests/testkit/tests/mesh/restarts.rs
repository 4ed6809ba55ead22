//! A node or the server is killed and started again while packets pass: how soon the service is back.

use crate::mesh::{Mesh, Plan};
use crate::{DIRECT_WITHIN, START_WITHIN};
use edgemesh_core::time::Duration;
use edgemesh_testkit::seeds::for_each_seed;

/// How long the service may be away when a node or the server was killed and is there again. Of 15,000 times the longest was
/// 3.2 s: by the relay, and two restarts in a row.
const RESUME_WITHIN: Duration = Duration::from_secs(4);

/// What passes between the pods while something restarts.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Load {
    /// Both nodes ask and answer.
    Both,
    /// One asks, the other answers.
    One,
    /// One sends, nothing comes back.
    OneWay,
}

/// Puts a load on the mesh, and lets it pass for up to so many seconds.
pub(crate) fn load(mesh: &mut Mesh<'_>, most: u32) -> Load {
    let load = [Load::Both, Load::One, Load::OneWay][mesh.rng.below(3) as usize];
    let now = mesh.world.now();
    mesh.node(0).pods.ask(now, true);
    mesh.node(1).pods.ask(now, load == Load::Both);
    mesh.node(1).pods.mute = load == Load::OneWay;
    mesh.until("served at first", START_WITHIN, |mesh| mesh.node(1).pods.served() > 3);
    let span = mesh.seconds(1, most);
    mesh.run(span);
    mesh.note(format!("{load:?}"));
    load
}

/// The load goes on: what is asked from now on is served and answered soon.
pub(crate) fn resumes(mesh: &mut Mesh<'_>, load: Load) {
    let before = (mesh.node(1).pods.served(), mesh.node(0).pods.answers());
    mesh.until("resumed", RESUME_WITHIN, |mesh| {
        let (served, answers) = (mesh.node(1).pods.served(), mesh.node(0).pods.answers());
        served > before.0 && (load == Load::OneWay || answers > before.1)
    });
}

#[test]
fn service_resumes_soon_after_a_restart() {
    for_each_seed(1_000, |seed| {
        let mut rooms = Plan::PAIR.rooms();
        let mut mesh = Mesh::pair(seed, &mut rooms);
        mesh.good_links();
        let load = load(&mut mesh, 200);
        match mesh.rng.below(3) {
            2 => mesh.restart_server(1_000),
            n => mesh.restart_node(n as usize, 1_000),
        }
        resumes(&mut mesh, load);
    });
}

/// Nothing passes but by the relay, and what restarts does so before the restart before is dealt with.
#[test]
fn service_by_the_relay_resumes_soon_after_two_restarts() {
    for_each_seed(60, |seed| {
        let mut rooms = Plan::PAIR.rooms();
        let mut mesh = Mesh::pair(seed, &mut rooms);
        mesh.good_links();
        let (a, b) = (mesh.nodes[0], mesh.nodes[1]);
        mesh.world.network.block(a, b, true);
        let load = load(&mut mesh, 20);
        let n = mesh.rng.below(2) as usize;
        mesh.restart_node(n, 100);
        let gap = Duration::from_millis(u64::from(mesh.rng.below(1_000)));
        mesh.run(gap);
        match mesh.rng.below(3) {
            0 => mesh.restart_node(1 - n, 100),
            _ => mesh.restart_server(500),
        }
        resumes(&mut mesh, load);
    });
}

/// The server is gone, and so are, one after the other, or both at once, the nodes: they find each other where they were.
#[test]
fn nodes_with_a_direct_path_find_each_other_again_without_a_server() {
    for_each_seed(60, |seed| {
        let mut rooms = Plan::PAIR.rooms();
        let mut mesh = Mesh::pair(seed, &mut rooms);
        if !mesh.must_be_direct(0, 1) {
            return;
        }
        mesh.good_links();
        let load = load(&mut mesh, 20);
        mesh.until("direct", DIRECT_WITHIN, |mesh| mesh.is_direct(0, 1));
        mesh.stop_server();
        for n in 0..2 {
            mesh.restart_node(n, 1_000);
            resumes(&mut mesh, load);
            mesh.until("direct again", DIRECT_WITHIN, |mesh| mesh.is_direct(0, 1));
        }
        mesh.restart_both(1_000);
        resumes(&mut mesh, load);
    });
}
