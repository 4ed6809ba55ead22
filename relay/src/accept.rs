//! The TCP port: control connections and relayed datagrams.
//!
//! The first four bytes tell which. Bounds: [`CONNECTIONS_MAX`] connections, [`HANDSHAKES_MAX`] of them before
//! their node is known, 10 s for the first bytes. What is neither costs a counter and the connection.

use crate::counters::{Counters, Loss};
use edgemesh_core::wire::control::Preamble;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

const CONNECTIONS_MAX: usize = 16_384;
const HANDSHAKES_MAX: usize = 512;
/// How long a connection may take until its node is known, for each of preamble, relay's head and handshake.
pub(crate) const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// After an accept error (too many open files) the listener waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What waits in the kernel for a slow node: bulk must not stand before an answer.
const SEND_BUFFER: usize = 64 * 1024;

/// Has `serve` serve connections, each with what it is for and its place among those whose node is not known, until the
/// future is dropped.
pub(crate) async fn serve<S, F>(listener: TcpListener, counters: Arc<Counters>, serve: S)
where
    S: Fn(TcpStream, SocketAddr, (Preamble, OwnedSemaphorePermit)) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = io::Result<()>> + Send,
{
    let all = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let (mut stream, peer) = match listener.accept().await {
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
            counters.count(Loss::Connections, 1);
            continue;
        };
        counters.connections.fetch_add(1, Relaxed);
        let (counters, serve) = (counters.clone(), serve.clone());
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        tokio::spawn(async move {
            if let Some(preamble) = preamble(&mut stream, &counters).await
                && let Err(error) = serve(stream, peer, (preamble, handshake)).await
            {
                tracing::debug!(%peer, %error, "connection ended");
            }
            drop(slot);
        });
    }
}

async fn preamble(stream: &mut TcpStream, counters: &Counters) -> Option<Preamble> {
    // Both only tune; a socket that refuses still works.
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&*stream, SEND_BUFFER);
    let mut preamble = [0; 4];
    let lost = match timeout(HANDSHAKE_WITHIN, stream.read_exact(&mut preamble)).await {
        Ok(Ok(_)) => match Preamble::parse(preamble) {
            Ok(preamble) => return Some(preamble),
            Err(_) => Loss::Tcp,
        },
        Ok(Err(_)) => Loss::Tcp,
        Err(_) => Loss::Timeout,
    };
    counters.count(lost, 1);
    None
}
