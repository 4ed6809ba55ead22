//! Names that are not ours: asked of the node's upstreams, one after the other (row U7), and kept for a little while.
//!
//! At most [`MAX_FORWARDED`] questions are under way; one more is SERVFAIL at once. A question takes
//! [`Settings::timeout`] at each server and [`Settings::patience`] in all. The asker's query goes out as it came, but
//! for its id. It validates nothing and never asks over TCP first, which many edge resolvers do not speak (U10).

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use edgemesh_core::dns::limit;
use edgemesh_core::rng::Rng;
use edgemesh_core::wire::dns::{Header, Query, Rcode, Response};
use tokio::sync::Semaphore;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};

use super::cache::{Cache, Key};
use super::exchange::exchange;
use super::servers::{Servers, Source};
use super::{Stats, Transport};

/// Questions under way (CoreDNS `max_concurrent` of kubeadm).
pub const MAX_FORWARDED: usize = 1000;

/// How to forward.
pub struct Settings {
    /// Where upstreams come from.
    pub source: Source,
    /// Addresses that are ours: an upstream with one of them would be a loop.
    pub own: Vec<IpAddr>,
    /// How long one server may take.
    pub timeout: Duration,
    /// How long all servers together may take: less than the 5 s after which resolvers ask again.
    pub patience: Duration,
}

impl Settings {
    /// With the times of CoreDNS and glibc.
    pub fn new(source: Source, own: Vec<IpAddr>) -> Self {
        Self { source, own, timeout: Duration::from_secs(2), patience: Duration::from_millis(4500) }
    }
}

/// The upstreams and what they said.
pub struct Forwarder {
    servers: RefCell<Servers>,
    cache: RefCell<Cache>,
    rng: RefCell<Rng>,
    places: Semaphore,
    timeout: Duration,
    patience: Duration,
    stats: Arc<Stats>,
}

impl Forwarder {
    /// Reads nothing yet. `rng` chooses message ids.
    pub fn new(settings: Settings, rng: Rng, stats: Arc<Stats>) -> Rc<Self> {
        Rc::new(Self {
            servers: RefCell::new(Servers::new(settings.source, settings.own)),
            cache: RefCell::default(),
            rng: RefCell::new(rng),
            places: Semaphore::new(MAX_FORWARDED),
            timeout: settings.timeout,
            patience: settings.patience,
            stats,
        })
    }

    /// The counters.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Reads the list of upstreams if it is due, and probes each once when it changed.
    pub(super) fn refresh(self: &Rc<Self>) {
        let probes = self.servers.borrow_mut().refresh(Instant::now(), &mut self.rng.borrow_mut());
        for (server, query) in probes {
            let this = self.clone();
            spawn_local(async move {
                // The probe matters only if it comes back to us as a question, see `Servers::is_probe`.
                let id = this.id();
                let _ = timeout(this.timeout, exchange(server, &query, id)).await;
            });
        }
    }

    /// The reply to `query`, within the asker's limit; `None` for a probe of our own that came back.
    pub(super) async fn forward(self: &Rc<Self>, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let parsed = Query::parse(query).ok()?;
        if self.servers.borrow_mut().is_probe(parsed.name) {
            Stats::add(&self.stats.upstream_loops);
            return None;
        }
        let key = Key::of(&parsed);
        let kept = self.cache.borrow_mut().get(&key, query, Instant::now());
        let reply = match kept {
            Some(reply) => {
                Stats::add(&self.stats.cache_hits);
                reply
            }
            None => self.ask(query, key).await.or_else(|| short(&parsed, Rcode::SERVFAIL, false))?,
        };
        if reply.len() <= limit(&parsed, transport) {
            Some(reply)
        } else {
            short(&parsed, Rcode::NOERROR, true)
        }
    }

    /// Asks the upstreams and keeps what they say.
    async fn ask(self: &Rc<Self>, query: &[u8], key: Key) -> Option<Vec<u8>> {
        let Ok(_place) = self.places.try_acquire() else {
            Stats::add(&self.stats.forward_overload);
            return None;
        };
        Stats::add(&self.stats.forwarded);
        self.refresh();
        let mut reply = timeout(self.patience, self.ask_each(query)).await.ok().flatten();
        match &mut reply {
            Some(reply) => {
                self.cache.borrow_mut().put(key, reply, Instant::now());
                if let (Some(to), Some(id)) = (reply.get_mut(..2), query.get(..2)) {
                    to.copy_from_slice(id);
                }
            }
            None => Stats::add(&self.stats.forward_failed),
        }
        reply
    }

    /// The first reply that settles the question, else the last one that does not.
    async fn ask_each(&self, query: &[u8]) -> Option<Vec<u8>> {
        let order = self.servers.borrow().in_order(Instant::now());
        let mut unsettled = None;
        for server in order {
            let asked = timeout(self.timeout, exchange(server, query, self.id())).await;
            let reply = asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            self.report(server, reply.as_ref().err());
            match reply {
                Ok(reply) if settles(&reply) => return Some(reply),
                Ok(reply) => unsettled = Some(reply),
                Err(_) => {}
            }
        }
        unsettled
    }

    fn report(&self, server: SocketAddr, error: Option<&io::Error>) {
        self.servers.borrow_mut().report(server, Instant::now(), error.is_none());
        if let Some(error) = error {
            Stats::add(&self.stats.upstream_errors);
            tracing::debug!(%server, %error, "upstream DNS server");
        }
    }

    fn id(&self) -> u16 {
        self.rng.borrow_mut().u32() as u16
    }
}

/// Whether another server could not know better.
fn settles(reply: &[u8]) -> bool {
    let other_may_know = [Rcode::SERVFAIL, Rcode::NOTIMP, Rcode::REFUSED];
    Header::parse(reply).is_ok_and(|header| !other_may_know.contains(&Rcode(header.rcode())))
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
