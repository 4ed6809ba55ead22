//! Programs are killed and started again; what runs over them goes on within three seconds.

use std::path::PathBuf;

use crate::machine::Machine;
use crate::mesh::{Mesh, Served};
use crate::nat::Policy;
use crate::process::Process;
use crate::product::Agent;
use crate::snapshot::Snapshot;
use crate::wait::{secs, wait_until};
use crate::workloads::{Transfer, size_of_files, uploading};
use crate::{Context, Result, ensure, fail};

use super::reach::answers;

/// How soon service must resume.
pub(super) const SOON: core::time::Duration = secs(3);

/// Slow enough that the upload of a 256 MiB file lasts a minute, like its download at `/at/4m/`.
const RATE: &str = "4M";

/// What runs while something is killed: one upload, one download and one stream of UDP, each one-way.
pub(super) struct Load {
    download: Transfer,
    upload: Process,
    /// Where the server keeps what is being uploaded.
    uploads: PathBuf,
    stream: Process,
    sink: Process,
}

impl Load {
    /// From a1's pods to `park`.
    pub(super) fn on(mesh: &Mesh) -> Result<Self> {
        answers(mesh.pod("a1")?, "park", "b1-p1")?;
        Self::start([mesh.lab.a1.pod(1)?, mesh.lab.a1.pod(2)?, mesh.pod("b1")?], "park", "park", &mesh.big)
    }

    /// Between machines: who transfers, who streams, and the server, reached as `web` and as `host`.
    pub(super) fn start(machines: [&Machine; 3], web: &str, host: &str, file: &Served) -> Result<Self> {
        let [client, streamer, server] = machines;
        let path = file.path.to_string_lossy();
        let url = format!("http://{web}/upload/load");
        let down = format!("http://{web}/at/4m/{}", file.name);
        let load = Self {
            download: Transfer::start(client, "load-down", &down)?,
            upload: client
                .spawn("load-up", &["curl", "-sS", "--fail", "--limit-rate", RATE, "-T", &path, &url])?,
            uploads: uploading(server, 8080),
            // A port of its own: what other scenarios sent is not counted.
            sink: server.tool("load-sink", &["udp-sink", "7101"])?,
            stream: streamer.tool("load-stream", &["udp-stream", &format!("{host}:7101"), "10"])?,
        };
        load.goes_on(secs(15)).context("before anything is killed")?;
        Ok(load)
    }

    /// Each of the three must make progress from now on, within `limit`.
    pub(super) fn goes_on(&self, limit: core::time::Duration) -> Result {
        let before = (self.download.received(), size_of_files(&self.uploads), self.datagrams());
        wait_until("download, upload and datagrams go on", limit, || {
            let now = (self.download.received(), size_of_files(&self.uploads), self.datagrams());
            let moved = now.0 > before.0 && now.1 > before.1 && now.2 > before.2;
            ensure!(moved, "download, upload (bytes), datagrams: {before:?}, now {now:?}");
            Ok(())
        })
    }

    fn datagrams(&self) -> u64 {
        let log = self.sink.log();
        let last = log.lines().rev().find_map(|line| line.strip_prefix("count "));
        last.and_then(|count| count.parse().ok()).unwrap_or(0)
    }

    /// The transfers were neither reset nor given up.
    pub(super) fn is_whole(&mut self) -> Result {
        ensure!(self.stream.is_running() && self.sink.is_running(), "{}", self.stream.log());
        ensure!(self.upload.is_running(), "the upload ended: {}", self.upload.log());
        ensure!(self.download.is_running(), "the download ended: {}", self.download.log());
        Ok(())
    }
}

/// A port on which `load-sink` listens is part of the Service for these scenarios.
pub(super) fn add_sink_port(mesh: &Mesh) -> Result {
    let park = crate::mesh::service("park")?.port("UDP", "restart", 7101, 7101);
    park.write_to(mesh.server.manifests())?;
    let client = mesh.lab.a1.pod(2)?;
    wait_until("the new port is known", secs(10), || {
        let srv = client.check(&["dig", "+short", "_restart._udp.park.default.svc.cluster.local", "SRV"])?;
        ensure!(srv.contains("7101"), "SRV: {srv:?}");
        Ok(())
    })
}

/// The agents of the client's and of the server's node die and come back.
pub(super) fn agents_killed(mesh: &mut Mesh) -> Result {
    add_sink_port(mesh)?;
    for victim in ["a1", "b1"] {
        kill_during_load(mesh, victim).context(format!("agent of {victim}"))?;
    }
    Ok(())
}

fn kill_during_load(mesh: &mut Mesh, victim: &str) -> Result {
    let mut load = Load::on(mesh)?;
    let (agent, node) = mesh.agent_mut(victim)?;
    agent.restart(node)?;
    load.goes_on(SOON)?;
    agent.wait_ready()?;
    load.is_whole()
}

/// The server dies and comes back while it relays everything.
pub(super) fn server_killed(mesh: &mut Mesh) -> Result {
    add_sink_port(mesh)?;
    mesh.lab.inet.set_policy(Policy { no_udp_between_sites: true, ..Policy::default() })?;
    let mut load = Load::on(mesh)?;
    let (agent, node) = mesh.agent("a1")?;
    agent.wait_path(node, "b1", &["relay"], secs(30))?;
    mesh.server.restart(&mesh.lab.server)?;
    load.goes_on(SOON)?;
    load.is_whole()?;
    answers(mesh.pod("a1")?, "park", "b1-p1")
}

/// An agent dies and comes back while the server relays, and no sooner is it back than the server dies too.
pub(super) fn agent_then_server_killed(mesh: &mut Mesh) -> Result {
    add_sink_port(mesh)?;
    mesh.lab.inet.set_policy(Policy { no_udp_between_sites: true, ..Policy::default() })?;
    for victim in ["a1", "b1"] {
        let mut load = Load::on(mesh)?;
        let (agent, node) = mesh.agent("a1")?;
        agent.wait_path(node, "b1", &["relay"], secs(30))?;
        let (agent, node) = mesh.agent_mut(victim)?;
        agent.restart(node)?;
        load.goes_on(SOON).context(format!("agent of {victim} killed"))?;
        mesh.server.restart(&mesh.lab.server)?;
        load.goes_on(SOON).context(format!("agent of {victim} back, server killed"))?;
        load.is_whole()?;
        answers(mesh.pod("a1")?, "park", "b1-p1")?;
    }
    Ok(())
}

/// The server is away: names, direct connections and new ones go on, and a restarted agent serves from its snapshot.
pub(super) fn cloud_away(mesh: &mut Mesh) -> Result {
    let (agent, node) = mesh.agent("a1")?;
    answers(mesh.pod("a1")?, "park", "b1-p1")?;
    agent.wait_path(node, "b1", &["direct"], secs(20))?;
    mesh.lab.inet.set_policy(Policy { no_server: true, ..Policy::default() })?;
    answers(mesh.pod("a1")?, "park", "b1-p1").context("server away")?;
    let (agent, node) = mesh.agent_mut("a1")?;
    agent.restart(node)?;
    let client = mesh.pod("a1")?;
    wait_until("the snapshot's Services are served", secs(10), || answers(client, "own", "a1-p1"))?;
    let (agent, node) = mesh.agent("a1")?;
    let status = agent.json(node, "status")?;
    ensure!(status["stale"] == true, "nothing says that the Services may be old: {status}");
    mesh.lab.inet.set_policy(Policy::default())?;
    wait_until("all is well again", secs(20), || answers(client, "park", "b1-p1"))
}

/// How soon nodes must find each other that nobody tells the way: those beyond a NAT are called after two seconds.
const FOUND_WITHIN: core::time::Duration = secs(8);

/// The server is away and agents are killed, one after the other and then both: nodes call each other where they were.
pub(super) fn without_the_cloud(mesh: &mut Mesh) -> Result {
    for (from, to) in [("a1", "b1"), ("b1", "a1"), ("a1", "a2")] {
        let (agent, node) = mesh.agent(from)?;
        agent.command(node, &["ping", to])?.success()?;
        agent.wait_path(node, to, &["direct"], secs(20))?;
    }
    for name in ["a1", "b1"] {
        let hints = Agent::state(mesh.lab.node(name)?).join("hints");
        wait_until("the way is on disk", secs(10), || hints.exists().then_some(()).context(hints.display()))?;
    }
    mesh.lab.inet.set_policy(Policy { no_server: true, ..Policy::default() })?;
    for victims in [&["a1"][..], &["b1"], &["a1", "b1"]] {
        for name in victims {
            mesh.agent_mut(name)?.0.process.kill();
        }
        for name in victims {
            let (agent, node) = mesh.agent_mut(name)?;
            agent.restart(node)?;
        }
        let killed = format!("{} killed while the cloud is away", victims.join(" and "));
        wait_until("b1 is reached", FOUND_WITHIN, || answers(mesh.pod("a1")?, "park", "b1-p1"))
            .context(&killed)?;
        answers(mesh.pod("b1")?, "own", "a1-p1").context(&killed)?;
        answers(mesh.pod("a1")?, "near", "a2-p1").context(&killed)?;
    }
    mesh.lab.inet.set_policy(Policy::default())?;
    wait_until("the cloud is back", secs(30), || answers(mesh.pod("a1")?, "sky", "cloud-p1"))
}

/// Somebody deletes the agent's device: the agent makes it anew, and everything is back without a restart.
pub(super) fn device_deleted(mesh: &mut Mesh) -> Result {
    answers(mesh.pod("a1")?, "park", "b1-p1")?;
    mesh.lab.a1.ns.ip(&["link del edgemesh0"])?;
    let client = mesh.pod("a1")?;
    wait_until("the Service is back", secs(10), || answers(client, "park", "b1-p1"))?;
    let (agent, node) = mesh.agent_mut("a1")?;
    ensure!(agent.process.is_running(), "the agent ended: {}", agent.process.fate());
    let log = agent.process.log();
    ensure!(log.contains("edgemesh0") && log.contains("anew"), "{}", crate::product::tail(&log));
    answers(node, "sky", "cloud-p1").context("a process of the node")
}

/// SIGTERM keeps the state for the next run; `cleanup` then leaves the machine as it was.
pub(super) fn cleanup_leaves_nothing(mesh: &mut Mesh) -> Result {
    let nodes = ["a1", "b1", "cloud"];
    let mut before = Vec::new();
    for name in nodes {
        before.push(Snapshot::of(mesh.lab.node(name)?)?);
    }
    mesh.join_all()?;
    answers(mesh.pod("a1")?, "park", "b1-p1")?;
    answers(&mesh.lab.a1, "sky", "cloud-p1")?;
    let (agent, node) = mesh.agent_mut("b1")?;
    let status = agent.process.terminate(secs(10))?;
    ensure!(status.success(), "SIGTERM ended the agent with {status}");
    agent.restart(node)?;
    agent.wait_ready().context("after SIGTERM")?;
    answers(mesh.pod("a1")?, "park", "b1-p1").context("after SIGTERM and a new start")?;
    for (name, before) in nodes.iter().zip(&before) {
        let (agent, node) = mesh.agent_mut(name)?;
        agent.stop_and_cleanup(node)?;
        before.must_equal(&Snapshot::of(node)?).context(name)?;
        let again = Agent::cleanup(node)?;
        ensure!(again.status.success(), "a second cleanup failed: {}", again.stderr);
    }
    Ok(())
}

/// The same after SIGKILL: what a dead agent left, `cleanup` finds without it.
pub(super) fn cleanup_after_kill(mesh: &mut Mesh) -> Result {
    let before = Snapshot::of(&mesh.lab.a1)?;
    mesh.join("a1")?;
    let (agent, node) = mesh.agent_mut("a1")?;
    agent.wait_ready()?;
    agent.process.kill();
    let left = Snapshot::of(node)?;
    if before.must_equal(&left).is_ok() {
        return fail("a killed agent left nothing: what was cleaned up?");
    }
    Agent::cleanup(node)?.success()?;
    before.must_equal(&Snapshot::of(node)?)
}
