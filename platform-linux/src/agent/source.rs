//! Services from a source on this node: a directory of manifests, or a Kubernetes API.
//!
//! Node names in EndpointSlices become indices by the records that this node has; a name that is not known yet is
//! asked for, and the Services with endpoints on it are made again once the directory has answered.

use super::join::Join;
use super::start::RunError;
use super::status::Shared;
#[cfg(feature = "kubernetes")]
use super::status::SourceHealth;
#[cfg(feature = "kubernetes")]
use crate::cli::DnsPods;
use crate::cli::{Run, Source};
use edgemesh_discovery::encoded::{Resolver, VipKey};
#[cfg(feature = "kubernetes")]
use edgemesh_discovery::kubernetes;
use edgemesh_discovery::manifests;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::ops::Bound;
use std::path::Path;
#[cfg(feature = "kubernetes")]
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Pauses between questions about nodes that the directory did not know.
const ASK_AGAIN: Duration = Duration::from_secs(1);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(60);
/// How often the age of the table is brought up to date.
#[cfg(feature = "kubernetes")]
const CURRENT: Duration = Duration::from_secs(5);
/// Nodes asked about at a time.
const QUESTIONS: usize = 64;

/// A source that runs until it is dropped.
pub(super) enum Followed {
    /// The server's feed needs nobody here.
    Server,
    /// See [`manifests`].
    Manifests { _source: manifests::Source },
    /// See [`kubernetes`].
    #[cfg(feature = "kubernetes")]
    Kubernetes { _source: kubernetes::Source },
}

/// Follows the source of the settings.
///
/// # Errors
/// Settings that cannot work; the text names them.
pub(super) fn follow(settings: &Run, join: &Join) -> Result<Followed, RunError> {
    match &settings.source {
        Source::Server => Ok(Followed::Server),
        Source::Manifests(directory) => {
            let source = follow_manifests(directory, join).map_err(|error| {
                RunError::Failed(format!("--source manifests:{}: {error}", directory.display()))
            })?;
            Ok(Followed::Manifests { _source: source })
        }
        #[cfg(feature = "kubernetes")]
        Source::Kubernetes => Ok(Followed::Kubernetes { _source: follow_kubernetes(settings, join)? }),
        #[cfg(not(feature = "kubernetes"))]
        Source::Kubernetes => {
            Err(RunError::Usage("--source: this build has no Kubernetes client".to_owned()))
        }
    }
}

fn follow_manifests(directory: &Path, join: &Join) -> io::Result<manifests::Source> {
    let changes = join.changes();
    manifests::Source::spawn(
        directory,
        move |new| {
            let _ = changes.send(new);
        },
        |problem| tracing::warn!("{problem}"),
    )
}

#[cfg(feature = "kubernetes")]
fn follow_kubernetes(settings: &Run, join: &Join) -> Result<kubernetes::Source, RunError> {
    if settings.api_server.is_some() && settings.meta_server.is_some() {
        let text = "--meta-server: there is an --api-server as well; accepted: one of the two";
        return Err(RunError::Usage(text.to_owned()));
    }
    let changes = join.changes();
    let access = kubernetes::Settings {
        kubeconfig: settings.kubeconfig.clone(),
        server: settings.meta_server.clone().or_else(|| settings.api_server.clone()),
        meta_server: settings.meta_server.is_some(),
        pods: settings.names.dns_pods == DnsPods::Verified,
        known_services: join.known_services(),
        ..kubernetes::Settings::default()
    };
    let source = kubernetes::Source::spawn(
        access,
        move |new| {
            let _ = changes.send(new);
        },
        |problem| tracing::warn!("{problem}"),
    );
    let source = source.map_err(|error| RunError::Usage(format!("--source kubernetes: {error}")))?;
    tokio::task::spawn_local(keep_current(source.health(), join.status()));
    Ok(source)
}

/// The table's age is that of the last word of the API server, not of the last change.
#[cfg(feature = "kubernetes")]
async fn keep_current(health: Arc<kubernetes::Health>, status: Arc<Shared>) {
    let mut ticks = tokio::time::interval(CURRENT);
    loop {
        ticks.tick().await;
        if let Some(unix_secs) = health.current() {
            status.confirmed(unix_secs);
        }
        let kubernetes::Counters { lists, failures, refused_objects } = health.counters();
        status.source_is(SourceHealth { lists, failures, refused_objects });
    }
}

/// Nodes that a source on this node names and no record does.
#[derive(Default)]
pub(super) struct Unresolved {
    pub(super) nodes: BTreeSet<String>,
    pub(super) ask_due: Option<Instant>,
    /// The last name asked about in this turn through all of them; empty at its start.
    asked_to: String,
    pause: Duration,
    pub(super) remake_due: Option<Instant>,
}

impl Unresolved {
    /// Takes note of nodes whose index is not known, and has the directory asked about new ones.
    pub(super) fn note(&mut self, unknown: BTreeSet<String>) {
        if !unknown.is_subset(&self.nodes) {
            (self.ask_due, self.pause) = (Some(Instant::now()), ASK_AGAIN);
            self.nodes.extend(unknown);
        }
    }

    /// Forgets nodes that are known now, or that nothing names any more.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.nodes.retain(|name| keep(name));
        if self.nodes.is_empty() {
            *self = Self::default();
        }
    }

    /// The next nodes to ask about, in turn.
    pub(super) fn questions(&self, is_known: impl Fn(&str) -> bool) -> Vec<String> {
        let rest = self.nodes.range::<str, _>((Bound::Excluded(self.asked_to.as_str()), Bound::Unbounded));
        rest.filter(|name| !is_known(name)).take(QUESTIONS).cloned().collect()
    }

    /// These were asked about: the others soon, and all again after a pause, which grows.
    pub(super) fn asked(&mut self, names: &[String]) {
        let now = Instant::now();
        match names.last() {
            Some(last) if names.len() >= QUESTIONS => {
                self.asked_to.clone_from(last);
                self.ask_due = Some(now + ASK_AGAIN);
            }
            _ => {
                self.asked_to.clear();
                self.ask_due = Some(now + self.pause);
                self.pause = (self.pause * 2).min(ASK_AGAIN_MAX);
            }
        }
    }
}

/// Node names by the records of this node.
pub(super) struct Names<'s> {
    pub(super) status: &'s Shared,
    pub(super) own: u32,
    /// Those that no record has.
    pub(super) unknown: BTreeSet<String>,
}

impl Resolver for Names<'_> {
    fn node(&mut self, name: &str) -> u32 {
        let index = if name == self.status.node { self.own } else { self.status.index_of(name) };
        if index == 0 && !name.is_empty() && !self.unknown.contains(name) {
            self.unknown.insert(name.to_owned());
        }
        index
    }

    fn endpoint_vip(&mut self, _: &VipKey<'_>) -> Option<IpAddr> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_node_is_asked_about_in_its_turn() {
        let all: BTreeSet<String> = (0..150).map(|number| format!("node-{number}")).collect();
        let mut unresolved = Unresolved::default();
        unresolved.note(all.clone());
        for pause in [ASK_AGAIN, ASK_AGAIN * 2] {
            let mut asked = BTreeSet::new();
            for last in [false, false, true] {
                let names = unresolved.questions(|name| name == "node-7");
                assert!(names.len() <= QUESTIONS);
                asked.extend(names.clone());
                unresolved.asked(&names);
                let wait = if last { pause } else { ASK_AGAIN };
                assert_eq!(unresolved.ask_due, Some(Instant::now() + wait));
            }
            assert_eq!(asked.len(), all.len() - 1, "all but the one that is known");
        }
    }
}
