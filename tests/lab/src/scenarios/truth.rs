//! What a node knows of itself and its neighbours when nobody in the cloud can say it.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Instant;

use serde_json::{Value, json};

use crate::manifests::Service;
use crate::mesh::Mesh;
use crate::nat::Policy;
use crate::product::Agent;
use crate::wait::{secs, wait_until};
use crate::workloads::curl;
use crate::{Context, Result, ensure};

use super::account::{API, api_server};
use super::reach::answers;

/// First pod of every node.
const POD: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);

/// Which endpoint of `twins` a new connection of a1's first pod reaches.
fn twin(mesh: &Mesh) -> Result<String> {
    Ok(curl(mesh.pod("a1")?, "http://twins/")?.trim().to_owned())
}

/// Both endpoints of `twins` are reached.
fn both_twins(mesh: &Mesh) -> Result {
    let mut seen = [false; 2];
    for _ in 0..64 {
        let said = twin(mesh)?;
        for (seen, name) in seen.iter_mut().zip(["a2-p1", "b1-p1"]) {
            *seen |= said == name;
        }
    }
    ensure!(seen == [true; 2], "of 64 connections none reached one of the endpoints: {seen:?}");
    Ok(())
}

/// What a1 knows of a Service's endpoint on a node.
fn endpoint(mesh: &Mesh, service: &str, on: &str) -> Result<Value> {
    let (agent, node) = mesh.agent("a1")?;
    let services = agent.json(node, "services")?;
    let found = services.as_array().and_then(|all| all.iter().find(|entry| entry["name"] == service));
    let endpoints = found.and_then(|entry| entry["endpoints"].as_array()).context(service)?;
    let one = endpoints.iter().find(|endpoint| endpoint["node"] == on);
    one.cloned().context(format!("{service} has no endpoint on {on}: {endpoints:?}"))
}

/// A node vanishes without a word, while the server still lists its endpoint: every connection is served by the other
/// one, the first after a pause.
pub(super) fn lost_node(mesh: &mut Mesh) -> Result {
    both_twins(mesh)?;
    mesh.lab.a2.ns.ip(&["link set eth0 down"])?;
    for number in 0..24 {
        let started = Instant::now();
        let said = mesh.pod("a1")?.check(&["curl", "-sS", "--max-time", "15", "http://twins/"])?;
        let took = started.elapsed().as_secs_f64();
        ensure!(said.trim() == "b1-p1", "connection {number} was answered by {said:?}");
        ensure!(took < 9.0, "connection {number} took {took:.1} s");
    }
    mesh.lab.a2.ns.ip(&["link set eth0 up", "route add default via 192.168.1.1"])?;
    wait_until("the node is chosen again", secs(60), || both_twins(mesh))
}

/// The cloud is away and a pod dies: its node finds out and tells its neighbours, who leave it alone until it is back.
pub(super) fn dead_pod(mesh: &mut Mesh) -> Result {
    both_twins(mesh)?;
    let (agent, node) = mesh.agent("a1")?;
    agent.wait_path(node, "b1", &["direct"], secs(20))?;
    mesh.lab.inet.set_policy(Policy { no_server: true, ..Policy::default() })?;
    both_twins(mesh).context("the cloud is away")?;
    mesh.stop_pod("a2")?;
    wait_until("a2 says that its pod does not answer", secs(60), || {
        let down = |node| Ok(endpoint(mesh, "twins", node)?["down"] == true);
        ensure!(down("a2")? && !down("b1")?, "a2 down: {}, b1 down: {}", down("a2")?, down("b1")?);
        Ok(())
    })?;
    for number in 0..24 {
        let said = twin(mesh).context(format!("connection {number}"))?;
        ensure!(said == "b1-p1", "connection {number} was answered by {said:?}");
    }
    mesh.start_pod("a2")?;
    wait_until("it is chosen again", secs(30), || both_twins(mesh))?;
    mesh.lab.inet.set_policy(Policy::default())
}

/// Replaces an object of the API server.
fn put(mesh: &Mesh, path: &str, object: &Value) -> Result {
    let (url, body) = (format!("http://{API}{path}"), object.to_string());
    let json = "Content-Type: application/json";
    mesh.lab.server.check(&["curl", "-sS", "--fail", "-X", "PUT", "-H", json, "-d", &body, &url])?;
    Ok(())
}

/// The disk of a1 hangs in the middle of a write, as a worn SD card does: what changes goes on to have its effect, names
/// and connections stay, and once the disk is back the last table is on it.
pub(super) fn slow_disk(mesh: &mut Mesh) -> Result {
    answers(mesh.pod("a1")?, "park", "b1-p1")?;
    let (_, node) = mesh.agent("a1")?;
    let file = Agent::state(node).join("services");
    let path = file.to_string_lossy().into_owned();
    wait_until("the table is on the disk", secs(10), || fs::metadata(&file).map(drop).context(&path))?;
    // Whoever opens a pipe waits for its other end.
    node.check(&["sh", "-c", &format!("rm {path}; mkfifo {path}")])?;
    let service =
        |name, last| Service::new(name, Ipv4Addr::new(10, 96, 0, last)).port("TCP", "http", 80, 8080);
    let began = Instant::now();
    // The table is stored a second after a change.
    for on in ["b1", "a2"].iter().cycle().take_while(|_| began.elapsed() < secs(5)) {
        service("moving", 97).endpoint(on, POD).write_to(mesh.server.manifests())?;
        wait_until(on, secs(3), || answers(mesh.pod("a1")?, "moving", &format!("{on}-p1")))?;
    }
    service("afterwards", 98).endpoint("b1", POD).write_to(mesh.server.manifests())?;
    node.check(&["timeout", "3", "sh", "-c", &format!("cat {path} >/dev/null; rm {path}")])?;
    wait_until("the table is on the disk again", secs(20), || {
        let (bytes, last) = (fs::read(&file).context(&path)?, b"afterwards");
        ensure!(bytes.windows(last.len()).any(|part| part == last), "without the last Service");
        Ok(())
    })
}

/// The API server's word on b1: whether it is ready.
fn call_b1(mesh: &Mesh, ready: &str) -> Result {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "b1"},
                      "status": {"conditions": [{"type": "Ready", "status": ready}]}});
    put(mesh, "/api/v1/nodes/b1", &node)
}

/// The API server's word on the pod of `park`; `None` when it is gone.
fn call_park(mesh: &Mesh, conditions: Option<Value>) -> Result {
    let pod = |conditions| json!({"addresses": [POD], "nodeName": "b1", "conditions": conditions});
    let endpoints: Vec<Value> = conditions.map(pod).into_iter().collect();
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                       "metadata": {"name": "park-x7k2p", "namespace": "default",
                                    "labels": {"kubernetes.io/service-name": "park"}},
                       "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints});
    put(mesh, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/park-x7k2p", &slice)
}

/// The cloud calls a Node not ready and evicts its pods, which run: neighbours keep being served. A pod that dies is
/// left alone; one that is deleted while its Node is ready is gone.
pub(super) fn node_not_ready(mesh: &mut Mesh) -> Result {
    let mut api = api_server(mesh)?;
    let source = ["--kubernetes", "--api-server", &format!("http://{API}")];
    mesh.server.restart_with(&mesh.lab.server, &source)?;
    mesh.server.wait_ready(&mesh.lab.server)?;
    mesh.join_all()?;
    call_b1(mesh, "True")?;
    answers(mesh.pod("a1")?, "park", "b1-p1")?;

    call_b1(mesh, "Unknown")?;
    call_park(mesh, Some(json!({"ready": false, "serving": false, "terminating": true})))?;
    let held = || -> Result {
        let park = endpoint(mesh, "park", "b1")?;
        ensure!(park["held"] == true && park["ready"] == true && park["down"] == false, "{park}");
        Ok(())
    };
    wait_until("the last word stands", secs(15), held)?;
    answers(mesh.pod("a1")?, "park", "b1-p1").context("called terminating")?;
    call_park(mesh, None)?;
    // The next word after it has arrived once this one is seen.
    put(
        mesh,
        "/api/v1/namespaces/after",
        &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "after"}}),
    )?;
    let client = mesh.pod("a1")?;
    wait_until("a1 hears more", secs(15), || {
        let said = client.check(&["dig", "1-1-1-1.after.pod.cluster.local", "A"])?;
        ensure!(said.contains("NOERROR"), "{said}");
        Ok(())
    })?;
    held()?;
    answers(client, "park", "b1-p1").context("evicted")?;

    mesh.stop_pod("b1")?;
    wait_until("its node says that it does not answer", secs(30), || {
        let park = endpoint(mesh, "park", "b1")?;
        ensure!(park["down"] == true, "{park}");
        Ok(())
    })?;
    mesh.start_pod("b1")?;
    wait_until("it is served again", secs(30), || answers(mesh.pod("a1")?, "park", "b1-p1"))?;

    call_b1(mesh, "True")?;
    let client = mesh.pod("a1")?;
    wait_until("its Node is back and it is gone", secs(15), || {
        let refused = client.run(&["curl", "-sS", "--max-time", "10", "http://park/"])?;
        ensure!(refused.status.code() == Some(7), "{refused:?}");
        Ok(())
    })?;
    api.kill();
    answers(mesh.pod("a1")?, "near", "a2-p1").context("without an API server")
}

/// A node boots without any network: names and its own Services work from what it kept, and it says how old that is.
pub(super) fn cold_boot(mesh: &mut Mesh) -> Result {
    let table = Agent::state(mesh.lab.node("a1")?).join("services");
    wait_until("the table is stored", secs(10), || {
        ensure!(table.exists(), "{} is not there", table.display());
        Ok(())
    })?;
    let (agent, node) = mesh.agent_mut("a1")?;
    agent.stop_and_cleanup(node)?;
    node.ns.ip(&["link set eth0 down"])?;
    agent.restart(node)?;
    agent.wait_ready().context("without a network")?;
    answers(mesh.lab.a1.pod(2)?, "own", "a1-p1")?;
    answers(&mesh.lab.a1, "own.default.svc.cluster.local", "a1-p1")?;
    let (agent, node) = mesh.agent("a1")?;
    let status = agent.json(node, "status")?;
    ensure!(status["stale"] == true && status["ageSecs"].is_number(), "status: {status}");
    ensure!(agent.metric(&["edgemesh_stale"])? > 0.5, "metrics do not say that the table is old");
    let (code, readiness) = agent.admin("/readyz")?;
    ensure!(code == 200, "/readyz: {code} {readiness}");
    node.ns.ip(&["link set eth0 up", "route add default via 192.168.1.1"])?;
    let client = mesh.pod("a1")?;
    wait_until("the network is back", secs(30), || answers(client, "park", "b1-p1"))?;
    let (agent, node) = mesh.agent("a1")?;
    let status = agent.json(node, "status")?;
    ensure!(status["stale"] == false, "the server was heard: {status}");
    Ok(())
}

/// A node gets another address while it serves: names and its own Services never notice, tunnels are back within 10 s,
/// also for a connection that was open all the time.
pub(super) fn new_address(mesh: &mut Mesh) -> Result {
    answers(mesh.pod("a1")?, "park", "b1-p1")?;
    let (agent, node) = mesh.agent("a1")?;
    agent.wait_path(node, "b1", &["direct"], secs(20))?;
    let url = format!("http://park/at/1m/{}", mesh.small.name);
    let download = crate::workloads::Transfer::start(mesh.pod("a1")?, "roaming", &url)?;
    download.wait_progress(secs(10))?;
    mesh.lab.b1.ns.ip(&[
        "addr del 192.168.1.11/24 dev eth0",
        "addr add 192.168.1.77/24 dev eth0",
        "route add default via 192.168.1.1",
    ])?;
    answers(mesh.lab.b1.pod(2)?, "park", "b1-p1").context("on the node itself")?;
    let client = mesh.pod("a1")?;
    wait_until("new connections reach it", secs(10), || answers(client, "park", "b1-p1"))?;
    download.wait_progress(secs(10)).context("the open connection")?;
    let web = Service::new("moved", Ipv4Addr::new(10, 96, 0, 98)).port("TCP", "http", 80, 8080);
    web.endpoint("a1", POD).write_to(mesh.server.manifests())?;
    let client = mesh.pod("b1")?;
    wait_until("it hears of changes", secs(10), || answers(client, "moved", "a1-p1"))?;
    download.finish(&mesh.small.sum, secs(60))
}
