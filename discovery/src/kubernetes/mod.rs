//! A Kubernetes API server, or KubeEdge's metaServer, as a source of Services.
//!
//! Services, EndpointSlices, Namespaces, Nodes and ServiceCIDRs are listed and watched, Endpoints where there are
//! no slices. Built for servers and paths that do not behave: each kind is followed by itself (`follow`), bytes
//! are taken apart as they come (`scan`), objects that do not apply are told once and skipped (`decode`), what a
//! list leaves out is swept (`store`), and nothing that fails takes anything away. Objects are told when Services and
//! endpoints have been heard once, and what is new after each change: changes that come within
//! [`Timing::gather`] of the first are told together (row R2).
//!
//! Life: [`Source::spawn`] starts one thread with a runtime of its own; dropping the [`Source`] ends it.
//! Bounds: a name and a hash of each object, what was not taken yet, one object of at most 4 MiB while reading, one
//! connection per kind.
//! It keeps nothing on disk, resolves no node names and changes nothing on the server.

mod access;
mod decode;
mod follow;
mod health;
mod request;
mod review;
mod scan;
mod shared;
mod store;

pub use health::{Counters, Health};
pub use review::{Account, Reviewer};

use crate::change::Changes;
use crate::object::Kind;
use follow::Follower;
use shared::Shared;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

/// Where the server is and what is known of it.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// A kubeconfig; its current context counts. Without one: the ServiceAccount of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// `http://HOST:PORT` or `https://HOST:PORT` in place of the configured address. Over `http` no credentials
    /// are sent.
    pub server: Option<String>,
    /// It is KubeEdge's metaServer: after each connection everything is listed, and `default/kubernetes` is none
    /// of its business. A server that turns out to replay its watches is treated so as well.
    pub meta_server: bool,
    /// Where token and authority of the ServiceAccount are, if not where Kubernetes puts them.
    pub service_account: Option<PathBuf>,
    /// Pods are followed as well, for names of pods in DNS: of each its namespace and addresses are kept. The table does
    /// not wait for them.
    pub pods: bool,
    /// Services in the table that is in use until this source has one: a first list with far fewer is asked for
    /// twice, and an empty one without a resource version does not count.
    pub known_services: usize,
    /// Pauses and patience.
    pub timing: Timing,
}

/// Pauses and patience. Spans marked (jittered) are shortened by up to a fifth at random.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// How long a connection may take to be made.
    pub connect: Duration,
    /// How soon a path that is gone is noticed by the kernel (keep-alive, unacknowledged data).
    pub dead: Duration,
    /// How long a server may be silent while it answers.
    pub patience: Duration,
    /// How long a watch is asked for (jittered, whole seconds).
    pub watch: Duration,
    /// The same for a server that replays everything at each watch, so that each costs a list.
    pub local_watch: Duration,
    /// How long after its time a watch may go on before the connection counts as dead.
    pub silence: Duration,
    /// First pause after a failure; doubled with each one up to `backoff_max`, half of it at random.
    pub backoff_min: Duration,
    /// Longest pause after a failure that says nothing about pauses.
    pub backoff_max: Duration,
    /// How long a watch must hold to end a row of failures.
    pub healthy: Duration,
    /// Over which span clients spread lists that the server forces on all of them.
    pub spread: Duration,
    /// When a list that leaves out suspiciously much is asked for again (jittered).
    pub doubt: Duration,
    /// When everything is listed again although all is well (jittered).
    pub resync: Duration,
    /// When a kind that the server does not have is asked for again (jittered).
    pub absent: Duration,
    /// How long changes are gathered before they are told.
    pub gather: Duration,
    /// How long the first word waits for Namespaces, Nodes and ServiceCIDRs.
    pub grace: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let (seconds, millis) = (Duration::from_secs, Duration::from_millis);
        Self {
            connect: seconds(10),
            dead: seconds(45),
            patience: seconds(30),
            watch: seconds(50),
            local_watch: seconds(300),
            silence: seconds(5),
            backoff_min: millis(500),
            backoff_max: seconds(30),
            healthy: seconds(3),
            spread: seconds(10),
            doubt: seconds(5),
            resync: seconds(1_800),
            absent: seconds(300),
            gather: millis(50),
            grace: seconds(2),
        }
    }
}

/// Settings that cannot work, in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccessError(String);

impl std::fmt::Display for AccessError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for AccessError {}

/// A thread that follows an API server. Dropping it ends the thread.
pub struct Source {
    health: Arc<Health>,
    _stop: oneshot::Sender<()>,
}

impl Source {
    /// Follows the server, calls `changed` with all objects and then with what changes, and `report` with
    /// everything that a person may want to know. A server that cannot be reached is no error: it is tried until it
    /// can be.
    ///
    /// # Errors
    /// Settings that cannot work: files that cannot be read or say nothing useful; or no thread can be made.
    pub fn spawn(
        settings: Settings,
        changed: impl FnMut(Changes) + Send + 'static,
        report: impl FnMut(String) + Send + 'static,
    ) -> Result<Self, AccessError> {
        let fail = |e: io::Error| AccessError(e.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fail)?;
        let health = Arc::new(Health::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, started) = mpsc::sync_channel(1);
        let its = health.clone();
        let work = move || {
            let local = LocalSet::new();
            let main = async move {
                let client = match access::client(&settings).await {
                    Ok(client) => client,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                let _ = ready.send(Ok(()));
                let shared = Rc::new(Shared::new(settings, client, its, Box::new(report)));
                follow_all(&shared);
                tokio::select! {
                    () = publish(shared, changed) => {}
                    _ = stopped => {}
                }
            };
            local.block_on(&runtime, main);
            // A name that is being looked up must not hold up the end.
            drop(local);
            runtime.shutdown_background();
        };
        std::thread::Builder::new().name("kubernetes".to_owned()).spawn(work).map_err(fail)?;
        let ended = || AccessError("the source's thread ended".to_owned());
        started.recv().map_err(|_| ended())??;
        Ok(Self { health, _stop: stop })
    }

    /// How current the table is.
    pub fn health(&self) -> Arc<Health> {
        self.health.clone()
    }
}

fn follow_all(shared: &Rc<Shared>) {
    for kind in [Kind::Service, Kind::EndpointSlice, Kind::Namespace, Kind::Node, Kind::ServiceCidr] {
        tokio::task::spawn_local(Follower::new(kind, shared.clone()).run());
    }
    if shared.settings.pods {
        tokio::task::spawn_local(Follower::new(Kind::Pod, shared.clone()).run());
    }
    tokio::task::spawn_local(follow_endpoints(shared.clone()));
}

/// Endpoints count only while there are no slices; the controller keeps them as copies of the slices otherwise.
async fn follow_endpoints(shared: Rc<Shared>) {
    let mut wanted = shared.fallback.subscribe();
    while wanted.wait_for(|wanted| *wanted).await.is_ok() {
        tokio::select! {
            () = Follower::new(Kind::Endpoints, shared.clone()).run() => {}
            _ = wanted.wait_for(|wanted| !wanted) => {}
        }
        let had_some = shared.store().clear(Kind::Endpoints);
        if had_some {
            shared.changed();
        }
        shared.set_state(Kind::Endpoints, store::State::Silent);
    }
}

/// Tells changes, gathered; taking them may use a third of the time. Before there is enough for a table, what there is
/// goes out in pieces.
async fn publish(shared: Rc<Shared>, mut changed: impl FnMut(Changes)) {
    let timing = shared.settings.timing;
    let mut first = true;
    let mut wait_until = None;
    loop {
        match wait_until {
            Some(at) => drop(tokio::time::timeout_at(at, shared.news.notified()).await),
            None => shared.news.notified().await,
        }
        if first {
            let _ = tokio::time::timeout(timing.gather, shared.piece.notified()).await;
        } else {
            sleep(timing.gather).await;
        }
        let (enough, all) = shared.readiness();
        if first && enough && !all && wait_until.is_none() {
            wait_until = Some(Instant::now() + timing.grace);
        }
        let late = wait_until.is_some_and(|at| at <= Instant::now());
        if first && !(enough && (all || late)) {
            if let Some(some) = shared.take_changes(false) {
                changed(some.piece());
            }
            continue;
        }
        wait_until = None;
        let started = Instant::now();
        if let Some(changes) = shared.take_changes(first) {
            first = false;
            changed(changes);
            sleep(started.elapsed() * 2).await;
        }
    }
}
