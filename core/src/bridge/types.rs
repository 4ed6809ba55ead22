//! What goes in and out of the engine.

use crate::PeerId;
use crate::control::{Authority, Credentials};
use crate::counters::DropReason;
use crate::dns;
use crate::flow::pieces;
use crate::noise::StaticSecret;
use crate::path::{self, PathInfo, RelayVia, Route, Source};
use crate::time::Duration;
use crate::tunnel::{OpenTicket, SendGrant};
use crate::wire::ask::ASK;
use crate::wire::ip::Checksum;
use core::net::SocketAddr;
use core::ops::Range;

/// What the shell decides once.
pub struct Config {
    /// This node's private key.
    pub identity: StaticSecret,
    /// How this node presents itself to a server.
    pub credentials: Credentials,
    /// Whom it believes.
    pub authority: Authority,
    /// Settings of the responder.
    pub dns: dns::Settings,
    /// Settings of the path layer.
    pub paths: path::Config,
    /// Number of the last [`Event::PersistStamp`] of earlier lives, 0 for none.
    pub stamp: u64,
    /// 32 bytes of the platform's entropy.
    pub seed: [u8; 32],
}

/// How a packet came from the TUN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Burst {
    /// What its transport checksum field holds.
    pub checksum: Checksum,
    /// IP packets that it will be on the wire.
    pub segments: u16,
    /// Length in bytes of the longest of them.
    pub largest: u16,
}

impl Burst {
    /// One packet of `len` bytes with a complete checksum.
    pub fn single(len: usize) -> Self {
        Self { checksum: Checksum::Complete, segments: 1, largest: u16::try_from(len).unwrap_or(u16::MAX) }
    }

    /// The same when its `len` bytes are cut into pieces of at most `mtu` each.
    pub(crate) fn cut(self, len: usize, mtu: Option<u16>) -> Self {
        mtu.map_or(self, |mtu| Self { segments: pieces(len, mtu), largest: mtu, ..self })
    }
}

/// What a parked packet waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Ticket {
    /// A session with the node of this index: then [`crate::node::Engine::resume`].
    Peer(u32),
    /// The first fragment of its datagram: then hand it in again where it came from.
    Fragment(u32),
    /// The server's answer about the Services with this fingerprint: then hand packet or query in again.
    Service(u32),
}

impl Ticket {
    /// What waits for the answer to this question of [`crate::peer::Lookups`].
    pub(crate) fn of(asked: u32) -> Self {
        if asked & ASK == 0 { Self::Peer(asked) } else { Self::Service(asked) }
    }
}

/// Where a datagram is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination {
    /// By socket number `local`, to `remote`.
    Socket {
        /// Number of our socket.
        local: u8,
        /// The receiver.
        remote: SocketAddr,
    },
    /// By the TCP relay connection.
    RelayTcp,
}

/// A way for sealed datagrams: what goes in front of each, and where it is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    /// The relay's envelope, if it goes there.
    pub envelope: Option<[u8; path::ENVELOPE]>,
    /// Where to.
    pub to: Destination,
}

impl Way {
    /// The way of a route; `relay` is where the relay is, by UDP.
    pub(crate) fn of(route: Route, relay: Option<(u8, SocketAddr)>) -> Option<Self> {
        Some(match route {
            Route::Direct { local, remote } => {
                Self { envelope: None, to: Destination::Socket { local, remote } }
            }
            Route::Relay { session } => {
                let (local, remote) = relay?;
                Self { envelope: Some(path::envelope(session)), to: Destination::Socket { local, remote } }
            }
            Route::RelayTcp { session } => {
                Self { envelope: Some(path::envelope(session)), to: Destination::RelayTcp }
            }
        })
    }

    pub(crate) fn binding(via: RelayVia) -> Self {
        let to = match via {
            RelayVia::Udp { local, server } => Destination::Socket { local, remote: server },
            RelayVia::Tcp => Destination::RelayTcp,
        };
        Self { envelope: None, to }
    }
}

/// Leave to seal and send, to be used at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grant {
    /// Key and counters.
    pub sending: SendGrant,
    /// The way.
    pub first: Way,
    /// A second way for a copy, while the first is in doubt.
    pub copy: Option<Way>,
    /// Send the fragments of this size that [`split`](crate::wire::ip::split) makes of the packet.
    pub split: Option<u16>,
}

/// What is to be done with a packet from the TUN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Outbound {
    /// Seal its segments and send them.
    Seal(Grant),
    /// Write it back to the TUN: its endpoint is on this node.
    Hairpin,
    /// It is as it came: have the kernel carry its connection to this endpoint, by the addresses of both. Or take
    /// the connection back ([`Engine::keep_flow`](crate::node::Engine::keep_flow)) and hand the packet in again. Only
    /// after [`Engine::hand_over`](crate::node::Engine::hand_over).
    HandOver(SocketAddr),
    /// Keep it as it is now until [`Event::Ready`] or [`Event::Expired`] names the ticket.
    Park(Ticket),
    /// The first so many bytes now are an answer without offloads: write them to the TUN.
    Reply(usize),
    /// Counted and to be forgotten.
    Drop(DropReason),
}

/// Where a datagram came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    /// Socket number `local`, sent by `remote`.
    Socket {
        /// Number of our socket.
        local: u8,
        /// The sender.
        remote: SocketAddr,
    },
    /// The TCP relay connection.
    RelayTcp,
}

/// What a datagram is. The last field is where the tunnel's part begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Classified {
    /// Open it with the ticket's key, then [`crate::node::Engine::inbound`].
    Data(OpenTicket, Source, usize),
    /// For [`crate::node::Engine::message`].
    Message(Sender, usize),
    /// Dealt with.
    Handled,
    /// Counted and to be forgotten.
    Drop(DropReason),
}

/// Who sent a handshake message, as far as its outside tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sender {
    pub(crate) source: Source,
    pub(crate) peer: Option<PeerId>,
}

/// The peer whose IP packet an opened datagram holds.
pub type Arrived = Result<PeerId, NoPacket>;

/// What became of an opened datagram that holds no IP packet, or is not new.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum NoPacket {
    /// As [`Inbound::Aside`].
    Aside,
    /// As [`Inbound::Handled`].
    Handled,
    /// As [`Inbound::Drop`].
    Drop(DropReason),
}

impl core::convert::From<NoPacket> for Inbound {
    fn from(done: NoPacket) -> Self {
        match done {
            NoPacket::Aside => Self::Aside,
            NoPacket::Handled => Self::Handled,
            NoPacket::Drop(reason) => Self::Drop(reason),
        }
    }
}

/// What is to be done with an opened datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Inbound {
    /// Write the packet to the TUN.
    Deliver,
    /// The packet is now an answer to its sender: seal and send it.
    Answer(Grant),
    /// Keep it as it is now; when the ticket is ready, [`crate::node::Engine::again`].
    Park(Ticket, PeerId),
    /// It is a message of the other node's shell ([`crate::wire::aside`]).
    Aside,
    /// It was for the engine.
    Handled,
    /// Counted and to be forgotten.
    Drop(DropReason),
}

/// A datagram that [`crate::node::Engine::poll_transmit`] wrote.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// Where in the buffer it lies.
    pub range: Range<usize>,
    /// Where it goes.
    pub to: Destination,
    /// To be sent with the don't-fragment bit.
    pub dont_fragment: bool,
}

/// What the shell should know. The first variant is all-zero in memory, for [`crate::memory!`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Event {
    /// The server's feed reached a consistent state.
    ServicesChanged = 0,
    /// What was parked under the ticket can go on.
    Ready(Ticket),
    /// What was parked under the ticket is to be dropped.
    Expired(Ticket),
    /// Store this number for [`Config::stamp`] before anything else is sent.
    PersistStamp(u64),
    /// Open the TCP relay connection.
    OpenRelayTcp,
    /// Close it.
    CloseRelayTcp,
    /// The answer to [`crate::node::Engine::ping`].
    Pong {
        /// The node's index.
        index: u32,
        /// Round trip by the way in use.
        rtt: Duration,
    },
    /// The way to the node of this index changed.
    PathChanged(u32),
}

/// A peer, for listings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// Its cluster-wide index.
    pub index: u32,
    /// The way to it.
    pub path: PathInfo,
    /// Whether there is a session.
    pub up: bool,
    /// How long ago the last handshake was completed.
    pub handshake: Option<Duration>,
    /// Bytes sent and received inside the tunnel.
    pub traffic: (u64, u64),
}
