//! `explain NAME[:PORT]`: how a connection to a Service is carried, step by step, and what is in the way.
//!
//! Everything but the ways to other nodes comes from this node's table, so it works without any server. A session
//! with each endpoint's node is started as the first packet would start it; what is said of the way is measured.

mod name;
mod table;

use super::listing::{millis, path};
use super::reach::Reached;
use super::{Admin, Failure, Report, dns, stopping};
use edgemesh_core::dns::{Transport, Verdict};
use edgemesh_core::wire::dns::RecordType;
use name::{Target, Which};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use table::Facts;

/// How long sessions with all endpoints' nodes together may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Nodes that a session is started with.
const NODES: usize = 8;

/// The answer to `explain`.
#[derive(Serialize, Deserialize, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// As it was asked.
    pub name: String,
    /// Whether a connection would be carried.
    pub ok: bool,
    /// The Service's namespace and name.
    pub namespace: Option<String>,
    /// See there.
    pub service: Option<String>,
    /// Its full name.
    pub dns_name: Option<String>,
    /// What DNS answers for it.
    pub dns_answers: Vec<String>,
    /// ClusterIPs.
    pub vips: Vec<String>,
    /// Ports, `name:number/protocol`.
    pub ports: Vec<String>,
    /// Endpoints, one entry for each port asked for.
    pub endpoints: Vec<EndpointReach>,
    /// Connections to it that this node carries now.
    pub flows: usize,
    /// The same in words, in the order of events.
    pub steps: Vec<String>,
    /// What is in the way.
    pub problems: Vec<Problem>,
}

/// An endpoint and the way to it.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "camelCase")]
pub struct EndpointReach {
    /// Node name.
    pub node: String,
    /// Its address there.
    pub ip: String,
    /// Its port; 0 where any port may be used.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub proto: String,
    /// Whether it is ready.
    pub ready: bool,
    /// `local`, `direct`, `relay`, `relay-tcp` or `none`.
    pub path: String,
    /// Where datagrams go, when straight.
    pub remote: Option<String>,
    /// Round trip to its node in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Largest packet in bytes that the path carries.
    pub mtu: Option<u16>,
    /// Source address that it sees.
    pub client: Option<String>,
    /// Connections to it that this node carries now.
    pub flows: usize,
}

/// Something in the way.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What it is.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl Problem {
    fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

impl Report for Explanation {
    fn lines(&self) -> Vec<String> {
        let mut lines: Vec<_> = (1..).zip(&self.steps).map(|(n, step)| format!("{n}. {step}")).collect();
        for problem in &self.problems {
            lines.push(format!("problem: {}", problem.what));
            lines.push(format!("  to do: {}", problem.remedy));
        }
        lines
    }

    fn failure(&self) -> Option<String> {
        (!self.ok).then(|| format!("a connection to {} would not be carried", self.name))
    }
}

impl Admin {
    pub(super) async fn explain(&self, text: &str) -> Result<Explanation, Failure> {
        let target = Target::parse(text, &self.shared.domain).map_err(|error| Failure(400, error))?;
        let (wanted, shared) = (target.clone(), self.shared.clone());
        let found = match self.learn(&target).await? {
            None => self.handle.inspect(move |data| table::look(data, &wanted, &shared)).await,
            Some(problem) => Some(Err(problem)),
        };
        let facts = match found.ok_or_else(stopping)? {
            Ok(facts) => facts,
            Err(problem) => {
                let (name, problems) = (text.to_owned(), vec![problem]);
                return Ok(Explanation { name, problems, ..Explanation::default() });
            }
        };
        let ways = self.ways(&facts).await?;
        Ok(self.tell(text, facts, &ways))
    }

    /// With the feed on demand the server is asked about what is not held here, as for the query of a pod; what is in
    /// the way of that.
    async fn learn(&self, target: &Target) -> Result<Option<Problem>, Failure> {
        let (what, name, rtype) = match &target.service {
            Which::Name { namespace, name, .. } => {
                let full = format!("{name}.{namespace}.svc.{}.", self.shared.domain);
                (format!("Service {name} in namespace {namespace}"), full, RecordType::A)
            }
            Which::Address(address) => (address.to_string(), dns::reverse(*address), RecordType::PTR),
        };
        // A name that is none is not there either.
        let Some(query) = dns::query(&name, rtype) else { return Ok(None) };
        let reply = self.handle.query(Transport::Tcp, query).await.ok_or_else(stopping)?;
        let is_open = matches!(reply.verdict, Verdict::Wait(_));
        Ok(is_open.then(|| {
            Problem::new(
                dns::nobody_says(&what),
                "connect this node, or use what it holds: `edgemesh-agent services`",
            )
        }))
    }

    /// The way to each node that has an endpoint.
    async fn ways(&self, facts: &Facts) -> Result<BTreeMap<u32, Reached>, Failure> {
        let nodes = facts.endpoints.iter().filter(|e| e.node != 0 && !e.local).map(|e| e.node);
        let mut nodes: Vec<_> = nodes.collect();
        nodes.sort_unstable();
        nodes.dedup();
        let _measuring = self.measuring.lock().await;
        let mut events = self.watch().await.ok_or_else(stopping)?;
        let until = tokio::time::Instant::now() + PATIENCE;
        let mut ways = BTreeMap::new();
        for (n, node) in nodes.into_iter().enumerate() {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            let reached =
                if n < NODES { self.reach(node, &mut events, left).await } else { self.look(node).await };
            ways.insert(node, reached.ok_or_else(stopping)?);
        }
        Ok(ways)
    }

    fn tell(&self, text: &str, facts: Facts, ways: &BTreeMap<u32, Reached>) -> Explanation {
        let mut problems = facts.problems;
        let mut steps = facts.steps;
        let mut endpoints = Vec::new();
        for found in facts.endpoints {
            let mut endpoint = found.reach;
            let way = ways.get(&found.node);
            if let Some(peer) = way.and_then(|way| way.peer.as_ref()) {
                let (path, remote) = path(peer);
                (endpoint.path, endpoint.remote) = (path.to_owned(), remote);
                endpoint.rtt_ms = peer.path.rtt.map(millis);
                endpoint.mtu = peer.up.then_some(peer.path.mtu);
            }
            if let Some(way) = way.filter(|way| endpoint.ready && !way.is_up()) {
                let (what, remedy) = way.obstacle(&endpoint.node);
                let problem = Problem { what, remedy };
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
            if found.node != 0 {
                endpoint.node = self.shared.name_of(found.node);
            }
            endpoints.push((endpoint, found.why_client));
        }
        steps.extend(endpoint_steps(&endpoints));
        steps.push(match facts.flows {
            0 => "no connection to it is carried now".into(),
            1 => "1 connection to it is carried now".into(),
            n => format!("{n} connections to it are carried now"),
        });
        if let Some(age) = self.shared.age_secs().filter(|_| !self.shared.is_heard()) {
            steps.push(format!(
                "all this is from the table that was stored {age} s ago: {} was not heard since this agent started",
                self.shared.source
            ));
        }
        Explanation {
            name: text.to_owned(),
            ok: problems.is_empty(),
            namespace: Some(facts.namespace),
            service: Some(facts.service),
            dns_name: Some(facts.dns_name),
            dns_answers: facts.dns_answers,
            vips: facts.vips,
            ports: facts.ports,
            endpoints: endpoints.into_iter().map(|(endpoint, _)| endpoint).collect(),
            flows: facts.flows,
            steps,
            problems,
        }
    }
}

/// One step for each address, whatever its ports.
fn endpoint_steps(endpoints: &[(EndpointReach, String)]) -> Vec<String> {
    let same = |a: &(EndpointReach, String), b: &(EndpointReach, String)| {
        (&a.0.node, &a.0.ip, a.0.ready) == (&b.0.node, &b.0.ip, b.0.ready)
    };
    endpoints.chunk_by(same).map(endpoint_step).collect()
}

fn endpoint_step(ports: &[(EndpointReach, String)]) -> String {
    let Some((endpoint, why_client)) = ports.first() else { return String::new() };
    let port = |(e, _): &(EndpointReach, String)| (e.port != 0).then(|| format!("{}/{}", e.port, e.proto));
    let numbers: Vec<_> = ports.iter().filter_map(port).collect();
    let at =
        if numbers.is_empty() { "at any port".to_owned() } else { format!("port {}", numbers.join(", ")) };
    let place = format!("endpoint {} {at} on {}", endpoint.ip, endpoint.node);
    if !endpoint.ready {
        return format!("{place}: not ready, so no new connection goes there");
    }
    let way = match endpoint.path.as_str() {
        "local" => "on this node, nothing is sent".to_owned(),
        "none" => "no way there now".to_owned(),
        path => {
            let remote = endpoint.remote.as_ref().map_or(String::new(), |remote| format!(" {remote}"));
            let rtt = endpoint.rtt_ms.map_or("not measured yet".to_owned(), |ms| format!("{ms:.1} ms"));
            let mtu = endpoint.mtu.unwrap_or_default();
            format!("path {path}{remote}, round trip {rtt}, packets of up to {mtu} bytes")
        }
    };
    let client = endpoint.client.as_deref().unwrap_or("the client's own address");
    let flows: usize = ports.iter().map(|(e, _)| e.flows).sum();
    format!("{place}: ready; {way}; it sees {client} as client, {why_client}; connections now: {flows}")
}
