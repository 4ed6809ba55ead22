//! Agents are killed, and replaced by other builds, in the middle of fifty downloads, fifty uploads, a stream of UDP each
//! way and a client that asks for names without pause. Nothing is reset, every byte is right, and the longest pause
//! between two arrivals stays below a second.

use std::fs;
use std::path::PathBuf;

use crate::machine::Machine;
use crate::mesh::{Mesh, Served, served};
use crate::process::Process;
use crate::product::{Agent, other_build, tail};
use crate::wait::{secs, wait_until};
use crate::workloads::{Crowd, Transfer};
use crate::{Context, Result, ensure};

use super::reach::answers;

/// Transfers each way.
const MANY: usize = 50;
/// Size of each in MiB, and how much of it a second may bring: they last eight seconds.
const PIECE: u64 = 1;
const RATE: &str = "128K";
/// The longest pause.
const GAP: u64 = 1_000;
/// Port of both streams.
const PORT: u16 = 7102;
/// As this build calls itself, and as the next one would.
const BUILD: [&str; 2] = [concat!("edgemesh-agent/", env!("CARGO_PKG_VERSION")), "edgemesh-agent/9.9.9"];
/// The flow table's kind and layout number, and another one.
const LAYOUT: [&str; 2] = ["EDGEMESH-FLOWS 2\n", "EDGEMESH-FLOWS 9\n"];
/// What the log says of a flow table that cannot be gone on with.
const REFUSED: &str = "flow table of an earlier run refused";

/// What is measured while agents are replaced: arrivals of the two streams, and of answers.
struct Meters {
    /// What is measured, and the program that does.
    arrivals: Vec<(&'static str, Process)>,
    _streams: [Process; 2],
}

impl Meters {
    /// Between a1 and b1, both ways, every 5 ms; names are asked for in a pod of each.
    fn start(mesh: &Mesh) -> Result<Self> {
        let (port, host) = (PORT.to_string(), |name: &str| format!("{name}:{PORT}"));
        let (a1, b1) = (mesh.pod("a1")?, mesh.pod("b1")?);
        let sink = |pod: &Machine| pod.tool("gap-sink", &["udp-sink", &port]);
        let stream = |pod: &Machine, to: &str| pod.tool("gap-stream", &["udp-stream", &host(to), "5"]);
        let name = "park.default.svc.cluster.local";
        let ask = |pod: &Machine| pod.tool("gap-dns", &["dns-ask", name, "5"]);
        Ok(Self {
            arrivals: vec![
                ("datagrams at b1", sink(b1)?),
                ("datagrams at a1", sink(a1)?),
                ("answers at a1", ask(mesh.lab.a1.pod(2)?)?),
                ("answers at b1", ask(mesh.lab.b1.pod(2)?)?),
            ],
            _streams: [stream(mesh.lab.a1.pod(2)?, "park")?, stream(mesh.lab.b1.pod(2)?, "own")?],
        })
    }

    /// Something arrives everywhere, from now on.
    fn wait_flowing(&self) -> Result {
        let counts = || self.arrivals.iter().map(|(_, meter)| told(meter, "count ")).collect::<Vec<_>>();
        let before = counts();
        wait_until("both streams and both clients run", secs(10), || {
            let now = counts();
            // The first of them may have been under way.
            let moved = before.iter().zip(&now).all(|(before, now)| *now > before.saturating_add(20));
            ensure!(moved, "{before:?}, now {now:?}");
            Ok(())
        })
    }

    /// All go on, and none paused for longer than [`GAP`]; how long each did, in ms.
    fn must_be_short(&mut self) -> Result<Vec<u64>> {
        self.wait_flowing()?;
        let mut pauses = Vec::new();
        for (what, meter) in &mut self.arrivals {
            ensure!(meter.is_running(), "{what}: {}", meter.log());
            pauses.push((*what, told(meter, "longest ")));
        }
        ensure!(pauses.iter().all(|(_, pause)| *pause < GAP), "the longest pauses in ms: {pauses:?}");
        Ok(pauses.into_iter().map(|(_, pause)| pause).collect())
    }
}

/// The last number that a meter told under this name.
fn told(meter: &Process, name: &str) -> u64 {
    let log = meter.log();
    let last = log.lines().rev().find_map(|line| line.strip_prefix(name)?.parse().ok());
    last.unwrap_or(0)
}

/// Adds the streams' port to the Services on both nodes.
fn add_port(mesh: &Mesh) -> Result {
    for name in ["park", "own"] {
        let service = crate::mesh::service(name)?.port("UDP", "gaps", PORT, PORT);
        service.write_to(mesh.server.manifests())?;
    }
    for (node, name) in [("a1", "park"), ("b1", "own")] {
        let question = format!("_gaps._udp.{name}.default.svc.cluster.local");
        wait_until("the new port is known", secs(10), || {
            let srv = mesh.pod(node)?.check(&["dig", "+short", &question, "SRV"])?;
            ensure!(srv.contains(&PORT.to_string()), "SRV at {node}: {srv:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// Fifty downloads and fifty uploads that are under way.
struct Many {
    download: Crowd,
    upload: Crowd,
    sum: String,
}

impl Many {
    fn start(mesh: &Mesh, piece: &Served) -> Result<Self> {
        let (client, server) = (mesh.pod("a1")?, mesh.pod("b1")?);
        let url = format!("http://park/at/128k/{}", piece.name);
        let to = ("park", server);
        Ok(Self {
            download: Crowd::download(client, "fifty-down", &url, MANY)?,
            upload: Crowd::upload(client, "fifty-up", to, &piece.path, MANY, RATE)?,
            sum: piece.sum.clone(),
        })
    }

    fn must_run(&mut self) -> Result {
        ensure!(self.download.is_running() && self.upload.is_running(), "transfers ended before the kill");
        Ok(())
    }

    fn finish(self) -> Result {
        self.download.finish(&self.sum, secs(60)).context("downloads")?;
        self.upload.finish(&self.sum, secs(60)).context("uploads")
    }
}

/// The agent of the client's node dies and comes back, then that of the server's.
pub(super) fn fifty_transfers(mesh: &mut Mesh) -> Result {
    add_port(mesh)?;
    answers(mesh.pod("a1")?, "park", "b1-p1")?;
    let files = mesh.small.path.parent().context("served files")?.to_owned();
    let piece = served(&files, "piece.bin", PIECE)?;
    let mut pauses = Vec::new();
    let mut many = Many::start(mesh, &piece)?;
    for victim in ["a1", "b1"] {
        let mut meters = Meters::start(mesh)?;
        meters.wait_flowing()?;
        many.must_run().context(victim)?;
        let (agent, node) = mesh.agent_mut(victim)?;
        agent.restart(node)?;
        agent.wait_ready()?;
        went_on(agent)?;
        pauses.extend(meters.must_be_short().context(format!("agent of {victim} killed"))?);
    }
    many.finish()?;
    println!("      longest pauses in ms, a1 killed, then b1: {pauses:?}");
    Ok(())
}

/// Its log says nothing of a flow table that was refused.
fn went_on(agent: &Agent) -> Result {
    let log = agent.process.log();
    ensure!(!log.contains(REFUSED), "{}", tail(&log));
    Ok(())
}

/// Its log says that a flow table was refused, and why.
fn began_anew(agent: &Agent, why: &str) -> Result {
    let log = agent.process.log();
    let told = log.lines().any(|line| line.contains(REFUSED) && line.contains(why));
    ensure!(told, "no word of a table refused because {why:?}: {}", tail(&log));
    Ok(())
}

/// Another build takes over, and this one again; one with another layout of the flow table says so and begins anew, and
/// so does this one after it.
pub(super) fn other_builds(mesh: &mut Mesh) -> Result {
    add_port(mesh)?;
    answers(mesh.pod("a1")?, "park", "b1-p1")?;
    let own = PathBuf::from(crate::product::binary("edgemesh-agent")?);
    let next = other_build("edgemesh-agent", mesh.lab.directory(), BUILD[0], BUILD[1])?;
    let foreign = other_build("edgemesh-agent", mesh.lab.directory(), LAYOUT[0], LAYOUT[1])?;
    let url = format!("http://park/at/2m/{}", mesh.small.name);
    let mut download = Transfer::start(mesh.pod("a1")?, "upgrade-down", &url)?;
    let mut pauses = Vec::new();
    for (program, version) in [(&next, "9.9.9"), (&own, env!("CARGO_PKG_VERSION"))] {
        let mut meters = Meters::start(mesh)?;
        meters.wait_flowing()?;
        let (agent, node) = mesh.agent_mut("a1")?;
        agent.replace_by(node, program)?;
        agent.wait_ready()?;
        let status = agent.json(node, "status")?;
        ensure!(status["version"] == version, "{version} was started: {status}");
        went_on(agent)?;
        pauses.extend(meters.must_be_short().context(version)?);
        ensure!(download.is_running(), "the download ended: {}", download.log());
    }
    println!("      longest pauses in ms, upgrade, then back: {pauses:?}");
    download.finish(&mesh.small.sum, secs(60))?;
    for (program, why) in [(&foreign, "of another build"), (&own, "of another build")] {
        let (agent, node) = mesh.agent_mut("a1")?;
        agent.replace_by(node, program)?;
        agent.wait_ready()?;
        began_anew(agent, why)?;
        answers(mesh.pod("a1")?, "park", "b1-p1").context("after a clean start")?;
    }
    Ok(())
}

/// Where a running agent keeps its flows for the next run: it has the file mapped.
fn flow_table(agent: &Agent) -> Result<PathBuf> {
    let maps =
        fs::read_to_string(format!("/proc/{}/maps", agent.process.pid())).context("the agent's memory")?;
    let path = maps.lines().filter_map(|line| line.find('/').and_then(|at| line.get(at..)));
    let table = path.into_iter().find(|path| path.contains("/edgemesh-flows-"));
    Ok(table.context("a mapped flow table")?.into())
}

/// What befalls the bytes of a flow table.
type Damage = fn(&mut Vec<u8>);

/// What is kept for the next run holds no key; when it was damaged, the log says so and the agent begins anew.
pub(super) fn damaged_flow_table(mesh: &mut Mesh) -> Result {
    answers(mesh.pod("a1")?, "park", "b1-p1")?;
    let (agent, node) = mesh.agent_mut("a1")?;
    let table = flow_table(agent)?;
    agent.process.kill();
    let key = fs::read(Agent::state(node).join("identity")).context("the node's key")?;
    let bytes = fs::read(&table).context(table.display())?;
    ensure!(bytes.iter().any(|byte| *byte != 0), "{} is empty", table.display());
    ensure!(!bytes.windows(key.len()).any(|part| part == key), "{} holds the key", table.display());
    let damage: [(Damage, &str); 3] = [
        (|table| table.truncate(100_000), "cut off"),
        (|table| table.iter_mut().take(1).for_each(|byte| *byte ^= 1), "damaged"),
        (|table| table.iter_mut().skip(60).take(1).for_each(|byte| *byte ^= 1), "of another boot"),
    ];
    for (change, why) in damage {
        let (agent, node) = mesh.agent_mut("a1")?;
        agent.process.kill();
        let mut bytes = fs::read(&table).context(table.display())?;
        change(&mut bytes);
        fs::write(&table, bytes).context(table.display())?;
        agent.restart(node)?;
        agent.wait_ready()?;
        began_anew(agent, why)?;
        answers(mesh.pod("a1")?, "park", "b1-p1").context(why)?;
    }
    Ok(())
}
