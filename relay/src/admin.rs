//! What the server answers on its admin endpoints.
//!
//! `/status` and `/nodes` are JSON, for people and tests. Orders are taken on the socket in the state directory only,
//! where file permissions say who may give them.

use crate::control::Shared;
use crate::counters::Loss;
use crate::directory::Node;
use crate::orders::{News, Order};
use edgemesh_core::wire::control::Refusal;
use edgemesh_host::admin::{Handler, Method, Request, Response};
use edgemesh_host::metrics::{Kind, Text};
use edgemesh_host::token::fingerprint;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Version of the program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Path of orders; the body is an [`Order`] in JSON.
pub(crate) const ORDER_PATH: &str = "/order";

/// An admin endpoint.
pub(crate) struct Admin {
    pub(crate) shared: Arc<Shared>,
    /// Whether Services are read from somewhere, so that the feed has to be there before the server is ready.
    pub(crate) has_source: bool,
    /// Whether it may change things.
    pub(crate) privileged: bool,
}

/// A node, for people and tests.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeView {
    node: String,
    index: u32,
    /// Fingerprint of its key.
    key: Option<String>,
    joined: bool,
    revoked: bool,
    connected: bool,
    remote: Option<SocketAddr>,
    agent: Option<String>,
    /// Unix time of its connection.
    since: Option<u64>,
    /// Unix time of the end of its last connection to this server since that was started.
    last_seen: Option<u64>,
    relay: Option<String>,
    relay_remote: Option<SocketAddr>,
    /// The server without a directory that its control connection comes by.
    #[serde(default)]
    via: Option<String>,
}

impl NodeView {
    /// Above the lines.
    pub(crate) const HEAD: &str =
        "NODE                             INDEX  KEY               STATE      SEEN\n";

    /// A node while no server runs.
    pub(crate) fn offline(index: u32, node: &Node) -> Self {
        Self {
            node: node.name.clone(),
            index,
            key: node.key.as_ref().map(fingerprint),
            joined: node.key.is_some(),
            revoked: node.revoked,
            connected: false,
            remote: None,
            agent: None,
            since: None,
            last_seen: None,
            relay: None,
            relay_remote: None,
            via: None,
        }
    }

    /// A line for people.
    pub(crate) fn line(&self, now: u64) -> String {
        let state = match (self.revoked, self.joined, self.connected) {
            (true, ..) => "revoked",
            (_, false, _) => "unjoined",
            (_, _, true) => "connected",
            (_, _, false) => "away",
        };
        let seen = match (self.connected, self.last_seen) {
            (true, _) => "now".to_owned(),
            (_, Some(at)) => format!("{} s ago", now.saturating_sub(at)),
            (_, None) => "-".to_owned(),
        };
        let key = self.key.as_deref().unwrap_or("-");
        format!("{:<32} {:<6} {key:<17} {state:<10} {seen}\n", self.node, self.index)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    version: &'static str,
    ready: bool,
    epoch: u32,
    nodes: usize,
    connected: usize,
    sessions: usize,
    bound_udp: usize,
    bound_tcp: usize,
    relayed_datagrams: u64,
    relayed_bytes: u64,
    feed_sequence: Option<u64>,
    services: usize,
    counters: std::collections::BTreeMap<&'static str, u64>,
}

impl Handler for Admin {
    async fn ready(&self) -> Result<(), String> {
        if self.has_source && self.shared.feed.newest().is_none() {
            return Err("the Services have not been read".to_owned());
        }
        Ok(())
    }

    async fn metrics(&self, out: &mut Text) {
        let shared = &self.shared;
        let counters = &shared.counters;
        out.process(VERSION);
        out.gauge("server_nodes", "Nodes in the directory.", shared.directory().nodes().len());
        out.gauge("server_nodes_connected", "Nodes with a control connection.", shared.hub.len());
        counters.write_relay(&shared.switch, out);
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Relaxed);
        let mut refused = out.family("server_refused_total", Kind::Counter, "Nodes turned away, by reason.");
        for (reason, count) in REFUSALS.iter().zip(&counters.refused) {
            refused.sample(&[("reason", reason.1)], load(count));
        }
        out.counter("server_enrolled_total", "Keys enrolled by a join token.", load(&counters.enrolled));
        out.counter("server_lookups_total", "Nodes looked up.", load(&counters.lookups));
        out.counter("feed_bytes_total", "Bytes of the service feed sent.", load(&counters.feed_bytes));
        out.counter(
            "manifest_problems_total",
            "Mistakes found in manifests.",
            load(&counters.manifest_problems),
        );
        counters.programming.write(out);
        let newest = shared.feed.newest();
        out.gauge(
            "feed_sequence",
            "Sequence of the service feed.",
            newest.as_ref().map_or(0, |v| v.sequence),
        );
        out.gauge("feed_services", "Services in the feed.", newest.as_ref().map_or(0, |v| v.services));
    }

    async fn route(&self, request: Request) -> Response {
        match (request.method, request.path.as_str()) {
            (Method::Get, "/status") => Response::json(&self.status()),
            (Method::Get, "/nodes") => self.nodes(),
            (Method::Post, ORDER_PATH) if self.privileged => self.order(&request.body),
            _ => Response::not_found(),
        }
    }
}

/// Refusals in the order of their numbers, as metric labels.
const REFUSALS: [(Refusal, &str); 8] = [
    (Refusal::WrongToken, "wrong_token"),
    (Refusal::Expired, "expired"),
    (Refusal::UsedByAnotherKey, "used_by_another_key"),
    (Refusal::NameTaken, "name_taken"),
    (Refusal::NotEnrolled, "not_enrolled"),
    (Refusal::Revoked, "revoked"),
    (Refusal::Version, "version"),
    (Refusal::Account, "account"),
];

impl Admin {
    fn status(&self) -> Status {
        let shared = &self.shared;
        let (sessions, bound_udp, bound_tcp) = shared.switch.sizes();
        let newest = shared.feed.newest();
        let (epoch, nodes) = {
            let directory = shared.directory();
            (directory.epoch(), directory.nodes().len())
        };
        let mut counters: std::collections::BTreeMap<_, _> =
            Loss::ALL.iter().map(|reason| (reason.name(), shared.counters.dropped(*reason))).collect();
        let refused = REFUSALS.iter().zip(&shared.counters.refused);
        counters.extend(refused.map(|((_, name), count)| (*name, count.load(Relaxed))));
        Status {
            version: VERSION,
            ready: !self.has_source || newest.is_some(),
            epoch,
            nodes,
            connected: shared.hub.len(),
            sessions,
            bound_udp,
            bound_tcp,
            relayed_datagrams: shared.counters.datagrams.load(Relaxed),
            relayed_bytes: shared.counters.bytes.load(Relaxed),
            feed_sequence: newest.as_ref().map(|v| v.sequence),
            services: newest.as_ref().map_or(0, |v| v.services),
            counters,
        }
    }

    fn nodes(&self) -> Response {
        let shared = &self.shared;
        let nodes = shared.directory().nodes().clone();
        Response::json(&nodes.iter().map(|(index, node)| view(shared, *index, node)).collect::<Vec<_>>())
    }

    fn order(&self, body: &[u8]) -> Response {
        let order: Order = match serde_json::from_slice(body) {
            Ok(order) => order,
            Err(e) => return Response::text(400, format!("not an order: {e}\n")),
        };
        let shared = &self.shared;
        let now = edgemesh_host::clock::wall().secs;
        let done = order.carry_out(&mut shared.directory(), now, &mut shared.rng());
        let done = match done {
            Ok(done) => done,
            Err(e) => return Response::text(500, format!("{e}\n")),
        };
        match done.news {
            News::None => {}
            News::Token(node) => tracing::info!(node, "join token made"),
            News::Revoked(node, index) => shared.revoked(&node, index),
            News::Rotated => shared.rotated(),
            News::Restart => shared.restart.notify_one(),
        }
        Response { status: 200, content_type: "application/octet-stream", body: done.output.to_vec() }
    }
}

fn view(shared: &Shared, index: u32, node: &Node) -> NodeView {
    let connected = shared.hub.get(index);
    let bound = shared.switch.binding(index);
    NodeView {
        connected: connected.is_some(),
        remote: connected.as_ref().map(|c| c.peer),
        agent: connected.as_ref().map(|c| c.agent.clone()),
        since: connected.as_ref().map(|c| c.since),
        last_seen: shared.hub.last_seen(index),
        via: connected
            .as_ref()
            .and_then(|c| c.via)
            .and_then(|relay| shared.directory().nodes().get(&relay).map(|node| node.name.clone())),
        relay: bound.map(|(transport, _)| transport.to_owned()),
        relay_remote: bound.map(|(_, remote)| remote),
        ..NodeView::offline(index, node)
    }
}
