//! Against a plain map: any history of updates leaves the table that its last definitions describe (row S16),
//! and nothing leaks.

use super::*;
use crate::rng::Rng;
use proptest::prelude::*;

fn def() -> impl Strategy<Value = Def> {
    let backend = (0u32..3, 0u8..4, 0u8..8, 0u16..3, proptest::option::of(0u8..3)).prop_map(
        |(node, host, conditions, port, vip)| Backend {
            zones: &[],
            node,
            address: IpAddr::from([10, 0, 0, host + 1]),
            vip: vip.map(|v| IpAddr::from([242, 128, 0, v])),
            conditions,
            ports: vec![port, 80],
        },
    );
    let vips = proptest::collection::vec((0u8..6).prop_map(|v| IpAddr::from([10, 96, 0, v])), 0..2);
    (0u8..2, 0u8..4, vips, 0u8..3, proptest::collection::vec(backend, 0..5)).prop_map(
        |(namespace, name, vips, flags, backends)| Def {
            namespace: std::format!("ns{namespace}"),
            name: std::format!("a-name-that-is-longer-than-one-block-{name}"),
            vips,
            ports: vec![(Protocol::Tcp, 80), (Protocol::Udp, 53)],
            flags,
            affinity: 0,
            backends,
        },
    )
}

#[derive(Clone, Debug)]
enum Op {
    Define(Def),
    Abandon(Def),
    Remove(u8, u8),
    List(Vec<Def>),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => def().prop_map(Op::Define),
        1 => def().prop_map(Op::Abandon),
        2 => (0u8..2, 0u8..4).prop_map(|(a, b)| Op::Remove(a, b)),
        1 => proptest::collection::vec(def(), 0..4).prop_map(Op::List),
    ]
}

fn check(table: &Table<'_>, model: &BTreeMap<(String, String), Def>) {
    assert_eq!(table.len(), model.len());
    assert_eq!(table.endpoint_count(), model.values().map(|d| d.backends.len()).sum::<usize>());
    assert_eq!(table.services().count(), model.len());
    for ((namespace, name), def) in model {
        let service = table.service(namespace, &name.to_uppercase()).unwrap();
        assert_eq!(service.vips().collect::<Vec<_>>(), def.vips);
        assert_eq!(service.endpoints().count(), def.backends.len());
        for (view, b) in service.endpoints().zip(&def.backends) {
            assert_eq!((view.node(), view.address(), view.vip()), (b.node, b.address, b.vip));
            assert_eq!((view.conditions(), view.target(0).unwrap_or(0)), (b.conditions, b.ports[0]));
        }
        let ports: Vec<_> = service.ports().map(|p| (p.protocol(), p.port())).collect();
        assert_eq!(ports, def.ports);
    }
    for v in 0..6 {
        let vip = IpAddr::from([10, 96, 0, v]);
        let owned = |d: &&Def| d.vips.contains(&vip) && d.flags & FLAG_NO_PROXY == 0;
        assert_eq!(table.is_vip(vip), model.values().any(|d| owned(&d)));
    }
    for (node, host, port) in (0..3).flat_map(|n| (1..5).flat_map(move |h| (0..3).map(move |p| (n, h, p)))) {
        let address = IpAddr::from([10, 0, 0, host]);
        let mut here =
            model.values().flat_map(|d| &d.backends).filter(|b| b.node == node && b.address == address);
        let expected = if port != 0 && here.clone().any(|b| b.ports[0] == port) {
            Serves::Port
        } else if here.any(|b| b.vip.is_some()) {
            Serves::Headless
        } else {
            Serves::Nothing
        };
        assert_eq!(table.serves(node, TCP, address, port), expected);
    }
    for v in 0..3 {
        let vip = IpAddr::from([242, 128, 0, v]);
        let expected = model.values().flat_map(|d| &d.backends).any(|b| b.vip == Some(vip));
        assert_eq!(table.endpoint_of_vip(vip).is_some(), expected);
    }
}

/// Whether every selection is one that the row T1 and T3 rules allow.
fn check_selection(table: &mut Table<'_>, model: &BTreeMap<(String, String), Def>) {
    let mut rng = Rng::new([5; 32]);
    for v in 0..6 {
        let vip = IpAddr::from([10, 96, 0, v]);
        let owners: Vec<_> =
            model.values().filter(|d| d.vips.contains(&vip) && d.flags & FLAG_NO_PROXY == 0).collect();
        for _ in 0..8 {
            let request = Request { protocol: TCP, vip, port: 80, client: vip };
            let got = table.select(Instant::ZERO, &request, &place(1), &mut rng);
            let allowed = owners.iter().any(|d| allowed(d, got));
            assert!(allowed || (owners.is_empty() && got == Selection::NotAVip), "{got:?} {owners:?}");
        }
    }
}

fn allowed(def: &Def, got: Selection) -> bool {
    let serving = |b: &&Backend| b.ports[0] != 0;
    let ready = |b: &&Backend| b.conditions & ENDPOINT_READY != 0;
    let draining = |b: &&Backend| b.conditions & 7 == DRAINING;
    let local = |b: &&Backend| def.flags & FLAG_INTERNAL_LOCAL == 0 || b.node == 1;
    let all: Vec<_> = def.backends.iter().filter(serving).collect();
    let near: Vec<_> = all.iter().copied().filter(local).collect();
    let mut usable: Vec<_> = near.iter().copied().filter(ready).collect();
    if usable.is_empty() {
        usable = near.iter().copied().filter(draining).collect();
    }
    match got {
        Selection::Endpoint { node, address, port, .. } => {
            usable.iter().any(|b| (b.node, b.address, b.ports[0]) == (node, address, port))
        }
        Selection::NotLocal => usable.is_empty() && all.iter().any(|b| ready(b) || draining(b)),
        Selection::NoEndpoints => usable.is_empty() && !all.iter().any(|b| ready(b) || draining(b)),
        Selection::UnknownPort | Selection::NotAVip => false,
    }
}

/// Steps of updates in any order, most of them out of place.
fn step() -> impl Strategy<Value = (u8, u8, Vec<u8>)> {
    (0u8..10, 0u8..6, proptest::collection::vec(any::<u8>(), 0..12))
}

fn apply_step(table: &mut Table<'_>, (kind, n, bytes): &(u8, u8, Vec<u8>)) {
    let names = ["a", "", "a-name-that-is-longer-than-one-block", "B", "käse", "c"];
    let name = names[usize::from(*n)];
    let address = IpAddr::from([10, 0, *n, bytes.first().copied().unwrap_or(127)]);
    let kind_of = match n {
        0 => ServiceKind::Headless,
        1 => ServiceKind::ExternalName(name),
        _ => ServiceKind::ClusterIp(
            [address, IpAddr::from([127, 0, 0, *n])].into_iter().take(bytes.len() % 3).collect(),
        ),
    };
    let head =
        ServiceDef { namespace: names[bytes.len() % 6], name, kind: kind_of, affinity_secs: 0, flags: 0 };
    let endpoint =
        EndpointDef { node: 1, address, vip: Some(address), hostname: name, conditions: *n, zones: &[] };
    let _ = table.apply(&match kind {
        0 => Update::Begin,
        1 | 2 => Update::Service(head),
        3 => Update::Port(PortDef { name, protocol: Protocol::Sctp, port: 1 }),
        4 => Update::Targets(bytes),
        5 => Update::Endpoint(endpoint),
        6 => Update::Commit,
        7 => Update::Remove { namespace: names[bytes.len() % 6], name },
        8 => Update::Namespace(name),
        _ => Update::End,
    });
}

proptest! {
    /// Whatever comes in whatever order, nothing panics and nothing is lost for ever.
    #[test]
    fn any_steps_leak_nothing(steps in proptest::collection::vec(step(), 0..200)) {
        let mut memory = Memory::new(3);
        let mut table = memory.table();
        for step in &steps {
            apply_step(&mut table, step);
            for service in table.services() {
                prop_assert!(table.service(&service.namespace().to_string(), &service.name().to_string()).is_some());
            }
        }
        table.apply(&Update::Begin).unwrap();
        table.apply(&Update::End).unwrap();
        prop_assert_eq!(left_over(&table), [0; 6]);
    }
}

fn left_over(table: &Table<'_>) -> [usize; 6] {
    [
        table.ports.len(),
        table.targets.len(),
        table.endpoints.len(),
        table.services.len(),
        table.namespaces.len(),
        table.names.len(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn s16_any_history_leaves_its_last_definitions(ops in proptest::collection::vec(op(), 1..40)) {
        // Eight services of four endpoints, each in a group of its own, and one that is being built.
        let mut memory = Memory::new(20);
        let mut table = memory.table();
        let mut model = BTreeMap::new();
        let key = |d: &Def| (d.namespace.clone(), d.name.clone());
        for op in ops {
            match op {
                Op::Define(def) => {
                    apply(&mut table, &def).unwrap();
                    model.insert(key(&def), def);
                }
                Op::Abandon(def) => {
                    let head = ServiceDef {
                        namespace: &def.namespace,
                        name: &def.name,
                        kind: ServiceKind::Headless,
                        affinity_secs: 0,
                        flags: 0,
                    };
                    table.apply(&Update::Service(head)).unwrap();
                }
                Op::Remove(namespace, name) => {
                    let name = std::format!("a-name-that-is-longer-than-one-block-{name}");
                    let namespace = std::format!("ns{namespace}");
                    table.apply(&Update::Remove { namespace: &namespace, name: &name }).unwrap();
                    model.remove(&(namespace, name));
                }
                Op::List(defs) => {
                    table.apply(&Update::Begin).unwrap();
                    model.clear();
                    for def in defs {
                        apply(&mut table, &def).unwrap();
                        model.insert(key(&def), def);
                    }
                    table.apply(&Update::End).unwrap();
                }
            }
            check(&table, &model);
            check_selection(&mut table, &model);
        }
        table.apply(&Update::Begin).unwrap();
        table.apply(&Update::End).unwrap();
        prop_assert_eq!(left_over(&table), [0; 6]);
    }
}
