//! Connections: which answer a request gets, and the faults that were planned for it.

use crate::answer::{self, Answer, ListOf, Reply, failure, response};
use crate::fault::{Fault, Verb};
use crate::requests::{Request, parameters};
use crate::resource::{Resource, Target};
use crate::server::{State, lock, other};
use crate::watch::Watch;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// Takes connections, each of which ends with the life that it began in.
pub(crate) async fn accept(state: Arc<State>, listener: TcpListener) {
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
