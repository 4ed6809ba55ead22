//! Addresses that stand for VIPs beside another service proxy.

use super::*;
use crate::wire::control::Network;
use crate::wire::ip::Mesh;

fn mesh(len: u8) -> Mesh {
    let mesh_v6 = "fd00:242::".parse::<core::net::Ipv6Addr>().unwrap().octets();
    Mesh::new(Network { mesh_v4: [242, 0, 0, 0], mesh_v4_len: len, mesh_v6 }, 1)
}

/// The table of a node that has joined.
fn joined(memory: &mut Memory, len: u8) -> Table<'_> {
    let mut table = memory.table();
    table.set_mesh(mesh(len));
    table
}

fn named(name: &str, vips: &[&str]) -> Def {
    let backends = [backend(2, "10.0.0.1", UP, &[8080, 53]), backend(2, "fd01::1", UP, &[8080, 53])];
    Def { name: name.into(), vips: vips.iter().map(|vip| ip(vip)).collect(), ..web(&backends) }
}

#[test]
fn a_stand_in_leads_where_its_vip_does() {
    let mut memory = Memory::new(8);
    let mut table = memory.table();
    let mut def = named("web", &["10.96.0.1", "fd96::1"]);
    apply(&mut table, &def).unwrap();
    assert_eq!(table.shadow_of(ip("10.96.0.1")), None, "this node has not joined");
    table.set_mesh(mesh(8));
    for (vip, shadow, endpoint) in [
        ("10.96.0.1", "242.96.0.1", "2 10.0.0.1 8080"),
        ("fd96::1", "fd00:242:0:0:4000::1", "2 fd01::1 8080"),
    ] {
        assert_eq!(table.shadow_of(ip(vip)), Some(ip(shadow)));
        assert_eq!((table.vip_of(ip(shadow)), table.vip_of(ip(vip))), (Some(ip(vip)), None));
        assert!(table.is_vip(ip(shadow)));
        assert_eq!(drawn(&mut table, &request(TCP, shadow, 80), 1), set(&[endpoint]));
        assert_eq!(drawn(&mut table, &request(TCP, shadow, 81), 1), set(&["UnknownPort"]));
    }
    assert!(table.still_serves(UDP, ip("242.96.0.1"), 80, (2, ip("10.0.0.1"), 53)));
    for other in ["242.96.0.2", "242.32.0.1", "242.0.0.1"] {
        assert!(!table.is_vip(ip(other)), "{other}");
    }
    def.flags = FLAG_NO_PROXY;
    apply(&mut table, &def).unwrap();
    assert_eq!((table.shadow_of(ip("10.96.0.1")), table.is_vip(ip("242.96.0.1"))), (None, false));
}

#[test]
fn of_vips_with_one_stand_in_the_first_has_it() {
    let mut memory = Memory::new(8);
    let mut table = joined(&mut memory, 14);
    apply(&mut table, &named("first", &["10.96.0.1"])).unwrap();
    apply(&mut table, &named("second", &["10.97.0.1"])).unwrap();
    apply(&mut table, &named("third", &["10.97.0.2"])).unwrap();
    assert_eq!(table.shadow_of(ip("10.96.0.1")), Some(ip("242.1.0.1")));
    assert_eq!(table.shadow_of(ip("10.97.0.1")), None);
    assert_eq!(table.shadow_of(ip("10.97.0.2")), Some(ip("242.1.0.2")));
    assert!(table.is_vip(ip("10.97.0.1")), "without a stand-in it is a VIP all the same");
    table.apply(&Update::Remove { namespace: "default", name: "first" }).unwrap();
    assert_eq!(table.shadow_of(ip("10.97.0.1")), Some(ip("242.1.0.1")));
    table.set_mesh(mesh(15));
    assert_eq!(table.shadow_of(ip("10.97.0.1")), None, "a prefix with too little room");
}

#[test]
fn a_vip_that_lies_among_the_stand_ins_takes_none_from_another() {
    let mut memory = Memory::new(8);
    let mut table = joined(&mut memory, 8);
    apply(&mut table, &named("web", &["10.96.0.1"])).unwrap();
    apply(&mut table, &named("hostile", &["242.96.0.1"])).unwrap();
    assert_eq!(table.shadow_of(ip("10.96.0.1")), Some(ip("242.96.0.1")));
    assert_eq!(table.shadow_of(ip("242.96.0.1")), None);
}

#[test]
fn t5_an_internal_policy_does_not_bind_what_leads_to_the_stand_in() {
    let mut memory = Memory::new(8);
    let mut table = memory.table();
    table.set_mesh(mesh(8));
    let backends = [backend(1, "10.0.0.1", UP, &[8080, 53]), backend(2, "10.0.0.2", UP, &[8080, 53])];
    let both = set(&["1 10.0.0.1 8080", "2 10.0.0.2 8080"]);
    apply(&mut table, &Def { flags: FLAG_INTERNAL_LOCAL, ..web(&backends) }).unwrap();
    assert_eq!(drawn(&mut table, &request(TCP, "10.96.0.1", 80), 1), set(&["1 10.0.0.1 8080"]));
    assert_eq!(drawn(&mut table, &request(TCP, "242.96.0.1", 80), 1), both);
    apply(&mut table, &Def { flags: FLAG_INTERNAL_LOCAL, ..web(&backends[1..]) }).unwrap();
    assert_eq!(drawn(&mut table, &request(TCP, "10.96.0.1", 80), 1), set(&["NotLocal"]));
    assert_eq!(drawn(&mut table, &request(TCP, "242.96.0.1", 80), 1), set(&["2 10.0.0.2 8080"]));
}
