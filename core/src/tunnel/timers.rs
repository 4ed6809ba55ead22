//! When sessions are made, renewed and forgotten (whitepaper section 6; details as in the kernel's `timers.c`).
//!
//! Each peer has five timers: repeat the initiation, send a keepalive, wonder at silence, call the session down,
//! forget the keys. The caller knows one deadline a peer; it is told of a new one only when that is earlier, so
//! a packet that pushes a timer out costs nothing.

use super::slots::{Moment, flag};
use super::{
    Content, DOUBTED_TIMEOUT, JITTER, KEEPALIVE_TIMEOUT, PeerId, PeerSlot, REJECT_AFTER_TIME,
    REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME, REKEY_ATTEMPT_TIME, REKEY_ON_RECEIVE, REKEY_TIMEOUT,
    SILENCE_COUNTS, Transmit, Tunnels, Wait, ZERO_AFTER_TIME, pair_place,
};
use crate::rng::Rng;
use crate::time::{Duration, Instant};

/// What the count of initiations in vain goes on with behind its last number.
const TRIES_AGAIN: u8 = 1 << 7;

impl Tunnels<'_> {
    /// Starts a handshake with the peer, whatever sessions there are, unless one is under way. Where a handshake
    /// message went out less than [`REKEY_TIMEOUT`] ago it follows at that time, or [`DOUBTED_TIMEOUT`] behind a
    /// response that brought no session: it may not have arrived. For data with an unknown index from where a peer is known to be: it, or
    /// we, restarted.
    pub fn initiate(&mut self, now: Instant, peer: PeerId) {
        if let Some(slot) = self.live_mut(peer).filter(|slot| slot.attempt.is_none() && !slot.has(flag::UP)) {
            slot.set(flag::DOUBTED);
        }
        self.start(now, peer, false);
    }

    /// Somebody who knows speaks of the peer: because we `asked`, or because it was not there when we tried. `ways`:
    /// by which it was, and is, written to; what went by one that is no more is lost.
    pub fn found<W: PartialEq>(&mut self, now: Instant, peer: PeerId, asked: bool, ways: [Option<W>; 2]) {
        let [before, Some(way)] = ways else { return };
        if (asked || self.is_wanted(peer)) && !self.is_up(peer) {
            self.handshake_failed(peer, before.is_some_and(|before| before != way));
            self.initiate(now, peer);
        }
    }

    /// There was no way for this message. Without a session, the next one need not wait; with one, its pause also
    /// bounds what attempts without a way cost.
    pub fn unsent(&mut self, message: &Transmit) {
        if let Some(peer) = message.peer.filter(|peer| !self.is_up(*peer)) {
            self.handshake_failed(peer, true);
        }
    }

    /// The last handshake message to the peer led nowhere, for sure or perhaps: then the next one waits for
    /// [`DOUBTED_TIMEOUT`] only. At most one does so for each call.
    fn handshake_failed(&mut self, peer: PeerId, for_sure: bool) {
        let Some(slot) = self.live_mut(peer).filter(|slot| !slot.attempt.is_none()) else { return };
        if for_sure {
            slot.sent = Moment::NONE;
        } else {
            slot.set(flag::DOUBTED);
            if !slot.retransmit.is_none() {
                slot.retransmit = retry(slot);
            }
            self.tell_deadline(peer);
        }
    }

    /// Whether the peer can read what we seal, or is to be able to soon.
    pub fn is_wanted(&self, peer: PeerId) -> bool {
        self.is_up(peer) || self.slot(peer).is_some_and(|slot| slot.live && !slot.attempt.is_none())
    }

    /// Whether the next initiation follows one in vain, and the directory should be asked about the peer: that tells it of
    /// this node, which it may have forgotten. Ever more rarely, and from some time on every eleven minutes: most who do
    /// not answer are dead.
    pub fn is_doubtful(&self, peer: PeerId) -> bool {
        self.slot(peer).is_some_and(|slot| slot.has(flag::INITIATING) && slot.tries.is_power_of_two())
    }

    /// `fresh`: for a user's packet, so the attempt may go on for its full time again.
    pub(super) fn start(&mut self, now: Instant, peer: PeerId, fresh: bool) {
        let Some(slot) = self.live_mut(peer) else { return };
        if slot.attempt.is_none() && slot.sent.older(now, SILENCE_COUNTS) {
            slot.tries = 0;
        }
        if fresh || slot.attempt.is_none() {
            slot.attempt = Moment::at(now);
        }
        if slot.has(flag::INITIATING) {
            return;
        }
        if slot.sent.allows(now, pause(slot)) {
            slot.set(flag::INITIATING);
            slot.retransmit = Moment::NONE;
            self.push_peer(peer, Wait::Initiation);
        } else if slot.retransmit.is_none() {
            slot.retransmit = retry(slot);
            self.tell_deadline(peer);
        }
    }

    /// A handshake message goes out.
    pub(super) fn handshake_sent(&mut self, now: Instant, peer: PeerId, initiation: bool, rng: &mut Rng) {
        let Some(slot) = self.live_mut(peer) else { return };
        slot.sent = Moment::at(now);
        slot.clear(flag::DOUBTED);
        slot.jitter = rng.below(JITTER);
        slot.keepalive = Moment::NONE;
        if initiation {
            slot.retransmit = retry(slot);
            slot.tries = slot.tries.checked_add(1).unwrap_or(TRIES_AGAIN);
        } else {
            slot.zero = after(now, ZERO_AFTER_TIME);
        }
        self.tell_deadline(peer);
    }

    /// A valid handshake message came in.
    pub(super) fn handshake_received(&mut self, peer: PeerId) {
        if let Some(slot) = self.live_mut(peer) {
            slot.silence = Moment::NONE;
            slot.tries = 0;
        }
    }

    /// Both sides have the keys of the current session.
    pub(super) fn handshake_complete(&mut self, now: Instant, peer: PeerId) {
        let Some(slot) = self.live_mut(peer) else { return };
        slot.retransmit = Moment::NONE;
        slot.attempt = Moment::NONE;
        slot.tries = 0;
        slot.established = Moment::at(now);
        if let Some(sent) = slot.sent.get() {
            slot.round_trip = u32::try_from(now.since(sent).as_micros()).unwrap_or(u32::MAX).max(1);
        }
        slot.zero = after(now, ZERO_AFTER_TIME);
        if !slot.has(flag::UP) {
            slot.set(flag::UP | flag::SAY_UP);
            self.push_peer(peer, Wait::News);
        }
        self.tell_deadline(peer);
    }

    /// Counters were taken. `renew`: this may be the reason for a new session.
    pub(super) fn data_sent(&mut self, now: Instant, peer: PeerId, payload: bool, renew: bool) {
        let aged = renew && self.current_is_used_up(now, peer);
        let Some(slot) = self.live_mut(peer) else { return };
        slot.keepalive = Moment::NONE;
        slot.clear(flag::KEEPALIVE);
        if payload && slot.silence.is_none() {
            let wait = KEEPALIVE_TIMEOUT.plus(REKEY_TIMEOUT).plus(jitter(slot));
            slot.silence = after(now, wait);
            self.tell_deadline(peer);
        }
        if aged {
            self.start(now, peer, true);
        }
    }

    fn current_is_used_up(&self, now: Instant, peer: PeerId) -> bool {
        let place = self.slot(peer).and_then(|slot| pair_place(peer, slot.current));
        place.and_then(|place| self.keypairs.get(place)).is_some_and(|pair| {
            pair.counter > REKEY_AFTER_MESSAGES || (pair.initiator && pair.born.older(now, REKEY_AFTER_TIME))
        })
    }

    /// An authentic message came in.
    pub(super) fn data_received(&mut self, now: Instant, peer: PeerId, content: Content) {
        let place = self.slot(peer).and_then(|slot| pair_place(peer, slot.current));
        let dying = place
            .and_then(|place| self.keypairs.get(place))
            .is_some_and(|pair| pair.initiator && pair.born.older(now, REKEY_ON_RECEIVE));
        let Some(slot) = self.live_mut(peer) else { return };
        slot.silence = Moment::NONE;
        if content == Content::Ip {
            if slot.keepalive.is_none() {
                slot.keepalive = after(now, KEEPALIVE_TIMEOUT);
                self.tell_deadline(peer);
            } else {
                slot.set(flag::KEEPALIVE_AGAIN);
            }
        }
        if dying && content != Content::Other {
            // Not a fresh reason: what is received does not prolong the attempt.
            self.start(now, peer, false);
        }
    }

    /// A keepalive is to be sent now.
    pub(super) fn want_keepalive(&mut self, peer: PeerId) {
        if let Some(slot) = self.live_mut(peer) {
            slot.set(flag::KEEPALIVE);
            self.push_peer(peer, Wait::Keepalive);
        }
    }

    /// A keepalive was sent.
    pub(super) fn keepalive_sent(&mut self, now: Instant, peer: PeerId) {
        self.data_sent(now, peer, false, true);
        if let Some(slot) = self.live_mut(peer)
            && slot.take(flag::KEEPALIVE_AGAIN)
        {
            slot.keepalive = after(now, KEEPALIVE_TIMEOUT);
            self.tell_deadline(peer);
        }
    }

    /// Nothing can be sent to the peer any more.
    pub(super) fn mark_down(&mut self, peer: PeerId) {
        if let Some(slot) = self.live_mut(peer)
            && slot.take(flag::UP)
        {
            slot.set(flag::SAY_DOWN);
            self.push_peer(peer, Wait::News);
        }
    }

    /// Does what is due for the peer and returns its next deadline.
    #[must_use]
    pub fn handle_timeout(&mut self, now: Instant, peer: PeerId) -> Option<Instant> {
        let slot = self.live_mut(peer)?;
        if due(&mut slot.retransmit, now) {
            if slot.attempt.older(now, REKEY_ATTEMPT_TIME) {
                self.give_up(now, peer);
            } else {
                self.start(now, peer, false);
            }
        }
        if due(&mut self.live_mut(peer)?.keepalive, now) {
            self.want_keepalive(peer);
        }
        if due(&mut self.live_mut(peer)?.silence, now) {
            self.start(now, peer, true);
        }
        if self.expiry(peer).is_some_and(|at| at <= now) {
            self.mark_down(peer);
        }
        if due(&mut self.live_mut(peer)?.zero, now) {
            self.mark_down(peer);
            self.forget_keys(peer);
        }
        let next = self.deadline(peer);
        self.live_mut(peer)?.told = next.map_or(Moment::NONE, Moment::at);
        next
    }

    /// Ends the attempt to reach the peer.
    pub(super) fn give_up(&mut self, now: Instant, peer: PeerId) {
        let Some(slot) = self.live_mut(peer) else { return };
        slot.attempt = Moment::NONE;
        slot.retransmit = Moment::NONE;
        slot.keepalive = Moment::NONE;
        slot.clear(flag::INITIATING);
        slot.set(flag::SAY_FAILED);
        if slot.zero.is_none() {
            slot.zero = after(now, ZERO_AFTER_TIME);
        }
        self.push_peer(peer, Wait::News);
        self.tell_deadline(peer);
    }

    /// When something is due for the peer. What is queued to be sent or told now is no part of it: see
    /// [`Self::has_output`].
    pub fn deadline(&self, peer: PeerId) -> Option<Instant> {
        let slot = self.slot(peer).filter(|slot| slot.live)?;
        [slot.retransmit, slot.keepalive, slot.silence, slot.zero]
            .into_iter()
            .filter_map(Moment::get)
            .chain(self.expiry(peer))
            .min()
    }

    /// A peer whose deadline is earlier than the caller knows, with that deadline.
    #[must_use]
    pub fn poll_deadline(&mut self) -> Option<(PeerId, Instant)> {
        while let Some(peer) = self.pop_peer(Wait::Deadline) {
            if let (Some(next), Some(slot)) = (self.deadline(peer), self.live_mut(peer)) {
                slot.told = Moment::at(next);
                return Some((peer, next));
            }
        }
        None
    }

    /// When the session that we send in expires, while the caller believes that it is up.
    fn expiry(&self, peer: PeerId) -> Option<Instant> {
        let slot = self.slot(peer).filter(|slot| slot.has(flag::UP))?;
        self.keypairs.get(pair_place(peer, slot.current)?)?.born.after(REJECT_AFTER_TIME)
    }

    /// Queues the peer's deadline for the caller if it is earlier than the one it knows.
    fn tell_deadline(&mut self, peer: PeerId) {
        let Some(next) = self.deadline(peer) else { return };
        if self.slot(peer).is_some_and(|slot| slot.told.get().is_none_or(|told| next < told)) {
            self.push_peer(peer, Wait::Deadline);
        }
    }
}

/// Takes a timer that has run out.
fn due(timer: &mut Moment, now: Instant) -> bool {
    let due = timer.get().is_some_and(|at| at <= now);
    if due {
        *timer = Moment::NONE;
    }
    due
}

fn after(now: Instant, wait: Duration) -> Moment {
    Moment::at(now.after(wait))
}

fn jitter(slot: &PeerSlot) -> Duration {
    Duration::from_micros(u64::from(slot.jitter))
}

fn retry(slot: &PeerSlot) -> Moment {
    slot.sent.after(pause(slot).plus(jitter(slot))).map_or(Moment::NONE, Moment::at)
}

/// Least distance of the next handshake message from the last.
pub(super) fn pause(slot: &PeerSlot) -> Duration {
    if slot.has(flag::DOUBTED) { DOUBTED_TIMEOUT } else { REKEY_TIMEOUT }
}
