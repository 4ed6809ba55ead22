//! The smallest TCP segments over IPv4, written and read apart from the core's code, to check that.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use edgemesh_core::packet::{HEADROOM, Packet};
use edgemesh_core::wire::ip::TCP;

/// A TCP segment without data in `buffer`, behind the headroom that sealing needs, checksums in place.
pub fn tcp<'b>(
    buffer: &'b mut [u8],
    from: SocketAddr,
    to: SocketAddr,
    flags: u8,
) -> Result<Packet<'b>, &'static str> {
    let (IpAddr::V4(source), IpAddr::V4(target)) = (from.ip(), to.ip()) else { return Err("not IPv4") };
    let segment =
        buffer.get_mut(HEADROOM..).and_then(|room| room.first_chunk_mut::<40>()).ok_or("a short buffer")?;
    *segment = [0; 40];
    segment[..4].copy_from_slice(&[0x45, 0, 0, 40]);
    (segment[8], segment[9]) = (64, TCP);
    segment[12..16].copy_from_slice(&source.octets());
    segment[16..20].copy_from_slice(&target.octets());
    segment[20..22].copy_from_slice(&from.port().to_be_bytes());
    segment[22..24].copy_from_slice(&to.port().to_be_bytes());
    (segment[32], segment[33]) = (5 << 4, flags);
    let header = !ones_sum(&segment[..20], 0);
    segment[10..12].copy_from_slice(&header.to_be_bytes());
    let sum = !ones_sum(&segment[12..], u32::from(TCP) + 20);
    segment[36..38].copy_from_slice(&sum.to_be_bytes());
    Packet::new(buffer, HEADROOM, 40).map_err(|reason| reason.name())
}

/// Source and destination of such a segment, if both checksums hold.
pub fn ends(packet: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let segment = packet.first_chunk::<40>()?;
    let sums = [ones_sum(&segment[..20], 0), ones_sum(&segment[12..], u32::from(TCP) + 20)];
    let end = |address: usize, port: usize| {
        let ip = Ipv4Addr::from(*segment[address..].first_chunk::<4>()?);
        Some(SocketAddr::new(ip.into(), u16::from_be_bytes(*segment[port..].first_chunk()?)))
    };
    Some((end(12, 20)?, end(16, 22)?)).filter(|_| sums == [0xffff; 2])
}

/// The one's complement sum of big-endian words (RFC 1071), written apart from the core's to check that one.
fn ones_sum(words: &[u8], start: u32) -> u16 {
    let sum = words.chunks_exact(2).fold(start, |sum, w| sum + u32::from(u16::from_be_bytes([w[0], w[1]])));
    let folded = (sum >> 16) + (sum & 0xffff);
    (folded + (folded >> 16)) as u16
}
