//! Nodes that are put out, keys that change, a server that is restored, and secrets that stay where they are.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::mesh::Mesh;
use crate::nat::Policy;
use crate::product::{Agent, AgentOptions, SERVICE_CIDR, binary};
use crate::wait::{secs, wait_until};
use crate::{Context, Result, ensure};

use super::reach::answers;
use super::restart::{Load, SOON, add_sink_port};

/// Within which a revocation ends sessions wherever it arrives.
const ENDED_WITHIN: core::time::Duration = secs(5);

/// Two shared keys, as `wg genpsk` prints them.
pub(super) const PSK: [&str; 2] =
    ["C9oHDDMcw6X6nHlNQSvGnzkQYWl3yqB2VZSuGmZFWXw=", "7f3cqAFcGT9wqTpCrXUvvBQwJ1Zcdq0vuuQEXS0W2Hw="];

/// Runs a command for operators on the server's machine.
fn operate(mesh: &Mesh, words: &[&str]) -> Result<String> {
    let (server, state) = (binary("edgemesh-server")?, mesh.server.state().to_string_lossy().into_owned());
    mesh.lab.server.check(&[&[&*server], words, &["--state-dir", &state]].concat())
}

fn must_not_answer(mesh: &Mesh, service: &str) -> Result {
    let asked = mesh.pod("a1")?.run(&["curl", "-sS", "--max-time", "2", &format!("http://{service}/")])?;
    ensure!(asked.success().is_err(), "{service} answers");
    Ok(())
}

/// A node is put out: its sessions end in seconds, also where the cloud is away after a restart; it comes back with
/// another key.
pub(super) fn revoked(mesh: &mut Mesh) -> Result {
    answers(mesh.pod("a1")?, "park", "b1-p1")?;
    answers(mesh.pod("cloud")?, "park", "b1-p1")?;
    let (b1, node) = mesh.agent("b1")?;
    let key = b1.json(node, "status")?["key"].clone();
    ensure!(operate(mesh, &["nodes"])?.contains(key.as_str().unwrap_or("?")), "nodes does not show {key}");
    operate(mesh, &["revoke", "--node", "b1"])?;
    wait_until("no session with b1 is left", ENDED_WITHIN, || {
        for name in ["a1", "cloud"] {
            let (agent, node) = mesh.agent(name)?;
            ensure!(agent.peer(node, "b1").is_err(), "{name} still has a peer b1");
        }
        Ok(())
    })?;
    must_not_answer(mesh, "park")?;
    let (b1, _) = mesh.agent_mut("b1")?;
    b1.process.wait_log("Revoked", secs(15))?;
    let (a1, _) = mesh.agent("a1")?;
    ensure!(a1.process.log().contains("this node was revoked"), "a1's log does not tell");

    mesh.lab.inet.set_policy(Policy { no_server: true, ..Policy::default() })?;
    let (a1, node) = mesh.agent_mut("a1")?;
    a1.restart(node)?;
    wait_until("a1 is back without the cloud", secs(15), || answers(mesh.lab.a1.pod(2)?, "own", "a1-p1"))?;
    must_not_answer(mesh, "park").context("after a restart without the cloud")?;
    mesh.lab.inet.set_policy(Policy::default())?;
    wait_until("the cloud is back", secs(30), || answers(mesh.pod("a1")?, "near", "a2-p1"))?;
    must_not_answer(mesh, "park").context("with the cloud again")?;

    let token = operate(mesh, &["rejoin", "--node", "b1"])?.trim().to_owned();
    mesh.agent_mut("b1")?.0.process.kill();
    mesh.agents.retain(|agent| agent.node != "b1");
    let more = vec!["--service-cidr".to_owned(), SERVICE_CIDR.to_owned()];
    mesh.join_with("b1", AgentOptions { token, source: Some("server".to_owned()), more })?;
    mesh.agent_mut("b1")?.0.wait_ready()?;
    let (b1, node) = mesh.agent("b1")?;
    ensure!(b1.json(node, "status")?["key"] != key, "it has the same key again");
    wait_until("b1 is reached again", secs(20), || answers(mesh.pod("a1")?, "park", "b1-p1"))
}

/// The directory, both nodes of a connection, and the mesh change their keys under load.
pub(super) fn rotated(mesh: &mut Mesh) -> Result {
    add_sink_port(mesh)?;
    let mut load = Load::on(mesh)?;
    for name in ["b1", "a1"] {
        let (agent, node) = mesh.agent(name)?;
        let before = agent.json(node, "status")?["key"].clone();
        agent.command(node, &["rotate-key"])?.success()?;
        wait_until("the node is back under its new key", secs(15), || {
            let status = agent.json(node, "status")?;
            ensure!(status["connected"] == true && status["key"] != before, "{status}");
            let listed = operate(mesh, &["nodes"])?;
            ensure!(listed.contains(status["key"].as_str().unwrap_or("?")), "{listed}");
            Ok(())
        })?;
        load.goes_on(SOON).context(format!("after the new key of {name}"))?;
    }
    let again = mesh.agent("a1")?.0.command(mesh.lab.node("a1")?, &["rotate-key"])?;
    ensure!(again.success().is_err(), "a second new key within the hour");
    operate(mesh, &["rotate-key"])?;
    wait_until("both follow the directory's new key", secs(20), || {
        for name in ["a1", "b1"] {
            let (agent, node) = mesh.agent(name)?;
            ensure!(agent.json(node, "status")?["connected"] == true, "{name} is not connected");
        }
        Ok(())
    })?;
    load.goes_on(SOON).context("after the directory's new key")?;
    load.is_whole()?;
    // Whoever restarts now meets the other under its new key.
    let (a1, node) = mesh.agent_mut("a1")?;
    a1.restart(node)?;
    load.goes_on(secs(15)).context("after a restart with the new keys")?;
    load.is_whole()
}

/// A server is restored while everything runs, and then from nothing but its backup.
pub(super) fn restored(mesh: &mut Mesh) -> Result {
    add_sink_port(mesh)?;
    let mut load = Load::on(mesh)?;
    let backup = mesh.lab.server.directory().join("backup");
    let path = backup.to_string_lossy().into_owned();
    operate(mesh, &["backup", &path])?;
    let mode = fs::metadata(&backup).context(backup.display())?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "the backup has mode {mode:o}");
    operate(mesh, &["restore", &path])?;
    load.goes_on(SOON).context("after a restore")?;
    all_follow(mesh)?;
    mesh.server.process.kill();
    let state = mesh.server.state().to_owned();
    fs::remove_dir_all(&state).context(state.display())?;
    operate(mesh, &["restore", &path])?;
    let server = &mesh.lab.server;
    mesh.server.restart(server)?;
    mesh.server.wait_ready(server)?;
    all_follow(mesh)?;
    load.goes_on(SOON).context("on another machine")?;
    load.is_whole()?;
    answers(mesh.pod("cloud")?, "own", "a1-p1")
}

/// Every agent is connected to the server as it is now, and in its epoch.
fn all_follow(mesh: &Mesh) -> Result {
    wait_until("every node follows", secs(25), || {
        let nodes = operate(mesh, &["nodes"])?;
        for name in ["a1", "a2", "b1", "cloud"] {
            let connected = nodes.lines().any(|line| line.starts_with(name) && line.contains("connected"));
            ensure!(connected, "{name} is not connected: {nodes}");
        }
        Ok(())
    })
}

pub(super) fn write_psk(mesh: &Mesh, node: &str, lines: &[&str]) -> Result<PathBuf> {
    let path = mesh.lab.node(node)?.directory().join("psk");
    fs::write(&path, format!("{}\n", lines.join("\n"))).context(path.display())?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).context(path.display())?;
    Ok(path)
}

fn join_with_psk(mesh: &mut Mesh, node: &str, lines: &[&str]) -> Result {
    let path = write_psk(mesh, node, lines)?;
    let token = mesh.server.token(&mesh.lab.server, node, "24h")?;
    let words = ["--service-cidr", SERVICE_CIDR, "--mesh-psk", &path.to_string_lossy()];
    let more = words.map(str::to_owned).to_vec();
    mesh.join_with(node, AgentOptions { token, source: Some("server".to_owned()), more })?;
    mesh.agent_mut(node)?.0.wait_ready()
}

/// A mesh comes to a shared key and changes it, node by node, without a restart; who has another one is alone.
pub(super) fn mesh_psk(mesh: &mut Mesh) -> Result {
    let [one, other] = PSK;
    for node in ["a1", "b1"] {
        join_with_psk(mesh, node, &["none", one])?;
    }
    join_with_psk(mesh, "cloud", &[other])?;
    wait_until("b1 is reached", secs(20), || answers(mesh.pod("a1")?, "park", "b1-p1"))?;
    must_not_answer(mesh, "sky").context("a node with another shared key")?;
    for lines in [&[one, "none"][..], &[one, other], &[other, one]] {
        for name in ["a1", "b1"] {
            write_psk(mesh, name, lines)?;
            let (agent, _) = mesh.agent_mut(name)?;
            let seen = agent.process.log().matches("read anew").count();
            wait_until("the file is read anew", secs(10), || {
                ensure!(agent.process.log().matches("read anew").count() > seen, "not yet");
                Ok(())
            })?;
            // A new session, whichever key it takes.
            let (agent, node) = mesh.agent_mut("a1")?;
            agent.restart(node)?;
            agent.wait_ready()?;
            wait_until("b1 is reached", secs(10), || answers(mesh.pod("a1")?, "park", "b1-p1"))
                .context(format!("after {name} took {lines:?}"))?;
        }
    }
    wait_until("the cloud is reached", secs(20), || answers(mesh.pod("a1")?, "sky", "cloud-p1"))?;
    fs::set_permissions(mesh.lab.a1.directory().join("psk"), fs::Permissions::from_mode(0o644))
        .context("mode")?;
    let (a1, node) = mesh.agent_mut("a1")?;
    a1.restart(node)?;
    a1.process.wait_log("0644", secs(10)).context("a key that others may read is named")
}

/// A join, a new key and a shared key with the most verbose log: nothing that anybody may see holds a secret.
pub(super) fn secrets(mesh: &mut Mesh) -> Result {
    let psk = write_psk(mesh, "a1", &["none", PSK[0]])?;
    let token = mesh.server.token(&mesh.lab.server, "a1", "24h")?;
    let words = ["--service-cidr", SERVICE_CIDR, "--mesh-psk", &psk.to_string_lossy()];
    let options = AgentOptions {
        token: token.clone(),
        source: Some("server".to_owned()),
        more: words.map(str::to_owned).to_vec(),
    };
    mesh.agents.push(Agent::start_traced(&mesh.lab.a1, options)?);
    mesh.agent_mut("a1")?.0.wait_ready()?;
    mesh.join("b1")?;
    mesh.agent_mut("b1")?.0.wait_ready()?;
    wait_until("b1 is reached", secs(20), || answers(mesh.pod("a1")?, "park", "b1-p1"))?;
    let (a1, node) = mesh.agent("a1")?;
    let state = Agent::state(node);
    let mut secrets = vec![("the key before", read(&state.join("identity"))?)];
    a1.command(node, &["rotate-key"])?.success()?;
    wait_until("the key is changed", secs(15), || {
        let now = read(&state.join("identity"))?;
        ensure!(Some(&now) != secrets.first().map(|(_, key)| key), "it is the same");
        Ok(())
    })?;
    secrets.push(("the key", read(&state.join("identity"))?));
    secrets.push((
        "the join secret",
        token.parse::<edgemesh_host::token::Token>().context("token")?.secret.to_vec(),
    ));
    let mut seen = a1.process.log();
    for path in ["/status", "/peers", "/services", "/netcheck", "/metrics", "/readyz", "/explain?name=park"] {
        seen.push_str(&a1.admin(path)?.1);
    }
    for words in [&["status"][..], &["peers"], &["status", "--json"], &["explain", "park"]] {
        seen.push_str(&a1.command(node, words)?.text());
    }
    seen.push_str(&node.check(&["ls", "-la", &state.to_string_lossy()])?);
    let pid = a1.process.pid();
    for file in ["cmdline", "environ"] {
        seen.push_str(&String::from_utf8_lossy(&read(&PathBuf::from(format!("/proc/{pid}/{file}")))?));
    }
    ensure!(seen.contains("EDGEMESH_LOG=trace"), "it does not log all there is");
    for (what, secret) in &secrets {
        for form in forms(secret) {
            ensure!(!seen.contains(&form), "{what} is shown, as {}..", form.get(..6).unwrap_or_default());
        }
    }
    ensure!(!seen.contains(&token) && !seen.contains(PSK[0]), "the token or the shared key is shown");
    for entry in fs::read_dir(&state).context(state.display())? {
        let entry = entry.context("entry")?;
        let about = entry.metadata().context("metadata")?;
        let mode = about.permissions().mode() & 0o777;
        let may_be_read = about.is_file() && mode & 0o077 != 0;
        ensure!(!may_be_read, "{} has mode {mode:o}", entry.path().display());
    }
    fs::set_permissions(state.join("identity"), fs::Permissions::from_mode(0o640)).context("mode")?;
    let (a1, node) = mesh.agent_mut("a1")?;
    a1.restart(node)?;
    a1.process.wait_log("0640", secs(10)).context("a key that others may read is named")
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).context(path.display())
}

/// How a secret might be shown: in hex, in base64 of either kind, and as Rust's and JSON's lists.
fn forms(secret: &[u8]) -> Vec<String> {
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let part = secret.get(..6).unwrap_or_default();
    let list: Vec<String> = part.iter().map(u8::to_string).collect();
    let hex = hex.get(..20).unwrap_or_default().to_owned();
    vec![
        hex.to_uppercase(),
        hex,
        list.join(", "),
        list.join(","),
        base64(secret, b"+/"),
        base64(secret, b"-_"),
    ]
}

/// The first 16 characters of the base64 of `secret`, with these two last digits.
fn base64(secret: &[u8], last: &[u8; 2]) -> String {
    let digits: Vec<u8> = (b'A'..=b'Z').chain(b'a'..=b'z').chain(b'0'..=b'9').chain(*last).collect();
    let number = |chunk: &[u8]| chunk.iter().fold(0usize, |number, byte| number << 8 | usize::from(*byte));
    let four = |number: usize| [18, 12, 6, 0].map(|shift| number >> shift & 63);
    let chunks = secret.chunks_exact(3).take(4).flat_map(|chunk| four(number(chunk)));
    chunks.filter_map(|digit| digits.get(digit).copied().map(char::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_in_every_form() {
        let secret: Vec<u8> = (0xf8..=0xff).chain(0..24).collect();
        let shown =
            ["f8f9fafbfcfdfeff0001", "+Pn6+/z9/v8AAQID", "-Pn6-_z9_v8AAQID", "248, 249, 250, 251, 252, 253"];
        for form in shown {
            assert!(forms(&secret).iter().any(|known| known == form), "{form}");
        }
    }
}
