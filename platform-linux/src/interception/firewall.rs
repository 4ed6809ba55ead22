//! Accepting our packets in the chains of others, where an accept of our own table would not count.
//!
//! Docker drops forwarded packets that are not its own: `FORWARD` has policy DROP, and since Docker 28 the raw
//! table drops what goes to a container's address from elsewhere than its bridge. DOCKER-USER is the chain that
//! Docker leaves to administrators. A rule goes into the flavour of iptables (nft or legacy) that holds the
//! chain; a host may have both. Where a FORWARD chain drops by policy and there is no DOCKER-USER, FORWARD itself
//! is taken. Nothing is touched where nothing drops. Every rule is written into the [`Ledger`] first.
//!
//! Looking does not touch either: `iptables-legacy` is not even run where the legacy tables are not loaded, as
//! running it would load them. Bounds: at most seven rules per flavour and family.

use std::fs;

use super::ledger::{Ledger, Touched};
use super::tool::{self, ToolError};
use super::{Plan, SetupError, entry};

/// Connections that the kernel led straight to an endpoint, by an entry point or because they were handed over.
const LED: [&str; 4] = ["-m", "connmark", "--mark", entry::MARKED];

/// One place where iptables rules can live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Flavour {
    v6: bool,
    legacy: bool,
}

/// Looks for chains that drop our packets and puts an accept into each; tells what was added.
pub(super) fn ensure(plan: &Plan, ledger: &mut Ledger) -> Result<Vec<Touched>, SetupError> {
    let mut added = Vec::new();
    for v6 in [false, true] {
        if !plan.mesh.iter().any(|mesh| mesh.address.is_ipv6() == v6) {
            continue;
        }
        let flavours = [Flavour { v6, legacy: false }, Flavour { v6, legacy: true }];
        for rule in needed(&flavours, plan)? {
            if !is_there(&rule)? {
                ledger.record(rule.clone()).map_err(SetupError::State)?;
                change("-I", &rule)?;
                added.push(rule);
            }
        }
    }
    Ok(added)
}

/// The accepts that one family needs.
fn needed(flavours: &[Flavour], plan: &Plan) -> Result<Vec<Touched>, ToolError> {
    let (inbound, outbound) = (["-i", &plan.device], ["-o", &plan.device]);
    // Clients of entry points come by devices that nobody forwards from otherwise.
    let entered = !plan.services.entries.ways.is_empty();
    let led = entered || !plan.services.handed.is_empty();
    let mut rules = Vec::new();
    let mut docker = false;
    for flavour in flavours {
        if flavour.chain("filter", "DOCKER-USER")?.is_some() {
            docker = true;
            rules.push(flavour.accept("filter", "DOCKER-USER", &inbound));
            // Answers to what left the mesh here, and clients of entry points.
            if entered || !plan.services.exits.is_empty() {
                rules.push(flavour.accept("filter", "DOCKER-USER", &outbound));
            }
            if led {
                rules.push(flavour.accept("filter", "DOCKER-USER", &LED));
            }
        }
    }
    for flavour in flavours {
        let drops = flavour.chain("filter", "FORWARD")?.is_some_and(|chain| chain.policy_drops);
        if drops && !docker {
            rules.push(flavour.accept("filter", "FORWARD", &inbound));
            rules.push(flavour.accept("filter", "FORWARD", &outbound));
            if led {
                rules.push(flavour.accept("filter", "FORWARD", &LED));
            }
        }
        if flavour.chain("raw", "PREROUTING")?.is_some_and(|chain| chain.policy_drops || chain.rule_drops) {
            rules.push(flavour.accept("raw", "PREROUTING", &inbound));
        }
    }
    Ok(rules)
}

struct Chain {
    policy_drops: bool,
    rule_drops: bool,
}

impl Flavour {
    fn accept(self, table: &str, chain: &str, matches: &[&str]) -> Touched {
        let rule = matches.iter().chain(&["-j", "ACCEPT"]).map(|word| (*word).to_owned()).collect();
        Touched::Rule { tool: self.tool(), table: table.to_owned(), chain: chain.to_owned(), rule }
    }

    fn tool(self) -> String {
        format!(
            "{}-{}",
            if self.v6 { "ip6tables" } else { "iptables" },
            if self.legacy { "legacy" } else { "nft" }
        )
    }

    /// What the chain does; `None` when there is none.
    fn chain(self, table: &str, chain: &str) -> Result<Option<Chain>, ToolError> {
        if self.legacy { self.legacy_chain(table, chain) } else { self.nft_chain(table, chain) }
    }

    fn nft_chain(self, table: &str, chain: &str) -> Result<Option<Chain>, ToolError> {
        let family = if self.v6 { "ip6" } else { "ip" };
        let output = tool::run("nft", &["list", "chain", family, table, chain], "")?;
        if !output.status.success() {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let policy_drops = text.contains("policy drop;");
        let rule_drops = text.lines().any(|line| line.split_whitespace().next_back() == Some("drop"));
        Ok(Some(Chain { policy_drops, rule_drops }))
    }

    fn legacy_chain(self, table: &str, chain: &str) -> Result<Option<Chain>, ToolError> {
        let names = if self.v6 { "ip6_tables_names" } else { "ip_tables_names" };
        let loaded = fs::read_to_string(format!("/proc/thread-self/net/{names}")).unwrap_or_default();
        if !loaded.lines().any(|line| line == table) {
            return Ok(None);
        }
        let output = tool::run(&self.tool(), &["-w", "5", "-t", table, "-S", chain], "")?;
        if !output.status.success() {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let policy_drops = text.lines().any(|line| line == format!("-P {chain} DROP"));
        let rule_drops = text.lines().any(|line| line.ends_with("-j DROP"));
        Ok(Some(Chain { policy_drops, rule_drops }))
    }
}

/// Takes a rule out wherever it stands; tells whether it stood anywhere.
pub(super) fn remove(rule: &Touched) -> Result<bool, ToolError> {
    let mut found = false;
    while is_there(rule)? {
        change("-D", rule)?;
        found = true;
    }
    Ok(found)
}

fn is_there(rule: &Touched) -> Result<bool, ToolError> {
    let Touched::Rule { tool, table, chain, rule } = rule else { return Ok(false) };
    Ok(tool::run(tool, &words("-C", table, chain, rule), "")?.status.success())
}

fn change(verb: &str, rule: &Touched) -> Result<(), ToolError> {
    let Touched::Rule { tool, table, chain, rule } = rule else { return Ok(()) };
    tool::demand(tool, &words(verb, table, chain, rule), "").map(drop)
}

fn words<'r>(verb: &'r str, table: &'r str, chain: &'r str, rule: &'r [String]) -> Vec<&'r str> {
    let mut all = vec!["-w", "5", "-t", table, verb, chain];
    all.extend(rule.iter().map(String::as_str));
    all
}

/// Every rule that an agent with this device could have added, for a `cleanup` without a ledger.
pub(super) fn candidates(device: &str) -> Vec<Touched> {
    let mut all = Vec::new();
    for v6 in [false, true] {
        for legacy in [false, true] {
            let flavour = Flavour { v6, legacy };
            let (inbound, outbound) = (["-i", device], ["-o", device]);
            for (table, chain, matches) in [
                ("filter", "DOCKER-USER", &inbound[..]),
                ("filter", "DOCKER-USER", &outbound),
                ("filter", "DOCKER-USER", &LED),
                ("filter", "FORWARD", &inbound[..]),
                ("filter", "FORWARD", &outbound),
                ("filter", "FORWARD", &LED),
                ("raw", "PREROUTING", &inbound[..]),
            ] {
                if matches!(flavour.chain(table, chain), Ok(Some(_))) {
                    all.push(flavour.accept(table, chain, matches));
                }
            }
        }
    }
    all
}
