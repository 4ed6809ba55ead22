//! Services one by one, over real connections: answers, what follows from them, and what is left out.

use crate::node::{Heard, Node};
use crate::process::{Scratch, Server};
use edgemesh_core::wire::ask::{self, FORGET};
use edgemesh_discovery::replica::Replica;
use edgemesh_discovery::table::Key;
use std::net::IpAddr;

/// A Service with one endpoint.
fn service(name: &str, vip: &str, port: u16, node: &str) -> String {
    format!(
        "---\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: {vip}, ports: [{{port: 80}}]}}\n\
         ---\nkind: EndpointSlice\nmetadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         addressType: IPv4\nports: [{{port: {port}}}]\n\
         endpoints: [{{addresses: [172.17.0.2], nodeName: {node}}}]\n"
    )
}

fn named(name: &str) -> u32 {
    ask::service("default".bytes(), name.bytes())
}

/// Applies what comes up to the next answer; its fingerprint, and how many there are.
fn answer(node: &mut Node, replica: &mut Replica) -> (u32, u32) {
    loop {
        match node.hear() {
            Some(Heard::Feed(bytes)) => replica.apply_run(&bytes).unwrap(),
            Some(Heard::Answer(key, found)) => return (key, found),
            other => panic!("{other:?} instead of an answer"),
        }
    }
}

fn held(replica: &Replica) -> Vec<&str> {
    replica.table().keys().map(|key| key.name.as_str()).collect()
}

fn has(replica: &Replica, name: &str, text: &str) -> bool {
    let run = replica.table().get(&Key { namespace: "default".into(), name: name.into() }).unwrap();
    edgemesh_core::wire::control::updates(run).any(|u| format!("{:?}", u.unwrap()).contains(text))
}

#[test]
fn a_node_is_told_what_it_serves_what_it_asked_for_and_how_that_changes() {
    let (state, manifests) = (Scratch::new("ask"), Scratch::new("ask-manifests"));
    for (name, vip, node) in [
        ("web", "10.96.0.1", "edge-9"),
        ("db", "10.96.0.2", "edge-9"),
        ("own", "10.96.0.3", "a"),
        ("other", "10.96.0.4", "edge-9"),
    ] {
        manifests.write(&format!("{name}.yaml"), &service(name, vip, 8080, node));
    }
    let server = Server::start(&state.0, 0, &["--manifests", manifests.0.to_str().unwrap()]);
    let mut node = Node::join_on_demand(&server.token("a", &[]), server.address, 1);
    let index = server.json("/nodes").as_array().unwrap().iter().find(|n| n["node"] == "a").unwrap()["index"]
        .as_u64()
        .unwrap() as u32;
    let mut replica = Replica::default();
    assert_eq!(answer(&mut node, &mut replica), (index, 1));
    assert_eq!(held(&replica), ["own"], "what it has endpoints of, unasked");

    let address = ask::address("10.96.0.2".parse::<IpAddr>().unwrap());
    for (key, found) in
        [(named("web"), 1), (named("none"), 0), (address, 1), (ask::namespace("default".bytes()), 1)]
    {
        node.ask(key);
        assert_eq!(answer(&mut node, &mut replica), (key, found));
    }
    assert_eq!(held(&replica), ["db", "own", "web"]);
    assert!(replica.table().namespaces().contains("default"));

    manifests.write("other.yaml", &service("other", "10.96.0.4", 9090, "edge-9"));
    server.log("Services are fed");
    manifests.write("web.yaml", &service("web", "10.96.0.1", 9090, "edge-9"));
    assert_eq!(answer(&mut node, &mut replica), (named("web"), 1), "and nothing of the other");
    assert!(has(&replica, "web", "Targets([130, 35])"), "port 9090");
    manifests.write("db.yaml", &service("db", "10.96.0.9", 8080, "edge-9"));
    assert_eq!(answer(&mut node, &mut replica), (address, 0), "the address is nobody's any more");
    assert!(has(&replica, "db", "10.96.0.9"), "the Service that had it is told as it is");
    manifests.write("none.yaml", &service("none", "10.96.0.5", 8080, "edge-9"));
    assert_eq!(answer(&mut node, &mut replica), (named("none"), 1), "what did not exist does now");
    std::fs::remove_file(manifests.0.join("web.yaml")).unwrap();
    assert_eq!(answer(&mut node, &mut replica), (named("web"), 0));
    assert_eq!(held(&replica), ["db", "none", "own"]);

    node.ask(named("none") | FORGET);
    node.ask(named("other"));
    assert_eq!(answer(&mut node, &mut replica), (named("other"), 1));
    manifests.write("none.yaml", &service("none", "10.96.0.5", 9090, "edge-9"));
    manifests.write("own.yaml", &service("own", "10.96.0.3", 9090, "edge-9"));
    assert_eq!(answer(&mut node, &mut replica), (index, 0), "it serves nothing more; none is forgotten");
    assert!(has(&replica, "own", "node: "), "what it served is told as it is now");
    assert!(has(&replica, "none", "Targets([144, 31])"), "still port 8080");
}
