//! From the TUN to the network.

use super::super::park::Origin;
use super::batch::sealed;
use super::handover::Handed;
use super::{BYTES, Data, stream};
use crate::clock;
use crate::offload::{self, GsoType, SegmentError, VnetHdr};
use crate::tun::MAX_PACKET;
use crate::udp::MAX_BURST;
use edgemesh_aead::FastChaChaPoly;
use edgemesh_core::node::{Burst, Destination, Grant, Outbound, Way};
use edgemesh_core::packet::{HEADROOM, Packet};
use edgemesh_core::service::Serves;
use edgemesh_core::time::Instant;
use edgemesh_core::tunnel;
use edgemesh_core::wire::ip::Checksum;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::Range;

/// Packets in one turn, unless they are so long that less is enough.
const PACKETS: usize = 64;

/// How a packet came, in the engine's terms.
fn burst(header: &VnetHdr, packet: &[u8]) -> Result<Burst, SegmentError> {
    let checksum = if header.needs_csum { Checksum::Partial } else { Checksum::Complete };
    let (segments, largest) = offload::count(header, packet)?;
    Ok(Burst { checksum, segments, largest })
}

impl Data {
    /// Carries what waits at the TUN, up to a turn of it: first single packets, then super-packets ([`Long`]).
    ///
    /// # Errors
    /// When the device is gone.
    ///
    /// [`Long`]: super::long::Long
    pub(super) fn read_tun(&mut self) -> io::Result<()> {
        let mut packets = 0;
        while packets < PACKETS && self.long.has_room() {
            match self.tun.read(&mut self.packet[HEADROOM..HEADROOM + MAX_PACKET]) {
                Ok(Some((header, len))) => {
                    self.traffic.tun_read += 1;
                    packets += 1;
                    if !self.long.keeps(&header, len, &mut self.packet) {
                        self.turn(&header, len);
                    }
                }
                Ok(None) => break,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => self.traffic.tun_errors += 1,
                Err(error) => return Err(error),
            }
        }
        let mut bytes = 0;
        while bytes < BYTES
            && let Some((header, len)) = self.long.next(&mut self.packet)
        {
            self.turn(&header, len);
            bytes += len;
        }
        self.flush();
        Ok(())
    }

    /// Carries the packet of `len` bytes in the packet buffer, and what the engine has to say about it.
    fn turn(&mut self, header: &VnetHdr, len: usize) {
        let now = clock::now();
        // What is sent seldom brings the engine to say something, which can wait until the turn ends.
        if !self.outbound(now, header, len) {
            self.drain(now);
        }
    }

    /// Carries the packet of `len` bytes in the packet buffer; whether it was sent.
    pub(super) fn outbound(&mut self, now: Instant, header: &VnetHdr, len: usize) -> bool {
        if self.put_back(len) {
            return false;
        }
        let Ok(mut packet) = Packet::new(&mut self.packet, HEADROOM, len) else { return false };
        let Ok(burst) = burst(header, packet.bytes()) else {
            self.traffic.tun_errors += 1;
            return false;
        };
        let mut verdict = self.engine.outbound(now, &mut packet, burst);
        let len = packet.len();
        if let Outbound::HandOver(endpoint) = verdict {
            match self.hand_over(now, len, burst.checksum, endpoint) {
                Handed::Over => {
                    self.traffic.handed_over += 1;
                    self.led(now, endpoint.ip());
                    verdict = Outbound::Hairpin;
                }
                Handed::Not => {
                    self.traffic.not_handed_over += 1;
                    let Ok(mut packet) = Packet::new(&mut self.packet, HEADROOM, len) else { return false };
                    self.engine.keep_flow(&packet);
                    verdict = self.engine.outbound(now, &mut packet, burst);
                }
                Handed::Lost => self.traffic.handover_lost += 1,
            }
        }
        self.carry(header, len, verdict);
        matches!(verdict, Outbound::Seal(_))
    }

    /// Has the kernel carry the connection of the packet in the packet buffer, if it can.
    fn hand_over(&mut self, now: Instant, len: usize, checksum: Checksum, endpoint: SocketAddr) -> Handed {
        let Some(handover) = &mut self.handover else { return Handed::Not };
        let packet = &mut self.packet[HEADROOM..HEADROOM + len];
        let (services, own) = (self.engine.services(), self.engine.own_index());
        let is_own =
            |protocol| services.serves(own, protocol, endpoint.ip(), endpoint.port()) != Serves::Nothing;
        handover.take(now, packet, checksum, endpoint, is_own)
    }

    /// Carries a translated packet in the packet buffer whose peer has a session now.
    pub(super) fn resume(&mut self, now: Instant, header: &VnetHdr, len: usize, index: u32) {
        let bytes = &self.packet[HEADROOM..HEADROOM + len];
        let Ok(burst) = burst(header, bytes) else { return };
        let verdict = self.engine.resume(now, index, burst, len);
        self.carry(header, len, verdict);
    }

    fn carry(&mut self, header: &VnetHdr, len: usize, verdict: Outbound) {
        let packet = &self.packet[HEADROOM..HEADROOM + len];
        match verdict {
            Outbound::Seal(grant) => self.send(header, len, &grant),
            Outbound::Hairpin => {
                let written = self.tun.write_with(header, packet);
                self.wrote(written);
            }
            Outbound::Reply(len) => {
                let written = self.tun.write_packet(&packet[..len]);
                self.wrote(written);
            }
            Outbound::Park(ticket) => self.parking.park(ticket, Origin::Tun(*header), packet),
            Outbound::Drop(_) | Outbound::HandOver(_) => {}
        }
    }

    pub(super) fn wrote(&mut self, result: io::Result<()>) {
        match result {
            Ok(()) => self.traffic.tun_written += 1,
            Err(_) => self.traffic.tun_errors += 1,
        }
    }

    /// Cuts the packet in the packet buffer into segments, seals and sends them. One that is not cut leaves with the
    /// next ones, if those follow at once ([`Data::flush`]).
    pub(super) fn send(&mut self, header: &VnetHdr, len: usize, grant: &Grant) {
        let single = header.gso_type == GsoType::None && grant.split.is_none();
        if !single || !self.batch.takes(grant, len) {
            self.flush();
        }
        let packet = &self.packet[HEADROOM..HEADROOM + len];
        let start = self.batch.end();
        let room = &mut self.segments[start..];
        let segments = match grant.split {
            Some(mtu) => offload::fragment(packet, mtu, room),
            None => offload::segment(header, packet, room),
        };
        let Ok(segments) = segments else {
            self.traffic.tun_errors += 1;
            return;
        };
        let Some(key) = self.engine.tunnels().send_key::<FastChaChaPoly>(grant.sending.key) else { return };
        for ((slot, len), counter) in segments.slots(room).zip(grant.sending.first..) {
            let Ok(mut packet) = Packet::new(slot, HEADROOM, len) else { return };
            // Segments of one burst must be of one size, so none is padded less than the others.
            if tunnel::seal(&key, counter, &mut packet, usize::MAX).is_err() {
                return;
            }
        }
        self.batch.ways = [Some(grant.first), grant.copy];
        let places = (0..segments.count()).map(|i| segments.range(i));
        self.batch.sealed.extend(places.map(|place| sealed(start + place.start..start + place.end)));
        if !single {
            self.flush();
        }
    }

    /// Sends what waits to be sent.
    pub(super) fn flush(&mut self) {
        let mut batch = core::mem::take(&mut self.batch);
        for way in batch.ways.into_iter().flatten() {
            self.send_sealed(&batch.sealed, &way);
        }
        batch.ways = [None; 2];
        batch.sealed.clear();
        self.batch = batch;
    }

    /// Sends the sealed datagrams at these places of the segment buffer.
    fn send_sealed(&mut self, sealed: &[Range<usize>], way: &Way) {
        let front = way.envelope.map_or(0, |envelope| envelope.len());
        if let Some(envelope) = way.envelope {
            for place in sealed {
                self.segments[place.start - front..place.start].copy_from_slice(&envelope);
            }
        }
        for burst in sealed.chunks(MAX_BURST) {
            let mut slices = [IoSlice::new(&[]); MAX_BURST];
            for (slice, place) in slices.iter_mut().zip(burst) {
                *slice = IoSlice::new(&self.segments[place.start - front..place.end]);
            }
            let datagrams = &slices[..burst.len()];
            match way.to {
                Destination::Socket { local, remote } => {
                    let Some(Some(socket)) = self.sockets.get_mut(usize::from(local)) else { return };
                    self.traffic.sent += socket.send(remote, None, datagrams) as u64;
                }
                Destination::RelayTcp => {
                    self.traffic.relay_full += stream::send(&mut self.stream, &self.poller, datagrams);
                }
            }
        }
    }
}
