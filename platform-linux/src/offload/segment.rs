//! Cutting a super-packet into the packets that travel.
//!
//! The kernel hands a whole TCP or UDP burst over as one packet whose checksum field holds the sum of the
//! pseudo-header. After it was translated once, [`segment`] lays its segments out in one buffer, each with the
//! room in front and behind that sealing needs, and completes every checksum. Pure; nothing is kept. Bounds: the
//! output buffer ([`SEGMENT_BUFFER`] is enough for the smallest segment Linux makes). It does not choose sizes
//! (the kernel did) and does not repair packets: what does not add up is refused.

use core::ops::Range;

use edgemesh_core::packet::{HEADROOM, TAILROOM};
use edgemesh_core::wire::ip;

use super::checksum;
use super::headers::{Headers, Transport, be16, be32, put16, put32};
use super::vnet::{GsoType, VnetHdr};

/// Bytes that hold any super-packet of at most 61,072 bytes once cut: Linux makes no TCP segment below 48 bytes
/// of payload (`tcp_min_snd_mss`).
pub const SEGMENT_BUFFER: usize = 256 * 1024;

const CWR: u8 = 0x80;
const PSH: u8 = 0x08;
const FIN: u8 = 0x01;

/// Why a packet from the device cannot be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentError {
    /// Header fields and packet disagree, or it is a kind that was not asked for.
    Malformed,
    /// The segments do not fit into the output buffer.
    NoRoom,
}

/// Where the segments lie in the output buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segments {
    count: usize,
    stride: usize,
    full: usize,
    last: usize,
}

impl Segments {
    /// How many there are; at least one.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The bytes of segment `i`.
    pub fn range(&self, i: usize) -> Range<usize> {
        let start = i * self.stride + HEADROOM;
        let len = if i + 1 == self.count { self.last } else { self.full };
        start..start + len
    }

    /// Each segment's own part of `buffer`, headroom and tailroom included, with the segment's length; it starts
    /// at [`HEADROOM`]. The parts do not overlap, so each may be sealed in place.
    pub fn slots<'b>(&self, buffer: &'b mut [u8]) -> impl Iterator<Item = (&'b mut [u8], usize)> + use<'b> {
        let Self { count, stride, full, last } = *self;
        buffer
            .chunks_mut(stride)
            .take(count)
            .enumerate()
            .map(move |(i, slot)| (slot, if i + 1 == count { last } else { full }))
    }
}

/// How many IP packets `packet` is on the wire, and how long the longest is, in bytes.
///
/// # Errors
/// As [`segment`].
pub fn count(header: &VnetHdr, packet: &[u8]) -> Result<(u16, u16), SegmentError> {
    let short = |n: usize| u16::try_from(n).map_err(|_| SegmentError::Malformed);
    match Plan::of(header, packet)? {
        Some(plan) => {
            let segments = plan.layout(packet.len());
            Ok((short(segments.count)?, short(segments.full.max(segments.last))?))
        }
        None => Ok((1, short(packet.len())?)),
    }
}

/// Lays the IP fragments of `packet`, none longer than `mtu`, out in `out`.
///
/// # Errors
/// [`SegmentError`]; `out` then holds rubbish.
pub fn fragment(packet: &[u8], mtu: u16, out: &mut [u8]) -> Result<Segments, SegmentError> {
    let t = ip::Transport::parse(packet).map_err(|_| SegmentError::Malformed)?;
    let stride = HEADROOM + usize::from(mtu) + TAILROOM;
    let (mut full, mut last, mut number) = (0, 0, 0);
    for slot in out.chunks_exact_mut(stride) {
        let room = &mut slot[HEADROOM..HEADROOM + usize::from(mtu)];
        match ip::split(packet, &t, mtu, number, room).map_err(|_| SegmentError::Malformed)? {
            Some(len) => (full, last, number) = (if number == 0 { len } else { full }, len, number + 1),
            None => return Ok(Segments { count: number.into(), stride, full, last }),
        }
    }
    Err(SegmentError::NoRoom)
}

/// Completes the checksum of a packet that is not cut, in place.
///
/// # Errors
/// [`SegmentError::Malformed`] when the checksum lies outside the packet; the packet is unchanged.
pub fn finish_checksum(header: &VnetHdr, packet: &mut [u8]) -> Result<(), SegmentError> {
    if !header.needs_csum {
        return Ok(());
    }
    let start = usize::from(header.csum_start);
    let at = start + usize::from(header.csum_offset);
    let range = packet.get(start..).ok_or(SegmentError::Malformed)?;
    if at + 2 > packet.len() {
        return Err(SegmentError::Malformed);
    }
    put16(packet, at, never_zero(!checksum::fold(checksum::sum(range))));
    Ok(())
}

/// A computed checksum of zero is sent as all ones: for UDP zero means «none» (RFC 768), for TCP both are right.
fn never_zero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// Lays the segments of `packet` out in `out` and completes their checksums.
///
/// A packet that is not a super-packet becomes one segment.
///
/// # Errors
/// [`SegmentError`]; `out` then holds rubbish.
pub fn segment(header: &VnetHdr, packet: &[u8], out: &mut [u8]) -> Result<Segments, SegmentError> {
    let Some(plan) = Plan::of(header, packet)? else {
        return copy_one(header, packet, out);
    };
    let segments = plan.layout(packet.len());
    if segments.count.checked_mul(segments.stride).is_none_or(|need| need > out.len()) {
        return Err(SegmentError::NoRoom);
    }
    let (headers, payload) = packet.split_at(plan.at.payload);
    for (i, piece) in payload.chunks(plan.size).enumerate() {
        let to = out.get_mut(segments.range(i)).ok_or(SegmentError::NoRoom)?;
        let (to_headers, to_payload) = to.split_at_mut(headers.len());
        to_headers.copy_from_slice(headers);
        to_payload.copy_from_slice(piece);
        plan.finish(to, i, i + 1 == segments.count);
    }
    Ok(segments)
}

fn copy_one(header: &VnetHdr, packet: &[u8], out: &mut [u8]) -> Result<Segments, SegmentError> {
    let stride = HEADROOM + packet.len() + TAILROOM;
    let segments = Segments { count: 1, stride, full: packet.len(), last: packet.len() };
    if stride > out.len() {
        return Err(SegmentError::NoRoom);
    }
    let to = out.get_mut(segments.range(0)).ok_or(SegmentError::NoRoom)?;
    to.copy_from_slice(packet);
    finish_checksum(header, to)?;
    Ok(segments)
}

/// What is the same for all segments of one super-packet.
struct Plan {
    at: Headers,
    /// Payload bytes of each segment but the last.
    size: usize,
    /// The pseudo-header's sum without its length.
    seed: u64,
    /// First value of the fields that count up.
    id: u16,
    sequence: u32,
    flags: u8,
}

impl Plan {
    /// Checks that header and packet agree; `None` when the packet is not to be cut.
    fn of(header: &VnetHdr, packet: &[u8]) -> Result<Option<Self>, SegmentError> {
        let transport = match header.gso_type {
            GsoType::None => return Ok(None),
            GsoType::TcpV4 | GsoType::TcpV6 => Transport::Tcp,
            GsoType::UdpL4 => Transport::Udp,
            GsoType::Other(_) => return Err(SegmentError::Malformed),
        };
        let at = Headers::of(packet).ok_or(SegmentError::Malformed)?;
        let sound = at.transport == transport
            && (transport == Transport::Udp || at.v6 == (header.gso_type == GsoType::TcpV6))
            && header.needs_csum
            && usize::from(header.csum_start) == at.l4
            && usize::from(header.csum_offset) == at.checksum_offset()
            && header.gso_size > 0
            && packet.len() > at.payload;
        if !sound {
            return Err(SegmentError::Malformed);
        }
        let field = be16(packet, at.l4 + at.checksum_offset()).ok_or(SegmentError::Malformed)?;
        let length = (packet.len() - at.l4) as u16;
        let tcp = transport == Transport::Tcp;
        Ok(Some(Self {
            at,
            size: usize::from(header.gso_size),
            seed: u64::from(field) + u64::from(!length),
            id: if at.v6 { 0 } else { be16(packet, 4).unwrap_or_default() },
            sequence: if tcp { be32(packet, at.l4 + 4).unwrap_or_default() } else { 0 },
            flags: if tcp { packet.get(at.l4 + 13).copied().unwrap_or_default() } else { 0 },
        }))
    }

    fn layout(&self, len: usize) -> Segments {
        let payload = len - self.at.payload;
        let count = payload.div_ceil(self.size);
        let last = self.at.payload + payload - (count - 1) * self.size;
        let full = if count == 1 { last } else { self.at.payload + self.size };
        Segments { count, stride: HEADROOM + full + TAILROOM, full, last }
    }

    /// Makes the copied headers those of segment `i`.
    fn finish(&self, packet: &mut [u8], i: usize, last: bool) {
        let at = &self.at;
        if !at.v6 {
            put16(packet, 4, self.id.wrapping_add(i as u16));
        }
        at.set_length(packet, packet.len());
        if at.transport == Transport::Tcp {
            let mut flags = self.flags;
            if i > 0 {
                flags &= !CWR;
            }
            if !last {
                flags &= !(FIN | PSH);
            }
            put32(packet, at.l4 + 4, self.sequence.wrapping_add((i * self.size) as u32));
            if let Some(to) = packet.get_mut(at.l4 + 13) {
                *to = flags;
            }
        }
        let field = at.l4 + at.checksum_offset();
        put16(packet, field, 0);
        let transport = packet.get(at.l4..).unwrap_or_default();
        let total = self.seed + transport.len() as u64 + checksum::sum(transport);
        put16(packet, field, never_zero(!checksum::fold(total)));
    }
}
