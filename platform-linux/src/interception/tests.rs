//! On real devices and real tables, in network namespaces.

mod beside;
mod cleaning;
mod firewall;
mod handed;

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use super::ledger::FILE;
use super::*;
use crate::testing::{Scratch, in_namespace, sh, sh_output};
use crate::tun::Tun;

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
    let answering = ["192.0.2.1:53", "192.0.2.1:123", "192.0.2.2:123", "[2001:db8::1]:53"];
    plan.services.answering = answering.map(|endpoint| endpoint.parse().unwrap()).into();
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

/// A keeper on its thread, with what it needs, on a machine on which nothing forwarded before.
pub(super) struct Running {
    pub(super) handle: KeeperHandle,
    pub(super) reports: Receiver<Report>,
    /// `None` while the device is closed.
    pub(super) tun: Option<Tun>,
    pub(super) state: Scratch,
}

pub(super) fn running(plan: Plan) -> Running {
    fresh_machine();
    let (sender, reports) = channel();
    let state = Scratch::new();
    let tun = Some(Tun::open(DEVICE, 1408).unwrap());
    let keeper = start(plan, state.path()).unwrap();
    let handle = keeper.spawn(None, move |report| drop(sender.send(report))).unwrap();
    Running { handle, reports, tun, state }
}

impl Running {
    /// Waits until the report comes, at most the second that we promise.
    pub(super) fn expect(&self, what: &str, wanted: impl Fn(&Report) -> bool) {
        let deadline = std::time::Instant::now() + Duration::from_secs(1);
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            match self.reports.recv_timeout(left) {
                Ok(report) if wanted(&report) => return,
                Ok(report) => seen.push(report),
                Err(e) => panic!("{what}: {e}, but {seen:?}"),
            }
        }
    }

    /// What was asked for is done, and nobody is said to have taken anything away.
    fn expect_quiet(&self, what: &str) {
        let next = self.next();
        assert!(matches!(next, Ok(Report::Programmed(_))), "{what}: {next:?}");
    }

    /// The next report but for those that tell only where else to look.
    fn next(&self) -> Result<Report, RecvTimeoutError> {
        loop {
            match self.reports.recv_timeout(Duration::from_secs(1)) {
                Ok(Report::Ways) => {}
                next => return next,
            }
        }
    }
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

#[test]
fn r1_what_others_delete_is_back_within_a_second() {
    in_namespace(|| {
        sh("iptables-nft -N DOCKER-USER");
        let running = running(plan_of_both_families());
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
            running.expect(damage, |r| matches!(r, Report::Restored(restored) if *restored == wanted));
            // The kernel may tell of one command's damage in two parts; then more reports follow.
            while machine() != whole {
                let next = running.next();
                assert!(
                    matches!(next, Ok(Report::Restored(_))),
                    "{damage}: {next:?}\n{}\n{whole}",
                    machine()
                );
            }
        }
        sh("nft flush ruleset");
        running.expect("flush ruleset", |r| matches!(r, Report::Restored(Restored::Table)));
        sh("iptables-nft -N DOCKER-USER");
        running.expect("a new DOCKER-USER", |r| matches!(r, Report::Restored(Restored::Rule(_))));
        assert!(sh("iptables-nft -S DOCKER-USER").contains("-i emtest0 -j ACCEPT"));
        assert!(running.handle.touched().iter().any(|t| t.contains("DOCKER-USER")));
    });
}

#[test]
fn a_deleted_device_gets_everything_back_once_it_is_open_again() {
    in_namespace(|| {
        let mut running = running(plan());
        sh("ip link delete emtest0");
        running.expect("device deleted", |r| matches!(r, Report::DeviceGone));
        running.tun = None;
        running.tun = Some(Tun::open(DEVICE, 1408).unwrap());
        running.expect("device back", |r| matches!(r, Report::Recovered));
        let route = "10.96.0.0/12".parse().unwrap();
        running.expect("device back", |r| matches!(r, Report::Restored(Restored::Route(to)) if *to == route));
    });
}

#[test]
fn routes_follow_the_services() {
    in_namespace(|| {
        let running = running(plan());
        let vip = "10.96.0.10/32".parse().unwrap();
        running.handle.set_services(Wanted { routed: vec![vip], ..Wanted::default() });
        running.expect_quiet("a new VIP");
        let routes = sh("ip route show dev emtest0");
        assert!(routes.contains("10.96.0.10 proto 237") && !routes.contains("10.96.0.0/12"), "{routes}");
    });
}

#[test]
fn what_leaves_the_mesh_here_takes_this_nodes_address() {
    in_namespace(|| {
        let running = running(plan());
        let rules = || sh("nft list chain ip edgemesh postrouting");
        assert!(!rules().contains("masquerade"));
        let exits = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        running.handle.set_services(Wanted { exits, ..plan().services });
        running.expect_quiet("an exit");
        let rule = "ip saddr 242.0.0.0/8 ip daddr 192.0.2.1 oifname != \"emtest0\" masquerade";
        assert!(rules().contains(rule), "{}", rules());
    });
}

/// What a change costs that concerns neither rules nor entry points, such as another endpoint: no listing of tables.
#[test]
fn r3_tables_are_looked_at_only_for_what_they_hold() {
    in_namespace(|| {
        fresh_machine();
        let state = Scratch::new();
        let _tun = Tun::open(DEVICE, 1408).unwrap();
        let mut keeper = start(plan_of_both_families(), state.path()).unwrap();
        let before = keeper.plan().services.clone();
        let mut more = before.clone();
        more.routed.push("10.97.0.9/32".parse().unwrap());
        assert!(!keeper.set_services(more), "a route");
        assert!(!keeper.set_services(before.clone()));
        let mut exits = before.clone();
        exits.exits.push("192.0.2.77".parse().unwrap());
        assert!(keeper.set_services(exits), "a rule");
        assert!(keeper.set_services(before.clone()));
        let mut entered = before.clone();
        entered.entries.outside.push("eth9".to_owned());
        assert!(keeper.set_services(entered), "where entry points are");
    });
}
