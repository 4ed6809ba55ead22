//! Pods with names of their own: every pod of the lab has the address of another one, so names must answer something
//! else, the same on every node.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::machine::Machine;
use crate::manifests::Service;
use crate::mesh::Mesh;
use crate::wait::{secs, wait_until};
use crate::workloads::curl;
use crate::{Context, Result, ensure};

/// First pod of every node.
const POD: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
/// The nodes of the set's pods, in their order.
const NODES: [&str; 3] = ["a1", "b1", "cloud"];
const REDIS: u16 = 6_379;
/// Where the nodes of a Redis Cluster gossip.
const REDIS_BUS: u16 = 16_379;

/// The name of a pod of the set.
fn pod_name(number: usize) -> String {
    format!("db-{number}.db.default.svc.cluster.local")
}

/// A StatefulSet's headless Service with a pod on three nodes.
fn set() -> Service {
    let empty = Service { cluster_ip: None, ..Service::new("db", Ipv4Addr::UNSPECIFIED) };
    let mut service = empty
        .port("TCP", "http", 8_080, 8_080)
        .port("TCP", "redis", REDIS, REDIS)
        .port("TCP", "bus", REDIS_BUS, REDIS_BUS);
    for (number, node) in NODES.iter().enumerate() {
        service = service.endpoint(node, POD);
        if let Some(endpoint) = service.endpoints.last_mut() {
            endpoint.hostname = Some(format!("db-{number}"));
        }
    }
    service
}

/// The addresses of the set's pods, once `client` resolves all of them.
fn addresses(client: &Machine) -> Result<Vec<String>> {
    let resolve = |number| {
        let said = client.check(&["dig", "+short", &pod_name(number), "A"])?;
        ensure!(said.lines().count() == 1, "{} is {said:?} for {}", pod_name(number), client.name);
        Ok(said.trim().to_owned())
    };
    wait_until("the pods' names resolve", secs(10), || (0..NODES.len()).map(resolve).collect())
}

/// Names of pods are unique and equal everywhere but on the pod's own node, where they are what the pod itself has.
/// Names and addresses lead to these pods from everywhere, also from the pod itself; PTR and SRV agree with them.
pub(super) fn unique_names(mesh: &mut Mesh) -> Result {
    set().write_to(mesh.server.manifests())?;
    let known = addresses(mesh.pod("a2")?)?;
    let unique: BTreeSet<_> = known.iter().collect();
    ensure!(unique.len() == NODES.len() && !known.contains(&POD.to_string()), "addresses {known:?}");
    for from in ["a1", "a2", "b1", "cloud"] {
        let client = mesh.pod(from)?;
        for ((number, node), (address, seen)) in
            NODES.iter().enumerate().zip(known.iter().zip(addresses(client)?))
        {
            let expected = if from == *node { POD.to_string() } else { address.clone() };
            ensure!(seen == expected, "{from}: {} is {seen}, not {expected}", pod_name(number));
            for host in [pod_name(number), address.clone()] {
                let said = curl(client, &format!("http://{host}:8080/"))?;
                ensure!(said.trim() == format!("{node}-p1"), "{from} -> {host}: {said:?}");
            }
        }
    }
    let client = mesh.pod("a2")?;
    for (number, address) in known.iter().enumerate() {
        let back = client.check(&["dig", "+short", "-x", address])?;
        ensure!(back.trim() == format!("{}.", pod_name(number)), "PTR of {address}: {back:?}");
    }
    let srv = client.check(&["dig", "+short", "_redis._tcp.db.default.svc.cluster.local", "SRV"])?;
    let named = |number| srv.contains(&format!(" {REDIS} {}.", pod_name(number)));
    ensure!((0..NODES.len()).all(named), "SRV: {srv}");
    let all = client.check(&["dig", "+short", "db.default.svc.cluster.local", "A"])?;
    let all: BTreeSet<_> = all.lines().collect();
    ensure!(all == known.iter().map(String::as_str).collect(), "the set is {all:?}, its pods {known:?}");
    set().remove_from(mesh.server.manifests())
}

/// A Redis Cluster of three pods with equal addresses, which tell each other and their clients where they are.
pub(super) fn redis_cluster(mesh: &mut Mesh) -> Result {
    set().write_to(mesh.server.manifests())?;
    let known = addresses(mesh.pod("a2")?)?;
    let port = REDIS.to_string();
    let mut servers = Vec::new();
    for (node, address) in NODES.iter().zip(&known) {
        let pod = mesh.pod(node)?;
        let directory = pod.directory().join("redis");
        std::fs::create_dir_all(&directory).context(directory.display())?;
        let own = ["--port", &port, "--dir", &directory.to_string_lossy(), "--cluster-announce-ip", address]
            .map(str::to_owned);
        let fixed =
            ["--cluster-enabled", "yes", "--protected-mode", "no", "--save", "", "--appendonly", "no"];
        let words: Vec<&str> =
            ["redis-server"].into_iter().chain(own.iter().map(String::as_str)).chain(fixed).collect();
        servers.push(pod.spawn("redis", &words)?);
    }
    let client = mesh.pod("a2")?;
    for address in &known {
        wait_until("Redis answers", secs(10), || {
            let said = client.check(&["redis-cli", "-h", address, "ping"])?;
            ensure!(said.trim() == "PONG", "{said}");
            Ok(())
        })?;
    }
    let members: Vec<String> = known.iter().map(|address| format!("{address}:{port}")).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    let create = [&["redis-cli", "--cluster", "create"][..], &members, &["--cluster-yes"]].concat();
    let made = client.check(&create)?;
    ensure!(made.contains("All 16384 slots covered"), "{made}");
    for address in &known {
        wait_until("the cluster is up for each member", secs(20), || {
            let said = client.check(&["redis-cli", "-h", address, "cluster", "info"])?;
            let up = said.contains("cluster_state:ok") && said.contains("cluster_known_nodes:3");
            ensure!(up, "{address}: {said}");
            Ok(())
        })?;
    }
    // Keys fall on all three members; the client is sent from one to another by what they announce.
    for key in 0..30 {
        let (name, value) = (format!("key-{key}"), format!("value-{key}"));
        let host = known.first().context("no address")?;
        let set = client.check(&["redis-cli", "-c", "-h", host, "set", &name, &value])?;
        ensure!(set.trim() == "OK", "set {name}: {set}");
        let other = known.last().context("no address")?;
        let got = mesh.pod("b1")?.check(&["redis-cli", "-c", "-h", other, "get", &name])?;
        ensure!(got.trim() == value, "get {name}: {got}");
    }
    drop(servers);
    set().remove_from(mesh.server.manifests())
}

/// Resolvers that programs are linked with or that people use: glibc's, busybox' own, BIND's `dig` and `delv`.
pub(super) fn resolvers(mesh: &mut Mesh) -> Result {
    let client = mesh.pod("a1")?;
    let name = "park.default.svc.cluster.local";
    for words in [
        &["getent", "hosts", "park"][..],
        &["getent", "ahostsv4", name],
        &["busybox", "nslookup", name],
        &["busybox", "ping", "-c", "1", "-W", "5", "park"],
        &["delv", "-i", name, "A"],
        &["delv", "-i", "+tcp", name, "A"],
    ] {
        let said = client.check(words).context(words.join(" "))?;
        ensure!(said.contains("10.96.0.10"), "{}: {said}", words.join(" "));
    }
    let unknown = client.run(&["getent", "hosts", "nobody.default.svc.cluster.local"])?;
    ensure!(unknown.status.code() == Some(2), "a name that does not exist: {unknown:?}");
    Ok(())
}
