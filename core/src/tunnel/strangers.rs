//! Initiations by keys that are no peer's yet: they wait a moment for the caller to learn the peer.
//!
//! The record of a node that wants to talk to us comes by another way than its first message, and may lose the
//! race; dropping that message would cost its sender [`REKEY_TIMEOUT`]. A quarter of the job slots may wait so,
//! at least one; the oldest gives way to the next and to any other message that finds no slot, and what waited for [`REKEY_TIMEOUT`] is void, since its sender has tried
//! again. Anybody who knows our public key can cause [`TunnelEvent::Stranger`]: who asks a directory because of
//! it limits the rate.

use super::messages::{pop_job, push_job};
use super::slots::{Moment, Stage};
use super::{PeerId, REKEY_TIMEOUT, TunnelEvent, Tunnels};
use crate::noise::PublicKey;
use crate::time::Instant;

impl Tunnels<'_> {
    /// Lets the first received job wait for its sender to become a peer; returns whether the oldest that waited
    /// lost its place.
    pub(super) fn park_stranger(&mut self, now: Instant, id: u32) -> bool {
        let _ = pop_job(&mut self.jobs, &mut self.inbox);
        if let Some(job) = self.jobs.get_mut(id) {
            job.parked = Moment::at(now);
        }
        self.push_stranger(id);
        let full = self.waiting > (self.jobs.capacity() / 4).max(1);
        if full && let Some(oldest) = self.pop_stranger() {
            self.free_job(oldest);
        }
        full
    }

    /// Takes up again what waited for `peer`, whose key is `key`.
    pub(super) fn admit_strangers(&mut self, peer: PeerId, key: &PublicKey) {
        let generation = self.slot(peer).map_or(0, |slot| slot.generation);
        for _ in 0..self.waiting {
            let Some(id) = self.pop_stranger() else { return };
            let Some(job) = self.jobs.get_mut(id) else { return };
            if job.ephemeral == key.0 {
                (job.stage, job.peer, job.generation) = (Stage::OpenStamp, peer.0, generation);
                push_job(&mut self.jobs, &mut self.inbox, id);
            } else {
                self.push_stranger(id);
            }
        }
    }

    /// The next stranger that the caller does not know of.
    pub(super) fn poll_stranger(&mut self) -> Option<TunnelEvent> {
        let mut id = self.strangers.head;
        // Asked for with every packet; there is seldom one.
        while self.untold > 0 {
            let job = self.jobs.get_mut(id)?;
            if job.stage == Stage::TellStranger {
                job.stage = Stage::AwaitPeer;
                self.untold = self.untold.saturating_sub(1);
                return Some(TunnelEvent::Stranger(PublicKey(job.ephemeral)));
            }
            id = job.next;
        }
        None
    }

    fn push_stranger(&mut self, id: u32) {
        push_job(&mut self.jobs, &mut self.strangers, id);
        self.waiting = self.waiting.saturating_add(1);
        self.untold = self.untold.saturating_add(self.is_untold(id).into());
    }

    pub(super) fn pop_stranger(&mut self) -> Option<u32> {
        let id = pop_job(&mut self.jobs, &mut self.strangers)?;
        self.waiting = self.waiting.saturating_sub(1);
        self.untold = self.untold.saturating_sub(self.is_untold(id).into());
        Some(id)
    }

    fn is_untold(&self, id: u32) -> bool {
        self.jobs.get(id).is_some_and(|job| job.stage == Stage::TellStranger)
    }

    /// Whether a stranger's initiation is too old to be answered.
    pub(super) fn is_stale(&self, now: Instant, id: u32) -> bool {
        self.jobs.get(id).is_some_and(|job| job.parked.older(now, REKEY_TIMEOUT))
    }
}
