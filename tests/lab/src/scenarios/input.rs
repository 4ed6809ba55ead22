//! Bad input from every side: the message names what and where, everything else goes on.

use std::fs;

use nix::mount::{MsFlags, mount, umount};

use crate::machine::Machine;
use crate::manifests::write_file;
use crate::mesh::Mesh;
use crate::process::Output;
use crate::product::{Agent, AgentOptions, binary};
use crate::wait::{secs, wait_until};
use crate::{Context, Result, ensure};

use super::reach::answers;

/// The program must have ended with `code`, naming all of `words`.
fn complained(output: &Output, code: i32, words: &[&str]) -> Result {
    let said = output.text() + &output.stderr;
    ensure!(output.status.code() == Some(code), "`{}` ended with {}: {said}", output.line, output.status);
    for word in words {
        ensure!(said.contains(word), "`{}` does not name {word:?}: {said}", output.line);
    }
    Ok(())
}

/// Starts a1's agent, which must end with `code` and name all of `words`.
fn agent_ends(mesh: &Mesh, more: &[&str], code: i32, words: &[&str]) -> Result {
    let token = mesh.server.token(&mesh.lab.server, "a1", "24h")?;
    let more = more.iter().map(|word| (*word).to_owned()).collect();
    let mut agent = Agent::start(&mesh.lab.a1, AgentOptions { token, source: None, more })?;
    let status = agent.process.wait(secs(15)).context(crate::product::tail(&agent.process.log()))?;
    let log = agent.process.log();
    ensure!(status.code() == Some(code), "the agent ended with {status}: {log}");
    for word in words {
        ensure!(log.contains(word), "the agent does not name {word:?}: {log}");
    }
    Ok(())
}

/// A manifest that is no YAML, one that is no Service, one that cannot be read: named, the last good state stays.
pub(super) fn manifests(mesh: &mut Mesh) -> Result {
    let directory = mesh.server.manifests().to_owned();
    let client = mesh.pod("a1")?;
    answers(client, "park", "b1-p1")?;
    let bad = [
        ("broken.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: [\n".to_owned()),
        (
            "odd.yaml",
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: odd\nspec:\n  clusterIP: 300.1.2.3\n"
                .to_owned(),
        ),
        ("near.yaml", "kind: Service\n\tapiVersion: v1\n".to_owned()),
    ];
    for (name, text) in &bad {
        write_file(&directory, name, text)?;
        wait_until(&format!("the server's log names {name}"), secs(10), || {
            let log = mesh.server.process.log();
            ensure!(log.contains(name), "{}", crate::product::tail(&log));
            Ok(())
        })?;
        answers(client, "park", "b1-p1").context(format!("beside {name}"))?;
        answers(client, "near", "a2-p1").context(format!("last good state beside {name}"))?;
    }
    for (name, _) in &bad {
        fs::remove_file(directory.join(name)).context(*name)?;
    }
    crate::mesh::service("near")?.write_to(&directory)?;
    wait_until("all Services are there", secs(10), || answers(client, "near", "a2-p1"))
}

/// Wrong flags and values: exit code 2, naming the field, the value and what is accepted.
pub(super) fn flags(mesh: &mut Mesh) -> Result {
    let (agent, server) = (binary("edgemesh-agent")?, binary("edgemesh-server")?);
    let node = &mesh.lab.a1;
    complained(&node.run(&[&agent, "run", "--no-such-flag"])?, 2, &["--no-such-flag"])?;
    complained(&node.run(&[&agent, "no-such-command"])?, 2, &["no-such-command"])?;
    complained(&node.run(&[&server, "run", "--listen", "nonsense"])?, 2, &["listen", "nonsense"])?;
    complained(&node.run(&[&server, "token", "--node", "a1", "--ttl", "soon"])?, 2, &["ttl", "soon"])?;
    let spoilt = mesh.server.token(&mesh.lab.server, "a1", "24h")? + "x";
    let join = ["run", "--node", "a1", "--join", &spoilt, "--state-dir", "unused"];
    complained(&node.run(&[&[&agent[..]], &join[..]].concat())?, 2, &["join"])?;
    agent_ends(mesh, &["--service-cidr", "10.96.0.0/99"], 2, &["service-cidr", "10.96.0.0/99"])?;
    agent_ends(
        mesh,
        &["--nodeport-addresses", "192.168.1.0/24"],
        2,
        &["nodeport-addresses", "--node-ports"],
    )?;
    agent_ends(mesh, &["--source", "clouds"], 2, &["source", "clouds"])?;
    agent_ends(mesh, &["--config", "/nowhere/at-all.yaml"], 2, &["/nowhere/at-all.yaml"])
}

/// A port in use, a missing privilege, an overlapping route, a foreign `edgemesh0`: named, and left alone.
pub(super) fn surroundings(mesh: &mut Mesh) -> Result {
    {
        let _other = mesh.lab.a1.tool("squatter", &["udp-sink", "20006"])?;
        agent_ends(mesh, &[], 1, &["20006"])?;
    }
    mesh.lab.a1.ns.ip(&["route add 242.16.0.0/16 via 192.168.1.1"])?;
    agent_ends(mesh, &[], 1, &["242.16.0.0/16"])?;
    mesh.lab.a1.ns.ip(&["route del 242.16.0.0/16", "link add edgemesh0 type bridge"])?;
    agent_ends(mesh, &[], 1, &["edgemesh0"])?;
    let link = mesh.lab.a1.ns.exec(&["ip", "-d", "link", "show", "edgemesh0"])?;
    ensure!(link.contains("bridge"), "the foreign device was replaced: {link}");
    mesh.lab.a1.ns.ip(&["link del edgemesh0"])?;
    unprivileged(mesh)?;
    mesh.join("a1")?;
    mesh.agent_mut("a1")?.0.wait_ready().context("with everything in order")
}

/// Without CAP_NET_ADMIN.
fn unprivileged(mesh: &Mesh) -> Result {
    let token = mesh.server.token(&mesh.lab.server, "a1", "24h")?;
    let state = Agent::state(&mesh.lab.a1);
    let (agent, state) = (binary("edgemesh-agent")?, state.to_string_lossy());
    let words = ["setpriv", "--bounding-set=-net_admin", &agent, "run", "--node", "a1", "--join", &token];
    let admin = format!("unix:/run/lab/{}.sock", mesh.lab.a1.ns.name());
    let rest = ["--state-dir", &state, "--admin", &admin];
    let ended = mesh.lab.a1.run_within(&[&words[..], &rest[..]].concat(), b"", secs(15))?;
    complained(&ended, 1, &["CAP_NET_ADMIN"])
}

/// The state directory's disk is full: told, and everything goes on; when there is room again, it is used.
pub(super) fn full_disk(mesh: &mut Mesh) -> Result {
    let state = Agent::state(&mesh.lab.a1);
    fs::create_dir_all(&state).context(state.display())?;
    mount(Some("tmpfs"), &state, Some("tmpfs"), MsFlags::empty(), Some("size=256k")).context("small disk")?;
    let shown = with_full_disk(mesh);
    // Ended, not forgotten: their logs may have to be shown.
    mesh.agents.iter_mut().for_each(|agent| agent.process.kill());
    umount(&state).context("small disk")?;
    shown
}

fn with_full_disk(mesh: &mut Mesh) -> Result {
    let state = Agent::state(&mesh.lab.a1);
    mesh.join_all()?;
    answers(mesh.pod("a1")?, "park", "b1-p1")?;
    let filler = state.join("filler");
    // Ends with "no space left", which is what is wanted.
    let full = fs::write(&filler, vec![0; 1 << 20]);
    ensure!(full.is_err(), "the small disk is not small");
    let manifests = mesh.server.manifests().to_owned();
    let fresh = crate::manifests::Service::new("fresh", std::net::Ipv4Addr::new(10, 96, 0, 98))
        .port("TCP", "http", 80, 8080)
        .endpoint("cloud", std::net::Ipv4Addr::new(172, 17, 0, 2));
    fresh.write_to(&manifests)?;
    let client = mesh.pod("a1")?;
    wait_until("a new Service is reached nevertheless", secs(10), || answers(client, "fresh", "cloud-p1"))?;
    let (agent, _) = mesh.agent("a1")?;
    wait_until("the log names the disk", secs(15), || {
        let log = agent.process.log();
        let told = log.contains("No space left") || log.contains("no space");
        ensure!(told && log.contains(&*state.to_string_lossy()), "{}", crate::product::tail(&log));
        Ok(())
    })?;
    fs::remove_file(&filler).context(filler.display())?;
    answers(client, "park", "b1-p1")
}

/// Garbage on every port of server and agent: counted, nothing dies, everything goes on.
pub(super) fn garbage(mesh: &mut Mesh) -> Result {
    let (a1, a2, server): (&Machine, &Machine, _) = (&mesh.lab.a1, &mesh.lab.a2, &mesh.lab.server);
    answers(mesh.pod("a1")?, "park", "b1-p1")?;
    let count = |mesh: &Mesh| mesh.agent("a1").and_then(|(agent, _)| agent.metric(&["edgemesh_", "drop"]));
    let before = count(mesh)?;
    for (from, target) in [
        (a1, format!("{}:20004", server.address)),
        (a2, format!("{}:20006", a1.address)),
        (mesh.pod("a1")?, "169.254.96.16:53".to_owned()),
        (mesh.pod("a1")?, "10.96.0.10:7000".to_owned()),
    ] {
        from.run_tool(&["garbage-udp", &target, "2000"], secs(60))?;
    }
    for (from, target) in
        [(a1, format!("{}:20004", server.address)), (mesh.pod("a1")?, "169.254.96.16:53".to_owned())]
    {
        from.run_tool(&["garbage-tcp", &target, "50"], secs(60))?;
    }
    server.run_tool(&["garbage-tcp", "127.0.0.1:20005", "50"], secs(60))?;
    ensure!(count(mesh)? > before, "no drop was counted");
    for agent in &mut mesh.agents {
        ensure!(agent.process.is_running(), "the agent of {} ended: {}", agent.node, agent.process.fate());
    }
    ensure!(mesh.server.process.is_running(), "the server ended: {}", mesh.server.process.fate());
    for (client, service, endpoint) in
        [("a1", "park", "b1-p1"), ("b1", "own", "a1-p1"), ("cloud", "near", "a2-p1")]
    {
        answers(mesh.pod(client)?, service, endpoint)?;
    }
    Ok(())
}
