//! The connected nodes, and the way to say something to one of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use tokio::sync::mpsc;

/// Messages that wait for one connection at most.
const PUSHES_MAX: usize = 64;

/// Something for a connection to do.
pub(super) enum Push {
    /// Send this plaintext.
    Message(Vec<u8>),
    /// End: the node is connected anew, or revoked.
    End,
}

/// A connected node.
#[derive(Clone)]
pub(crate) struct Connected {
    id: u64,
    pushes: mpsc::Sender<Push>,
    pub(crate) peer: SocketAddr,
    pub(crate) agent: String,
    pub(crate) since: u64,
}

/// All connected nodes, by index.
#[derive(Default)]
pub(crate) struct Hub {
    inner: Mutex<(u64, BTreeMap<u32, Connected>)>,
}

impl Hub {
    /// Enters a connection; one that the node had before is ended.
    pub(super) fn enter(&self, index: u32, peer: SocketAddr, agent: &str) -> (u64, mpsc::Receiver<Push>) {
        let (pushes, receiver) = mpsc::channel(PUSHES_MAX);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.0 += 1;
        let id = inner.0;
        let agent = agent.chars().take(64).collect();
        let connected = Connected { id, pushes, peer, agent, since: edgemesh_host::clock::wall().secs };
        if let Some(old) = inner.1.insert(index, connected) {
            // A full queue means that it is about to end anyway.
            let _ = old.pushes.try_send(Push::End);
        }
        (id, receiver)
    }

    /// Removes a connection, unless the node has another one by now.
    pub(super) fn leave(&self, index: u32, id: u64) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.1.get(&index).is_some_and(|c| c.id == id) {
            inner.1.remove(&index);
        }
    }

    /// Hands a plaintext to a node's connection. `None` when it is not connected, `Some(false)` when it takes no
    /// more.
    pub(super) fn push(&self, index: u32, message: Vec<u8>) -> Option<bool> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.1.get(&index).map(|c| c.pushes.try_send(Push::Message(message)).is_ok())
    }

    /// A copy of what is known of a connection.
    pub(crate) fn get(&self, index: u32) -> Option<Connected> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).1.get(&index).cloned()
    }

    /// How many nodes are connected.
    pub(crate) fn len(&self) -> usize {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).1.len()
    }
}
