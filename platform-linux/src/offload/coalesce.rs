//! Joining the packets of one receive batch into super-packets for the device.
//!
//! Writing one packet of 60 KB instead of 45 is the largest gain of the data path. A [`Coalescer`] is fed the
//! opened packets of one batch by their place in the receive buffer, then drained; nothing stays from batch to
//! batch and nothing is waited for. Payload is never copied: a super-packet is one edited header and a list of
//! slices for `writev`.
//!
//! Of a super-packet only the first packet's headers are written, so only that packet's addresses need be translated:
//! whether a packet [continues](Coalescer::join) another is told by what both [were](Seen) when they came.
//!
//! Joined are consecutive TCP segments and UDP datagrams of one flow whose headers differ only in what cutting
//! restores, so that [`super::segment()`] of a super-packet gives the received packets back bit for bit (over
//! IPv4 with DF set the identification means nothing, RFC 6864, and may change). PSH ends a super-packet; SYN, FIN and
//! RST, which whoever translates has to see, URG and CWR never join. Checksums of joined packets are verified first,
//! because the kernel trusts a super-packet: a corrupt one stays alone and the kernel drops it. Packets of a flow keep
//! their order.
//!
//! Bounds: [`MAX_BATCH`] packets; when full, [`Full`] tells the caller to drain first. It does not reorder, wait
//! or look into flows beyond their headers.

use std::io::IoSlice;
use std::ops::Range;

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

struct Group {
    first: u8,
    last: u8,
    count: u8,
    /// Accepts no more packets.
    closed: bool,
    /// Checksums of the first packet: not looked at, or right.
    verified: bool,
    /// The first packet when it came; `None`: something that cannot be joined.
    seen: Option<Candidate>,
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
        let place = start..start.saturating_add(len);
        let seen = self.look(buffer.get(place.clone()).unwrap_or_default(), 0);
        if self.join(buffer, place.clone(), &seen) { Ok(()) } else { self.begin(buffer, place, &seen) }
    }

    /// Looks at a packet that came from `origin`. Packets of two origins never join.
    pub fn look(&self, packet: &[u8], origin: u32) -> Seen {
        Seen(Candidate::of(packet, origin, self.udp))
    }

    /// Adds the packet at `place` of `buffer` if it continues another one, and says so. It is as it came, and `seen`.
    pub fn join(&mut self, buffer: &[u8], place: Range<usize>, seen: &Seen) -> bool {
        let (Some(candidate), Some(packet)) = (&seen.0, buffer.get(place.clone())) else { return false };
        if self.items.len() >= MAX_BATCH {
            return false;
        }
        // The newest group of the packet's flow is the only one it may join, or order would be lost.
        let same_flow = |group: &Group| group.seen.as_ref().is_some_and(|seen| seen.key == candidate.key);
        let Some(group) = self.groups.iter_mut().rfind(|group| same_flow(group)) else { return false };
        let Some(first) = self.items.get(usize::from(group.first)) else { return false };
        let first = buffer.get(first.start..first.start + first.len).unwrap_or_default();
        if group.closed || !group.joins(first, packet, candidate) {
            return false;
        }
        let index = self.items.len() as u8;
        if let Some(tail) = self.items.get_mut(usize::from(group.last)) {
            tail.next = Some(index);
        }
        group.append(index, candidate, packet.len());
        self.items.push(Item { start: place.start, len: packet.len(), next: None });
        true
    }

    /// Adds the packet at `place` of `buffer` as one that others may continue: as it is to be written, with `seen` as it
    /// came. The buffer must not change until it is drained.
    ///
    /// # Errors
    /// [`Full`] at [`MAX_BATCH`] packets; nothing was added.
    pub fn begin(&mut self, buffer: &[u8], place: Range<usize>, seen: &Seen) -> Result<(), Full> {
        if self.items.len() >= MAX_BATCH {
            return Err(Full);
        }
        let packet = buffer.get(place.clone()).unwrap_or_default();
        if seen.0.is_none() && is_irregular(packet) {
            // It may belong to any of the flows: none of them may overtake it.
            self.groups.iter_mut().for_each(|group| group.closed = true);
        }
        self.groups.push(Group::of(self.items.len() as u8, packet, seen.0));
        self.items.push(Item { start: place.start, len: packet.len(), next: None });
        Ok(())
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
                let skip = if used == 1 { 0 } else { group.seen.map_or(0, |seen| seen.at.payload) };
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

/// What a packet was when it came, before anything in it was translated.
#[derive(Clone, Copy)]
pub struct Seen(Option<Candidate>);

/// Whose packet, and of which flow.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    /// First, as they differ most.
    ports: [u8; 4],
    origin: u32,
    transport: Transport,
    v6: bool,
    /// Zeros behind those of IPv4.
    addresses: [u8; 32],
}

/// A packet of a flow that has offloads. It may still be one that never joins.
#[derive(Clone, Copy)]
struct Candidate {
    at: Headers,
    key: Key,
    flags: u8,
    sequence: u32,
    joinable: bool,
}

impl Candidate {
    fn of(packet: &[u8], origin: u32, udp: bool) -> Option<Self> {
        let at = Headers::of(packet)?;
        if at.transport == Transport::Udp && !udp {
            return None;
        }
        let ports = *packet.get(at.l4..)?.first_chunk()?;
        let mut key = Key { ports, origin, transport: at.transport, v6: at.v6, addresses: [0; 32] };
        let addresses = at.addresses(packet);
        key.addresses.get_mut(..addresses.len())?.copy_from_slice(addresses);
        let (flags, sequence) = match at.transport {
            Transport::Tcp => (*packet.get(at.l4 + 13)?, be32(packet, at.l4 + 4)?),
            Transport::Udp => (ACK, 0),
        };
        let alone = CWR | URG | RST | SYN | FIN;
        let joinable = flags & alone == 0 && flags & ACK != 0 && packet.len() > at.payload;
        Some(Self { at, key, flags, sequence, joinable })
    }
}

impl Group {
    fn of(index: u8, packet: &[u8], seen: Option<Candidate>) -> Self {
        let mut group = Self {
            first: index,
            last: index,
            count: 1,
            closed: true,
            verified: false,
            seen,
            len: packet.len(),
            size: 0,
            sequence: 0,
            flags: 0,
        };
        if let Some(seen) = seen {
            group.size = packet.len().saturating_sub(seen.at.payload);
            group.sequence = seen.sequence.wrapping_add(group.size as u32);
            group.flags = seen.flags;
            group.closed = !seen.joinable || seen.flags & PSH != 0;
        }
        group
    }

    fn append(&mut self, index: u8, candidate: &Candidate, len: usize) {
        let payload = len - candidate.at.payload;
        self.last = index;
        self.count += 1;
        self.len += payload;
        self.sequence = self.sequence.wrapping_add(payload as u32);
        self.flags = candidate.flags;
        self.closed = payload < self.size || candidate.flags & PSH != 0;
    }

    /// Whether `packet` continues the group that `first` began; verifies checksums last, as that costs most.
    fn joins(&mut self, first: &[u8], packet: &[u8], candidate: &Candidate) -> bool {
        let Some(Candidate { at, .. }) = self.seen else { return false };
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
        let (Some(Candidate { at, .. }), Some(first), true) = (self.seen, first, self.count > 1) else {
            return VnetHdr::default();
        };
        at.set_length(first, self.len);
        if at.transport == Transport::Tcp
            && let Some(flags) = first.get_mut(at.l4 + 13)
        {
            *flags |= self.flags & PSH;
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

/// Whether the transport headers differ only in sequence number, checksum and PSH.
fn same_transport(first: &[u8], packet: &[u8], at: &Headers) -> bool {
    if at.transport == Transport::Udp {
        return true;
    }
    let l4 = at.l4;
    let flags = |p: &[u8]| p.get(l4 + 13).map(|f| f & !PSH);
    first.get(l4 + 8..l4 + 13) == packet.get(l4 + 8..l4 + 13)
        && flags(first) == flags(packet)
        && first.get(l4 + 14..l4 + 16) == packet.get(l4 + 14..l4 + 16)
        && first.get(l4 + 18..at.payload) == packet.get(l4 + 18..at.payload)
}
