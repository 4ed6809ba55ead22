//! `make demo`: the main job in stages, each told in plain words and each checked.
//!
//! The sites' NATs are ordinary ones. At first nothing passes straight between the sites, so that the relay is seen
//! at work; then the internet opens, and what runs moves to the direct path.
//!
//! Not here: what scenarios show in more depth.

use std::path::Path;
use std::time::Instant;

use crate::capture::Capture;
use crate::mesh::{Mesh, PORTS};
use crate::nat::Policy;
use crate::snapshot::Snapshot;
use crate::topology::SERVER;
use crate::wait::{secs, wait_until};
use crate::workloads::{MARKER, Transfer, curl, throughput};
use crate::{Context, Result, ensure};

/// Nothing straight between the sites.
const CLOSED: Policy =
    Policy { no_udp_between_sites: true, no_udp_to_cloud_node: false, no_udp: false, no_server: false };
/// Resident memory in bytes that an agent and the server may each use.
const RSS_LIMIT: u64 = 15_000_000;
/// Seconds of each throughput measurement.
const MEASURE: u32 = 3;

const PICTURE: &str = "
             the internet
      |            |            |
    NAT A     cloud network   NAT B           both sites use 192.168.1.0/24,
      |        |        |       |             every node has pods in 172.17.0.0/16
   a1   a2   server   cloud    b1             (a1 and b1 even share an address)
";

/// Runs the demo.
///
/// # Errors
/// When a stage does not show what it says.
pub fn run(directory: &Path) -> Result {
    let started = Instant::now();
    stage("Building the networks and starting the programs");
    println!("{PICTURE}");
    let mut mesh = Mesh::prepare(directory)?;
    let before = Snapshot::of(&mesh.lab.a1)?;
    mesh.lab.inet.set_policy(CLOSED)?;
    told(&mut mesh, |mesh| {
        join(mesh)?;
        three_scenarios(mesh)?;
        relay(mesh)?;
        moves(mesh)?;
        direct(mesh)?;
        tcp(mesh)?;
        restarts(mesh)?;
        memory(mesh)?;
        leave(mesh, &before)
    })?;
    println!("\nAll shown, in {} s. Nothing is left behind.", started.elapsed().as_secs());
    Ok(())
}

fn told(mesh: &mut Mesh, stages: impl FnOnce(&mut Mesh) -> Result) -> Result {
    stages(mesh).map_err(|error| crate::Error::new(format!("{error}\n{}", mesh.logs())))
}

fn stage(title: &str) {
    println!("\n== {title}");
}

fn join(mesh: &mut Mesh) -> Result {
    println!("edgemesh-server listens at {SERVER}; it hands out one join token per node.");
    let began = Instant::now();
    mesh.join_all()?;
    println!(
        "Agents on a1, a2, b1 and cloud joined and are ready after {:.1} s.",
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

/// An unmodified curl in a pod asks a Service by name; says who answered and how.
fn ask(mesh: &Mesh, from: &str, service: &str, node: &str, expected: &str) -> Result {
    let client = mesh.pod(from)?;
    let name = format!("{service}.default.svc.cluster.local");
    let resolved = client.check(&["dig", "+short", &name, "A"])?;
    let began = Instant::now();
    let said = curl(client, &format!("http://{service}/"))?;
    let took = began.elapsed().as_millis();
    ensure!(said.trim() == expected, "{service} was answered by {said}");
    let way = if from == node { "on its own node".to_owned() } else { way(mesh, from, node)? };
    println!(
        "{:<8} curl http://{service}/ -> {} -> {expected:<8} {took:>4} ms, {way}",
        client.name,
        resolved.trim()
    );
    Ok(())
}

/// The path from one node to another in words.
fn way(mesh: &Mesh, from: &str, to: &str) -> Result<String> {
    let (agent, node) = mesh.agent(from)?;
    let peer = agent.peer(node, to)?;
    let rtt = peer["rttMs"].as_f64().map(|rtt| format!(", RTT {rtt:.1} ms")).unwrap_or_default();
    Ok(match peer["path"].as_str() {
        Some("direct") => format!("direct to {}{rtt}", peer["remote"].as_str().unwrap_or("?")),
        Some("relay") => format!("over the server's relay{rtt}"),
        Some("relay-tcp") => format!("over the server's relay, by TCP{rtt}"),
        _ => format!("path {}", peer["path"]),
    })
}

fn wait_path(mesh: &Mesh, paths: &[&str]) -> Result {
    let (agent, node) = mesh.agent("a1")?;
    agent.wait_path(node, "b1", paths, secs(40)).map(|_| ())
}

fn three_scenarios(mesh: &mut Mesh) -> Result {
    stage("Three scenarios, one experience: resolve a Service name and connect");
    println!("1. one subnet");
    ask(mesh, "a1", "near", "a2", "a2-p1")?;
    println!("2. two sites, each behind a NAT");
    ask(mesh, "a1", "park", "b1", "b1-p1")?;
    ask(mesh, "b1", "own", "a1", "a1-p1")?;
    println!("3. edge to cloud, cloud to edge");
    ask(mesh, "a1", "sky", "cloud", "cloud-p1")?;
    ask(mesh, "cloud", "park", "b1", "b1-p1")?;
    println!("and a pod reaches itself through its own Service");
    ask(mesh, "a1", "own", "a1", "a1-p1")
}

fn measure(mesh: &Mesh, service: &str) -> Result<f64> {
    let port = PORTS.iter().find(|port| port.1 == "iperf").map_or(5201, |port| port.2);
    throughput(mesh.pod("a1")?, service, port, MEASURE)
}

fn relay(mesh: &mut Mesh) -> Result {
    stage("Nothing passes straight between the sites yet: the server relays, and cannot read");
    wait_path(mesh, &["relay"])?;
    let capture = Capture::start(&mesh.lab.server, "relay")?;
    let transfer = Transfer::start(mesh.pod("a1")?, "relayed", "http://park/files/small.bin")?;
    transfer.finish(&mesh.small.sum, secs(60))?;
    let recording = capture.stop()?;
    ensure!(recording.len() as u64 > crate::mesh::SMALL << 20, "the payload did not go over the server");
    ensure!(!recording.contains(MARKER.as_bytes()), "the server can read the payload");
    println!(
        "A {} MiB download came with the right checksum. A capture on the server of {} MiB holds no byte of it.",
        crate::mesh::SMALL,
        recording.len() >> 20
    );
    println!("Throughput a1 -> b1 {}: {:.0} Mbit/s", way(mesh, "a1", "b1")?, measure(mesh, "park")?);
    Ok(())
}

fn moves(mesh: &mut Mesh) -> Result {
    stage("A download runs while the path changes under it");
    let transfer = Transfer::start(mesh.pod("a1")?, "moving", "http://park/at/3m/big.bin")?;
    transfer.wait_progress(secs(10))?;
    for (event, policy, path) in [
        ("at the start", CLOSED, "relay"),
        ("the internet opens", Policy::default(), "direct"),
        ("the direct way is cut", CLOSED, "relay"),
        ("it opens again", Policy::default(), "direct"),
    ] {
        mesh.lab.inet.set_policy(policy)?;
        let began = Instant::now();
        wait_path(mesh, &[path]).context(event)?;
        transfer.wait_progress(secs(5)).context(event)?;
        let (way, received) = (way(mesh, "a1", "b1")?, transfer.received() >> 20);
        println!("{event:<22} after {:>4.1} s {way}; {received} MiB so far", began.elapsed().as_secs_f64());
    }
    transfer.finish(&mesh.big.sum, secs(120))?;
    println!("{} MiB arrived over one unbroken connection, checksum right.", crate::mesh::BIG);
    Ok(())
}

fn direct(mesh: &mut Mesh) -> Result {
    stage("Straight through both NATs");
    println!("Throughput a1 -> b1 {}: {:.0} Mbit/s", way(mesh, "a1", "b1")?, measure(mesh, "park")?);
    println!("Throughput a1 -> a2 {}: {:.0} Mbit/s", way(mesh, "a1", "a2")?, measure(mesh, "near")?);
    Ok(())
}

fn tcp(mesh: &mut Mesh) -> Result {
    stage("A firewall that blocks UDP altogether");
    mesh.lab.inet.set_policy(Policy { no_udp: true, ..Policy::default() })?;
    wait_path(mesh, &["relay-tcp"])?;
    ask(mesh, "a1", "park", "b1", "b1-p1")?;
    mesh.lab.inet.set_policy(Policy::default())?;
    wait_path(mesh, &["direct", "relay"])?;
    println!("UDP is back: {}", way(mesh, "a1", "b1")?);
    Ok(())
}

fn restarts(mesh: &mut Mesh) -> Result {
    stage("Agent and server are killed and started again under a download");
    let transfer = Transfer::start(mesh.pod("a1")?, "killed", "http://park/at/20m/big.bin")?;
    transfer.wait_progress(secs(10))?;
    let began = Instant::now();
    let (agent, node) = mesh.agent_mut("a1")?;
    agent.restart(node)?;
    transfer.wait_progress(secs(3)).context("after the agent was killed")?;
    println!(
        "a1's agent: killed, started; the download goes on after {:.1} s",
        began.elapsed().as_secs_f64()
    );
    let began = Instant::now();
    mesh.server.restart(&mesh.lab.server)?;
    transfer.wait_progress(secs(3)).context("after the server was killed")?;
    println!(
        "the server: killed, started; the download goes on after {:.1} s",
        began.elapsed().as_secs_f64()
    );
    transfer.finish(&mesh.big.sum, secs(120))?;
    println!("{} MiB arrived, checksum right.", crate::mesh::BIG);
    let (client, port) = (mesh.pod("b1")?, "80");
    wait_until("new connections are made", secs(10), || {
        client.check(&["curl", "-sS", "--max-time", "3", &format!("http://own:{port}/")]).map(|_| ())
    })
}

fn memory(mesh: &mut Mesh) -> Result {
    stage("Memory after all that");
    let mut used = vec![("server".to_owned(), mesh.server.process.rss()?)];
    for agent in &mesh.agents {
        used.push((format!("agent {}", agent.node), agent.process.rss()?));
    }
    for (who, bytes) in used {
        println!("{who:<12} {:>5.1} MB resident", bytes as f64 / 1e6);
        ensure!(bytes <= RSS_LIMIT, "{who} uses {bytes} bytes, more than {RSS_LIMIT}");
    }
    Ok(())
}

fn leave(mesh: &mut Mesh, before: &Snapshot) -> Result {
    stage("Cleaning up");
    let (agent, node) = mesh.agent_mut("a1")?;
    agent.stop_and_cleanup(node)?;
    before.must_equal(&Snapshot::of(node)?)?;
    println!("a1 after `edgemesh-agent cleanup`: addresses, routes, rules, devices and sysctls as before.");
    Ok(())
}
