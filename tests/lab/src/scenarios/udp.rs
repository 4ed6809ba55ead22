//! UDP: boundaries, sizes, late replies, pushes into a silence.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::manifests::Service;
use crate::mesh::Mesh;
use crate::wait::{secs, wait_until};
use crate::{Context, Result, ensure};

/// How long nothing is sent before the server pushes: longer than NATs and conntrack keep a UDP mapping.
const SILENCE: Duration = Duration::from_secs(125);
/// Label of the client that waits for the push.
const PUSH: &str = "idle-push";

/// Datagrams of 1 byte to the largest come back as they were, to the other site, the neighbour, the cloud, the own node.
pub(super) fn sizes(mesh: &mut Mesh) -> Result {
    let client = mesh.pod("a1")?;
    // Every size around the edges of packets and fragments, a sample of the rest.
    for (from, to, step) in [
        ("1", "9000", "53"),
        ("1330", "1480", "1"),
        ("2700", "2820", "3"),
        ("9000", "9000", "1"),
        ("65507", "65507", "1"),
    ] {
        client.run_tool(&["udp-sizes", "park:7000", from, to, step], secs(120))?;
    }
    for service in ["near:7000", "sky:7000", "own:7000"] {
        client.run_tool(&["udp-sizes", service, "1", "9000", "311"], secs(60))?;
    }
    mesh.lab
        .a1
        .run_tool(&["udp-sizes", "park.default.svc.cluster.local:7000", "1", "9000", "311"], secs(60))?;
    Ok(())
}

/// What is sent at once leaves a node in bursts, which the kernel cuts into datagrams of one size. All ways have their own.
pub(super) fn mixed(mesh: &mut Mesh) -> Result {
    for (from, to) in [("a1", "park:7000"), ("a1", "sky:7000"), ("cloud", "park:7000")] {
        mesh.pod(from)?.run_tool(&["udp-mixed", to, "200"], secs(60)).context(format!("{from} to {to}"))?;
    }
    for node in ["a1", "b1", "cloud"] {
        let broken = mesh.agent(node)?.0.metric(&["reason=\"authentication\""])?;
        ensure!(broken == 0.0, "{broken} datagrams came to {node} changed");
    }
    Ok(())
}

/// socat, which knows nothing of the lab, gets its datagram back.
pub(super) fn socat(mesh: &mut Mesh) -> Result {
    for size in [1, 1472, 4000] {
        let sent = vec![b'x'; size];
        let words = ["socat", "-b", "65000", "-t", "1.5", "-", "UDP4:park:7000"];
        let got = mesh.pod("a1")?.run_within(&words, &sent, secs(20))?;
        ensure!(got.stdout == sent, "{size} bytes sent, {} came back: {}", got.stdout.len(), got.stderr);
    }
    Ok(())
}

/// A server of the node itself that is bound to no address answers from the one that was asked. (A pod of its node is led
/// to it by the kernel, as by kube-proxy, behind which such a server has to see to that itself.)
pub(super) fn any_address(mesh: &mut Mesh) -> Result {
    let service = Service::new("clock", Ipv4Addr::new(10, 96, 0, 97)).port("UDP", "ntp", 123, 7123);
    let service = service.endpoint("b1", mesh.lab.b1.address);
    service.write_to(mesh.server.manifests())?;
    let _server = mesh.lab.b1.tool("clock", &["udp-server", "7123"])?;
    let words = ["udp-sizes", "clock:123", "1", "2000", "333"];
    wait_until("the Service answers", secs(20), || mesh.pod("a1")?.run_tool(&words, secs(20)))?;
    let host = ["udp-sizes", "clock.default.svc.cluster.local:123", "1", "2000", "333"];
    mesh.lab.a1.run_tool(&host, secs(20)).context("another node itself")?;
    mesh.lab.b1.run_tool(&host, secs(20)).context("the node itself")?;
    service.remove_from(mesh.server.manifests())
}

/// A reply that takes 5 s is delivered.
pub(super) fn late_reply(mesh: &mut Mesh) -> Result {
    mesh.pod("a1")?.run_tool(&["udp-after", "park:7000", "5000"], secs(30)).map(|_| ())
}

/// Two minutes of silence begin; [`push_arrives`] looks at how they ended.
pub(super) fn silence_begins(mesh: &mut Mesh) -> Result {
    let pod = mesh.lab.a1.pod(2)?;
    let words = ["udp-after", "park:7000", &SILENCE.as_millis().to_string()];
    let mut client = pod.tool(PUSH, &words)?;
    ensure!(client.is_running(), "{}", client.log());
    mesh.idle = Some(client);
    Ok(())
}

/// What the server pushes after two idle minutes reaches the client.
pub(super) fn push_arrives(mesh: &mut Mesh) -> Result {
    if mesh.idle.is_none() {
        silence_begins(mesh)?;
    }
    let Some(mut client) = mesh.idle.take() else { return crate::fail("no client waits") };
    let status = client.wait(SILENCE.saturating_add(secs(15)))?;
    ensure!(status.success(), "{}", client.log());
    Ok(())
}
