//! Everything about a machine's network that a program could leave behind, as text that can be compared.
//!
//! Not here: files; scenarios look at those themselves.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::machine::Machine;
use crate::{Context, Result, ensure};

/// One look at a machine: topic to text.
#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<&'static str, String>);

/// What is looked at, and the command that shows it. Counters and ages are left out by the commands themselves.
const TOPICS: [(&str, &[&str]); 8] = [
    ("addresses", &["ip", "-o", "addr"]),
    ("links", &["ip", "-o", "link"]),
    ("routes", &["ip", "route", "show", "table", "all"]),
    ("routes6", &["ip", "-6", "route", "show", "table", "all"]),
    ("rules", &["ip", "rule"]),
    ("iptables", &["iptables-save"]),
    // It looks at tables that are loaded, and loads none.
    ("iptables-legacy", &["iptables-legacy-save"]),
    ("nft", &["nft", "--stateless", "list", "ruleset"]),
];

impl Snapshot {
    /// Looks at the machine now.
    ///
    /// # Errors
    /// When a command fails.
    pub fn of(machine: &Machine) -> Result<Self> {
        let mut topics = BTreeMap::new();
        for (topic, command) in TOPICS {
            let text = machine.ns.exec(command)?;
            // iptables-save writes the time into comments; IPv6 neighbours are not state anyone sets.
            let lines = text.lines().filter(|line| !line.starts_with('#')).map(uncounted).collect::<Vec<_>>();
            topics.insert(topic, lines.join("\n"));
        }
        topics.insert("sysctls", machine.ns.enter(sysctls)??);
        Ok(Self(topics))
    }

    /// Fails with the lines that differ.
    ///
    /// # Errors
    /// When anything differs.
    pub fn must_equal(&self, later: &Self) -> Result {
        let mut differences = Vec::new();
        for (topic, before) in &self.0 {
            let after = later.0.get(topic).context(*topic)?;
            let lost = before.lines().filter(|line| !after.lines().any(|other| other == *line));
            let left = after.lines().filter(|line| !before.lines().any(|other| other == *line));
            differences.extend(lost.map(|line| format!("{topic}: gone: {line}")));
            differences.extend(left.map(|line| format!("{topic}: new: {line}")));
        }
        ensure!(differences.is_empty(), "the machine's network changed:\n{}", differences.join("\n"));
        Ok(())
    }
}

/// The line of a chain without its counters.
fn uncounted(line: &str) -> &str {
    let chain =
        line.strip_suffix(']').and_then(|line| line.rsplit_once(" [")).filter(|_| line.starts_with(':'));
    chain.map_or(line, |(chain, _)| chain)
}

/// Every readable IPv4 and IPv6 setting, one per line.
fn sysctls() -> Result<String> {
    let mut lines = Vec::new();
    for root in ["/proc/sys/net/ipv4", "/proc/sys/net/ipv6/conf"] {
        collect(Path::new(root), &mut lines)?;
    }
    lines.sort();
    Ok(lines.join("\n"))
}

fn collect(directory: &Path, lines: &mut Vec<String>) -> Result {
    for entry in fs::read_dir(directory).context(directory.display())? {
        let path = entry.context(directory.display())?.path();
        if path.is_dir() {
            collect(&path, lines)?;
        } else if let Ok(value) = fs::read_to_string(&path) {
            // Write-only and secret files are unreadable by design and stay out.
            lines.push(format!("{}={}", path.display(), value.trim()));
        }
    }
    Ok(())
}
