//! The revocations that one node has been told of, of those that it asked for.

use super::Shared;
use super::session::Sender;
use edgemesh_core::wire::control::{Held, Revocations, ToNode};
use std::io;
use tokio::sync::watch;

/// How far a node is.
pub(super) struct Told {
    changed: watch::Receiver<()>,
    held: Held,
}

impl Told {
    /// A node that holds so many; what it holds of another epoch does not count.
    pub(super) fn new(shared: &Shared, node: &str, held: Held) -> Self {
        let listed = shared.directory().listed();
        let held = if held.epoch == listed.epoch { held } else { Held { count: 0, ..listed } };
        if held > listed {
            tracing::error!(
                node,
                node_has = held.count,
                server_has = listed.count,
                "a node knows of more revocations than this directory: was an old copy of the state directory put in \
                 place? `edgemesh-server restore` is for that"
            );
        }
        let mut changed = shared.listed.subscribe();
        changed.mark_changed();
        Self { changed, held }
    }

    /// Waits until there may be something to tell.
    pub(super) async fn due(&mut self) {
        if self.changed.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Tells what there is.
    pub(super) async fn tell(&mut self, shared: &Shared, sender: &mut Sender) -> io::Result<()> {
        loop {
            let Held { epoch, count: after } = self.held;
            let next = {
                let directory = shared.directory();
                // This connection ends: the node has to hear of the new epoch first.
                if directory.epoch() == epoch { directory.revocations(after) } else { None }
            };
            let Some((count, list, signature)) = next else { return Ok(()) };
            let message = Revocations { epoch, after, list: &list, signature: &signature };
            sender.message(&ToNode::Revocations(message)).await?;
            self.held.count = after.saturating_add(count);
        }
    }
}
