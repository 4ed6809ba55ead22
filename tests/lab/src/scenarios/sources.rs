//! Whom endpoints see: of connections that the kernel carries itself the client, as behind kube-proxy; of all others
//! the mesh.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use super::beside::{is_in_mode, kube_proxy_for};
use super::exit::{PORT, tells_source};
use super::ipv6::{both_families, routed_pod, tells_source_6};
use super::reach::answers;
use crate::machine::Machine;
use crate::manifests::{Service, write_file};
use crate::mesh::Mesh;
use crate::wait::{secs, wait_until};
use crate::workloads::{Transfer, curl};
use crate::{Context, Result, ensure};

/// The second pod of every node.
const CLIENT: &str = "172.17.0.3";
/// What stands for clients whom an endpoint of their own node cannot see.
const ALIAS: &str = "242.63.255.255";

/// A Service of a1's first pod that tells its clients by TCP and UDP.
fn whose() -> Service {
    let service = Service::new("whose", Ipv4Addr::new(10, 96, 0, 70));
    let service = service.port("TCP", "http", 80, PORT).port("UDP", "udp", 7000, 7000);
    service.endpoint("a1", Ipv4Addr::new(172, 17, 0, 2))
}

/// Whom the Service at that address sees, by TCP and by UDP, when `client` asks.
pub(super) fn seen(client: &Machine, vip: &str) -> Result<[String; 2]> {
    let tcp = curl(client, &format!("http://{vip}/"))?;
    let udp = client.run_tool(&["udp-who", "0", &format!("{vip}:7000")], secs(20))?;
    let host = udp.rsplit_once(':').map(|(host, _)| host).context("a port")?;
    Ok([plain(&tcp), plain(host)])
}

/// An address as it is written in short, without brackets.
pub(super) fn plain(text: &str) -> String {
    let text = text.trim_matches(|c| "[]\n".contains(c));
    text.parse().map_or_else(|_| text.to_owned(), |ip: IpAddr| ip.to_string())
}

/// Both see exactly this.
pub(super) fn sees(client: &Machine, vip: &str, expected: &str) -> Result {
    let seen = seen(client, vip)?;
    ensure!(
        seen == [expected, expected],
        "{} -> {vip}: the endpoint sees {seen:?}, not {expected}",
        client.name
    );
    Ok(())
}

/// Packets that the agent of a node was given so far.
fn given(node: &Machine) -> Result<u64> {
    let text = node.check(&["cat", "/sys/class/net/edgemesh0/statistics/tx_packets"])?;
    text.trim().parse::<u64>().context("a count of packets")
}

/// A pod on a bridge sees the pod that asks it, while answers on the bridge pass the node's rules; else it sees the
/// alias, as for itself and for processes of the node. What goes between them is none of the agent's business.
pub(super) fn on_one_bridge(mesh: &mut Mesh) -> Result {
    let manifests = mesh.server.manifests().to_owned();
    let _server = tells_source(mesh.pod("a1")?)?;
    whose().write_to(&manifests)?;
    let (agent, node) = mesh.agent("a1")?;
    let (server, client) = (node.pod(1)?, node.pod(2)?);
    let vip = "10.96.0.70";
    node.ns.sysctl("net/bridge/bridge-nf-call-iptables", "1")?;
    wait_until("the Service is there", secs(10), || curl(client, &format!("http://{vip}/")).map(drop))?;
    sees(client, vip, CLIENT)?;
    sees(server, vip, ALIAS)?;
    sees(node, vip, ALIAS)?;
    let explain = || agent.command(node, &["explain", "whose"])?.success();
    let explained = explain()?;
    ensure!(explained.contains("it sees the client's own address as client"), "explain: {explained}");
    let status = agent.json(node, "status")?;
    ensure!(status["interception"]["handover"] == "on", "status: {status}");

    let before = given(node)?;
    let transfer = Transfer::start(client, "handed", "http://10.96.0.13/files/small.bin")?;
    transfer.finish(&mesh.small.sum, secs(60))?;
    client.run_tool(&["udp-sizes", &format!("{vip}:7000"), "1", "9000", "311"], secs(60))?;
    let packets = given(node)?.saturating_sub(before);
    ensure!(packets < 50, "{packets} packets of two connections went to the agent");

    node.ns.sysctl("net/bridge/bridge-nf-call-iptables", "0")?;
    let unseen = sees(client, vip, ALIAS).and_then(|()| {
        let explained = explain()?;
        ensure!(explained.contains("bridge docker0") && explained.contains(ALIAS), "explain: {explained}");
        answers(client, "own", "a1-p1")
    });
    node.ns.sysctl("net/bridge/bridge-nf-call-iptables", "1")?;
    unseen?;
    sees(client, vip, CLIENT)?;
    whose().remove_from(&manifests)
}

/// A connection that the kernel carries goes on while the agent is dead, and UDP keeps its endpoint over the agent's
/// next start, until the endpoint leaves.
pub(super) fn without_the_agent(mesh: &mut Mesh) -> Result {
    let manifests = mesh.server.manifests().to_owned();
    let service = |nodes: &[&str]| {
        let empty = Service::new("datagrams", Ipv4Addr::new(10, 96, 0, 71)).port("UDP", "udp", 7000, 7000);
        nodes.iter().fold(empty, |service, node| service.endpoint(node, Ipv4Addr::new(172, 17, 0, 2)))
    };
    service(&["a1"]).write_to(&manifests)?;
    mesh.lab.a1.ns.sysctl("net/bridge/bridge-nf-call-iptables", "1")?;
    let small = mesh.small.sum.clone();
    let (agent, node) = mesh.agent_mut("a1")?;
    let client = node.pod(2)?;
    let ask = || client.run_tool(&["udp-who", "40010", "10.96.0.71:7000"], secs(20));
    let own = format!("{CLIENT}:40010");
    wait_until("the endpoint sees its client", secs(10), || {
        let seen = ask()?;
        ensure!(seen.trim() == own, "the endpoint sees {seen}");
        Ok(())
    })?;
    let transfer = Transfer::start(client, "orphan", "http://10.96.0.13/at/2m/small.bin")?;
    transfer.wait_progress(secs(10))?;
    agent.process.kill();
    transfer.wait_progress(secs(5)).context("while there is no agent")?;
    ensure!(ask()?.trim() == own, "without an agent");
    agent.restart(node)?;
    agent.wait_ready()?;
    ensure!(ask()?.trim() == own, "after the agent's next start");
    transfer.finish(&small, secs(60))?;
    service(&["b1"]).write_to(&manifests)?;
    wait_until("the client of UDP leaves with its endpoint", secs(10), || {
        let seen = ask()?;
        ensure!(seen.starts_with("242.") && !seen.starts_with(ALIAS), "the endpoint sees {seen}");
        Ok(())
    })?;
    service(&[]).remove_from(&manifests)
}

/// Pods with cables of their own see each other by both families, also with strict filtering of sources and without
/// bridges; so does a pod of another node of the domain, whose Service is taken from another proxy.
pub(super) fn routed_pods(mesh: &mut Mesh) -> Result {
    let manifests = mesh.server.manifests().to_owned();
    let directory = mesh.lab.directory().join("routed");
    fs::create_dir_all(&directory).context(directory.display())?;
    let [server, client] = [2, 3].map(|last| routed_pod(mesh, &directory, "a1", 1, last));
    let (server, client) = (server?, client?);
    let neighbour = routed_pod(mesh, &directory, "a2", 2, 2)?;
    mesh.lab.a1.ns.ip(&["route add 10.244.2.0/24 via 192.168.1.12"])?;
    mesh.lab.a2.ns.ip(&["route add 10.244.1.0/24 via 192.168.1.11"])?;
    mesh.lab.a1.ns.sysctl("net/bridge/bridge-nf-call-iptables", "0")?;
    // Nobody lets pods with cables of their own through.
    mesh.lab.a1.docker_firewall("iptables")?;
    for node in ["a1", "a2"] {
        let text = format!(
            "apiVersion: v1\nkind: Node\nmetadata:\n  name: {node}\n  labels: {{edgemesh.io/domain: lan}}\n"
        );
        write_file(&manifests, &format!("node-{node}.yaml"), &text)?;
    }
    let ports = [("TCP", "http", 80, PORT, 0), ("UDP", "udp", 7000, 7000, 0)];
    write_file(
        &manifests,
        "both.yaml",
        &both_families("both", 72, "type: ClusterIP", &ports, &[("a1", 1, 2)]),
    )?;
    let wide = Service::new("wide", Ipv4Addr::new(10, 96, 0, 73));
    let wide = wide.port("TCP", "http", 80, PORT).port("UDP", "udp", 7000, 7000);
    let wide = wide.endpoint("a2", neighbour.address).endpoint("b1", Ipv4Addr::new(172, 17, 0, 2));
    wide.write_to(&manifests)?;
    let _http = [tells_source(&server)?, tells_source(&neighbour)?, tells_source(mesh.pod("b1")?)?];
    let _http6 = tells_source_6(&server)?;
    let udp = [&server, &neighbour].map(|pod| pod.tool("udp", &["udp-server", "7000"]));
    let _udp = udp.into_iter().collect::<Result<Vec<_>>>()?;
    mesh.join_all()?;
    for (vip, own) in [("10.96.0.72", "10.244.1.3"), ("[fd00:96::72]", "fd10:244:1::3")] {
        wait_until("a pod of the node is seen", secs(10), || sees(&client, vip, own))?;
    }
    // One behind another device than the endpoint is seen as well, whatever bridges do.
    sees(mesh.lab.a1.pod(2)?, "10.96.0.72", CLIENT)?;
    let seen_by_both = || {
        wait_until("endpoints within the domain and beyond see their part", secs(20), || {
            let all = (0..12).map(|_| seen(&client, "10.96.0.73")).collect::<Result<Vec<_>>>()?;
            let all: Vec<String> = all.into_iter().flatten().collect();
            let near = all.iter().filter(|seen| *seen == "10.244.1.3").count();
            let far = all.iter().filter(|seen| seen.starts_with("242.")).count();
            ensure!(near > 0 && far > 0 && near + far == all.len(), "{all:?}");
            Ok(())
        })
    };
    is_in_mode(mesh, "route")?;
    seen_by_both()?;
    kube_proxy_for(&mesh.lab.a1, &[wide])?;
    mesh.lab.a1.ns.sysctl("net/bridge/bridge-nf-call-iptables", "0")?;
    is_in_mode(mesh, "shadow")?;
    wait_until("it is taken", secs(3), || {
        let elements = mesh.lab.a1.ns.exec(&["nft", "list", "map", "ip", "edgemesh", "shadows"])?;
        ensure!(elements.contains("10.96.0.73 :"), "{elements}");
        Ok(())
    })?;
    seen_by_both().context("beside another proxy")?;
    let (agent, node) = mesh.agent("a1")?;
    let explained = agent.command(node, &["explain", "wide:80"])?.success()?;
    ensure!(
        explained.contains("the client's own address as client, because its node is of this node's domain"),
        "explain: {explained}"
    );
    Ok(())
}
