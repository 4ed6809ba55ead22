//! A domain that no label names: two nodes with routes to each other's pods, as a CNI makes them, beside bridges with
//! the same addresses on all nodes, which prove nothing.

use std::fs;
use std::net::Ipv4Addr;

use super::beside::{is_in_mode, kube_proxy_for};
use super::exit::{PORT, tells_source};
use super::ipv6::routed_pod;
use super::reach::answers;
use super::sources::{seen, sees};
use crate::machine::Machine;
use crate::manifests::Service;
use crate::mesh::Mesh;
use crate::wait::{secs, wait_until};
use crate::{Context, Result, ensure};

const CLIENT: &str = "10.244.1.3";
const LAN: &str = "10.96.0.74";

/// A Service with an endpoint in the domain alone, and one that has another beyond.
fn services(near: Ipv4Addr) -> [Service; 2] {
    let service = |name, last| {
        let service = Service::new(name, Ipv4Addr::new(10, 96, 0, last));
        service.port("TCP", "http", 80, PORT).port("UDP", "udp", 7000, 7000).endpoint("a2", near)
    };
    [service("lan", 74), service("wide", 75).endpoint("b1", Ipv4Addr::new(172, 17, 0, 2))]
}

/// Bytes that a node's agent has exchanged with another in their tunnel.
fn tunnelled(mesh: &Mesh, node: &str, peer: &str) -> Result<u64> {
    let (agent, node) = mesh.agent(node)?;
    let peer = agent.peer(node, peer)?;
    Ok(peer["txBytes"].as_u64().context("txBytes")? + peer["rxBytes"].as_u64().context("rxBytes")?)
}

/// The Service's endpoint sees the client through the mesh.
fn through_the_mesh(client: &Machine, vip: &str) -> Result {
    let seen = seen(client, vip)?;
    ensure!(seen.iter().all(|seen| seen.starts_with("242.")), "{vip}: the endpoint sees {seen:?}");
    Ok(())
}

/// What a node says of its domain: why it is one, and what is proven.
fn said(mesh: &Mesh, node: &str) -> Result<(String, String)> {
    let (agent, node) = mesh.agent(node)?;
    let status = agent.json(node, "status")?;
    let by = status["domain"]["by"].as_str().context(format!("status: {status}"))?.to_owned();
    Ok((by, status["domain"]["reached"].to_string()))
}

/// Pods of the two nodes see each other as they are and need no tunnel, within seconds and without a setting; when the
/// way is cut or its route goes they need one. A Service of such pods alone is left to another proxy.
pub(super) fn domain(mesh: &mut Mesh) -> Result {
    let directory = mesh.lab.directory().join("derived");
    fs::create_dir_all(&directory).context(directory.display())?;
    let client = routed_pod(mesh, &directory, "a1", 1, 3)?;
    let near = routed_pod(mesh, &directory, "a2", 2, 2)?;
    let route = "route add 10.244.2.0/24 via 192.168.1.12";
    mesh.lab.a1.ns.ip(&[route])?;
    mesh.lab.a2.ns.ip(&["route add 10.244.1.0/24 via 192.168.1.11"])?;
    let services = services(near.address);
    services.iter().try_for_each(|service| service.write_to(mesh.server.manifests()))?;
    let _tells = [tells_source(&near)?, tells_source(mesh.pod("b1")?)?];
    let _udp = near.tool("udp", &["udp-server", "7000"])?;
    mesh.join_all()?;
    let is_derived = || sees(&client, LAN, CLIENT);
    wait_until("the nodes find out that they are of one domain", secs(10), is_derived)?;
    needs_no_tunnel(mesh, &client)?;
    answers(mesh.pod("a1")?, "near", "a2-p1").context("172.17.0.2 of the same node")?;
    let (by, reached) = said(mesh, "a1")?;
    ensure!(by == "proofs" && reached.contains("10.244.2.0/24"), "{by}: {reached}");
    ensure!(reached.contains("\"a2\"") && !reached.contains("172.17."), "{reached}");
    ensure!(said(mesh, "b1")? == ("none".to_owned(), "[]".to_owned()), "{:?}", said(mesh, "b1")?);
    let (agent, node) = mesh.agent("a1")?;
    let explained = agent.command(node, &["explain", "lan:80"])?.success()?;
    ensure!(explained.contains("this node's route to 10.244.2.0/24 leads to its pods"), "{explained}");

    // The way is cut where neither node sees it.
    let cut = "table ip cut {\n chain in {\n type filter hook prerouting priority -300\n \
               iifname eth0 ip daddr 10.244.2.0/24 drop\n }\n}\n";
    mesh.lab.a2.ns.nft(cut)?;
    wait_until("new connections take the tunnel", secs(45), || through_the_mesh(&client, LAN))?;
    mesh.lab.a2.ns.nft("delete table ip cut")?;
    wait_until("and the way without it once that is there again", secs(30), is_derived)?;

    kube_proxy_for(&mesh.lab.a1, &services)?;
    is_in_mode(mesh, "shadow")?;
    let is_taken = |vip: &str, wanted: bool| {
        let elements = mesh.lab.a1.ns.exec(&["nft", "list", "map", "ip", "edgemesh", "shadows"])?;
        ensure!(elements.contains(&format!("{vip} :")) == wanted, "{vip}: {elements}");
        Ok(())
    };
    wait_until("what reaches beyond the domain is taken", secs(5), || is_taken("10.96.0.75", true))?;
    is_taken(LAN, false).context("left to the other proxy")?;
    sees(&client, LAN, "192.168.1.11").context("the other proxy masquerades")?;
    mesh.lab.a1.ns.ip(&[&route.replace("add", "del")])?;
    wait_until("without the route it is taken", secs(5), || is_taken(LAN, true))?;
    wait_until("and carried", secs(5), || through_the_mesh(&client, LAN))?;
    mesh.lab.a1.ns.ip(&[route])?;
    wait_until("with the route it is left again", secs(20), || is_taken(LAN, false))
}

/// Connections that are led by the kernel leave the tunnel as it is.
fn needs_no_tunnel(mesh: &Mesh, client: &Machine) -> Result {
    let before = tunnelled(mesh, "a1", "a2")?;
    for _ in 0..10 {
        sees(client, LAN, CLIENT)?;
    }
    let bytes = tunnelled(mesh, "a1", "a2")?.saturating_sub(before);
    ensure!(bytes < 1_000, "{bytes} bytes of twenty connections went through the tunnel");
    Ok(())
}
