//! Packets that wait, as the engine asked: the shell keeps them, the engine names the ticket.
//!
//! At most [`PER_TICKET`] packets a ticket, [`PACKETS`] and [`BYTES`] in all; beyond that the newcomer is refused
//! and counted. What waits longer than the engine is willing to is dropped when the ticket expires.

use crate::offload::VnetHdr;
use edgemesh_core::PeerId;
use edgemesh_core::node::Ticket;
use std::collections::{BTreeMap, VecDeque};

const PER_TICKET: usize = 64;
const PACKETS: usize = 512;
const BYTES: usize = 1 << 20;

/// Where a parked packet came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The TUN, with this offload header, which is still valid.
    Tun(VnetHdr),
    /// This peer's tunnel.
    Peer(PeerId),
}

/// A parked packet.
pub struct Parked {
    /// Where it came from.
    pub origin: Origin,
    /// Its bytes, translated as far as the engine got.
    pub bytes: Vec<u8>,
}

/// All parked packets.
#[derive(Default)]
pub struct ParkingLot {
    waiting: BTreeMap<Ticket, VecDeque<Parked>>,
    packets: usize,
    bytes: usize,
    /// Packets that found no place, and packets whose ticket expired.
    pub lost: u64,
}

impl ParkingLot {
    /// Keeps the packet, or counts it as lost when there is no room.
    pub fn park(&mut self, ticket: Ticket, origin: Origin, bytes: &[u8]) {
        let queued = self.waiting.get(&ticket).map_or(0, VecDeque::len);
        if queued >= PER_TICKET || self.packets >= PACKETS || self.bytes + bytes.len() > BYTES {
            self.lost += 1;
            return;
        }
        self.waiting.entry(ticket).or_default().push_back(Parked { origin, bytes: bytes.to_vec() });
        self.packets += 1;
        self.bytes += bytes.len();
    }

    /// Takes all packets of a ticket, oldest first.
    pub fn take(&mut self, ticket: Ticket) -> VecDeque<Parked> {
        let queue = self.waiting.remove(&ticket).unwrap_or_default();
        self.packets -= queue.len();
        self.bytes -= queue.iter().map(|p| p.bytes.len()).sum::<usize>();
        queue
    }

    /// Drops all packets of a ticket.
    pub fn drop_all(&mut self, ticket: Ticket) {
        self.lost += self.take(ticket).len() as u64;
    }

    /// Packets that wait.
    pub fn len(&self) -> usize {
        self.packets
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.packets == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_back_in_order_and_bounds_hold() {
        let mut lot = ParkingLot::default();
        let (a, b) = (Ticket::Peer(1), Ticket::Fragment(1));
        let origin = Origin::Tun(VnetHdr::default());
        for n in 0..PER_TICKET as u8 {
            lot.park(a, origin, &[n]);
        }
        lot.park(a, origin, &[99]);
        lot.park(b, origin, &vec![0; BYTES]);
        assert_eq!(lot.lost, 2);
        lot.park(b, origin, &vec![0; 1000]);
        let order: Vec<u8> = lot.take(a).iter().map(|p| p.bytes[0]).collect();
        assert_eq!(order, (0..PER_TICKET as u8).collect::<Vec<_>>());
        assert_eq!(lot.len(), 1);
        lot.drop_all(b);
        assert_eq!((lot.packets, lot.bytes, lot.lost), (0, 0, 3));
    }
}
