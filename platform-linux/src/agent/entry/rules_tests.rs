//! The cases of kube-proxy's table tests for entry points, told anew: a few Services, a client, and what becomes of
//! its connection.

use super::*;
use edgemesh_core::wire::feed::Protocol;

const PRIMARY: &str = "192.168.0.2";
const VIP: &str = "172.30.0.41";
const BALANCER: &str = "5.6.7.8";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn place() -> Place {
    Place {
        addresses: vec![ip(PRIMARY), ip("2001:db8::2")],
        own: [ip(PRIMARY), ip("2001:db8::2"), ip("10.1.1.1"), ip("127.0.0.1")].into(),
        outside: vec!["eth0".into()],
    }
}

/// A Service with port 80, NodePort 3001 and one endpoint on this node of two.
fn points() -> EntryPoints {
    EntryPoints { node_ports: vec![node_port(Protocol::Tcp, 80, 3001)], ..EntryPoints::default() }
}

fn node_port(protocol: Protocol, port: u16, node_port: u16) -> edgemesh_discovery::object::NodePort {
    edgemesh_discovery::object::NodePort { protocol, port, node_port }
}

fn known(local: &[&str], anywhere: bool) -> Known {
    let local: Vec<SocketAddr> = local.iter().map(|text| socket(text)).collect();
    let port =
        Port { protocol: Protocol::Tcp, port: 80, serving: local.clone(), local, any: [anywhere, false] };
    Known { vips: vec![ip(VIP)], sticky: false, ports: vec![port], ready_here: 1 }
}

fn of(services: &[(&str, EntryPoints, Known)]) -> (Entries, Vec<String>) {
    let owners = Owners::from([(ip("203.0.113.10"), "the edgemesh-server's"), (ip(VIP), "a ClusterIP")]);
    let all = services.iter().map(|(name, points, known)| ((*name).to_owned(), points, known));
    entries(all, &place(), &Reserved { addresses: &owners, tunnels: 20_006 })
}

fn one(points: EntryPoints, known: Known) -> Entries {
    let (entries, problems) = of(&[("ns/svc", points, known)]);
    assert!(problems.is_empty(), "{problems:?}");
    entries
}

/// Where a client is.
#[derive(Clone, Copy, PartialEq)]
enum From {
    Outside(&'static str),
    Pod(&'static str),
    Host(&'static str),
}

/// What becomes of its connection.
#[derive(PartialEq, Debug)]
enum Fate {
    /// None of ours.
    Untouched,
    Dropped,
    /// To the ClusterIP, where the engine chooses among all endpoints, or refuses.
    Service(SocketAddr),
    /// To one of these, with the client's own address.
    Local(Vec<SocketAddr>),
}

/// What the kernel does by the rules (see `interception::entry`).
fn fate(entries: &Entries, from: From, to: &str, protocol: u8) -> Fate {
    let to = socket(to);
    let point = EntryPoint { address: to.ip(), protocol, port: to.port() };
    let Some(way) = entries.ways.get(&point) else { return Fate::Untouched };
    let (From::Outside(client) | From::Pod(client) | From::Host(client)) = from;
    if way.sources.as_ref().is_some_and(|all| !all.iter().any(|range| range.contains(ip(client)))) {
        return Fate::Dropped;
    }
    match (&way.outside, from) {
        (Some(none), From::Outside(_)) if none.is_empty() => Fate::Dropped,
        (Some(local), From::Outside(_)) => Fate::Local(local.clone()),
        _ => Fate::Service(way.to),
    }
}

const AWAY: From = From::Outside("203.0.113.99");
const POD: From = From::Pod("10.0.0.2");
const HOST: From = From::Host(PRIMARY);

fn to_service() -> Fate {
    Fate::Service(SocketAddr::new(ip(VIP), 80))
}

#[test]
fn x1_node_ports_are_on_the_chosen_addresses_and_no_other() {
    let got = one(points(), known(&[], true));
    for from in [AWAY, POD, HOST] {
        assert_eq!(fate(&got, from, "192.168.0.2:3001", 6), to_service());
        for other in
            ["127.0.0.1:3001", "10.1.1.1:3001", "[2001:db8::2]:3001", "192.168.0.2:80", "192.168.0.2:3002"]
        {
            assert_eq!(fate(&got, from, other, 6), Fate::Untouched, "{other}");
        }
    }
    let v6 = Known { vips: vec![ip("fd00::1")], ..known(&[], true) };
    let got = one(points(), v6);
    assert_eq!(fate(&got, AWAY, "[2001:db8::2]:3001", 6), Fate::Service(socket("[fd00::1]:80")));
    assert_eq!(fate(&got, AWAY, "192.168.0.2:3001", 6), Fate::Untouched);
}

#[test]
fn x2_t5_every_node_answers_under_the_cluster_policy_with_an_endpoint_of_its_own_or_not() {
    for local in [&[][..], &["10.180.0.1:80"]] {
        let got = one(points(), known(local, true));
        for from in [AWAY, POD, HOST] {
            assert_eq!(fate(&got, from, "192.168.0.2:3001", 6), to_service());
        }
    }
}

#[test]
fn x3_protocols_are_apart_and_nothing_else_is_taken() {
    let mut points = points();
    points.node_ports = vec![node_port(Protocol::Tcp, 53, 30_053), node_port(Protocol::Udp, 54, 30_053)];
    let port =
        |protocol, port| Port { protocol, port, local: Vec::new(), serving: Vec::new(), any: [true, false] };
    let ports = vec![port(Protocol::Tcp, 53), port(Protocol::Udp, 54), port(Protocol::Udp, 53)];
    let got = one(points, Known { ports, ..known(&[], true) });
    assert_eq!(fate(&got, AWAY, "192.168.0.2:30053", 6), Fate::Service(SocketAddr::new(ip(VIP), 53)));
    assert_eq!(fate(&got, AWAY, "192.168.0.2:30053", 17), Fate::Service(SocketAddr::new(ip(VIP), 54)));
    assert_eq!(fate(&got, AWAY, "192.168.0.2:30053", 132), Fate::Untouched);
    assert_eq!(fate(&got, AWAY, "192.168.0.2:443", 6), Fate::Untouched);
    assert_eq!(got.ways.len(), 2);
}

#[test]
fn x4_x7_a_load_balancers_address_leads_to_its_service_from_everywhere() {
    let points =
        EntryPoints { load_balancer_ips: vec![ip(BALANCER), ip("2001:db8::9")], ..EntryPoints::default() };
    let got = one(points, known(&[], true));
    for from in [AWAY, POD, HOST] {
        assert_eq!(fate(&got, from, "5.6.7.8:80", 6), to_service());
        assert_eq!(fate(&got, from, "[2001:db8::9]:80", 6), Fate::Untouched, "the Service has no IPv6");
    }
    assert_eq!(got.ways.len(), 1, "no NodePort");
}

#[test]
fn x5_external_ips_lead_to_their_service_whoever_has_them() {
    let points =
        EntryPoints { external_ips: vec![ip("192.168.99.11"), ip(PRIMARY)], ..EntryPoints::default() };
    let got = one(points, known(&[], true));
    for at in ["192.168.99.11:80", "192.168.0.2:80"] {
        for from in [AWAY, POD, HOST] {
            assert_eq!(fate(&got, from, at, 6), to_service());
        }
    }
}

/// A load balancer's Service with a NodePort that is open to these ranges.
fn ranges(ranges: &[(&str, u8)]) -> EntryPoints {
    let source_ranges = ranges.iter().map(|(text, bits)| (ip(text), *bits)).collect();
    EntryPoints { load_balancer_ips: vec![ip(BALANCER)], source_ranges, restricted: true, ..points() }
}

#[test]
fn x6_source_ranges_hold_for_the_load_balancers_address_alone() {
    let got = one(ranges(&[("203.0.113.0", 25)]), known(&[], true));
    let balancer = |from| fate(&got, from, "5.6.7.8:80", 6);
    assert_eq!(balancer(From::Outside("203.0.113.127")), to_service());
    assert_eq!(balancer(From::Outside("203.0.113.130")), Fate::Dropped);
    assert_eq!(balancer(POD), Fate::Dropped, "pods are not exempt");
    assert_eq!(balancer(HOST), Fate::Dropped);
    assert_eq!(balancer(From::Host(BALANCER)), Fate::Dropped, "this node is in none of the ranges");
    for from in [From::Outside("203.0.113.130"), POD, HOST] {
        assert_eq!(fate(&got, from, "192.168.0.2:3001", 6), to_service(), "the NodePort is open");
        assert_eq!(fate(&got, from, "172.30.0.41:80", 6), Fate::Untouched, "and so is the ClusterIP");
    }
}

#[test]
fn x6_a_node_within_the_ranges_reaches_the_address_from_the_address() {
    let got = one(ranges(&[("203.0.113.0", 25), ("192.168.0.0", 24)]), known(&[], true));
    assert_eq!(fate(&got, HOST, "5.6.7.8:80", 6), to_service());
    assert_eq!(fate(&got, From::Host(BALANCER), "5.6.7.8:80", 6), to_service());
    assert_eq!(fate(&got, AWAY, "5.6.7.8:80", 6), to_service());
    assert_eq!(fate(&got, From::Outside("203.0.113.200"), "5.6.7.8:80", 6), Fate::Dropped);
}

#[test]
fn x6_a_range_of_everything_is_no_filter_and_ranges_count_by_family() {
    for open in [&[("203.0.113.0", 25), ("0.0.0.0", 0)][..], &[("2001:db8::", 32)]] {
        let got = one(ranges(open), known(&[], true));
        assert_eq!(fate(&got, AWAY, "5.6.7.8:80", 6), to_service(), "{open:?}");
    }
    let got = one(ranges(&[]), known(&[], true));
    assert_eq!(fate(&got, AWAY, "5.6.7.8:80", 6), Fate::Dropped, "ranges that are none let nobody in");
}

#[test]
fn x6_ranges_within_ranges_are_left_out() {
    let got =
        one(ranges(&[("10.1.0.0", 16), ("10.0.0.0", 8), ("10.0.0.0", 8), ("11.0.0.0", 8)]), known(&[], true));
    let way = got.ways.values().find(|way| way.sources.is_some()).unwrap();
    let texts: Vec<String> = way.sources.iter().flatten().map(ToString::to_string).collect();
    assert_eq!(texts, ["10.0.0.0/8", "11.0.0.0/8"]);
}

/// A Service with every kind of entry point and the policy `Local`.
fn local() -> EntryPoints {
    let (external_ips, load_balancer_ips) = (vec![ip("192.168.99.11")], vec![ip(BALANCER)]);
    EntryPoints { external_ips, load_balancer_ips, local: true, ..points() }
}

const DOORS: [&str; 3] = ["192.168.0.2:3001", "192.168.99.11:80", "5.6.7.8:80"];

#[test]
fn t4_clients_from_outside_get_local_endpoints_and_those_of_this_node_all() {
    let got = one(local(), known(&["10.180.0.1:80", "10.180.0.2:80"], true));
    for door in DOORS {
        let here = vec![socket("10.180.0.1:80"), socket("10.180.0.2:80")];
        assert_eq!(fate(&got, AWAY, door, 6), Fate::Local(here), "{door}");
        assert_eq!(fate(&got, POD, door, 6), to_service(), "{door}");
        assert_eq!(fate(&got, HOST, door, 6), to_service(), "{door}");
    }
}

#[test]
fn t4_without_a_local_endpoint_clients_from_outside_are_dropped() {
    let got = one(local(), known(&[], true));
    for door in DOORS {
        assert_eq!(fate(&got, AWAY, door, 6), Fate::Dropped, "{door}");
        assert_eq!(fate(&got, POD, door, 6), to_service(), "{door}");
        assert_eq!(fate(&got, HOST, door, 6), to_service(), "{door}");
    }
}

#[test]
fn t4_without_any_endpoint_everybody_is_refused_by_the_service() {
    let got = one(local(), known(&[], false));
    for door in DOORS {
        for from in [AWAY, POD, HOST] {
            assert_eq!(fate(&got, from, door, 6), to_service(), "{door}");
        }
    }
}

#[test]
fn t5_the_cluster_policy_has_no_local_endpoints_of_its_own() {
    let points = EntryPoints { local: false, ..local() };
    let got = one(points, known(&["10.180.0.1:80"], true));
    assert!(DOORS.iter().all(|door| fate(&got, AWAY, door, 6) == to_service()));
}

#[test]
fn x8_entry_points_that_this_node_needs_itself_are_left_to_it_and_told_by_name() {
    let mut points = points();
    points.external_ips = vec![ip("203.0.113.10"), ip(VIP)];
    points.node_ports = vec![node_port(Protocol::Udp, 80, 20_006)];
    let udp = Port {
        protocol: Protocol::Udp,
        port: 80,
        local: Vec::new(),
        serving: Vec::new(),
        any: [true, false],
    };
    let (got, problems) = of(&[("ns/svc", points, Known { ports: vec![udp], ..known(&[], true) })]);
    assert!(got.ways.is_empty(), "{:?}", got.ways);
    let whole = problems.join("\n");
    for text in [
        "Service ns/svc: its entry point 203.0.113.10 port 80 (UDP) is the edgemesh-server's; left out",
        "Service ns/svc: its entry point 172.30.0.41 port 80 (UDP) is a ClusterIP; left out",
        "Service ns/svc: its entry point 192.168.0.2 port 20006 (UDP) is where this node's tunnels are; left out",
    ] {
        assert!(whole.contains(text), "{whole}");
    }
}

#[test]
fn x8_the_first_of_two_services_has_the_entry_point() {
    let second = Known { vips: vec![ip("172.30.0.42")], ..known(&[], true) };
    let (got, problems) = of(&[("a/one", points(), known(&[], true)), ("b/two", points(), second)]);
    assert_eq!(fate(&got, AWAY, "192.168.0.2:3001", 6), to_service());
    let text = "Service b/two: its entry point 192.168.0.2 port 3001 (TCP) is one of a/one; left out";
    assert_eq!(problems, [text]);
}
