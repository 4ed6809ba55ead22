//! Endpoints that do not answer, by the word of the nodes that have them.
//!
//! Life cycle: [`Health::set`] takes the place of all that a node said before, and holds for [`TRUST`]: a node goes on
//! saying it for as long as it is so. This node's own endpoints are among them.
//!
//! Bounds: the slots are borrowed; when they are taken, further endpoints count as answering. That costs a client a
//! refused connection, as it would without any of this.

use crate::time::{Duration, Instant};
use crate::wire::ip::Address;
use core::net::IpAddr;

/// How long what a node said holds: three rounds of [`ROUND`].
const TRUST: Duration = Duration::from_secs(15);
/// How often a node with endpoints that do not answer is to say so.
pub const ROUND: Duration = Duration::from_secs(5);

/// An endpoint that does not answer; all-zero is free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct DownSlot {
    until: u64,
    node: u32,
    address: Address,
}

impl DownSlot {
    /// A free slot.
    pub const EMPTY: Self = Self { until: 0, node: 0, address: Address::NONE };
}

pub(super) struct Health<'a> {
    slots: &'a mut [DownSlot],
    /// Slots up to the last one that is taken: mostly none, and every choice of an endpoint asks.
    taken: usize,
    generation: u32,
}

impl<'a> Health<'a> {
    /// Over all-zero memory.
    pub(super) fn new(slots: &'a mut [DownSlot]) -> Self {
        Self { slots, taken: 0, generation: 0 }
    }

    /// The endpoints of this node that do not answer are these, and no others; whether that is news.
    pub(super) fn set(&mut self, now: Instant, node: u32, down: impl Iterator<Item = IpAddr>) -> bool {
        let (until, mut news) = (now.after(TRUST).as_micros(), false);
        for address in down.map(Address::from) {
            let old = self.slots.iter_mut().find(|s| (s.node, s.address) == (node, address));
            if let Some(slot) = old {
                slot.until = until;
            } else if let Some(slot) = self.slots.iter_mut().find(|s| s.until <= now.as_micros()) {
                *slot = DownSlot { until, node, address };
                news = true;
            }
        }
        for slot in self.slots.iter_mut().filter(|s| s.node == node && s.until != until) {
            *slot = DownSlot::EMPTY;
            news = true;
        }
        let free = |s: &DownSlot| s.until <= now.as_micros();
        self.taken = self.slots.iter().rposition(|s| !free(s)).map_or(0, |last| last.saturating_add(1));
        self.generation = self.generation.wrapping_add(news.into());
        news
    }

    /// Whether an endpoint does not answer.
    pub(super) fn is_down(&self, now: Instant, node: u32, address: IpAddr) -> bool {
        let is_it = |s: &DownSlot| s.until > now.as_micros() && s.node == node && s.address == address.into();
        self.slots.iter().take(self.taken).any(is_it)
    }

    /// Those of a node.
    pub(super) fn of(&self, now: Instant, node: u32) -> impl Iterator<Item = IpAddr> + '_ {
        let is_of = move |s: &&DownSlot| s.until > now.as_micros() && s.node == node;
        self.slots.iter().filter(is_of).map(|s| s.address.ip_or_unspecified())
    }

    /// Changes with all that is said.
    pub(super) fn generation(&self) -> u32 {
        self.generation
    }
}
