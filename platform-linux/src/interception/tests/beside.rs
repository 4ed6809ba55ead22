//! Beside another service proxy, whose rules claim the same VIPs.

use super::*;
use crate::clock;
use crate::poll::{Interest, Poller};
use crate::tun::MAX_PACKET;

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
        sh("nft add table ip t; nft 'add chain ip t out { type nat hook output priority -100; }'");
        sh("nft add rule ip t out ip daddr 10.96.0.0/16 dnat to 127.0.0.1; ip route add 10.0.0.0/8 dev lo");
        let running = running(plan());
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
        running.handle.set_services(Wanted { shadowed: pairs, ..Wanted::default() });
        running.expect_quiet("taken");
        running.expect("forgotten", |r| matches!(r, Report::Forgotten(1)));
        assert_eq!((from("10.96.0.10"), from("10.96.0.11")), ("242.96.0.10".into(), "127.0.0.1".into()));
        running.handle.set_services(Wanted::default());
        running.expect_quiet("given back");
        running.expect("forgotten", |r| matches!(r, Report::Forgotten(1)));
        assert_eq!((from("10.96.0.10"), from("10.96.0.11")), ("127.0.0.1".into(), "127.0.0.1".into()));
    });
}

#[test]
fn another_service_proxy_is_seen_when_it_comes_and_when_it_goes() {
    in_namespace(|| {
        let running = running(plan());
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
            running.expect(come, |r| matches!(r, Report::Proxy(Some(found)) if *found == proxy));
            sh(go);
            running.expect(go, |r| matches!(r, Report::Proxy(None)));
        }
    });
}
