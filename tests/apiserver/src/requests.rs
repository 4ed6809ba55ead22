//! What clients asked for, and waiting until they do.

use crate::fault::Verb;
use crate::resource::Resource;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::watch;

/// A list or a watch that a client asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// When.
    pub at: Instant,
    /// What of.
    pub resource: Resource,
    /// How.
    pub verb: Verb,
    /// The parameters.
    pub query: HashMap<String, String>,
    /// The connection it came on, counted from 1.
    pub connection: u64,
    /// Whether it was refused for its token.
    pub unauthorized: bool,
}

impl Request {
    /// A parameter, empty without one.
    pub fn parameter(&self, name: &str) -> &str {
        self.query.get(name).map(String::as_str).unwrap_or_default()
    }
}

/// The log.
pub(crate) struct Requests {
    all: Mutex<Vec<Request>>,
    count: watch::Sender<usize>,
}

impl Requests {
    pub(crate) fn new() -> Self {
        Self { all: Mutex::default(), count: watch::Sender::new(0) }
    }

    pub(crate) fn push(&self, request: Request) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(request);
        self.count.send_replace(all.len());
    }

    pub(crate) fn all(&self) -> Vec<Request> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) async fn wait(&self, mut enough: impl FnMut(&[Request]) -> bool) {
        let mut count = self.count.subscribe();
        while !enough(&self.all()) {
            if count.changed().await.is_err() {
                return;
            }
        }
    }
}

/// The parameters of a query, percent-decoded.
pub(crate) fn parameters(query: &str) -> HashMap<String, String> {
    let pairs = query.split('&').filter(|p| !p.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

fn decode(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let hex = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
        out.push(match byte {
            b'+' => b' ',
            b'%' => match (hex(bytes.next()), hex(bytes.next())) {
                (Some(high), Some(low)) => u8::try_from(high * 16 + low).unwrap_or(b'?'),
                _ => b'?',
            },
            other => other,
        });
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let got = parameters("watch=1&continue=a%2Fb%3D&x+y");
        assert_eq!((got["watch"].as_str(), got["continue"].as_str(), got["x y"].as_str()), ("1", "a/b=", ""));
    }
}
