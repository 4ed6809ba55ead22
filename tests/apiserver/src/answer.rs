//! Answers to everything but watches.

use crate::resource::{Resource, Target};
use crate::storage::{Key, Storage, WriteError};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use hyper::body::{Body, Frame};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// A body: whole, or as it comes.
pub(crate) enum Answer {
    Whole(Option<Bytes>),
    Stream(mpsc::Receiver<io::Result<Bytes>>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Stream(pieces) => pieces.poll_recv(context).map(|p| p.map(|p| p.map(Frame::data))),
        }
    }
}

/// Status and JSON body.
pub(crate) type Reply = (u16, Option<u32>, Value);

/// A `Status` object.
pub(crate) fn status(code: u16, reason: &str, message: &str) -> Value {
    let kind = if code < 400 { "Success" } else { "Failure" };
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": kind, "message": message,
           "reason": reason, "code": code})
}

pub(crate) fn failure(code: u16, reason: &str, message: &str) -> Reply {
    (code, None, status(code, reason, message))
}

/// The HTTP response of a reply.
pub(crate) fn response((code, retry_after, body): Reply) -> Response<Answer> {
    let mut bytes = body.to_string().into_bytes();
    bytes.push(b'\n');
    let mut response = Response::new(Answer::Whole(Some(bytes.into())));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    if let Some(seconds) = retry_after {
        headers.insert("retry-after", seconds.into());
    }
    response
}

/// A list request.
pub(crate) struct ListOf<'a> {
    pub(crate) resource: Resource,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) query: &'a HashMap<String, String>,
    pub(crate) meta_server: bool,
}

/// Answers a list.
pub(crate) fn list(storage: &mut Storage, of: &ListOf<'_>) -> Reply {
    let parameter = |name: &str| of.query.get(name).map(String::as_str).unwrap_or_default();
    let objects = storage.list(of.resource, of.namespace);
    let objects = match parameter("fieldSelector").strip_prefix("metadata.name=") {
        Some(name) => objects
            .into_iter()
            .filter(|o| o.pointer("/metadata/name").and_then(Value::as_str) == Some(name))
            .collect(),
        None => objects,
    };
    if of.meta_server {
        // Rows K4 and K6: an empty list without a version, no pages.
        let meta = if objects.is_empty() {
            json!({})
        } else {
            json!({"resourceVersion": storage.version.to_string()})
        };
        return (200, None, envelope(of.resource, meta, &objects));
    }
    if parameter("resourceVersion").parse::<u64>().is_ok_and(|v| v > storage.version) {
        let body = status(504, "Timeout", "Too large resource version");
        return (504, Some(1), body);
    }
    let limit: usize = parameter("limit").parse().unwrap_or(0);
    let (version, objects, offset, id) = match parameter("continue") {
        "" => (storage.version, objects, 0, None),
        token => {
            let Some((id, offset)) = read_token(token) else {
                return failure(400, "BadRequest", "continue key is not valid");
            };
            let Some(pages) = storage.pages(id) else {
                return failure(
                    410,
                    "Expired",
                    "The provided continue parameter is too old to display a consistent list result",
                );
            };
            (pages.version, pages.objects.clone(), offset, Some(id))
        }
    };
    let rest = objects.get(offset..).unwrap_or_default();
    let page = rest.get(..limit).filter(|_| limit > 0).unwrap_or(rest);
    let left = rest.len() - page.len();
    let mut meta = json!({"resourceVersion": version.to_string()});
    if left > 0 {
        let id = id.unwrap_or_else(|| storage.keep_pages(objects.clone()));
        meta = json!({"resourceVersion": version.to_string(), "remainingItemCount": left,
                      "continue": token(id, offset + page.len())});
    }
    (200, None, envelope(of.resource, meta, page))
}

/// The members come in the order that an API server gives them.
fn envelope(resource: Resource, meta: Value, objects: &[Arc<Value>]) -> Value {
    let items: Vec<Value> = objects.iter().map(|o| bare(o)).collect();
    json!({"kind": format!("{}List", resource.kind()), "apiVersion": resource.api_version(),
           "metadata": meta, "items": items})
}

/// Items of a list have neither kind nor version.
fn bare(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    object
}

fn token(id: u64, offset: usize) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("{id}/{offset}"))
}

fn read_token(token: &str) -> Option<(u64, usize)> {
    let text = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let (id, offset) = text.split_once('/')?;
    Some((id.parse().ok()?, offset.parse().ok()?))
}

/// Reads, writes or deletes one object. The second value says whether watches have something to hear.
pub(crate) fn object(storage: &mut Storage, method: &str, key: Key, body: &[u8]) -> (Reply, bool) {
    let name = &key.2;
    match method {
        "GET" => (found(storage.get(&key), name), false),
        "DELETE" => {
            let gone = storage.delete(&key);
            let changed = gone.is_some();
            let reply = match gone {
                Some(_) => (200, None, status(200, "", "")),
                None => found(None, name),
            };
            (reply, changed)
        }
        "PUT" => write(storage, key, body, 200),
        _ => (failure(405, "MethodNotAllowed", "not supported on an object"), false),
    }
}

/// Creates an object by `POST` on its collection.
pub(crate) fn create(
    storage: &mut Storage,
    resource: Resource,
    namespace: Option<&str>,
    body: &[u8],
) -> (Reply, bool) {
    let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let Some(name) = value.pointer("/metadata/name").and_then(Value::as_str) else {
        return (failure(422, "Invalid", "metadata.name: Required value"), false);
    };
    let given = value.pointer("/metadata/namespace").and_then(Value::as_str);
    let namespace = if resource.namespaced() { namespace.or(given).unwrap_or("default") } else { "" };
    let key = (resource, namespace.to_owned(), name.to_owned());
    if storage.get(&key).is_some() {
        return (failure(409, "AlreadyExists", &format!("{name:?} already exists")), false);
    }
    write(storage, key, body, 201)
}

fn write(storage: &mut Storage, key: Key, body: &[u8], code: u16) -> (Reply, bool) {
    let Ok(value) = serde_json::from_slice(body) else {
        return (failure(400, "BadRequest", "the body is no JSON"), false);
    };
    let name = key.2.clone();
    match storage.put(key, value) {
        Ok(object) => ((code, None, (*object).clone()), true),
        Err(WriteError::Name) => (failure(422, "Invalid", "metadata: Invalid value"), false),
        Err(WriteError::Conflict) => {
            (failure(409, "Conflict", &format!("{name:?} has been modified")), false)
        }
    }
}

fn found(object: Option<Arc<Value>>, name: &str) -> Reply {
    match object {
        Some(object) => (200, None, (*object).clone()),
        None => failure(404, "NotFound", &format!("{name:?} not found")),
    }
}

/// The audience of tokens that are for the API server.
pub(crate) const API_AUDIENCE: &str = "https://kubernetes.default.svc";

/// A token that `TokenReview` knows.
pub(crate) struct Known {
    /// `status.user`
    pub(crate) user: Value,
    /// For whom it was made.
    pub(crate) audiences: Vec<String>,
}

/// Judges a token as `TokenReview` asks: for one of the audiences in question, or else for the server itself.
pub(crate) fn review(known: &HashMap<String, Known>, body: &[u8]) -> Reply {
    let mut value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let Some(token) = value.pointer("/spec/token").and_then(Value::as_str) else {
        return failure(422, "Invalid", "spec.token: Required value");
    };
    let asked: Vec<&str> = match value.pointer("/spec/audiences").and_then(Value::as_array) {
        Some(audiences) => audiences.iter().filter_map(Value::as_str).collect(),
        None => vec![API_AUDIENCE],
    };
    let verdict = match known.get(token) {
        Some(Known { user, audiences }) => {
            let common: Vec<&String> = audiences.iter().filter(|a| asked.contains(&a.as_str())).collect();
            if common.is_empty() {
                let error =
                    format!("token audiences {audiences:?} is invalid for the target audiences {asked:?}");
                json!({"authenticated": false, "error": error})
            } else {
                json!({"authenticated": true, "user": user, "audiences": common})
            }
        }
        None => json!({"authenticated": false, "error": "invalid bearer token"}),
    };
    if let Some(fields) = value.as_object_mut() {
        fields.insert("status".to_owned(), verdict);
    }
    (201, None, value)
}

/// What clients such as kubectl ask before anything else.
pub(crate) fn discovery(target: &Target, absent: &BTreeSet<Resource>) -> Reply {
    let groups = ["discovery.k8s.io", "networking.k8s.io", "authentication.k8s.io"];
    let version = |g: &str| json!({"groupVersion": format!("{g}/v1"), "version": "v1"});
    let value = match target {
        Target::CoreVersions => json!({"kind": "APIVersions", "versions": ["v1"]}),
        Target::Groups => {
            let groups: Vec<Value> = groups
                .iter()
                .map(|g| json!({"name": g, "versions": [version(g)], "preferredVersion": version(g)}))
                .collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        Target::Resources(group) => {
            let served = Resource::ALL.iter().filter(|r| r.group() == group && !absent.contains(r));
            let resources: Vec<Value> = served.map(|r| described(*r)).collect();
            let name = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": resources})
        }
        _ => json!({"major": "1", "minor": "33", "gitVersion": "v1.33.0"}),
    };
    (200, None, value)
}

fn described(resource: Resource) -> Value {
    let short = match resource {
        Resource::Services => json!(["svc"]),
        Resource::Endpoints => json!(["ep"]),
        Resource::Namespaces => json!(["ns"]),
        Resource::Nodes => json!(["no"]),
        Resource::Pods => json!(["po"]),
        Resource::EndpointSlices | Resource::ServiceCidrs => json!([]),
    };
    json!({"name": resource.plural(), "shortNames": short, "singularName": resource.kind().to_lowercase(),
           "namespaced": resource.namespaced(), "kind": resource.kind(),
           "verbs": ["create", "delete", "get", "list", "update", "watch"]})
}
