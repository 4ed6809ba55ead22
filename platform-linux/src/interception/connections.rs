//! Having the kernel forget connections that it translates otherwise than the plan says.
//!
//! A connection keeps the destination that its first packet was given. When a VIP is taken over or given back, one
//! that works stays as it is until it ends; one that cannot end (UDP), and one that has had no answer yet, begins
//! anew with its next packet. One look; nothing is kept. Bounds: as long as the kernel's table of connections.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

use super::Plan;
use super::entry::EntryPoint;
use crate::netlink::{Connection, Netfilter};
use crate::prefix::Prefix;

/// Forgets what has to begin anew; tells how many connections that were. `left`: where the kernel was to lead
/// connections before, and is not any more.
pub(super) fn forget_stale(plan: &Plan, left: &HashSet<EntryPoint>) -> io::Result<usize> {
    let expected = Expected::new(plan, left);
    let mut netfilter = Netfilter::open()?;
    let mut forgotten = 0;
    for mesh in &plan.mesh {
        for connection in netfilter.connections(mesh.prefix.is_ipv6())? {
            if expected.is_stale(&connection) {
                netfilter.forget(&connection)?;
                forgotten += 1;
            }
        }
    }
    Ok(forgotten)
}

/// Where connections ought to go.
struct Expected<'p> {
    plan: &'p Plan,
    left: &'p HashSet<EntryPoint>,
    /// VIPs that are routed as they are.
    routed: HashSet<IpAddr>,
    ranges: Vec<Prefix>,
    /// Stand-ins in use.
    shadows: HashSet<IpAddr>,
}

impl<'p> Expected<'p> {
    fn new(plan: &'p Plan, left: &'p HashSet<EntryPoint>) -> Self {
        let (hosts, ranges): (Vec<Prefix>, _) =
            plan.services.routed.iter().partition(|prefix| **prefix == Prefix::host(prefix.address()));
        let routed = hosts.iter().map(Prefix::address).collect();
        Self { plan, left, routed, ranges, shadows: plan.services.shadowed.values().copied().collect() }
    }

    /// Whether it leads to an endpoint that still serves what its client asked for.
    fn is_handed(&self, at: &EntryPoint, c: &Connection) -> bool {
        let endpoints = self.plan.services.handed.get(at);
        endpoints.is_some_and(|all| all.contains(&SocketAddr::new(c.from, c.from_port)))
    }

    fn is_stale(&self, connection: &Connection) -> bool {
        let Connection { to, from, .. } = connection;
        let begins_anew = connection.protocol == libc::IPPROTO_UDP as u8 || !connection.replied;
        let at = EntryPoint { address: *to, protocol: connection.protocol, port: connection.to_port };
        let wrong = if self.is_handed(&at, connection) {
            false
        } else if self.left.contains(&at) {
            from != to
        } else if let Some(shadow) = self.plan.services.shadowed.get(to) {
            from != shadow
        } else if self.routed.contains(to) || self.ranges.iter().any(|range| range.contains(*to)) {
            from != to
        } else {
            // Nobody but us translates anything into the mesh.
            let in_mesh = |ip| self.plan.mesh.iter().any(|mesh| mesh.prefix.contains(ip));
            in_mesh(*from) && !in_mesh(*to) && !self.shadows.contains(from)
        };
        begins_anew && wrong
    }
}
