//! What is to be on disk, written beside everything else: a disk may take seconds (SD cards do), and nobody is to wait
//! for it.
//!
//! Life cycle: what has to be stored is noted with the moment at which it is due; what is noted then is written
//! together, on a thread for such work, one write at a time; what changes meanwhile waits for the next. What could not
//! be written is tried again after [`AGAIN`]; the last good files stay. Bounds: one copy of what is being written.

use super::Join;
use super::table::{Piece, SIGNED_WITHIN};
use crate::agent::state::{Membership, State, StoredRecord};
use edgemesh_core::wire::control::Revocation;
use edgemesh_host::state::StateError;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;

/// How long after a failure to store it is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// See the module's documentation.
pub(super) struct Disk {
    pub(super) state: Arc<State>,
    records: Option<Instant>,
    services: Option<Instant>,
    /// What was to be stored of the table before updates came that nobody has signed for yet.
    signed: Option<(Instant, Piece)>,
    membership: Option<Instant>,
    entries: Option<(Vec<u8>, u64)>,
    held: Option<Vec<u8>>,
    stamp: Option<u64>,
    revocations: Option<Instant>,
    hints: Option<Instant>,
    /// This node's key was revoked.
    revoked: bool,
    writing: Option<JoinHandle<Failed>>,
}

/// What could not be written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Failed {
    records: bool,
    services: bool,
    membership: bool,
    revocations: bool,
    hints: bool,
}

impl Failed {
    const ALL: Self =
        Self { records: true, services: true, membership: true, revocations: true, hints: true };
}

/// What is written together.
struct Write {
    records: Option<BTreeMap<u32, StoredRecord>>,
    services: Option<Piece>,
    membership: Option<Membership>,
    entries: Option<(Vec<u8>, u64)>,
    held: Option<Vec<u8>>,
    stamp: Option<u64>,
    revocations: Option<(u32, Vec<Revocation>)>,
    hints: Option<Vec<(u32, SocketAddr)>>,
    revoked: bool,
}

impl Disk {
    pub(super) fn new(state: State) -> Self {
        Self {
            state: Arc::new(state),
            records: None,
            services: None,
            signed: None,
            membership: None,
            entries: None,
            held: None,
            stamp: None,
            revocations: None,
            hints: None,
            revoked: false,
            writing: None,
        }
    }

    /// The records have changed, and are to be stored after a while.
    pub(super) fn records(&mut self, after: Duration) {
        self.records.get_or_insert_with(|| Instant::now() + after);
    }

    /// The table has.
    pub(super) fn services(&mut self, after: Duration) {
        self.services.get_or_insert_with(|| Instant::now() + after);
    }

    /// What the directory says of this node has.
    pub(super) fn membership(&mut self) {
        self.membership.get_or_insert_with(Instant::now);
    }

    /// The list of entry points is this, with its sequence.
    pub(super) fn entries(&mut self, list: (Vec<u8>, u64)) {
        self.entries = Some(list);
    }

    /// What is held of Nodes that are not ready is this.
    pub(super) fn held(&mut self, held: Vec<u8>) {
        self.held = Some(held);
    }

    /// Handshakes must be stamped after this moment, in Unix seconds.
    pub(super) fn stamp(&mut self, unix_secs: u64) {
        self.stamp = Some(unix_secs);
    }

    /// The list of revocations is longer.
    pub(super) fn revocations(&mut self) {
        self.revocations.get_or_insert_with(Instant::now);
    }

    /// Where nodes are reached has, and is to be stored at that moment.
    pub(super) fn hints(&mut self, at: Instant) {
        self.hints.get_or_insert(at);
    }

    /// This node's own key was revoked.
    pub(super) fn revoked(&mut self) {
        self.revoked = true;
    }

    /// When something is to be written; `None` while something is.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.writing.is_some() {
            return None;
        }
        let now = self.entries.is_some() || self.held.is_some() || self.stamp.is_some() || self.revoked;
        let now = now.then(Instant::now);
        let signed = self.signed.as_ref().map(|(due, _)| *due);
        let all = [self.records, self.services, signed, self.membership, self.revocations, self.hints, now];
        all.into_iter().flatten().min()
    }

    /// Waits until what is being written is; for ever when nothing is.
    pub(super) async fn written(&mut self) -> Failed {
        let Some(writing) = &mut self.writing else { return std::future::pending().await };
        let failed = writing.await.unwrap_or(Failed::ALL);
        self.writing = None;
        failed
    }
}

impl Join {
    /// Updates come that nobody has signed for yet: what is to be stored is the table before them.
    pub(super) fn keep_signed(&mut self) {
        if self.unsigned_due.is_none()
            && let Some(due) = self.disk.services.take()
        {
            let piece = self.unsaved();
            self.disk.signed = Some(match self.disk.signed.take() {
                Some((due, before)) => (due, before.then(piece)),
                None => (due, piece),
            });
        }
    }

    fn unsaved(&mut self) -> Piece {
        let epoch = self.membership.joined.as_ref().map_or(0, |joined| joined.epoch);
        self.services.unsaved(epoch)
    }

    /// Begins to write what has been noted.
    pub(super) fn store(&mut self) {
        self.keep_signed();
        if self.disk.services.is_some() {
            // By then the updates that have come are signed for, or undone.
            self.disk.services = Some(Instant::now() + SIGNED_WITHIN);
        }
        let disk = &mut self.disk;
        let write = Write {
            records: disk.records.take().map(|_| self.records.clone()),
            services: disk.signed.take().map(|(_, piece)| piece),
            membership: disk.membership.take().map(|_| self.membership.clone()),
            entries: disk.entries.take(),
            held: disk.held.take(),
            stamp: disk.stamp.take(),
            revocations: disk.revocations.take().map(|_| self.revocations.stored()),
            hints: disk.hints.take().map(|_| self.hints.stored()),
            revoked: std::mem::take(&mut disk.revoked),
        };
        let state = disk.state.clone();
        disk.writing = Some(spawn_blocking(move || write.to(&state)));
    }

    /// Something was written, or not.
    pub(super) fn stored(&mut self, failed: Failed) {
        if failed.records {
            self.disk.records(AGAIN);
        }
        if failed.services {
            self.services.not_saved();
            self.disk.signed = None;
            self.disk.services(AGAIN);
        }
        if failed.membership {
            self.disk.membership = Some(Instant::now() + AGAIN);
        }
        if failed.revocations {
            self.disk.revocations = Some(Instant::now() + AGAIN);
        }
        if failed.hints {
            self.disk.hints(Instant::now() + AGAIN);
        }
    }

    /// Writes what is left. What cannot be written is lost to the next run.
    pub async fn finish(&mut self) {
        if self.disk.writing.is_some() {
            let failed = self.disk.written().await;
            self.stored(failed);
        }
        if self.disk.due().is_some() {
            self.store();
            self.disk.written().await;
        }
    }
}

impl Write {
    fn to(self, state: &State) -> Failed {
        let services = |piece: &Piece| match piece {
            Piece::Whole(snapshot) => state.save_services(snapshot),
            Piece::More(steps) => state.append_services(steps),
        };
        is_lost(self.stamp.map(|stamp| state.save_stamp(stamp)));
        is_lost(self.held.map(|held| state.save_held(&held)));
        is_lost(self.entries.map(|list| state.save_entries(&list)));
        is_lost(self.revoked.then(|| state.note_revoked()));
        Failed {
            revocations: is_lost(self.revocations.map(|list| state.save_revocations(&list))),
            hints: is_lost(self.hints.map(|list| state.save_hints(&list))),
            membership: is_lost(self.membership.map(|membership| state.save_membership(&membership))),
            records: is_lost(self.records.map(|records| state.save_records(&records))),
            services: is_lost(self.services.as_ref().map(services)),
        }
    }
}

/// Whether there was something, and it could not be written.
fn is_lost(result: Option<Result<(), StateError>>) -> bool {
    let Some(Err(error)) = result else { return false };
    tracing::error!("{error}");
    true
}
