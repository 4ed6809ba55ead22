//! Endpoints that this node's kernel reaches without the mesh: of other nodes, and which it may lead clients to itself.

use super::*;
use crate::wire::control::Network;
use crate::wire::feed::ENDPOINT_EXIT;
use crate::wire::ip::Mesh;

fn table(memory: &mut Memory) -> Table<'_> {
    let mut table = memory.table();
    let network = Network { mesh_v4: [242, 0, 0, 0], mesh_v4_len: 8, mesh_v6: [0xfd; 16] };
    table.set_mesh(Mesh::new(network, 1));
    table.apply(&Update::Home(Home { zone: 0, domain: zone("cloud") })).unwrap();
    table
}

/// The Service `web` of nodes 1, 2 and 3, each in a domain.
fn define(table: &mut Table<'_>, domains: [&str; 3]) {
    let head = ServiceDef {
        namespace: "default",
        name: "web",
        kind: ServiceKind::ClusterIp([ip("10.96.0.1")].into_iter().collect()),
        affinity_secs: 0,
        flags: 0,
    };
    table.apply(&Update::Service(head)).unwrap();
    table.apply(&Update::Port(PortDef { name: "", protocol: Protocol::Udp, port: 53 })).unwrap();
    table.apply(&Update::Targets(&[53, 0])).unwrap();
    for (node, domain) in (1..).zip(domains) {
        table.apply(&Update::Domain(zone(domain))).unwrap();
        let address = ip(&std::format!("10.0.{node}.1"));
        let def = EndpointDef { node, address, vip: None, hostname: "", conditions: UP, zones: &[] };
        table.apply(&Update::Endpoint(def)).unwrap();
    }
    table.apply(&Update::Commit).unwrap();
}

#[test]
fn endpoints_of_the_domain_are_given_to_this_nodes_kernel() {
    let mut memory = Memory::new(8);
    let mut table = table(&mut memory);
    define(&mut table, ["", "cloud", "edge"]);
    let all = set(&["1 10.0.1.1 53", "1 10.0.2.1 53", "3 10.0.3.1 53"]);
    assert_eq!(drawn(&mut table, &request(UDP, "10.96.0.1", 53), 1), all);
    let direct: Vec<bool> = table.services().flat_map(|s| s.endpoints()).map(|e| e.is_direct(1)).collect();
    assert_eq!(direct, [true, true, false]);
    assert_eq!(
        table.nodes_of::<4>(table.service("default", "web").unwrap().id()),
        [3],
        "no other tunnel is needed"
    );
    let still = |table: &Table<'_>| table.still_serves(UDP, ip("10.96.0.1"), 53, (1, ip("10.0.2.1"), 53));
    assert!(still(&table));
    assert_eq!(table.serves(1, UDP, ip("10.0.2.1"), 53), Serves::Nothing, "peers reach it on its own node");
    define(&mut table, ["", "edge", "edge"]);
    assert!(!still(&table));
    let all = set(&["1 10.0.1.1 53", "2 10.0.2.1 53", "3 10.0.3.1 53"]);
    assert_eq!(drawn(&mut table, &request(UDP, "10.96.0.1", 53), 1), all);
}

/// What a source may say of an endpoint does not change where it is.
#[test]
fn no_condition_makes_an_endpoint_one_of_the_domain() {
    let mut memory = Memory::new(8);
    let mut table = table(&mut memory);
    apply(&mut table, &web(&[backend(2, "10.0.2.1", u8::MAX, &[80, 443])])).unwrap();
    let endpoint = table.services().flat_map(|service| service.endpoints()).next().unwrap();
    assert!(!endpoint.is_direct(1) && endpoint.ready());
}

#[test]
fn nodes_without_a_domain_are_of_none() {
    let mut memory = Memory::new(8);
    let mut table = table(&mut memory);
    table.apply(&Update::Home(Home::default())).unwrap();
    define(&mut table, ["", "", "cloud"]);
    let direct: Vec<bool> = table.services().flat_map(|s| s.endpoints()).map(|e| e.is_direct(1)).collect();
    assert_eq!(direct, [true, false, false]);
}

#[test]
fn what_is_proven_counts_like_a_domain_where_there_is_no_label() {
    let mut memory = Memory::new(8);
    let mut table = table(&mut memory);
    let unlabelled = Home::default();
    let reached = [Reached::new(2, ip("10.0.2.0"), 24), Reached::new(3, ip("10.0.2.0"), 24)];
    let direct = |table: &Table<'_>| -> Vec<bool> {
        table.services().flat_map(|s| s.endpoints()).map(|e| e.is_direct(1)).collect()
    };
    table.apply(&Update::Home(unlabelled)).unwrap();
    table.set_reached(&reached);
    define(&mut table, ["", "", ""]);
    assert_eq!(direct(&table), [true, true, false], "node 3 has no such address");
    assert_eq!(table.nodes_of::<4>(table.service("default", "web").unwrap().id()), [3]);
    table.set_hands_over(true);
    assert_eq!(handed(&mut table, &request(UDP, "10.96.0.1", 53)), set(&["10.0.1.1", "10.0.2.1"]));
    define(&mut table, ["", "edge", ""]);
    assert_eq!(direct(&table), [true, false, false], "its node has a label");
    table.apply(&Update::Home(Home { domain: zone("cloud"), ..unlabelled })).unwrap();
    define(&mut table, ["", "", ""]);
    assert_eq!(direct(&table), [true, false, false], "this node has one");
    table.apply(&Update::Home(unlabelled)).unwrap();
    define(&mut table, ["", "", ""]);
    assert_eq!(direct(&table), [true, true, false]);
    table.set_reached(&[]);
    define(&mut table, ["", "", ""]);
    assert_eq!(direct(&table), [true, false, false], "the proof is lost");
}

/// Endpoints of which it is said that the kernel is to carry the connection, by the last two bytes of their addresses.
fn handed(table: &mut Table<'_>, request: &Request) -> BTreeSet<String> {
    let mut rng = Rng::new([4; 32]);
    let mut found = BTreeSet::new();
    for _ in 0..200 {
        if let Selection::Endpoint { address, handed: true, .. } =
            table.select(Instant::ZERO, request, &place(1), &mut rng)
        {
            found.insert(address.to_string());
        }
    }
    found
}

#[test]
fn c7_the_kernel_is_handed_what_it_reaches_by_itself_once_it_may() {
    let mut memory = Memory::new(8);
    let mut table = table(&mut memory);
    define(&mut table, ["", "cloud", "edge"]);
    let request = request(UDP, "10.96.0.1", 53);
    assert_eq!(handed(&mut table, &request), set(&[]), "unless asked to");
    table.set_hands_over(true);
    assert_eq!(handed(&mut table, &request), set(&["10.0.1.1", "10.0.2.1"]));
    let of_itself = Request { client: ip("10.0.1.1"), ..request };
    assert_eq!(handed(&mut table, &of_itself), set(&["10.0.2.1"]), "a pod reaches itself through us");
    let exit = backend(1, "192.0.2.1", UP | ENDPOINT_EXIT, &[8080, 53]);
    apply(&mut table, &web(&[exit, backend(1, "10.0.1.1", UP, &[8080, 53])])).unwrap();
    let plain: Vec<bool> = table.services().flat_map(|s| s.endpoints()).map(|e| e.is_plain()).collect();
    assert_eq!(plain, [false, true]);
    assert_eq!(handed(&mut table, &super::request(TCP, "10.96.0.1", 80)), set(&["10.0.1.1"]));
}

#[test]
fn c7_a_client_keeps_its_endpoint_when_the_kernel_is_handed_the_next_connection() {
    let mut memory = Memory::new(8);
    let mut table = table(&mut memory);
    let backends = [backend(1, "10.0.1.1", UP, &[8080, 53]), backend(1, "10.0.1.2", UP, &[8080, 53])];
    apply(&mut table, &Def { affinity: 60, ..web(&backends) }).unwrap();
    table.set_hands_over(true);
    assert_eq!(handed(&mut table, &request(TCP, "10.96.0.1", 80)).len(), 1);
}

#[test]
fn c7_nothing_is_handed_over_before_the_node_has_joined() {
    let mut memory = Memory::new(8);
    let mut table = memory.table();
    apply(&mut table, &web(&[backend(0, "10.0.0.1", UP, &[8080, 53])])).unwrap();
    table.set_hands_over(true);
    assert_eq!(handed(&mut table, &request(TCP, "10.96.0.1", 80)), set(&[]));
}
