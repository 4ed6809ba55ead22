//! Membership: what the directory says of this node, its peers and the Services, kept on disk and put to use.
//!
//! [`Join::restore`] brings back the last good state, so that names and Services work before any server is
//! reached; [`Join::take`] carries out what the data thread heard since. The first time the node's index is known,
//! the device gets its addresses and routes and DNS starts ([`Join::go_online`]).
//!
//! Bounds: one copy of the Service table beside the engine's, for the snapshot; [`RECORDS`] node records, the ones
//! heard longest ago going first.

mod online;
mod taking;

pub(super) use online::plan;

use super::claims::Claims;
use super::command::Handle;
use super::data::Note;
use super::entry::Entry;
use super::refusals::Refusal;
use super::responder::Responder;
use super::source::{Names, Unresolved};
use super::state::{Joined, Membership, State, StoredRecord};
use super::status::Shared;
use crate::cli::Run;
use crate::clock;
use crate::interception::{KeeperHandle, Proxy, Report};
use crate::tun::DEFAULT_NAME;
use edgemesh_core::control::Peer;
use edgemesh_core::service::TableError;
use edgemesh_core::wire::control::{NodeRecord, PROOF_MAX, SignedRecord, updates};
use edgemesh_core::wire::feed::Update;
use edgemesh_discovery::encoded::{Encoded, Head, Replica, from_snapshot, to_snapshot};
use edgemesh_discovery::entry::entries;
use edgemesh_discovery::object::Node;
use edgemesh_discovery::place::Placement;
use edgemesh_discovery::table::Table;
use edgemesh_host::state::StateError;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use taking::Lingering;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use zeroize::Zeroizing;

/// Records kept.
const RECORDS: usize = 1_024;
/// How long changes of the table are gathered before they are stored.
const STORE_AFTER: Duration = Duration::from_secs(1);
/// The same for records: after a restart they say whom to tell that we are back.
const STORE_RECORDS_AFTER: Duration = Duration::from_millis(50);
/// How long after a failure to store it is tried again.
const STORE_AGAIN: Duration = Duration::from_secs(10);
/// How long answers about nodes are gathered before the table is made again.
const REMAKE_AFTER: Duration = Duration::from_millis(100);

/// See the module's documentation.
pub struct Join {
    settings: Run,
    state: State,
    membership: Membership,
    handle: Handle,
    status: Arc<Shared>,
    records: BTreeMap<u32, StoredRecord>,
    replica: Replica,
    sequence: u64,
    /// This node's zone, as the engine's table was told.
    zone: u32,
    keeper: Option<KeeperHandle>,
    responder: Option<Responder>,
    tables: (mpsc::UnboundedSender<Table>, mpsc::UnboundedReceiver<Table>),
    /// What is to be stored, and when.
    records_due: Option<Instant>,
    services_due: Option<Instant>,
    membership_due: Option<Instant>,
    unresolved: Unresolved,
    claims: Claims,
    /// Entry points, where this node is to have any.
    entry: Option<Entry>,
    /// The other service proxy on this node.
    beside: Option<Proxy>,
    reports: (mpsc::UnboundedSender<Report>, mpsc::UnboundedReceiver<Report>),
    lingering: Lingering,
    linger_due: Option<Instant>,
}

/// Something to do on this thread.
pub enum Work {
    /// A source on this node has a new table.
    Table(Table),
    /// What waits to be stored is due.
    Store,
    /// The directory is to be asked about nodes.
    Ask,
    /// Nodes have become known: the table is to be made again.
    Remake,
    /// It is time to look where this node's entry points are.
    Look,
    /// The keeper of routes and rules has seen something.
    Kept(Report),
    /// Routes may be used no more.
    Linger,
}

impl Join {
    /// Nothing restored yet.
    pub fn new(settings: &Run, state: State, membership: Membership, handle: Handle) -> Self {
        let status = Arc::new(Shared::new(settings, &membership));
        let mut entry = Entry::new(&settings.entry, settings.listen.port(), status.clone());
        if let Some(entry) = &mut entry {
            state.entries().into_iter().for_each(|bytes| entry.restore(&bytes));
        }
        Self {
            settings: settings.clone(),
            records: state.records(),
            state,
            membership,
            handle,
            status,
            replica: Replica::default(),
            sequence: 0,
            zone: 0,
            keeper: None,
            responder: None,
            tables: mpsc::unbounded_channel(),
            records_due: None,
            services_due: None,
            membership_due: None,
            unresolved: Unresolved::default(),
            claims: Claims::default(),
            entry,
            beside: None,
            reports: mpsc::unbounded_channel(),
            lingering: Lingering::default(),
            linger_due: None,
        }
    }

    /// What the admin endpoint shows of it.
    pub fn status(&self) -> Arc<Shared> {
        self.status.clone()
    }

    /// Where a source on this node puts its tables.
    pub fn tables(&self) -> mpsc::UnboundedSender<Table> {
        self.tables.0.clone()
    }

    /// Services in the table that is served now.
    pub fn known_services(&self) -> usize {
        self.replica.table().len()
    }

    /// Brings back what an earlier run knew.
    ///
    /// # Errors
    /// What keeps a node that has joined before from going online.
    pub async fn restore(&mut self) -> Result<(), String> {
        let records: Vec<StoredRecord> = self.records.values().cloned().collect();
        for stored in &records {
            self.note_name(stored);
        }
        let place = self.membership.joined.as_ref().map(|joined| (joined.index, joined.network));
        let _ = self
            .handle
            .inspect(move |data| {
                let now = clock::now();
                if let Some((index, network)) = place {
                    data.engine.join(index, &network);
                }
                for stored in records {
                    let record = SignedRecord { record: &stored.record, signature: &stored.signature };
                    let peer = Peer { record, send_session: 0, receive_session: 0 };
                    if data.engine.learn(now, &peer).is_ok()
                        && let Ok(record) = postcard::from_bytes::<NodeRecord<'_>>(&stored.record)
                    {
                        // Peers of the last life may be in the middle of something: tell them we are back.
                        data.engine.connect(now, record.index);
                    }
                }
            })
            .await;
        self.restore_services().await;
        if self.membership.joined.is_some() { self.go_online().await } else { Ok(()) }
    }

    async fn restore_services(&mut self) {
        let Some(bytes) = self.state.services() else { return };
        match from_snapshot(&bytes) {
            Ok((head, table)) => {
                tracing::info!(
                    services = table.len(),
                    "serving the last good table until the source is heard"
                );
                self.status.restored(head.unix_secs);
                let runs = table.full();
                self.zone = table.zone();
                self.replica = Replica::new(table);
                self.apply(runs.concat()).await;
            }
            Err(error) => tracing::warn!(%error, "the stored table is damaged, going on without it"),
        }
    }

    /// Carries out what the data thread heard.
    ///
    /// # Errors
    /// What keeps the node from serving: the agent cannot go on. Failures to store are logged, the last good
    /// version stays.
    pub async fn take(&mut self, note: Note) -> Result<(), String> {
        match note {
            Note::Welcome(joined) => self.welcome(*joined).await?,
            Note::Refused(reason) => {
                tracing::error!(node = self.membership.node, %reason, "the server refused this node");
                self.status.refused(reason);
            }
            Note::Prove => self.prove().await,
            Note::NoNode(name) => self.status.no_node(name),
            Note::Record { record, signature } => self.record(StoredRecord { record, signature }),
            Note::Feed(body) => {
                for update in updates(&body) {
                    let applied = update.map_err(|_| ()).and_then(|u| self.replica.apply(&u).map_err(drop));
                    if applied.is_err() {
                        self.resync("an update does not follow from what came before").await;
                        break;
                    }
                }
            }
            Note::FeedCommit { sequence, digest } => self.commit(sequence, digest).await,
            Note::Stamp(stamp) => log(self.state.save_stamp(stamp)),
            Note::PeerRefused(refusal) => self.tell(&refusal),
            Note::TunReopened => {
                tracing::warn!(device = DEFAULT_NAME, "the device was deleted and is made anew");
            }
            Note::TunLost(error) => return Err(format!("the device {DEFAULT_NAME} is lost: {error}")),
        }
        Ok(())
    }

    fn tell(&self, refusal: &Refusal) {
        let Refusal { reason, node, to, untold } = *refusal;
        let to = to.map_or_else(|| "no address".to_owned(), |to| to.to_string());
        let more =
            if untold == 0 { String::new() } else { format!(" ({untold} more since the last message)") };
        let (name, reason) = (self.status.name_of(node), reason.name());
        tracing::warn!("refused a packet of node {name} for {to}: {reason}{more}");
    }

    /// Waits until there is something to do here. Nothing is lost when the wait is given up.
    pub async fn next(&mut self) -> Work {
        let due = [self.records_due, self.services_due, self.membership_due].into_iter().flatten().min();
        tokio::select! {
            Some(table) = self.tables.1.recv() => Work::Table(table),
            () = until(due) => Work::Store,
            () = until(self.unresolved.ask_due) => Work::Ask,
            () = until(self.unresolved.remake_due) => Work::Remake,
            () = until(self.entry.as_ref().map(|entry| entry.look_due)) => Work::Look,
            Some(report) = self.reports.1.recv() => Work::Kept(report),
            () = until(self.linger_due) => Work::Linger,
        }
    }

    /// Does it.
    pub async fn work(&mut self, work: Work) {
        match work {
            Work::Table(table) => self.table(&table).await,
            Work::Store => self.store(),
            Work::Ask => self.ask().await,
            Work::Look => self.look().await,
            Work::Kept(report) => self.kept(report).await,
            Work::Linger => self.look_at_lingering().await,
            Work::Remake => {
                self.unresolved.remake_due = None;
                if let Some(table) = self.unresolved.table.take() {
                    self.table(&table).await;
                }
            }
        }
    }

    /// Stores what waits to be stored.
    pub fn store(&mut self) {
        if self.records_due.take().is_some() {
            self.records_due = again(self.state.save_records(&self.records));
        }
        if self.services_due.take().is_some() {
            let epoch = self.membership.joined.as_ref().map_or(0, |joined| joined.epoch);
            let head = Head { epoch, sequence: self.sequence, unix_secs: clock::wall().secs };
            self.services_due = again(self.state.save_services(&to_snapshot(&head, self.replica.table())));
        }
        if self.membership_due.take().is_some() {
            self.membership_due = again(self.state.save_membership(&self.membership));
        }
    }

    /// Shows this pod's ServiceAccount token. It is read each time: the kubelet replaces it by the hour.
    async fn prove(&self) {
        let path = &self.settings.service_account_token;
        let token = match std::fs::read(path).map(Zeroizing::new) {
            Ok(token) if token.len() <= PROOF_MAX => token,
            other => {
                let why = other.map_or_else(|e| e.to_string(), |_| format!("more than {PROOF_MAX} bytes"));
                tracing::error!(
                    "--service-account-token: {}: {why}; accepted: a projected token with audience edgemesh, or \
                     else a join token for this node (--join)",
                    path.display()
                );
                Zeroizing::default()
            }
        };
        let _ = self.handle.inspect(move |data| data.prove(&token)).await;
    }

    async fn welcome(&mut self, joined: Joined) -> Result<(), String> {
        self.status.joined(&joined);
        if !self.unresolved.nodes.is_empty() {
            // This node's own index may be what was missing.
            let now = Some(Instant::now());
            (self.unresolved.ask_due, self.unresolved.remake_due) = (now, now);
        }
        let first = self.membership.joined.is_none();
        if self.membership.joined.as_ref() != Some(&joined) {
            if let Some(before) = &self.membership.joined
                && before.index != joined.index
            {
                tracing::error!(
                    before = before.index,
                    now = joined.index,
                    "the directory gave this node another index; start the agent again to take it"
                );
            }
            self.membership.secret.clear();
            self.membership.joined = Some(joined);
            self.membership_due = again(self.state.save_membership(&self.membership));
        }
        if first { self.go_online().await } else { Ok(()) }
    }

    fn record(&mut self, stored: StoredRecord) {
        let index = self.note_name(&stored);
        let named = index.map(|index| self.status.name_of(index));
        if named.is_some_and(|name| self.unresolved.nodes.contains(&name)) {
            self.unresolved.remake_due.get_or_insert_with(|| Instant::now() + REMAKE_AFTER);
        }
        if let Some(index) = index
            && self.records.get(&index) != Some(&stored)
        {
            if self.records.len() >= RECORDS {
                self.records.pop_first();
            }
            self.records.insert(index, stored);
            self.records_due.get_or_insert_with(|| Instant::now() + STORE_RECORDS_AFTER);
        }
    }

    fn note_name(&self, stored: &StoredRecord) -> Option<u32> {
        let record: NodeRecord<'_> = postcard::from_bytes(&stored.record).ok()?;
        self.status.name(record.index, record.name);
        Some(record.index)
    }

    async fn commit(&mut self, sequence: u64, digest: [u8; 32]) {
        if self.replica.table().digest() != digest {
            return self.resync("the table is not the one that the directory signed").await;
        }
        self.sequence = sequence;
        let zone = self.replica.table().zone();
        if zone != self.zone {
            // Hints meant something else when the engine heard the table.
            self.zone = zone;
            self.apply(self.replica.table().full().concat()).await;
        }
        self.table_changed().await;
    }

    /// A source on this node has a new table.
    async fn table(&mut self, table: &Table) {
        let mut names = Names { status: &self.status, own: self.own(), unknown: BTreeSet::new() };
        let placement = Placement::new(&table.nodes, &[], None);
        let encoded = Encoded::new(table, &placement, &mut names);
        let encoded = encoded.in_zone(table.nodes.get(&self.status.node).map_or(0, Node::zone));
        let unknown = names.unknown;
        self.unresolved.note(table, unknown);
        // What was restored may differ from what the engine made of it.
        let again = !self.status.is_heard() && encoded.zone() == self.replica.table().zone();
        let runs = if again { encoded.full() } else { encoded.changes_since(self.replica.table()) };
        self.replica = Replica::new(encoded);
        self.apply(runs.concat()).await;
        if let Some(news) = self.entry.as_mut().and_then(|entry| entry.set(entries(table))) {
            log(self.state.save_entries(&news));
        }
        self.table_changed().await;
    }

    /// Asks the directory about nodes. Without a connection the next welcome brings this back.
    async fn ask(&mut self) {
        self.unresolved.ask_due = None;
        let names = self.unresolved.questions(|name| self.status.index_of(name) != 0);
        let questions = names.clone();
        let asked = self.handle.inspect(move |data| questions.iter().all(|name| data.look_up(name))).await;
        if asked == Some(true) {
            self.unresolved.asked(&names);
        }
    }

    async fn apply(&mut self, bytes: Vec<u8>) {
        let refused = self
            .handle
            .inspect(move |data| {
                let mut refused = Vec::new();
                let mut service = String::new();
                for update in updates(&bytes).map_while(Result::ok) {
                    if let Update::Service(head) = &update {
                        service = format!("{}/{}", head.namespace, head.name);
                    }
                    if let Err(error) = data.engine.update(&update) {
                        refused.push(refusal(&service, &update, error));
                    }
                }
                refused
            })
            .await;
        for error in refused.unwrap_or_default() {
            self.claims.warn_once(error);
        }
    }

    async fn table_changed(&mut self) {
        self.status.heard(clock::wall().secs);
        self.services_due.get_or_insert_with(|| Instant::now() + STORE_AFTER);
        self.tell_kernel().await;
        if let Some(responder) = &self.responder {
            responder.table_changed();
        }
    }

    async fn resync(&mut self, why: &str) {
        tracing::warn!("the server's feed: {why}; asking for the whole table");
        self.sequence = 0;
        self.replica = Replica::default();
        let _ = self.handle.inspect(super::data::Data::resync).await;
    }

    fn own(&self) -> u32 {
        self.membership.joined.as_ref().map_or(0, |joined| joined.index)
    }
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

/// Waits for that moment, or for ever.
pub(super) async fn until(due: Option<Instant>) {
    match due {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// When to store again what could not be stored: the disk may have room then.
fn again(result: Result<(), StateError>) -> Option<Instant> {
    let error = result.err()?;
    tracing::error!("{error}");
    Some(Instant::now() + STORE_AGAIN)
}

fn log(result: Result<(), StateError>) {
    if let Err(error) = result {
        tracing::error!("{error}");
    }
}
