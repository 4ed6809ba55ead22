//! The admin endpoint: a small HTTP/1.1 server on a Unix socket or a TCP address, and its blocking client.
//!
//! A program implements [`Handler`]; [`serve`] answers `/livez`, `/readyz` and `/metrics` from it and hands
//! every other path over. One request per connection. Bounds: 32 connections at once (more wait), 8 KiB of
//! head, 64 KiB of body, 10 s per request. No TLS, no keep-alive, no chunked bodies: it is for the machine
//! itself and a scraper beside it. What changes something belongs on a Unix socket, which has file permissions.

mod client;
mod server;

pub use client::{ClientError, get, post};
pub use server::{Handler, Listener, serve};

use std::net::SocketAddr;
use std::path::PathBuf;

/// Largest request head, in bytes.
pub const HEAD_MAX: usize = 8 * 1024;
/// Largest request body, in bytes.
pub const BODY_MAX: usize = 64 * 1024;

/// Where an admin endpoint is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// `unix:/path/to.sock`
    Unix(PathBuf),
    /// `IP:PORT`
    Tcp(SocketAddr),
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => None,
            Some(path) => Some(Self::Unix(path.into())),
            None => text.parse().ok().map(Self::Tcp),
        }
        .ok_or_else(|| "accepted: unix:/PATH or IP:PORT, such as 127.0.0.1:20005".to_owned())
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

/// The methods that are understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// Reads.
    Get,
    /// Changes something, or asks for work to be done.
    Post,
}

/// A request for a path that the server itself does not answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// Its method.
    pub method: Method,
    /// Path without query, percent-decoded.
    pub path: String,
    /// Query parameters in order, percent-decoded.
    pub query: Vec<(String, String)>,
    /// Body of a POST.
    pub body: Vec<u8>,
}

impl Request {
    /// The first query parameter `name`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    /// HTTP status code.
    pub status: u16,
    /// Media type of the body.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// Plain text.
    pub fn text(status: u16, text: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: text.into().into_bytes() }
    }

    /// JSON with status 200.
    pub fn json(value: &impl serde::Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self { status: 200, content_type: "application/json", body },
            Err(e) => Self::text(500, format!("cannot write JSON: {e}\n")),
        }
    }

    /// 404.
    pub fn not_found() -> Self {
        Self::text(404, "not found\n")
    }
}

/// Percent-encodes one path segment or query value.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Undoes [`encode`]; what is no valid escape stays as it is.
pub fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let escape = (*byte == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match escape.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(value) => {
                out.push(value);
                at += 3;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests;
