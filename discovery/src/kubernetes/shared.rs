//! What the followers of all kinds share: settings, client, objects, and what is told to the outside.
//!
//! Lives on one thread; borrows end before anything is awaited.

use super::health::Health;
use super::request::Failure;
use super::store::{State, Store};
use super::{Settings, access, decode};
use crate::change::Changes;
use crate::object::{Identity, Kind};
use edgemesh_core::rng::Rng;
use std::cell::{Cell, RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::mem::{Discriminant, discriminant};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Changed objects that are worth taking before the list they are in is at its end.
const PIECE: usize = 512;
/// Messages that are told once and remembered.
const ONCE_MAX: usize = 64;

/// See the module's documentation.
pub(super) struct Shared {
    pub(super) settings: Settings,
    store: RefCell<Store>,
    states: RefCell<BTreeMap<Kind, State>>,
    failing: RefCell<BTreeMap<Kind, Discriminant<Failure>>>,
    client: RefCell<kube::Client>,
    made_at: Cell<Instant>,
    rng: RefCell<Rng>,
    health: Arc<Health>,
    report: RefCell<Box<dyn FnMut(String)>>,
    told: RefCell<BTreeSet<String>>,
    /// Something to look at for the publisher.
    pub(super) news: Notify,
    /// Kinds whose last request met no server.
    cut_off: RefCell<BTreeSet<Kind>>,
    /// The server is there again after all kinds were cut off.
    pub(super) back: Notify,
    /// So much of it that it should be taken before more comes.
    pub(super) piece: Notify,
    /// Whether Endpoints are followed, for want of slices.
    pub(super) fallback: watch::Sender<bool>,
}

/// A seed out of the system's randomness by way of the standard library's hash keys: good enough to spread clients.
fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    for (n, chunk) in seed.chunks_exact_mut(8).enumerate() {
        chunk.copy_from_slice(&RandomState::new().hash_one(n).to_le_bytes());
    }
    seed
}

impl Shared {
    pub(super) fn new(
        settings: Settings,
        client: kube::Client,
        health: Arc<Health>,
        report: Box<dyn FnMut(String)>,
    ) -> Self {
        Self {
            settings,
            store: RefCell::default(),
            states: RefCell::default(),
            failing: RefCell::default(),
            client: RefCell::new(client),
            made_at: Cell::new(Instant::now()),
            rng: RefCell::new(Rng::new(seed())),
            health,
            report: RefCell::new(report),
            told: RefCell::default(),
            news: Notify::new(),
            cut_off: RefCell::default(),
            back: Notify::new(),
            piece: Notify::new(),
            fallback: watch::Sender::new(false),
        }
    }

    pub(super) fn store(&self) -> RefMut<'_, Store> {
        self.store.borrow_mut()
    }

    pub(super) fn client(&self) -> kube::Client {
        self.client.borrow().clone()
    }

    /// Reads credentials and authority again. What cannot be read now leaves things as they are.
    pub(super) async fn reconnect(&self) {
        if self.made_at.get().elapsed() < self.settings.timing.backoff_min {
            return;
        }
        self.made_at.set(Instant::now());
        match access::client(&self.settings).await {
            Ok(client) => drop(self.client.replace(client)),
            Err(error) => self.report_once(format!("{error}; the credentials read before stay in use")),
        }
    }

    /// Whether an object is none of our business: the API server's own Service is reached by address where
    /// metaServer stands in for it.
    pub(super) fn is_left_out(&self, identity: &Identity) -> bool {
        let kind = matches!(identity.kind, Kind::Service | Kind::EndpointSlice | Kind::Endpoints);
        self.settings.meta_server && kind && identity.namespace == "default" && identity.name == "kubernetes"
    }

    // States

    pub(super) fn state(&self, kind: Kind) -> State {
        self.states.borrow().get(&kind).copied().unwrap_or_default()
    }

    pub(super) fn set_state(&self, kind: Kind, state: State) {
        self.states.borrow_mut().insert(kind, state);
        if kind == Kind::EndpointSlice {
            let wanted = state == State::Absent;
            self.fallback.send_if_modified(|now| std::mem::replace(now, wanted) != wanted);
        }
        self.news.notify_one();
    }

    /// A whole list was heard.
    pub(super) fn listed(&self, kind: Kind) {
        self.health.listed();
        self.heard(kind);
        self.set_state(kind, State::Heard);
    }

    /// The server was heard about this kind, and what is known is current.
    pub(super) fn heard(&self, kind: Kind) {
        self.health.heard(kind);
    }

    /// The server answers. One kind alone may be cut off for reasons of its own, and goes on waiting.
    pub(super) fn answered(&self, kind: Kind) {
        let mut cut_off = self.cut_off.borrow_mut();
        let states = self.states.borrow();
        let mut heard = states.iter().filter(|(_, state)| **state == State::Heard);
        if cut_off.len() > 1 && heard.all(|(kind, _)| cut_off.contains(kind)) {
            cut_off.clear();
            self.back.notify_waiters();
        }
        cut_off.remove(&kind);
    }

    /// A list said nothing. Where nothing was known before either, that is as good as empty.
    pub(super) fn unknown(&self, kind: Kind) {
        let needed = matches!(kind, Kind::Service | Kind::EndpointSlice | Kind::Endpoints);
        let nothing_known = self.store().count(kind) == 0 && self.known_services() == 0;
        if nothing_known {
            self.listed(kind);
        } else {
            if !needed && self.state(kind) == State::Silent {
                self.set_state(kind, State::Failed);
            }
            self.report_once(format!(
                "{}: the list is empty and has no resource version; what was known stays. On KubeEdge, see that \
                 metaServer and cloudcore's dynamicController are enabled",
                decode::kind_name(kind)
            ));
        }
    }

    /// Whether the server does not serve this kind, so that asking can wait. What has objects is never given up.
    pub(super) fn is_given_up(&self, kind: Kind, says_so: bool, refusals: u32) -> bool {
        let known = self.state(kind) == State::Heard || self.store().count(kind) > 0;
        if known || kind == Kind::Service || !(says_so || refusals >= 3) {
            return false;
        }
        self.set_state(kind, State::Absent);
        says_so
    }

    /// Services that an earlier run knew, until this one has heard a list.
    pub(super) fn known_services(&self) -> usize {
        if self.state(Kind::Service) == State::Heard { 0 } else { self.settings.known_services }
    }

    /// Whether there is enough for a first table, and whether everything is there.
    pub(super) fn readiness(&self) -> (bool, bool) {
        let heard = |kind| self.state(kind) == State::Heard;
        let slices = heard(Kind::EndpointSlice)
            || (self.state(Kind::EndpointSlice) == State::Absent
                && matches!(self.state(Kind::Endpoints), State::Heard | State::Absent));
        let rest = [Kind::Namespace, Kind::Node, Kind::ServiceCidr];
        let all = rest.iter().all(|kind| self.state(*kind) != State::Silent);
        (heard(Kind::Service) && slices, all)
    }

    // What the outside hears

    /// The objects changed.
    pub(super) fn changed(&self) {
        self.news.notify_one();
        if self.store().changes() >= PIECE {
            self.piece.notify_one();
        }
    }

    /// What is new since this was asked last, if anything is; the first time also if there is nothing at all.
    pub(super) fn take_changes(&self, first: bool) -> Option<Changes> {
        let mut store = self.store();
        (store.changes() > 0 || first).then(|| store.take_changes())
    }

    pub(super) fn report(&self, text: String) {
        (self.report.borrow_mut())(text);
    }

    pub(super) fn report_once(&self, text: String) {
        let mut told = self.told.borrow_mut();
        if told.len() >= ONCE_MAX {
            told.clear();
        }
        if told.insert(text.clone()) {
            drop(told);
            self.report(text);
        }
    }

    /// An object does not apply; `text` if that is news.
    pub(super) fn refused(&self, text: Option<String>) {
        if let Some(text) = text {
            self.health.refused();
            self.report(text);
        }
    }

    /// A request failed: told when it begins to, and when it fails in another way.
    pub(super) fn failed(&self, kind: Kind, failure: &Failure) {
        self.health.failed();
        if matches!(failure, Failure::Network(_) | Failure::Silent) {
            self.cut_off.borrow_mut().insert(kind);
        }
        let before = self.failing.borrow_mut().insert(kind, discriminant(failure));
        let quiet = *failure == Failure::Absent && kind != Kind::Service;
        if before != Some(discriminant(failure)) && !quiet {
            let url = self.settings.server.as_deref().map(|url| format!(" at {url}")).unwrap_or_default();
            self.report(format!("{}{url}: {failure}; what is known stays", decode::kind_name(kind)));
        }
    }

    /// Requests succeed again.
    pub(super) fn recovered(&self, kind: Kind) {
        self.failing.borrow_mut().remove(&kind);
    }

    // Pauses

    /// Anything from 0 to 65535.
    fn random(&self) -> u32 {
        u32::from(u16::from_le_bytes(self.rng.borrow_mut().bytes()))
    }

    /// A random part of `span`.
    fn part(&self, span: Duration) -> Duration {
        span.saturating_mul(self.random()) / 65_535
    }

    /// 80 to 100 per cent of `span`.
    pub(super) fn jittered(&self, span: Duration) -> Duration {
        span - self.part(span / 5)
    }

    /// 100 to 125 per cent of `span`.
    pub(super) fn at_least(&self, span: Duration) -> Duration {
        span + self.part(span / 4)
    }

    /// A moment within which all clients spread their lists.
    pub(super) fn spread(&self) -> Duration {
        self.part(self.settings.timing.spread)
    }

    /// The pause after so many failures in a row.
    pub(super) fn backoff(&self, failures: u32) -> Duration {
        let timing = &self.settings.timing;
        let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        let whole = timing.backoff_min.saturating_mul(factor).min(timing.backoff_max);
        whole / 2 + self.part(whole / 2)
    }
}
