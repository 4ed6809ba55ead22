//! Self tests: the network without the product is what the scenarios take it for.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;

use crate::capture::Capture;
use crate::machine::Machine;
use crate::mesh;
use crate::nat::{NatKind, Policy};
use crate::snapshot::Snapshot;
use crate::topology::{CLOUD_NODE, Lab, SERVER};
use crate::wait::{secs, wait_until};
use crate::workloads::{self, MARKER};
use crate::{Context, Result, ensure};

use super::restart::Load;
use super::transfer;

/// Pods of all nodes have the same addresses, a1 and b1 too; a pod reaches its neighbour, not a pod elsewhere.
pub(super) fn addresses_overlap(lab: &Lab) -> Result {
    ensure!(lab.a1.address == lab.b1.address, "a1 and b1 differ");
    let mut servers = Vec::new();
    for node in lab.nodes() {
        let first = node.pod(1)?;
        ensure!(first.address == Ipv4Addr::new(172, 17, 0, 2), "{} is {}", first.name, first.address);
        servers.push(workloads::nginx(first, 8080, node.directory())?);
        let said = workloads::curl(node.pod(2)?, "http://172.17.0.2:8080/")?;
        ensure!(said.trim() == first.name, "172.17.0.2 on {} is {said}", node.name);
    }
    let resolver = lab.a1.pod(1)?.check(&["cat", "/etc/resolv.conf"])?;
    ensure!(resolver.contains("nameserver 169.254.96.16"), "pod's resolv.conf: {resolver}");
    Ok(())
}

/// A server in the cloud is reached from pods behind NATs, and sees the NAT's address only.
pub(super) fn cloud_is_reached(lab: &Lab) -> Result {
    let _server = workloads::nginx(&lab.server, 80, lab.directory())?;
    let _who = lab.server.tool("who", &["udp-server", "7000"])?;
    for (node, outside) in [(&lab.a1, "198.51.100.2"), (&lab.b1, "192.0.2.2"), (&lab.cloud, "203.0.113.20")] {
        let said = workloads::curl(node.pod(1)?, &format!("http://{SERVER}/"))?;
        ensure!(said.trim() == "server", "{} got {said}", node.name);
        let seen = node.pod(1)?.run_tool(&["udp-who", "0", &format!("{SERVER}:7000")], secs(20))?;
        ensure!(seen.starts_with(&format!("{outside}:")), "{} is seen as {seen}", node.name);
    }
    Ok(())
}

/// Docker's rule hides a pod behind its node.
pub(super) fn pods_are_masqueraded(lab: &Lab) -> Result {
    let _who = lab.a2.tool("who", &["udp-server", "7000"])?;
    let target = format!("{}:7000", lab.a2.address);
    let seen = lab.a1.pod(1)?.run_tool(&["udp-who", "0", &target], secs(20))?;
    ensure!(seen.starts_with("192.168.1.11:"), "a2 sees the pod as {seen}");
    Ok(())
}

/// The ordinary NAT maps one socket to one port whatever the destination; the symmetric one to two.
pub(super) fn nat_kinds(lab: &Lab) -> Result {
    let _one = lab.server.tool("who", &["udp-server", "7000"])?;
    let _two = lab.cloud.tool("who", &["udp-server", "7000"])?;
    let seen = |port: &str| -> Result<(String, String)> {
        let targets = [format!("{SERVER}:7000"), format!("{CLOUD_NODE}:7000")];
        let printed = lab.a1.run_tool(&["udp-who", port, &targets[0], &targets[1]], secs(20))?;
        let (one, two) = printed.trim().split_once('\n').context("two answers")?;
        Ok((one.to_owned(), two.to_owned()))
    };
    let kept = seen("40001")?;
    ensure!(kept.0 == "198.51.100.2:40001" && kept.0 == kept.1, "port-preserving NAT: {kept:?}");
    lab.nat_a.set_kind(NatKind::Symmetric)?;
    let fresh = seen("40001")?;
    ensure!(fresh.0 != fresh.1 && fresh.0 != kept.0, "symmetric NAT: {fresh:?}");
    Ok(())
}

/// What nobody asked for does not pass the NAT's WAN side, and the box itself does not answer it either.
pub(super) fn unsolicited_is_dropped(lab: &Lab) -> Result {
    let mut sink = lab.a1.tool("sink", &["udp-sink", "7001"])?;
    let mut box_sink = lab.nat_a.tool("sink", &["udp-sink", "7001"])?;
    let capture = Capture::start(&lab.nat_a, "unsolicited")?;
    lab.server.run_tool(&["udp-send", "198.51.100.2:7001", "5", MARKER], secs(10))?;
    capture.wait_for(MARKER.as_bytes())?;
    ensure!(!sink.log().contains("count") && sink.is_running(), "it reached a1");
    ensure!(!box_sink.log().contains("count") && box_sink.is_running(), "it reached the NAT box");
    // The same datagrams from inside do arrive: the silence above is the filter's.
    lab.a2.run_tool(&["udp-send", "192.168.1.11:7001", "5", "inside"], secs(10))?;
    sink.wait_log("count 1", secs(10))?;
    lab.a2.run_tool(&["udp-send", "192.168.1.1:7001", "5", "inside"], secs(10))?;
    box_sink.wait_log("count 1", secs(10))?;
    drop(capture.stop()?);
    Ok(())
}

/// Two sockets that send to each other's mapping get through port-preserving NATs; a policy cuts that way.
pub(super) fn policies_cut(lab: &Lab) -> Result {
    let _who = lab.server.tool("who", &["udp-server", "7000"])?;
    let _web = workloads::nginx(&lab.server, 80, lab.directory())?;
    ensure!(punch(lab, 41_000)?, "two port-preserving NATs cannot be punched");
    lab.inet.set_policy(Policy { no_udp_between_sites: true, ..Policy::default() })?;
    ensure!(!punch(lab, 41_001)?, "UDP between the sites still passes");
    let ask = [&format!("{SERVER}:7000")[..]];
    lab.a1.run_tool(&["udp-who", "0", ask[0]], secs(20))?;
    lab.inet.set_policy(Policy { no_udp: true, ..Policy::default() })?;
    ensure!(lab.a1.run_tool(&["udp-who", "0", ask[0]], secs(20)).is_err(), "UDP still passes");
    workloads::curl(&lab.a1, &format!("http://{SERVER}/")).context("TCP must pass without UDP")?;
    lab.inet.set_policy(Policy { no_server: true, ..Policy::default() })?;
    let cut = lab.a1.run(&["curl", "-sS", "--max-time", "2", &format!("http://{SERVER}/")])?;
    ensure!(!cut.status.success(), "the server is still reached");
    lab.inet.set_policy(Policy::default())?;
    lab.a1.run_tool(&["udp-who", "0", ask[0]], secs(20)).context("after restoring")?;
    Ok(())
}

/// Whether a1 and b1, sending from `port` to each other's NAT at the same port, hear each other.
fn punch(lab: &Lab, port: u16) -> Result<bool> {
    let open = |machine: &Machine| -> Result<UdpSocket> {
        let socket = machine.ns.enter(|| UdpSocket::bind(("0.0.0.0", port)))?.context("bind")?;
        socket.set_read_timeout(Some(core::time::Duration::from_millis(500))).context("timeout")?;
        Ok(socket)
    };
    let (one, other) = (open(&lab.a1)?, open(&lab.b1)?);
    let mut buffer = [0; 16];
    for _ in 0..3 {
        one.send_to(b"punch", (lab.nat_b.address, port)).context("send")?;
        other.send_to(b"punch", (lab.nat_a.address, port)).context("send")?;
        let heard = [one.recv(&mut buffer).is_ok(), other.recv(&mut buffer).is_ok()];
        if heard == [true, true] {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A narrow link loses what is too big, and nobody hears of it.
pub(super) fn narrow_links_are_silent(lab: &Lab) -> Result {
    let server = SERVER.to_string();
    let ping = |size: &str| lab.a1.run(&["ping", "-c", "1", "-W", "1", "-M", "do", "-s", size, &server]);
    ping("1472")?.success().context("1500 bytes on the ordinary link")?;
    for (mtu, fits, too_big) in [(1492, "1464", "1465"), (1400, "1372", "1373"), (1280, "1252", "1253")] {
        lab.inet.narrow(&lab.nat_a, "site-a", mtu)?;
        ping(fits)?.success().context(format!("fitting packet at {mtu}"))?;
        let lost = ping(too_big)?;
        ensure!(!lost.status.success(), "{too_big}+28 bytes pass at {mtu}");
        let said = lost.text() + &lost.stderr;
        ensure!(!said.contains("Frag needed") && !said.contains("too long"), "an error was told: {said}");
    }
    lab.inet.widen(&lab.nat_a, "site-a")?;
    ping("1472")?.success().context("after widening")?;
    Ok(())
}

/// A capture holds what goes past in clear.
pub(super) fn captures_see_payload(lab: &Lab) -> Result {
    let file = lab.directory().join("small.bin");
    let sum = workloads::big_file(&file, 1)?;
    let _web = workloads::nginx(&lab.server, 80, lab.directory())?;
    let capture = Capture::start(&lab.inet, "clear")?;
    let url = format!("http://{SERVER}/files/small.bin");
    let transfer = workloads::Transfer::start(lab.a1.pod(1)?, "clear", &url)?;
    transfer.finish(&sum, secs(30))?;
    capture.wait_for(MARKER.as_bytes())?;
    let recording = capture.stop()?;
    ensure!(!recording.contains(b"what was never sent at all"), "the search finds anything");
    ensure!(recording.len() > 1 << 20, "only {} bytes were recorded", recording.len());
    Ok(())
}

/// The unmodified servers and the lab's own tools do what scenarios expect of them, without any mesh between.
pub(super) fn programs_work(lab: &Lab) -> Result {
    let (client, server) = (lab.a1.pod(1)?, lab.a1.pod(2)?);
    let host = server.address.to_string();
    let _sum = workloads::per_connection(server, 9001, "sha256sum")?;
    let _greeter = workloads::per_connection(server, 9002, "echo 220 ready; cat")?;
    transfer::half_closed(client, &host)?;
    transfer::greeted(client, &host)?;
    let _udp = server.tool("udp", &["udp-server", "7000"])?;
    let target = format!("{host}:7000");
    client.run_tool(&["udp-sizes", &target, "1", "9000", "333"], secs(30))?;
    client.run_tool(&["udp-after", &target, "500"], secs(30))?;
    let _iperf = workloads::iperf(server, 5201)?;
    let rate = workloads::throughput(client, &host, 5201, 1)?;
    ensure!(rate > 1.0, "iperf3 over a virtual cable gave {rate} Mbit/s");
    let _resolver = server.tool("resolver", &["dns-server", "53"])?;
    for transport in ["+notcp", "+tcp"] {
        let said = client.check(&["dig", "+short", transport, &format!("@{host}"), "example.org", "A"])?;
        ensure!(said.trim() == crate::tools::FIXED_ADDRESS, "the resolver said {said:?}");
    }
    lab.a1.pod_offloads_off(2)?;
    client.run_tool(&["udp-sizes", &target, "1", "9000", "999"], secs(30))?;
    Ok(())
}

/// Transfers between neighbours are whole, 200 at once too; a load that runs is seen to run, and to stall.
pub(super) fn transfers_work(lab: &Lab) -> Result {
    let (client, server) = (lab.a1.pod(1)?, lab.a1.pod(2)?);
    let web = format!("{}:8080", server.address);
    let file = |name, size| mesh::served(lab.directory(), name, size);
    let (small, medium) = (file("small.bin", mesh::SMALL)?, file("medium.bin", 64)?);
    let nginx = workloads::nginx(server, 8080, lab.directory())?;
    transfer::download_from(client, &web, &small, 30)?;
    transfer::upload_to(client, &web, server, &small, 30)?;
    transfer::many(client, &web)?;
    let host = server.address.to_string();
    let mut load = Load::start([client, lab.a1.pod(1)?, server], &web, &host, &medium)?;
    load.goes_on(secs(3))?;
    load.is_whole()?;
    server.ns.ip(&["link set eth0 down"])?;
    ensure!(load.goes_on(secs(2)).is_err(), "a load goes on over a dead link");
    drop(nginx);
    Ok(())
}

/// A lost answer is an answer that was given: the connection stands, the reply never comes, later ones do.
pub(super) fn answers_can_be_lost(lab: &Lab) -> Result {
    let _web = workloads::nginx(&lab.server, 80, lab.directory())?;
    let url = format!("http://{SERVER}/");
    lab.nat_a.lose_answers(true)?;
    let lost = lab.a1.run(&["curl", "-sS", "--max-time", "2", "-w", "%{num_connects}", &url])?;
    ensure!(lost.status.code() == Some(28) && lost.text() == "1", "curl: {} {}", lost.status, lost.text());
    lab.nat_a.wait_lost_answer()?;
    lab.nat_a.lose_answers(false)?;
    workloads::curl(&lab.a1, &url).map(|_| ())
}

/// A snapshot of an untouched machine stays equal; a route, a rule, a sysctl are each seen.
pub(super) fn snapshots_see_changes(lab: &Lab) -> Result {
    let (node, ns) = (&lab.a1, &lab.a1.ns);
    let before = Snapshot::of(node)?;
    let _web = workloads::nginx(node, 8080, lab.directory())?;
    workloads::curl(node.pod(1)?, "http://172.17.0.1:8080/")?;
    before.must_equal(&Snapshot::of(node)?).context("an untouched machine")?;
    let changes: [(&[&str], &[&str]); 4] = [
        (&["ip", "route", "add", "10.96.0.0/16", "dev", "docker0"], &["ip", "route", "del", "10.96.0.0/16"]),
        (&["nft", "add table ip left"], &["nft", "delete table ip left"]),
        (&["iptables", "-t", "nat", "-N", "LEFT"], &["iptables", "-t", "nat", "-X", "LEFT"]),
        (&["ip", "link", "add", "left0", "type", "bridge"], &["ip", "link", "del", "left0"]),
    ];
    for (make, undo) in changes {
        ns.exec(make)?;
        ensure!(before.must_equal(&Snapshot::of(node)?).is_err(), "not seen: {}", make.join(" "));
        ns.exec(undo)?;
    }
    ns.sysctl("net/ipv4/conf/docker0/route_localnet", "1")?;
    ensure!(before.must_equal(&Snapshot::of(node)?).is_err(), "a sysctl is not seen");
    ns.sysctl("net/ipv4/conf/docker0/route_localnet", "0")?;
    before.must_equal(&Snapshot::of(node)?).context("everything undone")
}

/// A lab that was used leaves no namespace and no process.
pub(super) fn leaves_nothing(directory: &Path) -> Result {
    let (spaces, processes) = (entries("/run/netns")?, alive()?);
    let lab = Lab::build(directory)?;
    let sink = lab.b1.pod(2)?.tool("sink", &["udp-sink", "7001"])?;
    let forking = workloads::per_connection(&lab.server, 9001, "cat")?;
    ensure!(entries("/run/netns")?.len() > spaces.len(), "the lab made no namespace");
    ensure!(alive()?.len() > processes.len(), "the lab started no process");
    drop((sink, forking));
    drop(lab);
    ensure!(entries("/run/netns")? == spaces, "left in /run/netns: {:?}", entries("/run/netns")?);
    // What was killed is there until process 1 has collected it.
    wait_until("nothing of it runs", secs(5), || {
        let mut left = alive()?;
        left.retain(|process| !processes.contains(process));
        ensure!(left.is_empty(), "left running: {left:?}");
        Ok(())
    })
}

fn entries(directory: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).context(directory)? {
        names.push(entry.context(directory)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Ids of all processes in the sandbox.
fn alive() -> Result<Vec<String>> {
    let mut pids = entries("/proc")?;
    pids.retain(|name| name.parse::<u32>().is_ok());
    Ok(pids)
}
