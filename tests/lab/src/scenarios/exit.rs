//! Endpoints that are on no node of the mesh, or do not say on which one.

use std::net::Ipv4Addr;

use crate::machine::Machine;
use crate::manifests::{Service, write_file};
use crate::mesh::Mesh;
use crate::process::Process;
use crate::topology::{CLOUD_NODE, SERVER};
use crate::wait::{secs, wait_until};
use crate::workloads::{curl, per_connection};
use crate::{Context, Result, ensure};

/// A shell script for socat that answers a request with the address that it came from.
const WHO_ASKS: &str = r#"read -r request
printf 'HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s' "${#SOCAT_PEERADDR}" "$SOCAT_PEERADDR"
"#;
/// Where it listens.
pub(super) const PORT: u16 = 5432;

/// A server that tells whom it sees.
pub(super) fn tells_source(machine: &Machine) -> Result<Process> {
    let script = machine.directory().join("who-asks.sh");
    std::fs::write(&script, WHO_ASKS).context(script.display())?;
    per_connection(machine, PORT, &format!("sh {}", script.display()))
}

/// A Service whose endpoint names no node.
fn nodeless(name: &'static str, last: u8, endpoint: Ipv4Addr) -> Service {
    Service::new(name, Ipv4Addr::new(10, 96, 0, last)).port("TCP", "http", 80, PORT).endpoint("", endpoint)
}

fn node(name: &str, address: Ipv4Addr, exit: bool) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n  labels:\n    edgemesh.io/exit: '{exit}'\n\
         status:\n  addresses:\n  - type: InternalIP\n    address: {address}\n"
    )
}

/// A machine without an agent is reached through exits, which are all that it sees; an endpoint at a Node's address
/// is on that node. Neither is reached before somebody is an exit or has the address.
pub(super) fn outside_the_mesh(mesh: &mut Mesh) -> Result {
    let manifests = mesh.server.manifests().to_owned();
    let _outside = tells_source(&mesh.lab.server)?;
    let _on_node = tells_source(&mesh.lab.cloud)?;
    let (outside, on_node) = (nodeless("outside", 30, SERVER), nodeless("api", 31, CLOUD_NODE));
    outside.write_to(&manifests)?;
    on_node.write_to(&manifests)?;
    let client = mesh.pod("b1")?;
    wait_until("the Services are refused", secs(10), || {
        let refused = |name: &str| {
            curl(client, &format!("http://{name}/")).is_err_and(|e| e.to_string().contains("(7)"))
        };
        ensure!(refused("outside") && refused("api"), "something answers or nothing says no");
        Ok(())
    })?;
    write_file(&manifests, "node-cloud.yaml", &node("cloud", CLOUD_NODE, true))?;
    // A connection that comes to the exit before its masquerade is in place is lost for good: the next one counts.
    wait_until("the exit answers", secs(10), || {
        client.ns.exec(&["curl", "-sS", "--fail", "--max-time", "1", "http://10.96.0.30/"]).map(drop)
    })?;
    for client in [mesh.pod("a1")?, mesh.pod("b1")?, mesh.pod("cloud")?] {
        let source = curl(client, "http://outside/")?;
        ensure!(source.trim() == CLOUD_NODE.to_string(), "{} came out as {source:?}", client.name);
        let source = curl(client, "http://api/")?;
        ensure!(!source.trim().is_empty(), "{} was not told its source", client.name);
    }
    for file in ["node-cloud.yaml", "outside.yaml", "api.yaml"] {
        let path = manifests.join(file);
        std::fs::remove_file(&path).context(path.display())?;
    }
    Ok(())
}
