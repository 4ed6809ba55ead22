//! The Service table on its way: from the server's feed or a source on this node into the engine, the kernel's routes
//! and the snapshot.
//!
//! Everything here goes by [`Step`]s, so that a change costs what changed: only the Services of a step are encoded,
//! given to the engine, looked at for routes, and appended to the snapshot file. Long ways are given to the data
//! thread piece by piece, so that packets pass in between.

use super::Join;
use super::taking::{Mode, answering, handed, leaves_here};
use crate::agent::admin::dns::addresses;
use crate::agent::cluster_dns;
use crate::agent::domain::Heard;
use crate::agent::pod_names::PodNames;
use crate::agent::source::Names;
use crate::agent::state::State;
use crate::cli::{DnsPods, DnsVip};
use crate::clock;
use edgemesh_core::node::Engine;
use edgemesh_core::service::TableError;
use edgemesh_core::wire::control::updates;
use edgemesh_core::wire::feed::{Home, Update};
use edgemesh_discovery::change::Changes;
use edgemesh_discovery::encoded::{Encoded, Run, Step};
use edgemesh_discovery::object::{Kind, Node};
use edgemesh_discovery::place::Placement;
use edgemesh_discovery::replica::Replica;
use edgemesh_discovery::served::Served;
use edgemesh_discovery::snapshot::{Head, from_snapshot, to_addition, to_snapshot};
use edgemesh_discovery::table::Key;
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long changes of the table are gathered before they are stored.
const STORE_AFTER: Duration = Duration::from_secs(1);
/// Updates that the data thread takes in one piece, in bytes.
const PIECE: usize = 32 << 10;
/// How long updates may wait for the next ones, or for the directory's signature.
pub(super) const SIGNED_WITHIN: Duration = Duration::from_secs(10);
/// Steps behind a snapshot that are always worth appending, in bytes.
const ADDED_MIN: usize = 64 << 10;

/// What the snapshot file is to be, or what is to be behind what it is.
pub(super) enum Piece {
    Whole(Vec<u8>),
    More(Vec<u8>),
}

impl Piece {
    /// This, and what is to be behind it.
    pub(super) fn then(self, more: Self) -> Self {
        match (self, more) {
            (_, whole @ Self::Whole(_)) => whole,
            (Self::Whole(first), Self::More(more)) => Self::Whole([first, more].concat()),
            (Self::More(first), Self::More(more)) => Self::More([first, more].concat()),
        }
    }
}

/// The table beside the engine's.
#[derive(Default)]
pub(super) struct Services {
    /// The server's, or what was restored.
    pub(super) replica: Replica,
    /// That of a source on this node, once it was heard.
    local: Option<Box<Served>>,
    /// Sequence of the commit that the replica holds.
    sequence: u64,
    /// Where this node is, as the engine's table was told.
    home: Home,
    /// What is not stored yet.
    unsaved: Step,
    /// Bytes of the snapshot file as a whole and of the steps behind it; `None` before this run wrote it.
    saved: Option<(usize, usize)>,
    /// What the kernel's plan has of each Service that it has something of: both by hash.
    planned: HashMap<u64, u64>,
    hasher: RandomState,
}

impl Services {
    /// The table that is served.
    pub(super) fn table(&self) -> &Encoded {
        self.local.as_ref().map_or_else(|| self.replica.table(), |served| served.encoded())
    }

    /// When an endpoint of a source on this node stood for long enough without the cloud's word.
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.local.as_ref()?.held_until().map(Instant::from_std)
    }

    /// The nodes that endpoints of a source on this node are on.
    pub(super) fn named_nodes(&self) -> BTreeSet<&str> {
        self.local.as_ref().map(|served| served.table().named_nodes()).unwrap_or_default()
    }

    /// What stands for it in comparisons of this run.
    pub(super) fn hash(&self, of: impl Hash) -> u64 {
        self.hasher.hash_one(of)
    }

    /// What brings the snapshot file up to date: what has changed, or the whole before that outgrows the table.
    pub(super) fn unsaved(&mut self, epoch: u32) -> Piece {
        let head = Head { epoch, sequence: self.sequence, unix_secs: clock::wall().secs };
        let step = std::mem::take(&mut self.unsaved);
        let way = if step.is_whole() { Vec::new() } else { self.table().way(&step) };
        let more: usize = way.iter().map(|run| run.len()).sum();
        match self.saved {
            Some((whole, added)) if !step.is_whole() && added + more <= whole.max(ADDED_MIN) => {
                let addition = to_addition(&head, &way);
                self.saved = Some((whole, added + addition.len()));
                Piece::More(addition)
            }
            _ => {
                let snapshot = to_snapshot(&head, self.table());
                self.saved = Some((snapshot.len(), 0));
                Piece::Whole(snapshot)
            }
        }
    }

    /// [`Services::unsaved`] could not be written: the whole is due.
    pub(super) fn not_saved(&mut self) {
        (self.unsaved, self.saved) = (Step::whole(), None);
    }
}

impl Join {
    pub(super) async fn restore_services(&mut self) {
        let Some(bytes) = self.disk.state.services() else { return };
        match from_snapshot(&bytes) {
            Ok((head, table)) => {
                drop(bytes);
                tracing::info!(
                    services = table.len(),
                    "serving the last good table until the source is heard"
                );
                self.status.restored(head.unix_secs);
                if self.membership.joined.is_some() {
                    let _ = self.handle.inspect(move |data| data.engine.set_feed_floor(head.sequence)).await;
                }
                let way = table.way(&Step::whole());
                self.services.home = table.home();
                self.services.replica = Replica::new(table);
                self.apply(way).await;
            }
            Err(error) => tracing::warn!(%error, "the stored table is damaged, going on without it"),
        }
    }

    /// The server says that the table is complete.
    pub(super) async fn commit(&mut self, sequence: u64, digest: [u8; 32]) {
        self.unsigned_due = None;
        let services = &mut self.services;
        if services.replica.table().digest() != digest {
            return self.resync("the table is not the one that the directory signed").await;
        }
        services.sequence = sequence;
        let step = services.replica.take_step();
        let home = services.replica.table().home();
        if home != services.home {
            // Hints and domains meant something else when the engine heard the table.
            services.home = home;
            let way = services.replica.table().way(&Step::whole());
            self.apply(way).await;
        }
        self.table_changed(step).await;
    }

    /// A part of the feed on demand is complete. What the engine gave up for it, or found gone, goes here as well.
    pub(super) async fn answered(&mut self, sequence: u64) {
        self.answers += 1;
        self.unsigned_due = None;
        let services = &mut self.services;
        (services.sequence, services.home) = (sequence, services.replica.table().home());
        let known: Vec<Arc<Key>> = services.replica.table().keys().cloned().collect();
        let gone = self.handle.inspect(move |data| {
            let held = data.engine.services();
            let is_gone = |key: &Arc<Key>| held.service(&key.namespace, &key.name).is_none();
            if held.len() < known.len() { known.into_iter().filter(is_gone).collect() } else { Vec::new() }
        });
        let replica = &mut self.services.replica;
        for key in gone.await.unwrap_or_default() {
            // Taking away never comes at the wrong time.
            let _ = replica.apply(&Update::Remove { namespace: &key.namespace, name: &key.name });
        }
        let step = replica.take_step();
        self.table_changed(step).await;
        self.tell_settled();
        if self.settings.names.dns_vip != DnsVip::Off {
            // Nobody may ask for the cluster's DNS by name before its address is answered here.
            let domain = crate::agent::status::domain(&self.membership);
            let name = format!("{}.{}.svc.{domain}.", cluster_dns::NAME, cluster_dns::NAMESPACE);
            let _ = self.handle.inspect(move |data| drop(addresses(data, &name))).await;
        }
    }

    /// Asks the server for everything. What it said is not believed: until the directory has signed for more, the last
    /// good table is in force again.
    pub(super) async fn resync(&mut self, why: &'static str) {
        tracing::warn!("the server's feed: {why}; asking for the whole table");
        self.status.disbelieved(why);
        // What was signed last may not be on the disk yet.
        self.finish().await;
        self.unsigned_due = None;
        self.services.sequence = 0;
        self.services.replica = Replica::default();
        self.restore_services().await;
        let _ = self.handle.inspect(crate::agent::data::Data::resync).await;
    }

    /// A source on this node has news.
    pub(super) async fn changed(&mut self, mut changes: Changes) {
        while let Ok(more) = self.changes.1.try_recv() {
            changes.merge(more);
        }
        let triggers: Vec<u64> = changes.triggers().collect();
        let state = &self.disk.state;
        let served = self.services.local.get_or_insert_with(|| Box::new(restored(state)));
        let first = !served.is_whole();
        // Many come and go that nothing depends on but their names.
        let only_pods = !first && changes.is_only(Kind::Pod);
        if served.apply(std::time::Instant::now(), changes) {
            let placement = Placement::new(served.table().nodes(), &[], None);
            served.place(placement);
        }
        if first && self.settings.names.dns_pods == DnsPods::Verified {
            let pods = PodNames::new(&self.status.domain, served.table().pods().clone());
            let _ = self.handle.inspect(move |data| data.pods = Some(pods)).await;
        }
        if only_pods {
            return;
        }
        self.encode().await;
        self.status.programming.done(&triggers);
    }

    /// Nodes have become known.
    pub(super) async fn remake(&mut self) {
        self.unresolved.remake_due = None;
        let (own, status) = (self.own(), self.status.clone());
        let is_known = |name: &str| (name == status.node && own != 0) || status.index_of(name) != 0;
        let known = self.unresolved.nodes.iter().filter(|name| is_known(name)).cloned().collect();
        self.unresolved.retain(|name| !is_known(name));
        if let Some(served) = &mut self.services.local {
            served.resolve_again(&known);
            self.encode().await;
        }
    }

    async fn encode(&mut self) {
        let own = self.own();
        let Some(served) = self.services.local.as_mut().filter(|served| served.is_whole()) else { return };
        let mut names = Names { status: &self.status, own, unknown: BTreeSet::new() };
        let (mut step, news) = served.encode(&mut names);
        self.unresolved.note(names.unknown);
        served.set_home(
            served.table().nodes().get(&self.status.node).map(Node::home).unwrap_or_default(),
            &mut step,
        );
        news.into_iter().for_each(|text| tracing::warn!("{text}"));
        if !self.status.is_heard() {
            // What was restored may differ from what the engine made of it.
            step = Step::whole();
            self.services.replica = Replica::default();
        }
        let way = self.services.table().way(&step);
        self.apply(way).await;
        let entries = self.services.local.as_mut().and_then(|served| served.take_entries());
        if let Some(held) = self.services.local.as_mut().and_then(|served| served.take_held()) {
            self.disk.held(held);
        }
        if let (Some(entry), Some(entries)) = (&mut self.entry, entries)
            && let Some(news) = entry.set(entries)
        {
            self.disk.entries(news);
        }
        self.table_changed(step).await;
    }

    /// Gives updates to the engine.
    pub(super) async fn apply(&mut self, way: Vec<Run>) {
        let mut way = way.into_iter().peekable();
        while way.peek().is_some() {
            let mut room = PIECE;
            let piece: Vec<Run> = std::iter::from_fn(|| {
                let run = way.next_if(|_| room > 0)?;
                room = room.saturating_sub(run.len());
                Some(run)
            })
            .collect();
            let refused = self.handle.inspect(move |data| {
                let each = piece.iter().flat_map(|run| updates(run).map_while(Result::ok));
                let mut service = String::new();
                let mut refused = Vec::new();
                for update in each {
                    if let Update::Service(head) = &update {
                        service = format!("{}/{}", head.namespace, head.name);
                    }
                    if let Err(error) = data.engine.update(&update) {
                        refused.push(refusal(&service, &update, error));
                    }
                }
                refused
            });
            for error in refused.await.unwrap_or_default() {
                self.claims.warn_once(error);
            }
        }
    }

    /// The engine has the table; what follows from it.
    async fn table_changed(&mut self, step: Step) {
        self.services.unsaved.merge(&step);
        self.disk.services(STORE_AFTER);
        // Entry points depend on where endpoints are.
        if self.is_planned_anew(&step).await || self.entry.is_some() {
            self.tell_kernel().await;
        }
        self.status.heard(clock::wall().secs);
        self.reached.hear(Heard::Table);
        if let Some(responder) = &self.responder {
            responder.table_changed();
        }
    }

    /// Whether this step changes what the kernel is to do for Services.
    pub(super) async fn is_planned_anew(&mut self, step: &Step) -> bool {
        let services = &mut self.services;
        let all = step.is_whole().then(|| services.table().keys().cloned().collect::<Vec<_>>());
        let keys = all.unwrap_or_else(|| step.services().iter().cloned().collect());
        let (hasher, mode) = (services.hasher.clone(), self.mode());
        let plans = self.handle.inspect(move |data| {
            let plan = |key: Arc<Key>| (hasher.hash_one(&key), plan_of(&data.engine, &key, mode, &hasher));
            keys.into_iter().map(plan).collect::<Vec<_>>()
        });
        let plans = plans.await.unwrap_or_default();
        let planned = &mut self.services.planned;
        if step.is_whole() {
            let whole = plans.into_iter().filter_map(|(key, plan)| Some((key, plan?))).collect();
            return std::mem::replace(planned, whole) != *planned;
        }
        plans.into_iter().fold(false, |anew, (key, plan)| {
            let before = match plan {
                Some(plan) => planned.insert(key, plan),
                None => planned.remove(&key),
            };
            anew | (before != plan)
        })
    }
}

/// The table of a source on this node before that is heard: what an earlier run held of Nodes that were not ready.
fn restored(state: &State) -> Served {
    let mut served = Served::default();
    if let Some(held) = state.held()
        && served.restore_held(std::time::Instant::now(), &held).is_err()
    {
        tracing::warn!("the stored list of held endpoints is damaged, going on without it");
    }
    served
}

/// What the kernel is to do for a Service, by hash: its VIPs that are taken, their stand-ins, endpoints that packets leave
/// the mesh for here, those that connections are led to, and those of UDP on this node.
fn plan_of(engine: &Engine<'_>, key: &Key, mode: Mode, hasher: &RandomState) -> Option<u64> {
    let (services, own) = (engine.services(), engine.own_index());
    let service = services.service(&key.namespace, &key.name)?;
    let vips = service.vips().filter(|vip| services.is_vip(*vip) && mode.takes(&service, own));
    let vips: Vec<_> = vips.map(|vip| (vip, services.shadow_of(vip))).collect();
    let exits: Vec<IpAddr> =
        service.endpoints().filter(|e| leaves_here(e, own)).map(|e| e.address()).collect();
    let handed: Vec<_> = vips.iter().flat_map(|(vip, _)| handed(&service, *vip)).collect();
    let answering: BTreeSet<SocketAddr> = answering(service, own).collect();
    let any = !vips.is_empty() || !exits.is_empty() || !answering.is_empty();
    any.then(|| hasher.hash_one((vips, exits, handed, answering)))
}

/// What of a Service was refused, and why.
fn refusal(service: &str, update: &Update<'_>, error: TableError) -> String {
    match update {
        Update::Endpoint(endpoint) => {
            format!("Service {service}: refused its endpoint {}: {error}", endpoint.address)
        }
        _ => format!("Service {service} was refused: {error}"),
    }
}
