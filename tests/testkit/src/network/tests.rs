use super::*;
use crate::filter::Behaviour::{AddressDependent, EndpointIndependent};
use crate::firewall::Firewall;
use crate::nat::NatConfig;
use edgemesh_core::time::Duration;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn millis(n: u64) -> Instant {
    Instant::ZERO.after(Duration::from_millis(n))
}

fn delayed(millis: u64) -> Cable {
    Cable::symmetric(LinkConfig::delayed(millis))
}

fn nat(config: NatConfig, external: &str) -> Gateway {
    Gateway::nat(Nat::new(config, external.parse().unwrap()))
}

/// Everything that arrives until nothing is under way, with its time in milliseconds.
fn drain(network: &mut Network) -> Vec<(u64, HostId, Datagram)> {
    let mut seen = Vec::new();
    while let Some(time) = network.poll_arrival() {
        while let Some(arrival) = network.deliver(time) {
            let Arrival::Datagram(host, datagram) = arrival else { panic!("{arrival:?}") };
            seen.push((time.as_micros() / 1000, host, datagram));
        }
    }
    seen
}

#[test]
fn a_nat_shows_its_own_address_and_lets_the_answer_back() {
    let mut network = Network::new(1);
    let server = network.add_host(ZoneId::INTERNET, at("203.0.113.1:0").ip(), delayed(20));
    let site = network.add_zone(ZoneId::INTERNET, nat(NatConfig::linux(), "198.51.100.1"), delayed(5));
    let client = network.add_host(site, at("192.168.1.2:0").ip(), delayed(1));
    network.send(millis(0), client, 5000, at("203.0.113.1:9"), vec![1]);
    let outside = at("198.51.100.1:5000");
    let there = Datagram { src: outside, dst: at("203.0.113.1:9"), bytes: vec![1] };
    assert_eq!(drain(&mut network), [(26, server, there)]);
    network.send(millis(30), server, 9, outside, vec![2]);
    let back = Datagram { src: at("203.0.113.1:9"), dst: at("192.168.1.2:5000"), bytes: vec![2] };
    assert_eq!(drain(&mut network), [(56, client, back)]);
    network.send(millis(60), server, 8, outside, vec![3]);
    network.send(millis(60), server, 9, at("198.51.100.1:5001"), vec![4]);
    network.send(millis(60), server, 9, at("198.51.100.77:1"), vec![5]);
    assert_eq!(drain(&mut network), []);
    let dropped = [Fate::Filtered, Fate::NoMapping, Fate::Unroutable].map(|fate| network.count(fate));
    assert_eq!(dropped, [1, 1, 1]);
}

#[test]
fn neighbours_talk_past_the_box_and_hairpin_through_it() {
    let mut network = Network::new(1);
    let config = NatConfig { hairpin: true, ..NatConfig::linux() };
    let site = network.add_zone(ZoneId::INTERNET, nat(config, "198.51.100.1"), delayed(50));
    let one = network.add_host(site, at("192.168.1.2:0").ip(), delayed(1));
    let two = network.add_host(site, at("192.168.1.3:0").ip(), delayed(1));
    network.send(millis(0), one, 5000, at("192.168.1.3:6000"), vec![]);
    let direct = drain(&mut network);
    assert_eq!((direct[0].0, direct[0].1, direct[0].2.src), (2, two, at("192.168.1.2:5000")));
    network.send(millis(0), two, 6000, at("198.51.100.1:5000"), vec![]);
    network.send(millis(10), one, 5000, at("198.51.100.1:6000"), vec![]);
    let turned = drain(&mut network);
    assert_eq!(turned.len(), 1, "the first finds no mapping, the second is its answer");
    assert_eq!((turned[0].0, turned[0].1, turned[0].2.src), (12, two, at("198.51.100.1:5000")));
    assert_eq!(network.count(Fate::NoMapping), 1);
}

#[test]
fn a_box_behind_a_box_translates_twice() {
    let mut network = Network::new(1);
    let server = network.add_host(ZoneId::INTERNET, at("203.0.113.1:0").ip(), delayed(1));
    let open = || NatConfig::new(EndpointIndependent, EndpointIndependent);
    let carrier = network.add_zone(ZoneId::INTERNET, nat(open(), "198.51.100.1"), delayed(1));
    let home = network.add_zone(carrier, nat(open(), "100.64.0.7"), delayed(1));
    let client = network.add_host(home, at("192.168.1.2:0").ip(), delayed(1));
    network.send(millis(0), client, 5000, at("203.0.113.1:9"), vec![]);
    let there = drain(&mut network);
    assert_eq!((there[0].0, there[0].1, there[0].2.src.ip()), (4, server, at("198.51.100.1:0").ip()));
    network.send(millis(9), server, 1, there[0].2.src, vec![]);
    let back = drain(&mut network);
    assert_eq!((back[0].0, back[0].1, back[0].2.dst), (13, client, at("192.168.1.2:5000")));
}

#[test]
fn ipv6_passes_beside_the_nat_under_the_firewall_rule() {
    let mut network = Network::new(1);
    let mut gateway = nat(NatConfig::linux(), "198.51.100.1");
    gateway.firewall = Firewall::home();
    let site = network.add_zone(ZoneId::INTERNET, gateway, delayed(1));
    let client = network.add_host(site, at("192.168.1.2:0").ip(), delayed(1));
    network.add_address(client, at("[2001:db8:1::2]:0").ip());
    let server = network.add_host(ZoneId::INTERNET, at("[2001:db8:2::1]:0").ip(), delayed(1));
    network.send(millis(0), server, 9, at("[2001:db8:1::2]:5000"), vec![]);
    assert_eq!((drain(&mut network), network.count(Fate::Filtered)), (vec![], 1));
    network.send(millis(1), client, 5000, at("[2001:db8:2::1]:9"), vec![]);
    assert_eq!(drain(&mut network)[0].2.src, at("[2001:db8:1::2]:5000"));
    network.send(millis(2), server, 9, at("[2001:db8:1::2]:5000"), vec![]);
    assert_eq!(drain(&mut network)[0].1, client);
    network.send(millis(3), server, 9, at("198.51.100.1:1"), vec![]);
    assert_eq!(network.count(Fate::Unroutable), 1, "an IPv6 host has no IPv4 to send from");
}

#[test]
fn udp_can_be_shut_off_behind_a_nat_and_between_hosts() {
    let mut network = Network::new(1);
    let site = network.add_zone(ZoneId::INTERNET, nat(NatConfig::linux(), "198.51.100.1"), delayed(1));
    let client = network.add_host(site, at("192.168.1.2:0").ip(), delayed(1));
    let server = network.add_host(ZoneId::INTERNET, at("203.0.113.1:0").ip(), delayed(1));
    let arrives = |network: &mut Network| {
        network.send(millis(0), client, 5000, at("203.0.113.1:9"), vec![]);
        drain(network).len() == 1
    };
    assert!(arrives(&mut network));
    network.block(server, client, true);
    assert!(!arrives(&mut network));
    network.block(client, server, false);
    assert!(arrives(&mut network));
    network.gateway(site).firewall = Firewall::no_udp();
    assert!(!arrives(&mut network));
    assert_eq!([network.count(Fate::Blocked), network.count(Fate::Filtered)], [1, 1]);
}

#[test]
fn links_and_full_boxes_count_what_they_drop() {
    let mut network = Network::new(1);
    let config = NatConfig { capacity: 1, hairpin: false, ..NatConfig::symmetric() };
    let site = network.add_zone(ZoneId::INTERNET, nat(config, "198.51.100.1"), delayed(1));
    let client = network.add_host(site, at("192.168.1.2:0").ip(), delayed(1));
    network.add_host(ZoneId::INTERNET, at("203.0.113.1:0").ip(), delayed(1));
    network.send(millis(0), client, 1, at("203.0.113.1:9"), vec![]);
    network.send(millis(0), client, 2, at("203.0.113.1:9"), vec![]);
    network.send(millis(0), client, 1, at("198.51.100.1:9"), vec![]);
    network.send(millis(0), client, 1, at("203.0.113.1:9"), vec![0; 1473]);
    network.zone_cable(site).configure(LinkConfig { loss: 1_000_000, ..LinkConfig::PERFECT });
    assert_eq!(drain(&mut network).len(), 0);
    network.zone_cable(site).configure(LinkConfig { duplicate: 1_000_000, ..LinkConfig::PERFECT });
    network.send(millis(9), client, 1, at("203.0.113.1:9"), vec![0; 1472]);
    assert_eq!(drain(&mut network).len(), 2);
    let config = LinkConfig { rate: 1, queue: 10, ..LinkConfig::PERFECT };
    network.host_cable(client).configure(config);
    network.send(millis(9), client, 1, at("203.0.113.1:9"), vec![]);
    let fates = [Fate::NatFull, Fate::NoHairpin, Fate::TooBig, Fate::Lost, Fate::Doubled, Fate::QueueFull];
    assert_eq!(fates.map(|fate| network.count(fate)), [1; 6]);
}

#[test]
fn rebinding_and_moving_leave_the_old_address_behind() {
    let mut network = Network::new(1);
    let server = network.add_host(ZoneId::INTERNET, at("203.0.113.1:0").ip(), delayed(1));
    let site = network.add_zone(ZoneId::INTERNET, nat(NatConfig::linux(), "198.51.100.1"), delayed(1));
    let client = network.add_host(site, at("192.168.1.2:0").ip(), delayed(1));
    let seen_as = |network: &mut Network, now| {
        network.send(millis(now), client, 5000, at("203.0.113.1:9"), vec![]);
        let arrived = drain(network);
        assert_eq!(arrived[0].1, server);
        arrived[0].2.src.ip().to_string()
    };
    assert_eq!(seen_as(&mut network, 0), "198.51.100.1");
    network.rebind(millis(10), site, at("198.51.100.2:0").ip());
    network.send(millis(10), server, 9, at("198.51.100.1:5000"), vec![]);
    assert_eq!((drain(&mut network), network.count(Fate::Unroutable)), (vec![], 1));
    assert_eq!(seen_as(&mut network, 20), "198.51.100.2");
    network.move_host(millis(30), client, ZoneId::INTERNET, at("203.0.113.7:0").ip());
    assert_eq!(seen_as(&mut network, 30), "203.0.113.7");
    assert_eq!(network.addresses(client), [at("203.0.113.7:0").ip()]);
}

#[test]
fn equal_seeds_replay_equal_networks() {
    let trace = |seed| {
        let mut network = Network::new(seed);
        let config = NatConfig::new(AddressDependent, AddressDependent);
        let bad = Cable::symmetric(LinkConfig::dreadful());
        network.add_host(ZoneId::INTERNET, at("203.0.113.1:0").ip(), bad.clone());
        let site = network.add_zone(ZoneId::INTERNET, nat(config, "198.51.100.1"), bad.clone());
        let client = network.add_host(site, at("192.168.1.2:0").ip(), bad);
        for n in 0..200 {
            network.send(millis(n), client, n as u16, at("203.0.113.1:9"), vec![n as u8; 50]);
        }
        drain(&mut network)
    };
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
}
