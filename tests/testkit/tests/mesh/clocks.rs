//! Boards without a battery: their clock says 1970 whenever they start, and handshakes carry stamps that must grow.

use crate::DIRECT_WITHIN;
use crate::mesh::{Mesh, Plan};
use crate::node;
use crate::restarts::{load, resumes};
use edgemesh_core::counters::DropReason;
use edgemesh_testkit::seeds::for_each_seed;

/// The machine of the first node starts anew: it is 1970 again.
fn reboot(mesh: &mut Mesh<'_>) {
    mesh.node(0).disk.clock = node::IN_1970 - (mesh.world.now().as_micros() / 1_000_000) as i64;
    mesh.restart_node(0, 1_000);
}

/// Its stamps, if it had to make one and the other side was not first, follow the server's time.
fn assert_no_stamp_of_1970(mesh: &mut Mesh<'_>) {
    let stamp = mesh.node(0).disk.stamp;
    assert!(stamp == 0 || stamp > node::BEGINNING, "{stamp}");
}

/// Initiations of the first node that the second one took for recordings.
fn taken_for_old(mesh: &mut Mesh<'_>) -> u64 {
    mesh.node(1).engine.counters().get(DropReason::OldHandshake)
}

#[test]
fn a_board_in_1970_joins_and_is_heard_after_every_reboot_without_a_server() {
    for_each_seed(40, |seed| {
        let plan = Plan::IN_1970;
        let mut rooms = plan.rooms();
        let mut mesh = Mesh::new(seed, plan, &mut rooms);
        assert_ne!(mesh.node(0).engine.own_index(), 0, "it has joined");
        if !mesh.must_be_direct(0, 1) {
            return;
        }
        mesh.good_links();
        let load = load(&mut mesh, 20);
        assert_no_stamp_of_1970(&mut mesh);
        mesh.until("direct", DIRECT_WITHIN, |mesh| mesh.is_direct(0, 1));
        mesh.stop_server();
        for _ in 0..3 {
            let (stamp, before) = (mesh.node(0).disk.stamp, taken_for_old(&mut mesh));
            reboot(&mut mesh);
            // Mostly sooner than the other side calls: it is this one's own handshake that is taken, with the next floor.
            resumes(&mut mesh, load);
            assert_eq!(taken_for_old(&mut mesh), before);
            assert!(mesh.node(0).disk.stamp >= stamp);
            mesh.until("direct again", DIRECT_WITHIN, |mesh| mesh.is_direct(0, 1));
        }
    });
}

/// The floor is lost as well: then it is the server's time that peers have not seen stamps beyond.
#[test]
fn a_board_in_1970_that_lost_its_floor_follows_the_servers_time() {
    for_each_seed(40, |seed| {
        let plan = Plan::IN_1970;
        let mut rooms = plan.rooms();
        let mut mesh = Mesh::new(seed, plan, &mut rooms);
        mesh.good_links();
        let load = load(&mut mesh, 20);
        mesh.node(0).disk.stamp = 0;
        reboot(&mut mesh);
        resumes(&mut mesh, load);
        assert_no_stamp_of_1970(&mut mesh);
    });
}
