//! What strangers, eavesdroppers, greedy pods and a server of somebody else's can do: cost a counter.

use core::net::SocketAddrV4;
use std::fs;
use std::net::Ipv4Addr;

use edgemesh_core::noise::StaticSecret;

use crate::capture::Capture;
use crate::machine::Machine;
use crate::mesh::Mesh;
use crate::nat::Policy;
use crate::process::Process;
use crate::product::{Agent, SERVER_PORT, Server, sum_metric, tail};
use crate::topology::{CLOUD_NODE, SERVER};
use crate::wait::{secs, wait_until};
use crate::wireguard::hex;
use crate::workloads::Transfer;
use crate::{Context, Result, ensure};

use super::reach::answers;

/// Where agents receive.
const AGENT_PORT: u16 = 20_006;
/// The cloud node's agent, which everybody can send to.
const CLOUD: SocketAddrV4 = SocketAddrV4::new(CLOUD_NODE, AGENT_PORT);
/// Handshakes a second, and for how long.
const FLOOD: u32 = 50_000;
const FLOOD_SECONDS: u32 = 3;
/// Of so many floods one has to go well.
const FLOODS: u32 = 3;
/// Milliseconds between the datagrams of the stream that has to get through.
const EVERY: u64 = 5;

/// A stream of datagrams from a1 to a sink in the cloud, and what of it arrives.
struct Stream {
    sink: Process,
    _stream: Process,
}

impl Stream {
    fn start(mesh: &Mesh, port: u16) -> Result<Self> {
        let service = crate::mesh::service("sky")?.port("UDP", "attack", port, port);
        service.write_to(mesh.server.manifests())?;
        let client = mesh.pod("a1")?;
        wait_until("the new port is known", secs(10), || {
            let question = "_attack._udp.sky.default.svc.cluster.local";
            let srv = client.check(&["dig", "+short", question, "SRV"])?;
            ensure!(srv.contains(&port.to_string()), "SRV: {srv:?}");
            Ok(())
        })?;
        let sink = mesh.pod("cloud")?.tool("attack-sink", &["udp-sink", &port.to_string()])?;
        let words = ["udp-stream", &format!("sky:{port}"), &EVERY.to_string()];
        let stream = Self { sink, _stream: client.tool("attack-stream", &words)? };
        stream.wait_more()?;
        Ok(stream)
    }

    /// Datagrams that have arrived so far, to the last twenty.
    fn arrived(&self) -> u64 {
        self.told("count ")
    }

    fn told(&self, name: &str) -> u64 {
        let log = self.sink.log();
        let last = log.lines().rev().find_map(|line| line.strip_prefix(name));
        last.and_then(|count| count.parse().ok()).unwrap_or(0)
    }

    fn wait_more(&self) -> Result {
        let before = self.arrived();
        wait_until("datagrams arrive", secs(10), || {
            ensure!(self.arrived() > before, "{before} so far");
            Ok(())
        })
    }
}

/// A node's public key, as everybody in the mesh knows it.
fn public_key(machine: &Machine) -> Result<String> {
    let secret = fs::read(Agent::state(machine).join("identity")).context("the node's key")?;
    let secret = secret.first_chunk::<32>().context("the node's key")?;
    Ok(hex(&StaticSecret::from_bytes(*secret).public().0))
}

/// Seconds of processor time that a process has used.
fn cpu(process: &Process) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid())).context("process times")?;
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    // USER_HZ is 100 wherever Linux tells user space of ticks.
    Ok(ticks / 100.0)
}

/// Somebody sends 50,000 handshakes a second to the cloud node: what goes there from a1 gets through all the while, new
/// sessions are made, and the agent uses less than one core.
pub(super) fn handshake_flood(mesh: &mut Mesh) -> Result {
    let stream = Stream::start(mesh, 7103)?;
    let refused = |mesh: &Mesh| mesh.agent("cloud").and_then(|(agent, _)| agent.metric(&["handshake_limit"]));
    let before = refused(mesh)?;
    // Processor time that a host takes from a virtual machine is neither the flood's doing nor the agent's.
    let mut outcome = flooded(mesh, &stream);
    for _ in 1..FLOODS {
        outcome = outcome.or_else(|_| flooded(mesh, &stream));
    }
    outcome?;
    ensure!(refused(mesh)? > before, "nothing was refused: did the flood arrive?");
    answers(mesh.pod("b1")?, "sky", "cloud-p1").context("a connection after the flood")
}

/// One flood, and how the agent and the stream fare in it.
fn flooded(mesh: &Mesh, stream: &Stream) -> Result {
    let key = public_key(&mesh.lab.cloud)?;
    let (agent, _) = mesh.agent("cloud")?;
    let (busy, arrived, sent) = (cpu(&agent.process)?, stream.arrived(), stream.told("sent "));
    let words = ["attack-flood", &CLOUD.to_string(), &key, &FLOOD.to_string(), &FLOOD_SECONDS.to_string()];
    let said = mesh.lab.server.run_tool(&words, secs(60))?;
    let used = cpu(&agent.process)? - busy;
    let (through, whole) = (stream.arrived() - arrived, stream.told("sent ") - sent);
    let rate: u64 =
        said.rsplit("at ").next().and_then(|rest| rest.split(' ').next()?.parse().ok()).context(&said)?;
    // A slow machine floods slower, and for longer.
    let seconds = f64::from(FLOOD) * f64::from(FLOOD_SECONDS) / rate as f64;
    let share = used / seconds;
    println!("      {} in {seconds:.1} s: {share:.2} cores, {through} of {whole} datagrams", said.trim());
    ensure!(share < 1.0, "the agent used {share:.2} cores");
    // A machine that cannot send that many has no time for the agent either: then this says nothing about it.
    let flooded = rate * 10 >= u64::from(FLOOD) * 9;
    ensure!(!flooded || through * 10 >= whole * 8, "{through} of {whole} datagrams arrived");
    Ok(())
}

/// What was captured is sent again, from where it came from and from elsewhere, to the node and to the relay: nothing
/// arrives twice, and nobody is led astray.
pub(super) fn replays(mesh: &mut Mesh) -> Result {
    let stream = Stream::start(mesh, 7104)?;
    let (agent, node) = mesh.agent("a1")?;
    agent.wait_path(node, "cloud", &["direct"], secs(20))?;
    let file = capture(&mesh.lab.cloud, "to-cloud", &stream)?;
    let (cloud, cloud_node) = mesh.agent("cloud")?;
    let (before, refused) = (cloud.peer(cloud_node, "a1")?, cloud.metric(&["reason=\"replay\""])?);
    let arrived = (stream.arrived(), std::time::Instant::now());
    let words = ["attack-replay", &file, &CLOUD.to_string(), &CLOUD.to_string(), "3"];
    mesh.lab.server.run_tool(&words, secs(60))?;
    let most = arrived.1.elapsed().as_millis() / u128::from(EVERY) + 40;
    ensure!(cloud.metric(&["reason=\"replay\""])? > refused, "no replay was refused: did they arrive?");
    let more = stream.arrived() - arrived.0;
    ensure!(u128::from(more) <= most, "{more} datagrams arrived where {most} were sent");
    let after = cloud.peer(cloud_node, "a1")?;
    ensure!(before["remote"] == after["remote"], "a replay moved the path: {before}, now {after}");

    // The same over the relay: envelopes from elsewhere lead nowhere, and only the relay's own are taken.
    let relay_only = Policy { no_udp_between_sites: true, no_udp_to_cloud_node: false, ..Policy::default() };
    mesh.lab.inet.set_policy(relay_only)?;
    answers(mesh.pod("a1")?, "park", "b1-p1").context("over the relay")?;
    let relay = SocketAddrV4::new(SERVER, SERVER_PORT);
    let recorder = Capture::start(&mesh.lab.server, "to-relay")?;
    for _ in 0..20 {
        answers(mesh.pod("a1")?, "park", "b1-p1")?;
    }
    let file = recorder.keep()?;
    let lost = |mesh: &Mesh, reason: &str| -> Result<f64> {
        let (_, metrics) = mesh.server.admin(&mesh.lab.server, "/metrics")?;
        Ok(sum_metric(&metrics, &["edgemesh_", reason]))
    };
    let before = lost(mesh, "wrong_source")?;
    let words = ["attack-replay", &file, &relay.to_string(), &relay.to_string(), "2"];
    mesh.lab.cloud.run_tool(&words, secs(60))?;
    ensure!(lost(mesh, "wrong_source")? > before, "no envelope was refused for its source");
    let (cloud, _) = mesh.agent("cloud")?;
    let refused = cloud.metric(&["reason=\"relay\""])?;
    let words = ["attack-replay", &file, &relay.to_string(), &CLOUD.to_string(), "1"];
    mesh.lab.inet.run_tool(&words, secs(60))?;
    ensure!(cloud.metric(&["reason=\"relay\""])? > refused, "an envelope of nobody's was taken");
    let (agent, node) = mesh.agent("a1")?;
    agent.wait_path(node, "b1", &["relay"], secs(5))?;
    answers(mesh.pod("a1")?, "park", "b1-p1").context("after the replays")
}

/// A recording of what a machine receives while a stream runs; where it is.
fn capture(machine: &Machine, label: &str, stream: &Stream) -> Result<String> {
    let recorder = Capture::start(machine, label)?;
    for _ in 0..5 {
        stream.wait_more()?;
    }
    recorder.keep()
}

/// A pod opens more flows than there are places: it only takes its own; other pods of its node, and other nodes of the
/// endpoint's, go on as before.
pub(super) fn exhaustion(mesh: &mut Mesh) -> Result {
    for node in ["a1", "a2"] {
        answers(mesh.pod(node)?, "park", "b1-p1")?;
    }
    let held = Transfer::start(mesh.lab.a1.pod(2)?, "held-down", "http://park/at/2m/big.bin")?;
    held.wait_progress(secs(10))?;
    // Those that are answered cannot be replaced. The table has 65,536 places, of which a pod may have three quarters.
    let words = ["attack-flows", "64000", "10.96.0.10:7000"];
    let said = mesh.pod("a1")?.run_tool(&words, secs(120))?;
    held.wait_progress(secs(5)).context("a connection of another pod")?;
    for _ in 0..20 {
        answers(mesh.lab.a1.pod(2)?, "park", "b1-p1").context("another pod of the node")?;
        answers(mesh.pod("a2")?, "park", "b1-p1").context("a pod of another node")?;
        answers(&mesh.lab.a1, "park", "b1-p1").context("the node itself")?;
    }
    let (a1, _) = mesh.agent("a1")?;
    let (b1, _) = mesh.agent("b1")?;
    let full = [a1.metric(&["flows_full"])?, a1.metric(&["ports_full"])?, b1.metric(&["admitted_full"])?];
    println!("      {}: refused by a1's flows, its ports, b1's tuples: {full:?}", said.trim());
    let answered: u32 =
        said.split_whitespace().nth(2).and_then(|word| word.parse().ok()).context("a count")?;
    ensure!((48_000..=49_152).contains(&answered), "{answered} of its flows found a place");
    ensure!(full.iter().any(|count| *count > 0.0), "the pod found a place for everything");
    held.wait_progress(secs(5)).context("afterwards")
}

/// Forged ICMP errors about the tunnel's own datagrams: a download goes on, by the same path.
pub(super) fn icmp_errors(mesh: &mut Mesh) -> Result {
    answers(mesh.pod("a1")?, "sky", "cloud-p1")?;
    let (agent, node) = mesh.agent("a1")?;
    agent.wait_path(node, "cloud", &["direct"], secs(20))?;
    let url = format!("http://sky/at/8m/{}", mesh.small.name);
    let download = Transfer::start(mesh.pod("a1")?, "icmp-down", &url)?;
    download.wait_progress(secs(10))?;
    let (cloud, cloud_node) = mesh.agent("cloud")?;
    let remote = cloud.peer(cloud_node, "a1")?["remote"].as_str().context("remote")?.to_owned();
    for code in ["3", "4"] {
        let words = ["attack-icmp", &CLOUD.to_string(), &remote, code, "200"];
        mesh.lab.inet.run_tool(&words, secs(20))?;
        download.wait_progress(secs(3)).context(format!("code {code}"))?;
    }
    let path = cloud.peer(cloud_node, "a1")?;
    ensure!(path["path"] == "direct" && path["remote"] == remote.as_str(), "it was {remote}, now {path}");
    download.finish(&mesh.small.sum, secs(60))
}

/// Somebody else's server answers at the server's address: nodes do not believe it, say so and go on; it does not let them
/// in either. When their own is back, so are they.
pub(super) fn other_server(mesh: &mut Mesh) -> Result {
    answers(mesh.pod("a1")?, "park", "b1-p1")?;
    mesh.server.process.kill();
    let foreign = Machine::directory(&mesh.lab.server).join("foreign");
    let manifests = foreign.join("manifests");
    fs::create_dir_all(&manifests).context(manifests.display())?;
    let evil = crate::mesh::service("park")?;
    let evil = crate::manifests::Service { endpoints: Vec::new(), ..evil }
        .endpoint("a2", Ipv4Addr::new(172, 17, 0, 2));
    evil.write_to(&manifests)?;
    let mut other = Server::start_in(&mesh.lab.server, &foreign)?;
    other.wait_ready(&mesh.lab.server)?;
    for agent in &mut mesh.agents {
        let told = |agent: &Process| {
            let log = agent.log();
            ensure!(log.contains("authentication"), "no word of a server that is not ours: {}", tail(&log));
            Ok(())
        };
        agent.process.wait_until("the agent refuses the server", secs(15), |process| told(process))?;
    }
    for _ in 0..5 {
        answers(mesh.pod("a1")?, "park", "b1-p1").context("with a foreign server")?;
    }
    let (agent, node) = mesh.agent("a1")?;
    let status = agent.json(node, "status")?;
    ensure!(status["connected"] == false, "it believes the foreign server: {status}");
    other.process.kill();
    mesh.server.restart(&mesh.lab.server)?;
    let (agent, node) = mesh.agent("a1")?;
    wait_until("the node's own server is believed", secs(30), || {
        let status = agent.json(node, "status")?;
        ensure!(status["connected"] == true, "{status}");
        Ok(())
    })?;
    answers(mesh.pod("a1")?, "park", "b1-p1")
}
