//! Accepts in the chains of others.

use super::*;

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
