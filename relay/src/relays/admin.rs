//! What a server without a directory answers on its admin endpoint.

use crate::admin::VERSION;
use crate::counters::{Counters, Loss};
use crate::forward::{Membership, Switch};
use edgemesh_host::admin::{Handler, Method, Request, Response};
use edgemesh_host::metrics::Text;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tokio::sync::watch;

/// The endpoint.
pub(super) struct Admin {
    pub(super) name: String,
    pub(super) switch: Arc<Switch>,
    pub(super) counters: Arc<Counters>,
    pub(super) membership: watch::Receiver<Option<Membership>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    version: &'static str,
    role: &'static str,
    relay: &'a str,
    ready: bool,
    index: Option<u32>,
    directory: Option<SocketAddr>,
    sessions: usize,
    bound_udp: usize,
    bound_tcp: usize,
    relayed_datagrams: u64,
    relayed_bytes: u64,
    counters: BTreeMap<&'static str, u64>,
}

impl Handler for Admin {
    async fn ready(&self) -> Result<(), String> {
        match *self.membership.borrow() {
            Some(_) => Ok(()),
            None => Err("no connection to the directory's server".to_owned()),
        }
    }

    async fn metrics(&self, out: &mut Text) {
        out.process(VERSION);
        let up = usize::from(self.membership.borrow().is_some());
        out.gauge("relay_directory_up", "Whether the connection to the directory's server stands.", up);
        self.counters.write_relay(&self.switch, out);
    }

    async fn route(&self, request: Request) -> Response {
        match (request.method, request.path.as_str()) {
            (Method::Get, "/status") => Response::json(&self.status()),
            _ => Response::not_found(),
        }
    }
}

impl Admin {
    fn status(&self) -> Status<'_> {
        let membership = *self.membership.borrow();
        let (sessions, bound_udp, bound_tcp) = self.switch.sizes();
        Status {
            version: VERSION,
            role: "relay",
            relay: &self.name,
            ready: membership.is_some(),
            index: membership.map(|membership| membership.index),
            directory: membership.map(|membership| membership.server),
            sessions,
            bound_udp,
            bound_tcp,
            relayed_datagrams: self.counters.datagrams.load(Relaxed),
            relayed_bytes: self.counters.bytes.load(Relaxed),
            counters: Loss::ALL
                .iter()
                .map(|reason| (reason.name(), self.counters.dropped(*reason)))
                .collect(),
        }
    }
}
