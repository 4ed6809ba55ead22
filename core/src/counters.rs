//! Why packets were dropped, and how often: one list of reasons for the whole core.
//!
//! Every drop names a [`DropReason`]; [`Counters`] has one counter per reason. A reason that no test can cause
//! does not belong here. Counters wrap, as Prometheus counters may.

macro_rules! reasons {
    ($($(#[$doc:meta])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet, message or query went no further.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[$doc])+ $variant,)+
        }

        impl DropReason {
            /// Every reason, in counter order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The reason as a metric label.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

impl core::fmt::Display for DropReason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

impl core::error::Error for DropReason {}

reasons! {
    /// Shorter than its header or its own length field says.
    Truncated = "truncated",
    /// The caller's buffer has no room for what has to be added.
    NoRoom = "no_room",
    /// A field holds a value that no sender may put there.
    Malformed = "malformed",
    /// A checksum that must be right is wrong.
    Checksum = "checksum",
    /// Neither IPv4 nor IPv6.
    NotIp = "not_ip",
    /// IPv6, in a build whose tables keep IPv4 only (feature `compact`).
    Family = "family",
    /// A protocol that no Service can name.
    Protocol = "protocol",
    /// The destination is no VIP, mesh address or flow of this node.
    NoRoute = "no_route",
    /// A VIP that exists, but not with this port and protocol.
    UnknownPort = "unknown_port",
    /// The Service has no usable endpoint.
    NoEndpoints = "no_endpoints",
    /// Only endpoints of this node may be used, and it has none.
    NotLocal = "not_local",
    /// From a peer, for an address that is no endpoint of this node's Services.
    NotAnEndpoint = "not_an_endpoint",
    /// From a peer, but the inner source is not that peer's mesh address.
    SourceAddress = "source_address",
    /// No flow for a packet that cannot open one.
    NoFlow = "no_flow",
    /// The flow table is full of live flows, or this source has its fair share.
    FlowsFull = "flows_full",
    /// Every mapped port towards this endpoint is taken.
    PortsFull = "ports_full",
    /// The table of admitted tuples is full of live ones.
    AdmittedFull = "admitted_full",
    /// An ICMP error whose embedded packet matches no flow.
    IcmpUnmatched = "icmp_unmatched",
    /// A fragment whose first fragment never came or is forgotten.
    Fragment = "fragment",
    /// A datagram of no known shape.
    UnknownDatagram = "unknown_datagram",
    /// A receiver index that names no session.
    UnknownIndex = "unknown_index",
    /// A static key that is no peer's.
    UnknownPeer = "unknown_peer",
    /// Authentication failed.
    Authentication = "authentication",
    /// A counter seen before, or older than the replay window.
    Replay = "replay",
    /// A handshake stamp not newer than the last one.
    OldHandshake = "old_handshake",
    /// Handshakes faster than their limit, or without the cookie demanded under load.
    HandshakeLimit = "handshake_limit",
    /// The session is too old to be used.
    SessionExpired = "session_expired",
    /// No session and no way to make one.
    NoSession = "no_session",
    /// The peer table is full of peers in use.
    PeersFull = "peers_full",
    /// A node record older than the one at hand, or of an epoch that is over.
    OldRecord = "old_record",
    /// A node record that the directory has taken back.
    Revoked = "revoked",
    /// Work waits already and there is no place for more.
    QueueFull = "queue_full",
    /// A key exchange yielded the all-zero secret.
    WeakKey = "weak_key",
    /// A Service table update that the table refused.
    Table = "table",
    /// No path to the peer is usable.
    NoPath = "no_path",
    /// A relay message of an unknown kind or version, or not from the server.
    Relay = "relay",
    /// A challenge of the relay that no bind waits for: of binds that crossed, one is answered.
    Challenge = "challenge",
    /// An inner message of an unknown kind or a wrong shape.
    PathMessage = "path_message",
    /// A health message of an unknown kind or a wrong shape.
    HealthMessage = "health_message",
    /// Larger than the path's MTU and not to be fragmented.
    TooBig = "too_big",
    /// An acknowledgement of no probe that this node sent lately.
    ProbeAck = "probe_ack",
    /// A DNS message that is no query we answer.
    DnsMessage = "dns_message",
}

const COUNT: usize = DropReason::ALL.len();

/// One counter per drop reason.
#[derive(Clone)]
pub struct Counters {
    drops: [u64; COUNT],
}

impl Counters {
    /// All zero.
    pub const ZERO: Self = Self { drops: [0; COUNT] };

    /// Counts one drop.
    pub fn count(&mut self, reason: DropReason) {
        if let Some(n) = self.drops.get_mut(reason as usize) {
            *n = n.wrapping_add(1);
        }
    }

    /// How often `reason` was counted.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.drops.get(reason as usize).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_name() {
        let mut counters = Counters::ZERO;
        for (n, reason) in DropReason::ALL.iter().enumerate() {
            for _ in 0..=n {
                counters.count(*reason);
            }
        }
        for (n, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(counters.get(*reason), n as u64 + 1);
            assert_eq!(DropReason::ALL.iter().filter(|r| r.name() == reason.name()).count(), 1);
        }
    }
}
