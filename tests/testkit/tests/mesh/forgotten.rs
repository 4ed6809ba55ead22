//! Small tables: who has no place left for a node must hear of it again when that node comes back.

use crate::START_WITHIN;
use crate::mesh::{Mesh, Plan};
use edgemesh_core::peer::KEEP;
use edgemesh_core::time::Duration;
use edgemesh_testkit::seeds::for_each_seed;

/// An initiation in vain, and the next one.
const SOON: Duration = Duration::from_secs(8);

/// Begins a session of two nodes, numbers from 0.
fn connect(mesh: &mut Mesh<'_>, n: usize, other: usize, within: Duration) {
    let (now, index) = (mesh.world.now(), other as u32 + 1);
    mesh.node(n).engine.connect(now, index);
    mesh.until(&format!("connected {n} to {other}"), within, |mesh| {
        let now = mesh.world.now();
        mesh.node(n).engine.peers(now).any(|peer| peer.index == index && peer.up)
    });
}

/// Seed 3251 of the large test: a node knew the others and they did not know it any more. It had no reason to ask the
/// directory about them, so nobody told them of it, and its handshakes were a stranger's for ever.
#[test]
fn a_node_whose_place_was_taken_is_heard_again() {
    for_each_seed(20, |seed| {
        // Each has place for three others.
        let plan = Plan::small(5);
        let mut rooms = plan.rooms();
        let mut mesh = Mesh::new(seed, plan, &mut rooms);
        mesh.good_links();
        connect(&mut mesh, 0, 1, START_WITHIN);
        for other in [2, 3, 4] {
            mesh.run(KEEP.plus(KEEP));
            connect(&mut mesh, 1, other, START_WITHIN);
        }
        let now = mesh.world.now();
        assert!(mesh.node(1).engine.peers(now).all(|peer| peer.index != 1), "its place is taken");
        assert!(mesh.node(0).engine.peers(now).any(|peer| peer.index == 2), "it knows the other one still");
        mesh.run(KEEP.plus(KEEP));
        let before = mesh.server().lookups;
        connect(&mut mesh, 0, 1, SOON);
        assert_eq!(mesh.server().lookups, before + 1);
    });
}
