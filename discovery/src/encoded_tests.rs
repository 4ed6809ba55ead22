use super::*;
use crate::object::{Identity, Object, parse};

/// Numbers nodes and VIPs at first mention, as the directory does.
#[derive(Default)]
struct Numbers {
    nodes: Vec<String>,
    vips: Vec<String>,
}

impl Resolver for Numbers {
    fn node(&mut self, name: &str) -> u32 {
        let known = self.nodes.iter().position(|n| n == name);
        known.unwrap_or_else(|| {
            self.nodes.push(name.to_owned());
            self.nodes.len() - 1
        }) as u32
            + 1
    }

    fn endpoint_vip(&mut self, endpoint: &VipKey<'_>) -> Option<IpAddr> {
        let text = endpoint.text();
        let known = self.vips.iter().position(|n| *n == text);
        let n = known.unwrap_or_else(|| {
            self.vips.push(text);
            self.vips.len() - 1
        });
        Some(IpAddr::from([242, 128, 0, n as u8]))
    }
}

fn table(yaml: &str) -> Table {
    let mut out: Vec<(Identity, Object)> = Vec::new();
    for document in yaml.split("\n---\n") {
        parse(crate::manifests::value(document).unwrap(), &mut out).unwrap();
    }
    Table::join(out.iter().map(|(i, o)| (i, o)))
}

const A: &str = "{kind: Service, metadata: {name: a, namespace: n}, spec: {clusterIP: 10.0.0.1, ports: [{name: p, port: 80}]}}";
const A_SLICE: &str = "{kind: EndpointSlice, metadata: {name: a-1, namespace: n, labels: {kubernetes.io/service-name: a}}, \
    addressType: IPv4, ports: [{name: p, port: 8080}], endpoints: [{addresses: [172.17.0.2], nodeName: edge-1}, {addresses: [172.17.0.2], nodeName: edge-2}]}";
const B: &str =
    "{kind: Service, metadata: {name: b, namespace: n}, spec: {type: ExternalName, externalName: x.example}}";
const NS: &str = "{kind: Namespace, metadata: {name: empty}}";

fn encoded(parts: &[&str], numbers: &mut Numbers) -> Encoded {
    Encoded::new(&table(&parts.join("\n---\n")), &Placement::default(), numbers)
}

fn show(run: &[u8]) -> Vec<String> {
    updates(run).map(|u| format!("{:?}", u.unwrap())).collect()
}

#[test]
fn a_service_is_a_run_of_updates_from_head_to_commit() {
    let table = encoded(&[A, A_SLICE], &mut Numbers::default());
    let key = Key { namespace: "n".into(), name: "a".into() };
    let run = table.get(&key).unwrap();
    let parts: Vec<Update<'_>> = updates(run).map(Result::unwrap).collect();
    assert!(matches!(&parts[0], Update::Service(s) if s.name == "a" && s.namespace == "n"));
    assert!(matches!(&parts[1], Update::Port(p) if p.name == "p" && p.port == 80));
    assert!(matches!(&parts[2], Update::Targets(t) if **t == 8080u16.to_le_bytes()));
    let endpoint = |u: &Update<'_>| match u {
        Update::Endpoint(e) => (e.node, e.address.to_string(), e.vip, e.conditions),
        other => panic!("{other:?}"),
    };
    assert_eq!(endpoint(&parts[3]), (1, "172.17.0.2".to_owned(), None, 3));
    assert_eq!(endpoint(&parts[4]), (2, "172.17.0.2".to_owned(), None, 3));
    assert_eq!(parts[5..], [Update::Commit]);
}

#[test]
fn differences_lead_from_any_table_to_any_other() {
    let mut numbers = Numbers::default();
    let versions = [
        encoded(&[A, A_SLICE], &mut numbers),
        encoded(&[A, B], &mut numbers),
        encoded(&[A, A_SLICE, B, NS], &mut numbers),
        encoded(&[NS], &mut numbers),
        Encoded::default(),
    ];
    for from in &versions {
        for to in &versions {
            let mut replica = Replica::new(from.clone());
            for run in to.changes_since(from) {
                replica.apply_run(&run).unwrap();
            }
            assert_eq!(replica.table(), to);
            assert_eq!(replica.table().digest(), to.digest());
            assert_eq!(from == to, to.changes_since(from).is_empty());
            assert_eq!(from == to, from.digest() == to.digest());
        }
    }
    let removal = encoded(&[B], &mut numbers).changes_since(&encoded(&[A, B], &mut numbers));
    assert_eq!(
        removal.iter().map(|r| show(r)).collect::<Vec<_>>().concat(),
        ["Remove { namespace: \"n\", name: \"a\" }"]
    );
}

#[test]
fn versions_share_what_did_not_change() {
    let mut numbers = Numbers::default();
    let old = encoded(&[A, B], &mut numbers);
    let new = encoded(&[A, A_SLICE, B], &mut numbers);
    let shared = new.clone().sharing(&old);
    assert_eq!(shared, new);
    let same = |name: &str| {
        let key = Key { namespace: "n".into(), name: name.into() };
        Arc::ptr_eq(shared.get(&key).unwrap(), old.get(&key).unwrap())
    };
    assert!(same("b") && !same("a"));
}

#[test]
fn half_a_service_and_half_a_list_are_never_seen() {
    let table = encoded(&[A, A_SLICE, B], &mut Numbers::default());
    let mut replica = Replica::new(table.clone());
    let all: Vec<u8> = encoded(&[A], &mut Numbers::default()).full().concat();
    let parts: Vec<Update<'_>> = updates(&all).map(Result::unwrap).collect();
    for part in &parts[..parts.len() - 1] {
        replica.apply(part).unwrap();
        assert_eq!(replica.table(), &table);
    }
    replica.apply(&parts[parts.len() - 1]).unwrap();
    assert_eq!(replica.table().len(), 1);
    assert_eq!(Replica::default().apply(&Update::Commit), Err(ReplicaError::Order));
    assert_eq!(Replica::default().apply(&Update::End), Err(ReplicaError::Order));
    assert_eq!(Replica::default().apply_run(&[0xFF; 9]), Err(ReplicaError::Malformed));
}

#[test]
fn endpoint_vips_follow_hostnames_and_are_not_shared() {
    let headless = "{kind: Service, metadata: {name: db, namespace: n}, spec: {clusterIP: None}}";
    let slice = |endpoints: &str| {
        format!(
            "{{kind: EndpointSlice, metadata: {{name: db-1, namespace: n, labels: {{kubernetes.io/service-name: db}}}}, \
             addressType: IPv4, endpoints: {endpoints}}}"
        )
    };
    let mut numbers = Numbers::default();
    let before = slice(
        "[{addresses: [172.17.0.2], nodeName: e1, hostname: db-0}, {addresses: [172.17.0.2], nodeName: e2, hostname: db-1}]",
    );
    encoded(&[headless, &before], &mut numbers);
    assert_eq!(numbers.vips, ["n/db/db-0/4", "n/db/db-1/4"]);
    let moved = slice("[{addresses: [172.17.0.9], nodeName: e3, hostname: db-0}]");
    encoded(&[headless, &moved], &mut numbers);
    assert_eq!(numbers.vips.len(), 2, "a pod that moves keeps its address");
    let doubled = slice(
        "[{addresses: [172.17.0.2], nodeName: e1, hostname: x}, {addresses: [172.17.0.2], nodeName: e2, hostname: x}, {addresses: [172.17.0.2], nodeName: e3}]",
    );
    encoded(&[headless, &doubled], &mut numbers);
    assert_eq!(numbers.vips[2..], ["n/db//e1/172.17.0.2", "n/db//e2/172.17.0.2", "n/db//e3/172.17.0.2"]);
}

#[test]
fn a_snapshot_comes_back_whole_or_not_at_all() {
    let table = encoded(&[A, A_SLICE, B, NS], &mut Numbers::default()).in_zone(7);
    let head = Head { epoch: 1, sequence: 9, unix_secs: 1_800_000_000 };
    let bytes = to_snapshot(&head, &table);
    assert_eq!(from_snapshot(&bytes), Ok((head, table)));
    for len in 0..bytes.len() {
        assert!(from_snapshot(&bytes[..len]).is_err(), "{len}");
    }
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        assert!(from_snapshot(&bad).is_err(), "{at}");
    }
}

#[test]
fn t10_a_new_zone_says_everything_again_and_is_no_part_of_what_is_signed() {
    let table = encoded(&[A, A_SLICE, NS], &mut Numbers::default());
    let near = table.clone().in_zone(7);
    assert_eq!(near.digest(), table.digest());
    assert!(near.changes_since(&near).is_empty());
    for (old, new) in [(&table, &near), (&near, &table)] {
        let mut replica = Replica::new(old.clone());
        let runs = new.changes_since(old).concat();
        let first = updates(&runs).next();
        assert_eq!(first, Some(Ok(Update::Zone(new.zone()))));
        replica.apply_run(&runs).unwrap();
        assert_eq!(replica.table(), new);
    }
}
