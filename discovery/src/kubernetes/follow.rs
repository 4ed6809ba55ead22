//! One kind, followed for ever: list, sweep, watch, and again from where that leads.
//!
//! Every failure leaves the objects as they are. A watch that ends is resumed from the last resource version;
//! what makes that impossible (410 by event or status, a version that is too large, errors that do not end, a
//! server that replays) leads to a list. What a list does not name goes at its end, unless that is suspiciously
//! much: then a second list must agree. Bookmarks move the resource version when they come; nothing waits for one.

use super::decode::{self, Event, ListMeta};
use super::request::{self, Failure, escaped};
use super::scan::{LineScan, ListScan};
use super::shared::Shared;
use super::store::{Effect, State};
use crate::object::{Identity, Kind};
use std::rc::Rc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Failures of the server itself in a row after which the resource version is given up (rows L2, K3).
const GIVE_UP: u32 = 3;
/// Page sizes, in turn, while continue tokens expire before the last page (row L3); 0 is everything at once.
const PAGES: [usize; 3] = [50, 500, 0];

/// See the module's documentation.
pub(super) struct Follower {
    kind: Kind,
    shared: Rc<Shared>,
    /// From where a watch can go on; `None` when a list is due.
    version: Option<String>,
    /// The newest resource version seen, which lists should not be older than.
    seen: String,
    /// The next list must be up to date, whatever it costs the server.
    consistent: bool,
    generation: u32,
    /// A list left out suspiciously much; the next one decides.
    doubted: bool,
    /// The server replays everything at each watch and tells no deletions of before (row K1).
    replays: bool,
    /// No watch has begun since the last list.
    fresh: bool,
    /// Index in [`PAGES`].
    pages: usize,
    failures: u32,
    /// Failures of the server itself in a row.
    refusals: u32,
    /// When to list again although all is well.
    resync_at: Instant,
}

/// How a list came out.
#[derive(PartialEq, Eq)]
enum Listed {
    /// The objects are the server's.
    Whole,
    /// Empty and without a resource version: it says nothing (row K4).
    Unknown,
    /// It leaves out too much to be believed at once.
    Doubtful,
}

/// How a watch ended.
enum Ended {
    /// As it should, or so that it can go on.
    Resume,
    /// Only a list helps.
    Relist,
}

/// What a line of a watch asks for.
enum Next {
    More,
    Relist,
}

impl Follower {
    pub(super) fn new(kind: Kind, shared: Rc<Shared>) -> Self {
        Self {
            kind,
            replays: shared.settings.meta_server,
            resync_at: Instant::now() + shared.jittered(shared.settings.timing.resync),
            shared,
            version: None,
            seen: String::new(),
            consistent: false,
            generation: 0,
            doubted: false,
            fresh: false,
            pages: 0,
            failures: 0,
            refusals: 0,
        }
    }

    /// Follows until dropped.
    pub(super) async fn run(mut self) {
        loop {
            let result = match self.version.clone() {
                None => self.list_once().await,
                Some(version) => self.watch_once(&version).await,
            };
            if let Err(failure) = result {
                self.failed(failure).await;
            }
        }
    }

    async fn list_once(&mut self) -> Result<(), Failure> {
        let timing = &self.shared.settings.timing;
        let resync = self.shared.jittered(timing.resync);
        let doubt = self.shared.jittered(timing.doubt);
        match self.list().await? {
            Listed::Whole => {
                self.resync_at = Instant::now() + resync;
                self.shared.listed(self.kind);
            }
            // From nowhere: everything there is will be told as added.
            Listed::Unknown => self.version = Some(String::new()),
            Listed::Doubtful => {
                self.shared.report(format!(
                    "{}: the list leaves out most of what was known; asking again before that is believed",
                    self.name()
                ));
                sleep(doubt).await;
            }
        }
        Ok(())
    }

    /// One whole list, page by page.
    async fn list(&mut self) -> Result<Listed, Failure> {
        self.generation = self.generation.wrapping_add(1);
        let mut token = String::new();
        let mut count = 0;
        loop {
            let (meta, items) = self.page(&token).await?;
            count += items;
            token = meta.r#continue.unwrap_or_default();
            if !token.is_empty() {
                continue;
            }
            let version = meta.resource_version.filter(|v| !v.is_empty());
            return Ok(self.end_of_list(version, count));
        }
    }

    fn end_of_list(&mut self, version: Option<String>, count: usize) -> Listed {
        let shared = self.shared.clone();
        if version.is_none() && count == 0 {
            shared.unknown(self.kind);
            return Listed::Unknown;
        }
        let known = if self.kind == Kind::Service { shared.known_services() } else { 0 };
        if !self.doubted && shared.store().shrinks(self.kind, self.generation, known) {
            (self.doubted, self.consistent) = (true, true);
            return Listed::Doubtful;
        }
        (self.doubted, self.consistent) = (false, false);
        if shared.store().sweep(self.kind, self.generation) {
            shared.changed();
        }
        // A list with objects but without a version: the watch starts from nowhere.
        let version = version.unwrap_or_default();
        self.seen.clone_from(&version);
        (self.version, self.fresh) = (Some(version), true);
        Listed::Whole
    }

    /// One page: its metadata and how many objects it had.
    async fn page(&mut self, token: &str) -> Result<(ListMeta, usize), Failure> {
        let patience = self.shared.settings.timing.patience;
        let client = self.shared.client();
        let mut pieces = request::get(&client, &self.list_path(token), patience).await?;
        self.shared.answered(self.kind);
        let mut scan = ListScan::new();
        let (mut count, mut first) = (0, None);
        while let Some(piece) = pieces.next(Instant::now() + patience).await? {
            first = first.or_else(|| piece.first().copied());
            let good = scan.push(&piece, |item| {
                count += 1;
                self.take(decode::item(self.kind, item));
            });
            if !good {
                return Err(Failure::Malformed("the list is no JSON object".to_owned()));
            }
        }
        let found = scan.finish();
        if !found.complete || !found.items {
            let what = if first.is_none() { "empty" } else { "cut short, or without items" };
            return Err(Failure::Malformed(format!("the list is {what}")));
        }
        if found.oversized > 0 {
            let text = format!("{}: {} objects are too large; skipped", self.name(), found.oversized);
            self.shared.report_once(text);
        }
        let meta = serde_json::from_slice(&found.metadata).unwrap_or_default();
        Ok((meta, count + found.oversized))
    }

    fn list_path(&self, token: &str) -> String {
        let mut path = request::path(self.kind).to_owned();
        if self.shared.settings.meta_server {
            // It has no pages and no versions to choose from (row K6).
            return path;
        }
        let limit = PAGES.get(self.pages).copied().unwrap_or(0);
        let mut parameters = Vec::new();
        if limit > 0 {
            parameters.push(format!("limit={limit}"));
        }
        if !token.is_empty() {
            parameters.push(format!("continue={}", escaped(token)));
        } else if !self.consistent {
            // Out of the server's cache: after a restart of the server all clients list at once (row L9).
            let least = if self.seen.is_empty() || self.replays { "0" } else { &self.seen };
            parameters.push(format!("resourceVersion={}", escaped(least)));
            parameters.push("resourceVersionMatch=NotOlderThan".to_owned());
        }
        for (n, parameter) in parameters.iter().enumerate() {
            path.push(if n == 0 { '?' } else { '&' });
            path.push_str(parameter);
        }
        path
    }

    /// Takes an object; whether it was known in this very version.
    fn take(&self, decoded: Result<decode::Decoded, decode::Bad>) -> bool {
        let identity = match &decoded {
            Ok(decoded) => Some(&decoded.identity),
            Err(bad) => bad.identity.as_ref(),
        };
        if identity.is_some_and(|identity| self.shared.is_left_out(identity)) {
            return false;
        }
        let mut store = self.shared.store();
        match decoded {
            Ok(decoded) => match store.set(decoded, self.generation) {
                Effect::Changed => {
                    drop(store);
                    self.shared.changed();
                    false
                }
                Effect::Same => true,
                Effect::Newer => false,
            },
            Err(bad) => {
                let text = store.refuse(self.kind, bad, self.generation);
                drop(store);
                self.shared.refused(text);
                false
            }
        }
    }

    async fn watch_once(&mut self, version: &str) -> Result<(), Failure> {
        let started = Instant::now();
        let ended = self.watch(version).await?;
        let timing = &self.shared.settings.timing;
        match ended {
            Ended::Relist => self.version = None,
            Ended::Resume if self.replays || version.is_empty() => self.version = None,
            Ended::Resume => {}
        }
        if started.elapsed() < timing.healthy {
            // A server that ends watches at once must not be asked in a circle.
            self.failures = self.failures.saturating_add(1);
            let pause = self.shared.backoff(self.failures);
            sleep(pause).await;
        }
        Ok(())
    }

    async fn watch(&mut self, from: &str) -> Result<Ended, Failure> {
        let timing = &self.shared.settings.timing;
        let asked = self.shared.jittered(if self.replays { timing.local_watch } else { timing.watch });
        let (patience, healthy, doubt, resync_at) =
            (timing.patience, timing.healthy, timing.doubt, self.resync_at);
        let seconds = asked.as_secs().max(1);
        let path = format!(
            "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={}",
            request::path(self.kind),
            escaped(from)
        );
        let client = self.shared.client();
        let mut pieces = request::get(&client, &path, patience).await?;
        self.shared.answered(self.kind);
        self.shared.heard(self.kind);
        let healthy_at = Instant::now() + healthy;
        // A server that honours the timeout ends the watch itself; one that does not is not trusted to be there.
        let end = Instant::now() + asked + timing.silence;
        let resumed = !std::mem::take(&mut self.fresh) && !from.is_empty();
        let relist_at =
            if self.shared.state(self.kind) == State::Heard { resync_at } else { Instant::now() + doubt };
        let mut lines = LineScan::default();
        let mut state = Reading { resumed, from_nowhere: from.is_empty(), relist_at };
        loop {
            let piece = tokio::select! {
                piece = pieces.next(end) => piece?,
                () = sleep_until(state.relist_at) => return Ok(Ended::Relist),
                () = sleep_until(healthy_at), if self.failures > 0 => {
                    self.recovered();
                    continue;
                }
            };
            let Some(piece) = piece else {
                self.shared.heard(self.kind);
                return Ok(Ended::Resume);
            };
            self.shared.heard(self.kind);
            let mut result = Ok(Next::More);
            lines.push(&piece, |line| {
                if matches!(result, Ok(Next::More)) {
                    result = self.line(line, &mut state);
                }
            });
            if matches!(result?, Next::Relist) {
                return Ok(Ended::Relist);
            }
        }
    }

    /// Carries out one line of a watch.
    fn line(&mut self, line: Option<&[u8]>, state: &mut Reading) -> Result<Next, Failure> {
        let Some(line) = line else {
            self.shared.report_once(format!("{}: an event is too large; skipped", self.name()));
            return Ok(Next::More);
        };
        let (event, version) = decode::event(self.kind, line).map_err(Failure::Malformed)?;
        let mut next = Next::More;
        match event {
            Event::Set(added, decoded) => {
                if self.take(decoded) && added && !self.replays && !state.from_nowhere {
                    // Resuming brings only what is new: this server starts over, and what it does not replay may
                    // be gone.
                    self.replays = true;
                    if state.resumed {
                        next = Next::Relist;
                    }
                }
            }
            Event::Gone(Some(identity)) => self.gone(&identity, state),
            Event::Gone(None) | Event::Bookmark | Event::Other => {}
            Event::Error(410, _) => return Err(Failure::Expired),
            Event::Error(code, text) => return Err(Failure::Status(code, text)),
        }
        if let Some(version) = version.filter(|v| !v.is_empty()) {
            self.seen.clone_from(&version);
            self.version = Some(version);
        }
        Ok(next)
    }

    fn gone(&self, identity: &Identity, state: &mut Reading) {
        if self.shared.store().remove(identity) {
            self.shared.changed();
        }
        if self.replays {
            // It also tells deletions that never were (row K5); its list is near and cheap.
            let soon = Instant::now() + self.shared.settings.timing.doubt;
            state.relist_at = state.relist_at.min(soon);
        }
    }

    /// All is well again.
    fn recovered(&mut self) {
        (self.failures, self.refusals, self.pages) = (0, 0, 0);
        self.shared.recovered(self.kind);
    }

    /// Waits as long as the failure asks for, and settles how to go on.
    async fn failed(&mut self, failure: Failure) {
        self.failures = self.failures.saturating_add(1);
        self.shared.failed(self.kind, &failure);
        let listing = self.version.is_none();
        let mut pause = self.shared.backoff(self.failures);
        match &failure {
            Failure::Expired | Failure::TooLarge => {
                if listing && failure == Failure::Expired {
                    // A continue token, or a version that a list should not be older than.
                    self.pages = (self.pages + 1).min(PAGES.len() - 1);
                }
                (self.version, self.consistent) = (None, true);
                pause = pause.max(self.shared.spread());
            }
            Failure::Throttled(after) => {
                pause = pause.max(self.shared.at_least(after.unwrap_or(Duration::ZERO)));
            }
            Failure::Unauthorized | Failure::Network(_) | Failure::Silent => self.shared.reconnect().await,
            Failure::Absent | Failure::Forbidden(_) | Failure::Status(..) | Failure::Malformed(_) => {
                self.refusals = self.refusals.saturating_add(1);
                let absent = failure == Failure::Absent;
                if self.shared.is_given_up(self.kind, absent, self.refusals) {
                    pause = pause.max(self.shared.jittered(self.shared.settings.timing.absent));
                }
                if self.refusals.is_multiple_of(GIVE_UP) {
                    (self.version, self.consistent) = (None, true);
                }
            }
        }
        // A server that replays: whatever happened during the pause is not told as a deletion.
        if self.replays {
            self.version = None;
        }
        if self.shared.state(self.kind) == State::Silent {
            self.shared.set_state(self.kind, State::Failed);
        }
        // After a while without the server pauses are long: who hears it first wakes the others.
        let _ = timeout(pause, self.shared.back.notified()).await;
    }

    const fn name(&self) -> &'static str {
        decode::kind_name(self.kind)
    }
}

/// What changes while a watch is read.
struct Reading {
    /// It goes on from where an earlier one ended.
    resumed: bool,
    /// It began without a resource version, so that every server tells everything.
    from_nowhere: bool,
    relist_at: Instant,
}
