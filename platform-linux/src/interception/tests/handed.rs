//! What the keeper does for connections that the kernel carries from client to endpoint.

use super::*;

#[test]
fn c7_q1_datagrams_that_the_kernel_leads_stay_while_their_endpoint_serves() {
    in_namespace(|| {
        let running = running(plan());
        let [client, vip, endpoint, other] =
            ["172.17.0.3:4000", "10.96.0.10:53", "172.17.0.2:5353", "172.17.0.4:5353"]
                .map(|text| text.parse::<SocketAddr>().unwrap());
        let mut netfilter = crate::netlink::Netfilter::open().unwrap();
        let begun = crate::netlink::Connection::new(17, client, vip);
        netfilter.lead(&begun, endpoint, 60, 0).unwrap();
        let at = entry::EntryPoint { address: vip.ip(), protocol: 17, port: vip.port() };
        let handed = |endpoints: &[SocketAddr]| {
            let handed = [(at, endpoints.iter().copied().collect())].into();
            Wanted { handed, ..plan().services }
        };
        running.handle.set_services(handed(&[endpoint, other]));
        running.expect_quiet("another endpoint");
        running.handle.set_services(handed(&[other]));
        running.expect_quiet("its endpoint left");
        running.expect("forgotten only now", |r| matches!(r, Report::Forgotten(1)));
        assert_eq!(netfilter.answered(17, endpoint, client).unwrap(), None);

        let services = Wanted { routed: vec![Prefix::host(vip.ip())], ..handed(&[endpoint]) };
        running.handle.set_services(services);
        running.expect_quiet("it is back");
        netfilter.lead(&begun, endpoint, 60, 0).unwrap();
        running.handle.set_services(Wanted::default());
        running.expect_quiet("the Service is gone");
        running.expect("nobody leads there", |r| matches!(r, Report::Forgotten(1)));
    });
}

#[test]
fn c7_connections_that_the_kernel_leads_pass_the_firewalls_of_others() {
    in_namespace(|| {
        sh(
            "iptables-nft -N DOCKER-USER; iptables-nft -P FORWARD DROP; iptables-nft -A FORWARD -j DOCKER-USER",
        );
        let running = running(plan());
        let rules = || sh("iptables-nft -S DOCKER-USER");
        assert!(!rules().contains("connmark"), "{}", rules());
        let at = entry::EntryPoint { address: "10.96.0.10".parse().unwrap(), protocol: 6, port: 80 };
        let handed = [(at, ["172.17.0.2:80".parse().unwrap()].into())].into();
        running.handle.set_services(Wanted { handed, ..plan().services });
        running.expect_quiet("an endpoint");
        let accept = format!("-m connmark --mark {0:#x}/{0:#x} -j ACCEPT", entry::MARK);
        assert!(rules().contains(&accept), "{}", rules());
    });
}

#[test]
fn c7_our_device_takes_in_what_pods_sent_and_others_stay_strict() {
    in_namespace(|| {
        fresh_machine();
        sh("sysctl -qw net.ipv4.conf.all.rp_filter=1");
        let state = Scratch::new();
        let _tun = Tun::open(DEVICE, 1408).unwrap();
        assert!(is_strict(DEVICE));
        drop(start(plan(), state.path()).unwrap());
        assert!(!is_strict(DEVICE) && is_strict("lo"));
        sh("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.emtest0.rp_filter=0");
        drop(start(plan(), state.path()).unwrap());
        assert_eq!(sh("sysctl -n net.ipv4.conf.emtest0.rp_filter").trim(), "0", "what is loose stays so");
    });
}
