//! Clients from outside the mesh: NodePorts, external IPs, load balancers and their health checks, and a ClusterIP
//! that is routed to a node.
//!
//! The client off the nodes is the NAT box of site A, which has no agent; node a1 is the one that serves entry points.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use super::exit::{PORT, tells_source};
use super::reach::answers;
use crate::machine::Machine;
use crate::manifests::Service;
use crate::mesh::Mesh;
use crate::product::AgentOptions;
use crate::wait::{secs, wait_until};
use crate::workloads::{self, curl};
use crate::{Context, Result, ensure};

/// The client's address on the LAN of site A.
const CLIENT: &str = "192.168.1.1";
/// The node that serves entry points.
const NODE: &str = "192.168.1.11";
/// What stands for a client within its node.
const ALIAS: &str = "242.63.255.255";
/// First and second pod of every node.
const PODS: [Ipv4Addr; 2] = [Ipv4Addr::new(172, 17, 0, 2), Ipv4Addr::new(172, 17, 0, 3)];

/// Agents on a1, with entry points, and on a2 and b1, without.
pub(super) fn join(mesh: &mut Mesh) -> Result<PathBuf> {
    for name in ["a1", "a2", "b1"] {
        let token = mesh.server.token(&mesh.lab.server, name, "24h")?;
        let more = if name == "a1" { vec!["--node-ports".to_owned()] } else { Vec::new() };
        mesh.join_with(name, AgentOptions { token, source: Some("server".to_owned()), more })?;
    }
    mesh.agents.iter_mut().try_for_each(crate::product::Agent::wait_ready)?;
    Ok(mesh.server.manifests().to_owned())
}

/// A Service in the lab's range.
fn service(name: &'static str, last: u8) -> Service {
    Service::new(name, Ipv4Addr::new(10, 96, 0, last))
}

/// curl's exit code: 7 is a refusal, 28 is silence.
pub(super) fn fails(client: &Machine, url: &str, code: i32) -> Result {
    let ended = client.run(&["curl", "-sS", "--max-time", "2", url])?;
    let found = ended.status.code();
    ensure!(
        found == Some(code),
        "{} -> {url}: curl ended with {found:?}, not {code}: {}",
        client.name,
        ended.stderr
    );
    Ok(())
}

/// The different answers of some requests, in order.
fn heard(client: &Machine, url: &str, times: usize) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for _ in 0..times {
        let said = curl(client, url)?.trim().to_owned();
        if !all.contains(&said) {
            all.push(said);
        }
    }
    all.sort();
    Ok(all)
}

/// A NodePort answers on the node's address, by TCP and UDP on one number, for an endpoint elsewhere; nowhere else, and
/// not on nodes that were not asked to. Without endpoints it refuses.
pub(super) fn node_port(mesh: &mut Mesh) -> Result {
    let manifests = join(mesh)?;
    let ports = service("door", 40).port("TCP", "http", 80, 8080).node_port(30_080);
    let ports = ports.port("UDP", "udp", 7000, 7000).node_port(30_080);
    ports.clone().endpoint("b1", PODS[0]).write_to(&manifests)?;
    let (client, node) = (&mesh.lab.nat_a, &mesh.lab.a1);
    wait_until("the NodePort answers", secs(10), || answers(client, &format!("{NODE}:30080"), "b1-p1"))?;
    client.run_tool(&["udp-sizes", &format!("{NODE}:30080"), "1", "3000", "311"], secs(60))?;
    for inside in [node.pod(1)?, node.pod(2)?, node] {
        answers(inside, &format!("{NODE}:30080"), "b1-p1")?;
    }
    node.pod(2)?.run_tool(&["udp-sizes", &format!("{NODE}:30080"), "1", "1200", "311"], secs(60))?;
    for other in ["127.0.0.1", "172.17.0.1", "192.168.1.12"] {
        fails(node, &format!("http://{other}:30080/"), 7)?;
    }
    fails(client, "http://192.168.1.12:30080/", 7)?;
    for (name, wanted) in
        [("a1", serde_json::json!({"addresses": [NODE], "count": 2})), ("a2", serde_json::Value::Null)]
    {
        let (agent, node) = mesh.agent(name)?;
        let status = agent.json(node, "status")?;
        ensure!(status["entryPoints"] == wanted, "{name}: {}", status["entryPoints"]);
    }
    let files = mesh.big.path.parent().context("directory of files")?.to_owned();
    let _own = workloads::nginx(node, 8088, &files)?;
    answers(client, &format!("{NODE}:8088"), "a1")?;
    ports.write_to(&manifests)?;
    wait_until("it refuses without endpoints", secs(10), || {
        fails(client, &format!("http://{NODE}:30080/"), 7)
    })
}

/// A machine without an agent that routes ClusterIPs to a node is a client like any other.
pub(super) fn off_node_client(mesh: &mut Mesh) -> Result {
    let client = &mesh.lab.nat_a;
    client.ns.ip(&[&format!("route add 10.96.0.0/16 via {NODE}")])?;
    let park = "10.96.0.10";
    answers(client, park, "b1-p1")?;
    client.run_tool(&["udp-sizes", &format!("{park}:7000"), "1", "3000", "311"], secs(60))?;
    answers(client, "10.96.0.13", "a1-p1")?;
    client.ns.ip(&[&format!("route del 10.96.0.0/16 via {NODE}")])
}

/// With the policy `Local` a client from outside reaches endpoints of the node it asked, which see its address, or
/// nothing; pods and the node itself reach all endpoints. The policy `Cluster` hides the client.
pub(super) fn local_policy(mesh: &mut Mesh) -> Result {
    let manifests = join(mesh)?;
    let _servers = [tells_source(mesh.pod("a1")?)?, tells_source(mesh.pod("b1")?)?];
    let empty = service("whom", 41).port("TCP", "http", 80, PORT).node_port(30_081);
    let empty = empty.port("UDP", "udp", 7000, 7000).node_port(30_081);
    let local = empty.clone().with("externalTrafficPolicy: Local");
    let both = |service: &Service| service.clone().endpoint("a1", PODS[0]).endpoint("b1", PODS[0]);
    both(&local).write_to(&manifests)?;
    let (client, node) = (&mesh.lab.nat_a, &mesh.lab.a1);
    let url = format!("http://{NODE}:30081/");
    wait_until("the NodePort answers", secs(10), || curl(client, &url).map(drop))?;
    let seen = heard(client, &url, 12)?;
    ensure!(seen == [CLIENT], "the endpoints saw {seen:?}");
    let told = client.run_tool(&["udp-who", "0", &format!("{NODE}:30081")], secs(10))?;
    ensure!(told.starts_with(&format!("{CLIENT}:")), "the UDP endpoint saw {told:?}");
    // Both are reached from inside: a pod is seen by the one of its node as it is, a process of the node is not.
    for (inside, here) in [(node.pod(2)?, PODS[1].to_string()), (node, ALIAS.to_owned())] {
        let mut seen = heard(inside, &url, 40)?;
        seen.retain(|source| *source != here);
        ensure!(
            matches!(&seen[..], [mesh] if mesh.starts_with("242.0.")),
            "{}: beside {here} the endpoints saw {seen:?}",
            inside.name
        );
    }

    both(&empty).write_to(&manifests)?;
    wait_until("the policy Cluster reaches both", secs(10), || {
        let seen = heard(client, &url, 20)?;
        ensure!(seen.len() == 2 && !seen.contains(&CLIENT.to_owned()), "the endpoints saw {seen:?}");
        Ok(())
    })?;

    local.clone().endpoint("a1", PODS[0]).ending().endpoint("b1", PODS[0]).write_to(&manifests)?;
    wait_until("an endpoint that ends still serves", secs(10), || {
        let seen = heard(client, &url, 8)?;
        ensure!(seen == [CLIENT], "the endpoints saw {seen:?}");
        Ok(())
    })?;

    local.clone().endpoint("b1", PODS[0]).write_to(&manifests)?;
    wait_until("without a local endpoint there is silence", secs(20), || fails(client, &url, 28))?;
    for inside in [node.pod(2)?, node] {
        curl(inside, &url)?;
    }
    local.write_to(&manifests)?;
    wait_until("without any it refuses", secs(20), || fails(client, &url, 7))
}

/// With `internalTrafficPolicy: Local` the ClusterIP leads to endpoints of the client's node only, and the NodePort to
/// all of them.
pub(super) fn internal_policy(mesh: &mut Mesh) -> Result {
    let manifests = join(mesh)?;
    let inward = service("inward", 46).port("TCP", "http", 80, 8080).node_port(30_086);
    let inward = inward.with("internalTrafficPolicy: Local");
    inward.clone().endpoint("b1", PODS[0]).write_to(&manifests)?;
    let (client, node) = (&mesh.lab.nat_a, &mesh.lab.a1);
    let at = format!("{NODE}:30086");
    wait_until("the NodePort answers", secs(10), || answers(client, &at, "b1-p1"))?;
    answers(node.pod(2)?, &at, "b1-p1")?;
    fails(node.pod(2)?, "http://10.96.0.46/", 28)?;
    inward.endpoint("b1", PODS[0]).endpoint("a1", PODS[0]).write_to(&manifests)?;
    wait_until("the ClusterIP has an endpoint here", secs(20), || {
        let seen = heard(node.pod(2)?, "http://10.96.0.46/", 8)?;
        ensure!(seen == ["a1-p1"], "{seen:?}");
        Ok(())
    })?;
    let both = heard(client, &format!("http://{at}/"), 40)?;
    ensure!(both == ["a1-p1", "b1-p1"], "by the NodePort: {both:?}");
    Ok(())
}

/// The same beside Docker's firewall, which drops what comes from outside for the mesh or for a pod.
pub(super) fn local_policy_beside_docker(mesh: &mut Mesh) -> Result {
    mesh.lab.nodes().into_iter().try_for_each(|node| node.docker_firewall("iptables"))?;
    local_policy(mesh)
}

/// Beside kube-proxy a NodePort leads past its rules to a Service that is taken from it; those of other Services are
/// its own to serve.
pub(super) fn beside_kube_proxy(mesh: &mut Mesh) -> Result {
    super::beside::kube_proxy(&mesh.lab.a1)?;
    let manifests = join(mesh)?;
    let door = |name, last, number| service(name, last).port("TCP", "http", 80, 8080).node_port(number);
    door("far", 40, 30_080).endpoint("b1", PODS[0]).write_to(&manifests)?;
    door("here", 45, 30_085).endpoint("a1", PODS[0]).write_to(&manifests)?;
    let inward = door("inward", 46, 30_086).with("internalTrafficPolicy: Local");
    inward.endpoint("b1", PODS[0]).write_to(&manifests)?;
    let (client, node) = (&mesh.lab.nat_a, &mesh.lab.a1);
    wait_until("the NodePort answers", secs(10), || answers(client, &format!("{NODE}:30080"), "b1-p1"))?;
    for inside in [node.pod(2)?, node] {
        answers(inside, &format!("{NODE}:30080"), "b1-p1")?;
    }
    let ways = node.ns.exec(&["nft", "list", "map", "ip", "edgemesh-entry", "to"])?;
    ensure!(ways.contains("30080 : 242.96.0.40 . 80") && !ways.contains("30085"), "{ways}");
    // The ClusterIP of one for the node's own endpoints is the proxy's to serve, the NodePort leads to all.
    answers(client, &format!("{NODE}:30086"), "b1-p1")?;
    let taken = node.ns.exec(&["nft", "list", "map", "ip", "edgemesh", "shadows"])?;
    ensure!(taken.contains("10.96.0.40 :") && !taken.contains("10.96.0.46 :"), "{taken}");
    Ok(())
}

/// Addresses that no machine has lead to their Services on the node they are routed to: external IPs, and those of load
/// balancers, which are open to their source ranges only.
pub(super) fn addresses(mesh: &mut Mesh) -> Result {
    let manifests = join(mesh)?;
    let (balancer, external) = (Ipv4Addr::new(198, 18, 5, 5), Ipv4Addr::new(198, 18, 5, 6));
    let plain = service("far", 42).port("TCP", "http", 80, 8080).endpoint("b1", PODS[0]);
    let plain = plain.balanced(balancer).with(format!("externalIPs: [{external}]"));
    plain.write_to(&manifests)?;
    let (client, node) = (&mesh.lab.nat_a, &mesh.lab.a1);
    client.ns.ip(&[&format!("route add 198.18.5.0/24 via {NODE}")])?;
    let all = [client as &Machine, node.pod(2)?, node];
    for at in [balancer, external] {
        for from in all {
            // A connection begun before the rule is there goes elsewhere for good: the next one counts.
            let words = ["curl", "-sS", "--fail", "--max-time", "1", &format!("http://{at}/")];
            wait_until("the address answers", secs(10), || from.check(&words).map(drop))?;
            answers(from, &at.to_string(), "b1-p1")?;
        }
    }
    let url = format!("http://{balancer}/");
    plain.clone().with(format!("loadBalancerSourceRanges: [' {CLIENT}/32 ']")).write_to(&manifests)?;
    wait_until("pods are not exempt", secs(20), || fails(node.pod(2)?, &url, 28))?;
    fails(node, &url, 28)?;
    answers(client, &balancer.to_string(), "b1-p1")?;
    answers(node.pod(2)?, &external.to_string(), "b1-p1")?;
    plain.with("loadBalancerSourceRanges: [203.0.113.0/24, 172.17.0.0/16]").write_to(&manifests)?;
    wait_until("who is outside the ranges is not heard", secs(20), || fails(client, &url, 28))?;
    answers(node.pod(2)?, &balancer.to_string(), "b1-p1")?;
    answers(client, &external.to_string(), "b1-p1")?;
    client.ns.ip(&[&format!("route del 198.18.5.0/24 via {NODE}")])
}

/// The health check port says whether the node has a ready endpoint, and moves with its Service.
pub(super) fn health_check(mesh: &mut Mesh) -> Result {
    let manifests = join(mesh)?;
    let checked = |port: u16| {
        let service =
            service("checked", 43).port("TCP", "http", 80, 8080).balanced(Ipv4Addr::new(198, 18, 5, 7));
        service.with("externalTrafficPolicy: Local").with(format!("healthCheckNodePort: {port}"))
    };
    let client = &mesh.lab.nat_a;
    let says = |port: u16, status: &str, count: u8| {
        let url = format!("http://{NODE}:{port}/");
        let said = client.check(&["curl", "-sS", "-i", "--max-time", "5", &url])?;
        let header = format!("X-Load-Balancing-Endpoint-Weight: {count}");
        ensure!(said.contains(status) && said.contains(&header), "{said}");
        ensure!(said.contains(&format!("\"localEndpoints\":{count}")), "{said}");
        Ok(())
    };
    let two =
        |port: u16| checked(port).endpoint("a1", PODS[0]).endpoint("a1", PODS[1]).endpoint("b1", PODS[0]);
    two(31_000).write_to(&manifests)?;
    wait_until("two endpoints are here", secs(10), || says(31_000, "200 OK", 2))?;
    checked(31_000).endpoint("a1", PODS[0]).ending().endpoint("b1", PODS[0]).write_to(&manifests)?;
    wait_until("an endpoint that ends does not count", secs(10), || says(31_000, "503 ", 0))?;
    two(31_001).write_to(&manifests)?;
    wait_until("the port moves", secs(10), || says(31_001, "200 OK", 2))?;
    fails(client, &format!("http://{NODE}:31000/"), 7)
}

/// A client of UDP that keeps its port and never rests gets to whatever serves the entry point now: from nothing to an
/// endpoint, to another one, to one elsewhere, under both policies; and hears of it when nothing does any more.
pub(super) fn udp_moves(mesh: &mut Mesh) -> Result {
    let manifests = join(mesh)?;
    let (client, node) = (&mesh.lab.nat_a, &mesh.lab.a1);
    let at = format!("{NODE}:30090");
    let empty = service("dns", 44).port("UDP", "udp", 53, 7100).node_port(30_090);
    let asks = |who: &Machine, port: &str| who.run_tool(&["udp-who", port, &at], secs(10));
    let answered =
        |who: &Machine, port: &str, what: &str| wait_until(what, secs(15), || asks(who, port).map(drop));
    let inside = node.pod(2)?;
    let clients: [(&Machine, &str); 3] = [(client, "40000"), (inside, "40001"), (node, "40002")];
    for (who, port) in clients {
        ensure!(asks(who, port).is_err(), "somebody answers {} before there is a Service", who.name);
    }
    for policy in ["Local", "Cluster"] {
        let policy = empty.clone().with(format!("externalTrafficPolicy: {policy}"));
        let first = node.pod(1)?.tool("udp-first", &["udp-server", "7100"])?;
        policy.clone().endpoint("a1", PODS[0]).write_to(&manifests)?;
        for (who, port) in clients {
            answered(who, port, "the first endpoint answers")?;
        }
        let second = inside.tool("udp-second", &["udp-server", "7100"])?;
        policy.clone().endpoint("a1", PODS[1]).write_to(&manifests)?;
        drop(first);
        for (who, port) in clients {
            answered(who, port, "the second endpoint answers")?;
        }
        drop(second);
        policy.write_to(&manifests)?;
        wait_until("nobody answers", secs(15), || {
            ensure!(asks(client, "40000").is_err(), "somebody answers");
            Ok(())
        })?;
    }
    let _elsewhere = mesh.pod("b1")?.tool("udp-far", &["udp-server", "7100"])?;
    empty.endpoint("b1", PODS[0]).write_to(&manifests)?;
    for (who, port) in clients {
        answered(who, port, "an endpoint elsewhere answers")?;
    }
    Ok(())
}
