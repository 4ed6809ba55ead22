//! The handle of a running server, and what its connections share.

use crate::answer;
use crate::connection::accept;
use crate::fault::{Fault, Plan, Planned, Verb};
use crate::requests::{Request, Requests};
use crate::resource::Resource;
use crate::storage::{Key, Storage};
use crate::tls;
use crate::watch::Order;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;

/// How a server is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens; port 0 for any.
    pub listen: SocketAddr,
    /// HTTPS instead of HTTP.
    pub tls: bool,
    /// Further names and addresses in the certificate.
    pub names: Vec<String>,
    /// The bearer token that is asked for.
    pub token: Option<String>,
    /// KubeEdge's metaServer and its defects.
    pub meta_server: bool,
    /// Resources that are not served.
    pub absent: Vec<Resource>,
    /// Pause between bookmarks, for clients that allow them.
    pub bookmarks: Option<Duration>,
    /// A forgotten resource version is told by HTTP status 410 at the start of a watch instead of by an event.
    pub gone_by_status: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 0).into(),
            tls: false,
            names: Vec::new(),
            token: None,
            meta_server: false,
            absent: Vec::new(),
            bookmarks: None,
            gone_by_status: false,
        }
    }
}

/// What connections share.
pub(crate) struct State {
    pub(crate) options: Options,
    storage: Mutex<Storage>,
    pub(crate) version: watch::Sender<u64>,
    pub(crate) orders: broadcast::Sender<(Option<Resource>, Order)>,
    pub(crate) plan: Mutex<Plan>,
    pub(crate) requests: Requests,
    pub(crate) token: Mutex<Option<String>>,
    pub(crate) reviews: Mutex<HashMap<String, answer::Known>>,
    pub(crate) may_review: AtomicBool,
    pub(crate) absent: Mutex<BTreeSet<Resource>>,
    pub(crate) frozen: watch::Sender<bool>,
    pub(crate) watching: watch::Sender<BTreeMap<Resource, usize>>,
    pub(crate) identity: Mutex<Option<tls::Identity>>,
    /// Connections of an earlier life close.
    pub(crate) life: watch::Sender<u64>,
    pub(crate) connections: AtomicU64,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    pub(crate) fn storage(&self) -> MutexGuard<'_, Storage> {
        lock(&self.storage)
    }

    /// Tells watches of what was written.
    pub(crate) fn changed(&self) {
        let version = self.storage().version;
        self.version.send_replace(version);
    }
}

/// A running server. Dropping it ends it.
pub struct ApiServer {
    state: Arc<State>,
    address: SocketAddr,
    task: Option<JoinHandle<()>>,
}

pub(crate) fn other(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

impl ApiServer {
    /// Binds and serves.
    ///
    /// # Errors
    /// When it cannot listen, or a certificate cannot be made.
    pub async fn start(options: Options) -> io::Result<Self> {
        let identity = if options.tls { Some(tls::identity(&options.names).map_err(other)?) } else { None };
        let state = Arc::new(State {
            token: Mutex::new(options.token.clone()),
            absent: Mutex::new(options.absent.iter().copied().collect()),
            options,
            storage: Mutex::new(Storage::new()),
            version: watch::Sender::new(0),
            orders: broadcast::Sender::new(64),
            plan: Mutex::default(),
            requests: Requests::new(),
            reviews: Mutex::default(),
            may_review: AtomicBool::new(true),
            frozen: watch::Sender::new(false),
            watching: watch::Sender::default(),
            identity: Mutex::new(identity),
            life: watch::Sender::new(0),
            connections: AtomicU64::new(0),
        });
        let listener = TcpListener::bind(state.options.listen).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(accept(state.clone(), listener));
        Ok(Self { state, address, task: Some(task) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.state.options.tls { "https" } else { "http" }, self.address)
    }

    /// The certificate authority in PEM, with TLS.
    pub fn ca_pem(&self) -> Option<String> {
        lock(&self.state.identity).as_ref().map(|i| i.ca_pem.clone())
    }

    /// Makes a new authority and certificate for connections from here on.
    ///
    /// # Errors
    /// When that fails.
    pub fn rotate_ca(&self) -> io::Result<()> {
        *lock(&self.state.identity) = Some(tls::identity(&self.state.options.names).map_err(other)?);
        Ok(())
    }

    /// The token that is asked for from here on; `None` for nobody's.
    pub fn set_token(&self, token: Option<&str>) {
        *lock(&self.state.token) = token.map(str::to_owned);
    }

    /// Makes `TokenReview` know a token for this server; `user` is `status.user`.
    pub fn know_token(&self, token: &str, user: Value) {
        self.know_token_for(answer::API_AUDIENCE, token, user);
    }

    /// The same for a token that was made for another audience.
    pub fn know_token_for(&self, audience: &str, token: &str, user: Value) {
        let known = answer::Known { user, audiences: vec![audience.to_owned()] };
        lock(&self.state.reviews).insert(token.to_owned(), known);
    }

    /// Whether clients have the right to review tokens from here on.
    pub fn let_review(&self, may: bool) {
        self.state.may_review.store(may, Ordering::Relaxed);
    }

    /// Creates or replaces an object by its kind, namespace (`default` without one) and name.
    /// Its resource version; 0 when it has no kind that is served or no name.
    pub fn put(&self, object: Value) -> u64 {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let resource = text("/kind").as_deref().and_then(Resource::of_kind);
        let (Some(resource), Some(name)) = (resource, text("/metadata/name")) else { return 0 };
        let namespace = text("/metadata/namespace").unwrap_or_else(|| "default".to_owned());
        self.put_as(key(resource, &namespace, &name), object)
    }

    fn put_as(&self, key: Key, object: Value) -> u64 {
        let written = self.state.storage().put(key, object).is_ok();
        self.state.changed();
        if written { self.state.storage().version } else { 0 }
    }

    /// Deletes an object and tells watches; whether there was one.
    pub fn delete(&self, resource: Resource, namespace: &str, name: &str) -> bool {
        let gone = self.state.storage().delete(&key(resource, namespace, name)).is_some();
        self.state.changed();
        gone
    }

    /// Takes an object away without an event, as a server that is out of step does (rows K1, K5).
    pub fn forget(&self, resource: Resource, namespace: &str, name: &str) -> bool {
        self.state.storage().forget(&key(resource, namespace, name))
    }

    /// Whether a resource is served from here on.
    pub fn set_absent(&self, resource: Resource, absent: bool) {
        let mut all = lock(&self.state.absent);
        if absent {
            all.insert(resource)
        } else {
            all.remove(&resource)
        };
    }

    /// Plans a fault for the next `times` requests of a resource (of any one without).
    pub fn plan(&self, resource: impl Into<Option<Resource>>, verb: Verb, times: usize, fault: Fault) {
        let planned = Planned { resource: resource.into(), verb, times: times.max(1), fault };
        lock(&self.state.plan).add(planned);
    }

    /// Nothing planned happens any more.
    pub fn heal(&self) {
        lock(&self.state.plan).clear();
    }

    /// Has open watches of a resource (all of them without) do something.
    pub fn order(&self, resource: impl Into<Option<Resource>>, order: Order) {
        let _ = self.state.orders.send((resource.into(), order));
    }

    /// Forgets history: resource versions and continue tokens from before are gone.
    pub fn compact(&self) {
        self.state.storage().compact();
    }

    /// Forgets continue tokens only.
    pub fn expire_pages(&self) {
        self.state.storage().forget_pages();
    }

    /// Watches stay open but say nothing, until told otherwise.
    pub fn freeze(&self, frozen: bool) {
        self.state.frozen.send_replace(frozen);
    }

    /// Closes every connection at once.
    pub fn cut(&self) {
        self.state.life.send_modify(|life| *life += 1);
    }

    /// Stops listening and closes every connection.
    pub async fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
        self.cut();
    }

    /// Serves again, on the same port, what it served before.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn resume(&mut self) -> io::Result<()> {
        self.stop().await;
        let listener = TcpListener::bind(self.address).await?;
        self.task = Some(tokio::spawn(accept(self.state.clone(), listener)));
        Ok(())
    }

    /// Lists and watches asked for so far.
    pub fn requests(&self) -> Vec<Request> {
        self.state.requests.all()
    }

    /// Waits until the requests so far satisfy `enough`.
    pub async fn requested(&self, enough: impl FnMut(&[Request]) -> bool) {
        self.state.requests.wait(enough).await;
    }

    /// Waits until a resource has exactly `count` open watches.
    pub async fn watched(&self, resource: Resource, count: usize) {
        let mut watching = self.state.watching.subscribe();
        let _ = watching.wait_for(|open| open.get(&resource).copied().unwrap_or(0) == count).await;
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::Relaxed)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        self.cut();
    }
}

fn key(resource: Resource, namespace: &str, name: &str) -> Key {
    let namespace = if resource.namespaced() { namespace } else { "" };
    (resource, namespace.to_owned(), name.to_owned())
}
