//! Where the headers of a TCP or UDP packet lie.
//!
//! A read-only look at one untrusted packet. Only what can be cut and joined is recognised: IPv4 without
//! options, IPv6 without extension headers, not a fragment, lengths that agree with each other. Everything else
//! is `None` and travels as it is.

use super::checksum;

/// Transport protocols that have offloads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

/// Offsets into a packet that was found to hold them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Headers {
    pub(crate) v6: bool,
    pub(crate) transport: Transport,
    /// Where the transport header starts.
    pub(crate) l4: usize,
    /// Where the payload starts.
    pub(crate) payload: usize,
}

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// Reads two bytes at `at`, big-endian.
pub(crate) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// Reads four bytes at `at`, big-endian.
pub(crate) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(be16(bytes, at)?) << 16 | u32::from(be16(bytes, at + 2)?))
}

/// Writes `value` at `at`, big-endian; a place outside `bytes` is left alone.
pub(crate) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(to) = bytes.get_mut(at..at + 2) {
        to.copy_from_slice(&value.to_be_bytes());
    }
}

/// Writes `value` at `at`, big-endian; a place outside `bytes` is left alone.
pub(crate) fn put32(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(to) = bytes.get_mut(at..at + 4) {
        to.copy_from_slice(&value.to_be_bytes());
    }
}

/// How long the IP packet is at the beginning of `bytes`, behind which a tunnel's padding may lie; all of what says something
/// else.
pub fn length(bytes: &[u8]) -> usize {
    let said = match bytes.first().map(|byte| byte >> 4) {
        Some(4) => be16(bytes, 2).map(usize::from),
        Some(6) => be16(bytes, 4).map(|payload| usize::from(payload) + 40),
        _ => None,
    };
    said.filter(|said| (20..bytes.len()).contains(said)).unwrap_or(bytes.len())
}

impl Headers {
    /// Finds the headers of `packet`, which must be exactly one IP packet.
    pub(crate) fn of(packet: &[u8]) -> Option<Self> {
        let (v6, l4, protocol) = match packet.first()? >> 4 {
            4 => {
                let whole = usize::from(be16(packet, 2)?) == packet.len();
                let fragment = be16(packet, 6)? & 0x3fff != 0;
                if *packet.first()? != 0x45 || !whole || fragment {
                    return None;
                }
                (false, 20, *packet.get(9)?)
            }
            6 => {
                if usize::from(be16(packet, 4)?) + 40 != packet.len() {
                    return None;
                }
                (true, 40, *packet.get(6)?)
            }
            _ => return None,
        };
        let (transport, payload) = match protocol {
            TCP => {
                let header = usize::from(*packet.get(l4 + 12)? >> 4) * 4;
                if header < 20 {
                    return None;
                }
                (Transport::Tcp, l4 + header)
            }
            UDP => {
                if usize::from(be16(packet, l4 + 4)?) != packet.len() - l4 {
                    return None;
                }
                (Transport::Udp, l4 + 8)
            }
            _ => return None,
        };
        (payload <= packet.len()).then_some(Self { v6, transport, l4, payload })
    }

    /// Offset of the checksum behind the start of the transport header.
    pub(crate) fn checksum_offset(&self) -> usize {
        match self.transport {
            Transport::Tcp => 16,
            Transport::Udp => 6,
        }
    }

    /// The IP protocol number.
    pub(crate) fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp => TCP,
            Transport::Udp => UDP,
        }
    }

    /// Source and destination address as they stand in the IP header.
    pub(crate) fn addresses<'p>(&self, packet: &'p [u8]) -> &'p [u8] {
        packet.get(if self.v6 { 8..40 } else { 12..20 }).unwrap_or_default()
    }

    /// Whether IPv4 header checksum and transport checksum are both present and right.
    pub(crate) fn checksums_hold(&self, packet: &[u8]) -> bool {
        if !self.v6 && checksum::fold(checksum::sum(packet.get(..20).unwrap_or_default())) != 0xffff {
            return false;
        }
        if self.transport == Transport::Udp && be16(packet, self.l4 + 6) == Some(0) {
            return false;
        }
        let transport = packet.get(self.l4..).unwrap_or_default();
        let pseudo = checksum::pseudo_header(self.addresses(packet), self.protocol(), transport.len());
        checksum::fold(pseudo + checksum::sum(transport)) == 0xffff
    }

    /// Writes length fields for a packet of `len` bytes and, for IPv4, the header checksum.
    pub(crate) fn set_length(&self, packet: &mut [u8], len: usize) {
        if self.v6 {
            put16(packet, 4, (len - 40) as u16);
        } else {
            put16(packet, 2, len as u16);
            put16(packet, 10, 0);
            let sum = checksum::sum(packet.get(..20).unwrap_or_default());
            put16(packet, 10, !checksum::fold(sum));
        }
        if self.transport == Transport::Udp {
            put16(packet, self.l4 + 4, (len - self.l4) as u16);
        }
    }
}
