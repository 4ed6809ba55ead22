//! The TCP port: control connections and relayed datagrams.
//!
//! The first four bytes tell which. Bounds: [`CONNECTIONS_MAX`] connections, [`HANDSHAKES_MAX`] of them before
//! their node is known, 10 s for that. What is neither costs a counter and the connection.

mod account;
mod demand;
mod frames;
mod hub;
mod revocations;
mod session;

pub(crate) use account::{Accounts, Reviewer};
pub(crate) use hub::Hub;
pub(crate) use session::introduce;

use crate::counters::{Counters, Loss};
use crate::directory::Directory;
use crate::feed::Feed;
use crate::forward::{Switch, serve_tcp};
use edgemesh_core::rng::Rng;
use edgemesh_core::wire::control::Preamble;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

const CONNECTIONS_MAX: usize = 16_384;
const HANDSHAKES_MAX: usize = 512;
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// After an accept error (too many open files) the listener waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What waits in the kernel for a slow node: bulk must not stand before an answer.
const SEND_BUFFER: usize = 64 * 1024;

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

/// Accepts connections until the future is dropped.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let all = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (Ok(slot), Ok(handshake)) =
            (all.clone().try_acquire_owned(), handshakes.clone().try_acquire_owned())
        else {
            shared.counters.count(Loss::Connections, 1);
            continue;
        };
        shared.counters.connections.fetch_add(1, Relaxed);
        let shared = shared.clone();
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        tokio::spawn(async move {
            connection(&shared, stream, peer, handshake).await;
            drop(slot);
        });
    }
}

async fn connection(
    shared: &Shared,
    mut stream: TcpStream,
    peer: SocketAddr,
    handshake: OwnedSemaphorePermit,
) {
    // Both only tune; a socket that refuses still works.
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&stream, SEND_BUFFER);
    let mut preamble = [0; 4];
    match timeout(HANDSHAKE_WITHIN, stream.read_exact(&mut preamble)).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) => return shared.counters.count(Loss::Tcp, 1),
        Err(_) => return shared.counters.count(Loss::Timeout, 1),
    }
    let ended = match Preamble::parse(preamble) {
        Ok(Preamble::Control) => session::serve(shared, stream, peer, handshake).await,
        Ok(Preamble::Relay) if shared.relays => {
            drop(handshake);
            serve_tcp(&shared.switch, stream, peer).await
        }
        Ok(Preamble::Relay) | Err(_) => return shared.counters.count(Loss::Tcp, 1),
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "connection ended");
    }
}
