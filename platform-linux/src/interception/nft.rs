//! Our own nftables table.
//!
//! Loaded as one file, hence atomically, in place of whatever it was. It keeps pods' addresses from being
//! masqueraded by others (a SNAT of a packet to its own source, before their chains run) and clamps the MSS of
//! connections through the tunnel. Stateless; whether the table is still as loaded is told by comparing its
//! listing. It cannot overrule a drop of another chain: that is [`super::firewall`]'s.

use super::Plan;
use super::tool::{self, ToolError};

/// The table's name, in the families `ip` and, when the plan has IPv6, `ip6`.
pub const TABLE: &str = "edgemesh";

/// TCP and IP header without options.
const HEADERS_V4: u32 = 40;
const HEADERS_V6: u32 = 60;

/// The families that the plan needs a table in.
pub(super) fn families(plan: &Plan) -> Vec<&'static str> {
    let has = |v6| plan.mesh.iter().any(|mesh| mesh.address.is_ipv6() == v6);
    [("ip", has(false)), ("ip6", has(true))]
        .into_iter()
        .filter(|(_, has)| *has)
        .map(|(family, _)| family)
        .collect()
}

/// The file that makes the tables.
pub(super) fn script(plan: &Plan) -> String {
    families(plan)
        .into_iter()
        .map(|family| {
            let mss = plan.mtu.saturating_sub(if family == "ip" { HEADERS_V4 } else { HEADERS_V6 });
            table(family, &plan.device, mss, &masquerade(plan, family))
        })
        .collect()
}

/// What leaves the mesh through this node takes this node's address; before the rule that keeps sources.
fn masquerade(plan: &Plan, family: &str) -> String {
    let v6 = family == "ip6";
    let exits: Vec<String> =
        plan.services.exits.iter().filter(|ip| ip.is_ipv6() == v6).map(ToString::to_string).collect();
    match plan.mesh.iter().find(|mesh| mesh.address.is_ipv6() == v6) {
        Some(mesh) if !exits.is_empty() => format!(
            "    {family} saddr {} {family} daddr {{ {} }} oifname != \"{}\" masquerade\n",
            mesh.prefix,
            exits.join(", "),
            plan.device
        ),
        _ => String::new(),
    }
}

fn table(family: &str, device: &str, mss: u32, masquerade: &str) -> String {
    let clamp = |direction: &str| {
        format!(
            "    {direction} \"{device}\" tcp flags & (syn | rst) == syn tcp option maxseg size > {mss} \
             tcp option maxseg size set {mss}\n"
        )
    };
    // Made and deleted first: «delete» of a table that is not there would refuse the whole file.
    format!(
        "table {family} {TABLE}\n\
         delete table {family} {TABLE}\n\
         table {family} {TABLE} {{\n\
         \x20 chain postrouting {{\n\
         \x20   type nat hook postrouting priority 90; policy accept;\n\
         {masquerade}\
         \x20   oifname \"{device}\" snat to {family} saddr\n\
         \x20 }}\n\
         \x20 chain forward {{\n\
         \x20   type filter hook forward priority mangle; policy accept;\n\
         {}{}\
         \x20 }}\n\
         }}\n",
        clamp("oifname"),
        clamp("iifname"),
    )
}

/// Loads the tables of the plan, whole or not at all.
pub(super) fn load(plan: &Plan) -> Result<(), ToolError> {
    tool::demand("nft", &["-f", "-"], &script(plan)).map(drop)
}

/// How `nft` prints a table now; `None` when there is none.
pub(super) fn listing(table: &str, family: &str) -> Result<Option<String>, ToolError> {
    match tool::demand("nft", &["-s", "list", "table", family, table], "") {
        Ok(text) => Ok(Some(text)),
        Err(ToolError::Refused { message, .. }) if message.contains("No such file") => Ok(None),
        Err(e) => Err(e),
    }
}

/// Removes a table of ours; tells whether there was one.
pub(super) fn delete(table: &str, family: &str) -> Result<bool, ToolError> {
    if listing(table, family)?.is_none() {
        return Ok(false);
    }
    tool::demand("nft", &["delete", "table", family, table], "").map(|_| true)
}
