//! The entry points as a file for `nft`.

use std::collections::HashMap;
use std::fmt::Write;
use std::hash::Hash;
use std::net::SocketAddr;

use super::{Entries, EntryPoint, Way};
use crate::prefix::Prefix;

/// The table's name, in the families `ip` and `ip6`.
pub const TABLE: &str = "edgemesh-entry";
/// The bit of a connection's mark that says that it was led straight to an endpoint: other chains may have to let it
/// through.
pub const MARK: u32 = 0x1000_0000;
/// How iptables asks for it.
pub(in super::super) const MARKED: &str = "0x10000000/0x10000000";
/// Of the hash that keeps a client at its endpoint: any will do, so long as it stays.
const SEED: &str = "0x65646765";

/// Chains that several entry points share, numbered in the order in which they are met.
struct Chains<K> {
    prefix: &'static str,
    known: HashMap<K, usize>,
    text: String,
}

impl<K: Eq + Hash> Chains<K> {
    fn new(prefix: &'static str) -> Self {
        Self { prefix, known: HashMap::new(), text: String::new() }
    }

    /// The chain's name; `rule` writes it the first time.
    fn name(&mut self, key: K, rule: impl FnOnce() -> String) -> String {
        let number = self.known.len() + 1;
        let mut fresh = false;
        let number = *self.known.entry(key).or_insert_with(|| {
            fresh = true;
            number
        });
        let name = format!("{}-{number}", self.prefix);
        if fresh {
            let _ = write!(self.text, "  chain {name} {{\n    {}\n  }}\n", rule());
        }
        name
    }
}

/// What the maps of one family hold.
struct Elements {
    /// Who may come in.
    restricted: Vec<String>,
    /// Where clients from off this node go.
    local: Vec<String>,
    /// Where everybody else goes.
    to: Vec<String>,
}

/// The file that makes the table of a family, `ip` or `ip6`, in place of what it was; without an entry point of
/// that family it is only removed. Packets from `device` are the mesh's own and none of this table's business.
pub(in super::super) fn script(entries: &Entries, family: &str, device: &str) -> String {
    let v6 = family == "ip6";
    let mut local: Chains<(u8, &[SocketAddr], bool)> = Chains::new("local");
    let mut from: Chains<&[Prefix]> = Chains::new("from");
    let mut elements = Elements { restricted: Vec::new(), local: Vec::new(), to: Vec::new() };
    for (point, way) in entries.ways.iter().filter(|(point, _)| point.address.is_ipv6() == v6) {
        let key = key(point);
        if let Some(sources) = &way.sources {
            elements.restricted.push(format!("{key} : {}", guard(sources, family, &mut from)));
        }
        if let Some(endpoints) = &way.outside {
            let chain = (point.protocol, endpoints.as_slice(), way.sticky);
            elements.local.push(match endpoints.len() {
                0 => format!("{key} : drop"),
                _ => format!("{key} : goto {}", local.name(chain, || balance(point, way, endpoints, family))),
            });
        }
        elements.to.push(format!("{key} : {}", place(way.to)));
    }
    let mut out = format!("table {family} {TABLE}\ndelete table {family} {TABLE}\n");
    if !elements.to.is_empty() {
        let _ = write!(out, "table {family} {TABLE} {{\n{}{}", from.text, local.text);
        out.push_str(&body(entries, &elements, family, device));
        out.push_str("}\n");
    }
    out
}

/// Maps and base chains. Nothing else looks at a connection once it was translated here.
fn body(entries: &Entries, elements: &Elements, family: &str, device: &str) -> String {
    let address = if family == "ip6" { "ipv6_addr" } else { "ipv4_addr" };
    let map = |name: &str, data: &str, elements: &[String]| match elements {
        [] => String::new(),
        some => format!(
            "  map {name} {{\n    type {address} . inet_proto . inet_service : {data}\n    elements = {{ {} }}\n  }}\n",
            some.join(",\n      ")
        ),
    };
    let key = format!("{family} daddr . meta l4proto . th dport");
    let when = |elements: &[String], rule: String| if elements.is_empty() { String::new() } else { rule };
    let restricted = when(&elements.restricted, format!("    {key} vmap @restricted\n"));
    let outside: Vec<String> = entries.outside.iter().map(|name| format!("\"{name}\"")).collect();
    let from_outside = format!("    iifname {{ {} }} {key} vmap @local\n", outside.join(", "));
    let local = if outside.is_empty() { String::new() } else { when(&elements.local, from_outside) };
    let to = format!("    meta l4proto {{ tcp, udp, sctp }} dnat {family} to {key} map @to\n");
    format!(
        "{}{}{}  chain prerouting {{\n    type nat hook prerouting priority -110; policy accept;\n    \
         iifname \"{device}\" return\n{restricted}{local}{to}  }}\n  chain output {{\n    type nat hook output \
         priority -110; policy accept;\n{restricted}{to}  }}\n",
        map("restricted", "verdict", &elements.restricted),
        map("local", "verdict", &elements.local),
        map("to", &format!("{address} . inet_service"), &elements.to),
    )
}

fn key(point: &EntryPoint) -> String {
    format!("{} . {} . {}", point.address, protocol(point.protocol), point.port)
}

fn protocol(number: u8) -> &'static str {
    match number {
        17 => "udp",
        132 => "sctp",
        _ => "tcp",
    }
}

fn place(to: SocketAddr) -> String {
    format!("{} . {}", to.ip(), to.port())
}

/// The verdict on a client of an entry point that is not open to everybody. An empty list lets nobody in.
fn guard<'s>(sources: &'s [Prefix], family: &str, chains: &mut Chains<&'s [Prefix]>) -> String {
    if sources.is_empty() {
        return "drop".to_owned();
    }
    let all: Vec<String> = sources.iter().map(ToString::to_string).collect();
    let rule = || format!("{family} saddr != {{ {} }} drop", all.join(", "));
    format!("jump {}", chains.name(sources, rule))
}

/// A uniformly random one of the endpoints, or always the same one for a client.
fn balance(point: &EntryPoint, way: &Way, endpoints: &[SocketAddr], family: &str) -> String {
    let count = endpoints.len();
    let number = if way.sticky {
        format!("jhash {family} saddr mod {count} seed {SEED}")
    } else {
        format!("numgen random mod {count}")
    };
    let map: Vec<String> =
        endpoints.iter().enumerate().map(|(n, endpoint)| format!("{n} : {}", place(*endpoint))).collect();
    let protocol = protocol(point.protocol);
    let mark = format!("ct mark set ct mark or {MARK:#x}");
    format!("meta l4proto {protocol} {mark} dnat {family} to {number} map {{ {} }}", map.join(", "))
}
