//! Datagrams that still go where they went before a change (rows Q1 to Q5).
//!
//! The kernel remembers for each client of UDP where its datagrams go, and a client that never stops sending never
//! hears of a change. So what is tracked for an entry point that changed is looked through, and what leads to none of
//! its places any more is forgotten: the client's next datagram is a new one. A place is the ClusterIP, behind which
//! the engine cares for its own flows, or an endpoint of this node that serves, also one that ends. Nothing else is
//! touched, and nothing is looked at when no entry point of UDP changed. Connections of TCP end by themselves.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;

use super::{Entries, EntryPoint, Way};
use crate::netlink::{Connection, Netfilter};

const UDP: u8 = 17;

/// Has the kernel forget what the change from `old` to `new` leaves without a way.
pub(super) fn forget(old: &Entries, new: &Entries) -> io::Result<()> {
    let changed = changed(old, new);
    for v6 in [false, true] {
        if !changed.iter().any(|point| point.address.is_ipv6() == v6) {
            continue;
        }
        let mut netfilter = Netfilter::open()?;
        for connection in netfilter.connections(v6)? {
            if is_stale(&connection, &changed, new) {
                netfilter.forget(&connection)?;
            }
        }
    }
    Ok(())
}

/// Entry points of UDP that are not what they were.
fn changed(old: &Entries, new: &Entries) -> HashSet<EntryPoint> {
    let all = old.ways.keys().chain(new.ways.keys()).filter(|point| point.protocol == UDP);
    all.filter(|point| old.ways.get(point) != new.ways.get(point)).copied().collect()
}

fn is_stale(connection: &Connection, changed: &HashSet<EntryPoint>, new: &Entries) -> bool {
    let point =
        EntryPoint { address: connection.to, protocol: connection.protocol, port: connection.to_port };
    let from = SocketAddr::new(connection.from, connection.from_port);
    changed.contains(&point)
        && match new.ways.get(&point) {
            Some(way) => !leads_to(way, from),
            // Who spoke to this address itself may go on.
            None => from != SocketAddr::new(point.address, point.port),
        }
}

fn leads_to(way: &Way, place: SocketAddr) -> bool {
    way.to == place || way.keep.contains(&place) || way.outside.iter().flatten().any(|at| *at == place)
}
