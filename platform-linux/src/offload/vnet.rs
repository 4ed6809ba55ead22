//! `struct virtio_net_hdr`, the ten bytes in front of every packet of a TUN device with `IFF_VNET_HDR`.
//!
//! Plain data, no state. The legacy header is in the machine's own byte order (VIRTIO 1.2, 5.1.6.1, legacy
//! interface). Parsing never fails on content: an unknown GSO type is carried as [`GsoType::Other`] and refused
//! by whoever would have to segment it.

/// Bytes of the header on the device.
pub const VNET_HDR_LEN: usize = 10;

const F_NEEDS_CSUM: u8 = 1;
const GSO_ECN: u8 = 0x80;

/// What a super-packet is cut into.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum GsoType {
    /// One packet.
    #[default]
    None,
    /// TCP segments over IPv4.
    TcpV4,
    /// TCP segments over IPv6.
    TcpV6,
    /// UDP datagrams over either (`VIRTIO_NET_HDR_GSO_UDP_L4`, Linux 6.2).
    UdpL4,
    /// A type that was not asked for.
    Other(u8),
}

impl GsoType {
    const fn from_byte(byte: u8) -> Self {
        match byte & !GSO_ECN {
            0 => Self::None,
            1 => Self::TcpV4,
            4 => Self::TcpV6,
            5 => Self::UdpL4,
            other => Self::Other(other),
        }
    }

    const fn byte(self) -> u8 {
        match self {
            Self::None => 0,
            Self::TcpV4 => 1,
            Self::TcpV6 => 4,
            Self::UdpL4 => 5,
            Self::Other(other) => other,
        }
    }
}

/// The header's fields. Lengths and offsets are in bytes and count from the first byte of the IP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VnetHdr {
    /// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the transport checksum holds only the pseudo-header sum.
    pub needs_csum: bool,
    /// What the packet is cut into.
    pub gso_type: GsoType,
    /// Length of all headers. A hint: for forwarded packets the kernel may tell the first fragment's length.
    pub hdr_len: u16,
    /// Transport payload of each segment but the last.
    pub gso_size: u16,
    /// Where the transport header, and the checksummed range, starts.
    pub csum_start: u16,
    /// Where the checksum lies behind `csum_start`.
    pub csum_offset: u16,
}

impl VnetHdr {
    /// The header as the kernel gave it.
    pub fn parse(bytes: &[u8; VNET_HDR_LEN]) -> Self {
        let [flags, gso, h0, h1, s0, s1, c0, c1, o0, o1] = *bytes;
        Self {
            needs_csum: flags & F_NEEDS_CSUM != 0,
            gso_type: GsoType::from_byte(gso),
            hdr_len: u16::from_ne_bytes([h0, h1]),
            gso_size: u16::from_ne_bytes([s0, s1]),
            csum_start: u16::from_ne_bytes([c0, c1]),
            csum_offset: u16::from_ne_bytes([o0, o1]),
        }
    }

    /// The header for the kernel.
    pub fn emit(&self) -> [u8; VNET_HDR_LEN] {
        let [h0, h1] = self.hdr_len.to_ne_bytes();
        let [s0, s1] = self.gso_size.to_ne_bytes();
        let [c0, c1] = self.csum_start.to_ne_bytes();
        let [o0, o1] = self.csum_offset.to_ne_bytes();
        [if self.needs_csum { F_NEEDS_CSUM } else { 0 }, self.gso_type.byte(), h0, h1, s0, s1, c0, c1, o0, o1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_device_format() {
        for gso_type in [GsoType::None, GsoType::TcpV4, GsoType::TcpV6, GsoType::UdpL4, GsoType::Other(3)] {
            let header = VnetHdr {
                needs_csum: true,
                gso_type,
                hdr_len: 52,
                gso_size: 1356,
                csum_start: 20,
                csum_offset: 16,
            };
            assert_eq!(VnetHdr::parse(&header.emit()), header);
        }
    }

    #[test]
    fn the_ecn_bit_does_not_hide_the_type() {
        assert_eq!(VnetHdr::parse(&[1, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]).gso_type, GsoType::TcpV4);
    }
}
