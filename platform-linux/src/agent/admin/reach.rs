//! Finding a node by its name and getting a session with it, for measurements.

use super::{Admin, Failure, stopping};
use crate::clock;
use edgemesh_core::node::{Event, PeerStatus, Ticket};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long the directory may take to answer.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(5);

/// What is known of the way to a node after an attempt to get there.
pub(super) struct Reached {
    /// The peer as it is now; `None` when nothing is known of it.
    pub(super) peer: Option<PeerStatus>,
    /// Whether a server has accepted this node.
    pub(super) connected: bool,
}

impl Reached {
    /// Whether there is a session and a way.
    pub(super) fn is_up(&self) -> bool {
        self.peer.as_ref().is_some_and(|peer| peer.up && peer.path.route.is_some())
    }

    /// Why not, and what to do.
    pub(super) fn obstacle(&self, node: &str) -> (String, String) {
        let servers = "run `edgemesh-agent netcheck` to see why no server is connected";
        match &self.peer {
            _ if self.is_up() => (format!("{node} is reached"), String::new()),
            None if self.connected => (
                format!("the directory has no record of {node}"),
                "check that its agent has joined and was not revoked: `edgemesh-agent status` there says so"
                    .into(),
            ),
            None => (format!("this node has no record of {node} and no server to ask"), servers.into()),
            Some(peer) if peer.path.route.is_none() && !self.connected => {
                (format!("no way to {node}: no server is connected that could relay"), servers.into())
            }
            Some(peer) if peer.path.route.is_none() => (
                format!("no way to {node}: the relay is not usable and no direct path is known"),
                "run `edgemesh-agent netcheck` here".into(),
            ),
            Some(_) => (
                format!("{node} does not answer handshakes"),
                format!(
                    "check that the agent on {node} runs and is connected: `edgemesh-agent status` there"
                ),
            ),
        }
    }
}

impl Admin {
    /// The index of the node with this name, asking the directory where no record is at hand.
    pub(super) async fn index_of(&self, name: &str) -> Result<u32, Failure> {
        let known = self.shared.index_of(name);
        if known != 0 {
            return Ok(known);
        }
        let mut answers = self.shared.answers();
        self.shared.asking(name);
        let wanted = name.to_owned();
        if !self.handle.inspect(move |data| data.look_up(&wanted)).await.ok_or_else(stopping)? {
            let text = format!(
                "node {name} is not known here, and no server is connected to ask: \
                 run `edgemesh-agent netcheck`, or check the name with `edgemesh-agent peers`"
            );
            return Err(Failure(503, text));
        }
        let answered = async {
            loop {
                match self.shared.index_of(name) {
                    0 if self.shared.is_missing(name) => return None,
                    0 => {}
                    index => return Some(index),
                }
                if answers.changed().await.is_err() {
                    return None;
                }
            }
        };
        match timeout(LOOKUP_PATIENCE, answered).await {
            Ok(Some(index)) => Ok(index),
            Ok(None) => Err(Failure(
                404,
                format!(
                    "the directory knows no node {name}: a node is known by its Kubernetes name \
                     once its agent has joined"
                ),
            )),
            Err(_) => Err(Failure(504, format!("the directory does not answer about node {name}"))),
        }
    }

    /// Hears of every event of the engine from now on. The caller holds [`Admin::measuring`].
    pub(super) async fn watch(&self) -> Option<mpsc::UnboundedReceiver<Event>> {
        let (tell, events) = mpsc::unbounded_channel();
        self.handle.inspect(move |data| data.watcher = Some(tell)).await?;
        Some(events)
    }

    /// Starts a session with a node unless there is one, and waits for it.
    pub(super) async fn reach(
        &self,
        index: u32,
        events: &mut mpsc::UnboundedReceiver<Event>,
        patience: Duration,
    ) -> Option<Reached> {
        self.handle.inspect(move |data| data.engine.connect(clock::now(), index)).await?;
        let up = async {
            loop {
                let reached = self.look(index).await?;
                if reached.is_up() {
                    return Some(reached);
                }
                loop {
                    match events.recv().await? {
                        Event::Ready(Ticket::Peer(ready)) if ready == index => break,
                        Event::Expired(Ticket::Peer(gone)) if gone == index => return self.look(index).await,
                        _ => {}
                    }
                }
            }
        };
        match timeout(patience, up).await {
            Ok(reached) => reached,
            Err(_) => self.look(index).await,
        }
    }

    /// The state of the way to a node.
    pub(super) async fn look(&self, index: u32) -> Option<Reached> {
        let look = move |data: &mut crate::agent::data::Data| Reached {
            peer: data.engine.peers(clock::now()).find(|peer| peer.index == index),
            connected: data.engine.link().is_up(),
        };
        self.handle.inspect(look).await
    }
}
