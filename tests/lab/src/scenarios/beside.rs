//! Beside another service proxy on the node: what kube-proxy's rules do in each of its modes, written by hand from
//! the Services of the lab, for neither it nor a cluster is here.
//!
//! The rules claim every Service as kube-proxy would, by pod addresses that mean another pod on this node: `park`,
//! whose pod is on b1, leads to a1's own first pod. IPVS shows in its effect alone, every VIP being an address of the
//! node: this lab asks for no kernel with `ip_vs`, and the device is a bridge where there is no `dummy`.

use std::fmt::Write;
use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::machine::Machine;
use crate::manifests::{Port, Service};
use crate::mesh::{self, Mesh};
use crate::product::{Agent, AgentOptions};
use crate::snapshot::Snapshot;
use crate::topology::Node;
use crate::wait::{secs, wait_until};
use crate::workloads::Transfer;
use crate::{Context, Result, ensure};

use super::reach::answers;

/// What the agent logs of what it puts back.
const RESTORED: &str = "restored what others had taken away";

/// How another proxy has its rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proxy {
    /// Written by this program.
    Iptables(&'static str),
    Nftables,
    Ipvs,
}

/// The rules of kube-proxy in nftables mode on a node.
pub(super) fn kube_proxy(node: &Node) -> Result {
    Proxy::Nftables.install(node, &mesh::services())
}

/// The same for these Services.
pub(super) fn kube_proxy_for(node: &Node, services: &[Service]) -> Result {
    Proxy::Nftables.install(node, services)
}

/// kube-proxy in iptables mode, and Docker's firewall, both on nftables.
pub(super) fn iptables(mesh: &mut Mesh) -> Result {
    beside(mesh, Proxy::Iptables("iptables-nft"))
}

/// Both in the legacy tables.
pub(super) fn legacy(mesh: &mut Mesh) -> Result {
    beside(mesh, Proxy::Iptables("iptables-legacy"))
}

/// kube-proxy in nftables mode, which rejects ports of ClusterIPs that it does not know.
pub(super) fn nftables(mesh: &mut Mesh) -> Result {
    beside(mesh, Proxy::Nftables)
}

/// Every VIP is an address of the node.
pub(super) fn ipvs(mesh: &mut Mesh) -> Result {
    beside(mesh, Proxy::Ipvs)
}

/// Pods and processes of the node reach what the proxy cannot; the rest stays with the proxy, whose rules are
/// unharmed before, during and after.
fn beside(mesh: &mut Mesh, proxy: Proxy) -> Result {
    if let Proxy::Iptables(tool) = proxy {
        mesh.lab.a1.docker_firewall(tool)?;
    }
    proxy.install(&mesh.lab.a1, &mesh::services())?;
    let before = Snapshot::of(&mesh.lab.a1)?;
    if proxy != Proxy::Ipvs {
        answers(mesh.lab.a1.pod(2)?, "10.96.0.10", "a1-p1").context("the proxy alone")?;
    }
    mesh.join_all()?;
    is_in_mode(mesh, "shadow")?;
    wait_until("what the proxy cannot reach is taken, and nothing else", secs(3), || {
        let elements = mesh.lab.a1.ns.exec(&["nft", "list", "map", "ip", "edgemesh", "shadows"])?;
        let is_taken = |last: &u8| elements.contains(&format!("10.96.0.{last} : 242.96.0.{last}"));
        let taken: Vec<u8> = (1..=99).filter(is_taken).collect();
        ensure!(taken == [10, 11, 12, 14, 15, 53], "{elements}");
        Ok(())
    })?;
    let node = &mesh.lab.a1;
    for client in [node.pod(1)?, node.pod(2)?, node] {
        answers(client, "park.default.svc.cluster.local", "b1-p1")?;
        answers(client, "near.default.svc.cluster.local", "a2-p1")?;
        answers(client, "sky.default.svc.cluster.local", "cloud-p1")?;
        let seen = client.run_tool(&["udp-who", "0", "10.96.0.10:7000"], secs(20))?;
        ensure!(seen.starts_with("242."), "{}: the endpoint sees {seen}", client.name);
        let refused = client.run(&["curl", "-sS", "--max-time", "10", "http://10.96.0.10:81/"])?;
        ensure!(refused.status.code() == Some(7), "an unknown port: {}", refused.text());
    }
    super::reach::twins(mesh)?;
    super::reach::across_nats(mesh).context("as an endpoint's node")?;
    if proxy == Proxy::Nftables {
        forgets_connections(mesh)?;
    }
    if proxy != Proxy::Ipvs {
        is_left_to_the_proxy(mesh)?;
    }
    is_explained(mesh)?;
    let (agent, node) = mesh.agent_mut("a1")?;
    agent.stop_and_cleanup(node)?;
    before.must_equal(&Snapshot::of(node)?)?;
    if proxy == Proxy::Ipvs {
        return Ok(());
    }
    answers(node.pod(2)?, "10.96.0.10", "a1-p1").context("the proxy alone again")
}

/// `explain` says which of them has a Service.
fn is_explained(mesh: &Mesh) -> Result {
    let (agent, node) = mesh.agent("a1")?;
    let taken = agent.command(node, &["explain", "park:80"])?.success()?;
    ensure!(taken.contains("by its stand-in 242.96.0.10 to this node's mesh device"), "explain: {taken}");
    let left = agent.command(node, &["explain", "own:80"])?.success()?;
    ensure!(left.contains("is left to") && !left.contains("mesh device"), "explain: {left}");
    Ok(())
}

/// A Service that has its endpoints here is the proxy's, and its pod sees who connects, like behind kube-proxy.
fn is_left_to_the_proxy(mesh: &Mesh) -> Result {
    let client = mesh.lab.a1.pod(2)?;
    answers(client, "own", "a1-p1")?;
    let seen = client.run_tool(&["udp-who", "0", "10.96.0.13:7000"], secs(20))?;
    ensure!(seen.starts_with(&format!("{}:", client.address)), "the endpoint sees {seen}");
    let refused = client.run(&["curl", "-sS", "--max-time", "10", "http://10.96.0.16/"])?;
    ensure!(refused.status.code() == Some(7), "a Service without endpoints: {}", refused.text());
    Ok(())
}

/// A node on which Cilium's socket load balancer pins what it pins says so where people look, and what to do; when that
/// is gone it gets ready.
pub(super) fn cilium(mesh: &mut Mesh) -> Result {
    let bpf = mesh.lab.a1.bpf()?;
    let pin = bpf.at.join("tc/globals/cilium_lb4_reverse_sk");
    fs::create_dir_all(&pin).context(pin.display())?;
    mesh.join("a1")?;
    let (agent, node) = mesh.agent_mut("a1")?;
    let remedy = "kubeProxyReplacement=false and socketLB.enabled=false";
    wait_until("it is not ready, and says why", secs(20), || {
        let (code, said) = agent.admin("/readyz")?;
        let named = said.contains("/sys/fs/bpf/tc/globals/cilium_lb4_reverse_sk") && said.contains(remedy);
        ensure!(code == 503 && named, "HTTP {code}: {said}");
        Ok(())
    })?;
    let status = agent.json(node, "status")?;
    let obstacle = status["interception"]["obstacle"].as_str().unwrap_or_default();
    ensure!(status["ready"] == false && obstacle.contains(remedy), "status: {status}");
    let printed = agent.command(node, &["status"])?;
    ensure!(printed.text().contains(remedy), "status: {}", printed.text());
    fs::remove_dir(&pin).context(pin.display())?;
    agent.wait_ready()?;
    let status = agent.json(node, "status")?;
    ensure!(status["interception"]["obstacle"].is_null(), "status: {status}");
    Ok(())
}

/// kube-proxy has the kernel forget connections of UDP to ClusterIPs that lead to none of their endpoints, whenever one of
/// UDP changes. What an endpoint sends afterwards arrives all the same, at pods and at processes of the node.
fn forgets_connections(mesh: &Mesh) -> Result {
    let node = &mesh.lab.a1;
    for client in [node.pod(2)?, node] {
        let mut asks = client.tool("forgotten", &["udp-after", "10.96.0.10:7000", "1500"])?;
        while asks.is_running() {
            // Nothing to forget is a failure for this tool.
            node.run(&["conntrack", "-D", "-p", "udp", "--orig-dst", "10.96.0.10"])?;
        }
        ensure!(asks.wait(secs(1))?.success(), "{}: {}", client.name, asks.log());
    }
    let (agent, node) = mesh.agent("a1")?;
    let status = agent.json(node, "status")?;
    ensure!(status["counters"]["connections_put_back"].as_u64() >= Some(2), "status: {status}");
    Ok(())
}

/// The proxy comes and goes while the agent runs; connections go on over both changes.
pub(super) fn comes_and_goes(mesh: &mut Mesh) -> Result {
    is_in_mode(mesh, "route")?;
    let client = mesh.pod("a1")?;
    let url = "http://10.96.0.10/at/1m/small.bin";
    let routed = Transfer::start(client, "routed", url)?;
    routed.wait_progress(secs(10))?;
    Proxy::Nftables.install(&mesh.lab.a1, &mesh::services())?;
    is_in_mode(mesh, "shadow")?;
    wait_until("a new connection is taken", secs(2), || answers(client, "10.96.0.10", "b1-p1"))?;
    routed.wait_progress(secs(3)).context("begun before the proxy came")?;
    let shadowed = Transfer::start(client, "shadowed", url)?;
    shadowed.wait_progress(secs(10))?;
    mesh.lab.a1.ns.nft("delete table ip kube-proxy")?;
    is_in_mode(mesh, "route")?;
    shadowed.wait_progress(secs(3)).context("begun beside the proxy")?;
    wait_until("a new connection is routed", secs(2), || answers(client, "10.96.0.10", "b1-p1"))?;
    routed.finish(&mesh.small.sum, secs(60))?;
    shadowed.finish(&mesh.small.sum, secs(60))
}

/// A Service whose last endpoint elsewhere leaves is the proxy's again; what began before goes on.
pub(super) fn given_back(mesh: &mut Mesh) -> Result {
    let here = mesh::service("park")?.without("b1").endpoint("a1", Ipv4Addr::new(172, 17, 0, 2));
    Proxy::Nftables.install(&mesh.lab.a1, &mesh::services())?;
    mesh.join_all()?;
    is_in_mode(mesh, "shadow")?;
    let client = mesh.lab.a1.pod(2)?;
    let before = Transfer::start(client, "before", "http://10.96.0.10/at/1m/small.bin")?;
    before.wait_progress(secs(10))?;
    here.write_to(mesh.server.manifests())?;
    wait_until("it is not taken any more", secs(10), || {
        let elements = mesh.lab.a1.ns.exec(&["nft", "list", "map", "ip", "edgemesh", "shadows"])?;
        ensure!(!elements.contains("10.96.0.10 "), "{elements}");
        Ok(())
    })?;
    answers(client, "10.96.0.10", "a1-p1").context("the proxy has it again")?;
    before.wait_progress(secs(3)).context("begun before it was given back")?;
    before.finish(&mesh.small.sum, secs(60))?;
    mesh::service("park")?.write_to(mesh.server.manifests())?;
    wait_until("it is taken again", secs(10), || answers(client, "10.96.0.10", "b1-p1"))
}

/// A Service that is taken out of the agents' hands keeps its route while a connection uses it.
pub(super) fn lingers(mesh: &mut Mesh) -> Result {
    start_with_single_routes(mesh)?;
    let client = mesh.pod("a1")?;
    let begun = Transfer::start(client, "begun", "http://10.96.0.10/at/2m/small.bin")?;
    begun.wait_progress(secs(10))?;
    mesh::service("park")?.remove_from(mesh.server.manifests())?;
    wait_until("a new connection is not taken", secs(10), || {
        let tried = client.run(&["curl", "-sS", "--max-time", "1", "http://10.96.0.10/"])?;
        ensure!(!tried.status.success(), "{}", tried.text());
        Ok(())
    })?;
    let routes = || mesh.lab.a1.ns.exec(&["ip", "route", "show", "10.96.0.10"]);
    ensure!(routes()?.contains("edgemesh0"), "the route is gone while it is used");
    begun.finish(&mesh.small.sum, secs(60))?;
    wait_until("the route goes when it is not used any more", secs(20), || {
        let routes = routes()?;
        ensure!(routes.is_empty(), "{routes}");
        Ok(())
    })
}

/// What somebody takes away of the agent's own is back within a second, and told as such; what the agent changes
/// itself is not.
pub(super) fn restored(mesh: &mut Mesh) -> Result {
    start_with_single_routes(mesh)?;
    answers(mesh.pod("a1")?, "park", "b1-p1")?;
    let (agent, node) = mesh.agent_mut("a1")?;
    ensure!(!agent.process.log().contains(RESTORED), "before anybody did anything");
    for damage in [
        "ip route del 10.96.0.10 dev edgemesh0",
        "ip addr flush dev edgemesh0",
        "nft delete table ip edgemesh",
        "nft flush chain ip edgemesh postrouting",
    ] {
        let (whole, told) = (Snapshot::of(node)?, agent.process.log().len());
        node.ns.exec(&damage.split(' ').collect::<Vec<_>>())?;
        let done = SystemTime::now();
        wait_until(&format!("all is back after: {damage}"), secs(10), || {
            whole.must_equal(&Snapshot::of(node)?)
        })?;
        // By the agent's own clock: looking at everything takes a busy machine longer than the agent may. It tells of what
        // it has put back when it has looked at all of it.
        let took = wait_until(&format!("it is told after: {damage}"), secs(10), || {
            last_restored(agent.process.log().get(told..).unwrap_or_default(), done)
        })?;
        println!("      restart/r1-restored: {} ms after {damage}", took.as_millis());
        ensure!(took <= secs(1), "{damage}: the last of it was back after {took:?}");
        answers(node.pod(1)?, "park", "b1-p1").context(damage)?;
    }
    Ok(())
}

/// How long after that moment the log tells of the last thing that was put back.
fn last_restored(log: &str, since: SystemTime) -> Result<Duration> {
    const DAY: Duration = secs(86_400);
    let line =
        log.lines().rfind(|line| line.contains(RESTORED)).context(format!("nothing restored in {log}"))?;
    // `2026-01-31T12:34:56.789012Z`
    let part = |from: usize, to: usize| line.get(from..to)?.parse::<u32>().ok();
    let at = [(11, 13, 3_600), (14, 16, 60), (17, 19, 1)]
        .into_iter()
        .try_fold(Duration::ZERO, |sum, (from, to, unit)| {
            sum.checked_add(secs(u64::from(part(from, to)?.checked_mul(unit)?)))
        });
    let at = at.zip(part(20, 26)).map(|(at, micros)| at.saturating_add(Duration::from_micros(micros.into())));
    let since = since.duration_since(UNIX_EPOCH).context("clock")?;
    let since = secs(since.as_secs() % DAY.as_secs())
        .saturating_add(Duration::from_nanos(since.subsec_nanos().into()));
    let at = at.context(format!("a time in {line}"))?;
    // What was back before the damage was done is back at once; midnight may be in between.
    let late = at.saturating_add(DAY).saturating_sub(since);
    Ok(late.checked_sub(DAY).unwrap_or(if late > DAY / 2 { Duration::ZERO } else { late }))
}

/// a1 routes each ClusterIP by itself, not the Service range as a whole.
fn start_with_single_routes(mesh: &mut Mesh) -> Result {
    for name in ["a1", "b1"] {
        let token = mesh.server.token(&mesh.lab.server, name, "24h")?;
        mesh.join_with(name, AgentOptions { token, source: Some("server".to_owned()), more: Vec::new() })?;
    }
    mesh.agents.iter_mut().try_for_each(Agent::wait_ready)
}

/// Two nodes that reach each other's endpoints by themselves, as within one CNI: connections between them need no
/// tunnel, see the other node's address, and what has no endpoint elsewhere is left to the other proxy.
pub(super) fn domain(mesh: &mut Mesh) -> Result {
    let manifests = mesh.server.manifests().to_owned();
    for node in ["a1", "a2"] {
        let file = manifests.join(format!("node-{node}.yaml"));
        let labels = "labels: {edgemesh.io/domain: lan}";
        let text = format!("apiVersion: v1\nkind: Node\nmetadata:\n  name: {node}\n  {labels}\n");
        fs::write(&file, text).context(file.display())?;
    }
    let host = mesh.lab.a2.address;
    let service =
        |name, last| Service::new(name, Ipv4Addr::new(10, 96, 0, last)).port("UDP", "who", 7100, 7100);
    let near = service("lan", 60).endpoint("a2", host);
    let wide = service("wide", 61).endpoint("a2", host).endpoint("b1", Ipv4Addr::new(172, 17, 0, 2));
    for service in [&near, &wide] {
        service.write_to(&manifests)?;
    }
    // Its answers come back by the way that others' rules have to let through.
    mesh.lab.a1.docker_firewall("iptables")?;
    let _lan = mesh.lab.a2.tool("who-lan", &["udp-server", "7100"])?;
    let _far = mesh.pod("b1")?.tool("who-far", &["udp-server", "7100"])?;
    mesh.join_all()?;
    let client = mesh.pod("a1")?;
    let seen = |vip: &str| client.run_tool(&["udp-who", "0", &format!("{vip}:7100")], secs(20));
    let own = format!("{}:", mesh.lab.a1.address);
    wait_until("a neighbour is reached without a tunnel", secs(5), || {
        let seen = seen("10.96.0.60")?;
        ensure!(seen.starts_with(&own), "the endpoint sees {seen}");
        Ok(())
    })?;
    wait_until("both endpoints are reached, each its way", secs(20), || {
        let sources = (0..16).map(|_| seen("10.96.0.61")).collect::<Result<Vec<_>>>()?;
        let near = sources.iter().filter(|source| source.starts_with(&own)).count();
        let far = sources.iter().filter(|source| source.starts_with("242.")).count();
        ensure!(near > 0 && far > 0 && near + far == sources.len(), "{sources:?}");
        Ok(())
    })?;
    Proxy::Nftables.install(&mesh.lab.a1, &[near, wide])?;
    is_in_mode(mesh, "shadow")?;
    wait_until("only what reaches beyond the domain is taken", secs(3), || {
        let elements = mesh.lab.a1.ns.exec(&["nft", "list", "map", "ip", "edgemesh", "shadows"])?;
        ensure!(elements.contains("10.96.0.61 :") && !elements.contains("10.96.0.60 :"), "{elements}");
        Ok(())
    })?;
    ensure!(seen("10.96.0.60")?.starts_with(&own), "by the other proxy");
    let (agent, node) = mesh.agent("a1")?;
    let explained = agent.command(node, &["explain", "wide:7100"])?.success()?;
    ensure!(explained.contains("of this node's domain"), "explain: {explained}");
    Ok(())
}

pub(super) fn is_in_mode(mesh: &Mesh, mode: &str) -> Result {
    let (agent, node) = mesh.agent("a1")?;
    wait_until(&format!("interception by {mode}"), secs(3), || {
        let status = agent.json(node, "status")?;
        ensure!(status["interception"]["mode"] == mode, "status: {status}");
        Ok(())
    })
}

impl Proxy {
    /// Writes the rules for these Services.
    fn install(self, node: &Node, services: &[Service]) -> Result {
        // kube-proxy asks the same of a node whose pods are on a bridge: answers between them pass through the rules.
        node.ns.sysctl("net/bridge/bridge-nf-call-iptables", "1")?;
        match self {
            Self::Iptables(tool) => restore(node, tool, &iptables_rules(services)),
            Self::Nftables => node.ns.nft(&nftables_rules(services)),
            Self::Ipvs => {
                let kind = node.run(&["ip", "link", "add", "kube-ipvs0", "type", "dummy"])?;
                if !kind.status.success() {
                    node.ns.ip(&["link add kube-ipvs0 type bridge"])?;
                }
                services
                    .iter()
                    .filter_map(|service| service.cluster_ip)
                    .try_for_each(|vip| node.ns.ip(&[&format!("addr add {vip}/32 dev kube-ipvs0")]))
            }
        }
    }
}

fn restore(node: &Machine, tool: &str, rules: &str) -> Result {
    let words = [&format!("{tool}-restore"), "--noflush"];
    node.run_within(&words, rules.as_bytes(), secs(30))?.success().map(drop)
}

/// Every port of every Service with a ClusterIP.
fn ports(services: &[Service]) -> impl Iterator<Item = (&Service, Ipv4Addr, &Port)> {
    let with_ip = services.iter().filter_map(|service| Some((service, service.cluster_ip?)));
    with_ip.flat_map(|(service, vip)| service.ports.iter().map(move |port| (service, vip, port)))
}

fn iptables_rules(services: &[Service]) -> String {
    let (mut nat, mut filter) = (String::new(), String::new());
    for (number, (service, vip, port)) in ports(services).enumerate() {
        let protocol = port.protocol.to_lowercase();
        let to_vip = format!("-d {vip}/32 -p {protocol} --dport {}", port.port);
        if service.endpoints.is_empty() {
            let _ = writeln!(filter, "-A KUBE-SERVICES {to_vip} -m conntrack --ctstate NEW -j REJECT");
            continue;
        }
        let _ = writeln!(nat, ":KUBE-SVC-{number} - [0:0]\n-A KUBE-SERVICES {to_vip} -j KUBE-SVC-{number}");
        let _ = writeln!(nat, "-A KUBE-SVC-{number} ! -s 172.17.0.0/16 {to_vip} -j KUBE-MARK-MASQ");
        for endpoint in &service.endpoints {
            let to = format!("{}:{}", endpoint.ip, port.target);
            let _ = writeln!(nat, "-A KUBE-SVC-{number} -p {protocol} -j DNAT --to-destination {to}");
        }
    }
    format!(
        "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n\
         -A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n\
         -A KUBE-POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE\n{nat}COMMIT\n\
         *filter\n:KUBE-SERVICES - [0:0]\n:KUBE-FORWARD - [0:0]\n\
         -A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES\n-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES\n\
         -A FORWARD -j KUBE-FORWARD\n-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n{filter}COMMIT\n"
    )
}

fn nftables_rules(services: &[Service]) -> String {
    let (mut chains, mut map) = (String::new(), Vec::new());
    for (number, (service, vip, port)) in ports(services).enumerate() {
        let key = format!("{vip} . {} . {}", port.protocol.to_lowercase(), port.port);
        let endpoints = service.endpoints.iter().enumerate();
        let targets: Vec<_> = endpoints.map(|(n, e)| format!("{n} : {} . {}", e.ip, port.target)).collect();
        if targets.is_empty() {
            continue;
        }
        map.push(format!("{key} : goto service-{number}"));
        let _ = writeln!(
            chains,
            "chain service-{number} {{\n ip saddr != 172.17.0.0/16 meta mark set mark or 0x4000\n \
             meta l4proto {} dnat ip to numgen random mod {} map {{ {} }}\n}}",
            port.protocol.to_lowercase(),
            targets.len(),
            targets.join(", ")
        );
    }
    let ips: Vec<_> = services.iter().filter_map(|s| s.cluster_ip).map(|ip| ip.to_string()).collect();
    format!(
        "table ip kube-proxy {{\n set cluster-ips {{ type ipv4_addr\n elements = {{ {} }}\n }}\n{chains}\
         map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict\n elements = {{ {} }}\n }}\n\
         chain services {{\n ip daddr . meta l4proto . th dport vmap @service-ips\n }}\n\
         chain cluster-ips-check {{\n ip daddr @cluster-ips reject\n }}\n\
         chain nat-prerouting {{\n type nat hook prerouting priority -100\n jump services\n }}\n\
         chain nat-output {{\n type nat hook output priority -100\n jump services\n }}\n\
         chain nat-postrouting {{\n type nat hook postrouting priority 100\n mark and 0x4000 != 0 masquerade\n }}\n\
         chain filter-forward {{\n type filter hook forward priority 0\n ct state new jump cluster-ips-check\n }}\n\
         chain filter-output {{\n type filter hook output priority 0\n ct state new jump cluster-ips-check\n }}\n}}\n",
        ips.join(", "),
        map.join(",\n")
    )
}
