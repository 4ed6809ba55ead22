//! Who reaches whom by Service name: the three scenarios of the product and their special cases.

use std::net::Ipv4Addr;

use crate::machine::Machine;
use crate::mesh::Mesh;
use crate::product::AgentOptions;
use crate::wait::{secs, wait_until};
use crate::workloads::{self, curl};
use crate::{Context, Result, ensure};

/// `client` asks the Service for its home page and must be answered by `expected`.
pub(super) fn answers(client: &Machine, service: &str, expected: &str) -> Result {
    let said = curl(client, &format!("http://{service}/"))
        .context(format!("{} -> {service} (expected {expected})", client.name))?;
    ensure!(said.trim() == expected, "{} -> {service}: answered by {said:?}, not {expected}", client.name);
    Ok(())
}

/// Scenario 1: two nodes of one subnet.
pub(super) fn same_subnet(mesh: &mut Mesh) -> Result {
    answers(mesh.pod("a1")?, "near", "a2-p1")?;
    answers(mesh.pod("a2")?, "own", "a1-p1")
}

/// Scenario 2: two sites, each behind a NAT, both with the same addresses.
pub(super) fn across_nats(mesh: &mut Mesh) -> Result {
    answers(mesh.pod("a1")?, "park", "b1-p1")?;
    answers(mesh.pod("a2")?, "park", "b1-p1")?;
    answers(mesh.pod("b1")?, "own", "a1-p1")?;
    answers(mesh.pod("b1")?, "near", "a2-p1")
}

/// Scenario 3: from the edge to the cloud and from the cloud to the edge.
pub(super) fn edge_and_cloud(mesh: &mut Mesh) -> Result {
    answers(mesh.pod("a1")?, "sky", "cloud-p1")?;
    answers(mesh.pod("b1")?, "sky", "cloud-p1")?;
    answers(mesh.pod("cloud")?, "park", "b1-p1")?;
    answers(mesh.pod("cloud")?, "own", "a1-p1")
}

/// A pod reaches a Service on its own node, and itself through its own Service.
pub(super) fn own_node(mesh: &mut Mesh) -> Result {
    answers(mesh.lab.a1.pod(2)?, "own", "a1-p1")?;
    answers(mesh.lab.a1.pod(1)?, "own", "a1-p1")?;
    answers(mesh.lab.b1.pod(1)?, "park", "b1-p1")
}

/// A process of the node itself, without a pod, is a client.
pub(super) fn host_client(mesh: &mut Mesh) -> Result {
    answers(&mesh.lab.a1, "park.default.svc.cluster.local", "b1-p1")?;
    answers(&mesh.lab.a1, "own.default.svc.cluster.local", "a1-p1")?;
    answers(&mesh.lab.cloud, "park.default.svc.cluster.local", "b1-p1")
}

/// A server that runs on the node's own network, without a pod, is an endpoint.
pub(super) fn host_network(mesh: &mut Mesh) -> Result {
    answers(mesh.pod("a1")?, "hostweb", "b1")?;
    answers(mesh.pod("b1")?, "hostweb", "b1")?;
    answers(&mesh.lab.b1, "hostweb", "b1")?;
    answers(&mesh.lab.cloud, "hostweb", "b1")
}

/// Two pods of the same address and port on two nodes stand behind one Service, and both are reached.
pub(super) fn twins(mesh: &mut Mesh) -> Result {
    let client = mesh.pod("a1")?;
    let mut seen = Vec::new();
    for _ in 0..64 {
        let said = curl(client, "http://twins/")?;
        if !seen.contains(&said) {
            seen.push(said);
        }
        if seen.len() == 2 {
            break;
        }
    }
    seen.sort();
    ensure!(seen == ["a2-p1\n", "b1-p1\n"], "64 requests were answered by {seen:?}");
    Ok(())
}

/// Docker's MASQUERADE does not hide pods: the connection that leaves for the mesh still has the pod's source.
pub(super) fn pods_keep_their_source(mesh: &mut Mesh) -> Result {
    let node = &mesh.lab.a1;
    let vip = mesh_vip("park");
    let mut transfers = Vec::new();
    for pod in &node.pods {
        let label = format!("source-{}", pod.name);
        transfers.push(workloads::Transfer::start(pod, &label, "http://park/at/2m/small.bin")?);
    }
    for transfer in &transfers {
        transfer.wait_progress(secs(10))?;
    }
    let table = node.ns.exec(&["conntrack", "-L", "-p", "tcp", "-d", &vip.to_string()])?;
    for pod in &node.pods {
        // The reply's destination is the source after all NAT: what the agent is given.
        let hidden = !table.lines().any(|line| {
            line.contains(&format!("src={} dst={vip}", pod.address))
                && line.contains(&format!("dst={} sport=80", pod.address))
        });
        ensure!(!hidden, "{} is not a source of its own:\n{table}", pod.address);
    }
    Ok(())
}

/// The ClusterIP of a Service of [`crate::mesh::services`].
fn mesh_vip(name: &str) -> Ipv4Addr {
    crate::mesh::service(name).ok().and_then(|service| service.cluster_ip).unwrap_or(Ipv4Addr::UNSPECIFIED)
}

/// A Service without endpoints refuses at once, TCP and UDP; so does a port it does not have.
pub(super) fn empty_service_refuses(mesh: &mut Mesh) -> Result {
    let client = mesh.pod("a1")?;
    for url in ["http://empty/", "http://park:81/"] {
        let refused = client.run(&["curl", "-sS", "--max-time", "10", url])?;
        let (code, took) = (refused.status.code(), refused.took.as_secs_f64());
        // curl's exit code 7: connection refused; 28 would be a time-out.
        ensure!(code == Some(7), "{url}: curl ended with {code:?}: {}", refused.stderr);
        ensure!(took < 3.0, "{url}: refused only after {took:.1} s");
    }
    Ok(())
}

/// The agent's own commands tell what users need to know.
pub(super) fn commands(mesh: &mut Mesh) -> Result {
    answers(mesh.pod("a1")?, "park", "b1-p1")?;
    let (agent, node) = mesh.agent("a1")?;
    let status = agent.json(node, "status")?;
    ensure!(status["node"] == "a1" && status["ready"] == true, "status: {status}");
    ensure!(status["stale"] == false && status["source"].is_string(), "status: {status}");
    let services = agent.json(node, "services")?;
    let park = services.as_array().and_then(|all| all.iter().find(|entry| entry["name"] == "park"));
    let park = park.context(format!("no park in {services}"))?;
    ensure!(park["vips"][0] == "10.96.0.10" && park["endpoints"][0]["node"] == "b1", "services: {park}");
    let peer = agent.peer(node, "b1")?;
    ensure!(peer["rttMs"].is_number() && peer["rxBytes"].as_u64() > Some(0), "peers: {peer}");
    agent.command(node, &["ping", "b1"])?.success()?;
    let explained = agent.command(node, &["explain", "park:80"])?.success()?;
    ensure!(explained.contains("10.96.0.10") && explained.contains("b1"), "explain: {explained}");
    let resolved = agent.command(node, &["dns", "park.default.svc.cluster.local"])?.success()?;
    ensure!(resolved.contains("10.96.0.10"), "dns: {resolved}");
    let (code, metrics) = agent.admin("/metrics")?;
    ensure!(code == 200 && metrics.contains("edgemesh_"), "metrics: HTTP {code} {metrics}");
    ensure!(agent.admin("/livez")?.0 == 200, "livez");
    Ok(())
}

/// A Service that is added, changed and removed on the server is so on every node, soon.
pub(super) fn services_follow_manifests(mesh: &mut Mesh) -> Result {
    let manifests = mesh.server.manifests().to_owned();
    let fresh = crate::manifests::Service::new("fresh", Ipv4Addr::new(10, 96, 0, 99))
        .port("TCP", "http", 80, 8080)
        .endpoint("cloud", Ipv4Addr::new(172, 17, 0, 2));
    let client = mesh.pod("b1")?;
    fresh.write_to(&manifests)?;
    wait_until("a new Service is reached", secs(10), || answers(client, "fresh", "cloud-p1"))?;
    fresh.clone().without("cloud").endpoint("a1", Ipv4Addr::new(172, 17, 0, 2)).write_to(&manifests)?;
    wait_until("its new endpoint is reached", secs(10), || answers(client, "fresh", "a1-p1"))?;
    fresh.remove_from(&manifests)?;
    wait_until("the removed Service's name is gone", secs(10), || {
        let answer = client.check(&["dig", "fresh.default.svc.cluster.local", "A"])?;
        ensure!(answer.contains("NXDOMAIN"), "{answer}");
        Ok(())
    })
}

/// A Service whose pods are replaced one after the other, each new one ready before an old one ends: no request of a
/// client that never rests fails, and each generation is reached.
pub(super) fn rolling_update(mesh: &mut Mesh) -> Result {
    let pod = Ipv4Addr::new(172, 17, 0, 2);
    let rolling = |nodes: &[&str]| {
        let service = crate::manifests::Service::new("rolling", Ipv4Addr::new(10, 96, 0, 96));
        let service = service.port("TCP", "http", 80, 8080);
        nodes.iter().fold(service, |service, node| service.endpoint(node, pod))
    };
    let manifests = mesh.server.manifests().to_owned();
    let client = mesh.pod("a1")?;
    rolling(&["a2"]).write_to(&manifests)?;
    wait_until("the first pod is reached", secs(10), || answers(client, "rolling", "a2-p1"))?;
    let ask = "while :; do curl -sS --max-time 10 http://rolling/ || echo FAILED; done";
    let mut asking = client.spawn("rolling", &["bash", "-c", ask])?;
    for (old, new) in [("a2", "b1"), ("b1", "cloud"), ("cloud", "a1"), ("a1", "a2")] {
        rolling(&[old, new]).write_to(&manifests)?;
        let mut ending = rolling(&[old, new]);
        if let Some(first) = ending.endpoints.first_mut() {
            (first.ready, first.terminating) = (false, true);
        }
        let served = |log: &str, name: &str| log.matches(name).count();
        let reached = |name: String| {
            let before = served(&asking.log(), &name);
            wait_until(&format!("{name} is reached"), secs(15), || {
                ensure!(served(&asking.log(), &name) > before, "{}", crate::product::tail(&asking.log()));
                Ok(())
            })
        };
        reached(format!("{new}-p1"))?;
        ending.write_to(&manifests)?;
        reached(format!("{new}-p1"))?;
        rolling(&[new]).write_to(&manifests)?;
        reached(format!("{new}-p1"))?;
    }
    let log = asking.log();
    asking.kill();
    ensure!(!log.contains("FAILED"), "requests failed: {}", crate::product::tail(&log));
    rolling(&[]).remove_from(&manifests)
}

/// ClusterIPs of another range than the one that this cluster began with, while everything runs.
pub(super) fn another_range(mesh: &mut Mesh) -> Result {
    let manifests = mesh.server.manifests().to_owned();
    let second = crate::manifests::Service::new("second", Ipv4Addr::new(10, 200, 7, 7))
        .port("TCP", "http", 80, 8080)
        .endpoint("b1", Ipv4Addr::new(172, 17, 0, 2));
    second.write_to(&manifests)?;
    for client in [mesh.pod("a1")?, mesh.pod("cloud")?, &mesh.lab.a1] {
        let name = second.full_name();
        wait_until("it is reached", secs(10), || answers(client, &name, "b1-p1"))?;
        answers(client, "park.default.svc.cluster.local", "b1-p1")?;
    }
    second.remove_from(&manifests)
}

/// Docker's firewall on the nodes drops what is forwarded to its bridge; pods are endpoints and clients nevertheless.
pub(super) fn beside_docker(mesh: &mut Mesh) -> Result {
    for node in mesh.lab.nodes() {
        node.docker_firewall("iptables")?;
    }
    mesh.join_all()?;
    same_subnet(mesh)?;
    across_nats(mesh)?;
    edge_and_cloud(mesh)?;
    own_node(mesh)?;
    host_client(mesh)?;
    pods_keep_their_source(mesh)
}

/// A node that reads Services from manifests of its own learns the nodes they name from the directory, also those
/// that join later.
pub(super) fn manifests_on_the_node(mesh: &mut Mesh) -> Result {
    mesh.join("b1")?;
    mesh.agent_mut("b1")?.0.wait_ready()?;
    let token = mesh.server.token(&mesh.lab.server, "a1", "24h")?;
    let source = Some(format!("manifests:{}", mesh.server.manifests().display()));
    mesh.join_with("a1", AgentOptions { token, source, more: Vec::new() })?;
    mesh.agent_mut("a1")?.0.wait_ready()?;
    let client = mesh.pod("a1")?;
    wait_until("a node known by name is reached", secs(10), || answers(client, "park", "b1-p1"))?;
    answers(client, "own", "a1-p1")?;
    mesh.join("cloud")?;
    mesh.agent_mut("cloud")?.0.wait_ready()?;
    let client = mesh.pod("a1")?;
    wait_until("a node that joined later is reached", secs(20), || answers(client, "sky", "cloud-p1"))
}
