//! On the kernel's own tables: what `nft` takes and prints, and where real packets go.

use super::*;
use crate::interception::tests::{fresh_machine, plan, running, start};
use crate::interception::{Report, Restored, Wanted};
use crate::testing::{Scratch, in_namespace, sh, sh_output, until};
use crate::tun::Tun;
use script::script;
use std::net::UdpSocket;

fn point(at: &str, protocol: u8) -> EntryPoint {
    let at: SocketAddr = at.parse().unwrap();
    EntryPoint { address: at.ip(), protocol, port: at.port() }
}

fn way(to: &str) -> Way {
    Way { to: to.parse().unwrap(), outside: None, keep: Vec::new(), sticky: false, sources: None }
}

fn local(to: &str, endpoints: &[&str]) -> Way {
    Way { outside: Some(endpoints.iter().map(|text| text.parse().unwrap()).collect()), ..way(to) }
}

fn open_to(to: &str, sources: &[&str]) -> Way {
    Way { sources: Some(sources.iter().map(|text| text.parse().unwrap()).collect()), ..way(to) }
}

fn entries(ways: impl IntoIterator<Item = (EntryPoint, Way)>) -> Entries {
    Entries { outside: vec!["eth0".into()], ways: ways.into_iter().collect() }
}

/// One of everything, in both families.
fn all_kinds() -> Entries {
    let sticky = Way { sticky: true, ..local("[fd00:96::1]:53", &["[fd00:1::2]:53", "[fd00:1::3]:53"]) };
    entries([
        (point("192.0.2.1:30080", 6), way("10.96.0.1:80")),
        (point("192.0.2.1:30080", 17), local("10.96.0.1:53", &["172.17.0.2:53", "172.17.0.3:53"])),
        (point("192.0.2.1:30053", 17), local("10.96.0.1:54", &["172.17.0.2:53", "172.17.0.3:53"])),
        (point("192.0.2.1:30081", 132), local("10.96.0.1:81", &[])),
        (point("198.51.100.1:80", 6), open_to("10.96.0.1:80", &["203.0.113.0/25", "192.0.2.7/32"])),
        (point("198.51.100.1:81", 6), open_to("10.96.0.1:81", &[])),
        (point("[2001:db8::1]:30080", 17), sticky),
        (point("[2001:db8::9]:80", 6), open_to("[fd00:96::1]:80", &["2001:db8::/32"])),
    ])
}

#[test]
fn x1_x3_x6_t4_the_kernel_takes_every_kind_of_rule() {
    in_namespace(|| {
        for (family, wanted) in [
            (
                "ip",
                &[
                    "192.0.2.1 . tcp . 30080 : 10.96.0.1 . 80",
                    "192.0.2.1 . udp . 30053 : goto local-1",
                    "192.0.2.1 . udp . 30080 : goto local-1",
                    "192.0.2.1 . sctp . 30081 : drop",
                    "dnat ip to numgen random mod 2 map { 0 : 172.17.0.2 . 53, 1 : 172.17.0.3 . 53 }",
                    "198.51.100.1 . tcp . 80 : jump from-1",
                    "198.51.100.1 . tcp . 81 : drop",
                    "ip saddr != { 192.0.2.7, 203.0.113.0/25 } drop",
                    "iifname \"eth0\" ip daddr . meta l4proto . th dport vmap @local",
                    "iifname \"emtest0\" return",
                    "type nat hook output priority -110",
                ][..],
            ),
            ("ip6", &["dnat ip6 to jhash ip6 saddr mod 2 seed", "ip6 saddr != 2001:db8::/32 drop"]),
        ] {
            let file = script(&all_kinds(), family, "emtest0");
            crate::interception::tool::demand("nft", &["-f", "-"], &file)
                .unwrap_or_else(|e| panic!("{e}\n{file}"));
            let printed = sh(&format!("nft -s list table {family} {TABLE}"));
            for text in wanted {
                assert!(printed.contains(text), "{text} is not in {printed}");
            }
            assert_eq!(printed.matches("chain local-").count(), 1, "equal lists share a chain: {printed}");
        }
        let none = script(&Entries::default(), "ip", "emtest0");
        crate::interception::tool::demand("nft", &["-f", "-"], &none).unwrap();
        assert!(!sh_output(&format!("nft list table ip {TABLE}")).status.success());
    });
}

#[test]
fn x8_the_keeper_loads_restores_and_removes_the_table() {
    in_namespace(|| {
        let running = running(plan());
        let there = || sh_output(&format!("nft list table ip {TABLE}")).status.success();
        let until_there =
            |wanted: bool| until(|| there() == wanted, || format!("the table is there: {wanted}"));
        assert!(!there(), "off by default");
        let wanted = Wanted { entries: all_kinds(), ..plan().services };
        running.handle.set_services(wanted.clone());
        running.expect("loaded", |r| matches!(r, Report::Programmed(_)));
        let whole = sh(&format!("nft -s list table ip {TABLE}"));
        sh(&format!("nft flush chain ip {TABLE} prerouting"));
        running.expect("a flushed chain", |r| matches!(r, Report::Restored(Restored::Entries)));
        assert_eq!(sh(&format!("nft -s list table ip {TABLE}")), whole);
        running.handle.set_services(plan().services);
        until_there(false);
        running.handle.set_services(wanted);
        until_there(true);
        drop(running.handle);
        let cleaned = crate::interception::cleanup(running.state.path(), "emtest0").unwrap();
        assert!(cleaned.failed.is_empty() && !there(), "{cleaned:?}");
    });
}

/// A chain that somebody flushed before the keeper had read it back was kept as if it had to be empty.
#[test]
fn what_others_change_while_the_table_is_loaded_is_not_taken_for_ours() {
    in_namespace(|| {
        let file = script(&all_kinds(), "ip", "emtest0");
        let loads = std::cell::Cell::new(0);
        let listing = crate::interception::nft::load(&file, || {
            loads.set(loads.get() + 1);
            if loads.get() == 1 {
                sh(&format!("nft flush chain ip {TABLE} prerouting"));
            }
            crate::interception::nft::listing(TABLE, "ip")
        });
        let listing = listing.unwrap().unwrap();
        assert!(listing.contains("iifname \"emtest0\" return"), "{listing}");
        assert_eq!(loads.get(), 2);
    });
}

#[test]
fn beside_another_proxy_ways_lead_to_stand_ins_or_are_left_to_it() {
    let at = |port| EntryPoint { address: "192.0.2.1".parse().unwrap(), protocol: 6, port };
    let ways = [(at(30_001), way("10.96.0.1:80")), (at(30_002), way("10.96.0.2:80"))];
    let mut entries = Entries { ways: ways.into(), ..Entries::default() };
    let (vip, stand_in) = ("10.96.0.1".parse().unwrap(), "242.96.0.1".parse().unwrap());
    entries.retain(|to| *to == vip);
    entries.lead(&[(&vip, &stand_in)].into());
    assert_eq!(entries.ways, [(at(30_001), way("242.96.0.1:80"))].into());
}

/// Where the datagrams of a client of `at` go: the destinations that the kernel tracks for it.
fn tracked(at: &str) -> Vec<String> {
    let at: SocketAddr = at.parse().unwrap();
    let all = crate::netlink::Netfilter::open().unwrap().connections(false).unwrap();
    let mut found: Vec<String> = all
        .iter()
        .filter(|c| (c.to, c.to_port) == (at.ip(), at.port()))
        .map(|c| format!("{}:{}", c.from, c.from_port))
        .collect();
    found.sort();
    found
}

#[test]
fn q1_q2_q3_q4_q5_datagrams_leave_a_place_that_ended_and_keep_one_that_serves() {
    in_namespace(|| {
        fresh_machine();
        sh("ip addr add 192.0.2.1/32 dev lo && ip link add pods type bridge && ip link set pods up && \
            ip addr add 172.17.0.1/16 dev pods && nft add table ip t && \
            nft 'add chain ip t c { type filter hook prerouting priority 0; }' && nft add rule ip t c ct state new");
        let state = Scratch::new();
        let _tun = Tun::open("emtest0", 1408).unwrap();
        let mut plan = plan();
        plan.services.entries.outside = vec!["lo".into()];
        let mut kept = Kept::default();
        let _keeper = start(plan.clone(), state.path()).unwrap();
        let client = UdpSocket::bind("192.0.2.1:40000").unwrap();
        let other = UdpSocket::bind("192.0.2.1:40001").unwrap();
        let mut settle = |ways: Vec<(EntryPoint, Way)>| {
            plan.services.entries.ways = ways.into_iter().collect();
            kept.restore(&plan).unwrap();
            // A refusal by this machine is heard by the next send, which is then not sent.
            for socket in [&client, &other] {
                let at = if std::ptr::eq(socket, &client) { "192.0.2.1:30053" } else { "192.0.2.1:30099" };
                let _ = socket.send_to(b"x", at);
                let _ = socket.send_to(b"x", at);
            }
            (tracked("192.0.2.1:30053"), tracked("192.0.2.1:30099"))
        };
        let door = |way| vec![(point("192.0.2.1:30053", 17), way)];
        let (mine, others) = settle(Vec::new());
        assert_eq!((mine, others), (vec!["192.0.2.1:30053".into()], vec!["192.0.2.1:30099".to_owned()]));
        let untouched = vec!["192.0.2.1:30099".to_owned()];

        let (mine, others) = settle(door(way("172.17.0.2:53")));
        assert_eq!(
            (mine, &others),
            (vec!["172.17.0.2:53".into()], &untouched),
            "it begins to lead somewhere"
        );

        let (mine, others) = settle(door(way("172.17.0.2:54")));
        assert_eq!((mine, &others), (vec!["172.17.0.2:54".into()], &untouched), "its port changes");

        let ends = Way { keep: vec!["172.17.0.2:54".parse().unwrap()], ..way("172.17.0.3:54") };
        let (mine, _) = settle(door(ends));
        assert_eq!(mine, ["172.17.0.2:54"], "what ends still serves who has it");

        let (mine, _) = settle(door(way("172.17.0.3:54")));
        assert_eq!(mine, ["172.17.0.3:54"], "its place is gone");

        let (mine, others) = settle(Vec::new());
        assert_eq!((mine, &others), (vec!["192.0.2.1:30053".into()], &untouched), "it leads nowhere");
    });
}

#[test]
fn x1_t4_clients_of_entry_points_are_let_through_beside_docker_and_only_then() {
    in_namespace(|| {
        sh(
            "iptables-nft -N DOCKER-USER && iptables-nft -P FORWARD DROP && iptables-nft -A FORWARD -j DOCKER-USER",
        );
        let before = sh("iptables-nft -S");
        let running = running(plan());
        let rules = || sh("iptables-nft -S DOCKER-USER");
        assert!(rules().contains("-i emtest0") && !rules().contains("-o emtest0"), "{}", rules());
        running.handle.set_services(Wanted { entries: all_kinds(), ..plan().services });
        let wanted = ["-o emtest0 -j ACCEPT", "--mark 0x10000000/0x10000000 -j ACCEPT"];
        until(|| wanted.iter().all(|rule| rules().contains(rule)), rules);
        drop((running.handle, running.tun));
        std::fs::remove_dir_all(running.state.path()).unwrap();
        let cleaned = crate::interception::cleanup(running.state.path(), "emtest0").unwrap();
        assert!(cleaned.failed.is_empty(), "{cleaned:?}");
        assert_eq!(sh("iptables-nft -S"), before);
    });
}
