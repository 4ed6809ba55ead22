//! What a node's responder promises to unmodified clients: dig, and glibc by getent. Names begin with the rows of the
//! parity checklist.

use std::fs;
use std::net::Ipv4Addr;

use nix::sys::signal::Signal;

use crate::machine::{MESH_DNS, Machine};
use crate::mesh::{KUBE_DNS, Mesh, kube_dns};
use crate::product::{Agent, AgentOptions};
use crate::tools::FIXED_ADDRESS;
use crate::wait::{secs, wait_until};
use crate::{Context, Result, ensure};

use super::reach::answers;

const PARK: &str = "park.default.svc.cluster.local";

/// dig with short patience.
fn dig(client: &Machine, words: &[&str]) -> Result<String> {
    client.check(&[&["dig", "+tries=2", "+timeout=2"], words].concat())
}

/// What dig says of a question to one server; the reply must come from there.
fn dig_at(client: &Machine, server: Ipv4Addr, words: &[&str]) -> Result<String> {
    let said = dig(client, &[&[&format!("@{server}")[..]], words].concat())?;
    ensure!(said.contains(&format!("SERVER: {server}#53")), "{server} did not answer: {said}");
    ensure!(!said.contains("unexpected source"), "{server}: {said}");
    Ok(said)
}

/// The lines of the first section of that name.
fn section<'t>(said: &'t str, name: &str) -> Vec<&'t str> {
    let after = said.split_once(&format!(";; {name} SECTION:\n")).map_or("", |(_, rest)| rest);
    after.lines().take_while(|line| !line.is_empty()).collect()
}

/// A command of a client that has this file in place of `path`.
fn with_file(client: &Machine, path: &str, text: &str, command: &str) -> Result<String> {
    let file = client.directory().join("shown");
    fs::write(&file, text).context(file.display())?;
    client.check(&["sh", "-c", &format!("mount --bind {} {path} && {command}", file.display())])
}

/// Every kind of record over UDP and TCP, at both addresses, from a pod and from the node: the same answer, and from
/// the address that was asked.
pub(super) fn both_transports(mesh: &mut Mesh) -> Result {
    let cases = [
        (PARK, "A", "10.96.0.10"),
        ("_http._tcp.park.default.svc.cluster.local", "SRV", "80 park.default.svc.cluster.local."),
        ("10.0.96.10.in-addr.arpa", "PTR", "park.default.svc.cluster.local."),
        ("dns-version.cluster.local", "TXT", "\"1.1.0\""),
        ("cluster.local", "SOA", "hostmaster.cluster.local."),
        (PARK, "AAAA", ""),
        ("nobody.default.svc.cluster.local", "A", ""),
    ];
    let (pod, host) = (mesh.pod("a1")?, &**mesh.lab.node("a1")?);
    wait_kube_dns(pod)?;
    for client in [pod, host] {
        for server in [MESH_DNS, KUBE_DNS] {
            for (name, rtype, expected) in cases {
                let ask = |transport| dig_at(client, server, &[transport, name, rtype]);
                let (udp, tcp) = (ask("+notcp")?, ask("+tcp")?);
                let (one, other) = (section(&udp, "ANSWER"), section(&tcp, "ANSWER"));
                ensure!(one == other, "{name} {rtype}: {one:?} by UDP, {other:?} by TCP");
                ensure!(one.concat().contains(expected), "{name} {rtype} at {server}: {udp}");
            }
        }
    }
    let reverse = dig(pod, &["+short", "-x", "10.96.0.10"])?;
    ensure!(reverse.trim() == "park.default.svc.cluster.local.", "PTR: {reverse:?}");
    let mixed = dig(pod, &["pArK.DeFauLT.svc.cluster.local", "A"])?;
    ensure!(mixed.contains("pArK.DeFauLT.svc.cluster.local."), "the question's case is not kept: {mixed}");
    Ok(())
}

/// NODATA for a family that a name lacks, NXDOMAIN for a name that is not there: both with SOA and authority.
pub(super) fn negative(mesh: &mut Mesh) -> Result {
    let client = mesh.pod("a1")?;
    for transport in ["+notcp", "+tcp"] {
        for (name, rtype, code) in
            [(PARK, "AAAA", "NOERROR"), ("nobody.default.svc.cluster.local", "A", "NXDOMAIN")]
        {
            let said = dig(client, &[transport, name, rtype])?;
            let sound = said.contains(&format!("status: {code}")) && said.contains("ANSWER: 0");
            ensure!(sound && said.contains("flags: qr aa"), "{name} {rtype}: {said}");
            ensure!(section(&said, "AUTHORITY").concat().contains("SOA"), "{name} {rtype}: {said}");
        }
    }
    Ok(())
}

/// An UPDATE for another server goes there, whatever this node answers itself.
pub(super) fn update_elsewhere(mesh: &mut Mesh) -> Result {
    let client = mesh.pod("a1")?;
    let server = mesh.lab.server.address;
    let resolver = mesh.lab.server.tool("update", &["dns-server", "53"])?;
    let said = dig_at(client, server, &["+opcode=UPDATE", "zone.example.org.", "SOA"])?;
    ensure!(!said.contains("NOTIMP"), "answered by somebody else: {said}");
    ensure!(resolver.log().contains("asked zone.example.org."), "it was asked {}", resolver.log());
    let own = dig_at(client, MESH_DNS, &["+opcode=UPDATE", "cluster.local.", "SOA"])?;
    ensure!(own.contains("status: NOTIMP"), "an UPDATE to the responder: {own}");
    Ok(())
}

/// Partial names by the file that kubelet writes, with the cluster's own DNS address in it.
pub(super) fn partial_names(mesh: &mut Mesh) -> Result {
    let client = mesh.pod("a1")?;
    wait_kube_dns(client)?;
    let file = format!(
        "nameserver {KUBE_DNS}\nsearch default.svc.cluster.local svc.cluster.local cluster.local\n\
         options ndots:5\n"
    );
    for name in ["park", "park.default", "park.default.svc", PARK] {
        let said = with_file(client, "/etc/resolv.conf", &file, &format!("getent ahostsv4 {name}"))?;
        ensure!(said.starts_with("10.96.0.10 "), "{name}: {said:?}");
    }
    let srv = "dig +search +short _http._tcp.park.default.svc SRV";
    let said = with_file(client, "/etc/resolv.conf", &file, srv)?;
    ensure!(said.trim().ends_with("80 park.default.svc.cluster.local."), "SRV: {said:?}");
    Ok(())
}

/// More than six search domains, more than 256 characters, one with an underscore and the single dot.
pub(super) fn long_search_list(mesh: &mut Mesh) -> Result {
    let client = mesh.pod("a1")?;
    let mut search = String::from(". _sub.default.svc.cluster.local");
    for number in 0..8 {
        search.push_str(&format!(" {}-{number}.cluster.local", "long-name-of-a-namespace".repeat(2)));
    }
    search.push_str(" default.svc.cluster.local");
    ensure!(search.len() > 256, "{} characters", search.len());
    let file = format!("nameserver {MESH_DNS}\nsearch {search}\noptions ndots:5\n");
    let said = with_file(client, "/etc/resolv.conf", &file, "getent ahostsv4 park")?;
    ensure!(said.starts_with("10.96.0.10 "), "{said:?}");
    Ok(())
}

/// A process of the node resolves cluster names with the pods' file, and the node's own file is as it was; pods that
/// are older than the agent are served.
pub(super) fn host_and_old_pods(mesh: &mut Mesh) -> Result {
    for node in [&mesh.lab.a1, &mesh.lab.cloud] {
        let said = node.check(&["getent", "ahostsv4", "park"])?;
        ensure!(said.starts_with("10.96.0.10 "), "{}: {said:?}", node.name);
        // Every machine of the lab, with its file, was there before the first agent.
        let file = node.check(&["cat", "/etc/resolv.conf"])?;
        ensure!(file == crate::machine::resolver(), "{}: resolv.conf is now {file:?}", node.name);
        ensure!(
            node.check(&["findmnt", "-n", "-o", "FSROOT", "/etc/resolv.conf"])?.contains("resolv.conf"),
            "{}: another file was put in front",
            node.name
        );
    }
    answers(mesh.pod("a1")?, "park", "b1-p1")
}

/// Names that kubelet writes into /etc/hosts win, and all others go on.
pub(super) fn hosts_file(mesh: &mut Mesh) -> Result {
    let client = mesh.pod("a1")?;
    let file =
        "127.0.0.1 localhost\n172.17.0.2 a1-p1 a1-p1.db.default.svc.cluster.local\n10.1.2.3 park.alias\n";
    let ask = |name: &str| with_file(client, "/etc/hosts", file, &format!("getent ahostsv4 {name}"));
    for (name, address) in [("park.alias", "10.1.2.3 "), ("a1-p1", "172.17.0.2 "), ("park", "10.96.0.10 ")] {
        let said = ask(name)?;
        ensure!(said.starts_with(address), "{name}: {said:?}");
    }
    Ok(())
}

/// The cloud is away: what was known is answered, with authority, by the running agent and by one started anew.
pub(super) fn cloud_away(mesh: &mut Mesh) -> Result {
    let table = Agent::state(mesh.lab.node("a1")?).join("services");
    wait_until("the table is stored", secs(10), || {
        ensure!(table.exists(), "{} is not there", table.display());
        Ok(())
    })?;
    mesh.server.process.kill();
    let known = |mesh: &Mesh| -> Result {
        let said = dig(mesh.pod("a1")?, &[PARK, "A"])?;
        ensure!(said.contains("flags: qr aa") && said.contains("10.96.0.10"), "{said}");
        let gone = dig(mesh.pod("a1")?, &["nobody.default.svc.cluster.local", "A"])?;
        ensure!(gone.contains("status: NXDOMAIN"), "{gone}");
        Ok(())
    };
    known(mesh)?;
    let (agent, node) = mesh.agent_mut("a1")?;
    agent.restart(node)?;
    wait_until("the restarted agent answers", secs(10), || known(mesh))
}

/// A node that has joined but has no table yet: SERVFAIL and not ready; with the table, ready.
pub(super) fn before_the_first_sync(mesh: &mut Mesh) -> Result {
    mesh.join("a1")?;
    mesh.agent_mut("a1")?.0.wait_ready()?;
    let (agent, node) = mesh.agent_mut("a1")?;
    agent.process.terminate(secs(10))?;
    let table = Agent::state(node).join("services");
    fs::remove_file(&table).context(table.display())?;
    mesh.server.process.kill();
    let (agent, node) = mesh.agent_mut("a1")?;
    agent.restart(node)?;
    let client = mesh.pod("a1")?;
    wait_until("names of the cluster are SERVFAIL", secs(10), || {
        let said = dig(client, &[PARK, "A"])?;
        ensure!(said.contains("status: SERVFAIL"), "{said}");
        Ok(())
    })?;
    let (agent, _) = mesh.agent("a1")?;
    ensure!(agent.admin("/readyz")?.0 == 503, "ready without Services");
    ensure!(agent.admin("/livez")?.0 == 200, "not alive without Services");
    mesh.server.restart(&mesh.lab.server)?;
    mesh.agent_mut("a1")?.0.wait_ready()?;
    let said = dig(mesh.pod("a1")?, &["+short", PARK, "A"])?;
    ensure!(said.trim() == "10.96.0.10", "{said:?}");
    Ok(())
}

/// a1's agent with further words on its command line.
fn start_with(mesh: &mut Mesh, more: &[&str]) -> Result {
    let token = mesh.server.token(&mesh.lab.server, "a1", "24h")?;
    let more = more.iter().map(|word| (*word).to_owned()).collect();
    mesh.join_with("a1", AgentOptions { token, source: Some("server".to_owned()), more })?;
    mesh.agent_mut("a1")?.0.wait_ready()
}

/// A name outside the cluster is answered by the node's upstream; one inside never gets there.
pub(super) fn upstream(mesh: &mut Mesh) -> Result {
    let resolver = mesh.lab.server.tool("resolver", &["dns-server", "53"])?;
    let address = mesh.lab.server.address.to_string();
    start_with(mesh, &["--upstream-dns", &address])?;
    let client = mesh.pod("a1")?;
    for transport in ["+notcp", "+tcp"] {
        let outside = client.check(&["dig", "+short", transport, "www.example.org.", "A"])?;
        ensure!(outside.trim() == FIXED_ADDRESS, "www.example.org {transport}: {outside:?}");
    }
    client.check(&["dig", "nobody.default.svc.cluster.local.", "A"])?;
    // By the search list, as resolvers do: every try inside the cluster stays here.
    client.check(&["getent", "ahostsv4", "outside.example"])?;
    let asked = resolver.log();
    ensure!(asked.contains("www.example.org") && asked.contains("outside.example"), "asked: {asked}");
    ensure!(!asked.contains("cluster.local"), "a cluster name left the node: {asked}");
    Ok(())
}

/// Stub domains of the configuration file; the file changes while the agent runs, and once it is wrong.
pub(super) fn stub_domains(mesh: &mut Mesh) -> Result {
    let _resolver = mesh.lab.server.tool("resolver", &["dns-server", "53"])?;
    let file = mesh.lab.a1.directory().join("agent.yaml");
    let write = |text: &str| fs::write(&file, text).context(file.display());
    write(&format!("stubDomain: [\"corp.example={}\"]\n", mesh.lab.server.address))?;
    start_with(mesh, &["--config", &file.to_string_lossy()])?;
    let client = mesh.pod("a1")?;
    let ask = |name: &str| client.check(&["dig", "+short", "+tries=1", name, "A"]);
    ensure!(ask("db.corp.example.")?.trim() == FIXED_ADDRESS, "{:?}", ask("db.corp.example."));
    ensure!(ask("db.lab.example.")?.trim().is_empty(), "{:?}", ask("db.lab.example."));
    write(&format!("stubDomain: [\"lab.example={}\"]\n", mesh.lab.server.address))?;
    let moved = || -> Result {
        ensure!(ask("db.lab.example.")?.trim() == FIXED_ADDRESS, "not yet");
        ensure!(ask("db.corp.example.")?.trim().is_empty(), "the former stub domain is still asked");
        Ok(())
    };
    wait_until("the changed file is used", secs(20), moved)?;
    write("stubDomain: [nonsense]\n")?;
    let (agent, _) = mesh.agent_mut("a1")?;
    agent.process.wait_log("the settings before stay", secs(20))?;
    let client = mesh.pod("a1")?;
    let still = client.check(&["dig", "+short", "+tries=1", "more.lab.example.", "A"])?;
    ensure!(still.trim() == FIXED_ADDRESS, "a mistake in the file changed something: {still:?}");
    Ok(())
}

/// Told to stop, the agent is not ready any more and goes on answering for a while.
pub(super) fn lameduck(mesh: &mut Mesh) -> Result {
    start_with(mesh, &["--lameduck", "4s"])?;
    let (agent, _) = mesh.agent("a1")?;
    agent.process.signal(Signal::SIGTERM)?;
    wait_until("/readyz says that it stops", secs(3), || {
        let (code, said) = agent.admin("/readyz")?;
        ensure!(code == 503 && said.contains("stopping"), "HTTP {code}: {said}");
        Ok(())
    })?;
    let said = dig(mesh.pod("a1")?, &["+short", PARK, "A"])?;
    ensure!(said.trim() == "10.96.0.10", "while stopping: {said:?}");
    let status = mesh.agent_mut("a1")?.0.process.wait(secs(10))?;
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}

/// The cluster's DNS address is answered within its limit.
fn wait_kube_dns(client: &Machine) -> Result {
    wait_until("the cluster's DNS address is answered", secs(10), || {
        let said = dig_at(client, KUBE_DNS, &["+tries=1", "+timeout=1", PARK, "A"])?;
        ensure!(said.contains("10.96.0.10"), "{said}");
        Ok(())
    })
}

/// The ClusterIP of kube-dns, whose endpoint is in the cloud and silent, is answered on the node; it goes and comes
/// with its Service, and comes back when somebody takes it from the device.
pub(super) fn kube_dns_address(mesh: &mut Mesh) -> Result {
    let (pod, node) = (mesh.pod("a1")?, mesh.lab.node("a1")?);
    for client in [pod, node] {
        wait_kube_dns(client)?;
    }
    let touched =
        || -> Result<String> { Ok(mesh.agent("a1")?.0.json(node, "status")?["touched"].to_string()) };
    ensure!(touched()?.contains(&KUBE_DNS.to_string()), "not told in status: {}", touched()?);
    node.ns.ip(&[&format!("addr del {KUBE_DNS}/32 dev edgemesh0")])?;
    wait_kube_dns(pod)?;
    let manifests = mesh.server.manifests();
    kube_dns().remove_from(manifests)?;
    let has = || node.ns.exec(&["ip", "-4", "addr", "show", "dev", "edgemesh0"]);
    wait_until("the address goes with its Service", secs(10), || {
        ensure!(!has()?.contains(&KUBE_DNS.to_string()), "still there");
        Ok(())
    })?;
    ensure!(!touched()?.contains(&KUBE_DNS.to_string()), "still told in status: {}", touched()?);
    kube_dns().write_to(manifests)?;
    wait_kube_dns(pod)?;
    // What is on our own device is no claim of a foreign address.
    let log = mesh.agent("a1")?.0.process.log();
    ensure!(!log.contains("not routed"), "{}", crate::product::tail(&log));
    Ok(())
}

/// Beside kube-proxy the address is left alone, and so it is when nobody wants it.
pub(super) fn kube_dns_of_others(mesh: &mut Mesh) -> Result {
    mesh.lab.a1.ns.nft("table ip kube-proxy {}")?;
    start_with(mesh, &[])?;
    let left_alone = |mesh: &mut Mesh| -> Result {
        let said = mesh.pod("a1")?.run(&["dig", "+tries=1", "+timeout=1", &format!("@{KUBE_DNS}"), PARK])?;
        ensure!(!said.status.success(), "it is answered: {}", said.text());
        Ok(())
    };
    let (agent, _) = mesh.agent_mut("a1")?;
    agent.process.wait_log("is left to others: kube-proxy", secs(10))?;
    left_alone(mesh)?;
    mesh.lab.a1.ns.nft("delete table ip kube-proxy")?;
    let (agent, node) = mesh.agent_mut("a1")?;
    agent.restart(node)?;
    agent.wait_ready()?;
    wait_kube_dns(mesh.pod("a1")?)?;
    mesh.agents.clear();
    start_with(mesh, &["--dns-vip", "off"])?;
    wait_until("the address of the run before goes", secs(10), || {
        let device = mesh.lab.a1.ns.exec(&["ip", "-4", "addr", "show", "dev", "edgemesh0"])?;
        ensure!(!device.contains(&KUBE_DNS.to_string()), "{device}");
        Ok(())
    })?;
    left_alone(mesh)
}
