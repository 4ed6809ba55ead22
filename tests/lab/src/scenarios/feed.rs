//! What the service feed costs.

use std::fmt::Write;
use std::fs;
use std::time::Instant;

use crate::machine::Machine;
use crate::manifests::write_file;
use crate::mesh::Mesh;
use crate::product::{Agent, AgentOptions};
use crate::wait::{secs, wait_until};
use crate::{Context, Result, ensure, fail};

use super::reach::answers;

/// Services of a big cluster.
const SERVICES: usize = 10_000;

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

fn vip(number: usize) -> String {
    format!("10.96.{}.{}", 16 + number / 250, 1 + number % 250)
}

/// A Service of the big cluster whose endpoint is the first pod of `node`.
fn service(number: usize, node: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: svc-{number}}}\n\
         spec: {{clusterIP: {}, ports: [{{port: 80}}]}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: svc-{number}-1, labels: {{kubernetes.io/service-name: svc-{number}}}}}\n\
         addressType: IPv4\nports: [{{port: 8080}}]\nendpoints: [{{addresses: [172.17.0.2], nodeName: {node}}}]\n",
        vip(number)
    )
}

fn held(mesh: &Mesh, node: &str) -> Result<usize> {
    let (agent, machine) = mesh.agent(node)?;
    Ok(agent.json(machine, "services")?.as_array().context("services is no array")?.len())
}

/// Among 10,000 Services a1 holds what it serves and what it uses: found by name and by address, changed while held,
/// gone when it is gone, there without a server; what does not exist has no name at once. The cloud node holds all.
pub(super) fn on_demand(mesh: &mut Mesh) -> Result {
    let manifests = mesh.server.manifests().to_owned();
    for (file, numbers) in (0..SERVICES).collect::<Vec<_>>().chunks(500).enumerate() {
        let text = numbers.iter().fold(String::new(), |mut text, number| {
            let _ = text.write_str(&service(*number, "b1"));
            text
        });
        write_file(&manifests, &format!("big-{file}.yaml"), &text)?;
    }
    for node in ["b1", "cloud"] {
        mesh.join(node)?;
    }
    let token = mesh.server.token(&mesh.lab.server, "a1", "24h")?;
    let more = ["--feed", "on-demand", "--service-cidr", "10.96.0.0/16"].map(str::to_owned).to_vec();
    mesh.join_with("a1", AgentOptions { token, source: None, more })?;
    for node in ["b1", "cloud", "a1"] {
        mesh.agent_mut(node)?.0.wait_ready()?;
    }
    wait_until("the cloud node holds all", secs(60), || {
        let held = held(mesh, "cloud")?;
        ensure!(held >= SERVICES, "{held} Services");
        Ok(())
    })?;
    let before = held(mesh, "a1")?;
    ensure!(before < 5, "a1 holds {before} Services before it used any but its own");

    let client = mesh.pod("a1")?;
    answers(client, "svc-7777", "b1-p1").context("by name, at the first try")?;
    for number in [1, 2_500, 9_999] {
        answers(client, &vip(number), "b1-p1").context("by address, at the first try")?;
    }
    let missing = client.check(&["dig", "+time=2", "+tries=1", "nosuch.default.svc.cluster.local"])?;
    ensure!(missing.contains("NXDOMAIN"), "{missing}");
    answers(mesh.pod("cloud")?, "own", "a1-p1").context("a1 serves what it has endpoints of")?;

    write_file(&manifests, "big-15.yaml", &service(7_777, "cloud"))?;
    wait_until("the endpoint is on the cloud node", secs(10), || answers(client, "svc-7777", "cloud-p1"))?;
    let gone = client.check(&["dig", "+time=2", "+tries=1", "svc-7778.default.svc.cluster.local"])?;
    ensure!(gone.contains("NXDOMAIN"), "{gone}");

    let count = held(mesh, "a1")?;
    ensure!(count < 20, "a1 holds {count} Services");
    let memory = |node: &str| mesh.agent(node)?.0.process.rss();
    let (small, big) = (memory("a1")?, memory("cloud")?);
    println!("      feed/on-demand: a1 {count} Services, {small} bytes; the cloud node all, {big} bytes");
    ensure!(small < 16_000_000 && small < big, "{small} bytes resident, {big} with the whole table");

    let snapshot = Agent::state(mesh.lab.node("a1")?).join("services");
    wait_until("what was learnt is on disk", secs(5), || {
        let stored = fs::read(&snapshot).context(snapshot.display())?;
        ensure!(stored.windows(8).any(|name| name == b"svc-7777"), "{} bytes without it", stored.len());
        Ok(())
    })?;
    mesh.server.process.kill();
    let (agent, node) = mesh.agent_mut("a1")?;
    agent.restart(node)?;
    agent.wait_ready().context("without a server")?;
    let client = mesh.pod("a1")?;
    let known = client.check(&["dig", "+time=2", "+tries=1", "svc-7777.default.svc.cluster.local"])?;
    ensure!(known.contains(&vip(7_777)), "{known}");
    let unknown = client.check(&["dig", "+time=2", "+tries=1", "svc-42.default.svc.cluster.local"])?;
    ensure!(unknown.contains("SERVFAIL"), "what nobody can say is no NXDOMAIN: {unknown}");
    Ok(())
}
