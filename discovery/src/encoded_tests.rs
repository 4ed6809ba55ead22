use super::*;
use crate::replica::Replica;
use crate::testing::{A, A_SLICE, B, NS, Numbers, encoded};
use edgemesh_core::wire::control::updates;

/// What differs between two tables.
fn step(from: &Encoded, to: &Encoded) -> Step {
    let mut step = Step::default();
    let mut changed = from.clone();
    changed.set_home(to.home, &mut step);
    changed.set_namespaces(&to.namespaces, &mut step);
    for key in from.services.keys().chain(to.services.keys()) {
        if from.services.get(key) != to.services.get(key) {
            step.service(key.clone());
        }
    }
    step
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
fn steps_lead_from_any_table_to_any_other() {
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
            let step = step(from, to);
            for run in to.way(&step) {
                replica.apply_run(&run).unwrap();
            }
            assert_eq!(replica.take_step(), step, "the receiver knows what changed");
            assert_eq!(replica.table(), to);
            assert_eq!(replica.table().digest(), to.digest());
            assert_eq!(from == to, step.is_empty());
            assert_eq!(from == to, from.digest() == to.digest());
        }
    }
    let (both, one) = (encoded(&[A, B], &mut numbers), encoded(&[B], &mut numbers));
    let removal = one.way(&step(&both, &one));
    assert_eq!(
        removal.iter().map(|r| show(r)).collect::<Vec<_>>().concat(),
        ["Remove { namespace: \"n\", name: \"a\" }"]
    );
}

#[test]
fn steps_one_after_the_other_are_one() {
    let mut numbers = Numbers::default();
    let versions = [
        encoded(&[A, A_SLICE], &mut numbers),
        encoded(&[A, B], &mut numbers),
        encoded(&[A, A_SLICE, NS], &mut numbers),
        encoded(&[A, B], &mut numbers),
    ];
    for (from, to) in [(0, 2), (1, 3), (0, 3)] {
        let mut all = Step::default();
        for pair in versions[from..=to].windows(2) {
            all.merge(&step(&pair[0], &pair[1]));
        }
        assert_eq!(all.is_whole(), to == 3, "a namespace goes at the end");
        let mut replica = Replica::new(versions[from].clone());
        replica.apply_run(&versions[to].way(&all).concat()).unwrap();
        assert_eq!(replica.table(), &versions[to]);
    }
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
fn t10_a_new_zone_says_everything_again_and_is_no_part_of_what_is_signed() {
    let table = encoded(&[A, A_SLICE, NS], &mut Numbers::default());
    let mut near = table.clone();
    near.set_home(Home { zone: 7, domain: 0 }, &mut Step::default());
    assert_eq!(near.digest(), table.digest());
    assert!(step(&near, &near).is_empty());
    for (old, new) in [(&table, &near), (&near, &table)] {
        let mut replica = Replica::new(old.clone());
        let runs = new.way(&step(old, new)).concat();
        let first = updates(&runs).next();
        assert_eq!(first, Some(Ok(Update::Home(new.home()))));
        replica.apply_run(&runs).unwrap();
        assert_eq!(replica.table(), new);
    }
}
