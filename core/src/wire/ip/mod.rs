//! IPv4 and IPv6 packets with TCP, UDP, SCTP or ICMP inside: read once into a [`Transport`], edited in place.
//!
//! A packet that is forwarded is never rebuilt: [`Transport::parse`] says what it is and where its headers are,
//! [`rewrite`] and [`rewrite_error`] change addresses and ports and carry the checksums along. A checksum is
//! never recomputed, because that would launder a packet that was corrupted before it came here. Packets that
//! this node originates come from [`reply`].
//!
//! Bounds: at most [`EXTENSION_HEADERS`] IPv6 extension headers. Not done: reassembly, IPv6 routing headers with
//! segments left (their pseudo-header names another destination), validation of checksums on the way through.

mod address;
pub mod checksum;
mod edit;
mod mesh;
mod parse;
pub mod reply;
pub mod sctp;
mod split;

pub use address::Address;
pub use edit::{Rewrite, clamp_mss, finish_checksum, rewrite, rewrite_error, set_fragment_id};
pub use mesh::{Mesh, SHADOW_BITS};
pub use split::{pieces, set_whole_id, split};

use crate::counters::DropReason;
use core::net::IpAddr;

/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// IP protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;
/// IP protocol number of SCTP.
pub const SCTP: u8 = 132;

/// IPv6 extension headers that are walked before a packet counts as malformed.
pub const EXTENSION_HEADERS: usize = 8;

/// TCP flag FIN.
pub const FIN: u8 = 0x01;
/// TCP flag SYN.
pub const SYN: u8 = 0x02;
/// TCP flag RST.
pub const RST: u8 = 0x04;
/// TCP flag ACK.
pub const ACK: u8 = 0x10;

/// What a transport checksum field holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checksum {
    /// The checksum itself.
    Complete,
    /// The folded pseudo-header sum, not complemented; whoever sends the packet finishes it (virtio
    /// `NEEDS_CSUM`).
    Partial,
}

/// What lies behind the IP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A TCP segment with these flags.
    Tcp {
        /// FIN, SYN, RST, PSH, ACK, URG, ECE, CWR from the lowest bit up.
        flags: u8,
    },
    /// A UDP datagram.
    Udp,
    /// An SCTP packet.
    Sctp {
        /// What it does to the association: a type of [`sctp`].
        chunk: u8,
    },
    /// An ICMP echo request; its identifier is the source port, the destination port is 0.
    EchoRequest,
    /// An ICMP echo reply; its identifier is the destination port, the source port is 0.
    EchoReply,
    /// An ICMP error; the packet that it quotes starts here.
    IcmpError {
        /// Offset from the start of the bytes parsed.
        quote: usize,
    },
    /// A later fragment, or something that has no ports.
    Opaque,
}

/// A packet's place in a fragmented datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fragment {
    /// Whole.
    None,
    /// The first: it has the transport header.
    First {
        /// Identification of the datagram.
        id: u32,
    },
    /// Any other.
    Later {
        /// Identification of the datagram.
        id: u32,
        /// Its offset in bytes.
        offset: u16,
    },
}

/// A parsed packet: everything that decides where it goes, and where its headers are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transport {
    /// IP protocol number of what follows the IP header and its extensions.
    pub protocol: u8,
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// Source port, or identifier of an echo request; 0 without one.
    pub src_port: u16,
    /// Destination port, or identifier of an echo reply; 0 without one.
    pub dst_port: u16,
    /// What it carries.
    pub kind: Kind,
    /// Its place in a fragmented datagram.
    pub fragment: Fragment,
    /// Whether routers may cut it: IPv4 without "don't fragment".
    pub may_fragment: bool,
    /// Where the IP header starts.
    pub start: usize,
    /// Where the transport header starts.
    pub l4: usize,
    /// Where the packet ends by its own length field (by the bytes at hand, when it is a quote).
    pub end: usize,
    /// Where the IPv6 fragment header starts, 0 without one.
    fragment_header: usize,
}

impl Transport {
    /// Reads the packet at the start of `bytes`; bytes behind its own length (a tunnel's padding) are ignored.
    ///
    /// # Errors
    /// [`DropReason::NotIp`], [`DropReason::Truncated`] or [`DropReason::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        parse::packet(bytes, 0, parse::Extent::Whole)
    }

    /// Reads the packet that the ICMP error `self`, parsed from the same `bytes`, quotes. A quote may be cut
    /// anywhere behind the ports.
    ///
    /// # Errors
    /// As [`Transport::parse`]; [`DropReason::Malformed`] when `self` is no ICMP error.
    pub fn quoted(&self, bytes: &[u8]) -> Result<Self, DropReason> {
        match self.kind {
            Kind::IcmpError { quote } => {
                let inner =
                    parse::packet(bytes.get(..self.end).unwrap_or(bytes), quote, parse::Extent::Quote)?;
                if inner.src.is_ipv6() == self.src.is_ipv6() { Ok(inner) } else { Err(DropReason::Malformed) }
            }
            _ => Err(DropReason::Malformed),
        }
    }

    /// TCP flags; 0 for anything else.
    pub fn tcp_flags(&self) -> u8 {
        match self.kind {
            Kind::Tcp { flags } => flags,
            _ => 0,
        }
    }

    /// The chunk that says what an SCTP packet does to its association; [`sctp::NONE`] for anything else.
    pub fn sctp_chunk(&self) -> u8 {
        match self.kind {
            Kind::Sctp { chunk } => chunk,
            _ => sctp::NONE,
        }
    }

    /// Whether it begins a connection: a TCP SYN, an SCTP INIT.
    pub fn opens(&self) -> bool {
        self.tcp_flags() & (SYN | ACK) == SYN || self.sctp_chunk() == sctp::INIT
    }

    /// Length of the IP packet in bytes.
    pub fn len(&self) -> usize {
        self.end.saturating_sub(self.start)
    }

    /// Never: a packet has at least an IP header.
    pub fn is_empty(&self) -> bool {
        self.end == self.start
    }

    /// Where the transport checksum field is, if there is a transport header with one that is a 16-bit sum.
    fn checksum_at(&self) -> Option<usize> {
        let offset = match self.kind {
            Kind::Tcp { .. } => 16,
            Kind::Udp => 6,
            Kind::EchoRequest | Kind::EchoReply | Kind::IcmpError { .. } => 2,
            Kind::Sctp { .. } | Kind::Opaque => return None,
        };
        Some(self.l4.saturating_add(offset))
    }

    /// Whether the transport checksum covers the addresses.
    fn has_pseudo_header(&self) -> bool {
        match self.kind {
            Kind::Tcp { .. } | Kind::Udp => true,
            Kind::EchoRequest | Kind::EchoReply | Kind::IcmpError { .. } => self.src.is_ipv6(),
            Kind::Sctp { .. } | Kind::Opaque => false,
        }
    }
}

/// Whether `ip` may never be the source or destination of a forwarded packet, whatever a table says:
/// unspecified, loopback, link-local, multicast, broadcast.
pub fn is_confined(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            v4.octets().first() == Some(&0)
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            v6.is_unspecified()
                || v6.is_loopback()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
                || v6.to_ipv4_mapped().is_some()
        }
    }
}

fn byte(bytes: &[u8], at: usize) -> Result<u8, DropReason> {
    bytes.get(at).copied().ok_or(DropReason::Truncated)
}

fn word(bytes: &[u8], at: usize) -> Result<u16, DropReason> {
    array(bytes, at).map(u16::from_be_bytes)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], DropReason> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(DropReason::Truncated)
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, new: [u8; N]) -> Result<(), DropReason> {
    *bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()).ok_or(DropReason::Truncated)? = new;
    Ok(())
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
