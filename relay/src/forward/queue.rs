//! Datagrams on their way to a node that is bound over TCP, from any thread. Bounds: those of [`Frames`].

use edgemesh_host::frames::Frames;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// A bounded queue of datagrams.
pub(crate) struct Queue {
    frames: Mutex<Frames>,
    ready: Notify,
    peer: SocketAddr,
}

impl Queue {
    pub(crate) fn new(peer: SocketAddr) -> Self {
        Self { frames: Mutex::default(), ready: Notify::new(), peer }
    }

    /// The connection's other end.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Adds datagrams; returns how many, these or older ones, had to go.
    pub(crate) fn push(&self, datagrams: &[&[u8]]) -> u64 {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let dropped = datagrams.iter().map(|datagram| frames.push(datagram)).sum();
        drop(frames);
        self.ready.notify_one();
        dropped
    }

    /// Moves what has waited for longest to `out`, as frames, once there is something.
    pub(crate) async fn take(&self, out: &mut VecDeque<u8>) {
        loop {
            self.frames.lock().unwrap_or_else(PoisonError::into_inner).take(out);
            if !out.is_empty() {
                return;
            }
            self.ready.notified().await;
        }
    }
}
