use super::*;
use edgemesh_core::wire::feed;

fn objects(yaml: &str) -> Result<Vec<(Identity, Object)>, Vec<String>> {
    let mut out = Vec::new();
    let value = crate::manifests::value(yaml).unwrap();
    match parse(value, &mut out) {
        Ok(()) => Ok(out),
        Err(errors) => Err(errors.iter().map(ToString::to_string).collect()),
    }
}

fn service(spec: &str) -> Result<Service, String> {
    let yaml = format!("{{kind: Service, apiVersion: v1, metadata: {{name: a}}, spec: {spec}}}");
    match objects(&yaml) {
        Ok(found) => match found.into_iter().next() {
            Some((_, Object::Service(service))) => Ok(service),
            other => panic!("{other:?}"),
        },
        Err(errors) => Err(errors.concat()),
    }
}

#[test]
fn absent_fields_get_the_api_servers_defaults() {
    let got = objects(
        "{kind: Service, metadata: {name: a, labels: null}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80, targetPort: web}]}}",
    )
    .unwrap();
    let (identity, Object::Service(service)) = &got[0] else { panic!() };
    assert_eq!((identity.namespace.as_str(), identity.name.as_str()), ("default", "a"));
    assert_eq!(service.ports, [ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 80 }]);
    assert_eq!((service.affinity_secs, service.flags), (0, 0));
    let affine = super::tests::service("{clusterIP: 10.0.0.1, sessionAffinity: ClientIP}").unwrap();
    assert_eq!(affine.affinity_secs, 10_800);
}

#[test]
fn s1_kinds_of_services_are_told_apart_and_proxy_labels_seen() {
    let kind = |spec: &str| super::tests::service(spec).unwrap().kind;
    let ip = |text: &str| text.parse().unwrap();
    assert_eq!(kind("{clusterIP: None}"), ServiceKind::Headless);
    assert_eq!(kind("{clusterIP: None, clusterIPs: [None]}"), ServiceKind::Headless);
    assert_eq!(
        kind("{clusterIP: 'fd00::1', clusterIPs: ['fd00::1', 10.0.0.1], type: LoadBalancer}"),
        ServiceKind::ClusterIp(vec![ip("fd00::1"), ip("10.0.0.1")])
    );
    assert_eq!(kind("{clusterIP: '10.180.00.010'}"), ServiceKind::ClusterIp(vec![ip("10.180.0.10")]));
    assert_eq!(
        kind("{type: ExternalName, externalName: db.example.}"),
        ServiceKind::ExternalName("db.example".into())
    );
    let yaml = "{kind: Service, metadata: {name: a, labels: {service.kubernetes.io/service-proxy-name: ''}}, \
                spec: {clusterIP: 10.0.0.1, internalTrafficPolicy: Local}}";
    let Object::Service(s) = &objects(yaml).unwrap()[0].1 else { panic!() };
    assert_eq!(s.flags, feed::FLAG_NO_PROXY | feed::FLAG_INTERNAL_LOCAL);
}

#[test]
fn every_error_names_its_field() {
    let cases = [
        ("{clusterIP: 10.0.0.300}", "spec.clusterIP: value \"10.0.0.300\""),
        ("{clusterIPs: [10.0.0.1, 10.0.0.2]}", "spec.clusterIPs[1]"),
        ("{ports: []}", "spec.clusterIP: missing"),
        ("{clusterIP: None, ports: [{port: 80}, {port: abc}]}", "spec.ports[1].port: invalid type"),
        ("{clusterIP: None, ports: [{port: 65536}]}", "spec.ports[0].port"),
        ("{clusterIP: None, ports: [{port: 0}]}", "spec.ports[0].port"),
        (
            "{clusterIP: None, ports: [{port: 1, protocol: ICMP}]}",
            "spec.ports[0].protocol: unknown variant `ICMP`",
        ),
        ("{clusterIP: None, type: Weird}", "spec.type"),
        ("{type: ExternalName}", "spec.externalName"),
        (
            "{clusterIP: None, sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 90000}}}",
            "timeoutSeconds: value 90000",
        ),
    ];
    for (spec, expected) in cases {
        let error = super::tests::service(spec).unwrap_err();
        assert!(error.starts_with(expected) || error.contains(expected), "{spec}: {error}");
    }
    let bad = |yaml: &str| objects(yaml).unwrap_err().concat();
    assert_eq!(bad("{metadata: {name: a}}"), "kind: missing");
    assert_eq!(bad("just words"), "not a Kubernetes object");
    assert!(bad("{kind: Service, metadata: {}}").starts_with("metadata: missing field `name`"));
    assert!(bad("{kind: Service, metadata: {name: A_b}}").starts_with("metadata.name: value \"A_b\""));
    let slice = "{kind: EndpointSlice, metadata: {name: s}, addressType: IPv4, endpoints: [{addresses: ['fd00::1']}]}";
    assert!(bad(slice).starts_with("endpoints[0].addresses[0]: value \"fd00::1\""));
    let list =
        "{kind: List, items: [{kind: Namespace, metadata: {name: n}}, {kind: Service, metadata: {name: a}}]}";
    assert!(bad(list).starts_with("items[1].spec.clusterIP"));
}

#[test]
fn good_items_of_a_list_stand_beside_bad_ones() {
    let mut out = Vec::new();
    let yaml = "{kind: ServiceList, items: [{metadata: {name: a}, spec: {clusterIP: None}}, {metadata: {name: b}}, 7]}";
    let errors = parse(crate::manifests::value(yaml).unwrap(), &mut out).unwrap_err();
    assert_eq!((out.len(), errors.len()), (1, 2));
}

#[test]
fn s9_ports_without_a_number_are_left_out_and_only_the_first_address_counts() {
    let yaml = r"
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web, service.kubernetes.io/headless: ''}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}, {name: nothing}, {port: 9, protocol: UDP}, {name: zero, port: 0}]
endpoints:
- {addresses: [10.1.0.1, 10.1.0.9], nodeName: edge-1}
- {addresses: [10.1.0.2], conditions: {ready: false, serving: null, terminating: true}, hostname: h}
- {addresses: []}
";
    let got = objects(yaml).unwrap();
    let (identity, Object::EndpointSlice(slice)) = &got[0] else { panic!() };
    assert_eq!((identity.kind, identity.namespace.as_str()), (Kind::EndpointSlice, "shop"));
    assert_eq!((slice.service.as_deref(), slice.headless), (Some("web"), true));
    let ports: Vec<_> = slice.group.ports.iter().map(|p| (p.name.as_str(), p.protocol, p.port)).collect();
    assert_eq!(ports, [("http", Protocol::Tcp, 8080), ("", Protocol::Udp, 9)]);
    let conditions: Vec<_> = slice.group.endpoints.iter().map(|e| e.conditions).collect();
    assert_eq!(
        conditions,
        [feed::ENDPOINT_READY | feed::ENDPOINT_SERVING, feed::ENDPOINT_SERVING | feed::ENDPOINT_TERMINATING]
    );
    assert_eq!(slice.group.endpoints[0].address, "10.1.0.1".parse::<std::net::IpAddr>().unwrap());
    let fqdn = "{kind: EndpointSlice, metadata: {name: s}, addressType: FQDN, endpoints: [{addresses: [x.example]}]}";
    let Object::EndpointSlice(slice) = &objects(fqdn).unwrap()[0].1 else { panic!() };
    assert!(slice.group.endpoints.is_empty() && slice.service.is_none());
}

#[test]
fn endpoints_objects_are_read_like_slices() {
    let yaml = r"
kind: Endpoints
metadata: {name: web, labels: {endpointslice.kubernetes.io/skip-mirror: 'true'}}
subsets:
- addresses: [{ip: 10.0.0.1, nodeName: n1, hostname: h}]
  notReadyAddresses: [{ip: 10.0.0.2}]
  ports: [{port: 80}]
";
    let Object::Endpoints(endpoints) = &objects(yaml).unwrap()[0].1 else { panic!() };
    assert!(endpoints.skip);
    let group = &endpoints.groups[0];
    assert_eq!(
        group.endpoints.iter().map(|e| e.conditions & feed::ENDPOINT_READY).collect::<Vec<_>>(),
        [1, 0]
    );
    assert_eq!(group.ports[0].port, 80);
}

#[test]
fn other_kinds_are_nobodys_business() {
    assert_eq!(objects("{kind: Deployment, spec: {replicas: {weird: true}}}").unwrap(), []);
    assert_eq!(objects("~").unwrap(), []);
}

#[test]
fn s13_sloppy_addresses_are_decimal() {
    let ip = |text: &str| parse_ip(text).map(|ip| ip.to_string());
    assert_eq!(ip("10.180.00.001").as_deref(), Some("10.180.0.1"));
    assert_eq!(ip("010.010.010.010").as_deref(), Some("10.10.10.10"));
    assert_eq!(ip("::ffff:10.0.0.1").as_deref(), Some("10.0.0.1"));
    assert_eq!(ip("2001:DB8::1").as_deref(), Some("2001:db8::1"));
    for bad in ["", "10.0.0", "10.0.0.0.1", "10.0.0.256", "0x10.0.0.1", "10.0..1", " 10.0.0.1", "a", "::g"] {
        assert_eq!(parse_ip(bad), None, "{bad}");
    }
}

#[test]
fn t8_hints_are_read_as_zones_and_whether_nodes_are_named() {
    let yaml = r"
kind: EndpointSlice
metadata: {name: web-1}
addressType: IPv4
endpoints:
- {addresses: [10.1.0.1], hints: {forZones: [{name: b}, {name: a}, {name: b}], forNodes: [{name: edge-1}]}}
- {addresses: [10.1.0.2], hints: {forZones: [], forNodes: null}}
- {addresses: [10.1.0.3], hints: {}}
";
    let Object::EndpointSlice(slice) = &objects(yaml).unwrap()[0].1 else { panic!() };
    let mut both = [feed::zone("a"), feed::zone("b")];
    both.sort_unstable();
    let endpoints = &slice.group.endpoints;
    assert_eq!(*endpoints[0].zones, both);
    assert_ne!(endpoints[0].conditions & feed::ENDPOINT_FOR_NODE, 0);
    assert!(endpoints[1..].iter().all(|e| e.zones.is_empty() && e.conditions & feed::ENDPOINT_FOR_NODE == 0));
}

#[test]
fn the_annotation_that_prefers_near_endpoints_is_seen_and_others_are_skipped() {
    let flags = |value: &str| {
        let yaml = format!(
            "{{kind: Service, metadata: {{name: a, annotations: {{other: x, edgemesh.io/prefer: {value}}}}}, \
             spec: {{clusterIP: 10.0.0.1}}}}"
        );
        let Object::Service(s) = &objects(&yaml).unwrap()[0].1 else { panic!() };
        s.flags
    };
    assert_eq!((flags("nearest"), flags("farthest")), (feed::FLAG_NEAREST, 0));
}

/// The conditions and addresses of a slice's endpoints.
fn endpoints_of(slice: &str) -> Vec<(String, u8)> {
    let yaml = format!("{{kind: EndpointSlice, metadata: {{name: s}}, {slice}}}");
    match &objects(&yaml).unwrap()[0].1 {
        Object::EndpointSlice(slice) => {
            slice.group.endpoints.iter().map(|e| (e.address.to_string(), e.conditions)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn d11_an_endpoint_is_ready_unless_it_says_no() {
    let ready = |conditions: &str| {
        let slice =
            format!("addressType: IPv4, endpoints: [{{addresses: [10.0.0.1], conditions: {conditions}}}]");
        endpoints_of(&slice)[0].1 & feed::ENDPOINT_READY != 0
    };
    for conditions in ["null", "{}", "{ready: null}", "{ready: true, serving: false}"] {
        assert!(ready(conditions), "{conditions}");
    }
    assert!(!ready("{ready: false}") && !ready("{ready: false, serving: true, terminating: true}"));
}

#[test]
fn d12_an_unready_pod_that_is_to_be_published_comes_as_ready() {
    // As the slice controller writes it for publishNotReadyAddresses.
    let slice = "addressType: IPv4, endpoints: [{addresses: [10.0.0.1], \
                 conditions: {ready: true, serving: false, terminating: true}}]";
    assert_eq!(
        endpoints_of(slice),
        [("10.0.0.1".to_owned(), feed::ENDPOINT_READY | feed::ENDPOINT_TERMINATING)]
    );
}

#[test]
fn d23_slices_of_names_have_no_endpoints() {
    assert!(endpoints_of("addressType: FQDN, endpoints: [{addresses: [db.example]}]").is_empty());
}

#[test]
fn s2_any_proxy_name_leaves_a_service_to_its_proxy() {
    let flags = |labels: &str| {
        let yaml = format!(
            "{{kind: Service, metadata: {{name: a, labels: {labels}}}, spec: {{clusterIP: 10.0.0.1}}}}"
        );
        let Object::Service(s) = &objects(&yaml).unwrap()[0].1 else { panic!() };
        s.flags
    };
    assert_eq!(flags("{}"), 0);
    for value in ["''", "other", "kube-proxy"] {
        assert_eq!(
            flags(&format!("{{service.kubernetes.io/service-proxy-name: {value}}}")),
            feed::FLAG_NO_PROXY
        );
    }
}

#[test]
fn s5_addresses_are_of_the_slices_type_and_names_are_none() {
    let slice = |kind: &str, address: &str| {
        objects(&format!(
            "{{kind: EndpointSlice, metadata: {{name: s}}, addressType: {kind}, endpoints: [{{addresses: ['{address}']}}]}}"
        ))
    };
    for (kind, address, good) in [
        ("IPv4", "10.1.0.1", true),
        ("IPv6", "fd00::1", true),
        ("IPv4", "fd00::1", false),
        ("IPv6", "10.1.0.1", false),
        ("IPv4", "db.example", false),
    ] {
        assert_eq!(slice(kind, address).is_ok(), good, "{kind} {address}");
    }
    let Object::EndpointSlice(named) = &slice("FQDN", "db.example").unwrap()[0].1 else { panic!() };
    assert!(named.group.endpoints.is_empty());
}

#[test]
fn s8_conditions_that_are_absent_are_ready_and_serving() {
    let conditions = |text: &str| {
        let yaml = format!(
            "{{kind: EndpointSlice, metadata: {{name: s}}, addressType: IPv4, \
             endpoints: [{{addresses: [10.1.0.1], conditions: {text}}}]}}"
        );
        let Object::EndpointSlice(slice) = &objects(&yaml).unwrap()[0].1 else { panic!() };
        slice.group.endpoints[0].conditions
    };
    use feed::{ENDPOINT_READY as READY, ENDPOINT_SERVING as SERVING, ENDPOINT_TERMINATING as TERMINATING};
    for (text, expected) in [
        ("~", READY | SERVING),
        ("{}", READY | SERVING),
        ("{ready: ~, serving: ~, terminating: ~}", READY | SERVING),
        ("{ready: false}", SERVING),
        ("{ready: false, serving: false, terminating: true}", TERMINATING),
        // `publishNotReadyAddresses`, row T12.
        ("{ready: true, serving: false, terminating: true}", READY | TERMINATING),
    ] {
        assert_eq!(conditions(text), expected, "{text}");
    }
}

#[test]
fn hostile_objects_are_refused_with_one_short_line_each() {
    let huge = "x".repeat(1 << 20);
    let ports: String = (1..=10_000).map(|n| format!("{{name: p{n}, port: {n}}},")).collect();
    let slice = |endpoint: &str| {
        format!("{{kind: EndpointSlice, metadata: {{name: s}}, addressType: IPv4, endpoints: [{endpoint}]}}")
    };
    let service = |spec: &str| format!("{{kind: Service, metadata: {{name: a}}, spec: {spec}}}");
    for (yaml, field) in [
        (format!("{{kind: Service, metadata: {{name: {huge}}}}}"), "metadata.name"),
        (format!("{{kind: Service, metadata: {{name: a, namespace: {huge}}}}}"), "metadata.namespace"),
        ("{kind: Service, metadata: [a], spec: 7}".to_owned(), "metadata"),
        ("{kind: Service, metadata: {name: 5}}".to_owned(), "metadata.name"),
        ("{kind: Service, metadata: {name: a, labels: {x: {y: z}}}}".to_owned(), "metadata.labels"),
        (service("[]"), "spec"),
        (service(&format!("{{clusterIP: {huge}}}")), "spec.clusterIP"),
        (service("{clusterIP: 127.0.0.1}"), "spec.clusterIP"),
        (service("{clusterIP: 169.254.169.254}"), "spec.clusterIP"),
        (service("{clusterIPs: [10.0.0.1, 'ff02::1']}"), "spec.clusterIPs[1]"),
        (service(&format!("{{clusterIP: None, ports: [{ports}]}}")), "spec.ports"),
        (service(&format!("{{clusterIP: None, ports: [{{port: {huge}}}]}}")), "spec.ports[0].port"),
        (service(&format!("{{type: ExternalName, externalName: {huge}}}")), "spec.externalName"),
        (slice("{addresses: [127.0.0.1]}"), "endpoints[0].addresses[0]"),
        (slice("{addresses: [169.254.169.254]}"), "endpoints[0].addresses[0]"),
        (slice("{addresses: {a: b}}"), "endpoints[0].addresses"),
        (slice(&format!("{{addresses: [10.0.0.1], nodeName: {huge}}}")), "endpoints[0].nodeName"),
        (slice("{addresses: [10.0.0.1], nodeName: 'a b'}"), "endpoints[0].nodeName"),
        (slice(&format!("{{addresses: [10.0.0.1], hostname: {huge}}}")), "endpoints[0].hostname"),
    ] {
        let errors = objects(&yaml).unwrap_err();
        assert_eq!(errors.len(), 1);
        assert!(errors[0].starts_with(field), "{field}: {}", errors[0]);
        assert!(errors[0].len() < 1000, "{} bytes", errors[0].len());
    }
}
