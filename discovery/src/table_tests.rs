use super::*;
use crate::claims::Told;
use crate::testing::objects;
use proptest::prelude::*;

fn table(yaml: &str) -> Table {
    objects(yaml).into_iter().collect()
}

/// The only Service.
fn only(table: &Table) -> Entry {
    table.keys().next().and_then(|key| table.entry(key)).unwrap()
}

/// What a table says.
fn content(table: &Table) -> impl PartialEq + std::fmt::Debug + use<> {
    let entries: BTreeMap<_, _> = table.keys().map(|key| (key.clone(), table.entry(key))).collect();
    (entries, table.namespaces().clone(), table.nodes().clone(), table.service_cidrs())
}

/// `targets -> node/address` of the only Service.
fn backends(yaml: &str) -> Vec<(Vec<u16>, Vec<String>)> {
    let table = table(yaml);
    let entry = only(&table);
    let text = |e: &Endpoint| format!("{}/{}", e.node, e.address);
    entry.groups.iter().map(|g| (g.targets.clone(), g.endpoints.iter().map(text).collect())).collect()
}

fn slice(name: &str, ports: &str, endpoints: &str) -> String {
    format!(
        "\n---\n{{kind: EndpointSlice, metadata: {{name: {name}, labels: {{kubernetes.io/service-name: web}}}}, \
         addressType: IPv4, ports: {ports}, endpoints: {endpoints}}}"
    )
}

const WEB: &str = "{kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.0.7, ports: [{name: http, port: 80}, {name: admin, port: 81}]}}";
const ONE: &str = "[{addresses: [10.1.0.1], nodeName: a}]";

#[test]
fn c1_the_join_is_by_name_and_protocol_never_by_number() {
    let swapped = slice("s", "[{name: admin, port: 80}, {name: http, port: 81}]", ONE);
    assert_eq!(backends(&format!("{WEB}{swapped}")), [(vec![81, 80], vec!["a/10.1.0.1".to_owned()])]);
    let other_protocol = slice("s", "[{name: http, port: 80, protocol: UDP}]", ONE);
    assert_eq!(backends(&format!("{WEB}{other_protocol}")), []);
    let same_number = "{kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.0.7, \
        ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}]}}";
    let both = slice("s", "[{name: dns-tcp, port: 53}, {name: dns, port: 5353, protocol: UDP}]", ONE);
    assert_eq!(backends(&format!("{same_number}{both}")), [(vec![5353, 53], vec!["a/10.1.0.1".to_owned()])]);
}

#[test]
fn s10_named_target_ports_may_differ_from_pod_to_pod() {
    let yaml = format!(
        "{WEB}{}{}",
        slice("one", "[{name: http, port: 8080}]", ONE),
        slice("two", "[{name: http, port: 9090}]", "[{addresses: [10.1.0.2], nodeName: a}]")
    );
    let expected =
        [(vec![8080, 0], vec!["a/10.1.0.1".to_owned()]), (vec![9090, 0], vec!["a/10.1.0.2".to_owned()])];
    assert_eq!(backends(&yaml), expected);
}

#[test]
fn g1_equal_addresses_on_two_nodes_are_two_endpoints() {
    let yaml = format!(
        "{WEB}{}",
        slice(
            "s",
            "[{name: http, port: 80}]",
            "[{addresses: [172.17.0.2], nodeName: a}, {addresses: [172.17.0.2], nodeName: b}]"
        )
    );
    let both = vec!["a/172.17.0.2".to_owned(), "b/172.17.0.2".to_owned()];
    assert_eq!(backends(&yaml), [(vec![80, 0], both)]);
}

#[test]
fn s7_a_duplicate_that_lives_wins() {
    let dying = "[{addresses: [10.1.0.1], nodeName: a, conditions: {ready: false, terminating: true}}]";
    for (first, second) in [(ONE, dying), (dying, ONE)] {
        let yaml = format!(
            "{WEB}{}{}",
            slice("one", "[{name: http, port: 80}]", first),
            slice("two", "[{name: http, port: 80}, {name: admin, port: 81}]", second)
        );
        let table = table(&yaml);
        let groups = only(&table).groups;
        let http: Vec<_> = groups.iter().filter(|g| g.targets[0] == 80).flat_map(|g| &g.endpoints).collect();
        assert_eq!(http.len(), 1);
        assert_eq!(http[0].conditions & feed::ENDPOINT_TERMINATING, 0);
        let admin = groups.iter().filter(|g| g.targets[1] == 81).flat_map(|g| &g.endpoints).count();
        assert_eq!(admin, 1, "the other port of the duplicate is a backend of its own");
    }
}

#[test]
fn s3_labelled_slices_are_for_dns_only() {
    let labelled = "\n---\n{kind: EndpointSlice, metadata: {name: s, labels: {kubernetes.io/service-name: web, \
        service.kubernetes.io/headless: ''}}, addressType: IPv4, ports: [{name: http, port: 80}], \
        endpoints: [{addresses: [10.1.0.1]}]}";
    let named = (vec![0, 0], vec!["/10.1.0.1".to_owned()]);
    assert_eq!(backends(&format!("{WEB}{labelled}")), std::slice::from_ref(&named), "it serves no port");
    let other = slice("t", "[{name: http, port: 80}]", ONE).replace("10.1.0.1", "10.1.0.2");
    let served = (vec![80, 0], vec!["a/10.1.0.2".to_owned()]);
    assert_eq!(backends(&format!("{WEB}{labelled}{other}")), [named, served.clone()]);
    let same = other.replace("10.1.0.2", "10.1.0.1");
    let twice = labelled.replace("[10.1.0.1]", "[10.1.0.1], nodeName: a");
    let once = (vec![80, 0], vec!["a/10.1.0.1".to_owned()]);
    assert_eq!(backends(&format!("{WEB}{twice}{same}")), [once]);
    let headless = WEB.replace("10.96.0.7", "None");
    assert_eq!(backends(&format!("{headless}{labelled}")).len(), 1);
}

#[test]
fn s4_slices_of_no_service_and_of_other_namespaces_are_left_out() {
    let stray = slice("s", "[{name: http, port: 80}]", ONE).replace("kubernetes.io/service-name", "other");
    assert_eq!(backends(&format!("{WEB}{stray}")), []);
    let elsewhere = slice("s", "[{name: http, port: 80}]", ONE).replace("name: s,", "name: s, namespace: x,");
    assert_eq!(backends(&format!("{WEB}{elsewhere}")), []);
}

#[test]
fn s12_endpoints_objects_count_where_no_slice_does() {
    let endpoints = "\n---\n{kind: Endpoints, metadata: {name: web}, subsets: [\
        {addresses: [{ip: 10.2.0.1}], ports: [{name: http, port: 8000}]}, \
        {addresses: [{ip: 10.2.0.1}], ports: [{name: admin, port: 8001}]}]}";
    assert_eq!(backends(&format!("{WEB}{endpoints}")).len(), 2);
    let with_slice = format!("{WEB}{endpoints}{}", slice("s", "[{name: http, port: 80}]", ONE));
    assert_eq!(backends(&with_slice), [(vec![80, 0], vec!["a/10.1.0.1".to_owned()])]);
    let skipped = endpoints
        .replace("name: web}", "name: web, labels: {endpointslice.kubernetes.io/skip-mirror: 'true'}}");
    assert_eq!(backends(&format!("{WEB}{skipped}")), []);
}

#[test]
fn a_headless_service_without_ports_has_addresses() {
    let yaml = format!(
        "{{kind: Service, metadata: {{name: web}}, spec: {{clusterIP: None}}}}{}",
        slice("s", "[]", "[{addresses: [10.1.0.1], nodeName: a}, {addresses: [10.1.0.1], nodeName: a}]")
    );
    assert_eq!(backends(&yaml), [(vec![], vec!["a/10.1.0.1".to_owned()])]);
}

#[test]
fn s6_many_slices_of_many_endpoints_are_all_there() {
    let mut yaml = WEB.to_owned();
    for n in 0..10 {
        let endpoints: Vec<String> = (0..1000)
            .map(|m| format!("{{addresses: [10.{n}.{}.{}], nodeName: a}}", m / 250, m % 250))
            .collect();
        yaml += &slice(&format!("s{n}"), "[{name: http, port: 80}]", &format!("[{}]", endpoints.join(",")));
    }
    let table = table(&yaml);
    assert_eq!(only(&table).groups[0].endpoints.len(), 10_000);
}

#[test]
fn s6_slices_are_united_by_address_and_by_port() {
    // One address on different ports, different addresses on one port: a Service's two ports in two slices.
    let yaml = format!(
        "{WEB}{}{}{}",
        slice("one", "[{name: http, port: 8080}]", ONE),
        slice("two", "[{name: admin, port: 9090}]", ONE),
        slice("three", "[{name: http, port: 8080}]", "[{addresses: [10.1.0.2], nodeName: b}]")
    );
    let a = || "a/10.1.0.1".to_owned();
    let expected = [(vec![0, 9090], vec![a()]), (vec![8080, 0], vec![a(), "b/10.1.0.2".to_owned()])];
    assert_eq!(backends(&yaml), expected);
}

#[test]
fn s4_a_slice_may_come_before_its_service() {
    let early = slice("s", "[{name: http, port: 80}]", ONE);
    let yaml = format!("{}\n---\n{WEB}", early.trim_start_matches("\n---\n"));
    assert_eq!(backends(&yaml), [(vec![80, 0], vec!["a/10.1.0.1".to_owned()])]);
}

#[test]
fn s11_ports_of_restartable_init_containers_are_ports_like_others() {
    // The controller resolves numbers and names alike and writes numbers.
    let yaml = format!(
        "{{kind: Service, metadata: {{name: web}}, spec: {{clusterIP: 10.96.0.7, ports: [\
         {{name: sidecar, port: 80, targetPort: 8090}}, {{name: named, port: 81, targetPort: side}}]}}}}{}",
        slice("s", "[{name: sidecar, port: 8090}, {name: named, port: 8091}]", ONE)
    );
    assert_eq!(backends(&yaml), [(vec![8090, 8091], vec!["a/10.1.0.1".to_owned()])]);
}

#[test]
fn s12_a_service_without_selector_takes_slices_of_any_manager() {
    let by_hand = slice("by-hand", "[{name: http, port: 5432}]", "[{addresses: [192.0.2.7]}]")
        .replace("labels: {", "labels: {endpointslice.kubernetes.io/managed-by: somebody, ");
    assert_eq!(backends(&format!("{WEB}{by_hand}")), [(vec![5432, 0], vec!["/192.0.2.7".to_owned()])]);
}

/// The ClusterIPs of every Service and what is wrong with them.
fn claims(yaml: &str) -> (Vec<String>, Vec<String>) {
    let table = table(yaml);
    let ips = table.keys().map(|key| match table.entry(key).unwrap().service.kind {
        ServiceKind::ClusterIp(ips) => format!("{}: {ips:?}", key.name),
        other => format!("{}: {other:?}", key.name),
    });
    (ips.collect(), news(&table, &mut Told::default()))
}

fn news(table: &Table, told: &mut Told) -> Vec<String> {
    table.keys().filter_map(|key| told.news(key, table.entry(key)?.problem)).collect()
}

fn claiming(name: &str, ip: &str, created: &str) -> String {
    format!(
        "\n---\n{{kind: Service, metadata: {{name: {name}, creationTimestamp: {created}}}, \
         spec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}}}"
    )
}

#[test]
fn hostile_services_get_no_address_that_another_had_first() {
    let older = claiming("web", "10.96.0.7", "'2024-01-01T00:00:00Z'");
    for younger in ["'2025-01-01T00:00:00Z'", "~"] {
        let thief = claiming("a-thief", "10.96.0.7", younger);
        for yaml in [format!("{older}{thief}"), format!("{thief}{older}")] {
            let (ips, told) = claims(yaml.trim_start_matches("\n---\n"));
            assert_eq!(ips, ["a-thief: []", "web: [10.96.0.7]"]);
            assert_eq!(
                told,
                ["Service default/a-thief: its ClusterIP 10.96.0.7 is that of default/web; left out"]
            );
        }
    }
}

#[test]
fn hostile_services_get_no_address_of_a_node_or_of_the_api_server() {
    let node = "{kind: Node, metadata: {name: edge-1}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}";
    let api = "\n---\n{kind: Service, metadata: {name: kubernetes}, spec: {clusterIP: 10.96.0.1, ports: [{name: https, port: 443}]}}\
               \n---\n{kind: EndpointSlice, metadata: {name: kubernetes, labels: {kubernetes.io/service-name: kubernetes}}, \
               addressType: IPv4, ports: [{name: https, port: 6443}], endpoints: [{addresses: [192.0.2.9]}]}";
    let yaml = format!(
        "{node}{api}{}{}{}",
        claiming("a-node", "192.0.2.1", "~"),
        claiming("a-server", "192.0.2.9", "~"),
        claiming("fine", "10.96.0.8", "~"),
    );
    let (ips, told) = claims(&yaml);
    assert_eq!(ips, ["a-node: []", "a-server: []", "fine: [10.96.0.8]", "kubernetes: [10.96.0.1]"]);
    assert_eq!(
        told,
        [
            "Service default/a-node: its ClusterIP 192.0.2.1 is an address of node edge-1; left out",
            "Service default/a-server: its ClusterIP 192.0.2.9 is the API server's; left out",
        ]
    );
}

proptest! {
    #[test]
    fn s16_order_does_not_matter(seed in proptest::collection::vec(any::<u16>(), 8)) {
        let yaml = format!(
            "{WEB}{}{}{}\n---\n{{kind: Namespace, metadata: {{name: empty}}}}\n---\n{}",
            slice("one", "[{name: http, port: 80}]", "[{addresses: [10.1.0.1], nodeName: a}, {addresses: [10.1.0.2]}]"),
            slice("two", "[{name: http, port: 80}]", "[{addresses: [10.1.0.1], nodeName: a, conditions: {terminating: true}}]"),
            slice("three", "[{name: http, port: 80}, {name: admin, port: 1}]", "[{addresses: [10.1.0.1], nodeName: a, hostname: h}]"),
            WEB.replace("web", "other"),
        );
        let in_order = objects(&yaml);
        let mut shuffled: Vec<_> = in_order.iter().zip(seed.iter().cycle()).collect();
        shuffled.sort_by_key(|(_, s)| **s);
        let a: Table = in_order.iter().cloned().collect();
        let b: Table = shuffled.iter().map(|(object, _)| (*object).clone()).collect();
        prop_assert_eq!(content(&a), content(&b));
    }
}
