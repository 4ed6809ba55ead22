//! Rows D and N: what names stand for.

use edgemesh_core::dns::{PodRecords, Responder, Settings, Verdict};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType::{self, *};

use super::zone::{MemoryZone, Service, big, cluster, host};
use super::{Reply, Transport, ask, decode, query, settings, verdict};

fn answers(name: &str, rtype: RecordType) -> Vec<String> {
    let reply = ask(&cluster(), name, rtype);
    assert_eq!(reply.rcode(), ResponseCode::NoError, "{name}");
    reply.answers
}

fn nodata(name: &str, rtype: RecordType) {
    let reply = ask(&cluster(), name, rtype);
    assert!(reply.is_nodata(), "{name} {rtype}: {reply:?}");
}

fn nxdomain(name: &str, rtype: RecordType) {
    let reply = ask(&cluster(), name, rtype);
    assert!(reply.is_nxdomain(), "{name} {rtype}: {reply:?}");
}

fn is_forwarded(zone: &MemoryZone, name: &str, rtype: RecordType) -> bool {
    verdict(zone, &query(name, rtype).to_vec().unwrap(), Transport::Udp, 0).0 == Verdict::Forward
}

#[test]
fn d1_version() {
    let name = "dns-version.cluster.local.";
    assert_eq!(answers(name, TXT), ["dns-version.cluster.local. 28800 TXT 1.1.0"]);
    nodata(name, A);
}

#[test]
fn d2_a_cluster_ip_has_an_address_and_nodata_for_the_other_family() {
    let reply = ask(&cluster(), "svc1.testns.svc.cluster.local.", A);
    assert_eq!(reply.answers, ["svc1.testns.svc.cluster.local. 30 A 10.0.0.1"]);
    assert_eq!(reply.service, Some(0), "the service to warm");
    nodata("svc1.testns.svc.cluster.local.", AAAA);
}

#[test]
fn d3_dual_stack() {
    let name = "dual.testns.svc.cluster.local.";
    assert_eq!(answers(name, A), ["dual.testns.svc.cluster.local. 30 A 10.0.0.10"]);
    assert_eq!(answers(name, AAAA), ["dual.testns.svc.cluster.local. 30 AAAA fd00::10"]);
}

#[test]
fn d4_a_cluster_ip_without_endpoints_answers() {
    let zone = cluster();
    let dual = zone.services.iter().find(|service| service.name == "dual").unwrap();
    assert!(dual.hosts.is_empty());
    let reply = ask(&zone, "dual.testns.svc.cluster.local.", A);
    assert_eq!((reply.rcode(), reply.answers.len()), (ResponseCode::NoError, 1));
}

#[test]
fn d26_a_service_name_may_begin_with_a_digit() {
    let name = "7up.default.svc.cluster.local.";
    assert_eq!(answers(name, A), [format!("{name} 30 A 10.0.0.77")]);
    let srv = format!("_http._tcp.{name}");
    assert_eq!(answers(&srv, SRV), [format!("{srv} 30 SRV 0 100 80 {name}")]);
    assert_eq!(answers("77.0.0.10.in-addr.arpa.", PTR), [format!("77.0.0.10.in-addr.arpa. 30 PTR {name}")]);
}

#[test]
fn d5_srv_of_a_named_port_has_the_service_port_and_glue() {
    let reply = ask(&cluster(), "_http._tcp.svc1.testns.svc.cluster.local.", SRV);
    let owner = "_http._tcp.svc1.testns.svc.cluster.local.";
    assert_eq!(reply.answers, [format!("{owner} 30 SRV 0 100 80 svc1.testns.svc.cluster.local.")]);
    assert_eq!(reply.additional, ["svc1.testns.svc.cluster.local. 30 A 10.0.0.1"]);
    assert_eq!(reply.service, Some(0));
    nodata(owner, A);
}

#[test]
fn d6_unnamed_and_unknown_ports_have_no_name() {
    for name in ["_bogus._tcp.svc1", "_http._udp.svc1", "_._tcp.dual", "_http._tcp.dual", "http._tcp.svc1"] {
        nxdomain(&format!("{name}.testns.svc.cluster.local."), SRV);
    }
    nodata("_tcp.svc1.testns.svc.cluster.local.", SRV);
    nxdomain("_sctp.svc1.testns.svc.cluster.local.", SRV);
}

#[test]
fn d7_srv_without_port_lists_every_port() {
    let reply = ask(&cluster(), "svc1.testns.svc.cluster.local.", SRV);
    let owner = "svc1.testns.svc.cluster.local.";
    let expected = [80, 53].map(|port| format!("{owner} 30 SRV 0 50 {port} {owner}"));
    assert_eq!(reply.answers, expected);
    assert_eq!(reply.additional, ["svc1.testns.svc.cluster.local. 30 A 10.0.0.1"]);
    let dual = ask(&cluster(), "dual.testns.svc.cluster.local.", SRV);
    assert_eq!(dual.answers.len(), 1);
    assert_eq!(dual.additional.len(), 2);
}

#[test]
fn d8_reverse_names_of_cluster_ips() {
    let v4 = "10.0.0.10.in-addr.arpa.";
    assert_eq!(answers(v4, PTR), ["10.0.0.10.in-addr.arpa. 30 PTR dual.testns.svc.cluster.local."]);
    let v6 = format!("0.1.{}0.0.d.f.ip6.arpa.", "0.".repeat(26));
    assert_eq!(answers(&v6, PTR), [format!("{v6} 30 PTR dual.testns.svc.cluster.local.")]);
    let other_type = ask(&cluster(), v4, A);
    assert_eq!(other_type.rcode(), ResponseCode::NoError);
    assert!(other_type.authority[0].starts_with("in-addr.arpa. 30 SOA ns.dns.in-addr.arpa."));
}

#[test]
fn d9_headless_lists_ready_addresses_once() {
    let name = "hdls1.testns.svc.cluster.local.";
    assert_eq!(answers(name, A), [format!("{name} 30 A 172.17.0.2"), format!("{name} 30 A 172.17.0.3")]);
    assert_eq!(answers(name, AAAA), [format!("{name} 30 AAAA 5678:abcd::1")]);
    assert_eq!(ask(&cluster(), name, A).service, Some(2));
}

#[test]
fn d10_headless_without_ready_endpoints_does_not_exist() {
    for rtype in [A, AAAA, SRV, MX] {
        nxdomain("svc-unready.testns.svc.cluster.local.", rtype);
    }
}

#[test]
fn d11_an_endpoint_that_is_not_ready_has_no_name() {
    nxdomain("172-17-0-9.hdls1.testns.svc.cluster.local.", A);
    assert!(is_forwarded(&cluster(), "9.0.17.172.in-addr.arpa.", PTR));
}

#[test]
fn d13_hostnames_name_endpoints() {
    let one = "db-0.db.default.svc.cluster.local.";
    assert_eq!(answers(one, A), [format!("{one} 30 A 242.128.0.1")]);
    nodata(one, AAAA);
    let two = "dup.db.default.svc.cluster.local.";
    assert_eq!(answers(two, A), [format!("{two} 30 A 242.128.0.3"), format!("{two} 30 A 242.128.0.4")]);
    // The dashed form belongs to endpoints without hostname only.
    nxdomain("242-128-0-1.db.default.svc.cluster.local.", A);
}

#[test]
fn d14_endpoints_without_hostname_have_dashed_names() {
    let v4 = "172-17-0-3.hdls1.testns.svc.cluster.local.";
    assert_eq!(answers(v4, A), [format!("{v4} 30 A 172.17.0.3")]);
    let v6 = "5678-abcd--1.hdls1.testns.svc.cluster.local.";
    assert_eq!(answers(v6, AAAA), [format!("{v6} 30 AAAA 5678:abcd::1")]);
}

#[test]
fn d15_endpoints_of_a_cluster_ip_have_names_too() {
    let name = "172-17-0-222.svc1.testns.svc.cluster.local.";
    assert_eq!(answers(name, A), [format!("{name} 30 A 172.17.0.222")]);
}

#[test]
fn d16_headless_srv_has_the_endpoints_own_ports() {
    let reply = ask(&cluster(), "_http._tcp.hdls1.testns.svc.cluster.local.", SRV);
    let line = |port: u16, host: &str| {
        format!(
            "_http._tcp.hdls1.testns.svc.cluster.local. 30 SRV 0 25 {port} {host}.hdls1.testns.svc.cluster.local."
        )
    };
    let hosts = [(8080, "172-17-0-2"), (8080, "172-17-0-3"), (8081, "172-17-0-3"), (8080, "5678-abcd--1")];
    assert_eq!(reply.answers, hosts.map(|(port, host)| line(port, host)));
    let glue = ["172-17-0-2 A 172.17.0.2", "172-17-0-3 A 172.17.0.3", "5678-abcd--1 AAAA 5678:abcd::1"];
    let glue = glue.map(|g| g.replacen(' ', ".hdls1.testns.svc.cluster.local. 30 ", 1));
    assert_eq!(reply.additional, glue);
    assert_eq!(reply.service, Some(2));

    let raft = ask(&cluster(), "_raft._tcp.hdls1.testns.svc.cluster.local.", SRV);
    assert_eq!((raft.answers.len(), raft.additional.len()), (2, 2));
    let all = ask(&cluster(), "hdls1.testns.svc.cluster.local.", SRV);
    assert_eq!((all.answers.len(), all.additional.len()), (6, 3));
    nodata("_http._tcp.hdls1.testns.svc.cluster.local.", A);
    nxdomain("_nope._tcp.hdls1.testns.svc.cluster.local.", SRV);
}

#[test]
fn d16_srv_of_one_endpoint() {
    let name = "db-1.db.default.svc.cluster.local.";
    let reply = ask(&cluster(), name, SRV);
    assert_eq!(reply.answers, [format!("{name} 30 SRV 0 100 2380 {name}")]);
    assert_eq!(reply.additional, [format!("{name} 30 A 242.128.0.2")]);
}

#[test]
fn d17_headless_without_ports_has_addresses_and_no_srv() {
    let name = "portless.default.svc.cluster.local.";
    assert_eq!(answers(name, A), [format!("{name} 30 A 172.17.0.20")]);
    nodata(name, SRV);
    nodata(&format!("172-17-0-20.{name}"), SRV);
}

#[test]
fn d18_reverse_names_of_endpoints() {
    let mut zone = cluster();
    let shared = Service {
        namespace: "default",
        name: "also",
        kind: edgemesh_core::dns::Kind::Headless,
        external: "",
        addresses: vec![],
        ports: vec![],
        hosts: vec![host("242.128.0.1", "", &[])],
    };
    zone.services.push(shared);
    let reply = ask(&zone, "1.0.128.242.in-addr.arpa.", PTR);
    let owner = "1.0.128.242.in-addr.arpa. 30 PTR";
    let expected = ["db-0.db", "242-128-0-1.also"].map(|n| format!("{owner} {n}.default.svc.cluster.local."));
    assert_eq!(reply.answers, expected);
}

#[test]
fn d18_a_cluster_ip_wins_over_an_endpoint() {
    let mut zone = cluster();
    zone.services[4].hosts[0].address = "10.0.0.1".parse().unwrap();
    let reply = ask(&zone, "1.0.0.10.in-addr.arpa.", PTR);
    assert_eq!(reply.answers, ["1.0.0.10.in-addr.arpa. 30 PTR svc1.testns.svc.cluster.local."]);
}

#[test]
fn d19_unknown_reverse_names_go_upstream_unless_only_we_can_know_them() {
    for name in ["9.9.9.9.in-addr.arpa.", "10.in-addr.arpa.", "in-addr.arpa.", "x.1.1.1.in-addr.arpa."] {
        assert!(is_forwarded(&cluster(), name, PTR), "{name}");
    }
    let ours = ask(&cluster(), "9.9.9.242.in-addr.arpa.", PTR);
    assert_eq!((ours.rcode(), ours.answers.len(), ours.authority.len()), (ResponseCode::NXDomain, 0, 1));
}

#[test]
fn d20_external_names_are_aliases_and_inside_the_cluster_followed() {
    let name = "external.testns.svc.cluster.local.";
    assert_eq!(answers(name, CNAME), [format!("{name} 30 CNAME ext.interwebs.test.")]);
    for rtype in [A, AAAA] {
        let (verdict, bytes) = verdict(&cluster(), &query(name, rtype).to_vec().unwrap(), Transport::Udp, 0);
        assert_eq!(verdict, Verdict::Chase { len: bytes.len() });
        assert_eq!(decode(&bytes, None).answers, [format!("{name} 30 CNAME ext.interwebs.test.")]);
    }
    let inside = ask(&cluster(), "internal.testns.svc.cluster.local.", A);
    let svc1 = "svc1.testns.svc.cluster.local.";
    let alias = format!("internal.testns.svc.cluster.local. 30 CNAME {svc1}");
    assert_eq!(inside.answers, [alias.clone(), format!("{svc1} 30 A 10.0.0.1")]);
    assert_eq!(inside.service, Some(0));

    let twice = ask(&cluster(), "twice.testns.svc.cluster.local.", A);
    assert_eq!(twice.answers.len(), 3);
    assert_eq!(twice.answers[2], format!("{svc1} 30 A 10.0.0.1"));
    let v6 = ask(&cluster(), "internal-v6.testns.svc.cluster.local.", AAAA);
    assert_eq!(v6.answers[1], "dual.testns.svc.cluster.local. 30 AAAA fd00::10");
}

#[test]
fn d20_aliases_that_lead_nowhere() {
    let none = ask(&cluster(), "internal.testns.svc.cluster.local.", AAAA);
    assert_eq!((none.rcode(), none.answers.len(), none.authority.len()), (ResponseCode::NoError, 1, 1));
    assert_eq!(none.service, None);
    let gone = ask(&cluster(), "dangling.testns.svc.cluster.local.", A);
    assert_eq!((gone.rcode(), gone.answers.len(), gone.authority.len()), (ResponseCode::NXDomain, 1, 1));
    let circle = ask(&cluster(), "circle.testns.svc.cluster.local.", A);
    assert_eq!(circle.rcode(), ResponseCode::ServFail);
    assert!(circle.answers.len() < 10);
}

#[test]
fn d22_below_an_external_name_is_nothing_and_an_address_is_no_alias() {
    for name in ["_http._tcp.external", "endpoint.external", "_tcp.external"] {
        nxdomain(&format!("{name}.testns.svc.cluster.local."), SRV);
    }
    nodata("literal.testns.svc.cluster.local.", A);
    nodata("no-name.testns.svc.cluster.local.", A);
}

#[test]
fn d24_the_apex_has_soa_ns_and_glue() {
    let ns = ask(&cluster(), "cluster.local.", NS);
    assert_eq!(ns.answers, ["cluster.local. 30 NS ns.dns.cluster.local."]);
    assert_eq!(ns.additional, ["ns.dns.cluster.local. 30 A 169.254.96.16"]);
    let soa = "cluster.local. 30 SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 30";
    assert_eq!(answers("cluster.local.", SOA), [soa]);
    assert_eq!(answers("ns.dns.cluster.local.", A), ["ns.dns.cluster.local. 30 A 169.254.96.16"]);
    nodata("ns.dns.cluster.local.", AAAA);
}

/// What a node answers whose pod records are so, to one question.
fn with_pods(pods: PodRecords, name: &str, rtype: RecordType) -> Reply {
    let (asked, mut out) = (query(name, rtype).to_vec().unwrap(), [0; 512]);
    let responder = Responder::new(Settings { pods, ..settings() });
    match responder.query(&cluster(), &asked, Transport::Tcp, 0, &mut out) {
        Verdict::Answer { len, service } => decode(&out[..len], service),
        other => panic!("{other:?}"),
    }
}

#[test]
fn d25_disabled_pod_records_do_not_exist() {
    assert!(with_pods(PodRecords::Disabled, "172-17-0-2.testns.pod.cluster.local.", A).is_nxdomain());
}

#[test]
fn d25_verified_pod_records_are_those_of_endpoints_in_the_namespace() {
    let ask = |name: &str, rtype| with_pods(PodRecords::Verified, name, rtype);
    let known = "172-17-0-2.testns.pod.cluster.local.";
    assert_eq!(ask(known, A).answers, [format!("{known} 30 A 172.17.0.2")]);
    assert!(ask(known, AAAA).is_nodata());
    // Of another namespace, of none, not ready, a ClusterIP.
    for name in ["172-17-0-2.default", "10-1-2-3.testns", "172-17-0-9.testns", "10-0-0-1.testns"] {
        assert!(ask(&format!("{name}.pod.cluster.local."), A).is_nxdomain(), "{name}");
    }
}

#[test]
fn d25_insecure_pod_records_are_not_checked() {
    let v4 = "10-1-2-3.testns.pod.cluster.local.";
    assert_eq!(answers(v4, A), [format!("{v4} 30 A 10.1.2.3")]);
    nodata(v4, AAAA);
    let v6 = "fd00--0.testns.pod.cluster.local.";
    assert_eq!(answers(v6, AAAA), [format!("{v6} 30 AAAA fd00::")]);
    nxdomain("10-1-2-3.nowhere.pod.cluster.local.", A);
    nxdomain("10-1-2.testns.pod.cluster.local.", A);
}

#[test]
fn d28_transfers_are_refused() {
    for rtype in [AXFR, IXFR] {
        let reply = super::send(&cluster(), &query("cluster.local.", rtype), Transport::Tcp);
        assert_eq!(reply.rcode(), ResponseCode::Refused);
    }
}

/// A name of every kind, each with a type of which it has no record.
const WITHOUT: [(&str, RecordType); 10] = [
    ("svc1.testns.svc.cluster.local.", AAAA),
    ("hdls1.testns.svc.cluster.local.", TXT),
    ("db-0.db.default.svc.cluster.local.", AAAA),
    ("_http._tcp.svc1.testns.svc.cluster.local.", A),
    ("_http._tcp.hdls1.testns.svc.cluster.local.", AAAA),
    ("10-1-2-3.testns.pod.cluster.local.", AAAA),
    ("dns-version.cluster.local.", A),
    ("ns.dns.cluster.local.", AAAA),
    ("cluster.local.", A),
    ("testns.svc.cluster.local.", SRV),
];

#[test]
fn n1_a_name_without_the_type_asked_for_is_nodata_never_nxdomain() {
    for (name, rtype) in WITHOUT {
        nodata(name, rtype);
    }
}

#[test]
fn n9_types_that_no_name_of_ours_has_are_nodata() {
    for rtype in [MX, HINFO, HTTPS, SVCB, CAA, NAPTR, Unknown(65_280)] {
        for (name, _) in WITHOUT {
            nodata(name, rtype);
        }
    }
}

#[test]
fn n10_any_is_nodata_however_much_there_is() {
    let zone = big(1000);
    for name in ["svc1.testns", "hdls1.testns", "db-0.db.default", "big.default"] {
        let reply = ask(&zone, &format!("{name}.svc.cluster.local."), ANY);
        assert!(reply.is_nodata() && reply.len < 200, "{name}: {reply:?}");
    }
}

#[test]
fn n2_unknown_names_do_not_exist() {
    for name in ["svc0.testns.svc", "svc1.nowhere.svc", "bogus.hdls1.testns.svc", "9-9-9-9.hdls1.testns.svc"]
    {
        nxdomain(&format!("{name}.cluster.local."), A);
    }
}

#[test]
fn n3_empty_names_are_nodata_and_missing_ones_are_not() {
    for name in ["svc", "pod", "dns", "testns.svc", "empty.svc", "testns.pod"] {
        nodata(&format!("{name}.cluster.local."), A);
    }
    nodata("cluster.local.", A);
    for name in ["foo", "nowhere.svc", "nowhere.pod", "x.dns", "svc1.testns", "x.dns-version"] {
        nxdomain(&format!("{name}.cluster.local."), A);
    }
}

#[test]
fn n4_names_deeper_than_the_schema_do_not_exist() {
    for name in [
        "a._http._tcp.svc1.testns.svc",
        "a.db-0.db.default.svc",
        "a.10-1-2-3.testns.pod",
        "a.b.c.d.e.f.g.svc",
    ] {
        nxdomain(&format!("{name}.cluster.local."), A);
    }
}

#[test]
fn n5_before_the_first_sync_our_names_are_servfail() {
    let zone = MemoryZone { synced: false, ..cluster() };
    for name in ["svc1.testns.svc.cluster.local.", "nope.cluster.local.", "9.9.9.242.in-addr.arpa."] {
        let reply = ask(&zone, name, A);
        assert_eq!((reply.rcode(), reply.authority.len()), (ResponseCode::ServFail, 0), "{name}");
    }
    assert!(is_forwarded(&zone, "example.org.", A));
}

#[test]
fn names_of_other_domains_go_upstream() {
    for name in
        [".", "local.", "example.org.", "xcluster.local.", "svc1.testns.svc.cluster.local.example.org."]
    {
        assert!(is_forwarded(&cluster(), name, A), "{name}");
    }
}
