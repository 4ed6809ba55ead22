//! Which endpoints a ClusterIP leads to, case by case as kube-proxy sorts them: conditions, policy and hints
//! together. This node is 1; what depends on an external policy has its own place with NodePorts.

use super::*;
use crate::wire::feed::ENDPOINT_FOR_NODE;

const UNREADY: u8 = ENDPOINT_SERVING;
const DEAD: u8 = ENDPOINT_TERMINATING;
const LOCAL: u8 = FLAG_INTERNAL_LOCAL;
const CLUSTER: u8 = 0;
/// Ready and hinted for the node that it is on.
const NODED: u8 = UP | ENDPOINT_FOR_NODE;

/// A node, its endpoint's conditions, the zones it is hinted for.
type Row = (u32, u8, &'static [&'static str]);

/// What is chosen in zone `own`, by the place of each endpoint in the list.
fn chosen(own: &str, flags: u8, rows: &[Row]) -> String {
    let mut memory = Memory::new(16);
    let mut table = memory.table();
    table.apply(&Update::Home(Home { zone: zone(own), domain: 0 })).unwrap();
    let backends: Vec<_> = (0u8..)
        .zip(rows)
        .map(|(n, (node, conditions, zones))| Backend {
            zones,
            ..backend(*node, &std::format!("10.0.0.{n}"), *conditions, &[80, 80])
        })
        .collect();
    apply(&mut table, &Def { flags, ..web(&backends) }).unwrap();
    let drawn = drawn(&mut table, &request(TCP, "10.96.0.1", 80), 1);
    let place = |text: &String| match text.split(' ').nth(1) {
        Some(address) => address.rsplit('.').next().unwrap_or_default().to_string(),
        None => text.clone(),
    };
    let places: BTreeSet<String> = drawn.iter().map(place).collect();
    places.into_iter().collect::<Vec<_>>().join(" ")
}

fn check(cases: &[(&str, &str, u8, &[Row], &str)]) {
    for (what, own, flags, rows, expected) in cases {
        assert_eq!(chosen(own, *flags, rows), *expected, "{what}");
    }
}

#[test]
fn t1_ready_endpoints_come_first_then_those_that_serve_while_they_end() {
    check(&[
        ("none at all", "", CLUSTER, &[], "NoEndpoints"),
        ("all ready", "", CLUSTER, &[(1, UP, &[]), (2, UP, &[])], "0 1"),
        ("one ready", "", CLUSTER, &[(1, UNREADY, &[]), (2, UP, &[])], "1"),
        ("none ready, none ending", "", CLUSTER, &[(1, UNREADY, &[]), (2, 0, &[])], "NoEndpoints"),
        ("all ending", "", CLUSTER, &[(1, DRAINING, &[]), (2, DRAINING, &[])], "0 1"),
        ("ending beside a ready one", "", CLUSTER, &[(1, DRAINING, &[]), (2, UP, &[])], "1"),
        ("the ready one is elsewhere", "", CLUSTER, &[(2, UP, &[]), (1, DRAINING, &[])], "0"),
        (
            "ready, dead and ending",
            "",
            CLUSTER,
            &[(2, UP, &[]), (1, 0, &[]), (1, DRAINING, &[]), (2, DRAINING, &[])],
            "0",
        ),
        (
            "ending, of which one is in the zone",
            "a",
            CLUSTER,
            &[(2, DRAINING, &["a"]), (3, DRAINING, &["b"])],
            "0 1",
        ),
    ]);
}

#[test]
fn t2_what_ends_and_does_not_serve_is_never_used() {
    check(&[
        ("the only one", "", CLUSTER, &[(1, DEAD, &[])], "NoEndpoints"),
        ("all of them", "", CLUSTER, &[(1, DEAD, &[]), (2, DEAD, &[])], "NoEndpoints"),
        ("beside one that serves", "", CLUSTER, &[(1, DEAD, &[]), (2, DRAINING, &[])], "1"),
        ("the local one", "", LOCAL, &[(1, DEAD, &[]), (2, UP, &[])], "NotLocal"),
        ("local policy, none anywhere", "", LOCAL, &[(1, DEAD, &[]), (2, DEAD, &[])], "NoEndpoints"),
    ]);
}

#[test]
fn t3_a_local_policy_rejects_only_when_there_are_none_anywhere() {
    check(&[
        ("none at all", "", LOCAL, &[], "NoEndpoints"),
        ("all elsewhere", "", LOCAL, &[(2, UP, &[]), (3, UP, &[])], "NotLocal"),
        ("all here", "", LOCAL, &[(1, UP, &[]), (1, UP, &[])], "0 1"),
        ("some here", "", LOCAL, &[(1, UP, &[]), (2, UP, &[])], "0"),
        ("the second is here", "", LOCAL, &[(2, UP, &[]), (1, UP, &[])], "1"),
        ("here it ends", "", LOCAL, &[(1, DRAINING, &[]), (2, UP, &[])], "0"),
        ("here one is ready, one ends", "", LOCAL, &[(1, UP, &[]), (1, DRAINING, &[])], "0"),
        ("elsewhere all end", "", LOCAL, &[(2, DRAINING, &[]), (3, DRAINING, &[])], "NotLocal"),
        ("here it is not ready", "", LOCAL, &[(1, UNREADY, &[]), (2, UP, &[])], "NotLocal"),
        ("not ready anywhere", "", LOCAL, &[(1, UNREADY, &[]), (2, UNREADY, &[])], "NoEndpoints"),
        (
            "an external policy is no matter of a ClusterIP's",
            "",
            CLUSTER,
            &[(2, UP, &[]), (1, UP, &[])],
            "0 1",
        ),
    ]);
}

#[test]
fn t8_hints_count_where_every_ready_endpoint_has_one_and_one_fits() {
    check(&[
        (
            "by zone",
            "a",
            CLUSTER,
            &[(2, UP, &["a"]), (3, UP, &["b"]), (4, UP, &["c"]), (5, UP, &["a"])],
            "0 3",
        ),
        ("one without", "a", CLUSTER, &[(2, UP, &["a"]), (3, UP, &["b"]), (4, UP, &[])], "0 1 2"),
        ("one without, but not ready", "a", CLUSTER, &[(2, UP, &["a"]), (3, UP, &["b"]), (4, 0, &[])], "0"),
        (
            "for several zones",
            "c",
            CLUSTER,
            &[(2, UP, &["a", "b", "c"]), (3, UP, &["b", "d"]), (4, UP, &["c"])],
            "0 2",
        ),
        (
            "only unready ones in the zone",
            "a",
            CLUSTER,
            &[(2, 0, &["a"]), (3, UP, &["b"]), (4, UP, &["c"])],
            "1 2",
        ),
        ("by node before zone", "a", CLUSTER, &[(1, NODED, &["a"]), (2, NODED, &["a"])], "0"),
        ("no node fits: by zone", "a", CLUSTER, &[(2, NODED, &["a"]), (3, NODED, &["b"])], "0"),
        ("no node, no zone", "c", CLUSTER, &[(2, NODED, &["a"]), (3, NODED, &["b"])], "0 1"),
        ("one without a node's", "c", CLUSTER, &[(1, NODED, &["a"]), (2, UP, &["b"])], "0 1"),
        ("node hints without zones", "", CLUSTER, &[(1, NODED, &[]), (2, NODED, &[])], "0"),
        (
            "the node's own is not ready",
            "a",
            CLUSTER,
            &[(1, ENDPOINT_FOR_NODE, &["a"]), (2, NODED, &["a"]), (3, NODED, &["b"])],
            "1",
        ),
    ]);
}

#[test]
fn t9_hints_are_no_matter_of_a_local_policy() {
    let rows: &[Row] = &[(1, UP, &["a"]), (1, UP, &["b"]), (2, UP, &["c"]), (3, UP, &["a"])];
    check(&[("here, whatever the zone", "a", LOCAL, rows, "0 1"), ("as with", "c", LOCAL, rows, "0 1")]);
}

#[test]
fn t10_a_node_without_a_zone_or_in_another_ignores_hints() {
    let rows: &[Row] = &[(2, UP, &["a"]), (3, UP, &["b"])];
    check(&[
        ("no label", "", CLUSTER, rows, "0 1"),
        ("another zone", "c", CLUSTER, rows, "0 1"),
        ("its zone", "b", CLUSTER, rows, "1"),
        ("one endpoint, another zone", "b", CLUSTER, &[(2, UP, &["a"])], "0"),
    ]);
}

#[test]
fn t11_a_traffic_distribution_is_the_hints_that_its_controller_writes() {
    let close: &[Row] = &[(2, UP, &["a"]), (3, UP, &["b"])];
    let same_node: &[Row] = &[(1, NODED, &["a"]), (2, NODED, &["a"]), (3, NODED, &["b"])];
    check(&[
        ("PreferClose and PreferSameZone", "a", CLUSTER, close, "0"),
        ("and from the other zone", "b", CLUSTER, close, "1"),
        ("a zone without endpoints goes anywhere", "c", CLUSTER, close, "0 1"),
        ("PreferSameNode", "a", CLUSTER, same_node, "0"),
        ("PreferSameNode, none here: the zone", "b", CLUSTER, same_node.get(1..).unwrap_or_default(), "1"),
    ]);
}

#[test]
fn t12_published_without_being_ready_is_ready() {
    // With `publishNotReadyAddresses` the controller writes ready, whatever else it writes.
    let published = ENDPOINT_READY | ENDPOINT_TERMINATING;
    check(&[
        ("ending, published", "", CLUSTER, &[(1, published, &[]), (2, UP, &[])], "0 1"),
        ("only published ones", "", CLUSTER, &[(1, ENDPOINT_READY, &[]), (2, published, &[])], "0 1"),
        ("not published", "", CLUSTER, &[(1, UNREADY, &[]), (2, DEAD, &[])], "NoEndpoints"),
    ]);
}
