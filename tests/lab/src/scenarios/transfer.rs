//! TCP as programs use it: big transfers with checksums, server-speaks-first, half-close, many at once, endpoints
//! that leave.

use std::fs;
use std::time::Instant;

use crate::machine::Machine;
use crate::manifests::Service;
use crate::mesh::{Mesh, Served};
use crate::wait::{secs, wait_until};
use crate::workloads::{Transfer, per_connection, sha256, uploaded};
use crate::{Context, Result, ensure};

/// Downloads a served file from a Service; the checksum must be right.
pub(super) fn download_from(client: &Machine, service: &str, file: &Served, limit: u64) -> Result {
    let url = format!("http://{service}/files/{}", file.name);
    let transfer = Transfer::start(client, "download", &url)?;
    transfer.finish(&file.sum, secs(limit)).context(format!("{} <- {service}", client.name))
}

/// Uploads a file to a Service whose server is `server`; what is stored there must have the same checksum.
pub(super) fn upload_to(
    client: &Machine,
    service: &str,
    server: &Machine,
    file: &Served,
    limit: u64,
) -> Result {
    let name = format!("from-{}", client.name);
    let (url, path) = (format!("http://{service}/upload/{name}"), file.path.to_string_lossy());
    let words = ["curl", "-sS", "--fail", "-T", &path, &url];
    client
        .run_within(&words, b"", secs(limit))?
        .success()
        .context(format!("{} -> {service}", client.name))?;
    let stored = uploaded(server, 8080, &name);
    let sum = sha256(&stored)?;
    ensure!(sum == file.sum, "{} stored {sum}, sent was {}", server.name, file.sum);
    fs::remove_file(&stored).context(stored.display())
}

/// 256 MiB come down, to the other site and from the neighbour.
pub(super) fn big_download(mesh: &mut Mesh) -> Result {
    download_from(mesh.pod("a1")?, "park", &mesh.big, 180)?;
    download_from(mesh.pod("a1")?, "near", &mesh.big, 180)
}

/// 256 MiB go up.
pub(super) fn big_upload(mesh: &mut Mesh) -> Result {
    upload_to(mesh.pod("a1")?, "park", mesh.pod("b1")?, &mesh.big, 180)
}

/// 1 GiB each way, to the other site and the neighbour.
pub(super) fn gigabyte(mesh: &mut Mesh) -> Result {
    let huge = mesh.served("huge.bin", 1_024)?;
    let client = mesh.pod("a1")?;
    for (service, server) in [("park", "b1"), ("near", "a2")] {
        let began = Instant::now();
        download_from(client, service, &huge, 600)?;
        let down = began.elapsed();
        upload_to(client, service, mesh.pod(server)?, &huge, 600)?;
        let up = began.elapsed().saturating_sub(down);
        println!("      full/c11-gigabyte: {service} {down:.1?} down, {up:.1?} up");
    }
    Ok(())
}

/// How long nothing is sent: longer than the two hours after which kernels ask whether the other end still lives.
const IDLE_SECS: u64 = 7_300;

/// Connections on which nothing is sent for more than two hours go on, whichever end speaks first then: to the other
/// site, the neighbour, the cloud and the own node.
pub(super) fn idle(mesh: &mut Mesh) -> Result {
    let manifests = mesh.server.manifests().to_owned();
    let mut clients = Vec::new();
    let mut pushing = Vec::new();
    for (n, (service, node)) in
        (0_u8..).zip([("park", "b1"), ("near", "a2"), ("sky", "cloud"), ("own", "a1")])
    {
        let (name, vip) = (["push-0", "push-1", "push-2", "push-3"][usize::from(n)], [10, 96, 0, 110 + n]);
        let pod = mesh.pod(node)?;
        pushing.push(per_connection(pod, 9_003, &format!("echo ready; sleep {IDLE_SECS}; echo pushed"))?);
        Service::new(name, vip.into())
            .port("TCP", "push", 9_003, 9_003)
            .endpoint(node, pod.address)
            .write_to(&manifests)?;
        let client = mesh.lab.a1.pod(2)?;
        let asks = format!("(sleep {IDLE_SECS}; echo asked) | ncat {service} 9002");
        clients.push((
            client.spawn(&format!("asks-{service}"), &["bash", "-c", &asks])?,
            "220 ready",
            "asked",
        ));
        let url = format!("{name}.default.svc.cluster.local");
        wait_until("the Service is there", secs(10), || {
            client.check(&["ncat", "-z", &url, "9003"]).map(drop)
        })?;
        let hears = ["ncat", "--recv-only", &url, "9003"];
        clients.push((client.spawn(&format!("hears-{service}"), &hears)?, "ready", "pushed"));
    }
    for (client, first, _) in &mut clients {
        client.wait_log(first, secs(20)).context("before the silence")?;
    }
    for (mut client, _, last) in clients {
        let status = client.wait(secs(IDLE_SECS.saturating_add(60)))?;
        let log = client.log();
        ensure!(status.success() && log.contains(last), "after the silence, {status}: {log}");
    }
    Ok(())
}

/// Checksums are right where no kernel offload can repair or hide a wrong one.
pub(super) fn without_offloads(mesh: &mut Mesh) -> Result {
    mesh.lab.a1.pod_offloads_off(1)?;
    mesh.lab.b1.pod_offloads_off(1)?;
    let client = mesh.pod("a1")?;
    download_from(client, "park", &mesh.small, 60)?;
    upload_to(client, "park", mesh.pod("b1")?, &mesh.small, 60)?;
    // The pod itself and a neighbour on the same node go another way through the agent.
    download_from(client, "own", &mesh.small, 60)?;
    download_from(mesh.lab.a1.pod(2)?, "own", &mesh.small, 60)
}

/// A server that speaks first is heard before the client says anything.
pub(super) fn server_speaks_first(mesh: &mut Mesh) -> Result {
    ["park", "near", "sky", "own"].iter().try_for_each(|service| greeted(mesh.pod("a1")?, service))
}

/// The client, which says nothing, is greeted by the host.
pub(super) fn greeted(client: &Machine, host: &str) -> Result {
    client.spawn("greeted", &["ncat", host, "9002"])?.wait_log("220 ready", secs(20)).context(host)
}

/// A client that has sent everything closes its half, and is still answered: the server answers only then.
pub(super) fn half_close(mesh: &mut Mesh) -> Result {
    ["park", "near", "sky", "own"].iter().try_for_each(|service| half_closed(mesh.pod("a1")?, service))
}

/// The host answers the checksum of `abc` once the client has closed its half.
pub(super) fn half_closed(client: &Machine, host: &str) -> Result {
    let target = format!("TCP4:{host}:9001");
    let answer = client.run_within(&["socat", "-t", "20", "-", &target], b"abc", secs(30))?;
    ensure!(answer.text().starts_with("ba7816bf8f01cfea"), "{host} answered {:?}", answer.text());
    Ok(())
}

/// 200 connections at the same time, all answered.
pub(super) fn parallel(mesh: &mut Mesh) -> Result {
    many(mesh.pod("a1")?, "park")
}

/// 200 connections at the same time to one web server, each for the first 64 KiB of the small file.
pub(super) fn many(client: &Machine, web: &str) -> Result {
    let words =
        "curl -sS --parallel --parallel-immediate --parallel-max 200 --max-time 60 -r 0-65535 -o /dev/null";
    let mut words: Vec<&str> = words.split(' ').collect();
    let url = format!("http://{web}/at/4m/small.bin?[1-200]");
    words.extend(["-w", "%{http_code} %{size_download}\\n", &url]);
    let printed = client.run_within(&words, b"", secs(90))?.success()?;
    let whole = printed.lines().filter(|line| *line == "206 65536").count();
    ensure!(whole == 200, "{whole} of 200 came whole:\n{printed}");
    Ok(())
}

/// An endpoint leaves its Service while it serves a download: that one finishes, new connections go elsewhere.
pub(super) fn endpoint_leaves(mesh: &mut Mesh) -> Result {
    let manifests = mesh.server.manifests().to_owned();
    let park = crate::mesh::service("park")?;
    let client = mesh.pod("a1")?;
    let transfer = Transfer::start(client, "leaving", "http://park/at/2m/small.bin")?;
    transfer.wait_progress(secs(10))?;
    let pod = mesh.pod("cloud")?.address;
    park.clone().without("b1").endpoint("cloud", pod).write_to(&manifests)?;
    wait_until("new connections go to the new endpoint", secs(10), || {
        super::reach::answers(client, "park", "cloud-p1")
    })?;
    let before = transfer.received();
    ensure!(before < crate::mesh::SMALL << 20, "the download was over too early to show anything");
    for _ in 0..20 {
        super::reach::answers(client, "park", "cloud-p1")?;
    }
    transfer.finish(&mesh.small.sum, secs(60)).context("the download that began before")?;
    park.write_to(&manifests)?;
    wait_until("the endpoint is back", secs(10), || super::reach::answers(client, "park", "b1-p1"))
}
