//! What happened to queries, for the metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Transport;

macro_rules! stats {
    ($($(#[$doc:meta])+ $field:ident,)+) => {
        /// Counters that may be read from any thread.
        #[derive(Default)]
        pub struct Stats {
            $($(#[$doc])+ pub $field: AtomicU64,)+
        }

        impl Stats {
            /// Every counter by name.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field.load(Ordering::Relaxed)),)+].into_iter()
            }
        }
    };
}

stats! {
    /// Queries in datagrams.
    udp_queries,
    /// Queries in streams.
    tcp_queries,
    /// Queries that the engine left without answer.
    dropped,
    /// Queries above [`super::MAX_IN_FLIGHT`] or [`super::MAX_ASKED`], and answers that could not be sent.
    overload,
    /// Connections refused or cut: too many, idle, or too slow.
    connections_cut,
    /// Forwarded queries answered from the cache.
    cache_hits,
    /// Forwarded queries answered by a reply that was too old, because no upstream answered soon.
    served_stale,
    /// Replies renewed before they were too old.
    prefetched,
    /// Forwarded queries that an upstream was asked.
    forwarded,
    /// Forwarded queries above [`super::forward::MAX_FORWARDED`].
    forward_overload,
    /// Forwarded queries that no upstream answered.
    forward_failed,
    /// Attempts at one upstream that failed.
    upstream_errors,
    /// Upstreams given up because they lead back here.
    upstream_loops,
}

impl Stats {
    /// Counts one.
    pub fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn query(&self, transport: Transport) {
        Self::add(match transport {
            Transport::Udp => &self.udp_queries,
            Transport::Tcp => &self.tcp_queries,
        });
    }
}
