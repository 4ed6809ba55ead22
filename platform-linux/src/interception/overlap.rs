//! Does the mesh prefix collide with what this machine already routes?
//!
//! One look at the kernel's tables; nothing is kept or changed. A default route, or its two halves as VPNs write
//! them, leads everywhere and collides with nothing. A wider route that only refuses (`blackhole 10.0.0.0/8`)
//! serves nobody and does not count either.

use std::collections::HashMap;

use super::{Plan, SetupError};
use crate::netlink::{Netlink, Route, RouteKind};
use crate::prefix::Prefix;

/// Refuses a plan whose mesh prefix overlaps a route or address of another device.
///
/// # Errors
/// [`SetupError::Overlap`] naming the route; [`SetupError::Netlink`] when the tables cannot be read.
pub fn check(plan: &Plan) -> Result<(), SetupError> {
    let failed = |e| SetupError::Netlink("reading the machine's routes", e);
    let mut netlink = Netlink::open().map_err(failed)?;
    let names: HashMap<u32, String> =
        netlink.links().map_err(failed)?.into_iter().map(|link| (link.index, link.name)).collect();
    let ours = |route: &Route| names.get(&route.device) == Some(&plan.device);
    let routes = netlink.routes().map_err(failed)?;
    for mesh in &plan.mesh {
        if let Some(route) = routes.iter().find(|route| !ours(route) && collides(route, &mesh.prefix)) {
            return Err(SetupError::Overlap { prefix: mesh.prefix, route: describe(route, &names) });
        }
    }
    Ok(())
}

fn collides(route: &Route, mesh: &Prefix) -> bool {
    let leads_everywhere = route.to.bits() <= if route.to.is_ipv6() { 3 } else { 1 };
    let wider = route.to.bits() < mesh.bits();
    match route.kind {
        RouteKind::Other => false,
        RouteKind::Refusal if wider => false,
        RouteKind::Unicast | RouteKind::Local | RouteKind::Refusal => {
            !leads_everywhere && route.to.overlaps(mesh)
        }
    }
}

/// The route in the words of `ip route`.
pub(super) fn describe(route: &Route, names: &HashMap<u32, String>) -> String {
    let kind = match route.kind {
        RouteKind::Local => "local ",
        RouteKind::Refusal => "blackhole or unreachable ",
        RouteKind::Unicast | RouteKind::Other => "",
    };
    let device = match names.get(&route.device) {
        Some(name) => format!(" dev {name}"),
        None => String::new(),
    };
    let table = match route.table {
        254 => "main".to_owned(),
        255 => "local".to_owned(),
        number => number.to_string(),
    };
    format!("{kind}{}{device} table {table}", route.to)
}
