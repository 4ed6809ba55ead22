//! Which refusals of a peer's packets are worth a line in the log, and how often.
//!
//! A peer that sends where it may not is told of at once, and then at most every [`PAUSE`] for each reason, however
//! much it sends; the counters count every packet. Bounds: [`SLOTS`] pairs of node and reason. When all were used
//! within the pause, further pairs are only counted: the log grows by at most that many lines in that time.

use edgemesh_core::counters::DropReason;
use edgemesh_core::time::{Duration, Instant};
use edgemesh_core::wire::ip::Transport;
use std::net::{IpAddr, SocketAddr};

/// Least time between two lines about the same node and reason.
const PAUSE: Duration = Duration::from_secs(10);
/// Pairs of node and reason that are remembered.
const SLOTS: usize = 64;

/// A refusal to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Why.
    pub reason: DropReason,
    /// Index of the node that sent it.
    pub node: u32,
    /// Where the packet was to go, if it can be read; the port is 0 where there is none.
    pub to: Option<SocketAddr>,
    /// How many like it, of this node, were not told since the last line.
    pub untold: u64,
}

struct Slot {
    node: u32,
    reason: DropReason,
    told: Instant,
    untold: u64,
}

/// See the module's documentation.
#[derive(Default)]
pub struct Refusals {
    slots: Vec<Slot>,
}

impl Refusals {
    /// Takes a refused packet of `node`; returns what is to be told of it, if anything is.
    pub fn take(&mut self, now: Instant, node: u32, reason: DropReason, packet: &[u8]) -> Option<Refusal> {
        if !is_telling(reason) {
            return None;
        }
        let mut refusal = Refusal { reason, node, to: destination(packet), untold: 0 };
        if let Some(slot) = self.slots.iter_mut().find(|slot| (slot.node, slot.reason) == (node, reason)) {
            if now.since(slot.told) < PAUSE {
                slot.untold = slot.untold.saturating_add(1);
                return None;
            }
            refusal.untold = core::mem::take(&mut slot.untold);
            slot.told = now;
            return Some(refusal);
        }
        let fresh = Slot { node, reason, told: now, untold: 0 };
        if self.slots.len() < SLOTS {
            self.slots.push(fresh);
            return Some(refusal);
        }
        let oldest = self.slots.iter_mut().min_by_key(|slot| slot.told)?;
        if now.since(oldest.told) < PAUSE {
            return None;
        }
        *oldest = fresh;
        Some(refusal)
    }
}

/// Whether a peer that causes this does what it should not, or lacks what an operator could give. Stray packets of
/// connections that have ended are part of every network's life.
fn is_telling(reason: DropReason) -> bool {
    use DropReason::{
        AdmittedFull, Checksum, FlowsFull, Malformed, NotAnEndpoint, NotIp, PortsFull, Protocol,
        SourceAddress,
    };
    matches!(
        reason,
        NotAnEndpoint
            | SourceAddress
            | Protocol
            | NotIp
            | Malformed
            | Checksum
            | FlowsFull
            | PortsFull
            | AdmittedFull
    )
}

fn destination(packet: &[u8]) -> Option<SocketAddr> {
    if let Ok(transport) = Transport::parse(packet) {
        return Some(SocketAddr::new(transport.dst, transport.dst_port));
    }
    let address: IpAddr = match packet.first()? >> 4 {
        4 => <[u8; 4]>::try_from(packet.get(16..20)?).ok()?.into(),
        6 => <[u8; 16]>::try_from(packet.get(24..40)?).ok()?.into(),
        _ => return None,
    };
    Some(SocketAddr::new(address, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REASON: DropReason = DropReason::NotAnEndpoint;

    fn at(secs: u64) -> Instant {
        Instant::ZERO.after(Duration::from_secs(secs))
    }

    #[test]
    fn a_node_is_told_of_at_once_and_then_in_intervals_with_what_was_left_out() {
        let mut refusals = Refusals::default();
        let told = refusals.take(at(100), 7, REASON, &[]).unwrap();
        assert_eq!((told.node, told.reason, told.untold), (7, REASON, 0));
        for second in 101..110 {
            assert_eq!(refusals.take(at(second), 7, REASON, &[]), None);
        }
        assert!(refusals.take(at(109), 8, REASON, &[]).is_some(), "another node");
        assert!(refusals.take(at(109), 7, DropReason::SourceAddress, &[]).is_some(), "another reason");
        assert_eq!(refusals.take(at(110), 7, REASON, &[]).unwrap().untold, 9);
        assert_eq!(refusals.take(at(120), 7, DropReason::NoFlow, &[]), None);
    }

    #[test]
    fn many_nodes_do_not_flood_the_log() {
        let mut refusals = Refusals::default();
        let told = |refusals: &mut Refusals, second| {
            (0..1_000).filter(|node| refusals.take(at(second), *node, REASON, &[]).is_some()).count()
        };
        assert_eq!(told(&mut refusals, 100), SLOTS);
        assert_eq!(told(&mut refusals, 105), 0);
        assert_eq!(told(&mut refusals, 110), SLOTS);
    }

    #[test]
    fn the_destination_is_named_even_of_a_packet_that_is_not_understood() {
        let mut syn = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 242, 0, 0, 9, 127, 0, 0, 1];
        assert_eq!(destination(&syn).unwrap().ip(), IpAddr::from([127, 0, 0, 1]));
        syn.extend([0x9c, 0x40, 0, 22, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
        assert_eq!(destination(&syn), Some("127.0.0.1:22".parse().unwrap()));
        assert_eq!(destination(b"?"), None);
    }
}
