//! The DNS sockets of a node: UDP and TCP on every listen address, answers from the engine, other names from the
//! node's upstreams.
//!
//! * [`Resolve`] is all that is known of the engine: one query in, one verdict out, perhaps after a while
//! * [`Sockets::bind`], then [`serve`] until it is dropped; everything runs on the caller's thread
//! * [`forward::Forwarder`] asks upstreams, with a small cache, and notices upstreams that lead back here
//!
//! Bounds: [`MAX_IN_FLIGHT`] queries at once (a datagram above that is dropped, a stream waits), as many forwarded
//! as [`forward::MAX_FORWARDED`] (SERVFAIL above), [`MAX_CONNECTIONS`] connections of which one client address has
//! at most [`MAX_PER_CLIENT`], and what [`cache`] says. A reply leaves from the address that was asked, because
//! each address has a socket of its own. It touches no file but the resolv.conf it reads, and sets up no address.

pub mod cache;
mod exchange;
pub mod forward;
mod listen;
mod servers;
mod stats;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

pub use edgemesh_core::dns::Transport;
use edgemesh_core::dns::{Verdict, chase};
use forward::Forwarder;
pub use listen::Sockets;
pub use servers::{Source, parse_resolv_conf};
pub use stats::Stats;
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

/// Queries being answered at one time.
pub const MAX_IN_FLIGHT: usize = 1024;
/// The largest query that is read, in octets.
pub const MAX_QUERY: usize = 4096;
/// Open TCP connections.
pub const MAX_CONNECTIONS: usize = 256;
/// Open TCP connections from one address.
pub const MAX_PER_CLIENT: usize = 32;

/// What the engine makes of a query.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Resolved {
    /// `out` is the answer.
    Answer,
    /// `out` is an alias whose target is an upstream's.
    Chase,
    /// The name is an upstream's.
    Forward,
    /// No answer is due.
    Drop,
}

impl From<Verdict> for Resolved {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Answer { .. } => Self::Answer,
            Verdict::Chase { .. } => Self::Chase,
            Verdict::Forward => Self::Forward,
            Verdict::Drop(_) => Self::Drop,
        }
    }
}

/// The engine as the sockets see it.
pub trait Resolve {
    /// Answers `query` from `client`. `out` is empty at first and holds exactly the answer afterwards, when there is
    /// one; its length is bounded by [`edgemesh_core::dns::limit`]. May wait, for others are answered meanwhile.
    fn resolve(
        &self,
        client: SocketAddr,
        query: &[u8],
        transport: Transport,
        out: &mut Vec<u8>,
    ) -> impl Future<Output = Resolved>;
}

/// What every socket's task needs.
struct Service<R> {
    resolver: R,
    forwarder: Rc<Forwarder>,
    in_flight: Arc<Semaphore>,
}

/// Answers on `sockets` until the future is dropped, which ends every connection. Not `Send`: for a current-thread
/// runtime.
///
/// # Errors
/// Only when the runtime cannot poll the sockets.
pub async fn serve<R: Resolve + 'static>(
    sockets: Sockets,
    resolver: R,
    forwarder: Rc<Forwarder>,
) -> io::Result<()> {
    let service =
        Rc::new(Service { resolver, forwarder, in_flight: Arc::new(Semaphore::new(MAX_IN_FLIGHT)) });
    LocalSet::new()
        .run_until(async {
            service.forwarder.refresh();
            listen::run(sockets, service).await
        })
        .await
}

impl<R: Resolve> Service<R> {
    fn stats(&self) -> &Stats {
        self.forwarder.stats()
    }

    /// The answer to `query`, unless silence is due.
    async fn answer(&self, client: SocketAddr, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        self.stats().query(transport);
        let mut out = Vec::new();
        match self.resolver.resolve(client, query, transport, &mut out).await {
            Resolved::Answer => Some(out),
            Resolved::Chase => self.chase(query, transport, &out).await,
            Resolved::Forward => self.forwarder.forward(query, transport).await,
            Resolved::Drop => {
                Stats::add(&self.stats().dropped);
                None
            }
        }
    }

    /// The alias in `answer`, completed by an upstream. The reply is fetched whole: the asker's limit applies to
    /// the two together.
    async fn chase(&self, query: &[u8], transport: Transport, answer: &[u8]) -> Option<Vec<u8>> {
        let mut question = [0; 512];
        let len = chase::question(answer, 0, &mut question).ok()?;
        let reply = self.forwarder.forward(&question[..len], Transport::Tcp).await?;
        let mut out = vec![0; usize::from(u16::MAX)];
        let len = chase::complete(query, transport, answer, &reply, &mut out).ok()?;
        out.truncate(len);
        Some(out)
    }
}
