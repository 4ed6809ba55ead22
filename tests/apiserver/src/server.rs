//! Listening, connections, and the handle.

use crate::answer::{self, Answer, ListOf, Reply, failure, response};
use crate::fault::{Fault, Plan, Planned, Verb};
use crate::requests::{Request, Requests, parameters};
use crate::resource::{Resource, Target};
use crate::storage::{Key, Storage};
use crate::tls;
use crate::watch::{Order, Watch};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, watch};
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
    orders: broadcast::Sender<(Option<Resource>, Order)>,
    plan: Mutex<Plan>,
    requests: Requests,
    token: Mutex<Option<String>>,
    reviews: Mutex<HashMap<String, answer::Known>>,
    may_review: AtomicBool,
    absent: Mutex<BTreeSet<Resource>>,
    pub(crate) frozen: watch::Sender<bool>,
    pub(crate) watching: watch::Sender<BTreeMap<Resource, usize>>,
    identity: Mutex<Option<tls::Identity>>,
    /// Connections of an earlier life close.
    life: watch::Sender<u64>,
    connections: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    pub(crate) fn storage(&self) -> MutexGuard<'_, Storage> {
        lock(&self.storage)
    }

    fn changed(&self) {
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

fn other(error: impl std::fmt::Display) -> io::Error {
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

async fn accept(state: Arc<State>, listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let number = state.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let mut life = state.life.subscribe();
        life.mark_unchanged();
        let acceptor = lock(&state.identity).as_ref().map(|i| i.acceptor.clone());
        let state = state.clone();
        tokio::spawn(async move {
            let served = async {
                match acceptor {
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            serve(state, stream, number).await;
                        }
                    }
                    None => serve(state, stream, number).await,
                }
            };
            tokio::select! {
                () = served => {}
                _ = life.changed() => {}
            }
        });
    }
}

async fn serve(state: Arc<State>, stream: impl AsyncRead + AsyncWrite + Unpin, number: u64) {
    let service = service_fn(move |request| handle(state.clone(), number, request));
    // A connection that a fault or a client ends in the middle is no news.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn handle(
    state: Arc<State>,
    connection: u64,
    request: hyper::Request<Incoming>,
) -> io::Result<hyper::Response<Answer>> {
    let target = Target::of(request.uri().path());
    if target == Target::Health {
        return Ok(hyper::Response::new(Answer::Whole(Some(Bytes::from_static(b"ok")))));
    }
    let wanted = lock(&state.token).as_ref().map(|t| format!("Bearer {t}"));
    let given = request.headers().get("authorization").and_then(|v| v.to_str().ok());
    let authorized = wanted.is_none() || wanted.as_deref() == given;
    let query = parameters(request.uri().query().unwrap_or_default());
    let method = request.method().as_str().to_owned();
    if let (Target::Collection(resource, namespace), "GET") = (&target, method.as_str()) {
        let watches = matches!(query.get("watch").map(String::as_str), Some("true" | "1"));
        let verb = if watches { Verb::Watch } else { Verb::List };
        state.requests.push(Request {
            at: Instant::now(),
            resource: *resource,
            verb,
            query: query.clone(),
            connection,
            unauthorized: !authorized,
        });
        if authorized {
            return read(state, *resource, namespace.clone(), verb, query).await;
        }
    }
    if !authorized {
        return Ok(response(failure(401, "Unauthorized", "Unauthorized")));
    }
    let body = request.into_body().collect().await.map_err(other)?.to_bytes();
    Ok(response(write(&state, &method, target, &body)))
}

/// Everything but lists and watches.
fn write(state: &State, method: &str, target: Target, body: &[u8]) -> Reply {
    let absent = lock(&state.absent).clone();
    let (reply, changed) = match (target, method) {
        (Target::Collection(resource, _) | Target::Object(resource, ..), _) if absent.contains(&resource) => {
            (missing(), false)
        }
        (Target::Collection(resource, namespace), "POST") => {
            answer::create(&mut state.storage(), resource, namespace.as_deref(), body)
        }
        (Target::Object(resource, namespace, name), _) => {
            answer::object(&mut state.storage(), method, (resource, namespace, name), body)
        }
        (Target::TokenReviews, "POST") if !state.may_review.load(Ordering::Relaxed) => {
            let why = "tokenreviews.authentication.k8s.io is forbidden: User \"test\" cannot create resource";
            (failure(403, "Forbidden", why), false)
        }
        (Target::TokenReviews, "POST") => (answer::review(&lock(&state.reviews), body), false),
        (Target::Nothing, _) => (missing(), false),
        (target, "GET") => (answer::discovery(&target, &absent), false),
        _ => (failure(405, "MethodNotAllowed", "the server does not allow this method"), false),
    };
    if changed {
        state.changed();
    }
    meta(state, reply)
}

fn missing() -> Reply {
    failure(404, "NotFound", "the server could not find the requested resource")
}

/// Row K3: metaServer's errors are all the same.
fn meta(state: &State, reply: Reply) -> Reply {
    match reply {
        (400.., _, body) if state.options.meta_server => {
            let message = body.get("message").and_then(Value::as_str).unwrap_or_default();
            failure(500, "InternalError", &format!("Internal error occurred: {message}"))
        }
        reply => reply,
    }
}

/// Lists and watches, and the faults planned for them.
async fn read(
    state: Arc<State>,
    resource: Resource,
    namespace: Option<String>,
    verb: Verb,
    query: HashMap<String, String>,
) -> io::Result<hyper::Response<Answer>> {
    let fault = lock(&state.plan).take(resource, verb);
    let mut error = None;
    match fault {
        Some(Fault::Status(code, reason, retry_after)) => {
            return Ok(response((code, retry_after, answer::status(code, reason, reason))));
        }
        Some(Fault::Close) => return Err(io::ErrorKind::ConnectionAborted.into()),
        Some(Fault::Silence) => pending().await,
        Some(Fault::Slow(time)) => tokio::time::sleep(time).await,
        Some(Fault::Empty) => {
            let kind = format!("{}List", resource.kind());
            let body =
                json!({"kind": kind, "apiVersion": resource.api_version(), "metadata": {}, "items": []});
            return Ok(response((200, None, body)));
        }
        Some(Fault::Body(bytes)) => return Ok(hyper::Response::new(Answer::Whole(Some(bytes.into())))),
        Some(Fault::ErrorEvent(code, reason)) => error = Some((code, reason)),
        Some(Fault::Cut(_) | Fault::Trickle(..)) | None => {}
    }
    if lock(&state.absent).contains(&resource) {
        return Ok(response(meta(&state, missing())));
    }
    if verb == Verb::Watch {
        return Ok(watch_of(state, resource, namespace, query, error));
    }
    let of = ListOf {
        resource,
        namespace: namespace.as_deref(),
        query: &query,
        meta_server: state.options.meta_server,
    };
    let reply = meta(&state, answer::list(&mut state.storage(), &of));
    Ok(match fault {
        Some(Fault::Cut(after)) => pieces(reply, after, None),
        Some(Fault::Trickle(size, pause)) => pieces(reply, size, Some(pause)),
        _ => response(reply),
    })
}

fn watch_of(
    state: Arc<State>,
    resource: Resource,
    namespace: Option<String>,
    query: HashMap<String, String>,
    error: Option<(u16, &'static str)>,
) -> hyper::Response<Answer> {
    let given = query.get("resourceVersion").and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
    if given != 0 && !state.options.meta_server {
        let storage = state.storage();
        if given > storage.version {
            let body = answer::status(504, "Timeout", "Too large resource version");
            return response((504, Some(1), body));
        }
        if state.options.gone_by_status && storage.gone(given) {
            return response(failure(410, "Expired", "too old resource version"));
        }
    }
    let (out, events) = mpsc::channel(1);
    let orders = state.orders.subscribe();
    tokio::spawn(Watch { state, resource, namespace, query, out, error }.run(orders));
    let mut response = hyper::Response::new(Answer::Stream(events));
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert("content-type", json);
    response
}

/// A reply in pieces: with a pause before each, or only the first and then the end of the connection.
fn pieces(reply: Reply, size: usize, pause: Option<Duration>) -> hyper::Response<Answer> {
    let mut bytes = Bytes::from(reply.2.to_string());
    let (out, body) = mpsc::channel(1);
    tokio::spawn(async move {
        let Some(pause) = pause else {
            let _ = out.send(Ok(bytes.split_to(size.min(bytes.len())))).await;
            let _ = out.send(Err(io::ErrorKind::ConnectionAborted.into())).await;
            return;
        };
        while !bytes.is_empty() {
            tokio::time::sleep(pause).await;
            if out.send(Ok(bytes.split_to(size.clamp(1, bytes.len())))).await.is_err() {
                return;
            }
        }
    });
    hyper::Response::new(Answer::Stream(body))
}
