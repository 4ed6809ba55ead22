//! Joining the packets of one receive batch into super-packets for the device.
//!
//! Writing one packet of 60 KB instead of 45 is the largest gain of the data path. A [`Coalescer`] is fed the
//! opened packets of one batch by their place in the receive buffer, then drained; nothing stays from batch to
//! batch and nothing is waited for. Payload is never copied: a super-packet is one edited header and a list of
//! slices for `writev`.
//!
//! Joined are consecutive TCP segments and UDP datagrams of one flow whose headers differ only in what cutting
//! restores, so that [`super::segment()`] of a super-packet gives the received packets back bit for bit (over
//! IPv4 with DF set the identification means nothing, RFC 6864, and may change). PSH or FIN ends a super-packet;
//! SYN, RST, URG and CWR never join. Checksums of joined packets are verified first, because the kernel trusts a
//! super-packet: a corrupt one stays alone and the kernel drops it. Packets of a flow keep their order.
//!
//! Bounds: [`MAX_BATCH`] packets; when full, [`Full`] tells the caller to drain first. It does not reorder, wait
//! or look into flows beyond their headers.

use std::io::IoSlice;

use super::checksum;
use super::headers::{Headers, Transport, be16, be32, put16};
use super::vnet::{GsoType, VNET_HDR_LEN, VnetHdr};

/// Packets in one batch: what the kernel joins into one UDP receive (`UDP_GRO_CNT_MAX`), twice.
pub const MAX_BATCH: usize = 128;
/// Segments in one super-packet; the kernel cuts UDP into no more (`UDP_MAX_SEGMENTS`).
pub const MAX_SEGMENTS: usize = 64;

const MAX_PACKET: usize = 65_535;
const CWR: u8 = 0x80;
const URG: u8 = 0x20;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
const RST: u8 = 0x04;
const SYN: u8 = 0x02;
const FIN: u8 = 0x01;

/// The batch is full: drain, then push again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// A packet or super-packet ready for the device.
#[derive(Debug)]
pub struct SuperPacket<'a> {
    /// The header, which is also the first of `parts`.
    pub header: VnetHdr,
    /// Header and packet in the order of one `writev`.
    pub parts: &'a [IoSlice<'a>],
    /// How many received packets it holds.
    pub packets: usize,
}

#[derive(Clone, Copy)]
struct Item {
    start: usize,
    len: usize,
    /// Next item of the same group.
    next: Option<u8>,
}

#[derive(Clone, Copy)]
struct Group {
    first: u8,
    last: u8,
    count: u8,
    /// Accepts no more packets.
    closed: bool,
    /// Checksums of the first packet: not looked at, or right.
    verified: bool,
    /// `None`: something that cannot be joined.
    at: Option<Headers>,
    hash: u32,
    /// Bytes of the super-packet so far.
    len: usize,
    /// Payload bytes of the first packet.
    size: usize,
    /// Sequence number that must come next.
    sequence: u32,
    /// Flags of the last packet.
    flags: u8,
}

/// The packets of one batch, grouped. See the module's documentation.
pub struct Coalescer {
    items: Vec<Item>,
    groups: Vec<Group>,
    udp: bool,
}

impl Coalescer {
    /// An empty one. `udp` joins UDP too; the device must have been opened with USO for that.
    pub fn new(udp: bool) -> Self {
        Self { items: Vec::with_capacity(MAX_BATCH), groups: Vec::with_capacity(MAX_BATCH), udp }
    }

    /// Whether nothing waits to be drained.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Adds the packet at `start..start + len` of `buffer`, which must not change until it is drained.
    ///
    /// # Errors
    /// [`Full`] at [`MAX_BATCH`] packets; nothing was added.
    pub fn push(&mut self, buffer: &[u8], start: usize, len: usize) -> Result<(), Full> {
        if self.items.len() >= MAX_BATCH {
            return Err(Full);
        }
        let packet = start.checked_add(len).and_then(|end| buffer.get(start..end)).unwrap_or_default();
        let candidate = Candidate::of(packet, self.udp);
        let index = self.items.len() as u8;
        if let Some(candidate) = &candidate
            && let Some(group) = self.latest(buffer, packet, candidate)
            && let Some(first) =
                self.groups.get(group).and_then(|g| self.items.get(usize::from(g.first))).copied()
            && self.groups.get_mut(group).is_some_and(|g| {
                g.joins(
                    buffer.get(first.start..first.start + first.len).unwrap_or_default(),
                    packet,
                    candidate,
                )
            })
        {
            self.append(group, index, candidate, packet.len());
        } else {
            if candidate.is_none() && is_irregular(packet) {
                // It may belong to any of the flows: none of them may overtake it.
                self.groups.iter_mut().for_each(|g| g.closed = true);
            }
            self.groups.push(Group::of(index, packet, candidate));
        }
        self.items.push(Item { start, len: packet.len(), next: None });
        Ok(())
    }

    /// The newest group of the packet's flow: the only one it may join, or order would be lost.
    fn latest(&self, buffer: &[u8], packet: &[u8], candidate: &Candidate) -> Option<usize> {
        let same_flow = |group: &Group| {
            group.hash == candidate.hash
                && group
                    .at
                    .is_some_and(|at| at.v6 == candidate.at.v6 && at.transport == candidate.at.transport)
                && self.items.get(usize::from(group.first)).is_some_and(|first| {
                    let ours = flow_key(packet, &candidate.at);
                    ours == flow_key(
                        buffer.get(first.start..first.start + first.len).unwrap_or_default(),
                        &candidate.at,
                    )
                })
        };
        let newest = self.groups.iter().rposition(same_flow)?;
        self.groups.get(newest).is_some_and(|g| !g.closed).then_some(newest)
    }

    fn append(&mut self, group: usize, index: u8, candidate: &Candidate, packet_len: usize) {
        let Some(group) = self.groups.get_mut(group) else { return };
        if let Some(tail) = self.items.get_mut(usize::from(group.last)) {
            tail.next = Some(index);
        }
        let payload = packet_len - candidate.at.payload;
        group.last = index;
        group.count += 1;
        group.len += payload;
        group.sequence = group.sequence.wrapping_add(payload as u32);
        group.flags = candidate.flags;
        group.closed = payload < group.size || candidate.flags & (PSH | FIN) != 0;
    }

    /// Hands every packet to `sink`, in order of each super-packet's first, and empties the batch.
    ///
    /// `buffer` is the one the packets were pushed from; headers of super-packets are edited in it.
    pub fn drain(&mut self, buffer: &mut [u8], mut sink: impl FnMut(SuperPacket<'_>)) {
        for group in &self.groups {
            let header = match self.items.get(usize::from(group.first)) {
                Some(first) => group.finish(buffer.get_mut(first.start..first.start + first.len)),
                None => continue,
            };
            let bytes: [u8; VNET_HDR_LEN] = header.emit();
            let mut parts = [IoSlice::new(&[]); MAX_SEGMENTS + 1];
            parts[0] = IoSlice::new(&bytes);
            let mut used = 1;
            let mut next = Some(group.first);
            while let Some(item) = next.and_then(|i| self.items.get(usize::from(i))) {
                let skip = if used == 1 { 0 } else { group.at.map_or(0, |at| at.payload) };
                let range = item.start + skip..item.start + item.len;
                if let (Some(part), Some(bytes)) = (parts.get_mut(used), buffer.get(range)) {
                    *part = IoSlice::new(bytes);
                    used += 1;
                }
                next = item.next;
            }
            let parts = parts.get(..used).unwrap_or_default();
            sink(SuperPacket { header, parts, packets: usize::from(group.count) });
        }
        self.items.clear();
        self.groups.clear();
    }
}

/// A fragment or a packet whose headers do not add up, as opposed to one of another protocol.
fn is_irregular(packet: &[u8]) -> bool {
    match packet.first().map(|b| b >> 4) {
        Some(4) => {
            matches!(packet.get(9), Some(&(super::headers::TCP | super::headers::UDP)))
                && Headers::of(packet).is_none()
        }
        Some(6) => Headers::of(packet).is_none() && packet.get(6) != Some(&58),
        _ => true,
    }
}

/// Addresses and ports, as they stand in the packet.
fn flow_key<'p>(packet: &'p [u8], at: &Headers) -> (&'p [u8], &'p [u8]) {
    (at.addresses(packet), packet.get(at.l4..at.l4 + 4).unwrap_or_default())
}

/// A packet of a flow that has offloads. It may still be one that never joins.
struct Candidate {
    at: Headers,
    hash: u32,
    flags: u8,
    sequence: u32,
    joinable: bool,
}

impl Candidate {
    fn of(packet: &[u8], udp: bool) -> Option<Self> {
        let at = Headers::of(packet)?;
        if at.transport == Transport::Udp && !udp {
            return None;
        }
        let (addresses, ports) = flow_key(packet, &at);
        // Any mix will do: the key is compared as well, and the batch is small.
        let hash = addresses.chunks(4).chain([ports]).fold(0u32, |mix, word| {
            mix.rotate_left(5).wrapping_mul(0x9e37_79b1) ^ be32(word, 0).unwrap_or_default()
        });
        let (flags, sequence) = match at.transport {
            Transport::Tcp => (*packet.get(at.l4 + 13)?, be32(packet, at.l4 + 4)?),
            Transport::Udp => (ACK, 0),
        };
        let joinable = flags & (CWR | URG | RST | SYN) == 0 && flags & ACK != 0 && packet.len() > at.payload;
        Some(Self { at, hash, flags, sequence, joinable })
    }
}

impl Group {
    fn of(index: u8, packet: &[u8], candidate: Option<Candidate>) -> Self {
        let mut group = Self {
            first: index,
            last: index,
            count: 1,
            closed: true,
            verified: false,
            at: None,
            hash: 0,
            len: packet.len(),
            size: 0,
            sequence: 0,
            flags: 0,
        };
        if let Some(candidate) = candidate {
            group.size = packet.len() - candidate.at.payload;
            group.sequence = candidate.sequence.wrapping_add(group.size as u32);
            group.flags = candidate.flags;
            group.closed = !candidate.joinable || candidate.flags & (PSH | FIN) != 0;
            group.hash = candidate.hash;
            group.at = Some(candidate.at);
        }
        group
    }

    /// Whether `packet` continues the group that `first` began; verifies checksums last, as that costs most.
    fn joins(&mut self, first: &[u8], packet: &[u8], candidate: &Candidate) -> bool {
        let Some(at) = self.at else { return false };
        let payload = packet.len() - candidate.at.payload;
        let fits = candidate.joinable
            && candidate.at == at
            && payload <= self.size
            && self.len + payload <= MAX_PACKET
            && usize::from(self.count) < MAX_SEGMENTS
            && (at.transport == Transport::Udp || candidate.sequence == self.sequence);
        if !fits || !same_ip(first, packet, &at, u16::from(self.count)) || !same_transport(first, packet, &at)
        {
            return false;
        }
        if !self.verified {
            if !at.checksums_hold(first) {
                self.closed = true;
                return false;
            }
            self.verified = true;
        }
        at.checksums_hold(packet)
    }

    /// Makes the first packet's headers those of the whole group.
    fn finish(&self, first: Option<&mut [u8]>) -> VnetHdr {
        let (Some(at), Some(first), true) = (self.at, first, self.count > 1) else {
            return VnetHdr::default();
        };
        at.set_length(first, self.len);
        if at.transport == Transport::Tcp
            && let Some(flags) = first.get_mut(at.l4 + 13)
        {
            *flags |= self.flags & (PSH | FIN);
        }
        let pseudo = checksum::pseudo_header(at.addresses(first), at.protocol(), self.len - at.l4);
        put16(first, at.l4 + at.checksum_offset(), checksum::fold(pseudo));
        VnetHdr {
            needs_csum: true,
            gso_type: match (at.transport, at.v6) {
                (Transport::Tcp, false) => GsoType::TcpV4,
                (Transport::Tcp, true) => GsoType::TcpV6,
                (Transport::Udp, _) => GsoType::UdpL4,
            },
            hdr_len: at.payload as u16,
            gso_size: self.size as u16,
            csum_start: at.l4 as u16,
            csum_offset: at.checksum_offset() as u16,
        }
    }
}

/// Whether the IP headers differ only in lengths and, `behind` packets later, in the identification.
fn same_ip(first: &[u8], packet: &[u8], at: &Headers, behind: u16) -> bool {
    if at.v6 {
        return first.get(..4) == packet.get(..4) && first.get(6..8) == packet.get(6..8);
    }
    const DF: u16 = 0x4000;
    let Some((ours, theirs)) = be16(first, 4).zip(be16(packet, 4)) else { return false };
    let df = be16(packet, 6).is_some_and(|flags| flags & DF != 0);
    first.get(1) == packet.get(1)
        && first.get(6..10) == packet.get(6..10)
        && (df || theirs == ours.wrapping_add(behind))
}

/// Whether the transport headers differ only in sequence number, checksum, PSH and FIN.
fn same_transport(first: &[u8], packet: &[u8], at: &Headers) -> bool {
    if at.transport == Transport::Udp {
        return true;
    }
    let l4 = at.l4;
    let flags = |p: &[u8]| p.get(l4 + 13).map(|f| f & !(PSH | FIN));
    first.get(l4 + 8..l4 + 13) == packet.get(l4 + 8..l4 + 13)
        && flags(first) == flags(packet)
        && first.get(l4 + 14..l4 + 16) == packet.get(l4 + 14..l4 + 16)
        && first.get(l4 + 18..at.payload) == packet.get(l4 + 18..at.payload)
}
