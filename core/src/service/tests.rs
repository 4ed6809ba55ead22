use super::view::Kind;
use super::*;
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use crate::wire::feed::{
    ENDPOINT_READY, ENDPOINT_SERVING, ENDPOINT_TERMINATING, EndpointDef, FLAG_INTERNAL_LOCAL, FLAG_NO_PROXY,
    Home, PortDef, ServiceDef, ServiceKind, Update, zone,
};
use std::collections::{BTreeMap, BTreeSet};
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

const UP: u8 = ENDPOINT_READY | ENDPOINT_SERVING;
const DRAINING: u8 = ENDPOINT_SERVING | ENDPOINT_TERMINATING;

mod affinity;
mod categories;
mod demand;
mod domain;
mod model;
mod rows;
mod shadow;
mod topology;

/// Owned memory of one table.
struct Memory {
    services: Vec<ServiceSlot>,
    ports: Vec<PortSlot>,
    targets: Vec<TargetSlot>,
    endpoints: Vec<EndpointSlot>,
    names: Vec<NameBlock>,
    namespaces: Vec<NamespaceSlot>,
    affinity: Vec<AffinitySlot>,
    indices: [Vec<u32>; 6],
    reached: Vec<Reached>,
}

impl Memory {
    fn new(n: usize) -> Self {
        Self {
            services: vec![ServiceSlot::ZERO; n],
            ports: vec![PortSlot::ZERO; 2 * n],
            targets: vec![TargetSlot::ZERO; 2 * n],
            endpoints: vec![EndpointSlot::ZERO; 4 * n],
            names: vec![NameBlock::ZERO; 8 * n],
            namespaces: vec![NamespaceSlot::ZERO; n],
            affinity: vec![AffinitySlot::ZERO; 64],
            indices: std::array::from_fn(|_| vec![0; 8 * n]),
            reached: vec![Reached::EMPTY; n],
        }
    }

    fn table(&mut self) -> Table<'_> {
        let [by_name, by_vip, by_namespace, by_address, by_endpoint_vip, by_ordinal] = &mut self.indices;
        let resources = Resources {
            services: &mut self.services,
            ports: &mut self.ports,
            targets: &mut self.targets,
            endpoints: &mut self.endpoints,
            names: &mut self.names,
            namespaces: &mut self.namespaces,
            affinity: &mut self.affinity,
            by_name,
            by_vip,
            by_namespace,
            by_address,
            by_endpoint_vip,
            by_ordinal,
            reached: &mut self.reached,
        };
        Table::new(resources, &mut Rng::new([3; 32]))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Backend {
    node: u32,
    address: IpAddr,
    vip: Option<IpAddr>,
    conditions: u8,
    zones: &'static [&'static str],
    ports: Vec<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Def {
    namespace: String,
    name: String,
    vips: Vec<IpAddr>,
    ports: Vec<(Protocol, u16)>,
    flags: u8,
    affinity: u32,
    backends: Vec<Backend>,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn backend(node: u32, address: &str, conditions: u8, ports: &[u16]) -> Backend {
    Backend { node, address: ip(address), vip: None, conditions, zones: &[], ports: ports.to_vec() }
}

fn web(backends: &[Backend]) -> Def {
    Def {
        namespace: "default".into(),
        name: "web".into(),
        vips: vec![ip("10.96.0.1")],
        ports: vec![(Protocol::Tcp, 80), (Protocol::Udp, 80)],
        flags: 0,
        affinity: 0,
        backends: backends.to_vec(),
    }
}

fn apply(table: &mut Table<'_>, def: &Def) -> Result<(), TableError> {
    let kind = if def.vips.is_empty() {
        ServiceKind::Headless
    } else {
        ServiceKind::ClusterIp(def.vips.iter().copied().collect())
    };
    let head = ServiceDef {
        namespace: &def.namespace,
        name: &def.name,
        kind,
        affinity_secs: def.affinity,
        flags: def.flags,
    };
    let mut result = table.apply(&Update::Service(head));
    for (n, (protocol, port)) in def.ports.iter().enumerate() {
        let name = std::format!("port-{n}");
        result =
            result.and(table.apply(&Update::Port(PortDef { name: &name, protocol: *protocol, port: *port })));
    }
    let mut group = None;
    for b in &def.backends {
        if group != Some(&b.ports) {
            let bytes: Vec<u8> = b.ports.iter().flat_map(|p| p.to_le_bytes()).collect();
            result = result.and(table.apply(&Update::Targets(&bytes)));
            group = Some(&b.ports);
        }
        let def = EndpointDef {
            node: b.node,
            address: b.address,
            vip: b.vip,
            hostname: "web-0",
            conditions: b.conditions,
            zones: &b.zones.iter().flat_map(|name| zone(name).to_le_bytes()).collect::<Vec<u8>>(),
        };
        result = result.and(table.apply(&Update::Endpoint(def)));
    }
    result.and(table.apply(&Update::Commit))
}

fn request(protocol: u8, vip: &str, port: u16) -> Request {
    Request { protocol, vip: ip(vip), port, client: ip("172.17.0.9") }
}

/// A node to which all others are equally far.
fn place(own: u32) -> Place<'static> {
    Place { own, cost: &|_, _| Some(0), tried: None }
}

/// What 200 draws select.
fn drawn(table: &mut Table<'_>, request: &Request, own: u32) -> BTreeSet<String> {
    let mut rng = Rng::new([9; 32]);
    (0..200)
        .map(|_| match table.select(Instant::ZERO, request, &place(own), &mut rng) {
            Selection::Endpoint { node, address, port, .. } => std::format!("{node} {address} {port}"),
            other => std::format!("{other:?}"),
        })
        .collect()
}

fn set(items: &[&str]) -> BTreeSet<String> {
    items.iter().map(ToString::to_string).collect()
}

#[test]
fn g1_endpoints_of_two_nodes_with_one_address_are_two() {
    let mut memory = Memory::new(8);
    let mut table = memory.table();
    let backends = [backend(1, "172.17.0.2", UP, &[8080, 81]), backend(2, "172.17.0.2", UP, &[9090, 81])];
    apply(&mut table, &web(&backends)).unwrap();
    let both = set(&["1 172.17.0.2 8080", "2 172.17.0.2 9090"]);
    assert_eq!(drawn(&mut table, &request(TCP, "10.96.0.1", 80), 1), both);
    assert_eq!(drawn(&mut table, &request(SCTP, "10.96.0.1", 80), 1), set(&["UnknownPort"]));
    assert_eq!(drawn(&mut table, &request(TCP, "10.96.0.2", 80), 1), set(&["NotAVip"]));
    assert_eq!(table.serves(1, TCP, ip("172.17.0.2"), 8080), Serves::Port);
    assert_eq!(table.serves(2, TCP, ip("172.17.0.2"), 8080), Serves::Nothing);
    assert_eq!(table.serves(2, UDP, ip("172.17.0.2"), 9090), Serves::Nothing);
    assert!(table.is_vip(ip("10.96.0.1")) && !table.is_vip(ip("172.17.0.2")));
}

#[test]
fn c4_choice_is_uniform() {
    let mut memory = Memory::new(16);
    let mut table = memory.table();
    let backends: Vec<_> = (1..=10)
        .map(|n| backend(n, &std::format!("10.0.0.{n}"), if n % 2 == 0 { UP } else { 0 }, &[80, 0]))
        .collect();
    apply(&mut table, &web(&backends)).unwrap();
    let mut rng = Rng::new([1; 32]);
    let mut seen = BTreeMap::new();
    for _ in 0..10_000 {
        let choice = table.select(Instant::ZERO, &request(TCP, "10.96.0.1", 80), &place(1), &mut rng);
        *seen.entry(std::format!("{choice:?}")).or_insert(0i64) += 1;
    }
    // Chi-square, 4 degrees of freedom, p = 0.001: 18.5.
    let chi: i64 = seen.values().map(|n| (n - 2000) * (n - 2000)).sum();
    assert!(seen.len() == 5 && chi < 18 * 2000, "{seen:?}");
}

#[test]
fn v1_families_do_not_mix() {
    let mut memory = Memory::new(8);
    let mut table = memory.table();
    let mut def = web(&[backend(1, "10.0.0.1", UP, &[80, 80]), backend(1, "fd01::1", UP, &[80, 80])]);
    def.vips.push(ip("fd96::1"));
    apply(&mut table, &def).unwrap();
    assert_eq!(drawn(&mut table, &request(TCP, "10.96.0.1", 80), 1), set(&["1 10.0.0.1 80"]));
    assert_eq!(drawn(&mut table, &request(TCP, "fd96::1", 80), 1), set(&["1 fd01::1 80"]));
}

#[test]
fn endpoint_vips_lead_to_their_endpoint_on_every_port() {
    let mut memory = Memory::new(8);
    let mut table = memory.table();
    let mut def = web(&[backend(5, "172.17.0.2", UP, &[6379])]);
    (def.vips, def.ports) = (vec![], vec![(Protocol::Tcp, 6379)]);
    def.backends[0].vip = Some(ip("242.128.0.7"));
    apply(&mut table, &def).unwrap();
    assert_eq!(drawn(&mut table, &request(TCP, "242.128.0.7", 16379), 1), set(&["5 172.17.0.2 16379"]));
    assert_eq!(table.serves(5, TCP, ip("172.17.0.2"), 16379), Serves::Headless);
    assert_eq!(table.serves(5, TCP, ip("172.17.0.2"), 6379), Serves::Port);
    assert!(table.still_serves(TCP, ip("242.128.0.7"), 9, (5, ip("172.17.0.2"), 9)));
    assert!(!table.still_serves(TCP, ip("242.128.0.7"), 9, (6, ip("172.17.0.2"), 9)));
    let endpoint = table.endpoint_of_vip(ip("242.128.0.7")).unwrap();
    assert_eq!(endpoint.hostname().to_string(), "web-0");
    assert_eq!(endpoint.service().unwrap().kind(), Kind::Headless);
    assert_eq!(endpoint.target(0), Some(6379));
    def.flags = FLAG_NO_PROXY;
    apply(&mut table, &def).unwrap();
    assert_eq!(drawn(&mut table, &request(TCP, "242.128.0.7", 16379), 1), set(&["NotAVip"]));
}

#[test]
fn q5_a_flow_may_stay_while_its_endpoint_serves_at_that_port() {
    let mut memory = Memory::new(8);
    let mut table = memory.table();
    let endpoint = (1, ip("10.0.0.1"), 80);
    let still = |table: &Table<'_>| table.still_serves(UDP, ip("10.96.0.1"), 80, endpoint);
    for (conditions, port, expected) in [
        (UP, 80, true),
        (DRAINING, 80, true),
        (UP, 81, false),
        (UP, 0, false),
        (ENDPOINT_TERMINATING, 80, false),
    ] {
        let before = table.generation();
        apply(&mut table, &web(&[backend(1, "10.0.0.1", conditions, &[80, port])])).unwrap();
        assert_ne!(table.generation(), before);
        assert_eq!(still(&table), expected, "{conditions} {port}");
    }
    apply(&mut table, &web(&[])).unwrap();
    assert!(!still(&table));
}

#[test]
fn hostile_addresses_that_must_not_be_reached_are_refused() {
    let mut memory = Memory::new(8);
    let mut table = memory.table();
    for address in ["127.0.0.1", "169.254.1.1", "0.0.0.0", "224.0.0.1", "fe80::1"] {
        let def = web(&[backend(1, address, UP, &[80, 80]), backend(1, "10.0.0.1", UP, &[80, 80])]);
        assert_eq!(apply(&mut table, &def), Err(TableError::Address), "{address}");
        assert_eq!(table.serves(1, TCP, ip(address), 80), Serves::Nothing);
    }
    // Only the bad endpoint was left out.
    assert_eq!(table.service("default", "web").unwrap().endpoints().count(), 1);
    let hostile = Def { vips: vec![ip("127.0.0.1")], name: "hostile".into(), ..web(&[]) };
    assert_eq!(apply(&mut table, &hostile), Err(TableError::Address));
    assert!(table.service("default", "hostile").is_none());
    assert!(!table.is_vip(ip("127.0.0.1")));
}

#[test]
fn an_address_is_named_by_each_service_that_has_it_ready_once() {
    let mut memory = Memory::new(8);
    let mut table = memory.table();
    let here = || backend(1, "10.0.0.1", UP, &[80, 80]);
    let named = |name: &str, backends: &[Backend]| Def { name: name.into(), vips: vec![], ..web(backends) };
    apply(&mut table, &named("twice", &[here(), backend(1, "10.0.0.1", UP, &[81, 81])])).unwrap();
    apply(&mut table, &named("once", &[here(), backend(1, "10.0.0.2", UP, &[80, 80])])).unwrap();
    apply(&mut table, &named("draining", &[backend(1, "10.0.0.1", DRAINING, &[80, 80])])).unwrap();
    apply(&mut table, &named("elsewhere", &[backend(2, "10.0.0.1", UP, &[80, 80])])).unwrap();
    let names = |node| -> Vec<_> {
        let found = table.endpoints_at(node, ip("10.0.0.1"));
        found.map(|e| e.service().unwrap().name().to_string()).collect()
    };
    assert_eq!(names(1), ["twice", "once"]);
    assert_eq!(names(2), ["elsewhere"]);
    assert!(names(3).is_empty());
}

#[test]
fn names_are_found_whatever_their_case_and_namespaces_exist_by_themselves_row_n3() {
    let mut memory = Memory::new(8);
    let mut table = memory.table();
    apply(&mut table, &web(&[backend(1, "10.0.0.1", UP, &[80, 80])])).unwrap();
    table.apply(&Update::Namespace("Empty")).unwrap();
    let service = table.service("DEFAULT", "WeB").unwrap();
    assert_eq!(
        (service.namespace().to_string(), service.name().to_string()),
        ("default".into(), "web".into())
    );
    assert_eq!(service.vips().collect::<Vec<_>>(), [ip("10.96.0.1")]);
    let ports: Vec<_> = service.ports().map(|p| (p.name().to_string(), p.port(), p.protocol())).collect();
    assert_eq!(ports, [("port-0".into(), 80, Protocol::Tcp), ("port-1".into(), 80, Protocol::Udp)]);
    assert!(table.has_namespace("empty") && table.has_namespace("default") && !table.has_namespace("none"));
    assert!(table.service("empty", "web").is_none() && table.service("default", "we").is_none());
    assert_eq!(table.service_of_vip(ip("10.96.0.1")).unwrap().name().to_string(), "web");
    table.apply(&Update::Remove { namespace: "default", name: "web" }).unwrap();
    assert!(!table.has_namespace("default") && table.is_empty());
    table.apply(&Update::Begin).unwrap();
    table.apply(&Update::End).unwrap();
    assert_eq!(table.namespaces().count(), 0);
}

#[test]
fn external_names_are_kept() {
    let mut memory = Memory::new(4);
    let mut table = memory.table();
    let kind = ServiceKind::ExternalName("db.example.com");
    let def = ServiceDef { namespace: "default", name: "db", kind, affinity_secs: 0, flags: 0 };
    table.apply(&Update::Service(def)).unwrap();
    assert!(table.service("default", "db").is_none(), "not before its commit");
    table.apply(&Update::Commit).unwrap();
    let service = table.service("default", "db").unwrap();
    assert_eq!(
        (service.kind(), service.external_name().to_string()),
        (Kind::ExternalName, "db.example.com".into())
    );
}

#[test]
fn what_does_not_fit_leaves_the_old_definition_in_force() {
    let mut memory = Memory::new(4);
    memory.names.truncate(24);
    let mut table = memory.table();
    let old = web(&[backend(1, "10.0.0.1", UP, &[80, 80])]);
    apply(&mut table, &old).unwrap();
    let big = web(&vec![backend(2, "10.0.0.2", UP, &[81, 81]); 20]);
    let many_groups: Vec<_> = (0..20).map(|n| backend(2, "10.0.0.2", UP, &[n, n])).collect();
    let many_ports = Def { ports: vec![(Protocol::Tcp, 1); 20], ..web(&[]) };
    let too_many_ports = Def { ports: vec![(Protocol::Tcp, 1); 200], ..web(&[]) };
    let long_name = Def { name: "x".repeat(300), ..web(&[]) };
    let names = Def { name: "x".repeat(250), namespace: "y".repeat(250), ..web(&[]) };
    let wrong_group = web(&[backend(2, "10.0.0.2", UP, &[81])]);
    table.apply(&Update::Begin).unwrap();
    let mut roomy = Memory::new(200);
    let mut roomy = roomy.table();
    for (def, error) in [
        (&big, TableError::Full(Part::Endpoints)),
        (&web(&many_groups), TableError::Full(Part::Targets)),
        (&many_ports, TableError::Full(Part::Ports)),
        (&long_name, TableError::Name),
        (&names, TableError::Full(Part::Names)),
        (&wrong_group, TableError::Ports),
    ] {
        assert_eq!(apply(&mut table, def), Err(error));
        assert_eq!(drawn(&mut table, &request(TCP, "10.96.0.1", 80), 1), set(&["1 10.0.0.1 80"]));
        // What follows a refused head is skipped in silence; what follows nothing is an error.
        assert_eq!(table.apply(&Update::Commit), Ok(()));
    }
    assert_eq!(apply(&mut roomy, &too_many_ports), Err(TableError::Ports));
    // A refused definition still names its service: the sweep leaves the old one.
    table.apply(&Update::End).unwrap();
    assert_eq!(table.len(), 1);
    assert_eq!(table.apply(&Update::Commit), Err(TableError::OutOfOrder));
    for n in 0..3 {
        let name = std::format!("s{n}");
        apply(
            &mut table,
            &Def { name, namespace: "default".into(), vips: vec![], ports: vec![], ..web(&[]) },
        )
        .unwrap();
    }
    let fifth = Def { name: "s9".into(), vips: vec![], ports: vec![], ..web(&[]) };
    assert_eq!(apply(&mut table, &fifth), Err(TableError::Full(Part::Services)));
    for n in 0..3 {
        let name = std::format!("ns{n}");
        table.apply(&Update::Namespace(&name)).unwrap();
    }
    assert_eq!(table.apply(&Update::Namespace("one-more")), Err(TableError::Full(Part::Namespaces)));
}
