//! Which way the packets take, that it can change under a running connection, and that nobody on it can read.

use crate::capture::Capture;
use crate::mesh::Mesh;
use crate::nat::{NatKind, Policy};
use crate::wait::secs;
use crate::workloads::{MARKER, Transfer};
use crate::{Context, Result, ensure};

use super::reach::{answers, host_network, own_node};
use super::transfer::{download_from, half_close, server_speaks_first, upload_to};

/// No UDP from site to site: the relay carries everything.
const RELAY_ONLY: Policy =
    Policy { no_udp_between_sites: true, no_udp_to_cloud_node: false, no_udp: false, no_server: false };

/// Waits until a1 sends to b1 by one of `paths`, and checks that it is told with a round-trip time.
fn wait_path(mesh: &Mesh, paths: &[&str], limit: u64) -> Result {
    let (agent, node) = mesh.agent("a1")?;
    agent.wait_path(node, "b1", paths, secs(limit))?;
    let peer = agent.peer(node, "b1")?;
    ensure!(peer["rttMs"].is_number(), "no round-trip time in {peer}");
    Ok(())
}

/// Two ordinary NATs: the sites find a direct path, and so do neighbours and the cloud.
pub(super) fn becomes_direct(mesh: &mut Mesh) -> Result {
    let client = mesh.pod("a1")?;
    for (service, endpoint, node) in
        [("park", "b1-p1", "b1"), ("near", "a2-p1", "a2"), ("sky", "cloud-p1", "cloud")]
    {
        answers(client, service, endpoint)?;
        let (agent, a1) = mesh.agent("a1")?;
        agent.wait_path(a1, node, &["direct"], secs(15))?;
        answers(client, service, endpoint)?;
    }
    Ok(())
}

/// A download runs while the path goes relay, direct, relay, direct: one connection, right checksum.
pub(super) fn moves_under_a_download(mesh: &mut Mesh) -> Result {
    mesh.lab.inet.set_policy(RELAY_ONLY)?;
    let transfer = Transfer::start(mesh.pod("a1")?, "moving", "http://park/at/6m/big.bin")?;
    transfer.wait_progress(secs(10)).context("at the start")?;
    for (stage, policy, path) in [
        ("over the relay", RELAY_ONLY, "relay"),
        ("direct", Policy::default(), "direct"),
        ("direct path cut", RELAY_ONLY, "relay"),
        ("direct again", Policy::default(), "direct"),
    ] {
        mesh.lab.inet.set_policy(policy)?;
        // What is under way must go on before it is asked how.
        transfer.wait_progress(secs(3)).context(stage)?;
        wait_path(mesh, &[path], 30).context(stage)?;
        transfer.wait_progress(secs(3)).context(stage)?;
    }
    ensure!(transfer.received() < mesh_size(mesh), "the download was over before the last move");
    transfer.finish(&mesh.big.sum, secs(120))
}

fn mesh_size(mesh: &Mesh) -> u64 {
    std::fs::metadata(&mesh.big.path).map(|file| file.len()).unwrap_or(0)
}

/// A symmetric NAT on one side: everything works, whatever the path.
pub(super) fn symmetric_nat(mesh: &mut Mesh) -> Result {
    mesh.lab.nat_a.set_kind(NatKind::Symmetric)?;
    mesh.lab.nat_b.set_kind(NatKind::Symmetric)?;
    mesh.join_all()?;
    everything(mesh)
}

/// What must work whatever the network does to the tunnel.
fn everything(mesh: &mut Mesh) -> Result {
    answers(mesh.pod("a1")?, "park", "b1-p1")?;
    answers(mesh.pod("b1")?, "own", "a1-p1")?;
    answers(mesh.pod("a1")?, "near", "a2-p1")?;
    answers(mesh.pod("a1")?, "sky", "cloud-p1")?;
    answers(mesh.pod("cloud")?, "park", "b1-p1")?;
    own_node(mesh)?;
    host_network(mesh)?;
    server_speaks_first(mesh)?;
    half_close(mesh)?;
    let client = mesh.pod("a1")?;
    download_from(client, "park", &mesh.small, 120)?;
    upload_to(client, "park", mesh.pod("b1")?, &mesh.small, 120)?;
    client.run_tool(&["udp-sizes", "park:7000", "1", "9000", "311"], secs(60))?;
    Ok(())
}

/// UDP between the sites is dropped: everything works through the relay.
pub(super) fn relay_only(mesh: &mut Mesh) -> Result {
    mesh.lab.inet.set_policy(RELAY_ONLY)?;
    mesh.join_all()?;
    everything(mesh)?;
    wait_path(mesh, &["relay"], 10)
}

/// UDP is blocked altogether: everything works over TCP.
pub(super) fn tcp_only(mesh: &mut Mesh) -> Result {
    mesh.lab.inet.set_policy(Policy { no_udp: true, ..Policy::default() })?;
    mesh.join_all()?;
    everything(mesh)?;
    wait_path(mesh, &["relay-tcp"], 10)
}

/// UDP is blocked while a download runs, and comes back: the download does not notice.
pub(super) fn udp_goes_and_returns(mesh: &mut Mesh) -> Result {
    let transfer = Transfer::start(mesh.pod("a1")?, "udp-goes", "http://park/at/6m/big.bin")?;
    transfer.wait_progress(secs(10))?;
    mesh.lab.inet.set_policy(Policy { no_udp: true, ..Policy::default() })?;
    transfer.wait_progress(secs(15)).context("without UDP")?;
    wait_path(mesh, &["relay-tcp"], 30)?;
    mesh.lab.inet.set_policy(Policy::default())?;
    wait_path(mesh, &["direct", "relay"], 60).context("UDP is back")?;
    transfer.finish(&mesh.big.sum, secs(120))
}

/// A narrow access link that loses ICMP: transfers complete both ways.
fn narrow(mesh: &mut Mesh, mtu: u16) -> Result {
    mesh.lab.inet.narrow(&mesh.lab.nat_a, "site-a", mtu)?;
    mesh.join_all()?;
    let client = mesh.pod("a1")?;
    download_from(client, "park", &mesh.small, 120)?;
    upload_to(client, "park", mesh.pod("b1")?, &mesh.small, 120)?;
    download_from(mesh.pod("b1")?, "own", &mesh.small, 120)?;
    download_from(mesh.pod("cloud")?, "own", &mesh.small, 120)
}

/// [`narrow`] with PPPoE's MTU.
pub(super) fn narrow_1492(mesh: &mut Mesh) -> Result {
    narrow(mesh, 1492)
}

/// [`narrow`] with a tunnel's MTU.
pub(super) fn narrow_1400(mesh: &mut Mesh) -> Result {
    narrow(mesh, 1400)
}

/// [`narrow`] with the least MTU that IPv6 knows.
pub(super) fn narrow_1280(mesh: &mut Mesh) -> Result {
    narrow(mesh, 1280)
}

/// The link becomes narrow while a download runs.
pub(super) fn narrows_under_a_download(mesh: &mut Mesh) -> Result {
    let transfer = Transfer::start(mesh.pod("a1")?, "narrowing", "http://park/at/1m/small.bin")?;
    transfer.wait_progress(secs(10))?;
    mesh.lab.inet.narrow(&mesh.lab.nat_a, "site-a", 1400)?;
    transfer.finish(&mesh.small.sum, secs(120))
}

/// The relay carries a payload of which a capture on it holds no byte.
pub(super) fn server_cannot_read(mesh: &mut Mesh) -> Result {
    mesh.lab.inet.set_policy(RELAY_ONLY)?;
    mesh.join_all()?;
    let client = mesh.pod("a1")?;
    let captures = [Capture::start(&mesh.lab.server, "secret")?, Capture::start(&mesh.lab.inet, "secret")?];
    let clear = Capture::start(mesh.pod("b1")?, "clear")?;
    download_from(client, "park", &mesh.small, 120)?;
    wait_path(mesh, &["relay"], 10)?;
    ensure!(clear.stop()?.contains(MARKER.as_bytes()), "the marker is not even in the pod's own packets");
    let size = crate::mesh::SMALL << 20;
    for capture in captures {
        let recording = capture.stop()?;
        ensure!(recording.len() as u64 > size, "only {} bytes went past: not this way", recording.len());
        // Any stretch of the marker will do, wherever packets were cut.
        for part in MARKER.as_bytes().chunks_exact(12) {
            ensure!(!recording.contains(part), "payload in clear: {:?}", String::from_utf8_lossy(part));
        }
    }
    Ok(())
}
