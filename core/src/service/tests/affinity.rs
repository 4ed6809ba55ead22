//! `sessionAffinity: ClientIP`.

use super::*;

/// Eight endpoints, one on each node, with a timeout of 100 s.
struct Sticky {
    table: Table<'static>,
    def: Def,
    rng: Rng,
}

impl Sticky {
    fn new() -> Self {
        let memory = std::boxed::Box::leak(std::boxed::Box::new(Memory::new(16)));
        let backends: Vec<_> =
            (1..=8).map(|n| backend(n, &std::format!("10.0.0.{n}"), UP, &[80, 80])).collect();
        let def = Def { affinity: 100, ..web(&backends) };
        let mut sticky = Self { table: memory.table(), def, rng: Rng::new([1; 32]) };
        sticky.define(|_| {});
        sticky
    }

    fn define(&mut self, change: impl FnOnce(&mut Def)) {
        let mut def = self.def.clone();
        change(&mut def);
        apply(&mut self.table, &def).unwrap();
    }

    /// The node that this client's new connection goes to.
    fn at(&mut self, secs: u64, client: &str, protocol: u8) -> u32 {
        let request = Request { client: ip(client), ..request(protocol, "10.96.0.1", 80) };
        let now = Instant::ZERO.after(Duration::from_secs(secs));
        match self.table.select(now, &request, &place(1), &mut self.rng) {
            Selection::Endpoint { node, .. } => node,
            other => panic!("{other:?}"),
        }
    }

    /// Where 60 connections of one client go.
    fn spread(&mut self, each: impl Fn(u64) -> u64) -> usize {
        (0..60).map(|n| self.at(each(n), "172.17.0.2", TCP)).collect::<BTreeSet<_>>().len()
    }
}

#[test]
fn a1_a_client_keeps_its_endpoint_on_each_port() {
    let mut sticky = Sticky::new();
    let first = sticky.at(0, "172.17.0.2", TCP);
    assert!((0..50).all(|_| sticky.at(1, "172.17.0.2", TCP) == first));
    // Another port of the Service chooses for itself.
    let differs = (60..120).any(|n| {
        let client = std::format!("172.17.0.{n}");
        sticky.at(2, &client, TCP) != sticky.at(2, &client, UDP)
    });
    assert!(differs);
    let others: BTreeSet<u32> = (3..60).map(|n| sticky.at(2, &std::format!("172.17.0.{n}"), TCP)).collect();
    assert!(others.len() > 4, "other clients choose for themselves");
}

#[test]
fn a2_each_connection_pushes_the_end_out() {
    let mut sticky = Sticky::new();
    let first = sticky.at(0, "172.17.0.2", TCP);
    assert!((1..20).all(|n| sticky.at(n * 99, "172.17.0.2", TCP) == first));
}

#[test]
fn a3_it_spreads_again_after_the_timeout_and_when_affinity_is_switched_off() {
    let mut sticky = Sticky::new();
    assert!(sticky.spread(|n| n * 102) > 4);
    sticky.define(|def| def.affinity = 0);
    assert!(sticky.spread(|_| 7000) > 4);
    sticky.define(|_| {});
    assert_eq!(sticky.spread(|_| 7001), 1);
}

#[test]
fn a4_a_client_is_moved_when_its_endpoint_leaves_and_stays_moved() {
    let mut sticky = Sticky::new();
    let first = sticky.at(0, "172.17.0.2", TCP);
    sticky.define(|def| def.backends.retain(|b| b.node != first));
    let second = sticky.at(1, "172.17.0.2", TCP);
    assert_ne!(second, first);
    sticky.define(|_| {});
    assert_eq!(sticky.at(2, "172.17.0.2", TCP), second);
    // Only what the policy leaves is eligible.
    sticky.define(|def| def.flags = FLAG_INTERNAL_LOCAL);
    assert_eq!(sticky.at(3, "172.17.0.2", TCP), 1);
}

#[test]
fn s14_a_service_made_anew_remembers_no_client() {
    let mut sticky = Sticky::new();
    let nodes: BTreeSet<u32> = (0..60)
        .map(|_| {
            sticky.table.apply(&Update::Remove { namespace: "default", name: "web" }).unwrap();
            sticky.define(|_| {});
            sticky.at(0, "172.17.0.2", TCP)
        })
        .collect();
    assert!(nodes.len() > 4);
}
