//! Packets for tests, built and checked the slow way: every checksum over every byte.

use super::*;
use std::vec;
use std::vec::Vec;

/// What to build.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) body: Vec<u8>,
    /// Fragment identification, offset in bytes, more fragments.
    pub(crate) fragment: Option<(u32, u16, bool)>,
    /// IPv4 options or IPv6 destination options, a multiple of 8 bytes.
    pub(crate) options: usize,
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn spec(src: &str, dst: &str, protocol: u8, body: Vec<u8>) -> Spec {
    Spec { src: ip(src), dst: ip(dst), protocol, body, fragment: None, options: 0 }
}

pub(crate) fn tcp(src: (&str, u16), dst: (&str, u16), flags: u8, data: &[u8]) -> Vec<u8> {
    spec(src.0, dst.0, TCP, tcp_body(src.1, dst.1, flags, &[], data)).build()
}

pub(crate) fn udp(src: (&str, u16), dst: (&str, u16), data: &[u8]) -> Vec<u8> {
    spec(src.0, dst.0, UDP, udp_body(src.1, dst.1, data)).build()
}

pub(crate) fn echo(src: &str, dst: &str, request: bool, id: u16) -> Vec<u8> {
    let v6 = ip(src).is_ipv6();
    let message = match (v6, request) {
        (false, true) => 8,
        (false, false) => 0,
        (true, true) => 128,
        (true, false) => 129,
    };
    let [high, low] = id.to_be_bytes();
    let body = vec![message, 0, 0, 0, high, low, 0, 1, b'p', b'i', b'n', b'g', b'!'];
    spec(src, dst, if v6 { ICMPV6 } else { ICMP }, body).build()
}

pub(crate) fn tcp_body(src: u16, dst: u16, flags: u8, options: &[u8], data: &[u8]) -> Vec<u8> {
    let mut body = vec![0; 20];
    body[..2].copy_from_slice(&src.to_be_bytes());
    body[2..4].copy_from_slice(&dst.to_be_bytes());
    body[4..8].copy_from_slice(&1000u32.to_be_bytes());
    body[8..12].copy_from_slice(&2000u32.to_be_bytes());
    body[12] = (((20 + options.len()) / 4) << 4) as u8;
    body[13] = flags;
    body.extend_from_slice(options);
    body.extend_from_slice(data);
    body
}

pub(crate) fn udp_body(src: u16, dst: u16, data: &[u8]) -> Vec<u8> {
    let mut body = vec![0; 8];
    body[..2].copy_from_slice(&src.to_be_bytes());
    body[2..4].copy_from_slice(&dst.to_be_bytes());
    body[4..6].copy_from_slice(&((8 + data.len()) as u16).to_be_bytes());
    body.extend_from_slice(data);
    body
}

pub(crate) fn sctp_body(src: u16, dst: u16, data: &[u8]) -> Vec<u8> {
    let mut body = vec![0; 12];
    body[..2].copy_from_slice(&src.to_be_bytes());
    body[2..4].copy_from_slice(&dst.to_be_bytes());
    body.extend_from_slice(data);
    body
}

impl Spec {
    /// The packet with right checksums.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut packet = self.header();
        let l4 = packet.len();
        packet.extend_from_slice(&self.body);
        if self.fragment.is_none_or(|(_, offset, _)| offset == 0) {
            fill(&mut packet, l4, self.protocol, Checksum::Complete);
        }
        packet
    }

    fn header(&self) -> Vec<u8> {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let header = 20 + self.options;
                let mut out = vec![0; header];
                out[20..].fill(1); // no-operation options
                out[0] = 0x40 | (header / 4) as u8;
                out[2..4].copy_from_slice(&((header + self.body.len()) as u16).to_be_bytes());
                if let Some((id, offset, more)) = self.fragment {
                    out[4..6].copy_from_slice(&(id as u16).to_be_bytes());
                    let field = (offset / 8) | if more { 0x2000 } else { 0 };
                    out[6..8].copy_from_slice(&field.to_be_bytes());
                }
                if self.protocol == TCP {
                    out[6] |= 0x40; // don't fragment
                }
                out[8] = 63;
                out[9] = self.protocol;
                out[12..16].copy_from_slice(&src.octets());
                out[16..20].copy_from_slice(&dst.octets());
                let check = !slow_sum(&out);
                out[10..12].copy_from_slice(&check.to_be_bytes());
                out
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut chain = Vec::new();
                let mut next = self.protocol;
                if let Some((id, offset, more)) = self.fragment {
                    let [a, b] = (offset | u16::from(more)).to_be_bytes();
                    chain.extend_from_slice(&[next, 0, a, b]);
                    chain.extend_from_slice(&id.to_be_bytes());
                    next = 44;
                }
                if self.options > 0 {
                    let mut options = vec![0; self.options];
                    options[0] = next;
                    options[1] = (self.options / 8 - 1) as u8;
                    options[2] = 1;
                    options[3] = (self.options - 4) as u8;
                    options.extend_from_slice(&chain);
                    chain = options;
                    next = 60;
                }
                let mut out = vec![0; 40];
                out[0] = 0x60;
                out[4..6].copy_from_slice(&((chain.len() + self.body.len()) as u16).to_be_bytes());
                out[6] = next;
                out[7] = 63;
                out[8..24].copy_from_slice(&src.octets());
                out[24..40].copy_from_slice(&dst.octets());
                out.extend_from_slice(&chain);
                out
            }
            _ => panic!("mixed families"),
        }
    }
}

/// Ones' complement sum, word by word.
pub(crate) fn slow_sum(bytes: &[u8]) -> u16 {
    let mut total = 0u32;
    for pair in bytes.chunks(2) {
        total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        if total > 0xffff {
            total -= 0xffff;
        }
    }
    total as u16
}

fn pseudo(packet: &[u8], l4: usize, protocol: u8) -> u16 {
    let mut words = if packet[0] >> 4 == 4 { packet[12..20].to_vec() } else { packet[8..40].to_vec() };
    words.extend_from_slice(&((packet.len() - l4) as u32).to_be_bytes());
    words.extend_from_slice(&u32::from(protocol).to_be_bytes());
    slow_sum(&words)
}

/// CRC32c the slow way.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        for bit in 0..8 {
            let odd = (crc ^ u32::from(byte >> bit)) & 1 == 1;
            crc = (crc >> 1) ^ if odd { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

/// An SCTP packet with this verification tag and one chunk.
pub(crate) fn sctp(src: (&str, u16), dst: (&str, u16), tag: u32, chunk: u8, value: &[u8]) -> Vec<u8> {
    let mut body = sctp_body(src.1, dst.1, &[chunk, 0]);
    body[4..8].copy_from_slice(&tag.to_be_bytes());
    body.extend_from_slice(&((value.len() + 4) as u16).to_be_bytes());
    body.extend_from_slice(value);
    spec(src.0, dst.0, SCTP, body).build()
}

/// Writes the transport checksum, complete or partial.
pub(crate) fn fill(packet: &mut [u8], l4: usize, protocol: u8, checksum: Checksum) {
    let offset = match protocol {
        TCP => 16,
        UDP => 6,
        ICMP | ICMPV6 => 2,
        SCTP => {
            packet[l4 + 8..l4 + 12].fill(0);
            let crc = crc32c(&packet[l4..]).to_le_bytes();
            packet[l4 + 8..l4 + 12].copy_from_slice(&crc);
            return;
        }
        _ => return,
    };
    let at = l4 + offset;
    packet[at..at + 2].fill(0);
    let start = if protocol == ICMP { 0 } else { pseudo(packet, l4, protocol) };
    let field = match checksum {
        Checksum::Partial => start,
        Checksum::Complete => {
            let mut words = start.to_be_bytes().to_vec();
            words.extend_from_slice(&packet[l4..]);
            match (protocol, !slow_sum(&words)) {
                (UDP, 0) => 0xffff,
                (_, check) => check,
            }
        }
    };
    packet[at..at + 2].copy_from_slice(&field.to_be_bytes());
}

/// Panics unless every checksum of the whole packet (and of a whole quoted one) is what [`fill`] would write.
pub(crate) fn verify(packet: &[u8], checksum: Checksum) -> Transport {
    let t = Transport::parse(packet).unwrap();
    let packet = &packet[..t.end];
    if packet[0] >> 4 == 4 {
        let header = &packet[..usize::from(packet[0] & 15) * 4];
        assert_eq!(slow_sum(header), 0xffff, "IPv4 header checksum");
    }
    if t.fragment == Fragment::None {
        let mut again = packet.to_vec();
        fill(&mut again, t.l4, t.protocol, checksum);
        assert_eq!(again, packet, "transport checksum");
    }
    t
}
