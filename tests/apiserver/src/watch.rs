//! Watches: chunked streams of events, one JSON object a line.

use crate::answer::status;
use crate::resource::Resource;
use crate::server::State;
use crate::storage::Change;
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, sleep_until};

/// Something for open watches to do.
#[derive(Clone, Debug)]
pub enum Order {
    /// Tell an ERROR event with this code and reason, and end.
    Error(u16, &'static str),
    /// End as if the time were over.
    End,
    /// Close the connection in the middle of a line.
    Cut,
    /// Tell a bookmark.
    Bookmark,
    /// Send these bytes as they are.
    Raw(Vec<u8>),
}

/// How long a watch without `timeoutSeconds` lasts.
const LIFE: Duration = Duration::from_secs(1_800);

/// One watch.
pub(crate) struct Watch {
    pub(crate) state: Arc<State>,
    pub(crate) resource: Resource,
    pub(crate) namespace: Option<String>,
    pub(crate) query: HashMap<String, String>,
    pub(crate) out: mpsc::Sender<io::Result<Bytes>>,
    /// What to tell first instead of anything else.
    pub(crate) error: Option<(u16, &'static str)>,
}

/// The client is gone.
struct Gone;

impl Watch {
    /// Serves it until it ends.
    pub(crate) async fn run(self, orders: broadcast::Receiver<(Option<Resource>, Order)>) {
        self.state.watching.send_modify(|open| *open.entry(self.resource).or_default() += 1);
        let _ = self.serve(orders).await;
        self.state.watching.send_modify(|open| {
            if let Some(count) = open.get_mut(&self.resource) {
                *count -= 1;
            }
        });
    }

    async fn serve(&self, mut orders: broadcast::Receiver<(Option<Resource>, Order)>) -> Result<(), Gone> {
        if let Some((code, reason)) = self.error {
            return self.error(code, reason).await;
        }
        let parameter = |name: &str| self.query.get(name).map(String::as_str).unwrap_or_default();
        let given = parameter("resourceVersion").parse::<u64>().unwrap_or(0);
        // Row K1: whatever the client says, metaServer starts at 0.
        let mut seen = if self.state.options.meta_server { 0 } else { given };
        if seen == 0 {
            let objects = {
                let storage = self.state.storage();
                seen = storage.version;
                storage.list(self.resource, self.namespace.as_deref())
            };
            for object in objects {
                self.event("ADDED", &object).await?;
            }
        } else if self.state.storage().gone(seen) {
            return self.error(410, "Expired").await;
        }
        let life = parameter("timeoutSeconds").parse().map_or(LIFE, Duration::from_secs);
        let end = Instant::now() + life;
        let bookmarks =
            self.state.options.bookmarks.filter(|_| matches!(parameter("allowWatchBookmarks"), "true" | "1"));
        let mut version = self.state.version.subscribe();
        let mut bookmark_at = bookmarks.map(|every| Instant::now() + every);
        loop {
            seen = self.tell(seen).await?;
            let bookmark = async {
                match bookmark_at {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                changed = version.changed() => if changed.is_err() { return Ok(()) },
                () = self.out.closed() => return Ok(()),
                () = sleep_until(end) => return self.thawed().await,
                () = bookmark => {
                    bookmark_at = bookmarks.map(|every| Instant::now() + every);
                    self.bookmark(seen).await?;
                }
                Ok((resource, order)) = orders.recv() => {
                    if resource.is_none_or(|r| r == self.resource) && self.obey(order, seen).await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Carries out an order; true when that was the end.
    async fn obey(&self, order: Order, seen: u64) -> Result<bool, Gone> {
        match order {
            Order::End => return Ok(true),
            Order::Bookmark => self.bookmark(seen).await?,
            Order::Raw(bytes) => self.send(Ok(bytes.into())).await?,
            Order::Error(code, reason) => {
                self.error(code, reason).await?;
                return Ok(true);
            }
            Order::Cut => {
                self.send(Ok(Bytes::from_static(b"{\"type\":\"MODIFIED\",\"obj"))).await?;
                self.send(Err(io::ErrorKind::ConnectionAborted.into())).await?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Tells what happened after `seen`; the version up to which it is told.
    async fn tell(&self, seen: u64) -> Result<u64, Gone> {
        let (changes, version) = {
            let storage = self.state.storage();
            (storage.since(seen, self.resource, self.namespace.as_deref()), storage.version)
        };
        for Change { event, object, .. } in changes {
            self.event(event, &object).await?;
        }
        Ok(version)
    }

    async fn bookmark(&self, seen: u64) -> Result<(), Gone> {
        let object = json!({"kind": self.resource.kind(), "apiVersion": self.resource.api_version(),
                            "metadata": {"resourceVersion": seen.to_string()}});
        self.event("BOOKMARK", &object).await
    }

    async fn error(&self, code: u16, reason: &str) -> Result<(), Gone> {
        // Row K3: metaServer knows no other error.
        let (code, reason) =
            if self.state.options.meta_server { (500, "InternalError") } else { (code, reason) };
        self.event("ERROR", &status(code, reason, "ordered by a test")).await
    }

    async fn event(&self, event: &str, object: &Value) -> Result<(), Gone> {
        let mut line = json!({"type": event, "object": object}).to_string();
        line.push('\n');
        self.send(Ok(line.into())).await
    }

    /// Waits while the server is frozen.
    async fn thawed(&self) -> Result<(), Gone> {
        let mut frozen = self.state.frozen.subscribe();
        tokio::select! {
            thawed = frozen.wait_for(|frozen| !frozen) => thawed.map(drop).map_err(|_| Gone),
            () = self.out.closed() => Err(Gone),
        }
    }

    async fn send(&self, piece: io::Result<Bytes>) -> Result<(), Gone> {
        self.thawed().await?;
        self.out.send(piece).await.map_err(|_| Gone)
    }
}
