//! What becomes of definitions that change, and of those that get in each other's way.

use super::*;

const HTTP: &str = "10.96.0.1";

fn http(table: &mut Table<'_>) -> BTreeSet<String> {
    drawn(table, &request(TCP, HTTP, 80), 1)
}

fn named(name: &str, vip: &str, backends: &[Backend]) -> Def {
    Def { name: name.into(), vips: vec![ip(vip)], ..web(backends) }
}

#[test]
fn s1_only_services_with_a_cluster_ip_are_forwarded() {
    let mut memory = Memory::new(8);
    let mut table = memory.table();
    let headless = Def { vips: vec![], ..web(&[backend(2, "10.0.0.1", UP, &[80, 80])]) };
    apply(&mut table, &headless).unwrap();
    assert_eq!(http(&mut table), set(&["NotAVip"]));
    apply(&mut table, &Def { vips: vec![ip(HTTP)], ..headless }).unwrap();
    assert_eq!(http(&mut table), set(&["2 10.0.0.1 80"]));
    // The ClusterIP ends with the type.
    let kind = ServiceKind::ExternalName("web.example");
    let def = ServiceDef { namespace: "default", name: "web", kind, affinity_secs: 0, flags: 0 };
    table.apply(&Update::Service(def)).unwrap();
    table.apply(&Update::Commit).unwrap();
    assert_eq!(http(&mut table), set(&["NotAVip"]));
    assert!(table.service_of_vip(ip(HTTP)).is_none());
}

#[test]
fn s2_a_service_of_another_proxy_is_not_forwarded_and_keeps_its_name() {
    let mut memory = Memory::new(8);
    let mut table = memory.table();
    let def = web(&[backend(2, "10.0.0.1", UP, &[80, 80])]);
    for _ in 0..2 {
        apply(&mut table, &def).unwrap();
        assert!(table.is_vip(ip(HTTP)));
        apply(&mut table, &Def { flags: FLAG_NO_PROXY, ..def.clone() }).unwrap();
        assert!(!table.is_vip(ip(HTTP)));
        assert_eq!(http(&mut table), set(&["NotAVip"]));
        let service = table.service("default", "web").unwrap();
        assert_eq!(service.vips().collect::<Vec<_>>(), [ip(HTTP)]);
    }
}

#[test]
fn s10_every_endpoint_is_reached_on_its_own_number() {
    let mut memory = Memory::new(8);
    let mut table = memory.table();
    let backends = [
        backend(1, "10.0.0.1", UP, &[8080, 53]),
        backend(2, "10.0.0.2", UP, &[9090, 5353]),
        backend(2, "10.0.0.3", UP, &[0, 5353]),
    ];
    apply(&mut table, &web(&backends)).unwrap();
    assert_eq!(http(&mut table), set(&["1 10.0.0.1 8080", "2 10.0.0.2 9090"]));
    let udp = drawn(&mut table, &request(UDP, HTTP, 80), 1);
    assert_eq!(udp, set(&["1 10.0.0.1 53", "2 10.0.0.2 5353", "2 10.0.0.3 5353"]));
}

#[test]
fn s14_a_cluster_ip_in_other_hands_leads_to_the_new_endpoints_only() {
    let mut memory = Memory::new(8);
    let mut table = memory.table();
    let old = backend(2, "10.0.0.1", UP, &[80, 80]);
    let new = backend(3, "10.0.0.2", UP, &[81, 81]);
    apply(&mut table, &named("old", HTTP, &[old])).unwrap();
    table.apply(&Update::Remove { namespace: "default", name: "old" }).unwrap();
    assert_eq!(http(&mut table), set(&["NotAVip"]));
    apply(&mut table, &named("new", HTTP, &[new])).unwrap();
    assert_eq!(http(&mut table), set(&["3 10.0.0.2 81"]));
    assert!(!table.still_serves(TCP, ip(HTTP), 80, (2, ip("10.0.0.1"), 80)));
}

#[test]
fn s15_ports_come_go_and_change_their_numbers_and_protocols() {
    let mut memory = Memory::new(8);
    let mut table = memory.table();
    let mut define = |ports: &[(Protocol, u16)], targets: &[u16]| {
        let def = Def { ports: ports.to_vec(), ..web(&[backend(1, "10.0.0.1", UP, targets)]) };
        apply(&mut table, &def).unwrap();
        [(TCP, 80), (UDP, 80), (TCP, 81)].map(|(protocol, port)| {
            drawn(&mut table, &request(protocol, HTTP, port), 1).into_iter().collect::<Vec<_>>().concat()
        })
    };
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    let at = |port: u16| std::format!("1 10.0.0.1 {port}");
    let none = || "UnknownPort".to_string();
    assert_eq!(define(&[(tcp, 80)], &[1]), [at(1), none(), none()]);
    assert_eq!(define(&[(tcp, 80), (tcp, 81)], &[1, 2]), [at(1), none(), at(2)]);
    assert_eq!(define(&[(tcp, 81)], &[2]), [none(), none(), at(2)]);
    assert_eq!(define(&[(tcp, 80), (udp, 80)], &[3, 4]), [at(3), at(4), none()]);
    assert_eq!(define(&[(tcp, 80)], &[5]), [at(5), none(), none()]);
    assert_eq!(define(&[(udp, 80)], &[6]), [none(), at(6), none()]);
}

#[test]
fn c1_one_number_of_three_protocols_is_three_ports() {
    let mut memory = Memory::new(8);
    let mut table = memory.table();
    let ports = vec![(Protocol::Tcp, 53), (Protocol::Udp, 53), (Protocol::Sctp, 53)];
    let def = Def { ports, ..web(&[backend(1, "10.0.0.1", UP, &[5353, 53, 54])]) };
    apply(&mut table, &def).unwrap();
    for (protocol, port) in [(TCP, 5353), (UDP, 53), (SCTP, 54)] {
        let expected = std::format!("1 10.0.0.1 {port}");
        assert_eq!(drawn(&mut table, &request(protocol, HTTP, 53), 1), set(&[&expected]));
    }
}

#[test]
fn c3_the_ports_of_a_service_are_not_those_of_another() {
    let mut memory = Memory::new(8);
    let mut table = memory.table();
    let here = || backend(1, "10.0.0.1", UP, &[80]);
    let first = Def { ports: vec![(Protocol::Tcp, 80)], ..named("first", HTTP, &[here()]) };
    let second = Def { ports: vec![(Protocol::Udp, 81)], ..named("second", "10.96.0.2", &[here()]) };
    apply(&mut table, &first).unwrap();
    apply(&mut table, &second).unwrap();
    for (protocol, vip, port, expected) in [
        (TCP, HTTP, 80, "1 10.0.0.1 80"),
        (TCP, HTTP, 81, "UnknownPort"),
        (UDP, HTTP, 80, "UnknownPort"),
        (UDP, "10.96.0.2", 81, "1 10.0.0.1 80"),
        (TCP, "10.96.0.2", 81, "UnknownPort"),
        (TCP, "10.96.0.3", 80, "NotAVip"),
    ] {
        assert_eq!(drawn(&mut table, &request(protocol, vip, port), 1), set(&[expected]), "{vip}:{port}");
    }
}

#[test]
fn hostile_services_do_not_take_an_address_that_another_has() {
    let mut memory = Memory::new(8);
    let mut table = memory.table();
    let victim = web(&[backend(2, "10.0.0.1", UP, &[80, 80])]);
    apply(&mut table, &victim).unwrap();
    for n in 0..4 {
        let name = std::format!("a-thief-{n}");
        apply(&mut table, &named(&name, HTTP, &[backend(3, "10.6.6.6", UP, &[66, 66])])).unwrap();
        // Nor when the one that has it changes.
        apply(&mut table, &victim).unwrap();
        assert_eq!(http(&mut table), set(&["2 10.0.0.1 80"]));
        assert_eq!(table.service_of_vip(ip(HTTP)).unwrap().name().to_string(), "web");
    }
    table.apply(&Update::Remove { namespace: "default", name: "web" }).unwrap();
    assert_eq!(http(&mut table), set(&["3 10.6.6.6 66"]), "it is free now");
}
