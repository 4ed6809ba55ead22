//! What the service feed costs.

use std::time::Instant;

use crate::machine::Machine;
use crate::mesh::Mesh;
use crate::wait::{secs, wait_until};
use crate::{Context, Result, ensure, fail};

/// Packets of the control connection at the node's own interface, from the IP header on.
const COUNTERS: &str = "add table inet lab_cost
add chain inet lab_cost in { type filter hook input priority 0; }
add chain inet lab_cost out { type filter hook output priority 0; }
add rule inet lab_cost in tcp sport 20004 counter
add rule inet lab_cost out tcp dport 20004 counter";

/// IP bytes of the control connection so far, both ways.
fn counted(node: &Machine) -> Result<u64> {
    let listing = node.check(&["nft", "list", "table", "inet", "lab_cost"])?;
    let bytes: Vec<u64> = listing
        .split("bytes ")
        .skip(1)
        .filter_map(|rest| rest.split_whitespace().next()?.parse().ok())
        .collect();
    if bytes.len() == 2 { Ok(bytes.iter().sum()) } else { fail(format!("no two counters in {listing}")) }
}

/// Two idle minutes of a node that is in step: at most 1,024 bytes a minute on the wire, headers and pings included.
pub(super) fn idle_cost(mesh: &mut Mesh) -> Result {
    mesh.join("a1")?;
    mesh.agent_mut("a1")?.0.wait_ready()?;
    let node = mesh.lab.node("a1")?;
    for rule in COUNTERS.lines() {
        node.ns.exec(&[&["nft"], &rule.split(' ').collect::<Vec<_>>()[..]].concat())?;
    }
    // From one ping to another: then the minutes are whole periods, and what came before the first is over.
    let mut last = counted(node)?;
    let idle_since = wait_until("a ping", secs(40), || {
        let now = counted(node)?;
        ensure!(now != last, "still {now} bytes");
        last = now;
        Ok(Instant::now())
    })?;
    let before = wait_until("its answer", secs(10), || {
        let (before, now) = (std::mem::replace(&mut last, counted(node)?), last);
        ensure!(idle_since.elapsed() > secs(3) && before == now, "{now} bytes");
        Ok(before)
    })?;
    wait_until("two minutes are over", secs(150), || {
        ensure!(idle_since.elapsed() >= secs(123), "{:?}", idle_since.elapsed());
        Ok(())
    })?;
    let bytes = counted(node)?.checked_sub(before).context("counters ran backwards")?;
    ensure!(bytes >= 100, "{bytes} bytes in two minutes: nothing notices a dead connection");
    ensure!(bytes <= 2 * 1_024, "{bytes} bytes in two idle minutes");
    println!("      feed/idle-cost: {bytes} bytes in 120 s");
    mesh.agent_mut("a1")?.0.wait_ready()
}
