//! What is fed: a directory of manifests or a Kubernetes API, each on a thread of its own.

use crate::Failure;
use crate::cli::Run;
use crate::control::Reviewer;
use crate::counters::Counters;
use crate::directory::Directory;
use crate::feed::{Feed, Version};
use edgemesh_discovery::change::Changes;
#[cfg(feature = "kubernetes")]
use edgemesh_discovery::kubernetes;
use edgemesh_discovery::manifests;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long the feed waits before it tries again to write the directory.
const RETRY: Duration = Duration::from_secs(2);

/// A source that runs until it is dropped.
pub(crate) enum Followed {
    /// Nothing is fed.
    Nothing,
    /// See [`manifests`].
    Manifests { _source: manifests::Source },
    /// See [`kubernetes`].
    #[cfg(feature = "kubernetes")]
    Kubernetes { _source: kubernetes::Source },
}

/// Feeds what the settings name.
pub(crate) fn follow(
    args: &Run,
    directory: &Arc<Mutex<Directory>>,
    feed: &Arc<Feed>,
    counters: &Arc<Counters>,
) -> Result<Followed, Failure> {
    let (directory, feed, counters) = (directory.clone(), feed.clone(), counters.clone());
    let (problems, programming) = (counters.clone(), counters.clone());
    let mut report = move |problem: String| {
        problems.manifest_problems.fetch_add(1, Relaxed);
        tracing::warn!("{problem}");
    };
    let mut told = None;
    let publish = move |changes: Changes| {
        let triggers: Vec<u64> = changes.triggers().collect();
        if !feed.take(changes) {
            return;
        }
        while let Err(error) = feed.publish(&directory, &mut report) {
            tracing::error!(%error, "the Services cannot be fed");
            std::thread::sleep(RETRY);
        }
        programming.programming.done(&triggers);
        let Some(version) = feed.newest() else { return };
        let Version { sequence, services, .. } = *version;
        if told.replace(services) == Some(services) {
            tracing::debug!(sequence, services, "Services are fed");
        } else {
            tracing::info!(sequence, services, "Services are fed");
        }
    };
    if args.kubernetes {
        return follow_kubernetes(args, publish);
    }
    let Some(path) = &args.manifests else { return Ok(Followed::Nothing) };
    let report = move |problem: String| {
        counters.manifest_problems.fetch_add(1, Relaxed);
        tracing::warn!(problem, "manifest does not apply");
    };
    let source = manifests::Source::spawn(path, publish, report);
    let source = source.map_err(|e| Failure::Failed(format!("--manifests: {e}")))?;
    Ok(Followed::Manifests { _source: source })
}

#[cfg(feature = "kubernetes")]
fn follow_kubernetes(args: &Run, publish: impl FnMut(Changes) + Send + 'static) -> Result<Followed, Failure> {
    let source = kubernetes::Source::spawn(access(args), publish, |problem| tracing::warn!("{problem}"));
    let source = source.map_err(|e| Failure::Config(format!("--kubernetes: {e}")))?;
    Ok(Followed::Kubernetes { _source: source })
}

#[cfg(feature = "kubernetes")]
fn access(args: &Run) -> kubernetes::Settings {
    kubernetes::Settings {
        kubeconfig: args.kubeconfig.clone(),
        server: args.api_server.clone(),
        ..kubernetes::Settings::default()
    }
}

/// Who says which node a ServiceAccount token is of, if nodes may join so.
pub(crate) fn reviewer(args: &Run) -> Result<Option<Reviewer>, Failure> {
    let Some(account) = &args.service_account else { return Ok(None) };
    if !args.kubernetes {
        let text =
            format!("--service-account: value {account:?} without --kubernetes; accepted: both, or neither");
        return Err(Failure::Config(text));
    }
    reviewer_of(args, account).map(Some).map_err(|e| Failure::Config(format!("--service-account: {e}")))
}

#[cfg(feature = "kubernetes")]
fn reviewer_of(args: &Run, account: &str) -> Result<Reviewer, String> {
    let account = account.parse().map_err(|e| format!("value {account:?}; {e}"))?;
    Ok(Reviewer::new(access(args), account))
}

#[cfg(not(feature = "kubernetes"))]
fn reviewer_of(_: &Run, _: &str) -> Result<Reviewer, String> {
    Err("this build has no Kubernetes client".to_owned())
}

#[cfg(not(feature = "kubernetes"))]
fn follow_kubernetes(_: &Run, _: impl FnMut(Changes) + Send + 'static) -> Result<Followed, Failure> {
    Err(Failure::Config("--kubernetes: this build has no Kubernetes client".to_owned()))
}
