//! Messages in and out: what is queued for computing, and what is ready to be sent.

use super::secrets::Which;
use super::slots::{Moment, Stage, flag};
use super::{JobSlot, List, Origin, PeerId, Transmit, Tunnels, Wait, cookie, seal};
use crate::counters::DropReason;
use crate::noise::ChaChaPoly;
use crate::packet::Packet;
use crate::rng::Rng;
use crate::storage::Pool;
use crate::time::Instant;
use crate::wire::wireguard::{CookieReply, DATA_HEADER, INITIATION, KEEPALIVE, Kind, RESPONSE, Response};

/// Job slots that messages received leave for our own initiations.
const OWN: usize = 1;

impl Tunnels<'_> {
    /// Takes a handshake message or cookie reply; what it costs is paid in [`Self::work`]. A cookie reply is
    /// decrypted in place.
    ///
    /// # Errors
    /// [`DropReason::Authentication`] when the sender does not know our key, [`DropReason::HandshakeLimit`] under
    /// load (a cookie reply may be due), [`DropReason::UnknownIndex`], [`DropReason::QueueFull`], and
    /// [`DropReason::UnknownDatagram`] or [`DropReason::Malformed`] for anything else.
    pub fn message(
        &mut self,
        now: Instant,
        origin: &Origin,
        datagram: &mut [u8],
        rng: &mut Rng,
    ) -> Result<(), DropReason> {
        let mut which = Which::Present;
        let (stage, peer) = match Kind::of(datagram)? {
            Kind::Data => return Err(DropReason::Malformed),
            Kind::CookieReply => return self.take_cookie(now, datagram),
            Kind::Initiation => {
                which = self.judge(now, origin, datagram, rng)?;
                (Stage::OpenIdentity, PeerId(0))
            }
            Kind::Response => {
                let _ = self.judge(now, origin, datagram, rng)?;
                let receiver = u32::from_le_bytes(*Response::new(datagram)?.receiver);
                let id = self.find_index(receiver).ok_or(DropReason::UnknownIndex)?;
                let peer = self.owner(id);
                if id != self.handshake_id(peer) {
                    return Err(DropReason::UnknownIndex);
                }
                (Stage::FinishEphemerals, peer)
            }
        };
        if self.jobs.len().saturating_add(OWN) >= self.jobs.capacity() {
            let stranger = self.pop_stranger().ok_or(DropReason::QueueFull)?;
            self.free_job(stranger);
        }
        let id = self.jobs.insert(JobSlot::EMPTY).ok_or(DropReason::QueueFull)?;
        let generation = self.slot(peer).map_or(0, |slot| slot.generation);
        if let Some(job) = self.jobs.get_mut(id) {
            (job.stage, job.peer, job.generation, job.origin) = (stage, peer.0, generation, *origin);
            job.which = which;
            for (to, from) in job.message.iter_mut().zip(datagram.iter()) {
                *to = *from;
            }
        }
        push_job(&mut self.jobs, &mut self.inbox, id);
        Ok(())
    }

    fn judge(
        &mut self,
        now: Instant,
        origin: &Origin,
        datagram: &mut [u8],
        rng: &mut Rng,
    ) -> Result<Which, DropReason> {
        let busy =
            self.jobs.len().saturating_sub(self.waiting).saturating_mul(2) >= self.jobs.capacity().max(4);
        self.guard.check(now, origin, datagram, busy, rng)
    }

    fn take_cookie(&mut self, now: Instant, datagram: &mut [u8]) -> Result<(), DropReason> {
        let mut reply = CookieReply::new(datagram)?;
        let id = self.find_index(u32::from_le_bytes(*reply.receiver)).ok_or(DropReason::UnknownIndex)?;
        let slot = self.live_mut(self.owner(id)).ok_or(DropReason::UnknownIndex)?;
        if !slot.has(flag::MAC1) {
            return Err(DropReason::UnknownIndex);
        }
        slot.cookie = cookie::open_reply(&slot.key, &slot.mac1, &mut reply)?;
        slot.cookie_born = Moment::at(now);
        slot.clear(flag::MAC1);
        Ok(())
    }

    /// Writes the next message to be sent to the start of `out`; `None` when there is none, or when it may not
    /// fit: 148 bytes always do.
    #[must_use]
    pub fn poll_transmit(&mut self, now: Instant, out: &mut [u8]) -> Option<Transmit> {
        if out.len() < INITIATION {
            return None;
        }
        if let Some(transmit) = self.poll_handshake(out) {
            return Some(transmit);
        }
        if let Some((origin, len)) = self.guard.poll_reply(out) {
            return Some(Transmit { peer: None, answer: Some(origin), len });
        }
        self.poll_keepalive(now, out)
    }

    fn poll_handshake(&mut self, out: &mut [u8]) -> Option<Transmit> {
        loop {
            let id = self.outbox.head;
            pop_job(&mut self.jobs, &mut self.outbox)?;
            let job = self.jobs.get_mut(id)?;
            let peer = PeerId(job.peer);
            let (answer, len) = if job.stage == Stage::SendResponse {
                (Some(job.origin), RESPONSE)
            } else {
                (None, INITIATION)
            };
            for (to, from) in out.iter_mut().zip(job.message.iter()).take(len) {
                *to = *from;
            }
            let generation = job.generation;
            self.free_job(id);
            if self.slot(peer).is_some_and(|slot| slot.live && slot.generation == generation) {
                return Some(Transmit { peer: Some(peer), answer, len });
            }
        }
    }

    fn poll_keepalive(&mut self, now: Instant, out: &mut [u8]) -> Option<Transmit> {
        while let Some(peer) = self.pop_peer(Wait::Keepalive) {
            if !self.live_mut(peer).is_some_and(|slot| slot.has(flag::KEEPALIVE)) {
                continue;
            }
            let Some(grant) = self.grant(now, peer, 1) else { continue };
            self.keepalive_sent(now, peer);
            let Some(key) = self.send_key::<ChaChaPoly>(grant.key) else { continue };
            let sealed =
                Packet::new(out, DATA_HEADER, 0).and_then(|mut p| seal(&key, grant.first, &mut p, 0));
            if sealed.is_ok() {
                return Some(Transmit { peer: Some(peer), answer: None, len: KEEPALIVE });
            }
        }
        None
    }

    /// Whether anything waits to be sent or told: then the caller's next deadline is now.
    pub fn has_output(&self) -> bool {
        let waits = |list: Wait| self.lists.get(list as usize).is_some_and(|ends| ends.head != 0);
        self.outbox.head != 0
            || self.guard.has_reply()
            || self.untold > 0
            || waits(Wait::Keepalive)
            || waits(Wait::News)
            || waits(Wait::Deadline)
    }

    pub(super) fn free_job(&mut self, id: u32) {
        if let Some(job) = self.jobs.get_mut(id) {
            job.wipe();
        }
        self.jobs.remove(id);
    }
}

/// Appends a job to a queue.
pub(super) fn push_job(jobs: &mut Pool<'_, JobSlot>, list: &mut List, id: u32) {
    let last = core::mem::replace(&mut list.tail, id);
    if list.head == 0 {
        list.head = id;
    }
    if let Some(job) = jobs.get_mut(id) {
        job.next = 0;
    }
    if let Some(job) = jobs.get_mut(last) {
        job.next = id;
    }
}

/// Takes the first job of a queue, if any.
pub(super) fn pop_job(jobs: &mut Pool<'_, JobSlot>, list: &mut List) -> Option<u32> {
    let id = list.head;
    let job = jobs.get(id)?;
    list.head = job.next;
    if list.head == 0 {
        list.tail = 0;
    }
    Some(id)
}
