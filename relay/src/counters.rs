//! What the server counts. Counters wrap, as Prometheus counters may.

use crate::forward::Switch;
use edgemesh_host::metrics::{Kind, Text};
use edgemesh_host::programming::Programming;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

macro_rules! losses {
    ($($(#[$doc:meta])+ $variant:ident = $name:literal,)+) => {
        /// Why a datagram or connection went no further.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(usize)]
        pub(crate) enum Loss {
            $($(#[$doc])+ $variant,)+
        }

        impl Loss {
            /// Every reason, in counter order.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The reason as a metric label.
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

losses! {
    /// No relay message, or one that only servers send.
    Malformed = "malformed",
    /// A session that this server did not give out (since its start).
    Session = "unknown_session",
    /// Data from elsewhere than where the session's sender is bound.
    Source = "wrong_source",
    /// The session's receiver is not bound.
    PeerUnbound = "peer_unbound",
    /// A bind of no node, with a wrong MAC, or older than the last one.
    Bind = "bind",
    /// The socket did not take it.
    Send = "send",
    /// The oldest datagram of a full TCP queue.
    Queue = "queue_full",
    /// A TCP connection that is neither control nor relay, or breaks the rules of its kind.
    Tcp = "tcp_garbage",
    /// A TCP connection that did not finish its handshake in time.
    Timeout = "handshake_timeout",
    /// A TCP connection beyond the limit.
    Connections = "connections_full",
    /// A message for a node whose connection takes no more.
    Push = "push_full",
    /// What a relay says of a node that has not come by it.
    Relay = "not_its_node",
}

/// All counters.
#[derive(Default)]
pub(crate) struct Counters {
    drops: [AtomicU64; Loss::ALL.len()],
    pub(crate) datagrams: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) binds: AtomicU64,
    pub(crate) challenges: AtomicU64,
    pub(crate) unbound: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) enrolled: AtomicU64,
    pub(crate) lookups: AtomicU64,
    pub(crate) feed_bytes: AtomicU64,
    pub(crate) manifest_problems: AtomicU64,
    /// How long changes take to be in the feed.
    pub(crate) programming: Programming,
    /// By the numbers of `edgemesh_core::wire::control::Refusal`.
    pub(crate) refused: [AtomicU64; 8],
}

impl Counters {
    /// Counts dropped datagrams or connections.
    pub(crate) fn count(&self, reason: Loss, count: u64) {
        if let Some(counter) = self.drops.get(reason as usize) {
            counter.fetch_add(count, Relaxed);
        }
    }

    /// How many were dropped for this reason.
    pub(crate) fn dropped(&self, reason: Loss) -> u64 {
        self.drops.get(reason as usize).map_or(0, |counter| counter.load(Relaxed))
    }

    /// Counts relayed datagrams.
    pub(crate) fn relayed(&self, count: u64, bytes: usize) {
        self.datagrams.fetch_add(count, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Writes what the relay counts.
    pub(crate) fn write_relay(&self, switch: &Switch, out: &mut Text) {
        let (sessions, udp, tcp) = switch.sizes();
        out.gauge("relay_sessions", "Relay sessions, one per pair of nodes and direction.", sessions);
        out.family("relay_bound_nodes", Kind::Gauge, "Nodes bound at the relay.")
            .sample(&[("transport", "udp")], udp)
            .sample(&[("transport", "tcp")], tcp);
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        out.counter("relay_datagrams_total", "Datagrams relayed.", load(&self.datagrams));
        out.counter("relay_bytes_total", "Bytes relayed, envelopes included.", load(&self.bytes));
        out.counter("relay_binds_total", "Binds accepted.", load(&self.binds));
        out.counter("relay_challenges_total", "Binds answered with a challenge.", load(&self.challenges));
        out.counter("relay_unbound_total", "Senders told to bind again.", load(&self.unbound));
        out.counter("server_connections_total", "TCP connections accepted.", load(&self.connections));
        let mut drops = out.family("server_drops_total", Kind::Counter, "What went no further, by reason.");
        for reason in Loss::ALL {
            drops.sample(&[("reason", reason.name())], self.dropped(*reason));
        }
    }

    /// Counts datagrams that went into a queue, and the ones that made room for them.
    pub(crate) fn queued(&self, datagrams: &[&[u8]], dropped: u64) {
        self.relayed(datagrams.len() as u64, datagrams.iter().map(|datagram| datagram.len()).sum());
        self.count(Loss::Queue, dropped);
    }
}
