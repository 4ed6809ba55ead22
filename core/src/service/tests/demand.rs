//! The table as a cache.

use super::*;
use crate::wire::ask;

fn define(table: &mut Table<'_>, name: &str, vip: &str, node: u32) -> Result<(), TableError> {
    let kind = ServiceKind::ClusterIp([vip.parse().unwrap()].into_iter().collect());
    let endpoint = EndpointDef {
        node,
        address: "172.17.0.2".parse().unwrap(),
        vip: None,
        hostname: "",
        conditions: 1,
        zones: &[],
    };
    for update in [
        Update::Service(ServiceDef { namespace: "d", name, kind, affinity_secs: 0, flags: 0 }),
        Update::Targets(&[]),
        Update::Endpoint(endpoint),
        Update::Commit,
    ] {
        table.apply_or(&update, &mut |table| {
            let before = table.used();
            table.evict(before, 1).is_some()
        })?;
    }
    Ok(())
}

fn with_small_table(show: impl FnOnce(Table<'_>)) {
    let mut memory = Memory::new(4);
    show(memory.table());
}

fn names(table: &Table<'_>) -> std::vec::Vec<std::string::String> {
    let mut names: std::vec::Vec<_> =
        table.services().map(|s| s.name().bytes().map(char::from).collect()).collect();
    names.sort();
    names
}

#[test]
fn the_service_used_longest_ago_makes_room_but_never_an_own_one() {
    with_small_table(|mut table| {
        let room = 4;
        assert_eq!(define(&mut table, "own", "10.0.0.1", 1), Ok(()));
        assert_eq!(table.evict(table.used(), 1), None, "a whole table gives nothing up");
        table.hold_on_demand();
        for (n, name) in ["a", "b", "c"].into_iter().enumerate() {
            assert_eq!(define(&mut table, name, &std::format!("10.0.1.{n}"), 2), Ok(()));
        }
        assert_eq!(table.len(), room);
        table.touch_address("10.0.1.0".parse().unwrap());
        assert_eq!(define(&mut table, "e", "10.0.1.9", 2), Ok(()));
        assert_eq!(names(&table), ["a", "c", "e", "own"], "b was used longest ago");
        let before = table.used();
        for vip in ["10.0.1.0", "10.0.1.2", "10.0.1.9"] {
            table.touch_address(vip.parse().unwrap());
        }
        assert_eq!(table.evict(before, 1), None, "all are used now");
        assert_eq!(table.evict(table.used(), 1), Some(ask::service("d".bytes(), "a".bytes())));
    });
}

#[test]
fn a_restored_list_is_whole_and_all_of_it_is_asked_for_again() {
    with_small_table(|mut table| {
        table.hold_on_demand();
        table.apply(&Update::Begin).unwrap();
        assert_eq!(define(&mut table, "a", "10.0.1.1", 2), Ok(()));
        table.touch_address("10.0.1.1".parse().unwrap());
        assert_eq!(define(&mut table, "b", "10.0.1.2", 2), Ok(()));
        table.apply(&Update::End).unwrap();
        assert_eq!(names(&table), ["a", "b"]);
        assert_eq!(table.next_held(), None);
        table.hear_again();
        let mut asked: std::vec::Vec<_> = core::iter::from_fn(|| table.next_held()).collect();
        asked.sort();
        let mut keys = ["a", "b"].map(|name| ask::service("d".bytes(), name.bytes()));
        keys.sort();
        assert_eq!(asked, keys);
        table.remove_asked(ask::address("10.0.1.1".parse().unwrap()));
        assert_eq!(names(&table), ["b"]);
        table.remove_asked(ask::service("d".bytes(), "B".bytes()));
        assert!(table.is_empty());
    });
}
