//! What is undone, and what is left alone.

use super::*;

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
