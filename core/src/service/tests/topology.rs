//! Which endpoints topology hints, reachability and nearness leave: kube-proxy's cases in our own words.

use super::*;
use crate::wire::feed::{ENDPOINT_FOR_NODE, FLAG_INTERNAL_LOCAL, FLAG_NEAREST};

const HINTED: u8 = UP | ENDPOINT_FOR_NODE;

fn zoned(node: u32, address: &str, conditions: u8, zones: &'static [&'static str]) -> Backend {
    Backend { zones, ..backend(node, address, conditions, &[1, 1]) }
}

/// What node 1 in `own` chooses from, by the last part of each address.
fn chosen(own: &str, flags: u8, backends: &[Backend]) -> BTreeSet<String> {
    let mut memory = Memory::new(16);
    let mut table = memory.table();
    table.apply(&Update::Home(Home { zone: zone(own), domain: 0 })).unwrap();
    apply(&mut table, &Def { flags, ..web(backends) }).unwrap();
    drawn(&mut table, &request(TCP, "10.96.0.1", 80), 1).iter().map(|text| short(text)).collect()
}

fn short(selection: &str) -> String {
    let address = selection.split(' ').nth(1).unwrap_or(selection);
    address.rsplit('.').next().unwrap_or_default().to_string()
}

#[test]
fn t8_zone_hints_count_only_when_every_ready_endpoint_has_one() {
    let four = |third: &'static [&'static str], conditions| {
        [
            zoned(2, "10.1.2.3", UP, &["zone-a"]),
            zoned(3, "10.1.2.4", UP, &["zone-b"]),
            zoned(4, "10.1.2.5", UP, third),
            zoned(5, "10.1.2.6", conditions, &["zone-a"]),
        ]
    };
    let all = set(&["3", "4", "5", "6"]);
    assert_eq!(chosen("zone-a", 0, &four(&["zone-c"], UP)), set(&["3", "6"]));
    // One that is not ready is left out, and no reason to ignore the hints.
    assert_eq!(chosen("zone-a", 0, &four(&["zone-c"], 0)), set(&["3"]));
    assert_eq!(chosen("zone-a", 0, &four(&[], UP)), all, "one has no hint");
    assert_eq!(chosen("zone-d", 0, &four(&["zone-c"], UP)), all, "none is for this zone");
    assert_eq!(chosen("", 0, &four(&["zone-c"], UP)), all, "this node has no zone");
}

#[test]
fn t8_an_endpoint_may_be_hinted_for_several_zones() {
    let backends = [
        zoned(2, "10.1.2.3", UP, &["zone-a", "zone-b", "zone-c"]),
        zoned(3, "10.1.2.4", UP, &["zone-b", "zone-c"]),
        zoned(4, "10.1.2.5", UP, &["zone-b", "zone-d"]),
        zoned(5, "10.1.2.6", UP, &["zone-c"]),
    ];
    assert_eq!(chosen("zone-a", 0, &backends), set(&["3"]));
    assert_eq!(chosen("zone-b", 0, &backends), set(&["3", "4", "5"]));
}

#[test]
fn t8_the_only_ones_of_the_zone_being_unready_is_no_filter() {
    let backends = [zoned(2, "10.1.2.3", UP, &["zone-b"]), zoned(3, "10.1.2.4", 0, &["zone-a"])];
    assert_eq!(chosen("zone-a", 0, &backends), set(&["3"]));
}

#[test]
fn t8_node_hints_come_before_zone_hints_and_fall_back_to_them() {
    let near = zoned(1, "10.1.2.3", HINTED, &["zone-a"]);
    let zone = zoned(2, "10.1.2.4", HINTED, &["zone-a"]);
    let far = zoned(3, "10.1.2.5", HINTED, &["zone-b"]);
    assert_eq!(chosen("zone-a", 0, &[near.clone(), zone.clone(), far.clone()]), set(&["3"]));
    assert_eq!(chosen("zone-a", 0, &[zone.clone(), far.clone()]), set(&["4"]), "none on this node");
    assert_eq!(chosen("zone-c", 0, &[zone.clone(), far]), set(&["4", "5"]), "nor in this zone");
    // One ready endpoint without a node hint turns that level off.
    let plain = zoned(3, "10.1.2.5", UP, &["zone-a"]);
    assert_eq!(chosen("zone-a", 0, &[near, zone, plain]), set(&["3", "4", "5"]));
}

#[test]
fn t9_hints_are_ignored_under_a_local_policy() {
    let backends = [zoned(1, "10.1.2.3", UP, &["zone-b"]), zoned(2, "10.1.2.4", UP, &["zone-a"])];
    assert_eq!(chosen("zone-a", FLAG_INTERNAL_LOCAL, &backends), set(&["3"]));
    assert_eq!(chosen("zone-a", FLAG_INTERNAL_LOCAL, &backends[1..]), set(&["NotLocal"]));
}

#[test]
fn t10_a_new_zone_counts_once_the_source_says_everything_again() {
    let mut memory = Memory::new(16);
    let mut table = memory.table();
    let def = web(&[zoned(2, "10.1.2.3", UP, &["zone-a"]), zoned(3, "10.1.2.4", UP, &["zone-b"])]);
    for (own, expected) in [("zone-a", "3"), ("zone-b", "4")] {
        table.apply(&Update::Home(Home { zone: zone(own), domain: 0 })).unwrap();
        apply(&mut table, &def).unwrap();
        let drawn = drawn(&mut table, &request(TCP, "10.96.0.1", 80), 1);
        assert_eq!(drawn.iter().map(|text| short(text)).collect::<BTreeSet<_>>(), set(&[expected]));
    }
}

/// What node 1 chooses when the others are as far as `cost` says.
fn chosen_at(
    def: &Def,
    tried: Option<(u32, IpAddr)>,
    cost: &dyn Fn(u32, IpAddr) -> Option<u32>,
) -> BTreeSet<String> {
    let mut memory = Memory::new(16);
    let mut table = memory.table();
    table.apply(&Update::Home(Home { zone: zone("zone-a"), domain: 0 })).unwrap();
    apply(&mut table, def).unwrap();
    let mut rng = Rng::new([9; 32]);
    let request = request(TCP, "10.96.0.1", 80);
    (0..200)
        .map(|_| match table.select(Instant::ZERO, &request, &Place { own: 1, cost, tried }, &mut rng) {
            Selection::Endpoint { address, .. } => short(&std::format!("- {address}")),
            other => std::format!("{other:?}"),
        })
        .collect()
}

#[test]
fn what_cannot_be_reached_is_left_out_while_there_is_another() {
    let three =
        web(&[zoned(2, "10.1.2.3", UP, &[]), zoned(3, "10.1.2.4", UP, &[]), zoned(4, "10.1.2.5", UP, &[])]);
    assert_eq!(chosen_at(&three, None, &|node, _| (node != 3).then_some(0)), set(&["3", "5"]));
    assert_eq!(chosen_at(&three, None, &|_, _| None), set(&["3", "4", "5"]), "none can: any may be back");
    let tried = Some((2, ip("10.1.2.3")));
    assert_eq!(chosen_at(&three, tried, &|_, _| Some(0)), set(&["4", "5"]));
    let one = web(&[zoned(2, "10.1.2.3", UP, &[])]);
    assert_eq!(chosen_at(&one, tried, &|_, _| Some(0)), set(&["3"]), "there is no other");
    // Being reached comes before hints.
    let hinted = web(&[zoned(2, "10.1.2.3", UP, &["zone-a"]), zoned(3, "10.1.2.4", UP, &["zone-b"])]);
    assert_eq!(chosen_at(&hinted, None, &|node, _| (node != 2).then_some(0)), set(&["4"]));
}

#[test]
fn the_nearest_is_taken_where_the_service_asks_for_it() {
    let cost = |node, _: IpAddr| {
        [Some(0), Some(30), Some(20), Some(20), None].get(node as usize - 1).copied().flatten()
    };
    let backends = [
        zoned(2, "10.1.2.3", UP, &[]),
        zoned(3, "10.1.2.4", UP, &[]),
        zoned(4, "10.1.2.5", UP, &[]),
        zoned(5, "10.1.2.6", UP, &[]),
    ];
    let near = Def { flags: FLAG_NEAREST, ..web(&backends) };
    assert_eq!(chosen_at(&near, None, &cost), set(&["4", "5"]));
    assert_eq!(chosen_at(&web(&backends), None, &cost), set(&["3", "4", "5"]));
}

#[test]
fn a4_affinity_stays_with_an_endpoint_that_cannot_be_reached() {
    let mut memory = Memory::new(16);
    let mut table = memory.table();
    let def = web(&[zoned(2, "10.1.2.3", UP, &[]), zoned(3, "10.1.2.4", UP, &[])]);
    apply(&mut table, &Def { affinity: 60, ..def }).unwrap();
    let (mut rng, request) = (Rng::new([9; 32]), request(TCP, "10.96.0.1", 80));
    let mut choose = |place: &Place<'_>| table.select(Instant::ZERO, &request, place, &mut rng);
    let first = choose(&place(1));
    assert!(matches!(first, Selection::Endpoint { .. }));
    for _ in 0..50 {
        assert_eq!(choose(&Place { cost: &|_, _| None, ..place(1) }), first);
    }
}
