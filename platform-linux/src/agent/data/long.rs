//! Super-packets of the TUN that wait while single packets of other flows pass.
//!
//! The kernel tells no sender that a TUN is behind (a packet is its sender's no more once it is in the device's queue), so
//! a stream keeps its whole window there. Whoever asks something meanwhile would wait until all of it is sealed: some
//! milliseconds. Taken out of the queue it costs a copy that is to be made anyway.
//!
//! Bounds: [`WAITING`] packets, each in a buffer of its own, which are never touched where there is no stream. When all are
//! taken, nothing more is read before one has been sent. The packets of one flow keep their order; single ones behind a
//! super-packet of their flow wait with it. (A flow is addresses and ports; behind IP options or in later fragments those
//! are not looked for.)

use crate::offload::{GsoType, VnetHdr};
use edgemesh_core::packet::HEADROOM;
use std::collections::VecDeque;

/// Three quarters of a megabyte: a third of the window of a stream that nothing holds back.
const WAITING: usize = 12;

/// Packets that wait, and the buffers for others.
pub(super) struct Long {
    waiting: VecDeque<(VnetHdr, usize, Box<[u8]>)>,
    free: Vec<Box<[u8]>>,
}

impl Long {
    /// With buffers like the packet buffer, of `len` bytes.
    pub(super) fn new(len: usize) -> Self {
        let free = (0..WAITING).map(|_| vec![0; len].into_boxed_slice()).collect();
        Self { waiting: VecDeque::with_capacity(WAITING), free }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Keeps the packet of `len` bytes in the packet buffer, which is another one then, if it is to wait.
    pub(super) fn keeps(&mut self, header: &VnetHdr, len: usize, packet: &mut Box<[u8]>) -> bool {
        let place = HEADROOM..HEADROOM + len;
        let flow = flow(packet.get(place).unwrap_or_default());
        let is_behind = |(_, len, other): &(VnetHdr, usize, Box<[u8]>)| {
            flow == self::flow(other.get(HEADROOM..HEADROOM + len).unwrap_or_default())
        };
        if header.gso_type == GsoType::None && !self.waiting.iter().any(is_behind) {
            return false;
        }
        let Some(free) = self.free.pop() else { return false };
        self.waiting.push_back((*header, len, core::mem::replace(packet, free)));
        true
    }

    /// Puts the packet that has waited for longest into the packet buffer.
    pub(super) fn next(&mut self, packet: &mut Box<[u8]>) -> Option<(VnetHdr, usize)> {
        let (header, len, kept) = self.waiting.pop_front()?;
        self.free.push(core::mem::replace(packet, kept));
        Some((header, len))
    }
}

/// Addresses and ports of a packet without options.
fn flow(packet: &[u8]) -> Option<&[u8]> {
    match packet.first()? >> 4 {
        4 => packet.get(12..24),
        _ => packet.get(8..44),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = HEADROOM + 64;

    /// A packet between ports of two hosts, with a mark.
    fn packet(version: u8, port: u8, mark: u8) -> Box<[u8]> {
        let mut bytes = vec![0; LEN];
        let (ports, end) = if version == 4 { (20, 24) } else { (40, 44) };
        bytes[HEADROOM] = version << 4;
        bytes[HEADROOM + ports] = port;
        bytes[HEADROOM + end] = mark;
        bytes.into_boxed_slice()
    }

    fn keeps(long: &mut Long, gso_type: GsoType, mut bytes: Box<[u8]>) -> bool {
        long.keeps(&VnetHdr { gso_type, ..VnetHdr::default() }, 48, &mut bytes)
    }

    #[test]
    fn single_packets_pass_those_of_other_flows_and_never_their_own() {
        for version in [4, 6] {
            let mut long = Long::new(LEN);
            assert!(!keeps(&mut long, GsoType::None, packet(version, 1, 0)), "nothing waits");
            assert!(keeps(&mut long, GsoType::TcpV4, packet(version, 1, 1)));
            assert!(keeps(&mut long, GsoType::None, packet(version, 1, 2)), "it would overtake its own flow");
            assert!(!keeps(&mut long, GsoType::None, packet(version, 2, 3)), "nobody waits for another's");
            assert!(keeps(&mut long, GsoType::TcpV4, packet(version, 2, 4)));
            let (mut buffer, end) = (packet(version, 9, 9), if version == 4 { 24 } else { 44 });
            for mark in [1, 2, 4] {
                let (_, len) = long.next(&mut buffer).unwrap();
                assert_eq!((len, buffer[HEADROOM + end]), (48, mark));
            }
            assert!(long.next(&mut buffer).is_none() && long.is_empty());
            assert!(!keeps(&mut long, GsoType::None, packet(version, 1, 5)));
        }
    }

    #[test]
    fn as_many_wait_as_there_are_buffers() {
        let mut long = Long::new(LEN);
        for mark in 0..WAITING as u8 {
            assert!(long.has_room() && keeps(&mut long, GsoType::TcpV4, packet(4, 1, mark)));
        }
        assert!(!long.has_room());
        let mut buffer = packet(4, 9, 9);
        assert!(long.next(&mut buffer).is_some() && long.has_room());
    }
}
