//! The health check ports of load balancers: is there an endpoint of this Service on this node (row T7)?
//!
//! One small HTTP server for each Service with a `healthCheckNodePort`, on every address that has NodePorts. Whatever
//! is asked, the answer is 200 while the node serves and has a ready endpoint, else 503, with how many there are in
//! kube-proxy's JSON and header. A port that cannot be bound is told and tried again; nothing else waits for it.
//! Bounds: [`CONNECTIONS`] at a time for each listener, each for at most [`WITHIN`]. It reads no more of a request
//! than its first [`HEAD_MAX`] bytes.

use crate::agent::status::Shared;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{sleep, timeout};

const CONNECTIONS: usize = 16;
const WITHIN: Duration = Duration::from_secs(5);
const HEAD_MAX: usize = 4_096;
/// After an accept error (too many open files) the listener waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A Service whose health is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Check {
    pub(super) namespace: String,
    pub(super) name: String,
    /// `healthCheckNodePort`
    pub(super) port: u16,
    /// Addresses of ready endpoints on this node.
    pub(super) ready_here: usize,
}

/// The servers that run.
pub(super) struct Servers {
    status: Arc<Shared>,
    running: BTreeMap<SocketAddr, Running>,
}

struct Running {
    check: watch::Sender<Check>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Servers {
    /// None yet; `status` says whether the node serves.
    pub(super) fn new(status: Arc<Shared>) -> Self {
        Self { status, running: BTreeMap::new() }
    }

    /// Makes them those of `checks` at `addresses`; returns what cannot be, in words. What runs and is still wanted
    /// goes on: no connection is refused by a change of something else.
    pub(super) async fn set(&mut self, checks: &[Check], addresses: &[IpAddr]) -> Vec<String> {
        let mut wanted: BTreeMap<SocketAddr, &Check> = BTreeMap::new();
        let mut problems = Vec::new();
        for (check, ip) in checks.iter().flat_map(|check| addresses.iter().map(move |ip| (check, *ip))) {
            let at = SocketAddr::new(ip, check.port);
            match wanted.get(&at) {
                Some(first) => {
                    problems.push(told(check, &format!("is that of {}/{}", first.namespace, first.name)))
                }
                None => drop(wanted.insert(at, check)),
            }
        }
        self.running.retain(|at, _| wanted.contains_key(at));
        for (at, check) in wanted {
            match self.running.get(&at) {
                Some(running) => drop(running.check.send_replace(check.clone())),
                None => match self.start(at, check).await {
                    Ok(running) => drop(self.running.insert(at, running)),
                    Err(error) => problems.push(told(check, &format!("cannot be bound at {at}: {error}"))),
                },
            }
        }
        problems
    }

    async fn start(&self, at: SocketAddr, check: &Check) -> io::Result<Running> {
        let listener = TcpListener::bind(at).await?;
        let (sender, receiver) = watch::channel(check.clone());
        let task = spawn_local(serve(listener, receiver, self.status.clone())).abort_handle();
        Ok(Running { check: sender, task })
    }
}

fn told(check: &Check, what: &str) -> String {
    let Check { namespace, name, port, .. } = check;
    format!("Service {namespace}/{name}: its healthCheckNodePort {port} {what}; not served")
}

async fn serve(listener: TcpListener, check: watch::Receiver<Check>, status: Arc<Shared>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let answer = answer(&check.borrow(), status.obstacle().is_none());
                spawn_local(async move {
                    let _ = timeout(WITHIN, exchange(stream, answer)).await;
                    drop(slot);
                });
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Reads a request's head and says what there is to say.
async fn exchange(mut stream: TcpStream, answer: String) -> io::Result<()> {
    let mut head = Vec::with_capacity(512);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < HEAD_MAX {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// kube-proxy's answer (`pkg/proxy/healthcheck/service_health.go`), to the letter of its fields.
fn answer(check: &Check, healthy: bool) -> String {
    let count = check.ready_here;
    let body = serde_json::json!({
        "service": {"namespace": check.namespace, "name": check.name},
        "localEndpoints": count,
        "serviceProxyHealthy": healthy,
    })
    .to_string();
    let status = if healthy && count > 0 { "200 OK" } else { "503 Service Unavailable" };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n\
         X-Load-Balancing-Endpoint-Weight: {count}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
#[path = "health_tests.rs"]
pub(super) mod tests;
