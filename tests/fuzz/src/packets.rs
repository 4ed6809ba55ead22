//! IPv4 and IPv6 packets of the usual kinds with right checksums, and a reference that judges them: written apart
//! from the core's own code, slow and plain.

use std::net::{IpAddr, SocketAddr};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// The ones' complement sum of 16-bit words.
pub(crate) fn sum(start: u32, bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    let mut total = bytes.chunks(2).map(word).fold(u64::from(start), |sum, word| sum + u64::from(word));
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A packet between two addresses of one family. `body` is the transport's header and payload; its checksum, at
/// `check`, is filled in.
pub(crate) fn ip(
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    id: u16,
    mut body: Vec<u8>,
    check: Option<usize>,
) -> Vec<u8> {
    let addresses = [octets(from), octets(to)].concat();
    if let Some(check) = check {
        let pseudo = u32::from(sum(0, &addresses)) + u32::from(protocol) + body.len() as u32;
        let value = match !sum(pseudo, &body) {
            0 => 0xffff,
            value => value,
        };
        body[check..check + 2].copy_from_slice(&value.to_be_bytes());
    }
    let mut packet = if from.is_ipv4() {
        let len = (20 + body.len() as u16).to_be_bytes();
        let mut head = vec![0x45, 0, len[0], len[1], (id >> 8) as u8, id as u8, 0, 0, 64, protocol, 0, 0];
        head.extend(&addresses);
        let check = (!sum(0, &head)).to_be_bytes();
        head[10..12].copy_from_slice(&check);
        head
    } else {
        let len = (body.len() as u16).to_be_bytes();
        let mut head = vec![0x60, 0, 0, 0, len[0], len[1], protocol, 64];
        head.extend(&addresses);
        head
    };
    packet.extend(body);
    packet
}

/// A UDP datagram.
pub(crate) fn udp(from: SocketAddr, to: SocketAddr, id: u16, payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len() as u16).to_be_bytes();
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes(), len, [0, 0]].concat();
    ip(from.ip(), to.ip(), UDP, id, [&ports, payload].concat(), Some(6))
}

/// A TCP segment.
pub(crate) fn tcp(from: SocketAddr, to: SocketAddr, flags: u8, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut body = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    body.extend(sequence.to_be_bytes());
    body.extend([0, 0, 0, 1, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    body.extend(payload);
    ip(from.ip(), to.ip(), TCP, 0, body, Some(16))
}

/// An ICMP echo request or reply.
pub(crate) fn echo(from: IpAddr, to: IpAddr, reply: bool, id: u16, payload: &[u8]) -> Vec<u8> {
    let [a, b] = id.to_be_bytes();
    let kind = match (from.is_ipv4(), reply) {
        (true, false) => 8,
        (true, true) => 0,
        (false, false) => 128,
        (false, true) => 129,
    };
    let mut body = [&[kind, 0, 0, 0, a, b, 0, 1][..], payload].concat();
    if from.is_ipv6() {
        return ip(from, to, 58, 0, body, Some(2));
    }
    let check = (!sum(0, &body)).to_be_bytes();
    body[2..4].copy_from_slice(&check);
    ip(from, to, 1, 0, body, None)
}

/// Whether header and transport checksum of a whole IPv4 or IPv6 packet without options are right.
pub(crate) fn is_sound(packet: &[u8]) -> bool {
    let (l4, protocol, addresses) = match packet.first().map(|b| b >> 4) {
        Some(4) if packet.len() >= 20 && sum(0, &packet[..20]) == 0xffff => (20, packet[9], &packet[12..20]),
        Some(6) if packet.len() >= 40 => (40, packet[6], &packet[8..40]),
        _ => return false,
    };
    let body = &packet[l4..];
    let pseudo = u32::from(sum(0, addresses)) + u32::from(protocol) + body.len() as u32;
    match protocol {
        UDP if body[6..8] == [0, 0] => l4 == 20,
        TCP | UDP | 58 => sum(pseudo, body) == 0xffff,
        _ => sum(0, body) == 0xffff,
    }
}
