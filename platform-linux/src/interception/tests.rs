//! On real devices and real tables, in network namespaces.

use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::ledger::FILE;
use super::*;
use crate::clock;
use crate::poll::{Interest, Poller};
use crate::testing::{Scratch, in_namespace, sh, sh_output};
use crate::tun::{MAX_PACKET, Tun};

const DEVICE: &str = "emtest0";

pub(super) fn plan() -> Plan {
    Plan {
        device: DEVICE.into(),
        mtu: 1408,
        mesh: vec![Mesh { address: "242.0.0.5".parse().unwrap(), prefix: "242.0.0.0/8".parse().unwrap() }],
        dns: vec!["169.254.96.16".parse().unwrap()],
        services: Wanted { routed: vec!["10.96.0.0/12".parse().unwrap()], ..Wanted::default() },
    }
}

fn plan_of_both_families() -> Plan {
    let mut plan = plan();
    let prefix = "fd00:1::/32".parse().unwrap();
    plan.mesh.push(Mesh { address: "fd00:1::5".parse().unwrap(), prefix });
    plan.services.routed.push("fd00:96::/112".parse().unwrap());
    plan.services.shadowed = shadowed(&[("10.96.0.10", "242.96.0.10"), ("fd00:96::a", "fd00:1::4000:0:0:a")]);
    plan
}

fn shadowed(pairs: &[(&str, &str)]) -> BTreeMap<IpAddr, IpAddr> {
    pairs.iter().map(|(vip, shadow)| (vip.parse().unwrap(), shadow.parse().unwrap())).collect()
}

pub(super) fn start(plan: Plan, state: &Path) -> Result<Keeper, SetupError> {
    Keeper::start(plan, Ledger::open(state).unwrap())
}

/// A machine on which nothing forwards yet.
pub(super) fn fresh_machine() {
    sh("sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0");
}

/// Everything an agent could have changed, to compare.
fn machine() -> String {
    // What follows the carrier changes a while after the device was opened.
    sh(
        "(ip -d address; ip route show table all) | sed 's/ state [A-Z]*//; s/ linkdown//' | sort; ip rule; nft -s list ruleset; \
        sysctl -a 2>/dev/null | grep -E 'forward|accept_ra |rp_filter|route_localnet|accept_local' | sort; \
        cat /proc/net/ip_tables_names",
    )
}

#[test]
fn a_plan_becomes_true_and_stays_true_over_a_restart() {
    in_namespace(|| {
        fresh_machine();
        let state = Scratch::new();
        let tun = Tun::open(DEVICE, 1408).unwrap();
        let keeper = start(plan_of_both_families(), state.path()).unwrap();
        let addresses = sh("ip -4 -o address show dev emtest0 | awk '{print $4, $6}' | sort");
        assert_eq!(addresses, "169.254.96.16/32 host\n242.0.0.5/32 global\n");
        for (command, wanted) in [
            ("ip route show dev emtest0 proto 237", "242.0.0.0/8 scope link src 242.0.0.5"),
            ("ip route show dev emtest0 proto 237", "10.96.0.0/12 scope link src 242.0.0.5"),
            ("ip -6 route show dev emtest0 proto 237", "fd00:96::/112 src fd00:1::5"),
            ("ip route get 10.96.0.1", "dev emtest0 src 242.0.0.5"),
            ("sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding", "net.ipv4.ip_forward = 1"),
            ("nft list table ip edgemesh", "oifname \"emtest0\" snat to ip saddr"),
            ("nft list table ip edgemesh", "tcp option maxseg size set 1368"),
            ("nft list table ip6 edgemesh", "tcp option maxseg size set 1348"),
        ] {
            let text = sh(command);
            assert!(text.contains(wanted), "{command}: {text}");
        }
        let touched = keeper.touched();
        assert!(touched.iter().any(|t| t.contains("net.ipv4.ip_forward = 1 (was 0)")), "{touched:?}");
        let before = machine();
        drop((keeper, tun));
        let _tun = Tun::open(DEVICE, 1408).unwrap();
        let again = start(plan_of_both_families(), state.path()).unwrap();
        assert_eq!(machine(), before);
        assert_eq!(again.touched(), touched);
    });
}

#[test]
fn cleanup_leaves_the_machine_as_it_was() {
    in_namespace(|| {
        fresh_machine();
        sh("ip link add br0 type veth peer name other && sysctl -qw net.ipv4.conf.br0.forwarding=1");
        sh("iptables-nft -N DOCKER-USER && iptables-nft -P FORWARD DROP && iptables-legacy -P FORWARD DROP");
        let rules = "iptables-nft -S; iptables-legacy -S";
        let (before, rules_before) = (machine(), sh(rules));
        for lost in [false, true] {
            let state = Scratch::new();
            let tun = Tun::open(DEVICE, 1408).unwrap();
            drop(start(plan_of_both_families(), state.path()).unwrap());
            drop(tun);
            assert_ne!(machine(), before);
            assert_ne!(sh(rules), rules_before);
            if lost {
                std::fs::remove_dir_all(state.path()).unwrap();
            }
            let cleaned = cleanup(state.path(), DEVICE).unwrap();
            assert!(cleaned.failed.is_empty() && !cleaned.done.is_empty(), "{cleaned:?}");
            if lost {
                // What a setting was is told by nothing but the ledger.
                fresh_machine();
                sh("sysctl -qw net.ipv4.conf.br0.forwarding=1");
                sh("for c in /proc/sys/net/ipv6/conf/*/accept_ra; do echo 1 > $c; done");
            }
            assert_eq!(machine(), before);
            assert_eq!(sh(rules), rules_before);
            assert!(!state.path().join(FILE).exists());
            let again = cleanup(state.path(), DEVICE).unwrap();
            assert!(again.failed.is_empty() && again.done.is_empty(), "{again:?}");
        }
    });
}

#[test]
fn cleanup_leaves_what_others_changed_since() {
    in_namespace(|| {
        fresh_machine();
        let state = Scratch::new();
        let tun = Tun::open(DEVICE, 1408).unwrap();
        drop(start(plan(), state.path()).unwrap());
        drop(tun);
        sh("ip link delete emtest0 && ip tuntap add emtest0 mode tun && nft delete table ip edgemesh");
        sh("sysctl -qw net.ipv4.ip_forward=0");
        let before = machine();
        let cleaned = cleanup(state.path(), DEVICE).unwrap();
        assert!(cleaned.failed.is_empty(), "{cleaned:?}");
        assert_eq!(machine(), before);
    });
}

#[test]
fn cleanup_refuses_while_an_agent_runs() {
    let state = Scratch::new();
    let mut lock = edgemesh_host::state::Directory::open(state.path()).unwrap();
    lock.lock().unwrap();
    assert!(cleanup(state.path(), DEVICE).err().unwrap().to_string().contains("another process"));
}

#[test]
fn a_mesh_prefix_in_use_is_refused_by_name() {
    for (make, named) in [
        ("ip addr add 242.7.0.1/16 dev v0", Some("242.7.0.0/16 dev v0")),
        ("ip addr add 242.7.0.1/32 dev v0", Some("local 242.7.0.1/32 dev v0 table local")),
        ("ip route add 242.9.0.0/24 dev v0 table 77", Some("242.9.0.0/24 dev v0 table 77")),
        ("ip route add 240.0.0.0/4 dev v0", Some("240.0.0.0/4 dev v0")),
        ("ip route add unreachable 242.1.0.0/16", Some("242.1.0.0/16")),
        ("ip route add default dev v0", None),
        ("ip route add 128.0.0.0/1 dev v0", None),
        ("ip route add blackhole 240.0.0.0/4", None),
        ("ip route add 243.0.0.0/8 dev v0", None),
    ] {
        in_namespace(move || {
            sh("ip link add v0 type veth peer name v1 && ip link set v0 up && ip link set v1 up");
            sh(make);
            let outcome = check(&plan());
            match named {
                None => outcome.unwrap_or_else(|e| panic!("{make}: {e}")),
                Some(named) => {
                    let message = outcome.unwrap_err().to_string();
                    assert!(message.contains(named) && message.contains("242.0.0.0/8"), "{make}: {message}");
                }
            }
        });
    }
}

#[test]
fn a_service_range_that_others_route_is_named_and_left() {
    in_namespace(|| {
        fresh_machine();
        sh("ip link add v0 type veth peer name v1 && ip link set v0 up && ip link set v1 up");
        sh("ip route add 10.96.0.0/12 dev v0");
        let state = Scratch::new();
        let _tun = Tun::open(DEVICE, 1408).unwrap();
        let message = start(plan(), state.path()).err().unwrap().to_string();
        assert!(message.contains("10.96.0.0/12 dev v0"), "{message}");
        assert!(sh("ip route get 10.96.0.1").contains("dev v0"));
    });
}

#[test]
fn nothing_is_changed_that_cannot_be_written_down() {
    in_namespace(|| {
        fresh_machine();
        let state = Scratch::new();
        let ledger = Ledger::open(state.path()).unwrap();
        std::fs::create_dir(state.path().join(format!(".{FILE}.new"))).unwrap();
        let _tun = Tun::open(DEVICE, 1408).unwrap();
        let before = machine();
        let message = Keeper::start(plan(), ledger).err().unwrap().to_string();
        assert!(message.contains(FILE) && message.contains("nothing was changed"), "{message}");
        assert_eq!(machine(), before);
    });
}

/// A started keeper on its thread and its reports.
pub(super) fn kept(plan: Plan, state: &Path) -> (KeeperHandle, Receiver<Report>) {
    let (sender, reports) = channel();
    let keeper = start(plan, state).unwrap();
    let handle = keeper.spawn(None, move |report| drop(sender.send(report))).unwrap();
    (handle, reports)
}

/// Waits until the report comes, at most the second that we promise.
pub(super) fn expect(reports: &Receiver<Report>, what: &str, wanted: impl Fn(&Report) -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(1);
    let mut seen = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        match reports.recv_timeout(left) {
            Ok(report) if wanted(&report) => return,
            Ok(report) => seen.push(report),
            Err(e) => panic!("{what}: {e}, but {seen:?}"),
        }
    }
}

/// What was asked for is done, and nobody is said to have taken anything away.
fn expect_quiet(reports: &Receiver<Report>, what: &str) {
    let next = reports.recv_timeout(Duration::from_secs(1));
    assert!(matches!(next, Ok(Report::Programmed)), "{what}: {next:?}");
}

#[test]
fn r1_what_others_delete_is_back_within_a_second() {
    in_namespace(|| {
        fresh_machine();
        sh("iptables-nft -N DOCKER-USER");
        let state = Scratch::new();
        let _tun = Tun::open(DEVICE, 1408).unwrap();
        let (handle, reports) = kept(plan_of_both_families(), state.path());
        let whole = machine();
        let route = |text: &str| Restored::Route(text.parse().unwrap());
        for (damage, wanted) in [
            ("ip route del 10.96.0.0/12 dev emtest0", route("10.96.0.0/12")),
            ("ip -6 route del fd00:96::/112 dev emtest0", route("fd00:96::/112")),
            ("ip addr del 242.0.0.5/32 dev emtest0", route("242.0.0.0/8")),
            ("ip addr flush dev emtest0", Restored::Address("169.254.96.16".parse().unwrap())),
            ("ip link set emtest0 down", Restored::Device),
            ("ip link set emtest0 mtu 1500", Restored::Device),
            ("nft delete table ip edgemesh", Restored::Table),
            ("nft flush chain ip edgemesh postrouting", Restored::Table),
            ("nft add rule ip6 edgemesh forward drop", Restored::Table),
            ("nft flush map ip edgemesh shadows", Restored::Table),
            ("nft delete element ip edgemesh shadows '{ 10.96.0.10 }'", Restored::Table),
        ] {
            sh(damage);
            expect(&reports, damage, |r| matches!(r, Report::Restored(restored) if *restored == wanted));
            // The kernel may tell of one command's damage in two parts; then more reports follow.
            while machine() != whole {
                let next = reports.recv_timeout(Duration::from_secs(1));
                assert!(
                    matches!(next, Ok(Report::Restored(_))),
                    "{damage}: {next:?}\n{}\n{whole}",
                    machine()
                );
            }
        }
        sh("nft flush ruleset");
        expect(&reports, "flush ruleset", |r| matches!(r, Report::Restored(Restored::Table)));
        sh("iptables-nft -N DOCKER-USER");
        expect(&reports, "a new DOCKER-USER", |r| matches!(r, Report::Restored(Restored::Rule(_))));
        assert!(sh("iptables-nft -S DOCKER-USER").contains("-i emtest0 -j ACCEPT"));
        assert!(handle.touched().iter().any(|t| t.contains("DOCKER-USER")));
    });
}

#[test]
fn a_deleted_device_gets_everything_back_once_it_is_open_again() {
    in_namespace(|| {
        fresh_machine();
        let state = Scratch::new();
        let tun = Tun::open(DEVICE, 1408).unwrap();
        let (_handle, reports) = kept(plan(), state.path());
        sh("ip link delete emtest0");
        expect(&reports, "device deleted", |r| matches!(r, Report::DeviceGone));
        drop(tun);
        let _tun = Tun::open(DEVICE, 1408).unwrap();
        expect(&reports, "device back", |r| matches!(r, Report::Recovered));
        expect(
            &reports,
            "device back",
            |r| matches!(r, Report::Restored(Restored::Route(to)) if *to == "10.96.0.0/12".parse().unwrap()),
        );
    });
}

#[test]
fn routes_follow_the_services() {
    in_namespace(|| {
        fresh_machine();
        let state = Scratch::new();
        let _tun = Tun::open(DEVICE, 1408).unwrap();
        let (handle, reports) = kept(plan(), state.path());
        let vip = "10.96.0.10/32".parse().unwrap();
        handle.set_services(Wanted { routed: vec![vip], ..Wanted::default() });
        expect_quiet(&reports, "a new VIP");
        let routes = sh("ip route show dev emtest0");
        assert!(routes.contains("10.96.0.10 proto 237") && !routes.contains("10.96.0.0/12"), "{routes}");
    });
}

#[test]
fn what_leaves_the_mesh_here_takes_this_nodes_address() {
    in_namespace(|| {
        fresh_machine();
        let state = Scratch::new();
        let _tun = Tun::open(DEVICE, 1408).unwrap();
        let (handle, reports) = kept(plan(), state.path());
        let rules = || sh("nft list chain ip edgemesh postrouting");
        assert!(!rules().contains("masquerade"));
        let exits = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        handle.set_services(Wanted { exits, ..plan().services });
        expect_quiet(&reports, "an exit");
        let rule = "ip saddr 242.0.0.0/8 ip daddr 192.0.2.1 oifname != \"emtest0\" masquerade";
        assert!(rules().contains(rule), "{}", rules());
    });
}

#[test]
fn accepts_go_into_the_flavour_that_holds_the_chain() {
    for (tool, other, leaves) in [
        ("iptables-nft", "iptables-legacy", false),
        ("iptables-legacy", "iptables-nft", false),
        ("iptables-nft", "iptables-legacy", true),
    ] {
        in_namespace(move || {
            fresh_machine();
            sh(&format!(
                "{tool} -N DOCKER-USER; {tool} -P FORWARD DROP; {tool} -A FORWARD -j DOCKER-USER; \
                 {tool} -t raw -A PREROUTING -d 172.17.0.2 ! -i br0 -j DROP"
            ));
            let state = Scratch::new();
            let _tun = Tun::open(DEVICE, 1408).unwrap();
            let exits = leaves.then(|| "192.0.2.1".parse().unwrap()).into_iter().collect();
            let services = Wanted { exits, ..plan().services };
            let keeper = start(Plan { services, ..plan() }, state.path()).unwrap();
            for direction in ["-i", "-o"] {
                let rule = format!("-A DOCKER-USER {direction} emtest0 -j ACCEPT");
                let there = sh(&format!("{tool} -S DOCKER-USER")).contains(&rule);
                assert_eq!(there, direction == "-i" || leaves, "{rule}");
            }
            let raw = sh(&format!("{tool} -t raw -S PREROUTING"));
            assert!(raw.contains("-P PREROUTING ACCEPT\n-A PREROUTING -i emtest0 -j ACCEPT\n"), "{raw}");
            assert!(!sh(&format!("{tool} -S FORWARD")).contains("emtest0"));
            assert_eq!(
                keeper.touched().iter().filter(|t| t.starts_with(tool)).count(),
                2 + usize::from(leaves)
            );
            if other == "iptables-legacy" {
                assert_eq!(sh("cat /proc/net/ip_tables_names"), "", "looking loaded the legacy tables");
            }
            assert!(!sh_output(&format!("{other} -S DOCKER-USER")).status.success());
        });
    }
}

#[test]
fn a_forward_chain_that_drops_is_opened_only_without_docker() {
    for tool in ["iptables-nft", "iptables-legacy"] {
        in_namespace(move || {
            fresh_machine();
            sh(&format!("{tool} -P FORWARD DROP"));
            let state = Scratch::new();
            let _tun = Tun::open(DEVICE, 1408).unwrap();
            drop(start(plan(), state.path()).unwrap());
            let rules = sh(&format!("{tool} -S FORWARD"));
            assert!(
                rules.contains("-i emtest0 -j ACCEPT") && rules.contains("-o emtest0 -j ACCEPT"),
                "{rules}"
            );
            drop(start(plan(), state.path()).unwrap());
            assert_eq!(sh(&format!("{tool} -S FORWARD")), rules);
        });
    }
}

#[test]
fn a_firewall_that_lets_us_through_is_left_alone() {
    in_namespace(|| {
        fresh_machine();
        sh("iptables-nft -A FORWARD -s 192.0.2.1 -j DROP");
        let before = sh("iptables-nft -S");
        let state = Scratch::new();
        let _tun = Tun::open(DEVICE, 1408).unwrap();
        drop(start(plan(), state.path()).unwrap());
        assert_eq!(sh("iptables-nft -S"), before);
    });
}

/// The first packet that the kernel sends to the device and that is wanted.
fn first_packet(tun: &Tun, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut poller = Poller::new().unwrap();
    poller.add(tun, Interest::Read, 0).unwrap();
    let deadline = clock::now().after(edgemesh_core::time::Duration::from_secs(1));
    let mut buffer = vec![0; MAX_PACKET];
    loop {
        let mut ready = false;
        poller.wait(Some(deadline), |_| ready = true).unwrap();
        assert!(ready, "no such packet");
        while let Some((_, len)) = tun.read(&mut buffer).unwrap() {
            if wanted(&buffer[..len]) {
                return buffer[..len].to_vec();
            }
        }
    }
}

/// Packets to a VIP go where its stand-in does, for pods and for the node itself, whatever others' rules say of it.
#[test]
fn stand_ins_come_before_the_rules_of_others_in_every_mode() {
    for proxy in [
        "iptables-nft -t nat -N KUBE-SERVICES; iptables-nft -t nat -A PREROUTING -j KUBE-SERVICES; \
         iptables-nft -t nat -A OUTPUT -j KUBE-SERVICES; \
         iptables-nft -t nat -A KUBE-SERVICES -d 10.96.0.10 -p udp -j DNAT --to-destination 127.0.0.1",
        "ip link add kube-ipvs0 type bridge; ip addr add 10.96.0.10/32 dev kube-ipvs0",
        "nft -f - <<'END'
table ip kube-proxy {
  chain out { type filter hook output priority 0; ct state new ip daddr 10.96.0.0/16 reject; }
}
END",
    ] {
        in_namespace(move || {
            fresh_machine();
            sh(proxy);
            let state = Scratch::new();
            let tun = Tun::open(DEVICE, 1408).unwrap();
            let shadowed = shadowed(&[("10.96.0.10", "242.96.0.10")]);
            let services = Wanted { shadowed, ..Wanted::default() };
            let _keeper = start(Plan { services, ..plan() }, state.path()).unwrap();
            sh("ip route add default via 242.0.0.9 dev emtest0 onlink");
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.send_to(b"to the stand-in", "10.96.0.10:53").unwrap();
            let packet = first_packet(&tun, |packet| packet.get(9) == Some(&17));
            assert_eq!(packet.get(16..20), Some(&[242, 96, 0, 10][..]), "{proxy}");
            let listed = sh("nft list map ip edgemesh shadows");
            assert!(listed.contains("10.96.0.10 : 242.96.0.10"), "{listed}");
        });
    }
}

#[test]
fn connections_of_a_vip_that_changes_hands_begin_anew() {
    in_namespace(|| {
        fresh_machine();
        sh("nft add table ip t; nft 'add chain ip t out { type nat hook output priority -100; }'");
        sh("nft add rule ip t out ip daddr 10.96.0.0/16 dnat to 127.0.0.1; ip route add 10.0.0.0/8 dev lo");
        let state = Scratch::new();
        let _tun = Tun::open(DEVICE, 1408).unwrap();
        let (handle, reports) = kept(plan(), state.path());
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let from = |vip: &str| {
            socket.send_to(b"x", (vip, 9)).unwrap();
            let mut all = crate::netlink::Netfilter::open().unwrap().connections(false).unwrap();
            all.retain(|c| c.to == vip.parse::<IpAddr>().unwrap());
            let [connection] = &all[..] else { panic!("{all:?}") };
            connection.from.to_string()
        };
        assert_eq!((from("10.96.0.10"), from("10.96.0.11")), ("127.0.0.1".into(), "127.0.0.1".into()));
        let pairs = shadowed(&[("10.96.0.10", "242.96.0.10")]);
        handle.set_services(Wanted { shadowed: pairs, ..Wanted::default() });
        expect_quiet(&reports, "taken");
        expect(&reports, "forgotten", |r| matches!(r, Report::Forgotten(1)));
        assert_eq!((from("10.96.0.10"), from("10.96.0.11")), ("242.96.0.10".into(), "127.0.0.1".into()));
        handle.set_services(Wanted::default());
        expect_quiet(&reports, "given back");
        expect(&reports, "forgotten", |r| matches!(r, Report::Forgotten(1)));
        assert_eq!((from("10.96.0.10"), from("10.96.0.11")), ("127.0.0.1".into(), "127.0.0.1".into()));
    });
}

#[test]
fn another_service_proxy_is_seen_when_it_comes_and_when_it_goes() {
    in_namespace(|| {
        fresh_machine();
        let state = Scratch::new();
        let _tun = Tun::open(DEVICE, 1408).unwrap();
        let (_handle, reports) = kept(plan(), state.path());
        for (come, go, proxy) in [
            (
                "nft add table ip kube-proxy; nft add chain ip kube-proxy services",
                "nft delete table ip kube-proxy",
                Proxy::Nftables,
            ),
            ("iptables-nft -t nat -N KUBE-SERVICES", "iptables-nft -t nat -X KUBE-SERVICES", Proxy::Iptables),
            ("ip link add kube-ipvs0 type bridge", "ip link del kube-ipvs0", Proxy::Ipvs("kube-ipvs0")),
        ] {
            sh(come);
            expect(&reports, come, |r| matches!(r, Report::Proxy(Some(found)) if *found == proxy));
            sh(go);
            expect(&reports, go, |r| matches!(r, Report::Proxy(None)));
        }
    });
}
