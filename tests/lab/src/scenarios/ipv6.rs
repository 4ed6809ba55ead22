//! IPv6 from end to end: pods with addresses of both families, Services of both, entry points and stand-ins.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use super::beside::is_in_mode;
use super::entry::{fails, join};
use super::exit::{PORT, tells_source};
use super::sources::{plain, seen, sees};
use crate::machine::Machine;
use crate::manifests::write_file;
use crate::mesh::Mesh;
use crate::process::Process;
use crate::snapshot::Snapshot;
use crate::topology::connect;
use crate::wait::{secs, wait_until};
use crate::workloads::curl;
use crate::{Context, Result, ensure};

/// The client's address on the LAN of site A, and that of node a1.
const CLIENT: &str = "fd01::1";
const NODE: &str = "fd01::11";
/// Where a checksum is answered.
const SUM: u16 = 9001;

/// A pod with a cable and addresses of its own, as some CNIs have them; reached by routes on its node.
pub(super) fn routed_pod(mesh: &Mesh, directory: &Path, node: &str, net: u8, last: u8) -> Result<Machine> {
    let host = mesh.lab.node(node)?;
    let address = Ipv4Addr::new(10, 244, net, last);
    let name = format!("{node}-r{last}");
    let pod = Machine::create(&format!("{}-", host.ns.name()), &name, address, directory)?;
    let (port, v6) = (format!("cni{last}"), format!("fd10:244:{net}::"));
    connect((host, &port), (&pod, "eth0"))?;
    host.ns.ip(&[
        &format!("link set {port} up"),
        &format!("addr add 10.244.{net}.1/32 dev {port}"),
        &format!("addr add {v6}1/128 dev {port} nodad"),
        &format!("route add {address}/32 dev {port}"),
        &format!("route add {v6}{last}/128 dev {port}"),
    ])?;
    pod.ns.ip(&[
        "link set eth0 up",
        &format!("addr add {address}/32 dev eth0"),
        &format!("addr add {v6}{last}/128 dev eth0 nodad"),
        &format!("route add 10.244.{net}.1/32 dev eth0"),
        &format!("route add {v6}1/128 dev eth0"),
        &format!("route add default via 10.244.{net}.1"),
        &format!("route add default via {v6}1"),
    ])?;
    Ok(pod)
}

/// A Service's port: protocol, name, number, target and NodePort, 0 for none.
pub(super) type Port = (&'static str, &'static str, u16, u16, u16);

/// A Service with an address of each family, 10.96.0.`last` and fd00:96::`last`, and endpoints in both: node, net and
/// last byte of their [`routed_pod`]s. `spec`: further fields.
pub(super) fn both_families(
    name: &str,
    last: u8,
    spec: &str,
    ports: &[Port],
    pods: &[(&str, u8, u8)],
) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: default\n  uid: \
         00000000-0000-4000-8000-0000000b{last:04}\nspec:\n  {spec}\n  clusterIP: 10.96.0.{last}\n  clusterIPs: \
         ['10.96.0.{last}', 'fd00:96::{last}']\n  ipFamilies: [IPv4, IPv6]\n  ports:\n"
    );
    for (protocol, name, port, target, node_port) in ports {
        let node_port = if *node_port == 0 { String::new() } else { format!(", nodePort: {node_port}") };
        text += &format!(
            "  - {{name: {name}, port: {port}, targetPort: {target}, protocol: {protocol}{node_port}}}\n"
        );
    }
    for kind in ["IPv4", "IPv6"] {
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: {kind}\nmetadata:\n  name: \
             {name}-{}\n  namespace: default\n  labels:\n    kubernetes.io/service-name: {name}\nports:\n",
            kind.to_lowercase()
        );
        for (protocol, name, _, target, _) in ports {
            text += &format!("- {{name: {name}, port: {target}, protocol: {protocol}}}\n");
        }
        text += if pods.is_empty() { "endpoints: []\n" } else { "endpoints:\n" };
        for (node, net, last) in pods {
            let address = match kind {
                "IPv4" => format!("10.244.{net}.{last}"),
                _ => format!("fd10:244:{net}::{last}"),
            };
            text +=
                &format!("- addresses: ['{address}']\n  nodeName: {node}\n  conditions: {{ready: true}}\n");
        }
    }
    text
}

/// [`tells_source`] for clients of IPv6; the other must run, too.
pub(super) fn tells_source_6(machine: &Machine) -> Result<Process> {
    let script = format!("SYSTEM:sh {}", machine.directory().join("who-asks.sh").display());
    listens_6(machine, PORT, &script)
}

/// socat that runs a command for each client of IPv6.
fn listens_6(machine: &Machine, port: u16, command: &str) -> Result<Process> {
    let listen = format!("TCP6-LISTEN:{port},ipv6only=1,fork,reuseaddr");
    let server = machine.spawn(&format!("socat6-{port}"), &["socat", "-t", "60", &listen, command])?;
    wait_until("it listens", secs(10), || {
        machine.check(&["socat", "-u", "/dev/null", &format!("TCP6:[::1]:{port}")]).map(drop)
    })?;
    Ok(server)
}

/// The servers of both families on a pod, and the pod.
struct Served {
    pod: Machine,
    _servers: Vec<Process>,
}

/// Pods of both families: two on a1, the second as a client, and one on the other site; and a LAN of both at site A.
fn prepare(mesh: &Mesh) -> Result<(Served, Machine, Served)> {
    let directory = mesh.lab.directory().join("routed");
    fs::create_dir_all(&directory).context(directory.display())?;
    let served = |node, net| {
        let pod = routed_pod(mesh, &directory, node, net, 2)?;
        let servers = vec![
            tells_source(&pod)?,
            tells_source_6(&pod)?,
            listens_6(&pod, SUM, "SYSTEM:sha256sum")?,
            pod.tool("udp", &["udp-server", "7000"])?,
        ];
        Ok(Served { pod, _servers: servers })
    };
    let (near, far) = (served("a1", 1)?, served("b1", 3)?);
    mesh.lab.nat_a.ns.ip(&[&format!("addr add {CLIENT}/64 dev lan")])?;
    let default = format!("route add default via {CLIENT}");
    mesh.lab.a1.ns.ip(&[&format!("addr add {NODE}/64 dev eth0"), &default])?;
    Ok((near, routed_pod(mesh, &directory, "a1", 1, 3)?, far))
}

/// The endpoint sees a node's mesh address, by TCP and by UDP of every size; a stream of 16 MiB arrives whole.
fn through_the_mesh(mesh: &Mesh, client: &Machine, at: &str) -> Result {
    let [tcp, udp] = seen(client, at)?;
    // Whole prefixes: the mesh has drawn one of fd00::/8 for itself.
    let is_another = ["fd01::", "fd10:244:", "fd05::"].iter().any(|other| tcp.starts_with(other));
    ensure!(tcp == udp && tcp.starts_with("fd") && !is_another, "{at}: {tcp} {udp} are seen");
    client.run_tool(&["udp-sizes", &format!("{at}:7000"), "1", "4000", "311"], secs(60))?;
    let sent = fs::read(&mesh.small.path).context("the small file")?;
    let target = format!("TCP6:{at}:{SUM}");
    let sum = client.run_within(&["socat", "-t", "30", "-", &target], &sent, secs(60))?.success()?;
    ensure!(sum.starts_with(&mesh.small.sum), "{at}: {sum} arrived, not {}", mesh.small.sum);
    Ok(())
}

/// NodePorts and external IPs of IPv6: for endpoints elsewhere and here, clients on the node and off it, and both
/// traffic policies.
pub(super) fn entry_points(mesh: &mut Mesh) -> Result {
    let (_near, inside, _far) = prepare(mesh)?;
    let manifests = join(mesh)?;
    let (client, node) = (&mesh.lab.nat_a, &mesh.lab.a1);
    client.ns.ip(&[&format!("route add fd05::/64 via {NODE}")])?;
    let ports: [Port; 3] = [
        ("TCP", "http", 80, PORT, 30_091),
        ("UDP", "udp", 7000, 7000, 30_092),
        ("TCP", "sum", 9001, SUM, 30_093),
    ];
    let spec = "type: NodePort\n  externalIPs: ['fd05::6']";
    let put = |policy: &str, pods: &[(&str, u8, u8)]| {
        let spec = format!("{spec}\n  externalTrafficPolicy: {policy}");
        write_file(&manifests, "door.yaml", &both_families("door", 47, &spec, &ports, pods))
    };
    let url = format!("http://[{NODE}]:30091/");
    let tells = |from: &Machine, url: &str| Ok(plain(&curl(from, url)?));
    put("Cluster", &[("b1", 3, 2)])?;
    wait_until("the NodePort answers", secs(10), || tells(client, &url).map(drop))?;
    for from in [client as &Machine, &inside, node] {
        through_the_mesh(mesh, from, "[fd05::6]").context(format!("{} by the external IP", from.name))?;
        let seen = tells(from, &url)?;
        ensure!(seen.contains(':'), "{}: {seen} is seen", from.name);
        let told = from.run_tool(&["udp-who", "0", &format!("[{NODE}]:30092")], secs(20))?;
        ensure!(told.starts_with("[fd"), "{}: {told} is seen", from.name);
        let v4 = tells(from, "http://192.168.1.11:30091/")?;
        ensure!(v4.starts_with("242."), "{}: by IPv4 {v4} is seen", from.name);
    }
    fails(node, "http://[::1]:30091/", 7)?;
    fails(client, &format!("http://[{NODE}]:30094/"), 7)?;
    let (agent, _) = mesh.agent("a1")?;
    let status = agent.json(node, "status")?;
    ensure!(
        status["entryPoints"]["addresses"] == serde_json::json!(["192.168.1.11", NODE]),
        "status: {status}"
    );

    put("Local", &[("a1", 1, 2), ("b1", 3, 2)])?;
    wait_until("the endpoint here sees its client", secs(10), || {
        let seen = (0..8).map(|_| tells(client, &url)).collect::<Result<Vec<_>>>()?;
        ensure!(seen.iter().all(|seen| seen == CLIENT), "{seen:?}");
        Ok(())
    })?;
    let told = client.run_tool(&["udp-who", "0", &format!("[{NODE}]:30092")], secs(20))?;
    ensure!(told.starts_with(&format!("[{CLIENT}]:")), "by UDP {told} is seen");
    put("Local", &[("b1", 3, 2)])?;
    wait_until("without a local endpoint there is silence", secs(20), || fails(client, &url, 28))?;
    tells(&inside, &url)?;
    put("Local", &[])?;
    wait_until("without any it refuses", secs(20), || fails(client, &url, 7))
}

/// kube-proxy's rules in nftables mode for VIPs of IPv6: connections lead to one pod, other ports are refused.
fn kube_proxy(vips: &[&str], to: &str) -> String {
    let each = |vip: &&str| {
        let ways = [("tcp", 80, PORT), ("udp", 7000, 7000), ("tcp", 9001, SUM)];
        ways.map(|(p, port, target)| format!("  ip6 daddr {vip} {p} dport {port} dnat to [{to}]:{target}\n"))
            .concat()
    };
    format!(
        "table ip6 kube-proxy {{\n set cluster-ips {{ type ipv6_addr\n elements = {{ {} }}\n }}\n\
         chain services {{\n{} }}\n\
         chain cluster-ips-check {{\n ip6 daddr @cluster-ips reject\n }}\n\
         chain nat-prerouting {{\n type nat hook prerouting priority -100\n jump services\n }}\n\
         chain nat-output {{\n type nat hook output priority -100\n jump services\n }}\n\
         chain filter-forward {{\n type filter hook forward priority 0\n ct state new jump cluster-ips-check\n }}\n\
         chain filter-output {{\n type filter hook output priority 0\n ct state new jump cluster-ips-check\n }}\n}}\n",
        vips.join(", "),
        vips.iter().map(each).collect::<String>()
    )
}

/// Beside kube-proxy a Service of both families is taken by its stand-ins of both, one with endpoints here only by
/// none; nothing of it stays.
pub(super) fn stand_ins(mesh: &mut Mesh) -> Result {
    let (near, client, _far) = prepare(mesh)?;
    let manifests = mesh.server.manifests().to_owned();
    let ports: [Port; 3] =
        [("TCP", "http", 80, PORT, 0), ("UDP", "udp", 7000, 7000, 0), ("TCP", "sum", 9001, SUM, 0)];
    for (name, last, pod) in [("beyond", 74, ("b1", 3, 2)), ("within", 75, ("a1", 1, 2))] {
        let text = both_families(name, last, "type: ClusterIP", &ports, &[pod]);
        write_file(&manifests, &format!("{name}.yaml"), &text)?;
    }
    mesh.lab.a1.ns.nft(&kube_proxy(&["fd00:96::74", "fd00:96::75"], "fd10:244:1::2"))?;
    mesh.lab.a1.ns.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    let before = Snapshot::of(&mesh.lab.a1)?;
    sees(&client, "[fd00:96::74]", "fd10:244:1::3").context("the proxy alone")?;
    mesh.join_all()?;
    is_in_mode(mesh, "shadow")?;
    wait_until("what the proxy cannot reach is taken, and nothing else", secs(5), || {
        let elements = mesh.lab.a1.ns.exec(&["nft", "list", "map", "ip6", "edgemesh", "shadows"])?;
        ensure!(elements.contains("fd00:96::74 :") && !elements.contains("fd00:96::75 :"), "{elements}");
        Ok(())
    })?;
    for from in [&client, &near.pod, &mesh.lab.a1 as &Machine] {
        through_the_mesh(mesh, from, "[fd00:96::74]").context(&from.name)?;
        fails(from, "http://[fd00:96::74]:81/", 7)?;
    }
    curl(&client, "http://beyond.default.svc.cluster.local/")?;
    client.check(&["curl", "-sS", "--fail", "-6", "--max-time", "5", "http://beyond/"])?;
    sees(&client, "[fd00:96::75]", "fd10:244:1::3").context("left to the proxy")?;
    let (agent, node) = mesh.agent_mut("a1")?;
    agent.stop_and_cleanup(node)?;
    before.must_equal(&Snapshot::of(node)?)?;
    sees(&client, "[fd00:96::74]", "fd10:244:1::3").context("the proxy alone again")
}
