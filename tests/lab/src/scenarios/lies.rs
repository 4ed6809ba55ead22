//! A server that has the key for connections and not the one that signs: what it says otherwise is noticed and told,
//! and what the directory signed last stays in force.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde_json::Value;

use crate::manifests::Service;
use crate::mesh::Mesh;
use crate::process::Process;
use crate::product::{Agent, AgentOptions, SERVER_PORT};
use crate::topology::SERVER;
use crate::wait::{secs, wait_until};
use crate::{Context, Result, ensure, fail};

/// The port of the one in the middle.
const MIDDLE: u16 = 20_014;
/// Within which updates that nobody signed for are undone, and a bit.
const UNDONE_WITHIN: core::time::Duration = secs(14);
const HEARD_WITHIN: core::time::Duration = secs(15);
/// Where pods are, on every node.
const POD: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);

/// The agent of a1, behind a server that lies as ordered.
struct Behind<'m> {
    mesh: &'m mut Mesh,
    orders: PathBuf,
    _middle: Process,
}

impl<'m> Behind<'m> {
    /// A mesh with that one agent, which has heard the truth so far.
    fn start(mesh: &'m mut Mesh) -> Result<Self> {
        let server = &mesh.lab.server;
        let orders = server.directory().join("orders");
        fs::write(&orders, "pass").context(orders.display())?;
        let [keys, identity, told] =
            [mesh.server.state().join("keys"), Agent::state(&mesh.lab.a1).join("identity"), orders.clone()]
                .map(|path| path.to_string_lossy().into_owned());
        let real = format!("127.0.0.1:{SERVER_PORT}");
        let words = ["middle", &MIDDLE.to_string(), &real, &keys, &identity, &told];
        let middle = server.tool("middle", &words)?;
        let token = mesh.server.token(server, "a1", "24h")?;
        let mut token: edgemesh_host::token::Token = token.parse().context("join token")?;
        token.servers = vec![format!("{SERVER}:{MIDDLE}")];
        let options = AgentOptions {
            token: token.to_string(),
            source: Some("server".to_owned()),
            more: vec!["--node-ports".to_owned()],
        };
        mesh.join_with("a1", options)?;
        mesh.agent_mut("a1")?.0.wait_ready()?;
        Ok(Self { mesh, orders, _middle: middle })
    }

    fn order(&self, word: &str) -> Result {
        let aside = self.orders.with_extension("new");
        fs::write(&aside, word).context(aside.display())?;
        fs::rename(&aside, &self.orders).context(self.orders.display())
    }

    fn status(&self) -> Result<Value> {
        let (a1, node) = self.mesh.agent("a1")?;
        a1.json(node, "status")
    }

    fn disbelieved(&self) -> Result<u64> {
        self.status()?["counters"]["server_disbelieved"].as_u64().context("counter server_disbelieved")
    }

    /// Waits until more was disbelieved than before, for a reason with these words, in status and metrics.
    fn notices(&self, before: u64, why: &str) -> Result {
        wait_until(&format!("the agent disbelieves: {why}"), HEARD_WITHIN, || {
            let status = self.status()?;
            let told = status["disbelieved"].as_str().unwrap_or_default();
            ensure!(self.disbelieved()? > before && told.contains(why), "{status}");
            Ok(())
        })?;
        let counted = self.mesh.agent("a1")?.0.metric(&["edgemesh_server_disbelieved"])?;
        ensure!(counted >= 1.0, "edgemesh_server_disbelieved is {counted}");
        Ok(())
    }

    /// Addresses of the endpoints of a Service, as the agent serves it; `None` when it has none of this name.
    fn endpoints(&self, name: &str) -> Result<Option<Vec<String>>> {
        let (a1, node) = self.mesh.agent("a1")?;
        let services = a1.json(node, "services")?;
        let all = services.as_array().context("services is no array")?;
        let Some(found) = all.iter().find(|service| service["name"] == name) else { return Ok(None) };
        let endpoints = found["endpoints"].as_array().context("endpoints")?;
        Ok(Some(endpoints.iter().filter_map(|e| e["ip"].as_str()).map(str::to_owned).collect()))
    }

    fn must_serve(&self, name: &str) -> Result {
        let found = self.endpoints(name)?;
        let endpoints = found.as_deref().unwrap_or_default();
        let right = !endpoints.is_empty() && endpoints.iter().all(|ip| *ip == POD.to_string());
        ensure!(right, "{name} is {found:?}");
        ensure!(self.endpoints("forged")?.is_none(), "a Service that nobody made is served");
        Ok(())
    }

    /// A Service that the real server learns of now.
    fn publish(&self, name: &'static str, last: u8, node_port: u16) -> Result {
        Service::new(name, Ipv4Addr::new(10, 96, 0, last))
            .port("TCP", "http", 80, 8080)
            .node_port(node_port)
            .endpoint("b1", POD)
            .write_to(self.mesh.server.manifests())
    }
}

/// It changes, adds and keeps back updates, sends some that nobody signs for, and an old list of entry points.
pub(super) fn are_noticed(mesh: &mut Mesh) -> Result {
    let behind = Behind::start(mesh)?;
    behind.must_serve("park")?;
    for (n, (order, name)) in
        (0_u8..).zip([("change", "changed"), ("add", "beside"), ("suppress", "kept-back")])
    {
        let before = behind.disbelieved()?;
        behind.order(order)?;
        behind.publish(name, 70_u8.saturating_add(n), 30_170_u16.saturating_add(n.into()))?;
        behind.notices(before, "not the one that the directory signed").context(order)?;
        behind.order("pass")?;
        wait_until("the truth is served", HEARD_WITHIN, || behind.must_serve(name)).context(order)?;
        behind.must_serve("park").context(order)?;
    }
    unsigned(&behind)?;
    replayed(&behind)
}

/// Updates count at once, and are undone when the directory does not sign for them.
fn unsigned(behind: &Behind<'_>) -> Result {
    let before = behind.disbelieved()?;
    behind.order("unsigned")?;
    behind.publish("unsigned", 80, 30_180)?;
    wait_until("what nobody has signed for yet is served", HEARD_WITHIN, || behind.must_serve("unsigned"))?;
    // Or it would be told again at once.
    behind.order("silence")?;
    wait_until("it is undone", UNDONE_WITHIN, || match behind.endpoints("unsigned")? {
        None => Ok(()),
        Some(_) => fail("it is served"),
    })?;
    for name in ["park", "changed", "kept-back"] {
        behind.must_serve(name).context("what was signed")?;
    }
    behind.notices(before, "did not sign")?;
    behind.order("pass")?;
    behind.publish("after", 83, 30_181)?;
    wait_until("all is signed for", HEARD_WITHIN, || {
        behind.must_serve("unsigned")?;
        behind.must_serve("after")
    })
}

/// A list of entry points that the directory has signed once is not taken for its present one.
fn replayed(behind: &Behind<'_>) -> Result {
    let node_ports = || {
        let rules = behind.mesh.lab.a1.check(&["nft", "list", "ruleset"])?;
        Ok::<_, crate::Error>([30_190, 30_191].map(|port| rules.contains(&port.to_string())))
    };
    behind.publish("door", 81, 30_190)?;
    wait_until("a new entry point", HEARD_WITHIN, || {
        ensure!(node_ports()? == [true, false], "{:?}", node_ports()?);
        Ok(())
    })?;
    let before = behind.disbelieved()?;
    behind.order("replay")?;
    behind.publish("door", 81, 30_191)?;
    behind.notices(before, "older than the one at hand")?;
    ensure!(node_ports()? == [true, false], "an old list is in force: {:?}", node_ports()?);
    behind.order("pass")?;
    behind.publish("another-door", 82, 30_192)?;
    wait_until("the newest list", HEARD_WITHIN, || {
        ensure!(node_ports()? == [false, true], "{:?}", node_ports()?);
        Ok(())
    })
}
