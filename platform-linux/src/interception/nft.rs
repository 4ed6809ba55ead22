//! Our own nftables table.
//!
//! Loaded as one file, hence atomically, in place of whatever it was: destinations of what another service proxy
//! claims too, sources, answers without a connection, MSS. No rule depends on its place among those of another chain. Stateless; whether the table
//! is still as loaded is told by comparing its listing. It cannot overrule a drop of another chain: that is
//! [`super::firewall`]'s.

use super::Plan;
use super::tool::{self, ToolError};
use crate::netlink::Netfilter;
use crate::prefix::Prefix;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The table's name, in the families `ip` and, when the plan has IPv6, `ip6`.
pub const TABLE: &str = "edgemesh";

/// TCP and IP header without options.
const HEADERS_V4: u32 = 40;
const HEADERS_V6: u32 = 60;
/// Before the chains of kube-proxy and Docker (`dstnat`, -100). A name with an offset is refused on the hook output.
const DESTINATION_PRIORITY: i32 = -110;
/// Times that our rules are loaded when others change theirs meanwhile.
const LOADS: usize = 3;

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
    families(plan).into_iter().map(|family| table(plan, family)).collect()
}

/// One table: what it holds, then the chains, each of which stands for itself.
fn table(plan: &Plan, family: &str) -> String {
    let parts = [
        shadows(plan, family),
        destinations(family),
        sources(plan, family),
        answers(plan, family),
        forgotten(plan, family),
        segments(plan, family),
    ];
    // Made and deleted first: «delete» of a table that is not there would refuse the whole file.
    format!(
        "table {family} {TABLE}\ndelete table {family} {TABLE}\ntable {family} {TABLE} {{\n{}}}\n",
        parts.concat()
    )
}

/// The stand-ins of VIPs that another service proxy claims too.
fn shadows(plan: &Plan, family: &str) -> String {
    let (kind, v6) = if family == "ip6" { ("ipv6_addr", true) } else { ("ipv4_addr", false) };
    let pairs = plan.services.shadowed.iter().filter(|(vip, _)| vip.is_ipv6() == v6);
    let pairs: Vec<String> = pairs.map(|(vip, shadow)| format!("{vip} : {shadow}")).collect();
    // An empty list would be a syntax error.
    let elements = match pairs.is_empty() {
        true => String::new(),
        false => format!("    elements = {{ {} }}\n", pairs.join(",\n      ")),
    };
    format!("  map shadows {{\n    type {kind} : {kind}\n{elements}  }}\n")
}

/// Gives packets of pods and of this node their destination, before any other proxy: the first rule that translates
/// a connection is the only one.
fn destinations(family: &str) -> String {
    let hook = |name: &str| {
        format!(
            "  chain {name} {{\n    type nat hook {name} priority {DESTINATION_PRIORITY}; policy accept;\n    \
             jump translate\n  }}\n"
        )
    };
    format!(
        "  chain translate {{\n    dnat to {family} daddr map @shadows\n  }}\n{}{}",
        hook("prerouting"),
        hook("output")
    )
}

/// Keeps pods' addresses from being masqueraded by others: a SNAT of a packet to its own source, before their chains
/// run. Only what leaves the mesh through this node takes this node's address.
fn sources(plan: &Plan, family: &str) -> String {
    format!(
        "  chain postrouting {{\n    type nat hook postrouting priority 90; policy accept;\n{}    oifname \"{}\" \
         snat to {family} saddr\n  }}\n",
        masquerade(plan, family),
        plan.device
    )
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

/// Gives answers of UDP servers that are bound to no address the one that was asked, before connection tracking, which
/// knows the connection by it.
fn answers(plan: &Plan, family: &str) -> String {
    let v6 = family == "ip6";
    // One address a port: of several only the server knows which was asked.
    let answering = plan.services.answering.iter().rev().filter(|endpoint| endpoint.is_ipv6() == v6);
    let by_port: BTreeMap<u16, IpAddr> = answering.map(|endpoint| (endpoint.port(), endpoint.ip())).collect();
    let pairs: Vec<String> = by_port.iter().map(|(port, address)| format!("{port} : {address}")).collect();
    match plan.mesh.iter().find(|mesh| mesh.address.is_ipv6() == v6) {
        Some(mesh) if !pairs.is_empty() => format!(
            "  chain answers {{\n    type filter hook output priority raw; policy accept;\n    {family} saddr {} \
             {family} daddr {} {family} saddr set udp sport map {{ {} }}\n  }}\n",
            mesh.address,
            mesh.prefix,
            pairs.join(", ")
        ),
        _ => String::new(),
    }
}

/// Keeps answers of stand-ins from clients that have no connection to them: those would not know the sender, and the
/// answer would take the connection's place. kube-proxy has connections of UDP to stand-ins forgotten, for they lead to
/// no endpoint that it knows. The agent learns of it by the refusal, and puts them back ([`crate::agent`]); not where
/// clients come in by entry points, for it cannot tell whether one did.
fn forgotten(plan: &Plan, family: &str) -> String {
    let v6 = family == "ip6";
    let mesh = plan.mesh.iter().find(|mesh| mesh.address.is_ipv6() == v6);
    let shadow = plan.services.shadowed.values().find(|shadow| shadow.is_ipv6() == v6);
    // All stand-ins are of one quarter of the mesh.
    let quarter = mesh.zip(shadow).and_then(|(mesh, shadow)| Prefix::new(*shadow, mesh.prefix.bits() + 2));
    let Some(quarter) = quarter else { return String::new() };
    let verdict = match (plan.services.entries.ways.is_empty(), v6) {
        (false, _) => "drop",
        (true, false) => "reject with icmp type admin-prohibited",
        (true, true) => "reject with icmpv6 type admin-prohibited",
    };
    let hook = |name: &str| {
        format!(
            "  chain forgotten-{name} {{\n    type filter hook {name} priority mangle; policy accept;\n    \
             jump forgotten\n  }}\n"
        )
    };
    format!(
        "  chain forgotten {{\n    iifname \"{}\" {family} saddr {quarter} meta l4proto udp ct state new \
         {verdict}\n  }}\n{}{}",
        plan.device,
        hook("input"),
        hook("forward")
    )
}

/// Clamps the MSS of connections through the tunnel.
fn segments(plan: &Plan, family: &str) -> String {
    let mss = plan.mtu.saturating_sub(if family == "ip" { HEADERS_V4 } else { HEADERS_V6 });
    let clamp = |direction: &str| {
        format!(
            "    {direction} \"{}\" tcp flags & (syn | rst) == syn tcp option maxseg size > {mss} \
             tcp option maxseg size set {mss}\n",
            plan.device
        )
    };
    format!(
        "  chain forward {{\n    type filter hook forward priority mangle; policy accept;\n{}{}  }}\n",
        clamp("oifname"),
        clamp("iifname")
    )
}

/// Loads a file of tables of ours, whole or not at all, and returns how `list` finds them. While others change rules
/// in between, which would be taken for ours, that is done again, at most [`LOADS`] times.
pub(super) fn load<T>(file: &str, list: impl Fn() -> Result<T, ToolError>) -> Result<T, ToolError> {
    let mut loads = 0;
    loop {
        let before = generation();
        tool::demand("nft", &["-f", "-"], file)?;
        let listed = list()?;
        loads += 1;
        let alone = generation() == before.map(|before| before.wrapping_add(1));
        if alone || loads == LOADS {
            return Ok(listed);
        }
    }
}

/// The kernel's count of changed rules; `None` where it has none.
fn generation() -> Option<u32> {
    Netfilter::open().and_then(|mut netfilter| netfilter.generation()).ok()
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
