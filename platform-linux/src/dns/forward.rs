//! Names that are not ours: asked of their servers, one after the other (row U7), and kept for a little while.
//!
//! At most [`MAX_FORWARDED`] questions are under way; one more is SERVFAIL at once. A question takes
//! [`Settings::timeout`] at each server and [`Settings::patience`] in all. The asker's query goes out as it came, but
//! for its id. It validates nothing and never asks over TCP first, which many edge resolvers do not speak (U10).
//!
//! A kept reply is renewed beside the query that found it, by one question at a time: before it is too old when
//! many ask for it (U13), or when it is too old and may still be given while no server answers (U12).

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use edgemesh_core::dns::limit;
use edgemesh_core::rng::Rng;
use edgemesh_core::wire::dns::{Header, Query, Rcode};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, timeout};

use super::cache::{Cache, Keeping, Kept, Key};
use super::exchange::exchange;
use super::upstreams::{Routes, Upstreams};
use super::{Stats, Transport, short};

/// Questions under way (CoreDNS `max_concurrent` of kubeadm).
pub const MAX_FORWARDED: usize = 1000;

/// How long a server may take before a reply that is too old is given instead (RFC 8767 section 5).
const STALE_AFTER: Duration = Duration::from_millis(1800);

/// How to forward.
pub struct Settings {
    /// Where to.
    pub routes: Routes,
    /// What is done with replies beyond keeping them.
    pub keeping: Keeping,
    /// How long one server may take.
    pub timeout: Duration,
    /// How long all servers together may take: less than the 5 s after which resolvers ask again.
    pub patience: Duration,
}

impl Settings {
    /// With the times of CoreDNS and glibc.
    pub fn new(routes: Routes) -> Self {
        Self {
            routes,
            keeping: Keeping::default(),
            timeout: Duration::from_secs(2),
            patience: Duration::from_millis(4500),
        }
    }
}

/// The upstreams and what they said.
pub struct Forwarder {
    routes: RefCell<Routes>,
    upstreams: RefCell<Upstreams>,
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
            upstreams: RefCell::new(Upstreams::new(&settings.routes)),
            routes: RefCell::new(settings.routes),
            cache: RefCell::new(Cache::new(settings.keeping)),
            rng: RefCell::new(rng),
            places: Semaphore::new(MAX_FORWARDED),
            timeout: settings.timeout,
            patience: settings.patience,
            stats,
        })
    }

    /// The counters.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Changes where names are asked (row U8). Replies of the servers before are forgotten, but for those that
    /// still come in.
    pub fn reroute(&self, change: impl FnOnce(&mut Routes)) {
        let mut routes = self.routes.borrow_mut();
        let before = routes.clone();
        change(&mut routes);
        if *routes != before {
            *self.upstreams.borrow_mut() = Upstreams::new(&routes);
            self.cache.borrow_mut().clear();
        }
    }

    /// Reads the list of upstreams if it is due, and probes each once when it changed.
    pub(super) fn refresh(self: &Rc<Self>) {
        let probes = self.upstreams.borrow_mut().refresh(Instant::now(), &mut self.rng.borrow_mut());
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
        if self.upstreams.borrow_mut().is_probe(parsed.name) {
            Stats::add(&self.stats.upstream_loops);
            return None;
        }
        let key = Key::of(&parsed);
        let kept = self.cache.borrow_mut().get(&key, query, Instant::now());
        let reply = match kept {
            Kept::Fresh { reply, renew } => {
                Stats::add(&self.stats.cache_hits);
                if renew && self.renew(query, &key).is_some() {
                    Stats::add(&self.stats.prefetched);
                }
                Some(reply)
            }
            Kept::Stale { reply, renew } => Some(self.renewed_or(reply, renew, query, &key).await),
            Kept::Nothing => self.ask(query, key).await,
        };
        let reply = reply.or_else(|| short(&parsed, Rcode::SERVFAIL, false))?;
        if reply.len() <= limit(&parsed, transport) {
            Some(reply)
        } else {
            short(&parsed, Rcode::NOERROR, true)
        }
    }

    /// What a server says now, if one does soon, else `stale`.
    async fn renewed_or(self: &Rc<Self>, stale: Vec<u8>, renew: bool, query: &[u8], key: &Key) -> Vec<u8> {
        if renew
            && let Some(renewal) = self.renew(query, key)
            && let Ok(Ok(Some(reply))) = timeout(STALE_AFTER, renewal).await
        {
            return reply;
        }
        Stats::add(&self.stats.served_stale);
        stale
    }

    /// Asks beside the query, unless somebody does already. It goes on when nobody waits for it.
    fn renew(self: &Rc<Self>, query: &[u8], key: &Key) -> Option<JoinHandle<Option<Vec<u8>>>> {
        if !self.cache.borrow_mut().start_renewal(key) {
            return None;
        }
        let (this, query, key) = (self.clone(), query.to_vec(), key.clone());
        Some(spawn_local(async move {
            let reply = this.ask(&query, key.clone()).await.filter(|reply| settles(reply));
            this.cache.borrow_mut().end_renewal(&key, reply.is_some(), Instant::now());
            reply
        }))
    }

    /// Asks the servers of the name and keeps what they say.
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
        let name = Query::parse_question(query).ok()?.name;
        let order = self.upstreams.borrow().in_order(name, Instant::now());
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
        self.upstreams.borrow_mut().report(server, Instant::now(), error.is_none());
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
