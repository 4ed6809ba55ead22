//! What a network is made of, as tests name it: hosts, zones, gateways, datagrams and their fates.
//!
//! Plain values; [`Network`](super::Network) gives them their meaning.

use crate::firewall::{Firewall, Inbound};
use crate::link::LinkDrop;
use crate::nat::{Nat, NatDrop};
use crate::pipe::{PipeEvent, PipeId};
use std::net::{IpAddr, SocketAddr};

/// A host of the network.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct HostId(pub(super) usize);

/// A place where addresses are known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ZoneId(pub(super) usize);

impl ZoneId {
    /// The zone of public addresses.
    pub const INTERNET: Self = Self(0);
}

/// A UDP datagram as one side sees it: boxes change the addresses on the way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Datagram {
    /// Source.
    pub src: SocketAddr,
    /// Destination.
    pub dst: SocketAddr,
    /// Payload.
    pub bytes: Vec<u8>,
}

impl Datagram {
    /// Its size as an IP packet.
    pub(super) fn packet_len(&self) -> usize {
        let headers = if self.dst.is_ipv4() { 20 + 8 } else { 40 + 8 };
        headers + self.bytes.len()
    }
}

/// Something that reached a host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// A datagram.
    Datagram(HostId, Datagram),
    /// News of a pipe.
    Pipe(HostId, PipeId, PipeEvent),
}

/// What stands between a zone and its parent.
///
/// IPv4 is translated when there is a NAT box, and then only the firewall's `udp_out` counts; what is not
/// translated passes the firewall.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// Translates IPv4.
    pub nat: Option<Nat>,
    /// Filters what is not translated.
    pub firewall: Firewall,
}

impl Gateway {
    /// A NAT box; IPv6 passes in both directions.
    pub fn nat(nat: Nat) -> Self {
        Self { nat: Some(nat), firewall: Firewall::new(Inbound::Open) }
    }

    /// No translation.
    pub fn firewall(firewall: Firewall) -> Self {
        Self { nat: None, firewall }
    }

    /// Whether addresses of `ip`'s family are hidden from the parent zone.
    pub(super) fn hides(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() && self.nat.is_some()
    }
}

/// What became of datagrams.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fate {
    /// Handed to a host.
    Delivered,
    /// A link doubled it: two fates follow.
    Doubled,
    /// A link changed a byte of it; another fate follows.
    Corrupted,
    /// Lost by chance.
    Lost,
    /// A link's queue was full.
    QueueFull,
    /// Above a link's MTU.
    TooBig,
    /// A NAT box had no mapping.
    NoMapping,
    /// A NAT box or firewall did not admit it.
    Filtered,
    /// A NAT box had no room.
    NatFull,
    /// A NAT box does not hairpin.
    NoHairpin,
    /// Nobody has this address, or the sender none of its family.
    Unroutable,
    /// The test blocked this pair of hosts.
    Blocked,
    /// After it was delivered: nobody was on the host.
    Unattended,
}

impl Fate {
    /// Whether the datagram's way goes on.
    pub fn goes_on(self) -> bool {
        matches!(self, Self::Doubled | Self::Corrupted | Self::Delivered)
    }
}

/// The last bytes of a datagram, by which a test knows it again: boxes do not change them, nor do links.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Tail(pub [u8; Self::LEN]);

impl Tail {
    /// How many bytes.
    pub const LEN: usize = 16;

    /// Of a datagram; zeros stand in front of a shorter one.
    pub fn of(bytes: &[u8]) -> Self {
        let mut tail = [0; Self::LEN];
        let last = &bytes[bytes.len().saturating_sub(Self::LEN)..];
        tail[Self::LEN - last.len()..].copy_from_slice(last);
        Self(tail)
    }
}

impl From<LinkDrop> for Fate {
    fn from(drop: LinkDrop) -> Self {
        match drop {
            LinkDrop::Lost => Self::Lost,
            LinkDrop::QueueFull => Self::QueueFull,
            LinkDrop::TooBig => Self::TooBig,
        }
    }
}

impl From<NatDrop> for Fate {
    fn from(drop: NatDrop) -> Self {
        match drop {
            NatDrop::NoMapping => Self::NoMapping,
            NatDrop::Filtered => Self::Filtered,
            NatDrop::Full => Self::NatFull,
            NatDrop::NoHairpin => Self::NoHairpin,
        }
    }
}
