//! The nodes' control connections.
//!
//! They come by the TCP port ([`accept`](crate::accept)), from nodes or by a server without a directory.

mod account;
mod demand;
pub(crate) mod frames;
mod hub;
mod lookups;
mod revocations;
mod session;

pub(crate) use account::{Accounts, Reviewer};
pub(crate) use hub::{Hub, Origin};
pub(crate) use lookups::{follow_switch, push};
pub(crate) use session::Sender;

use crate::accept::HANDSHAKE_WITHIN;
use crate::counters::{Counters, Loss};
use crate::directory::Directory;
use crate::feed::Feed;
use crate::forward::{Switch, serve_tcp};
use crate::relays;
use edgemesh_core::rng::Rng;
use edgemesh_core::wire::control::Preamble;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};
use tokio::time::timeout;

/// What the server's parts share.
pub(crate) struct Shared {
    pub(crate) directory: Arc<Mutex<Directory>>,
    pub(crate) switch: Arc<Switch>,
    pub(crate) relays: bool,
    pub(crate) feed: Arc<Feed>,
    accounts: Accounts,
    /// Told of whenever there are more revocations.
    listed: watch::Sender<()>,
    /// The server is to start again.
    pub(crate) restart: Notify,
    pub(crate) hub: Hub,
    pub(crate) counters: Arc<Counters>,
    rng: Mutex<Rng>,
}

impl Shared {
    pub(crate) fn new(
        directory: Arc<Mutex<Directory>>,
        switch: Arc<Switch>,
        relays: bool,
        feed: Arc<Feed>,
        accounts: Accounts,
        counters: Arc<Counters>,
        rng: Rng,
    ) -> Self {
        Self {
            directory,
            switch,
            relays,
            feed,
            accounts,
            listed: watch::Sender::new(()),
            restart: Notify::new(),
            hub: Hub::default(),
            counters,
            rng: Mutex::new(rng),
        }
    }

    pub(crate) fn directory(&self) -> MutexGuard<'_, Directory> {
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node was put out: its connections end here, and everybody hears of it.
    pub(crate) fn revoked(&self, node: &str, index: u32) {
        tracing::warn!(node, index, "node revoked");
        self.hub.end(index);
        // Those that came by it, if it was a relay, come back by another server.
        self.hub.by(index).into_iter().for_each(|other| self.hub.end(other));
        self.switch.unbind(index);
        self.feed.nodes_changed();
        self.list_changed();
    }

    /// The directory has another key: what is fed is signed anew, and every node comes back to hear of it.
    pub(crate) fn rotated(&self) {
        let epoch = self.directory().epoch();
        tracing::warn!(epoch, "the directory has a new key");
        self.feed.sign_again(&self.directory);
        self.hub.end_all();
    }

    /// There may be more revocations.
    pub(crate) fn list_changed(&self) {
        self.listed.send_replace(());
    }

    pub(crate) fn rng(&self) -> MutexGuard<'_, Rng> {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves a connection of the TCP port.
pub(crate) async fn connection(
    shared: Arc<Shared>,
    mut stream: TcpStream,
    peer: SocketAddr,
    (preamble, handshake): (Preamble, OwnedSemaphorePermit),
) -> io::Result<()> {
    let origin = match preamble {
        Preamble::Control => Origin { peer, via: None },
        Preamble::Via => {
            let accepted = timeout(HANDSHAKE_WITHIN, relays::accept(&shared, &mut stream)).await;
            let accepted = accepted.inspect_err(|_| shared.counters.count(Loss::Timeout, 1))?;
            accepted.inspect_err(|_| shared.counters.count(Loss::Tcp, 1))?
        }
        Preamble::Relay if shared.relays => {
            drop(handshake);
            return serve_tcp(&shared.switch, stream, peer).await;
        }
        Preamble::Relay => {
            shared.counters.count(Loss::Tcp, 1);
            return Ok(());
        }
    };
    session::serve(&shared, stream, origin, handshake).await
}
