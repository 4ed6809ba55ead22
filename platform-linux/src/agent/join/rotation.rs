//! This node changes its key.
//!
//! Life cycle: the next key is made and stored; the directory is asked for it over the connection that the present key
//! made; once it has answered with a record of that key, the node takes it, comes back under it, and answers to the key
//! before for [`OVERLAP`]. Whatever breaks off is taken up again: a stored next key is asked for with every connection,
//! and the directory knows both keys until it has seen the new one.

use super::Join;
use crate::agent::state::State;
use crate::clock;
use edgemesh_core::noise::StaticSecret;
use edgemesh_host::state::StateError;
use edgemesh_host::token::fingerprint;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long a node answers to its key before the present one.
const OVERLAP: Duration = Duration::from_secs(3_600);
/// Who is told what became of an order to change the key.
pub type Reply = oneshot::Sender<Result<String, String>>;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Rotation {
    /// The key that the directory is asked for.
    next: Option<StaticSecret>,
    /// Who waits for it.
    waiting: Option<Reply>,
    /// When the key before is forgotten.
    pub(super) forget_due: Option<Instant>,
}

impl Rotation {
    /// As an earlier run left it.
    pub(super) fn of(state: &State) -> Self {
        let now = clock::wall().secs;
        let left = state.key_before().map(|before| before.left(now, OVERLAP));
        Self { next: state.next_key(), waiting: None, forget_due: left.map(|left| Instant::now() + left) }
    }
}

impl Join {
    /// The operator wants another key.
    pub(super) async fn rotate(&mut self, reply: Reply) {
        if self.membership.joined.is_none() {
            return tell(reply, Err("this node has not joined yet: it has a fresh key".into()));
        }
        if self.rotation.forget_due.is_some() {
            return tell(
                reply,
                Err("the key was changed less than an hour ago: the one before still counts".into()),
            );
        }
        if self.rotation.next.is_none() {
            let mut bytes = zeroize::Zeroizing::new([0; 32]);
            if let Err(error) = getrandom::fill(&mut *bytes) {
                return tell(reply, Err(format!("no randomness: {error}")));
            }
            let next = StaticSecret::from_bytes(*bytes);
            let stored = next.clone();
            if let Err(error) = self.on_disk(move |state| state.save_next_key(&stored)).await {
                return tell(reply, Err(error));
            }
            self.rotation.next = Some(next);
        }
        if self.ask_for_key().await {
            self.rotation.waiting = Some(reply);
        } else {
            let later = "no server has accepted this node now; the directory is asked as soon as one does";
            tell(reply, Err(later.into()));
        }
    }

    /// Asks the directory for the next key, if there is one; whether it could be asked.
    pub(super) async fn ask_for_key(&mut self) -> bool {
        let Some(next) = &self.rotation.next else { return false };
        let public = next.public().0;
        self.handle.inspect(move |data| data.ask_for_key(public)).await == Some(true)
    }

    /// The directory has answered: this node's key is `key`.
    pub(super) async fn rekeyed(&mut self, key: [u8; 32]) {
        let Some(next) = self.rotation.next.clone() else { return };
        let outcome = if next.public().0 == key {
            self.take_key(next).await
        } else {
            self.rotation.next = None;
            let dropped = self.on_disk(State::remove_next_key).await;
            dropped
                .and(Err("the directory keeps the present key: it was changed less than an hour ago".into()))
        };
        match &outcome {
            Ok(key) => tracing::info!(key, "this node has another key"),
            Err(why) => tracing::error!(%why, "this node keeps its key"),
        }
        if let Some(reply) = self.rotation.waiting.take() {
            tell(reply, outcome);
        }
    }

    async fn take_key(&mut self, next: StaticSecret) -> Result<String, String> {
        let until = clock::wall().secs.saturating_add(OVERLAP.as_secs());
        let stored = next.clone();
        self.on_disk(move |state| state.take_next_key(&stored, until)).await?;
        let name = fingerprint(&next.public().0);
        let _ = self.handle.inspect(move |data| data.rotate(&next)).await;
        self.rotation.next = None;
        self.rotation.forget_due = Some(Instant::now() + OVERLAP);
        self.status.key(name.clone());
        Ok(name)
    }

    /// The overlap is over.
    pub(super) async fn forget_key_before(&mut self) {
        self.rotation.forget_due = None;
        let _ = self.handle.inspect(|data| data.engine.forget_key_before()).await;
        if let Err(why) = self.on_disk(State::remove_key_before).await {
            tracing::error!(%why, "the key before is not forgotten on disk");
        }
        tracing::info!("this node answers to its present key only");
    }

    /// Works on the disk, which may take a while.
    async fn on_disk(
        &self,
        work: impl FnOnce(&State) -> Result<(), StateError> + Send + 'static,
    ) -> Result<(), String> {
        let state: Arc<State> = self.disk.state.clone();
        let done = tokio::task::spawn_blocking(move || work(&state)).await;
        done.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }
}

fn tell(reply: Reply, outcome: Result<String, String>) {
    // Whoever asked may have gone.
    let _ = reply.send(outcome);
}
