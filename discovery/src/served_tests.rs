use super::*;
use crate::object::{Identity, Object};
use crate::replica::Replica;
use crate::testing::{Numbers, objects};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Instant;

/// One word of a source: an object of a small world, in which everything is in the way of everything.
#[derive(Clone, Copy, Debug)]
struct Word {
    what: u8,
    which: u8,
    how: u8,
    gone: bool,
}

impl Word {
    fn yaml(self) -> String {
        let (which, how) = (self.which % 4, self.how);
        let pick = |all: &[&str]| all[usize::from(how) % all.len()].to_owned();
        let service = ["web", "db", "kubernetes", "web"][usize::from(which)];
        let namespace = ["default", "shop", "default", "shop"][usize::from(which)];
        match self.what % 8 {
            0 | 1 => {
                let created = pick(&["~", "'2024-01-01T00:00:00Z'", "'2025-01-01T00:00:00Z'"]);
                let spec = [
                    "clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]",
                    "clusterIP: 10.96.0.2, ports: [{name: http, port: 80}, {name: admin, port: 81}]",
                    "clusterIP: 192.0.2.1, ports: [{name: http, port: 80}]",
                    "clusterIP: None",
                    "type: ExternalName, externalName: x.example",
                ];
                let spec = spec[usize::from(how / 3) % spec.len()];
                format!(
                    "{{kind: Service, metadata: {{name: {service}, namespace: {namespace}, creationTimestamp: {created}}}, spec: {{{spec}}}}}"
                )
            }
            2..=4 => {
                let of = pick(&["web", "db", "kubernetes", "''"]);
                let endpoints = [
                    "[]",
                    "[{addresses: [172.17.0.2], nodeName: a}]",
                    "[{addresses: [172.17.0.2], nodeName: b}, {addresses: [192.0.2.1]}]",
                    "[{addresses: [192.0.2.9]}, {addresses: [172.17.0.2], nodeName: a, conditions: {ready: false}}]",
                ];
                let endpoints = endpoints[usize::from(how / 4) % endpoints.len()];
                format!(
                    "{{kind: EndpointSlice, metadata: {{name: s{which}, namespace: {namespace}, labels: {{kubernetes.io/service-name: {of}}}}}, \
                     addressType: IPv4, ports: [{{name: http, port: 8080}}], endpoints: {endpoints}}}"
                )
            }
            5 => format!(
                "{{kind: Endpoints, metadata: {{name: {service}, namespace: {namespace}}}, \
                 subsets: [{{addresses: [{{ip: 10.2.0.{how}}}], ports: [{{name: http, port: 1}}]}}]}}"
            ),
            6 => format!("{{kind: Namespace, metadata: {{name: n{which}}}}}"),
            _ => {
                let address = pick(&["192.0.2.1", "192.0.2.9", "10.96.0.1"]);
                let exit = how % 5 == 0;
                format!(
                    "{{kind: Node, metadata: {{name: n{which}, labels: {{edgemesh.io/exit: '{exit}'}}}}, \
                     status: {{addresses: [{{type: InternalIP, address: {address}}}]}}}}"
                )
            }
        }
    }

    fn say(self) -> (Identity, Option<Object>) {
        let (identity, object) = objects(&self.yaml()).remove(0);
        (identity, (!self.gone).then_some(object))
    }
}

fn word() -> impl Strategy<Value = Word> {
    (any::<u8>(), any::<u8>(), any::<u8>(), any::<u8>()).prop_map(|(what, which, how, gone)| Word {
        what,
        which,
        how,
        gone: gone % 4 == 0,
    })
}

/// Takes changes as both users do.
fn take(served: &mut Served, changes: Changes, numbers: &mut Numbers) -> (Step, Vec<String>) {
    if served.apply(Instant::now(), changes) {
        let placement = Placement::new(served.table().nodes(), &[], None);
        served.place(placement);
    }
    served.encode(numbers)
}

fn from_scratch(objects: &BTreeMap<Identity, Object>, numbers: &mut Numbers) -> Served {
    let mut served = Served::default();
    take(&mut served, objects.clone().into_iter().collect(), numbers);
    served
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn r3_a_table_that_is_kept_up_says_what_one_from_scratch_says(
        history in proptest::collection::vec(proptest::collection::vec(word(), 1..6), 1..12)
    ) {
        let (mut served, mut numbers) = (Served::default(), Numbers::default());
        let (mut there, mut replica, mut told) = (BTreeMap::new(), Replica::default(), BTreeMap::new());
        for burst in history {
            let mut changes = Changes::default();
            for (identity, object) in burst.into_iter().map(Word::say) {
                match &object {
                    Some(object) => drop(there.insert(identity.clone(), object.clone())),
                    None => drop(there.remove(&identity)),
                }
                changes.set(identity, object);
            }
            let (step, news) = take(&mut served, changes, &mut numbers);
            let fresh = from_scratch(&there, &mut numbers);
            prop_assert_eq!(served.encoded(), fresh.encoded());
            prop_assert_eq!(&served.due, &BTreeSet::new());
            for run in served.encoded().way(&step) {
                replica.apply_run(&run).unwrap();
            }
            prop_assert_eq!(replica.table(), served.encoded(), "the step leads there");
            prop_assert_eq!(replica.table().digest(), served.encoded().digest());

            // What is wrong is told when it begins, and only then.
            let wrong = |served: &Served| -> BTreeMap<Key, String> {
                let entries = served.table().keys().filter_map(|key| Some((key, served.table().entry(key)?)));
                entries.filter_map(|(key, entry)| Some(((**key).clone(), entry.problem?))).collect()
            };
            let now = wrong(&fresh);
            prop_assert_eq!(news.len(), now.iter().filter(|(key, text)| told.get(*key) != Some(*text)).count());
            told = now;
        }
    }
}

/// A Service with one endpoint; all of them in a few namespaces.
fn service(n: u32, endpoint: &str) -> Changes {
    let [_, a, b, c] = n.to_be_bytes();
    let yaml = format!(
        "{{kind: Service, metadata: {{name: s{n}, namespace: n{}}}, spec: {{clusterIP: 10.{a}.{b}.{c}, ports: [{{name: http, port: 80}}]}}}}\
         \n---\n{{kind: EndpointSlice, metadata: {{name: s{n}-1, namespace: n{}, labels: {{kubernetes.io/service-name: s{n}}}}}, \
         addressType: IPv4, ports: [{{name: http, port: 8080}}], endpoints: [{{addresses: [{endpoint}], nodeName: a}}]}}",
        n % 7,
        n % 7
    );
    objects(&yaml).into_iter().collect()
}

fn many(count: u32) -> (Served, Numbers) {
    let (mut served, mut numbers) = (Served::default(), Numbers::default());
    for n in 1..=count {
        served.apply(Instant::now(), service(n, "172.17.0.2"));
    }
    let _ = served.encode(&mut numbers);
    assert_eq!(served.encodings(), u64::from(count));
    (served, numbers)
}

#[test]
fn r3_one_changed_endpoint_costs_one_service() {
    let (mut served, mut numbers) = many(2_000);
    let (step, _) = take(&mut served, service(7, "172.17.0.3"), &mut numbers);
    assert_eq!((served.encodings(), step.len()), (2_001, 1));
    let way = served.encoded().way(&step);
    assert!(way.len() == 1 && way[0].len() < 100, "{way:?}");
    // Nor does a Node that comes concern Services that name their nodes.
    let node =
        "{kind: Node, metadata: {name: b}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}";
    let (step, _) = take(&mut served, objects(node).into_iter().collect(), &mut numbers);
    assert_eq!((served.encodings(), step.len()), (2_001, 0));
}

#[test]
fn r2_a_burst_about_one_service_is_one_change() {
    let (mut served, mut numbers) = many(10);
    let mut burst = Changes::default();
    for n in 0..100 {
        burst.merge(service(7, &format!("172.17.1.{n}")));
    }
    let (step, _) = take(&mut served, burst, &mut numbers);
    assert_eq!((served.encodings(), step.len()), (11, 1));
}

#[test]
fn r3_services_are_encoded_again_when_their_nodes_become_known_and_when_it_was_in_vain() {
    let (mut served, mut numbers) = many(5);
    let step = |served: &mut Served, numbers: &mut Numbers| served.encode(numbers).0;
    served.resolve_again(&BTreeSet::from(["b".to_owned()]));
    assert!(step(&mut served, &mut numbers).is_empty());
    served.resolve_again(&BTreeSet::from(["a".to_owned()]));
    numbers.nodes.insert(0, "before".to_owned());
    let moved = step(&mut served, &mut numbers);
    assert_eq!((moved.len(), served.encodings()), (5, 10));
    served.encode_again(&moved);
    numbers.nodes.insert(0, "before that".to_owned());
    assert_eq!(step(&mut served, &mut numbers), moved);
}

#[test]
fn hostile_claims_are_told_once_and_again_when_they_return() {
    let claim = |name: &str| {
        objects(&format!(
            "{{kind: Service, metadata: {{name: {name}}}, spec: {{clusterIP: 10.96.0.7, ports: [{{port: 80}}]}}}}"
        ))
        .remove(0)
    };
    let (mut served, mut numbers) = (Served::default(), Numbers::default());
    let (good, (bad, object)) = (claim("web"), claim("zzz"));
    let mut say = |identity: &Identity, object: Option<Object>| {
        let mut changes = Changes::default();
        changes.set(identity.clone(), object);
        take(&mut served, changes, &mut numbers).1.len()
    };
    assert_eq!(say(&good.0, Some(good.1.clone())), 0);
    let told = [Some(object.clone()), Some(object.clone()), None, Some(object.clone()), Some(object)];
    assert_eq!(told.map(|object| say(&bad, object)), [1, 0, 0, 1, 0]);
}
