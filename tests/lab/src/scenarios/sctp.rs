//! SCTP through the mesh, between programs that know nothing of it.

use std::net::Ipv4Addr;

use crate::machine::Machine;
use crate::manifests::{Service, write_file};
use crate::mesh::Mesh;
use crate::wait::{secs, wait_until};
use crate::{Context, Result, ensure};

use super::reach::answers;

/// The local port of every client.
const LOCAL: &str = "4000";
/// First pod of every node.
const POD: &str = "172.17.0.2";

/// A Service that has one number for three protocols, each with an endpoint and a target port of its own.
fn three_protocols() -> String {
    let ports = [("TCP", 8080, "a2"), ("UDP", 7000, "cloud"), ("SCTP", 5353, "b1")];
    let mut text = String::from(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: three\n  namespace: default\n  uid: \
         00000000-0000-4000-8000-0000000074b3\nspec:\n  type: ClusterIP\n  clusterIP: 10.96.0.98\n  clusterIPs: \
         ['10.96.0.98']\n  ipFamilies: [IPv4]\n  ports:\n",
    );
    for (protocol, target, _) in ports {
        let name = protocol.to_lowercase();
        text += &format!("  - {{name: {name}, port: 53, targetPort: {target}, protocol: {protocol}}}\n");
    }
    for (protocol, target, node) in ports {
        let name = protocol.to_lowercase();
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata:\n  name: \
             three-{name}\n  namespace: default\n  labels:\n    kubernetes.io/service-name: three\nports:\n- {{name: \
             {name}, port: {target}, protocol: {protocol}}}\nendpoints:\n- addresses: ['{POD}']\n  nodeName: {node}\n  \
             conditions: {{ready: true}}\n"
        );
    }
    text
}

/// One number leads to three endpoints by protocol. Two pods of a node associate from the same port with the endpoint
/// of SCTP, which sees two ports; messages of every size come back as they were, and one association is shut down while
/// the other goes on. A port without endpoints refuses at once.
pub(super) fn associations(mesh: &mut Mesh) -> Result {
    let manifests = mesh.server.manifests().to_owned();
    let service =
        |name, last| Service::new(name, Ipv4Addr::new(10, 96, 0, last)).port("SCTP", "s", 5353, 5353);
    let (here, none) =
        (service("assoc", 100).endpoint("a1", Ipv4Addr::new(172, 17, 0, 2)), service("none", 101));
    write_file(&manifests, "three.yaml", &three_protocols())?;
    for service in [&here, &none] {
        service.write_to(&manifests)?;
    }
    let server = mesh.pod("b1")?.tool("sctp", &["sctp-server", "4", "5353"])?;
    let _own = mesh.pod("a1")?.tool("sctp", &["sctp-server", "4", "5353"])?;
    let node = &mesh.lab.a1;
    let (first, second) = (node.pod(1)?, node.pod(2)?);
    wait_until("the Services are there", secs(10), || answers(first, "three:53", "a2-p1"))?;
    first.run_tool(&["udp-sizes", "three:53", "1", "3000", "311"], secs(30))?;

    let echo = |client: &Machine, target: &str| client.run_tool(&["sctp-echo", target, LOCAL], secs(40));
    let mut held = first.tool("sctp-hold", &["sctp-hold", "three:53", LOCAL])?;
    echo(second, "three:53")?;
    let seen = server.log();
    let ports: Vec<&str> =
        lines(&seen, "associated ").filter_map(|from| Some(from.rsplit_once(':')?.1)).collect();
    let from_mesh = lines(&seen, "associated 242.").count();
    ensure!(
        from_mesh == 2 && matches!(ports[..], [one, other] if one == LOCAL && other != LOCAL),
        "the endpoint saw {seen}"
    );
    wait_until("the endpoint knows of the shutdown", secs(5), || {
        ensure!(lines(&server.log(), "closed ").count() == 1, "{}", server.log());
        Ok(())
    })?;
    let before = lines(&held.log(), "echoed ").count();
    wait_until("the other association goes on", secs(5), || {
        ensure!(held.is_running(), "{}", held.log());
        ensure!(lines(&held.log(), "echoed ").count() > before, "{before} echoes so far, none since");
        Ok(())
    })?;

    for client in [second, first, node] {
        echo(client, "assoc.default.svc.cluster.local:5353").context("within a node")?;
    }
    echo(node, "three.default.svc.cluster.local:53").context("a process of the node")?;
    let refused = echo(first, "none:5353").err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(refused.contains("refused after"), "a port without endpoints: {refused:?}");
    for service in [&here, &none] {
        service.remove_from(&manifests)?;
    }
    std::fs::remove_file(manifests.join("three.yaml")).context("three.yaml")
}

/// What follows the word, on every line that begins with it.
fn lines<'t>(log: &'t str, word: &'t str) -> impl Iterator<Item = &'t str> {
    log.lines().filter_map(move |line| line.strip_prefix(word))
}
