//! The admin endpoint: probes, metrics, and the JSON that the commands print.
//!
//! One file a subject. Each answer is a type that the agent fills and the command reads back: [`Report`] turns it
//! into lines for people, so that both forms say the same.
//!
//! Bounds: one measurement (`ping`, `explain`) at a time; a second one waits for the first.

pub(super) mod dns;
mod explain;
mod listing;
mod netcheck;
mod ping;
mod reach;

pub use dns::DnsReport;
pub use explain::Explanation;
pub use listing::{EndpointEntry, PeerEntry, ServiceEntry, Status};
pub use netcheck::Netcheck;
pub use ping::Ping;

use super::command::Handle;
use super::join::Reply;
use super::status::{Shared, SourceHealth};
use edgemesh_host::admin::{Handler, Listener, Method, Request, Response};
use edgemesh_host::metrics::{Kind, Text};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;

/// Path of the order to change this node's key.
pub const ROTATE_PATH: &str = "/rotate-key";
/// How long the directory may take to answer to it.
const ROTATE_WITHIN: Duration = Duration::from_secs(20);

/// An answer that a command prints.
pub trait Report {
    /// What people read, line by line.
    fn lines(&self) -> Vec<String>;
    /// Why the command fails although it has an answer.
    fn failure(&self) -> Option<String>;
}

/// Why a request has no answer: HTTP status and words.
#[derive(Debug)]
struct Failure(u16, String);

/// The data thread has ended.
fn stopping() -> Failure {
    Failure(503, "the agent is stopping".into())
}

/// Answers requests.
pub struct Admin {
    handle: Handle,
    shared: Arc<Shared>,
    /// Where orders to change this node's key go, where file permissions say who may give them.
    rotations: Option<mpsc::UnboundedSender<Reply>>,
    /// Held by who measures: there is one watcher of events and one ping at a time.
    measuring: Mutex<()>,
}

/// Answers requests until dropped.
pub async fn serve(listener: Listener, admin: Arc<Admin>) {
    edgemesh_host::admin::serve(listener, admin).await;
}

impl Admin {
    /// With the data thread's and this thread's parts of the truth.
    pub fn new(handle: Handle, shared: Arc<Shared>, rotations: Option<mpsc::UnboundedSender<Reply>>) -> Self {
        Self { handle, shared, rotations, measuring: Mutex::new(()) }
    }

    async fn rotate_key(&self) -> Response {
        let Some(rotations) = &self.rotations else {
            let why =
                "--admin: is no Unix socket; accepted: unix:/PATH, whose mode says who may change the key\n";
            return Response::text(403, why);
        };
        let (reply, outcome) = oneshot::channel();
        let _ = rotations.send(reply);
        match timeout(ROTATE_WITHIN, outcome).await {
            Ok(Ok(Ok(key))) => Response::text(200, format!("this node's key is {key}\n")),
            Ok(Ok(Err(why))) => Response::text(409, format!("{why}\n")),
            Ok(Err(_)) => Response::text(503, "the agent is stopping\n"),
            Err(_) => Response::text(
                504,
                "the directory has not answered (an older server does not); it is asked again with the next connection\n",
            ),
        }
    }

    /// How current the Services are, and what that took.
    fn source_metrics(&self, out: &mut Text, age_secs: Option<u64>) {
        if let Some(age) = age_secs {
            out.gauge("source_age_seconds", "Since the Services were known to be current.", age);
        }
        if let Some(SourceHealth { lists, failures, refused_objects }) = self.shared.source_health() {
            out.counter("source_lists_total", "Whole lists heard.", lists);
            out.counter("source_failures_total", "Requests in vain, and watches that broke.", failures);
            out.counter("source_refused_objects_total", "Objects that do not apply.", refused_objects);
        }
        self.shared.programming.write(out);
    }
}

impl Handler for Admin {
    async fn ready(&self) -> Result<(), String> {
        self.shared.obstacle().map_or(Ok(()), Err)
    }

    async fn remarks(&self) -> Vec<String> {
        let stale = if self.shared.is_heard() { "" } else { ", not heard in this run" };
        let age = self.shared.age_secs();
        let age = age.map_or_else(|| "never current".to_owned(), |secs| format!("current {secs} s ago"));
        let health = self.shared.source_health().map(|SourceHealth { lists, failures, refused_objects }| {
            format!(", {lists} lists, {failures} failures, {refused_objects} objects refused")
        });
        vec![format!("source {}: {age}{stale}{}", self.shared.source, health.unwrap_or_default())]
    }

    async fn metrics(&self, out: &mut Text) {
        let Some(status) = self.status().await else { return };
        out.family("ready", Kind::Gauge, "Whether this node serves.").sample(&[], u64::from(status.ready));
        out.family("stale", Kind::Gauge, "Whether the source was not heard in this run.")
            .sample(&[], u64::from(status.stale));
        self.source_metrics(out, status.age_secs);
        let mut drops = out.family("drops_total", Kind::Counter, "Packets dropped, by reason.");
        for (name, value) in status.counters.iter().filter_map(|(n, v)| Some((n.strip_prefix("drop_")?, v))) {
            drops.sample(&[("reason", name)], *value);
        }
        for (name, value) in status.counters.iter().filter(|(n, _)| !n.starts_with("drop_")) {
            out.family(name, Kind::Gauge, "As in `status`.").sample(&[], *value);
        }
        let peers = self.peers().await.unwrap_or_default();
        let mut paths = out.family("peers", Kind::Gauge, "Peers by path.");
        for path in ["direct", "relay", "relay-tcp", "none"] {
            paths.sample(&[("path", path)], peers.iter().filter(|p| p.path == path).count() as u64);
        }
    }

    async fn route(&self, request: Request) -> Response {
        if request.method != Method::Get {
            let rotate = request.path == ROTATE_PATH;
            return if rotate { self.rotate_key().await } else { Response::not_found() };
        }
        let parameter = |name: &str| {
            let value = request.parameter(name).filter(|value| !value.is_empty());
            value.ok_or_else(|| Failure(400, format!("parameter {name} is missing")))
        };
        match request.path.as_str() {
            "/status" => json(self.status().await.ok_or_else(stopping)),
            "/peers" => json(self.peers().await.ok_or_else(stopping)),
            "/services" => json(self.services().await.ok_or_else(stopping)),
            "/netcheck" => json(self.netcheck().await),
            "/ping" => json(async { self.ping(parameter("node")?).await }.await),
            "/explain" => json(async { self.explain(parameter("name")?).await }.await),
            "/dns" => json(async { self.dns(parameter("name")?).await }.await),
            _ => Response::not_found(),
        }
    }
}

fn json<T: Serialize>(answer: Result<T, Failure>) -> Response {
    match answer {
        Ok(value) => Response::json(&value),
        Err(Failure(status, text)) => Response::text(status, text),
    }
}
