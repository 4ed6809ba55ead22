//! Datagrams on their way to a node that is bound over TCP.
//!
//! Bounded in bytes; when full, the oldest goes: a tunnel wants fresh datagrams, and its own retransmission copes
//! with the loss far better than with seconds of delay.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Mutex;
use tokio::sync::Notify;

/// What waits for one connection at most, in bytes: 100 ms at 10 Mbit/s.
pub(crate) const QUEUE_MAX: usize = 128 * 1024;
/// What one datagram counts besides its own bytes.
const SLOT: usize = 32;

/// A bounded queue of datagrams.
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    ready: Notify,
    peer: SocketAddr,
}

#[derive(Default)]
struct Inner {
    datagrams: VecDeque<Box<[u8]>>,
    bytes: usize,
}

impl Queue {
    pub(crate) fn new(peer: SocketAddr) -> Self {
        Self { inner: Mutex::default(), ready: Notify::new(), peer }
    }

    /// The connection's other end.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Adds a datagram; returns how many older ones had to go.
    pub(crate) fn push(&self, datagram: &[u8]) -> u64 {
        let mut inner = self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut dropped = 0;
        while inner.bytes + datagram.len() + SLOT > QUEUE_MAX {
            let Some(old) = inner.datagrams.pop_front() else { break };
            inner.bytes -= old.len() + SLOT;
            dropped += 1;
        }
        inner.bytes += datagram.len() + SLOT;
        inner.datagrams.push_back(datagram.into());
        drop(inner);
        self.ready.notify_one();
        dropped
    }

    /// Moves what waits into `out`, each with its length, up to about `limit` bytes; waits for the first.
    pub(crate) async fn take(&self, out: &mut Vec<u8>, limit: usize) {
        loop {
            if self.drain(out, limit) {
                return;
            }
            self.ready.notified().await;
        }
    }

    fn drain(&self, out: &mut Vec<u8>, limit: usize) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = out.len();
        while out.len() < limit {
            let Some(datagram) = inner.datagrams.pop_front() else { break };
            inner.bytes -= datagram.len() + SLOT;
            out.extend_from_slice(&(datagram.len() as u16).to_le_bytes());
            out.extend_from_slice(&datagram);
        }
        if inner.datagrams.is_empty() {
            // A burst's room is given back.
            inner.datagrams.shrink_to(16);
        }
        out.len() > before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_first_and_the_rest_comes_in_order() {
        let queue = Queue::new("192.0.2.1:1".parse().unwrap());
        let mut dropped = 0;
        for n in 0..200u8 {
            dropped += queue.push(&[n; 1000]);
        }
        let fits = QUEUE_MAX / 1032;
        assert_eq!(dropped as usize, 200 - fits);
        let mut out = Vec::new();
        let mut next = dropped as u8;
        while queue.drain(&mut out, 4_000) {
            for frame in out.chunks(1002) {
                assert_eq!((u16::from_le_bytes([frame[0], frame[1]]), frame[2]), (1000, next));
                next += 1;
            }
            out.clear();
        }
        assert_eq!(next, 200);
    }
}
