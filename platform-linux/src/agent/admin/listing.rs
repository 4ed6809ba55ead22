//! `status`, `peers` and `services`: what the agent has, as lists.

use super::Admin;
use crate::agent::data::Data;
use crate::agent::status::{DomainStatus, EntryPoints, Interception, Shared};
use crate::clock;
use edgemesh_core::counters::DropReason;
use edgemesh_core::node::{Engine, PeerStatus};
use edgemesh_core::path::Route;
use edgemesh_core::service::view::{EndpointView, ServiceView};
use edgemesh_core::wire::feed::{ENDPOINT_HELD, Protocol};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `status`.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Node name.
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// Fingerprint of this node's key, as in `edgemesh-server nodes`.
    #[serde(default)]
    pub key: String,
    /// Whether it serves.
    pub ready: bool,
    /// What keeps it from serving.
    pub reason: Option<String>,
    /// Where Services come from.
    pub source: String,
    /// Whether that source was not heard in this run.
    pub stale: bool,
    /// Seconds since the table was known to be current.
    pub age_secs: Option<u64>,
    /// Servers, in the order in which they are tried.
    pub servers: Vec<String>,
    /// Whether the control connection stands.
    pub connected: bool,
    /// Why something that the server said was not believed, the last time; how often is the counter
    /// `server_disbelieved`.
    #[serde(default)]
    pub disbelieved: Option<String>,
    /// How Services are taken.
    #[serde(default)]
    pub interception: Interception,
    /// Which nodes' endpoints are reached without the mesh.
    #[serde(default)]
    pub domain: DomainStatus,
    /// Where clients come in from outside the cluster, if this node is asked to let them (`--node-ports`).
    #[serde(default)]
    pub entry_points: Option<EntryPoints>,
    /// What was changed outside the agent's own rule table.
    pub touched: Vec<String>,
    /// Counters by name.
    pub counters: BTreeMap<String, u64>,
}

/// An entry of `peers`.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct PeerEntry {
    /// Node name.
    pub node: String,
    /// `direct`, `relay`, `relay-tcp` or `none`.
    pub path: String,
    /// Where datagrams go, when straight.
    pub remote: Option<String>,
    /// Round trip in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Seconds since the last handshake.
    pub last_handshake_secs: Option<u64>,
    /// Largest packet in bytes that the path carries.
    pub mtu: u16,
}

/// An entry of `services`.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct ServiceEntry {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// ClusterIPs.
    pub vips: Vec<String>,
    /// Ports, `name:number/protocol`.
    pub ports: Vec<String>,
    /// Endpoints, one entry for each port.
    pub endpoints: Vec<EndpointEntry>,
    /// Where it comes from.
    pub source: String,
    /// Seconds since it was known to be current.
    pub age_secs: u64,
}

/// An endpoint of a [`ServiceEntry`].
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct EndpointEntry {
    /// Node name.
    pub node: String,
    /// Its address there.
    pub ip: String,
    /// Its port.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub proto: String,
    /// Whether it is ready.
    pub ready: bool,
    /// Whether its Node is not ready, so that this is what was known of it before.
    pub held: bool,
    /// Whether its node says that it does not answer.
    pub down: bool,
    /// What stands for it cluster-wide.
    pub vip: Option<String>,
}

impl Admin {
    pub(super) async fn status(&self) -> Option<Status> {
        let look = |data: &mut Data| {
            let by_label = data.engine.services().home().domain != 0;
            (data.engine.link().is_up(), by_label, counters(data))
        };
        let (connected, by_label, mut counters) = self.handle.inspect(look).await?;
        for (name, value) in self.shared.dns_counters() {
            counters.insert(format!("dns_{name}"), value);
        }
        let disbelieved = self.shared.what_was_disbelieved();
        counters.insert("server_disbelieved".to_owned(), disbelieved.count);
        let reason = self.shared.obstacle();
        Some(Status {
            node: self.shared.node.clone(),
            version: crate::BUILD.rsplit('/').next().unwrap_or_default().to_owned(),
            key: self.shared.key_fingerprint(),
            ready: reason.is_none(),
            reason,
            source: self.shared.source.clone(),
            stale: !self.shared.is_heard(),
            age_secs: self.shared.age_secs(),
            servers: self.shared.servers.clone(),
            connected,
            disbelieved: disbelieved.why.map(str::to_owned),
            interception: self.shared.interception(),
            domain: self.shared.domain_status(by_label),
            entry_points: self.shared.entry_points(),
            touched: self.shared.touched_list().unwrap_or_default(),
            counters,
        })
    }

    pub(super) async fn peers(&self) -> Option<Vec<PeerEntry>> {
        let peers: Vec<PeerStatus> =
            self.handle.inspect(|data| data.engine.peers(clock::now()).collect()).await?;
        Some(peers.into_iter().map(|peer| self.peer(&peer)).collect())
    }

    fn peer(&self, peer: &PeerStatus) -> PeerEntry {
        let (path, remote) = path(peer);
        PeerEntry {
            node: self.shared.name_of(peer.index),
            path: path.to_owned(),
            remote,
            rtt_ms: peer.path.rtt.map(millis),
            tx_bytes: peer.traffic.0,
            rx_bytes: peer.traffic.1,
            last_handshake_secs: peer.handshake.map(|ago| ago.as_secs()),
            mtu: peer.path.mtu,
        }
    }

    pub(super) async fn services(&self) -> Option<Vec<ServiceEntry>> {
        let shared = self.shared.clone();
        let age = shared.age_secs().unwrap_or(0);
        self.handle
            .inspect(move |data| {
                let services = data.engine.services().services();
                let mut list: Vec<_> =
                    services.map(|service| service_entry(&data.engine, &service, &shared, age)).collect();
                list.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
                list
            })
            .await
    }
}

fn service_entry(
    engine: &Engine<'_>,
    service: &ServiceView<'_>,
    shared: &Shared,
    age_secs: u64,
) -> ServiceEntry {
    let now = clock::now();
    let ports: Vec<_> = service.ports().collect();
    let endpoint = |endpoint: EndpointView<'_>| {
        let entries = ports.iter().filter_map(move |port| {
            Some(EndpointEntry {
                node: shared.name_of(endpoint.node()),
                ip: endpoint.address().to_string(),
                port: endpoint.target(port.index())?,
                proto: protocol(port.protocol()).to_owned(),
                ready: endpoint.ready(),
                held: endpoint.conditions() & ENDPOINT_HELD != 0,
                down: engine.is_down(now, endpoint.node(), endpoint.address()),
                vip: endpoint.vip().map(|vip| vip.to_string()),
            })
        });
        entries.collect::<Vec<_>>()
    };
    ServiceEntry {
        namespace: service.namespace().to_string(),
        name: service.name().to_string(),
        vips: service.vips().map(|vip| vip.to_string()).collect(),
        ports: ports
            .iter()
            .map(|p| format!("{}:{}/{}", p.name(), p.port(), protocol(p.protocol())))
            .collect(),
        endpoints: service.endpoints().flat_map(endpoint).collect(),
        source: shared.source.clone(),
        age_secs,
    }
}

/// The way to a peer in words, and where datagrams go when straight.
pub(super) fn path(peer: &PeerStatus) -> (&'static str, Option<String>) {
    match peer.path.route.filter(|_| peer.up) {
        Some(Route::Direct { remote, .. }) => ("direct", Some(remote.to_string())),
        Some(Route::Relay { .. }) => ("relay", None),
        Some(Route::RelayTcp { .. }) => ("relay-tcp", None),
        None => ("none", None),
    }
}

/// A duration as milliseconds.
pub(super) fn millis(duration: edgemesh_core::time::Duration) -> f64 {
    duration.as_micros() as f64 / 1_000.0
}

pub(super) fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}

fn counters(data: &mut Data) -> BTreeMap<String, u64> {
    let drops = DropReason::ALL
        .iter()
        .map(|reason| (format!("drop_{}", reason.name()), data.engine.counters().get(*reason)));
    let mut all: BTreeMap<String, u64> = drops.filter(|(_, n)| *n > 0).collect();
    let traffic = data.traffic;
    for (name, value) in [
        ("tun_read", traffic.tun_read),
        ("tun_written", traffic.tun_written),
        ("tun_errors", traffic.tun_errors),
        ("connections_handed_over", traffic.handed_over),
        ("connections_not_handed_over", traffic.not_handed_over),
        ("handover_lost", traffic.handover_lost),
        ("connections_put_back", traffic.put_back),
        ("datagrams_sent", traffic.sent),
        ("datagrams_received", traffic.received),
        ("relay_queue_full", traffic.relay_full),
        ("parked_lost", data.parking.lost),
        ("parked", data.parking.len() as u64),
        ("flows", data.engine.flows().len() as u64),
        ("admitted", data.engine.flows().admitted() as u64),
        ("services", data.engine.services().len() as u64),
        ("endpoints", data.engine.services().endpoint_count() as u64),
    ] {
        all.insert(name.to_owned(), value);
    }
    all
}
