//! Two whole nodes and a server, over bad links and through NAT boxes, while things break: what arrives is right,
//! deadlines are honest, everything works again afterwards, and in the end nothing is left.
//!
//! What is delivered is judged by the [`pods`], deadlines by [`edgemesh_testkit::world`], the rest here.

mod mesh;
mod node;
mod paths;
mod pods;
mod restarts;
mod server;
mod stream;

use edgemesh_core::time::Duration;
use edgemesh_testkit::seeds::for_each_seed;
use mesh::Mesh;
use pods::SERVICES;

/// How long the worst links may take to bring about a first exchange, and good ones after trouble.
const START_WITHIN: Duration = Duration::from_secs(60);
const RECOVER_WITHIN: Duration = Duration::from_secs(30);
const TRANSFER_WITHIN: Duration = Duration::from_secs(60);
/// How long good links may take to a direct path where there must be one: both sides rest once in a long while.
const DIRECT_WITHIN: Duration = Duration::from_secs(40);
const BLOCKS: usize = 40;
/// How long nothing happens in the end: longer than any flow, session or mapping of UDP lives.
const IDLE: Duration = Duration::from_secs(900);

/// Deadlines of an idle node: the next ping and the next refresh of the relay's binding.
const PENDING: usize = 2;

#[test]
fn two_nodes_and_a_server_survive_what_networks_do() {
    for_each_seed(200, |seed| {
        let mut mesh = Mesh::new(seed);
        for n in [0, 1] {
            let (name, vip) = SERVICES[1 - n];
            let resolved = |mesh: &mut Mesh| {
                let now = mesh.world.now();
                mesh.node(n).resolve(now, name) == Some(vip)
            };
            mesh.until("resolved", START_WITHIN, resolved);
        }
        mesh.ask(true);
        mesh.exchange("answered at first", START_WITHIN);
        for node in [0, 1] {
            mesh.node(node).pods.transfer(BLOCKS);
        }
        for _ in 0..3 + mesh.rng.below(4) {
            mesh.trouble();
            let span = mesh.seconds(1, 20);
            mesh.run(span);
        }
        mesh.note("calm".into());
        mesh.good_links();
        mesh.exchange("answered after the trouble", RECOVER_WITHIN);
        mesh.until("transferred", TRANSFER_WITHIN, |mesh| {
            [0, 1].iter().all(|n| mesh.node(*n).pods.transferred())
        });
        for n in [0, 1] {
            assert_eq!(mesh.node(n).pods.stored.len(), BLOCKS);
        }
        if mesh.must_be_direct() {
            mesh.until("direct", DIRECT_WITHIN, Mesh::is_direct);
        }
        mesh.ask(false);
        mesh.run(IDLE);
        for n in [0, 1] {
            let node = mesh.node(n);
            let flows = node.engine.flows();
            let left = (flows.len(), flows.admitted(), node.parked());
            let pending = node.engine.pending_timeouts();
            assert_eq!(
                left,
                (0, 0, 0),
                "flows, admitted tuples, parked packets of node {n}\n{}",
                mesh.story()
            );
            assert_eq!(pending, PENDING, "deadlines of node {n}");
        }
    });
}
