//! Joining inside a cluster: agents show the ServiceAccount tokens of their pods, the server asks the API server.

use std::fs;
use std::path::{Path, PathBuf};

use crate::mesh::Mesh;
use crate::process::Process;
use crate::product::{Agent, AgentOptions, binary, tail};
use crate::wait::{secs, wait_until};
use crate::{Context, Result, ensure};

use super::reach::answers;

pub(super) const API: &str = "127.0.0.1:6443";
const NODES: [&str; 3] = ["a1", "b1", "cloud"];

/// As long as those of Kubernetes, and with what an attacker would look for in the middle.
fn token(node: &str) -> String {
    format!("head.{}.service-account-of-{node}.{}", "x".repeat(900), "y".repeat(900))
}

/// An API server beside EdgeMesh's, with the lab's Services and one token for a pod on each node.
pub(super) fn api_server(mesh: &Mesh) -> Result<Process> {
    let machine = &mesh.lab.server;
    let mut command = machine.command(binary("edgemesh-testapi")?);
    command.args(["--listen", API, "--audience", "edgemesh"]);
    for node in NODES {
        command.args(["--account", &format!("{}=edgemesh:agent@{node}", token(node))]);
    }
    let manifests = mesh.server.manifests();
    for file in fs::read_dir(manifests).context(manifests.display())? {
        command.arg(file.context("manifest")?.path());
    }
    machine.spawn_command("edgemesh-testapi", &mut command)
}

fn show(mesh: &Mesh, node: &str, token: &str) -> Result<AgentOptions> {
    let file = mesh.lab.node(node)?.directory().join("account-token");
    fs::write(&file, format!("{token}\n")).context(file.display())?;
    let more = vec!["--service-account-token".to_owned(), file.to_string_lossy().into_owned()];
    Ok(AgentOptions { token: mesh.server.cluster(&mesh.lab.server)?, source: None, more })
}

/// Both logs have these words.
fn both_say(mesh: &Mesh, node: &str, words: &str) -> Result {
    wait_until(&format!("both logs say {words:?}"), secs(15), || {
        for (whose, log) in
            [("server", mesh.server.process.log()), ("agent", mesh.agent(node)?.0.process.log())]
        {
            ensure!(log.contains(words), "the {whose}'s log does not: {}", tail(&log));
        }
        Ok(())
    })
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).context(directory.display())? {
        let path = entry.context("directory entry")?.path();
        if path.is_dir() {
            found.extend(files(&path)?)
        } else if path.is_file() {
            found.push(path)
        }
    }
    Ok(found)
}

/// Tokens of pods on a1 and the cloud node let these two join, and nobody else; none is stored or logged anywhere,
/// and nobody needs one again, whether or not the API server is there.
pub(super) fn joins_with_a_service_account(mesh: &mut Mesh) -> Result {
    let mut api = api_server(mesh)?;
    let source =
        ["--kubernetes", "--api-server", &format!("http://{API}"), "--service-account", "edgemesh:agent"];
    mesh.server.restart_with(&mesh.lab.server, &source)?;
    mesh.server.wait_ready(&mesh.lab.server)?;

    let others = show(mesh, "b1", &token("a1"))?;
    mesh.join_with("b1", others)?;
    both_say(mesh, "b1", "of a pod on node a1, not on b1")?;
    for node in ["a1", "cloud"] {
        let options = show(mesh, node, &token(node))?;
        mesh.join_with(node, options)?;
        mesh.agent_mut(node)?.0.wait_ready()?;
    }
    let reached = || answers(mesh.pod("a1")?, "sky", "cloud-p1");
    wait_until("a1 reaches the cloud", secs(10), reached)?;
    // The kubelet replaces the token; the agent that was refused shows the new one without being started again.
    drop(show(mesh, "b1", &token("b1"))?);
    mesh.agent_mut("b1")?.0.wait_ready()?;

    let secret = b"service-account-of-";
    let state = Agent::state(&mesh.lab.a1);
    for path in [files(&state)?, files(mesh.server.state())?].concat() {
        let bytes = fs::read(&path).context(path.display())?;
        ensure!(!bytes.windows(secret.len()).any(|w| w == secret), "a token is in {}", path.display());
    }
    for log in
        [mesh.server.process.log(), mesh.agent("a1")?.0.process.log(), mesh.agent("b1")?.0.process.log()]
    {
        ensure!(!log.contains("service-account-of-"), "a token is in a log: {}", tail(&log));
    }

    api.kill();
    let (agent, node) = mesh.agent_mut("a1")?;
    fs::remove_file(node.directory().join("account-token")).context("a1's token")?;
    agent.restart(node)?;
    agent.wait_ready().context("a node that has joined, without token and API server")?;
    let reached = || answers(mesh.pod("a1")?, "sky", "cloud-p1");
    wait_until("a1 reaches the cloud again", secs(10), reached)?;

    let (agent, node) = mesh.agent_mut("cloud")?;
    agent.process.kill();
    Agent::cleanup(node)?.success()?;
    let state = Agent::state(node);
    fs::remove_dir_all(&state).context(state.display())?;
    agent.restart(node)?;
    both_say(mesh, "cloud", "node cloud has another key")
}
