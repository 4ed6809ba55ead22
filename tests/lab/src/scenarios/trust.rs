//! Who gets in, and what those who are in may reach.

use std::fs;
use std::net::Ipv4Addr;
use std::time::{SystemTime, UNIX_EPOCH};

use edgemesh_host::token::Token;

use crate::manifests::Service;
use crate::mesh::Mesh;
use crate::product::{Agent, AgentOptions, sum_metric};
use crate::wait::{secs, wait_until};
use crate::workloads::per_connection;
use crate::{Context, Result, ensure};

use super::reach::answers;

/// Refused joins as the server counts them.
fn refused(mesh: &Mesh) -> Result<f64> {
    let (_, metrics) = mesh.server.admin(&mesh.lab.server, "/metrics")?;
    Ok(sum_metric(&metrics, &["edgemesh_", "refused"]))
}

/// Starts a1's agent with a token that must be refused: counted by the server, and both logs name the reason, by
/// one of the given words.
fn must_be_refused(mesh: &mut Mesh, token: &str, reason: &[&str]) -> Result {
    let (before, told) = (refused(mesh)?, mesh.server.process.log().len());
    let options = AgentOptions { token: token.to_owned(), source: None, more: Vec::new() };
    let mut agent = Agent::start(&mesh.lab.a1, options)?;
    wait_until("the server counts a refused join", secs(15), || {
        ensure!(refused(mesh)? > before, "edgemesh_*refused* is still {before}");
        Ok(())
    })?;
    wait_until("both logs name the reason", secs(10), || {
        let (theirs, ours) = (mesh.server.process.log(), agent.process.log());
        let theirs = theirs.get(told..).unwrap_or_default();
        for (whose, log) in [("server", theirs), ("agent", &ours)] {
            let lower = log.to_lowercase();
            let named = reason.iter().any(|word| lower.contains(word));
            ensure!(named, "the {whose}'s log has none of {reason:?}: {}", crate::product::tail(log));
        }
        Ok(())
    })?;
    ensure!(
        agent.admin("/readyz").map_or(true, |answer| answer.0 != 200),
        "an agent without a join is ready"
    );
    forget(mesh, &mut agent)
}

/// Ends a1's agent and removes its key and everything else it has.
fn forget(mesh: &Mesh, agent: &mut Agent) -> Result {
    agent.process.kill();
    Agent::cleanup(&mesh.lab.a1)?.success()?;
    let state = Agent::state(&mesh.lab.a1);
    fs::remove_dir_all(&state).context(state.display())
}

/// A token with another secret, one that has expired, one that another key has used: each refused.
pub(super) fn bad_tokens(mesh: &mut Mesh) -> Result {
    let good = mesh.server.token(&mesh.lab.server, "a1", "24h")?;
    must_be_refused(mesh, &with_another_secret(&good)?, &["wrong", "secret"])?;
    let short = mesh.server.token(&mesh.lab.server, "a1", "1s")?;
    let expires = short.parse::<Token>().context("join token")?.expires;
    wait_until("the token's time is over", secs(10), || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("clock")?.as_secs();
        ensure!(now > expires, "it is {now}, the token is good until {expires}");
        Ok(())
    })?;
    must_be_refused(mesh, &short, &["expire"])?;
    let options = AgentOptions { token: good.clone(), source: None, more: Vec::new() };
    mesh.join_with("a1", options)?;
    mesh.agent_mut("a1")?.0.wait_ready()?;
    // The same key again is fine.
    let (agent, node) = mesh.agent_mut("a1")?;
    agent.restart(node)?;
    agent.wait_ready().context("the same key with the same token")?;
    let mut agent = mesh.agents.pop().context("a1's agent")?;
    forget(mesh, &mut agent)?;
    must_be_refused(mesh, &good, &["another"])
}

/// The same token but for its secret: well-formed, for the right node and server, and not given out by it.
fn with_another_secret(token: &str) -> Result<String> {
    let mut token: Token = token.parse().context("join token")?;
    token.secret = [7; 16];
    Ok(token.to_string())
}

/// The server's answer to a join is lost on the way; the retry with the same token succeeds.
pub(super) fn lost_answer(mesh: &mut Mesh) -> Result {
    mesh.lab.nat_a.lose_answers(true)?;
    mesh.join("a1")?;
    mesh.lab.nat_a.wait_lost_answer()?;
    mesh.lab.nat_a.lose_answers(false)?;
    mesh.agent_mut("a1")?.0.wait_ready()?;
    mesh.join("cloud")?;
    mesh.agent_mut("cloud")?.0.wait_ready()?;
    wait_until("a1 reaches the cloud", secs(10), || answers(mesh.pod("a1")?, "sky", "cloud-p1"))
}

/// a1 believes in Services whose endpoints b1 does not serve: b1 refuses every one, and counts it.
pub(super) fn not_an_endpoint(mesh: &mut Mesh) -> Result {
    let _sshd = per_connection(&mesh.lab.b1, 22, "echo SSH-2.0-secret; cat")?;
    let _router = per_connection(&mesh.lab.nat_b, 23, "echo router-login; cat")?;
    let manifests = mesh.lab.a1.directory().join("forged");
    fs::create_dir_all(&manifests).context(manifests.display())?;
    crate::mesh::service("park")?.write_to(&manifests)?;
    for (name, last, endpoint, port) in [
        ("loop", 30, Ipv4Addr::LOCALHOST, 22),
        ("sshd", 31, mesh.lab.b1.address, 22),
        ("router", 32, Ipv4Addr::new(192, 168, 1, 1), 23),
        ("gateway", 33, crate::topology::POD_GATEWAY, 22),
        ("otherpod", 34, Ipv4Addr::new(172, 17, 0, 2), 22),
    ] {
        Service::new(name, Ipv4Addr::new(10, 96, 0, last))
            .port("TCP", "any", 22, port)
            .endpoint("b1", endpoint)
            .write_to(&manifests)?;
    }
    mesh.join("b1")?;
    let token = mesh.server.token(&mesh.lab.server, "a1", "24h")?;
    let source = Some(format!("manifests:{}", manifests.display()));
    mesh.join_with("a1", AgentOptions { token, source, more: Vec::new() })?;
    for agent in &mut mesh.agents {
        agent.wait_ready()?;
    }
    let client = mesh.pod("a1")?;
    wait_until("b1 is reached at all", secs(15), || answers(client, "park", "b1-p1"))?;
    for name in ["loop", "sshd", "router", "gateway", "otherpod"] {
        let (b1, _) = mesh.agent("b1")?;
        let (a1, _) = mesh.agent("a1")?;
        let before = b1.metric(&["not_an_endpoint"])?;
        let got = client.run_within(&["ncat", "-w", "2", "-i", "2", name, "22"], b"hello\n", secs(20))?;
        ensure!(got.stdout.is_empty(), "{name} answered {:?}", got.text());
        let refused_by_b1 = b1.metric(&["not_an_endpoint"])? > before;
        // No agent sends to an address that cannot be another node's; then it is its own log that tells.
        let refused_by_a1 = name == "loop" && a1.process.log().contains("127.0.0.1");
        ensure!(refused_by_b1 || refused_by_a1, "{name}: nobody counted or told the refusal");
    }
    let (b1, _) = mesh.agent("b1")?;
    let log = b1.process.log();
    let told = log.lines().any(|line| line.contains("node a1 for ") && line.contains(":22: not_an_endpoint"));
    ensure!(told, "b1's log does not name node, address and reason: {}", crate::product::tail(&log));
    answers(client, "park", "b1-p1").context("after the refusals")
}
