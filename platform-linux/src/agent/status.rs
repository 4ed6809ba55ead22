//! What the agent knows of itself, as the admin endpoint shows it.

use super::state::{Joined, Membership};
use crate::cli::Run;
use crate::clock;
use crate::dns::Stats;
use crate::prefix::Prefix;
use edgemesh_host::programming::Programming;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// How long a client may wait for the kernel to be ready for it.
const SETTLE: Duration = Duration::from_secs(1);
/// Names kept that the directory did not know.
const MISSING: usize = 1_024;

/// The cluster domain, as far as it is known at start.
pub fn domain(membership: &Membership) -> &str {
    membership.joined.as_ref().map_or("cluster.local", |joined| &joined.domain)
}

/// Shared between the parts of the async thread and the admin endpoint.
pub struct Shared {
    /// This node's name.
    pub node: String,
    /// Where Services come from.
    pub source: String,
    /// The servers, in the order in which they are tried.
    pub servers: Vec<String>,
    /// Cluster domain of the responder.
    pub domain: String,
    /// Address of the responder.
    pub dns: IpAddr,
    /// UDP address for tunnels.
    pub listen: SocketAddr,
    /// How long changes take to have an effect.
    pub programming: Programming,
    answers: watch::Sender<()>,
    /// Answers of the server about Services that the kernel has been told of, or need not be.
    settled: watch::Sender<u64>,
    inner: Mutex<Inner>,
}

/// How a source that is asked again and again has done since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SourceHealth {
    /// Whole lists heard.
    pub lists: u64,
    /// Requests that came to nothing, and watches that broke.
    pub failures: u64,
    /// Objects that do not apply, each counted once per version.
    pub refused_objects: u64,
}

/// What the server said and this node did not believe.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Disbelieved {
    /// How often.
    pub count: u64,
    /// Why, the last time.
    pub why: Option<&'static str>,
}

/// How far the kernel is with the first Services that were heard.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kernel {
    Asked,
    Done,
}

#[derive(Default)]
struct Inner {
    index: Option<u32>,
    /// Fingerprint of this node's key.
    key: String,
    names: BTreeMap<u32, String>,
    /// The other way round.
    indices: HashMap<String, u32>,
    /// Names that the directory did not know when it was asked last.
    missing: BTreeSet<String>,
    /// When the table was last known to be current, in Unix seconds.
    current: Option<u64>,
    heard: bool,
    refused: Option<String>,
    disbelieved: Disbelieved,
    touched: Option<Vec<String>>,
    /// Routes and rules for the first Services are on their way into the kernel, or were there once.
    kernel: Option<Kernel>,
    dns: Option<Arc<Stats>>,
    /// Addresses of our device beside the plan's.
    answering: Vec<IpAddr>,
    stopping: bool,
    source_health: Option<SourceHealth>,
    interception: Interception,
    proven: Vec<Proven>,
    entry_points: Option<EntryPoints>,
}

/// How Services are taken on this node.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interception {
    /// `route` or `shadow`; empty before the node is online.
    pub mode: String,
    /// The other service proxy that is on this node.
    pub beside: Option<String>,
    /// VIPs that are taken.
    pub taken: usize,
    /// Whether the kernel carries connections whose ends it reaches, so that endpoints see their clients: `on`, or
    /// why not; empty before the node is online.
    #[serde(default)]
    pub handover: String,
    /// What takes connections to Services before this agent can, and what to do about it.
    pub obstacle: Option<String>,
}

/// Which nodes' endpoints this node's kernel reaches without the mesh, and why.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DomainStatus {
    /// `label` (`edgemesh.io/domain` of this node), `proofs` of other nodes, or `none`.
    pub by: String,
    /// What is proven.
    pub reached: Vec<ReachedStatus>,
}

/// A range of addresses of a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReachedStatus {
    /// Name of the node.
    pub node: String,
    /// The range.
    pub range: String,
    /// Seconds since it was proven last.
    pub proven_secs: u64,
}

/// Addresses of the node of this index were proven then, in Unix seconds, to be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proven {
    /// The node.
    pub node: u32,
    /// Its addresses.
    pub range: Prefix,
    /// When.
    pub unix_secs: u64,
}

/// Where clients come in from outside the cluster.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryPoints {
    /// Addresses that have NodePorts.
    pub addresses: Vec<IpAddr>,
    /// Addresses and ports that lead to Services.
    pub count: usize,
}

impl Inner {
    fn name(&mut self, index: u32, name: &str) {
        if let Some(before) = self.names.insert(index, name.to_owned()).filter(|before| before != name)
            && self.indices.get(&before) == Some(&index)
        {
            self.indices.remove(&before);
        }
        self.indices.insert(name.to_owned(), index);
    }
}

impl Shared {
    /// Nothing heard yet.
    pub fn new(settings: &Run, membership: &Membership) -> Self {
        let index = membership.joined.as_ref().map(|joined| joined.index);
        Self {
            node: settings.node.clone(),
            source: settings.source.to_string(),
            servers: membership.servers.clone(),
            domain: domain(membership).to_owned(),
            dns: settings.dns,
            listen: settings.listen,
            programming: Programming::default(),
            answers: watch::Sender::new(()),
            settled: watch::Sender::new(0),
            inner: Mutex::new(Inner { index, ..Inner::default() }),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This node's key has this fingerprint.
    pub fn key(&self, fingerprint: String) {
        self.inner().key = fingerprint;
    }

    /// See there.
    pub fn key_fingerprint(&self) -> String {
        self.inner().key.clone()
    }

    /// The directory accepted this node.
    pub fn joined(&self, joined: &Joined) {
        let mut inner = self.inner();
        inner.index = Some(joined.index);
        inner.name(joined.index, &self.node);
        inner.refused = None;
    }

    /// The directory did not.
    pub fn refused(&self, reason: String) {
        self.inner().refused = Some(reason);
    }

    /// The server said what is not believed; the last good state stays.
    pub fn disbelieved(&self, why: &'static str) {
        let disbelieved = &mut self.inner().disbelieved;
        (disbelieved.count, disbelieved.why) = (disbelieved.count.saturating_add(1), Some(why));
    }

    /// See there.
    pub fn what_was_disbelieved(&self) -> Disbelieved {
        self.inner().disbelieved.clone()
    }

    /// The node of this index has this name.
    pub fn name(&self, index: u32, name: &str) {
        let mut inner = self.inner();
        inner.name(index, name);
        inner.missing.remove(name);
        drop(inner);
        self.answers.send_replace(());
    }

    /// The directory knows no node of this name.
    pub fn no_node(&self, name: String) {
        let mut inner = self.inner();
        if inner.missing.len() >= MISSING {
            inner.missing.pop_first();
        }
        inner.missing.insert(name);
        drop(inner);
        self.answers.send_replace(());
    }

    /// The directory is asked about this name again.
    pub fn asking(&self, name: &str) {
        self.inner().missing.remove(name);
    }

    /// Whether the directory did not know this name when it was asked last.
    pub fn is_missing(&self, name: &str) -> bool {
        self.inner().missing.contains(name)
    }

    /// Changes with every answer of the directory about a node.
    pub fn answers(&self) -> watch::Receiver<()> {
        self.answers.subscribe()
    }

    /// The name of the node with this index; `#index` when it is not known.
    pub fn name_of(&self, index: u32) -> String {
        let inner = self.inner();
        match inner.names.get(&index) {
            _ if inner.index == Some(index) => self.node.clone(),
            Some(name) => name.clone(),
            None => format!("#{index}"),
        }
    }

    /// The index of the node with this name, 0 when it is not known.
    pub fn index_of(&self, name: &str) -> u32 {
        self.inner().indices.get(name).copied().unwrap_or_default()
    }

    /// A stored table is served, which was current then.
    pub fn restored(&self, unix_secs: u64) {
        self.inner().current = Some(unix_secs);
    }

    /// The source was heard.
    pub fn heard(&self, unix_secs: u64) {
        let mut inner = self.inner();
        (inner.current, inner.heard) = (Some(unix_secs), true);
    }

    /// The kernel was asked for routes and rules, which takes a moment: until it has them for the first time, clients
    /// would be led astray.
    pub fn asked_kernel(&self) {
        self.inner().kernel.get_or_insert(Kernel::Asked);
    }

    /// It has them.
    pub fn kernel_done(&self) {
        let mut inner = self.inner();
        inner.kernel = inner.heard.then_some(Kernel::Done);
    }

    /// What follows from so many answers of the server is in the kernel.
    pub fn settle(&self, answers: u64) {
        self.settled.send_replace(answers);
    }

    /// Waits until the kernel is ready for a Service that was learnt with the server's answer of this number: a
    /// connection that comes before would be another service proxy's, or leave unmasked. Not for ever: the name is known.
    pub async fn settled(&self, answer: u64) {
        let _ = timeout(SETTLE, self.settled.subscribe().wait_for(|settled| *settled >= answer)).await;
    }

    /// The source says that what it told last was current then.
    pub fn confirmed(&self, unix_secs: u64) {
        let mut inner = self.inner();
        if inner.heard {
            inner.current = inner.current.max(Some(unix_secs));
        }
    }

    /// How the source does.
    pub fn source_is(&self, health: SourceHealth) {
        self.inner().source_health = Some(health);
    }

    /// How the source does, if it is one that is asked.
    pub fn source_health(&self) -> Option<SourceHealth> {
        self.inner().source_health
    }

    /// Whether the source was heard in this run.
    pub fn is_heard(&self) -> bool {
        self.inner().heard
    }

    /// When the table was last known to be current, in Unix seconds.
    pub fn current(&self) -> Option<u64> {
        self.inner().current
    }

    /// How many seconds ago that was.
    pub fn age_secs(&self) -> Option<u64> {
        self.current().map(|then| clock::wall().secs.saturating_sub(then))
    }

    /// What the agent changed outside its own table.
    pub fn touched(&self, touched: Vec<String>) {
        self.inner().touched = Some(touched);
    }

    /// The list of it; `None` before the node is online.
    pub fn touched_list(&self) -> Option<Vec<String>> {
        let inner = self.inner();
        let vip = |ip: &IpAddr| format!("address {ip} of the cluster's DNS is local, on edgemesh0");
        let mut touched = inner.touched.clone()?;
        touched.extend(inner.answering.iter().map(vip));
        Some(touched)
    }

    /// DNS answers at these addresses of the cluster's DNS too.
    pub fn answering(&self, addresses: Vec<IpAddr>) {
        self.inner().answering = addresses;
    }

    /// Services are taken in this way now.
    pub fn intercepting(&self, mode: &str, beside: Option<String>, taken: usize) {
        let interception = &mut self.inner().interception;
        (interception.mode, interception.beside, interception.taken) = (mode.to_owned(), beside, taken);
    }

    /// Whether the kernel carries what it can, or what is in the way.
    pub fn handing_over(&self, outcome: Result<(), String>) {
        let text = outcome.map_or_else(|why| format!("off: {why}"), |()| "on".to_owned());
        self.inner().interception.handover = text;
    }

    /// What takes connections to Services before this agent can.
    pub fn balancer(&self, found: Option<String>) {
        self.inner().interception.obstacle = found;
    }

    /// What is proven now.
    pub fn proven(&self, list: Vec<Proven>) {
        self.inner().proven = list;
    }

    /// What is proven of this address of a node.
    pub fn proof_of(&self, node: u32, address: IpAddr) -> Option<Proven> {
        self.inner().proven.iter().find(|p| p.node == node && p.range.contains(address)).copied()
    }

    /// This node's domain; `by_label`: it has one by its label.
    pub fn domain_status(&self, by_label: bool) -> DomainStatus {
        let proven = self.inner().proven.clone();
        let by = match (by_label, proven.is_empty()) {
            (true, _) => "label",
            (false, false) => "proofs",
            (false, true) => "none",
        };
        let now = clock::wall().secs;
        let reached = proven.into_iter().filter(|_| !by_label).map(|p| ReachedStatus {
            node: self.name_of(p.node),
            range: p.range.to_string(),
            proven_secs: now.saturating_sub(p.unix_secs),
        });
        DomainStatus { by: by.to_owned(), reached: reached.collect() }
    }

    /// These entry points are served now.
    pub fn entered(&self, entry_points: EntryPoints) {
        self.inner().entry_points = Some(entry_points);
    }

    /// The entry points; `None` where this node is not asked to have any.
    pub fn entry_points(&self) -> Option<EntryPoints> {
        self.inner().entry_points.clone()
    }

    /// How Services are taken.
    pub fn interception(&self) -> Interception {
        self.inner().interception.clone()
    }

    /// A signal to stop has come.
    pub fn stopping(&self) {
        self.inner().stopping = true;
    }

    /// DNS counts here.
    pub fn dns(&self, stats: Arc<Stats>) {
        self.inner().dns = Some(stats);
    }

    /// DNS counters.
    pub fn dns_counters(&self) -> Vec<(&'static str, u64)> {
        self.inner().dns.as_ref().map(|stats| stats.each().collect()).unwrap_or_default()
    }

    /// What keeps the node from serving, in words.
    pub fn obstacle(&self) -> Option<String> {
        let inner = self.inner();
        match (&inner.refused, inner.index) {
            _ if inner.stopping => Some("stopping".into()),
            (Some(reason), _) if !inner.heard => Some(format!("the server refused this node: {reason}")),
            (_, None) => Some(format!("not joined yet; waiting for {}", self.servers.join(", "))),
            _ if inner.touched.is_none() || inner.dns.is_none() => Some("going online".into()),
            _ if inner.current.is_none() => Some(format!("no Services heard yet from {}", self.source)),
            _ if inner.kernel == Some(Kernel::Asked) => Some("bringing routes to Services in place".into()),
            _ => inner.interception.obstacle.clone(),
        }
    }
}
