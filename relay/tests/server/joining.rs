//! Joining with a ServiceAccount token: a real server process that asks a real API server.

use crate::node::{Heard, Node};
use crate::process::{Scratch, Server};
use edgemesh_testapi::{ApiServer, Options};
use serde_json::{Value, json};
use std::sync::mpsc;
use tokio::runtime::Runtime;

const NODE: &str = "authentication.kubernetes.io/node-name";

/// As long as tokens of Kubernetes are at most.
fn token(name: &str) -> String {
    format!("{name}.{}", "x".repeat(2_000))
}

fn agent_on(node: &str) -> Value {
    json!({"username": "system:serviceaccount:mesh:agent", "extra": {NODE: [node]}})
}

struct World {
    runtime: Runtime,
    api: ApiServer,
    server: Server,
    state: Scratch,
}

fn world(name: &str, more: &[&str]) -> World {
    let runtime = Runtime::new().unwrap();
    let api = runtime.block_on(ApiServer::start(Options::default())).unwrap();
    let state = Scratch::new(name);
    let url = api.url();
    let args = [&["--kubernetes", "--api-server", &url], more].concat();
    let server = Server::start(&state.0, 0, &args);
    World { runtime, api, server, state }
}

impl World {
    fn show(&self, token: &str, node: &str, seed: u8) -> Option<Heard> {
        let cluster = self.server.cluster();
        Node::show(token.as_bytes(), node, &cluster, self.server.address, seed).hear()
    }

    fn refused(&self, token: &str, node: &str, seed: u8) -> (String, String) {
        match self.show(token, node, seed) {
            Some(Heard::Refused(reason, detail)) => (reason, detail),
            other => panic!("{other:?} instead of a refusal"),
        }
    }

    /// Every file of the server, to look for what must not be there.
    fn stored(&self) -> Vec<u8> {
        let files = std::fs::read_dir(&self.state.0).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.is_file()).flat_map(|path| std::fs::read(path).unwrap()).collect()
    }
}

#[test]
fn a_service_account_token_lets_its_own_node_in_and_a_second_key_not() {
    let world = world("account", &["--service-account", "mesh:agent"]);
    let cluster = world.server.cluster();
    assert_eq!(cluster.servers, [world.server.address.to_string()]);
    world.api.know_token_for("edgemesh", &token("one"), agent_on("edge-1"));
    for round in 0..2 {
        match world.show(&token("one"), "edge-1", 1) {
            Some(Heard::Welcome { index: 1, name, .. }) => assert_eq!(name, "edge-1"),
            other => panic!("{other:?} in round {round}"),
        }
    }
    assert_eq!(world.server.metric("server_enrolled_total"), 1, "the same key again is no news");
    let (reason, detail) = world.refused(&token("one"), "edge-1", 2);
    assert_eq!(reason, "NameTaken");
    assert!(detail.contains("join token"), "{detail}");
    assert_eq!(world.server.metric("server_refused_total{reason=\"name_taken\"}"), 1);

    let joined = world.server.token("edge-1", &[]);
    assert_eq!(Node::join(&joined, world.server.address, 2, false).index, 1, "the operator's word");
    let part = &token("one").into_bytes()[..64];
    assert!(!world.stored().windows(64).any(|window| window == part), "the token is on disk");
}

#[test]
fn what_a_token_does_not_prove_is_said_to_the_node_and_in_the_log() {
    let world = world("unproven", &["--service-account", "mesh:agent"]);
    world.api.know_token_for("edgemesh", "one", agent_on("edge-1"));
    world.api.know_token("for-the-api", agent_on("edge-1"));
    for (shown, node, why) in [
        ("one", "edge-2", "of a pod on node edge-1, not on edge-2"),
        ("for-the-api", "edge-1", "does not accept the token for audience"),
        ("nobody", "edge-1", "does not accept the token for audience"),
        ("", "edge-1", "neither a join token nor a ServiceAccount token"),
        ("\u{7f}", "edge-1", "does not accept the token for audience"),
    ] {
        let (reason, detail) = world.refused(shown, node, 1);
        assert_eq!(reason, "Account", "{shown}: {detail}");
        assert!(detail.contains(why), "{shown}: {detail}");
        assert!(world.server.log("node refused").contains(why), "{shown}");
    }
    world.api.let_review(false);
    let (_, detail) = world.refused("one", "edge-1", 1);
    assert!(detail.contains("`create` on tokenreviews"), "{detail}");
    world.api.let_review(true);
    let World { runtime, mut api, server, state } = world;
    runtime.block_on(api.stop());
    let world = World { runtime, api, server, state };
    let (_, detail) = world.refused("one", "edge-1", 1);
    assert!(detail.contains("the API server cannot be asked"), "{detail}");
    assert_eq!(world.server.metric("server_refused_total{reason=\"account\"}"), 7);
    assert_eq!(world.server.metric("server_enrolled_total"), 0);
}

#[test]
fn a_token_without_end_costs_its_connection_and_nothing_is_asked() {
    let world = world("endless", &["--service-account", "mesh:agent"]);
    assert!(world.show(&"x".repeat(20_000), "edge-1", 1).is_none());
    assert_eq!(world.server.metric("server_drops_total{reason=\"tcp_garbage\"}"), 1);
}

#[test]
fn without_the_setting_no_service_account_counts() {
    let world = world("unset", &[]);
    world.api.know_token_for("edgemesh", "one", agent_on("edge-1"));
    let (reason, detail) = world.refused("one", "edge-1", 1);
    assert_eq!(reason, "NotEnrolled");
    assert!(detail.contains("--service-account"), "{detail}");
}

#[test]
fn a_crowd_of_nodes_joins_at_once() {
    let world = world("crowd", &["--service-account", "mesh:agent"]);
    let cluster = world.server.cluster();
    let (tell, told) = mpsc::channel();
    let nodes: Vec<_> = (0u8..40).map(|n| (n, format!("edge-{n}"))).collect();
    for (n, name) in &nodes {
        world.api.know_token_for("edgemesh", &token(name), agent_on(name));
        let (tell, cluster, name, n) = (tell.clone(), cluster.clone(), name.clone(), *n);
        let address = world.server.address;
        std::thread::spawn(move || {
            let heard = Node::show(token(&name).as_bytes(), &name, &cluster, address, n + 1).hear();
            tell.send(matches!(heard, Some(Heard::Welcome { .. }))).unwrap();
        });
    }
    drop(tell);
    assert_eq!(told.iter().filter(|welcome| *welcome).count(), nodes.len());
}
