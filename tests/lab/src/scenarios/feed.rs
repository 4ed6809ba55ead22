//! What the service feed costs.

use std::fmt::Write;
use std::fs;
use std::time::Instant;

use crate::machine::Machine;
use crate::manifests::{Service, write_file};
use crate::mesh::Mesh;
use crate::product::{Agent, AgentOptions};
use crate::wait::{secs, wait_until};
use crate::{Context, Result, ensure, fail};

use super::beside::{is_in_mode, kube_proxy_for};
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

/// A node that holds what it uses opens the entry points of Services that it never used, tells of others when it is
/// asked, reaches those of its domain without a tunnel, and beside another proxy takes each with the first answer about
/// its name.
pub(super) fn on_demand_ways(mesh: &mut Mesh) -> Result {
    let manifests = mesh.server.manifests().to_owned();
    let far = |name, last: u8| {
        let service = Service::new(name, [10, 96, 0, last].into()).port("TCP", "http", 80, 8080);
        service.endpoint("b1", [172, 17, 0, 2].into())
    };
    let lan = Service::new("lan", [10, 96, 0, 123].into()).port("UDP", "who", 7100, 7100);
    let lan = lan.endpoint("a2", mesh.lab.a2.address);
    let all = [
        far("door", 120).node_port(30_095),
        far("told", 121),
        far("asked", 122),
        far("by-pod", 124),
        far("by-node", 125),
        lan,
    ];
    for service in &all {
        service.write_to(&manifests)?;
    }
    for node in ["a1", "a2"] {
        let text = format!(
            "apiVersion: v1\nkind: Node\nmetadata:\n  name: {node}\n  labels: {{edgemesh.io/domain: lan}}\n"
        );
        write_file(&manifests, &format!("node-{node}.yaml"), &text)?;
    }
    mesh.join("a2")?;
    mesh.join("b1")?;
    let token = mesh.server.token(&mesh.lab.server, "a1", "24h")?;
    let more = ["--feed", "on-demand", "--service-cidr", "10.96.0.0/16", "--node-ports"].map(str::to_owned);
    mesh.join_with("a1", AgentOptions { token, source: None, more: more.to_vec() })?;
    for node in ["a2", "b1", "a1"] {
        mesh.agent_mut(node)?.0.wait_ready()?;
    }
    let (agent, node) = mesh.agent("a1")?;
    let (outside, client) = (&mesh.lab.nat_a, node.pod(2)?);
    let holds = |name: &str| {
        let services = agent.json(node, "services")?;
        Ok(services.as_array().is_some_and(|all| all.iter().any(|service| service["name"] == name)))
    };
    wait_until("an entry point is open", secs(10), || answers(outside, "192.168.1.11:30095", "b1-p1"))?;
    ensure!(!holds("told")? && !holds("asked")?, "it holds what it never used");
    let explained = agent.command(node, &["explain", "told"])?.success()?;
    ensure!(explained.contains("10.96.0.121") && explained.contains("on b1"), "explain: {explained}");
    let resolved = agent.command(node, &["dns", "asked"])?.success()?;
    ensure!(resolved.contains("10.96.0.122"), "dns: {resolved}");
    let missing = agent.command(node, &["explain", "missing"])?.text();
    ensure!(missing.contains("there is no Service missing in namespace default"), "explain: {missing}");
    let by_address = agent.command(node, &["explain", "10.96.0.124:80"])?.success()?;
    ensure!(by_address.contains("by-pod"), "explain: {by_address}");

    let _lan = mesh.lab.a2.tool("who-lan", &["udp-server", "7100"])?;
    let seen = client.run_tool(&["udp-who", "0", "lan:7100"], secs(20))?;
    ensure!(seen.starts_with(&format!("{}:", node.address)), "an endpoint of the domain sees {seen}");

    kube_proxy_for(node, &all)?;
    is_in_mode(mesh, "shadow")?;
    wait_until("what it holds is taken", secs(3), || {
        answers(client, "by-pod.default.svc.cluster.local", "b1-p1")
    })?;
    ensure!(!holds("by-node")?, "it holds what it never used");
    answers(node, "by-node.default.svc.cluster.local", "b1-p1").context("by name, at the first try")?;
    answers(outside, "192.168.1.11:30095", "b1-p1").context("an entry point beside the proxy")?;
    let explained = agent.command(node, &["explain", "by-node"])?.success()?;
    ensure!(explained.contains("by its stand-in 242.96.0.125"), "explain: {explained}");
    let left = agent.command(node, &["explain", "lan"])?.success()?;
    ensure!(left.contains("is left to kube-proxy in nftables mode"), "explain: {left}");

    mesh.server.process.kill();
    let (agent, node) = mesh.agent("a1")?;
    for command in ["explain", "dns"] {
        wait_until("it is said that nobody can say", secs(10), || {
            let said = agent.command(node, &[command, "never"])?;
            let text = said.text() + &said.stderr;
            ensure!(text.contains("no server says whether it exists"), "{command}: {text}");
            Ok(())
        })?;
    }
    Ok(())
}
