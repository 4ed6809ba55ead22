//! From the TUN to the network.

use super::super::aead::RingAead;
use super::super::park::Origin;
use super::handover::Handed;
use super::{Data, TURN};
use crate::clock;
use crate::offload::{self, SegmentError, Segments, VnetHdr};
use crate::tun::MAX_PACKET;
use crate::udp::MAX_BURST;
use edgemesh_core::node::{Burst, Destination, Grant, Outbound, Way};
use edgemesh_core::packet::{HEADROOM, Packet};
use edgemesh_core::service::Serves;
use edgemesh_core::time::Instant;
use edgemesh_core::tunnel;
use edgemesh_core::wire::ip::Checksum;
use std::io::{self, IoSlice};
use std::net::SocketAddr;

/// Where a sealed datagram begins in its slot: the tunnel's header stands before the packet.
const SEALED: usize = HEADROOM - 16;

/// How a packet came, in the engine's terms.
fn burst(header: &VnetHdr, packet: &[u8]) -> Result<Burst, SegmentError> {
    let checksum = if header.needs_csum { Checksum::Partial } else { Checksum::Complete };
    let (segments, largest) = offload::count(header, packet)?;
    Ok(Burst { checksum, segments, largest })
}

impl Data {
    /// Carries what waits at the TUN, up to a turn of it.
    ///
    /// # Errors
    /// When the device is gone.
    pub(super) fn read_tun(&mut self) -> io::Result<()> {
        for _ in 0..TURN {
            match self.tun.read(&mut self.packet[HEADROOM..HEADROOM + MAX_PACKET]) {
                Ok(Some((header, len))) => {
                    self.traffic.tun_read += 1;
                    let now = clock::now();
                    self.outbound(now, &header, len);
                    self.drain(now);
                }
                Ok(None) => break,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => self.traffic.tun_errors += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Carries the packet of `len` bytes in the packet buffer.
    pub(super) fn outbound(&mut self, now: Instant, header: &VnetHdr, len: usize) {
        let Ok(mut packet) = Packet::new(&mut self.packet, HEADROOM, len) else { return };
        let Ok(burst) = burst(header, packet.bytes()) else {
            self.traffic.tun_errors += 1;
            return;
        };
        let mut verdict = self.engine.outbound(now, &mut packet, burst);
        let len = packet.len();
        if let Outbound::HandOver(endpoint) = verdict {
            match self.hand_over(now, len, burst.checksum, endpoint) {
                Handed::Over => {
                    self.traffic.handed_over += 1;
                    verdict = Outbound::Hairpin;
                }
                Handed::Not => {
                    self.traffic.not_handed_over += 1;
                    let Ok(mut packet) = Packet::new(&mut self.packet, HEADROOM, len) else { return };
                    self.engine.keep_flow(&packet);
                    verdict = self.engine.outbound(now, &mut packet, burst);
                }
                Handed::Lost => self.traffic.handover_lost += 1,
            }
        }
        self.carry(header, len, verdict);
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

    /// Cuts the packet in the packet buffer into segments, seals and sends them.
    pub(super) fn send(&mut self, header: &VnetHdr, len: usize, grant: &Grant) {
        let packet = &self.packet[HEADROOM..HEADROOM + len];
        let segments = match grant.split {
            Some(mtu) => offload::fragment(packet, mtu, &mut self.segments),
            None => offload::segment(header, packet, &mut self.segments),
        };
        let Ok(segments) = segments else {
            self.traffic.tun_errors += 1;
            return;
        };
        let Some(key) = self.engine.tunnels().send_key::<RingAead>(grant.sending.key) else { return };
        let counters = grant.sending.first..;
        for ((slot, len), counter) in segments.slots(&mut self.segments).zip(counters) {
            let Ok(mut packet) = Packet::new(slot, HEADROOM, len) else { return };
            // Segments of one burst must be of one size, so none is padded less than the others.
            if tunnel::seal(&key, counter, &mut packet, usize::MAX).is_err() {
                return;
            }
        }
        for way in [Some(grant.first), grant.copy].into_iter().flatten() {
            self.send_sealed(&segments, &way);
        }
    }

    /// Sends the sealed datagrams of the segment buffer.
    fn send_sealed(&mut self, segments: &Segments, way: &Way) {
        let front = way.envelope.map_or(0, |envelope| envelope.len());
        for i in 0..segments.count() {
            if let Some(envelope) = way.envelope {
                let start = segments.range(i).start - HEADROOM + SEALED;
                self.segments[start - front..start].copy_from_slice(&envelope);
            }
        }
        let datagram = |i: usize| {
            let range = segments.range(i);
            let start = range.start - HEADROOM + SEALED - front;
            start..range.start + range.len().next_multiple_of(16) + 16
        };
        match way.to {
            Destination::Socket { local, remote } => {
                let Some(Some(socket)) = self.sockets.get_mut(usize::from(local)) else { return };
                for first in (0..segments.count()).step_by(MAX_BURST) {
                    let mut slices = [IoSlice::new(&[]); MAX_BURST];
                    let count = MAX_BURST.min(segments.count() - first);
                    for (n, slice) in slices.iter_mut().take(count).enumerate() {
                        *slice = IoSlice::new(&self.segments[datagram(first + n)]);
                    }
                    self.traffic.sent += socket.send(remote, None, &slices[..count]) as u64;
                }
            }
            Destination::RelayTcp => {
                for i in 0..segments.count() {
                    if self.outputs.datagrams.try_send(self.segments[datagram(i)].to_vec()).is_err() {
                        self.traffic.relay_full += 1;
                    }
                }
            }
        }
    }
}
