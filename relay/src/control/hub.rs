//! The connected nodes, and the way to say something to one of them.

use edgemesh_host::clock;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, mpsc};

/// Messages that wait for one connection at most.
const PUSHES_MAX: usize = 64;
/// The same for a relay, which is told of all that its nodes do.
const RELAY_PUSHES_MAX: usize = 8_192;

/// Where a control connection comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Origin {
    /// As the first server sees it.
    pub(crate) peer: SocketAddr,
    /// Index of the server without a directory that passes it on.
    pub(crate) via: Option<u32>,
}

/// A connected node.
#[derive(Clone)]
pub(crate) struct Connected {
    id: u64,
    /// Plaintexts to be sent.
    pushes: mpsc::Sender<Vec<u8>>,
    end: Arc<Notify>,
    pub(crate) peer: SocketAddr,
    /// Index of the relay that it comes by.
    pub(crate) via: Option<u32>,
    pub(crate) agent: String,
    pub(crate) since: u64,
}

/// All connected nodes, by index; and when the others were.
#[derive(Default)]
pub(crate) struct Hub {
    inner: Mutex<Inner>,
}

/// A connection's own end of its entry.
pub(super) struct Entered {
    pub(super) id: u64,
    pub(super) pushes: mpsc::Receiver<Vec<u8>>,
    /// The connection is to end: the node is connected anew, or revoked.
    pub(super) end: Arc<Notify>,
}

#[derive(Default)]
struct Inner {
    last_id: u64,
    connected: BTreeMap<u32, Connected>,
    last_seen: HashMap<u32, u64>,
}

impl Hub {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a connection; one that the node had before is ended.
    pub(super) fn enter(&self, index: u32, origin: Origin, agent: &str, is_relay: bool) -> Entered {
        let (pushes, receiver) = mpsc::channel(if is_relay { RELAY_PUSHES_MAX } else { PUSHES_MAX });
        let end = Arc::new(Notify::new());
        let mut inner = self.inner();
        inner.last_id += 1;
        let id = inner.last_id;
        let agent = agent.chars().take(64).collect();
        let (Origin { peer, via }, since) = (origin, clock::wall().secs);
        let connected = Connected { id, pushes, end: end.clone(), peer, via, agent, since };
        if let Some(old) = inner.connected.insert(index, connected) {
            old.end.notify_one();
        }
        Entered { id, pushes: receiver, end }
    }

    /// Removes a connection, unless the node has another one by now.
    pub(super) fn leave(&self, index: u32, id: u64) {
        let mut inner = self.inner();
        if inner.connected.get(&index).is_some_and(|c| c.id == id) {
            inner.connected.remove(&index);
            inner.last_seen.insert(index, clock::wall().secs);
        }
    }

    /// Ends a node's connection, if it has one.
    pub(super) fn end(&self, index: u32) {
        if let Some(connected) = self.inner().connected.get(&index) {
            connected.end.notify_one();
        }
    }

    /// The nodes whose connections come by this relay.
    pub(crate) fn by(&self, relay: u32) -> Vec<u32> {
        let inner = self.inner();
        inner.connected.iter().filter(|(_, c)| c.via == Some(relay)).map(|(index, _)| *index).collect()
    }

    /// Ends all connections: the nodes come back and hear what has changed.
    pub(super) fn end_all(&self) {
        self.inner().connected.values().for_each(|connected| connected.end.notify_one());
    }

    /// Unix time at which a node's last connection ended.
    pub(crate) fn last_seen(&self, index: u32) -> Option<u64> {
        self.inner().last_seen.get(&index).copied()
    }

    /// Hands a plaintext to a node's connection. `None` when it is not connected, `Some(false)` when it takes no
    /// more.
    pub(super) fn push(&self, index: u32, message: Vec<u8>) -> Option<bool> {
        let inner = self.inner();
        inner.connected.get(&index).map(|c| c.pushes.try_send(message).is_ok())
    }

    /// A copy of what is known of a connection.
    pub(crate) fn get(&self, index: u32) -> Option<Connected> {
        self.inner().connected.get(&index).cloned()
    }

    /// How many nodes are connected.
    pub(crate) fn len(&self) -> usize {
        self.inner().connected.len()
    }
}
