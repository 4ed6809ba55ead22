//! A server without a directory, on the cloud node's machine: nodes come by it, and nothing of it has to be believed.

use serde_json::Value;

use crate::mesh::Mesh;
use crate::nat::Policy;
use crate::product::{Agent, AgentOptions, SERVER_PORT, SERVICE_CIDR};
use crate::relay::Relay;
use crate::topology::{CLOUD_NODE, SERVER};
use crate::wait::{secs, wait_until};
use crate::workloads::Transfer;
use crate::{Context, Result, ensure};

use super::reach::answers;
use super::transfer::{download_from, upload_to};

/// The sites' nodes reach each other by relays only.
const APART: Policy =
    Policy { no_udp_between_sites: true, no_udp_to_cloud_node: false, no_udp: false, no_server: false };

/// A relay that is a member.
fn start_relay(mesh: &mut Mesh) -> Result<Relay> {
    let token = mesh.server.invitation(&mesh.lab.server, &["--relay", "eu"])?;
    let mut relay = Relay::start(&mesh.lab.cloud, &token)?;
    relay.wait_ready(&mesh.lab.cloud)?;
    Ok(relay)
}

/// Starts agents that know the relay first, then the server, and waits until they are ready.
fn join_by_relay(mesh: &mut Mesh, nodes: &[&str]) -> Result {
    let servers = [CLOUD_NODE, SERVER].map(|address| format!("{address}:{SERVER_PORT}"));
    for node in nodes {
        let words = ["--node", node, "--advertise", &servers[0], "--advertise", &servers[1]];
        let token = mesh.server.invitation(&mesh.lab.server, &words)?;
        let more = vec!["--service-cidr".to_owned(), SERVICE_CIDR.to_owned()];
        mesh.join_with(node, AgentOptions { token, source: Some("server".to_owned()), more })?;
    }
    mesh.agents.iter_mut().try_for_each(Agent::wait_ready)
}

/// Datagrams that the relay, or the server, has relayed so far.
fn relayed(answer: Result<(u16, String)>) -> Result<u64> {
    let status: Value = serde_json::from_str(&answer?.1).context("status")?;
    status["relayedDatagrams"].as_u64().context("relayedDatagrams")
}

/// By which relay the server says that a node's control connection comes.
fn via(mesh: &Mesh, node: &str) -> Result<Option<String>> {
    let nodes: Vec<Value> =
        serde_json::from_str(&mesh.server.command(&mesh.lab.server, &["nodes", "--json"])?)
            .context("nodes")?;
    let found = nodes.iter().find(|each| each["node"] == node).context(format!("node {node}"))?;
    Ok(found["via"].as_str().map(str::to_owned))
}

fn wait_via(mesh: &Mesh, node: &str, relay: Option<&str>, limit: u64) -> Result {
    wait_until(&format!("{node} is connected by {relay:?}"), secs(limit), || {
        let seen = via(mesh, node)?;
        ensure!(seen.as_deref() == relay, "{node} is connected by {seen:?}");
        Ok(())
    })
}

/// Everything both ways between a1 and b1.
fn both_ways(mesh: &Mesh) -> Result {
    let (a, b) = (mesh.pod("a1")?, mesh.pod("b1")?);
    answers(a, "park", "b1-p1")?;
    answers(b, "own", "a1-p1")?;
    download_from(a, "park", &mesh.small, 60)?;
    upload_to(a, "park", b, &mesh.small, 60)
}

/// The sites do not reach the directory's server at all: they join and speak by a relay that holds no key but its own,
/// and what they say to each other does not leave it, not even when the directory is away.
pub(super) fn meets_there(mesh: &mut Mesh) -> Result {
    let relay = start_relay(mesh)?;
    mesh.lab.inet.set_policy(Policy { no_server: true, ..APART })?;
    join_by_relay(mesh, &["a1", "b1"])?;
    for node in ["a1", "b1"] {
        wait_via(mesh, node, Some("relay/eu"), 5)?;
    }
    both_ways(mesh)?;
    let (agent, node) = mesh.agent("a1")?;
    agent.wait_path(node, "b1", &["relay"], secs(5))?;
    ensure!(relayed(relay.admin(&mesh.lab.cloud, "/status"))? > 10_000, "the relay relayed next to nothing");
    let server = relayed(mesh.server.admin(&mesh.lab.server, "/status"))?;
    ensure!(server == 0, "the directory's server relayed {server} datagrams");
    mesh.server.process.kill();
    both_ways(mesh).context("the directory is away")?;
    mesh.server.restart(&mesh.lab.server)?;
    wait_via(mesh, "a1", Some("relay/eu"), 30)?;
    both_ways(mesh).context("the directory is back")
}

/// One node comes by the relay, by TCP only in the end, the other by the directory's server.
pub(super) fn meets_elsewhere(mesh: &mut Mesh) -> Result {
    let relay = start_relay(mesh)?;
    mesh.lab.inet.set_policy(APART)?;
    join_by_relay(mesh, &["a1"])?;
    mesh.join("b1")?;
    mesh.agents.iter_mut().try_for_each(Agent::wait_ready)?;
    wait_via(mesh, "a1", Some("relay/eu"), 5)?;
    wait_via(mesh, "b1", None, 5)?;
    both_ways(mesh)?;
    let (agent, node) = mesh.agent("a1")?;
    agent.wait_path(node, "b1", &["relay"], secs(5))?;
    for seen in [relay.admin(&mesh.lab.cloud, "/status"), mesh.server.admin(&mesh.lab.server, "/status")] {
        let count = relayed(seen)?;
        ensure!(count > 10_000, "one of both relayed {count} datagrams only");
    }
    mesh.lab.inet.set_policy(Policy { no_udp: true, ..APART })?;
    let (agent, node) = mesh.agent("a1")?;
    agent.wait_path(node, "b1", &["relay-tcp"], secs(30))?;
    both_ways(mesh).context("without UDP")
}

/// The relay dies under a download, which goes on over the directory's server; it comes back, its nodes with it, and is
/// put out under another download.
pub(super) fn dies(mesh: &mut Mesh) -> Result {
    let mut relay = start_relay(mesh)?;
    mesh.lab.inet.set_policy(APART)?;
    join_by_relay(mesh, &["a1", "b1"])?;
    let transfer = Transfer::start(mesh.pod("a1")?, "relay-dies", "http://park/at/1m/small.bin")?;
    transfer.wait_progress(secs(10))?;
    relay.process.kill();
    transfer.wait_progress(secs(15)).context("over the directory's server")?;
    wait_via(mesh, "a1", None, 15)?;
    wait_via(mesh, "b1", None, 15)?;
    transfer.finish(&mesh.small.sum, secs(120))?;
    relay.restart(&mesh.lab.cloud)?;
    relay.wait_ready(&mesh.lab.cloud).context("again, without a token")?;
    for node in ["a1", "b1"] {
        wait_via(mesh, node, Some("relay/eu"), 60)?;
    }
    both_ways(mesh)?;
    let transfer = Transfer::start(mesh.pod("a1")?, "relay-out", "http://park/at/1m/small.bin")?;
    transfer.wait_progress(secs(10))?;
    mesh.server.command(&mesh.lab.server, &["revoke", "--node", "relay/eu"])?;
    relay.process.wait_log("is refused (Revoked)", secs(15))?;
    for node in ["a1", "b1"] {
        wait_via(mesh, node, None, 15)?;
    }
    transfer.finish(&mesh.small.sum, secs(120))?;
    let ready = relay.admin(&mesh.lab.cloud, "/readyz")?;
    ensure!(ready.0 == 503, "a relay that was put out is ready: {ready:?}");
    both_ways(mesh).context("the relay is out")
}
