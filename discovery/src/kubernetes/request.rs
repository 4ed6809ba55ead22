//! Requests to the API server: lists, watches, single objects and questions; and what their failures mean.

use crate::object::Kind;
use bytes::Bytes;
use http_body_util::BodyExt;
use kube::client::Body;
use std::fmt;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// Bytes of a single object that are read.
const OBJECT_MAX: usize = 4 << 20;
/// Bytes of an error's body that are read.
const ERROR_MAX: usize = 4_096;
/// Longest time that a server's `Retry-After` is obeyed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// Why a request came to nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// 410: the resource version or continue token is forgotten.
    Expired,
    /// 504 with "Too large resource version": a server that is behind what we have seen (row L2).
    TooLarge,
    /// 401
    Unauthorized,
    /// 403
    Forbidden(String),
    /// 404 on a collection: no such kind.
    Absent,
    /// 429, or 503 with `Retry-After`.
    Throttled(Option<Duration>),
    /// Another status.
    Status(u16, String),
    /// No connection, or it broke.
    Network(String),
    /// The connection is there but says nothing.
    Silent,
    /// It says something, which is no list and no event.
    Malformed(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired => f.write_str("the server has forgotten this resource version (410)"),
            Self::TooLarge => f.write_str("the server is behind the resource version that was seen (504)"),
            Self::Unauthorized => f.write_str("the server does not accept the token (401)"),
            Self::Forbidden(text) => write!(f, "not allowed (403): {text}"),
            Self::Absent => f.write_str("the server has no such kind (404)"),
            Self::Throttled(_) => f.write_str("the server asks for patience (429)"),
            Self::Status(code, text) => write!(f, "the server answers {code}: {text}"),
            Self::Network(text) => write!(f, "no connection: {text}"),
            Self::Silent => f.write_str("the connection is silent"),
            Self::Malformed(text) => write!(f, "not an answer of a Kubernetes API: {text}"),
        }
    }
}

/// Group and plural name, as in a path.
pub(super) const fn path(kind: Kind) -> &'static str {
    match kind {
        Kind::Service => "/api/v1/services",
        Kind::EndpointSlice => "/apis/discovery.k8s.io/v1/endpointslices",
        Kind::Endpoints => "/api/v1/endpoints",
        Kind::Namespace => "/api/v1/namespaces",
        Kind::Node => "/api/v1/nodes",
        Kind::Pod => "/api/v1/pods",
        Kind::ServiceCidr => "/apis/networking.k8s.io/v1/servicecidrs",
    }
}

/// A parameter's value: tokens and versions are opaque, so everything unusual is escaped.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The body of an answer with status 200 or 201, piece by piece.
pub(super) struct Pieces {
    body: Body,
}

impl Pieces {
    /// The next piece; `None` at the end. Nothing until `deadline` is [`Failure::Silent`].
    pub(super) async fn next(&mut self, deadline: Instant) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = timeout_at(deadline, self.body.frame()).await.map_err(|_| Failure::Silent)?;
            match frame {
                None => return Ok(None),
                Some(Err(e)) => return Err(Failure::Network(causes(&e))),
                // Trailers are of no interest.
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

/// Asks; the head must come within `patience`.
pub(super) async fn get(client: &kube::Client, path: &str, patience: Duration) -> Result<Pieces, Failure> {
    ask(client, http::Request::get(path), Body::empty(), patience).await
}

/// One JSON object for another, within `patience`.
pub(super) async fn post(
    client: &kube::Client,
    path: &str,
    body: Vec<u8>,
    patience: Duration,
) -> Result<serde_json::Value, Failure> {
    let request = http::Request::post(path).header(http::header::CONTENT_TYPE, "application/json");
    whole(ask(client, request, Body::from(body), patience).await?, patience).await
}

/// One JSON object, within `patience`.
pub(super) async fn get_object(
    client: &kube::Client,
    path: &str,
    patience: Duration,
) -> Result<serde_json::Value, Failure> {
    whole(get(client, path, patience).await?, patience).await
}

async fn whole(mut pieces: Pieces, patience: Duration) -> Result<serde_json::Value, Failure> {
    let deadline = Instant::now() + patience;
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.next(deadline).await? {
        if bytes.len() + piece.len() > OBJECT_MAX {
            return Err(Failure::Malformed(format!("an object of more than {OBJECT_MAX} bytes")));
        }
        bytes.extend_from_slice(&piece);
    }
    serde_json::from_slice(&bytes).map_err(|e| Failure::Malformed(e.to_string()))
}

async fn ask(
    client: &kube::Client,
    request: http::request::Builder,
    body: Body,
    patience: Duration,
) -> Result<Pieces, Failure> {
    let request = request
        .header(http::header::ACCEPT, "application/json")
        .header(http::header::USER_AGENT, concat!("edgemesh/", env!("CARGO_PKG_VERSION")))
        .body(body)
        .map_err(|e| Failure::Malformed(e.to_string()))?;
    let answer = timeout(patience, client.send(request)).await.map_err(|_| Failure::Silent)?;
    let answer = answer.map_err(|e| Failure::Network(causes(&e)))?;
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let mut pieces = Pieces { body: answer.into_body() };
    if matches!(status, 200 | 201) {
        return Ok(pieces);
    }
    let after = headers.get(http::header::RETRY_AFTER).and_then(|v| v.to_str().ok());
    let after = after.and_then(|v| v.parse().ok()).map(|s| Duration::from_secs(s).min(RETRY_AFTER_MAX));
    let text = error_text(&mut pieces, Instant::now() + patience).await;
    Err(match status {
        401 => Failure::Unauthorized,
        403 => Failure::Forbidden(text),
        404 => Failure::Absent,
        410 => Failure::Expired,
        429 => Failure::Throttled(after),
        503 if after.is_some() => Failure::Throttled(after),
        504 if text.contains("Too large resource version") => Failure::TooLarge,
        _ => Failure::Status(status, text),
    })
}

/// What a `Status` object says, or the beginning of whatever came instead.
async fn error_text(pieces: &mut Pieces, deadline: Instant) -> String {
    let mut bytes = Vec::new();
    while let Ok(Some(piece)) = pieces.next(deadline).await {
        bytes.extend(piece.iter().take(ERROR_MAX - bytes.len()));
        if bytes.len() == ERROR_MAX {
            break;
        }
    }
    let value: Option<serde_json::Value> = serde_json::from_slice(&bytes).ok();
    match value.as_ref().and_then(|v| v.get("message")).and_then(serde_json::Value::as_str) {
        Some(message) => message.chars().take(500).collect(),
        None => String::from_utf8_lossy(&bytes).trim().chars().take(100).collect(),
    }
}

/// An error with its causes: the outermost one alone says little ("client error (Connect)").
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
