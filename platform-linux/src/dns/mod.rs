//! The DNS sockets of a node: UDP and TCP on every listen address, answers from the engine, other names from the
//! node's upstreams.
//!
//! * [`Sockets::bind`], then [`Server::serve`]: it gives a [`Listener`] for each socket of datagrams, to be read by the
//!   thread that has the engine, and a future that does the rest, on the caller's thread, until it is dropped
//! * [`Resolve`] is all that the rest knows of the engine: one query in, one verdict out, perhaps after a while
//! * [`forward::Forwarder`] asks upstreams, with a small cache, and notices upstreams that lead back here
//!
//! Bounds, for all sockets of a server together: [`MAX_IN_FLIGHT`] queries at once that wait for somebody (a datagram
//! above that is answered by SERVFAIL, a stream waits), of which one client address has at most [`MAX_ASKED`] in
//! datagrams (REFUSED above), as many forwarded as [`forward::MAX_FORWARDED`] (SERVFAIL above), [`MAX_CONNECTIONS`]
//! connections of which one client address has at most [`MAX_PER_CLIENT`], and what [`cache`] says. A reply leaves
//! from the address that was asked, because each address has a socket of its own. It touches no file but the
//! resolv.conf it reads, and sets up no address.
//!
//! A panic would end the process, which is built without unwinding: like the core, this module has nothing that can
//! (row W13).

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::indexing_slicing
    )
)]

pub mod cache;
mod clients;
mod datagrams;
mod exchange;
pub mod forward;
#[cfg(test)]
mod input_tests;
mod listen;
mod servers;
mod stats;
mod upstreams;

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use clients::{Clients, Place};
pub use datagrams::Listener;
pub use edgemesh_core::dns::Transport;
use edgemesh_core::dns::{Verdict, chase};
use edgemesh_core::wire::dns::{Header, Query, Rcode, Response};
use forward::Forwarder;
pub use listen::Sockets;
pub use servers::{Source, parse_resolv_conf};
pub use stats::Stats;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::LocalSet;
pub use upstreams::{MAX_STUB_DOMAINS, Routes, StubDomain};

/// Queries that wait at one time.
pub const MAX_IN_FLIGHT: usize = 1024;
/// Queries of one client address in datagrams that wait at one time.
pub const MAX_ASKED: usize = 256;
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
    /// Whether the name exists could not be found out.
    Unknown,
    /// No answer is due.
    Drop,
}

impl From<Verdict> for Resolved {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Answer { .. } => Self::Answer,
            Verdict::Chase { .. } => Self::Chase,
            Verdict::Forward => Self::Forward,
            Verdict::Wait(_) => Self::Unknown,
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

/// The places for queries that wait, and the counters: what both threads need.
struct Places {
    in_flight: Arc<Semaphore>,
    /// Clients by queries in datagrams.
    asking: Arc<Clients>,
    stats: Arc<Stats>,
}

/// A datagram's place.
type Taken = (OwnedSemaphorePermit, Place);

impl Places {
    /// A place for a datagram of this client, or what is said to one for which there is none.
    fn enter(&self, client: IpAddr) -> Result<Taken, Rcode> {
        let permit = self.in_flight.clone().try_acquire_owned().map_err(|_| Rcode::SERVFAIL)?;
        let place = Clients::enter(&self.asking, client).ok_or(Rcode::REFUSED)?;
        Ok((permit, place))
    }
}

/// What every socket's task needs.
struct Service<R> {
    resolver: R,
    forwarder: Rc<Forwarder>,
    places: Arc<Places>,
    /// Clients by connections.
    connected: Arc<Clients>,
}

/// Answers on any number of sockets, which may come and go.
pub struct Server<R> {
    service: Rc<Service<R>>,
}

impl<R> Clone for Server<R> {
    fn clone(&self) -> Self {
        Self { service: self.service.clone() }
    }
}

impl<R: Resolve + 'static> Server<R> {
    /// Nothing listens yet.
    pub fn new(resolver: R, forwarder: Rc<Forwarder>) -> Self {
        let places = Places {
            in_flight: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            asking: Clients::new(MAX_IN_FLIGHT, MAX_ASKED),
            stats: forwarder.stats().clone(),
        };
        let connected = Clients::new(MAX_CONNECTIONS, MAX_PER_CLIENT);
        Self { service: Rc::new(Service { resolver, forwarder, places: Arc::new(places), connected }) }
    }

    /// What is to be read by the thread that has the engine, and the rest: streams, and datagrams that wait. The future
    /// serves until it is dropped, which ends every connection. Not `Send`: for a current-thread runtime.
    ///
    /// # Errors
    /// The future's: only when the runtime cannot poll the sockets.
    pub fn serve(self, sockets: Sockets) -> (Vec<Listener>, impl Future<Output = io::Result<()>> + use<R>) {
        let service = self.service;
        let (pending, waiting) = mpsc::unbounded_channel();
        let listener = |socket| Listener::new(socket, service.places.clone(), pending.clone());
        let listeners = sockets.udp.into_iter().map(listener).collect();
        let rest = async move {
            let all = async {
                service.forwarder.refresh();
                listen::run(sockets.tcp, waiting, service).await
            };
            LocalSet::new().run_until(all).await
        };
        (listeners, rest)
    }
}

/// A reply without records: a failure, or the mark that the whole one is too long.
fn short(query: &Query<'_>, rcode: Rcode, truncated: bool) -> Option<Vec<u8>> {
    let mut out = vec![0; 512];
    let room = out.len();
    let mut response = Response::new(&mut out, room, query).ok()?;
    if truncated {
        response.truncate();
    }
    let len = response.refusal(rcode, true).ok()?;
    out.truncate(len);
    Some(out)
}

/// What is said to a query for which there is no place; nothing to what is none.
fn turned_away(query: &[u8], rcode: Rcode) -> Option<Vec<u8>> {
    Header::parse(query).ok().filter(|header| !header.is_response())?;
    short(&Query::parse(query).ok()?, rcode, false)
}

impl<R: Resolve> Service<R> {
    fn stats(&self) -> &Stats {
        &self.places.stats
    }

    /// The answer to `query`, unless silence is due.
    async fn answer(&self, client: SocketAddr, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let resolved = self.resolver.resolve(client, query, transport, &mut out).await;
        self.complete(resolved, query, transport, out).await
    }

    /// The answer to `query` of which the engine knew so much.
    async fn complete(
        &self,
        resolved: Resolved,
        query: &[u8],
        transport: Transport,
        out: Vec<u8>,
    ) -> Option<Vec<u8>> {
        match resolved {
            Resolved::Answer => Some(out),
            Resolved::Chase => self.chase(query, transport, &out).await,
            Resolved::Forward => self.forwarder.forward(query, transport).await,
            Resolved::Unknown => turned_away(query, Rcode::SERVFAIL),
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
        let reply = self.forwarder.forward(question.get(..len)?, Transport::Tcp).await?;
        let mut out = vec![0; usize::from(u16::MAX)];
        let len = chase::complete(query, transport, answer, &reply, &mut out).ok()?;
        out.truncate(len);
        Some(out)
    }
}
