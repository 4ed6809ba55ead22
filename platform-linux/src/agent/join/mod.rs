//! Membership: what the directory says of this node, its peers and the Services, kept on disk and put to use.
//!
//! [`Join::restore`] brings back the last good state, so that names and Services work before any server is
//! reached; [`Join::take`] carries out what the data thread heard since. When the node's index is known, which may be
//! from an earlier run, the device gets its addresses and routes and DNS starts ([`Join::go_online`]).
//!
//! Bounds: one copy of the Service table beside the engine's, in wire form (with a source on this node also its
//! objects), and the addresses that the kernel routes; [`RECORDS`] node records, the ones heard longest ago going
//! first.

mod disk;
mod hints;
mod kernel;
mod online;
mod reached;
mod revocations;
mod rotation;
mod table;
mod taking;

pub(super) use online::plan;
pub(super) use revocations::NAMED;
pub use rotation::Reply;
pub(super) use taking::Mode;

use super::claims::Claims;
use super::command::Handle;
use super::data::Note;
use super::domain::{Found, Heard};
use super::entry::Entry;
use super::refusals::Refusal;
use super::responder::Responder;
use super::source::Unresolved;
use super::state::{Joined, Membership, State, StoredRecord};
use super::status::Shared;
use crate::cli::Run;
use crate::clock;
use crate::interception::{KeeperHandle, Proxy, Report};
use crate::tun::DEFAULT_NAME;
use disk::{Disk, Failed};
use edgemesh_core::control::Peer;
use edgemesh_core::wire::control::{NodeRecord, PROOF_MAX, SignedRecord};
use edgemesh_discovery::change::Changes;
use hints::Hints;
use reached::Reached;
use revocations::Revocations;
use rotation::Rotation;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use table::{SIGNED_WITHIN, Services};
use taking::Lingering;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use zeroize::{Zeroize, Zeroizing};

/// Records kept.
const RECORDS: usize = 1_024;
/// How long records are gathered before they are stored: after a restart they say whom to tell that we are back.
const STORE_RECORDS_AFTER: Duration = Duration::from_millis(50);
/// How long answers about nodes are gathered before the table is made again.
const REMAKE_AFTER: Duration = Duration::from_millis(100);

/// See the module's documentation.
pub struct Join {
    settings: Run,
    disk: Disk,
    membership: Membership,
    handle: Handle,
    status: Arc<Shared>,
    records: BTreeMap<u32, StoredRecord>,
    revocations: Revocations,
    hints: Hints,
    rotation: Rotation,
    rotations: (mpsc::UnboundedSender<Reply>, mpsc::UnboundedReceiver<Reply>),
    services: Services,
    keeper: Option<KeeperHandle>,
    responder: Option<Responder>,
    changes: (mpsc::UnboundedSender<Changes>, mpsc::UnboundedReceiver<Changes>),
    unresolved: Unresolved,
    claims: Claims,
    /// Entry points, where this node is to have any.
    entry: Option<Entry>,
    /// The other service proxy on this node.
    beside: Option<Proxy>,
    reports: (mpsc::UnboundedSender<Report>, mpsc::UnboundedReceiver<Report>),
    lingering: Lingering,
    linger_due: Option<Instant>,
    reached: Reached,
    /// Answers of the server about Services so far, and how many of them had come when the kernel was asked for other
    /// ways last, and when it had done last what it was asked.
    answers: u64,
    asked_kernel: u64,
    programmed: u64,
    /// The ways that it was asked for, by hash.
    ways: u64,
    /// The server's updates are in force, and by then the directory has to have signed for them.
    unsigned_due: Option<Instant>,
}

/// Something to do on this thread.
pub enum Work {
    /// A source on this node has news.
    Changes(Changes),
    /// What waits to be stored is due.
    Store,
    /// It was, or not.
    Stored(Failed),
    /// The directory is to be asked about nodes.
    Ask,
    /// Nodes have become known: what is on them is to be made again.
    Remake,
    /// It is time to look where this node's entry points are.
    Look,
    /// The keeper of routes and rules has seen something.
    Kept(Report),
    /// Routes may be used no more.
    Linger,
    /// The kernel was proven to reach these endpoints of other nodes, and no others.
    Reached(Found),
    /// Nobody has signed for what the server feeds.
    Unsigned,
    /// Nodes that were reached before are to be called where that was.
    Call,
    /// This node is to change its key.
    Rotate(Reply),
    /// It answers to the key before no more.
    ForgetKey,
}

impl Join {
    /// Nothing restored yet.
    pub fn new(settings: &Run, state: State, membership: Membership, handle: Handle) -> Self {
        let status = Arc::new(Shared::new(settings, &membership));
        let mut entry = Entry::new(&settings.entry, settings.listen.port(), status.clone());
        if let Some(entry) = &mut entry {
            state.entries().into_iter().for_each(|(bytes, sequence)| entry.restore(&bytes, sequence));
        }
        Self {
            settings: settings.clone(),
            records: state.records(),
            revocations: Revocations::of(&membership, state.revocations()),
            hints: Hints::of(state.hints()),
            rotation: Rotation::of(&state),
            rotations: mpsc::unbounded_channel(),
            disk: Disk::new(state),
            membership,
            handle,
            status,
            services: Services::default(),
            keeper: None,
            responder: None,
            changes: mpsc::unbounded_channel(),
            unresolved: Unresolved::default(),
            claims: Claims::default(),
            entry,
            beside: None,
            reports: mpsc::unbounded_channel(),
            lingering: Lingering::default(),
            linger_due: None,
            reached: Reached::new(),
            answers: 0,
            asked_kernel: 0,
            programmed: 0,
            ways: 0,
            unsigned_due: None,
        }
    }

    /// What the admin endpoint shows of it.
    pub fn status(&self) -> Arc<Shared> {
        self.status.clone()
    }

    /// Where a source on this node puts its news.
    pub fn changes(&self) -> mpsc::UnboundedSender<Changes> {
        self.changes.0.clone()
    }

    /// Where orders to change this node's key go.
    pub fn rotations(&self) -> mpsc::UnboundedSender<Reply> {
        self.rotations.0.clone()
    }

    /// Services in the table that is served now.
    pub fn known_services(&self) -> usize {
        self.services.table().len()
    }

    /// Brings back what an earlier run knew: where that left device, routes and rules, packets can be carried from now
    /// on.
    pub async fn restore(&mut self) {
        let revocations = self.revocations.list.clone();
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
                (1..).zip(revocations).for_each(|numbered| data.engine.revoke(now, numbered));
                for stored in records {
                    let record = SignedRecord { record: &stored.record, signature: &stored.signature };
                    let peer = Peer { record, send_session: 0, receive_session: 0 };
                    if data.engine.learn(now, &peer).is_ok()
                        && let Ok(record) = NodeRecord::decode(&stored.record)
                    {
                        // Peers of the last life may be in the middle of something: tell them we are back.
                        data.engine.connect(now, record.index);
                    }
                }
            })
            .await;
        self.call_neighbours().await;
        self.restore_services().await;
    }

    /// Carries out what the data thread heard.
    ///
    /// # Errors
    /// What keeps the node from serving: the agent cannot go on. Failures to store are logged, the last good
    /// version stays.
    pub async fn take(&mut self, note: Note) -> Result<(), String> {
        match note {
            Note::Welcome(joined) => self.welcome(*joined).await?,
            Note::Refused { why, revoked } => {
                tracing::error!(node = self.membership.node, reason = %why, "the server refused this node");
                self.status.refused(why);
                if revoked {
                    self.disk.revoked();
                }
            }
            Note::Revocations { after, list } => self.revoked(after, &list),
            Note::Rekeyed(key) => self.rekeyed(key).await,
            Note::Prove => self.prove().await,
            Note::NoNode(name) => self.status.no_node(name),
            Note::Record { record, signature } => self.record(StoredRecord { record, signature }),
            Note::Feed(body) => {
                self.keep_signed();
                self.unsigned_due = Some(Instant::now() + SIGNED_WITHIN);
                if self.services.replica.apply_run(&body).is_err() {
                    self.resync("an update does not follow from what came before").await;
                }
            }
            Note::Entries { part, signed } => self.take_entries(&part, signed).await,
            Note::Disbelieved(why) => self.status.disbelieved(why),
            Note::Answer(sequence) => self.answered(sequence).await,
            Note::FeedCommit { sequence, digest } => self.commit(sequence, digest).await,
            Note::Stamp(stamp) => self.disk.stamp(stamp),
            Note::Direct { node, at } => self.reached_at(node, at),
            Note::PeerRefused(refusal) => self.tell(&refusal),
            Note::Aside { node, bytes } => self.reached.hear(Heard::Message { node, bytes }),
            Note::Led(endpoint) => self.reached.hear(Heard::Used(endpoint)),
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
        tokio::select! {
            Some(changes) = self.changes.1.recv() => Work::Changes(changes),
            () = until(self.services.held_until()) => Work::Changes(Changes::default().piece()),
            () = until(self.disk.due()) => Work::Store,
            failed = self.disk.written() => Work::Stored(failed),
            () = until(self.unresolved.ask_due) => Work::Ask,
            () = until(self.unresolved.remake_due) => Work::Remake,
            () = until(self.entry.as_ref().map(|entry| entry.look_due)) => Work::Look,
            Some(report) = self.reports.1.recv() => Work::Kept(report),
            () = until(self.linger_due) => Work::Linger,
            Some(found) = self.reached.found.1.recv() => Work::Reached(found),
            () = until(self.unsigned_due) => Work::Unsigned,
            () = until(self.hints.call_due) => Work::Call,
            Some(reply) = self.rotations.1.recv() => Work::Rotate(reply),
            () = until(self.rotation.forget_due) => Work::ForgetKey,
        }
    }

    /// Does it.
    pub async fn work(&mut self, work: Work) {
        match work {
            Work::Changes(changes) => self.changed(changes).await,
            Work::Store => self.store(),
            Work::Stored(failed) => self.stored(failed),
            Work::Ask => self.ask().await,
            Work::Remake => self.remake().await,
            Work::Look => self.look().await,
            Work::Kept(report) => self.kept(report).await,
            Work::Linger => self.look_at_lingering().await,
            Work::Reached(found) => self.reach(found).await,
            Work::Unsigned => self.resync("updates that the directory did not sign").await,
            Work::Call => self.call_all().await,
            Work::Rotate(reply) => self.rotate(reply).await,
            Work::ForgetKey => self.forget_key_before().await,
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
            self.membership.secret.zeroize();
            self.revocations.begin(joined.epoch);
            self.membership.joined = Some(joined);
            self.disk.membership();
        }
        if first {
            self.go_online().await?;
        }
        self.ask_entries().await;
        self.ask_for_key().await;
        Ok(())
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
            self.disk.records(STORE_RECORDS_AFTER);
        }
    }

    fn note_name(&self, stored: &StoredRecord) -> Option<u32> {
        let record = NodeRecord::decode(&stored.record).ok()?;
        self.status.name(record.index, record.name);
        Some(record.index)
    }

    /// Asks the directory about nodes. Without a connection the next welcome brings this back.
    async fn ask(&mut self) {
        self.unresolved.ask_due = None;
        let named = self.services.named_nodes();
        self.unresolved.retain(|name| named.contains(name));
        let names = self.unresolved.questions(|name| self.status.index_of(name) != 0);
        let questions = names.clone();
        let asked = self.handle.inspect(move |data| questions.iter().all(|name| data.look_up(name))).await;
        if asked == Some(true) {
            self.unresolved.asked(&names);
        }
    }

    fn own(&self) -> u32 {
        self.membership.joined.as_ref().map_or(0, |joined| joined.index)
    }
}

/// Waits for that moment, or for ever.
pub(super) async fn until(due: Option<Instant>) {
    match due {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
