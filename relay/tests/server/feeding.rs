//! The service feed from a directory of manifests, over real connections.

use crate::node::{Heard, Node};
use crate::process::{Scratch, Server};
use edgemesh_discovery::entry;
use edgemesh_discovery::object::EntryPoints;
use edgemesh_discovery::replica::Replica;
use edgemesh_discovery::table::Key;
use edgemesh_testapi::{ApiServer, Options};

fn service(name: &str, ip: &str) -> String {
    format!(
        "---\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: {ip}, ports: [{{name: http, port: 80}}]}}\n"
    )
}

fn slice(name: &str, node: &str) -> String {
    format!(
        "---\nkind: EndpointSlice\nmetadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: 8080}}]\n\
         endpoints: [{{addresses: [172.17.0.2], nodeName: {node}, hostname: pod-0}}]\n"
    )
}

fn key(name: &str) -> Key {
    Key { namespace: "default".into(), name: name.into() }
}

/// Applies the feed up to the next commit; returns its sequence and how many frames came before.
fn follow(node: &mut Node, replica: &mut Replica) -> (u64, usize) {
    let mut frames = 0;
    loop {
        match node.hear() {
            Some(Heard::Feed(bytes)) => {
                replica.apply_run(&bytes).unwrap();
                frames += 1;
            }
            Some(Heard::Commit(sequence, digest)) => {
                assert_eq!(replica.table().digest(), digest, "the digest is that of the content");
                return (sequence, frames);
            }
            other => panic!("{other:?} instead of the feed"),
        }
    }
}

fn run_text(replica: &Replica, name: &str) -> String {
    let run = replica.table().get(&key(name)).unwrap_or_else(|| panic!("no {name}"));
    edgemesh_core::wire::control::updates(run).map(|u| format!("{:?} ", u.unwrap())).collect()
}

#[test]
fn a_node_gets_the_table_then_every_change_and_a_mistake_changes_nothing() {
    let (state, manifests) = (Scratch::new("feed"), Scratch::new("feed-manifests"));
    manifests.write("a.yaml", &(service("web", "10.96.0.1") + &slice("web", "edge-9")));
    let path = manifests.0.to_str().unwrap().to_owned();
    let server = Server::start(&state.0, 0, &["--manifests", &path]);
    let mut node = Node::join(&server.token("a", &[]), server.address, 1, true);
    let mut replica = Replica::default();
    let (first, _) = follow(&mut node, &mut replica);
    assert_eq!(server.get("/readyz"), "ok\n");
    let nodes = server.json("/nodes");
    let edge = nodes.as_array().unwrap().iter().find(|n| n["node"] == "edge-9").unwrap().clone();
    assert_eq!(edge["joined"], false);
    assert!(run_text(&replica, "web").contains(&format!("node: {}", edge["index"])));

    manifests.write("b.yaml", &service("more", "10.96.0.2"));
    let (second, frames) = follow(&mut node, &mut replica);
    assert_eq!((second, frames, replica.table().len()), (first + 1, 1, 2));

    manifests.write("b.yaml", &service("more", "not-an-address"));
    assert!(server.log("b.yaml").contains("spec.clusterIP"));
    assert_eq!(server.metric("manifest_problems_total"), 1);
    manifests.write("a.yaml", &service("web", "10.96.0.3"));
    let (third, _) = follow(&mut node, &mut replica);
    assert_eq!((third, replica.table().len()), (second + 1, 2), "the last good version of b.yaml stays");
    assert!(run_text(&replica, "web").contains("10.96.0.3"));

    std::fs::remove_file(manifests.0.join("b.yaml")).unwrap();
    follow(&mut node, &mut replica);
    assert!(replica.table().get(&key("more")).is_none());
}

#[test]
fn a_node_that_comes_back_gets_only_what_it_missed_also_from_a_restarted_server() {
    let (state, manifests) = (Scratch::new("missed"), Scratch::new("missed-manifests"));
    let many: String =
        (0..300).map(|n| service(&format!("s{n}"), &format!("10.96.{}.{}", 1 + n / 250, n % 250))).collect();
    manifests.write("many.yaml", &many);
    let path = manifests.0.to_str().unwrap().to_owned();
    let server = Server::start(&state.0, 0, &["--manifests", &path]);
    let token = server.token("a", &[]);
    let mut replica = Replica::default();
    let mut node = Node::join(&token, server.address, 1, true);
    let (first, frames) = follow(&mut node, &mut replica);
    assert!(frames > 5 && replica.table().len() == 300);
    drop(node);
    manifests.write("more.yaml", &service("more", "10.97.0.1"));
    server.log("services=301");
    let mut node = Node::join_from(&token, server.address, 1, true, first);
    let (second, frames) = follow(&mut node, &mut replica);
    assert_eq!((frames, replica.table().len()), (1, 301));

    let server = server.kill_and_restart(&["--manifests", &path]);
    let mut node = Node::join_from(&token, server.address, 1, true, second);
    assert_eq!(follow(&mut node, &mut replica), (second, 1), "the same table: only the zone is told");
    let mut node = Node::join_from(&token, server.address, 1, true, first);
    let mut fresh = Replica::default();
    assert!(follow(&mut node, &mut fresh).1 > 5, "a version that is forgotten costs the full list");
    assert_eq!(fresh.table(), replica.table());
}

#[test]
fn endpoints_of_headless_services_have_addresses_that_stay() {
    let (state, manifests) = (Scratch::new("vips"), Scratch::new("vips-manifests"));
    manifests.write("a.yaml", &(service("db", "None") + &slice("db", "edge-1")));
    let path = manifests.0.to_str().unwrap().to_owned();
    let server = Server::start(&state.0, 0, &["--manifests", &path]);
    let token = server.token("a", &[]);
    let vip = |server: &Server| {
        let mut node = Node::join(&token, server.address, 1, true);
        let mut replica = Replica::default();
        follow(&mut node, &mut replica);
        let text = run_text(&replica, "db");
        text.split("vip: Some(").nth(1).unwrap().split(')').next().unwrap().to_owned()
    };
    assert_eq!(vip(&server), "242.128.0.1");
    manifests.write("b.yaml", &(service("other", "None") + &slice("other", "edge-2")));
    manifests.write("a.yaml", &(service("db", "None") + &slice("db", "edge-3")));
    server.log("services=2");
    let server = server.kill_and_restart(&["--manifests", &path]);
    assert_eq!(vip(&server), "242.128.0.1", "the pod moved to another node, the server was killed");
}

#[test]
fn a_kubernetes_api_is_fed_as_manifests_are() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let api = runtime.block_on(ApiServer::start(Options::default())).unwrap();
    let object = |yaml: String| serde_saphyr::from_str(yaml.trim_start_matches("---\n")).unwrap();
    assert!(api.put(object(service("web", "10.96.0.1"))) > 0);
    assert!(api.put(object(slice("web", "edge-9"))) > 0);
    let state = Scratch::new("feed-kubernetes");
    let server = Server::start(&state.0, 0, &["--kubernetes", "--api-server", &api.url()]);
    let mut node = Node::join(&server.token("a", &[]), server.address, 1, true);
    let mut replica = Replica::default();
    follow(&mut node, &mut replica);
    assert!(run_text(&replica, "web").contains("172.17.0.2"));
    assert!(api.put(object(service("db", "10.96.0.2"))) > 0);
    follow(&mut node, &mut replica);
    assert_eq!(replica.table().len(), 2);
    drop(api);
    // The server says that the API is away, and goes on with what it knows.
    server.log("what is known stays");
    assert_eq!(server.get("/readyz"), "ok\n");
}

/// The list of entry points that the node hears next, with its digest; what of the feed comes between is left out.
fn entries_of(node: &mut Node) -> (Vec<(String, u16)>, [u8; 32]) {
    let mut bytes = Vec::new();
    loop {
        match node.hear() {
            Some(Heard::Entries(part, None)) => bytes.extend(part),
            Some(Heard::Entries(part, Some(digest))) => {
                bytes.extend(part);
                assert_eq!(entry::digest(&bytes), digest, "the digest is that of the content");
                let list = entry::decode(&bytes).unwrap();
                let port = |points: &EntryPoints| points.node_ports[0].node_port;
                return (
                    list.iter().map(|((_, name), points)| (name.clone(), port(points))).collect(),
                    digest,
                );
            }
            Some(Heard::Feed(_) | Heard::Commit(..)) => {}
            other => panic!("{other:?} instead of entry points"),
        }
    }
}

fn door(name: &str, last: usize, node_port: u16) -> String {
    format!(
        "---\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{type: NodePort, clusterIP: 10.97.{}.{}, ports: \
         [{{port: 80, nodePort: {node_port}}}]}}\n",
        last / 250,
        last % 250 + 1
    )
}

#[test]
fn x8_only_a_node_that_asks_gets_the_entry_points_whole_and_then_every_change() {
    let (state, manifests) = (Scratch::new("entries"), Scratch::new("entries-manifests"));
    manifests.write("a.yaml", &service("web", "10.96.0.1"));
    let path = manifests.0.to_str().unwrap().to_owned();
    let server = Server::start(&state.0, 0, &["--manifests", &path]);
    let mut plain = Node::join(&server.token("plain", &[]), server.address, 1, true);
    let mut asks = Node::join(&server.token("asks", &[]), server.address, 2, true);
    asks.want_entries([0; 32]);
    let (none, digest) = entries_of(&mut asks);
    assert_eq!(none, [], "that there are none is said, too");

    manifests.write("b.yaml", &door("first", 0, 30_000));
    let (one, newer) = entries_of(&mut asks);
    assert_eq!((one, newer != digest), (vec![("first".to_owned(), 30_000)], true));

    // More than fits a message.
    let many: String = (0..300).map(|n| door(&format!("door-{n:03}"), n, 30_000 + n as u16)).collect();
    manifests.write("b.yaml", &many);
    let (all, digest) = entries_of(&mut asks);
    assert_eq!((all.len(), &all[299]), (300, &("door-299".to_owned(), 30_299)));
    drop(asks);

    let mut again = Node::join(&server.token("again", &[]), server.address, 3, true);
    again.want_entries(digest);
    manifests.write("b.yaml", &door("last", 7, 30_007));
    assert_eq!(entries_of(&mut again).0, [("last".to_owned(), 30_007)], "what it has is not sent again");

    let mut replica = Replica::default();
    while replica.table().get(&key("last")).is_none() {
        // Anything but the feed is a panic.
        follow(&mut plain, &mut replica);
    }
}
