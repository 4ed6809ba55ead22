//! What the path layer takes and says: values without behaviour.

use crate::PeerId;
use crate::path::{AckSlot, PathSlot, RelayLeg};
use crate::storage::Link;
use crate::time::Duration;
use core::net::SocketAddr;

/// How to send a sealed datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// By our socket number `local`, straight to `remote`.
    Direct {
        /// Number of our socket.
        local: u8,
        /// The peer's address.
        remote: SocketAddr,
    },
    /// In an envelope to the relay, over UDP (see [`Paths::relay_via`](crate::path::Paths::relay_via)).
    Relay {
        /// The send session.
        session: u32,
    },
    /// In an envelope to the relay, over its TCP connection.
    RelayTcp {
        /// The send session.
        session: u32,
    },
}

/// How a datagram came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// At our socket number `local`, straight from `remote`.
    Direct {
        /// Number of our socket.
        local: u8,
        /// The sender's address.
        remote: SocketAddr,
    },
    /// In an envelope, over UDP.
    Relay,
    /// In an envelope, over TCP.
    RelayTcp,
}

/// Where a datagram goes now: one route, or for a moment two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Routes {
    /// The way to use; `None` when there is none.
    pub first: Option<Route>,
    /// The way for a copy, while the first is in doubt. The receiver's replay window drops the later one.
    pub copy: Option<Route>,
}

/// One of our own addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Local {
    /// Number of the socket that listens there.
    pub socket: u8,
    /// Interface address and listen port.
    pub address: SocketAddr,
}

/// A path message to seal and send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// The peer whose session seals it.
    pub peer: PeerId,
    /// The exact way by which it has to go.
    pub route: Route,
    /// Bytes written, before sealing.
    pub len: usize,
    /// To be sent with the don't-fragment bit: it measures the path.
    pub dont_fragment: bool,
}

/// What a datagram from the relay was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relayed<'d> {
    /// Part of the binding; nothing to do but to poll.
    Handled,
    /// A tunnel datagram, by its envelope from this peer (which only its authentication proves).
    Data {
        /// The peer of the session; `None` when the directory has not told us of it yet, as when its first
        /// message overtakes its announcement.
        peer: Option<PeerId>,
        /// To be passed on with it.
        source: Source,
        /// The tunnel datagram.
        payload: &'d [u8],
    },
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Datagrams for the peer go another way from now on.
    PathChanged {
        /// The peer.
        peer: PeerId,
        /// The new way.
        route: Option<Route>,
    },
    /// All peers without a direct path are reached by this leg of the relay from now on.
    RelayChanged {
        /// The leg.
        leg: RelayLeg,
    },
    /// Connect the relay's TCP connection and answer with [`relay_tcp_up`](crate::path::Paths::relay_tcp_up) or
    /// [`relay_tcp_down`](crate::path::Paths::relay_tcp_down).
    OpenRelayTcp,
    /// Close it; no answer.
    CloseRelayTcp,
    /// The answer to [`Paths::ping`](crate::path::Paths::ping).
    Pong {
        /// The peer.
        peer: PeerId,
        /// From the probe to its acknowledgement.
        rtt: Duration,
    },
    /// The server no longer knows the sessions with the peer: look it up again.
    Lookup {
        /// The peer.
        peer: PeerId,
    },
}

/// The way to a peer as `peers` shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PathInfo {
    /// The way in use.
    pub route: Option<Route>,
    /// Smoothed round trip of that way, once measured.
    pub rtt: Option<Duration>,
    /// Largest inner packet in bytes.
    pub mtu: u16,
}

/// Settings.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// No inner packet is larger, so nothing larger is probed for: the TUN's MTU.
    pub inner_mtu_max: u16,
}

/// Borrowed memory, all zero at first.
pub struct Resources<'a> {
    /// One slot per peer.
    pub peers: &'a mut [PathSlot],
    /// Acknowledgements between two polls, for all peers; 16 are plenty.
    pub acks: &'a mut [AckSlot],
    /// Receive sessions: twice as many as peers, a power of two.
    pub sessions: &'a mut [Link],
}
