//! Where other nodes were reached directly: kept on disk, so that a node that starts while the cloud is away calls them
//! there instead of waiting to be called.
//!
//! A hint is never believed. Whoever answers there has to have the node's key, and the core calls an address that nothing
//! has proven a few times only. Neighbours are called at once. Addresses beyond a NAT are called when no server has
//! answered within [`FAR_AFTER`], for a datagram that comes before the other side has sent its own can spoil a mapping; and
//! every [`AGAIN`] after that, for a whole site may have been without power and its network may be back later than its
//! nodes.
//!
//! Bounds: [`HINTS`] nodes, those reached longest ago going first; one write a minute, and only when an address is new.

use super::Join;
use crate::agent::data::Data;
use crate::clock;
use edgemesh_core::path::is_near;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;

/// Nodes whose addresses are kept.
const HINTS: usize = 256;
/// How long new addresses are gathered before they are stored, and how rarely they are.
const STORE_AFTER: Duration = Duration::from_secs(2);
const STORE_EVERY: Duration = Duration::from_secs(60);
const FAR_AFTER: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_secs(60);

/// A node, where it was reached, and whether it was in this run.
struct Hint {
    node: u32,
    at: SocketAddr,
    proven: bool,
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Hints {
    /// The one reached last is the last.
    known: Vec<Hint>,
    /// When those are called that were not reached in this run.
    pub(super) call_due: Option<Instant>,
    stored: Option<Instant>,
}

impl Hints {
    /// What an earlier run left.
    pub(super) fn of(stored: Vec<(u32, SocketAddr)>) -> Self {
        let unproven = |(node, at)| Hint { node, at, proven: false };
        let known: Vec<Hint> = stored.into_iter().map(unproven).collect();
        let call_due = (!known.is_empty()).then(|| Instant::now() + FAR_AFTER);
        Self { known, call_due, stored: None }
    }

    /// The node was reached there; whether that is news.
    fn reached(&mut self, node: u32, at: SocketAddr) -> bool {
        let before = self.known.iter().position(|hint| hint.node == node).map(|n| self.known.remove(n));
        if self.known.len() >= HINTS {
            self.known.remove(0);
        }
        self.known.push(Hint { node, at, proven: true });
        before.is_none_or(|before| before.at != at)
    }

    /// When a change of now is to be stored.
    fn store_at(&self) -> Instant {
        let soon = Instant::now() + STORE_AFTER;
        self.stored.map_or(soon, |last| soon.max(last + STORE_EVERY))
    }

    fn unproven(&self) -> impl Iterator<Item = (u32, SocketAddr)> + '_ {
        self.known.iter().filter(|hint| !hint.proven).map(|hint| (hint.node, hint.at))
    }

    /// As it is stored, now.
    pub(super) fn stored(&mut self) -> Vec<(u32, SocketAddr)> {
        self.stored = Some(Instant::now());
        self.known.iter().map(|hint| (hint.node, hint.at)).collect()
    }
}

impl Join {
    /// A datagram for the node goes straight there, and arrives.
    pub(super) fn reached_at(&mut self, node: u32, at: SocketAddr) {
        if self.hints.reached(node, at) {
            self.disk.hints(self.hints.store_at());
        }
    }

    /// The node is no member any more.
    pub(super) fn forget_hint(&mut self, node: u32) {
        let before = self.hints.known.len();
        self.hints.known.retain(|hint| hint.node != node);
        if self.hints.known.len() != before {
            self.disk.hints(Instant::now());
        }
    }

    /// Calls the neighbours of an earlier run.
    pub(super) async fn call_neighbours(&mut self) {
        let near: Vec<_> = self.hints.unproven().filter(|(_, at)| is_near(at.ip())).collect();
        let _ = self.handle.inspect(move |data| call(data, &near)).await;
    }

    /// Calls whoever was not reached in this run, while no server tells the way.
    pub(super) async fn call_all(&mut self) {
        let all: Vec<_> = self.hints.unproven().collect();
        self.hints.call_due = (!all.is_empty()).then(|| Instant::now() + AGAIN);
        let ask = move |data: &mut Data| {
            if !data.engine.link().is_up() {
                call(data, &all);
            }
        };
        let _ = self.handle.inspect(ask).await;
    }
}

fn call(data: &mut Data, hints: &[(u32, SocketAddr)]) {
    let now = clock::now();
    hints.iter().for_each(|(node, at)| data.engine.hint(now, *node, *at));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 20_006))
    }

    #[tokio::test]
    async fn the_nodes_reached_last_are_kept_and_called_until_they_are_reached() {
        let mut hints = Hints::of(vec![(1, at(1)), (2, at(2))]);
        assert!(hints.call_due.is_some() && Hints::of(Vec::new()).call_due.is_none());
        assert!(!hints.reached(1, at(1)), "known");
        assert_eq!(hints.unproven().collect::<Vec<_>>(), [(2, at(2))]);
        assert!(hints.reached(2, at(3)), "moved");
        assert_eq!(hints.stored(), [(1, at(1)), (2, at(3))]);
        assert_eq!(hints.unproven().count(), 0);
        for node in 3..=HINTS as u32 + 2 {
            assert!(hints.reached(node, at(9)));
        }
        let kept = hints.stored();
        assert_eq!((kept.len(), kept[0]), (HINTS, (3, at(9))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_path_that_flaps_does_not_wear_out_the_disk() {
        let mut hints = Hints::default();
        assert_eq!(hints.store_at(), Instant::now() + STORE_AFTER);
        hints.stored();
        assert_eq!(hints.store_at(), Instant::now() + STORE_EVERY);
        tokio::time::advance(STORE_EVERY).await;
        assert_eq!(hints.store_at(), Instant::now() + STORE_AFTER);
    }
}
