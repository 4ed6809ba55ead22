//! When what is sent: rounds of probes, keepalives, doubt and its end. Pure functions of a slot and the time,
//! and the queues that thread through the slots.

use crate::path::slot::{At, CHANGED, Candidate, EVENT, OWE_LIST_ACK, PathSlot, READY, RESTING, Remote, UP};
use crate::path::{Paths, PeerId};
use crate::time::{Duration, Instant};

/// A peer counts as active for this long after the last packet for it; then everything falls silent.
pub(super) const ACTIVE: Duration = Duration::from_secs(60);
/// A path not proven for this long is used only together with the relay: NATs forget unreplied mappings in 30 s.
pub(super) const STALE: Duration = Duration::from_secs(30);
/// Keepalive of an active path that is not sending: below the 25 s that NATs are known to allow.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// A path that is sending is verified this often even while datagrams arrive: they prove the other direction.
const VERIFY: Duration = Duration::from_secs(5);
const PROBE_GAP_MIN: Duration = Duration::from_millis(200);
/// Without any answer for this long, a path becomes suspect.
const SUSPECT_MIN: Duration = Duration::from_millis(600);
/// Datagrams go both ways at most this long and for this many bytes.
pub(super) const DOUBLE_MAX: Duration = Duration::from_secs(1);
const DOUBLE_BYTES: u32 = 1_000_000;
/// Probes of an unproven candidate per round, and the gaps behind each.
pub(super) const ROUND_PROBES: u8 = 5;
const GAPS_MS: [u64; 5] = [50, 100, 200, 400, 0];
/// Probes per candidate of a later round, and of one that only looks for something better.
pub(super) const UPGRADE_PROBES: u8 = 2;
/// Rounds that send so many behind anything new: a session, a list, a lost path, an answering relay.
const FULL_ROUNDS: u8 = 2;
/// Distance of rounds while packets go over the relay, and at the same time the shortest one: two rounds in 10 s,
/// and the filters and mappings that one round opened in a NAT (30 s at least) are there for the next.
pub(super) const ROUND: Duration = Duration::from_secs(5);
/// After so many rounds for nothing both sides rest once, and again after twice, four times .. as many: the rounds
/// themselves may keep alive what is wrong, a mapping that an early probe spoiled in a NAT.
const TIRED: u8 = 24;
/// Longer than a NAT remembers a flow without an answer (Linux: 30 s).
const REST: Duration = Duration::from_secs(32);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const UPGRADE_FIRST: Duration = Duration::from_secs(60);
const UPGRADE_MAX: Duration = Duration::from_secs(600);
/// A peer's wish to punch again is heard once in this time.
pub(super) const PUNCH_GAP: Duration = Duration::from_secs(2);
/// Ration of probes to unproven places per peer: this many at once, then one per refill.
const TOKENS: u8 = 64;
const REFILL: Duration = Duration::from_millis(250);

/// Something to send.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    List,
    ListAck,
    Candidate(usize),
    Path,
    Mtu(usize),
    Relay,
}

/// A first-in-first-out list of peers, linked through their slots. `flag` is [`READY`], [`EVENT`] or
/// [`TOUCHED`](super::slot::TOUCHED), one for each of the three lists: a peer is in a list at most once.
pub(super) struct List {
    head: u32,
    tail: u32,
}

impl List {
    pub(super) const EMPTY: Self = Self { head: 0, tail: 0 };

    pub(super) fn is_empty(&self) -> bool {
        self.head == 0
    }

    pub(super) fn push(&mut self, peers: &mut [PathSlot], peer: PeerId, flag: u8) {
        match slot(peers, peer.0) {
            Some(slot) if !slot.is(flag) => {
                slot.set(flag);
                *link(slot, flag) = 0;
            }
            _ => return,
        }
        match slot(peers, self.tail) {
            Some(last) => *link(last, flag) = peer.0,
            None => self.head = peer.0,
        }
        self.tail = peer.0;
    }

    pub(super) fn pop(&mut self, peers: &mut [PathSlot], flag: u8) -> Option<PeerId> {
        let id = self.head;
        let slot = slot(peers, id)?;
        slot.clear(flag);
        self.head = core::mem::take(link(slot, flag));
        if self.head == 0 {
            self.tail = 0;
        }
        Some(PeerId(id))
    }
}

fn slot(peers: &mut [PathSlot], id: u32) -> Option<&mut PathSlot> {
    peers.get_mut((id as usize).checked_sub(1)?)
}

fn link(slot: &mut PathSlot, flag: u8) -> &mut u32 {
    match flag {
        READY => &mut slot.next_ready,
        EVENT => &mut slot.next_event,
        _ => &mut slot.next_touched,
    }
}

impl Candidate {
    fn retry_gap(&self) -> Duration {
        let factor = 1u64.checked_shl(self.failed.saturating_sub(1).into()).unwrap_or(u64::MAX);
        RETRY_FIRST.times(factor).min(ROUND)
    }
}

impl PathSlot {
    pub(super) fn is_active(&self, now: Instant) -> bool {
        self.sent.get().is_some_and(|at| now.since(at) < ACTIVE)
    }

    /// Whether the path in use was not proven for so long that a NAT may have forgotten it.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        self.direct().is_some_and(|c| {
            let last = c.proven.max(self.received);
            last.get().is_none_or(|at| now.since(at) > STALE)
        })
    }

    /// The session is up: tells our list, asks for the peer's, measures the relay.
    pub(super) fn start(&mut self, now: Instant, relayed: bool) {
        self.sent = At::new(now);
        (self.list_due, self.list_tries) = (At::new(now), 0);
        self.list_sent = At::NONE;
        self.has = 0;
        self.round = At::NONE;
        self.rounds = 0;
        self.round_due = At::new(now.after(ROUND));
        self.relay_probe = At::new(now.after(Duration::from_secs(1)));
        if relayed && self.mtu[super::mtu::RELAY].size == 0 {
            // Behind the packets that waited for the session.
            self.restart_mtu(super::mtu::RELAY, now.after(Duration::from_millis(100)));
        }
    }

    /// The session is gone: nothing is due any more.
    pub(super) fn stop(&mut self) {
        self.clear(UP | OWE_LIST_ACK);
        self.current = 0;
        self.calm();
        for candidate in &mut self.candidates {
            candidate.due = At::NONE;
        }
        for mtu in &mut self.mtu {
            mtu.due = At::NONE;
        }
        (self.list_due, self.round_due, self.relay_probe, self.armed) =
            (At::NONE, At::NONE, At::NONE, At::NONE);
    }

    /// Something proved the path.
    pub(super) fn calm(&mut self) {
        (self.unanswered, self.first_probe, self.suspect) = (At::NONE, At::NONE, At::NONE);
        self.doubled = 0;
    }

    /// Takes note of a packet for the peer. True when the deadline moved forward.
    pub(super) fn sent(&mut self, now: Instant, bytes: u32) -> bool {
        let mut moved = self.sent.get().is_none_or(|at| now.since(at) >= ROUND) && self.resume(now);
        // The first packet behind a probe, or behind a proof, may bring the next probe forward.
        let proven = self.direct().map_or(At::NONE, |path| path.proven);
        let first = !self.unanswered.is_set() || self.sent <= self.last_probe.max(proven);
        self.sent = At::new(now);
        if self.current == 0 {
            return moved;
        }
        if !self.suspect.is_set() && self.is_stale(now) {
            self.suspect_now(now);
            moved = true;
        }
        if self.suspect.is_set() {
            self.doubled = self.doubled.saturating_add(bytes);
        }
        if !self.unanswered.is_set() {
            self.unanswered = At::new(now);
        }
        if first {
            let wanted = At::new(self.next_path_probe().unwrap_or(now));
            if !self.armed.is_set() || self.armed > wanted {
                self.armed = wanted;
                moved = true;
            }
        }
        moved
    }

    pub(super) fn doubled_enough(&self) -> bool {
        self.suspect.is_set() && self.doubled > DOUBLE_BYTES
    }

    /// Takes note of an authenticated datagram. True when something is to be probed for it.
    pub(super) fn received(&mut self, now: Instant, from: Option<Remote>) -> bool {
        let Some(from) = from else {
            // The peer does not use its direct path: perhaps ours is broken as well.
            let Some(path) = self.direct() else { return false };
            let quiet = path.proven.max(self.received).get().is_none_or(|at| now.since(at) > VERIFY);
            if quiet && !self.unanswered.is_set() {
                self.unanswered = At::new(now);
                return true;
            }
            return false;
        };
        if self.direct().is_some_and(|c| c.remote.same_place(&from)) {
            self.received = At::new(now);
            // While probes stay unacknowledged, what arrives only proves the other direction.
            if self.unacked < 2 && !self.suspect.is_set() {
                self.calm();
            }
            return false;
        }
        if self.current != 0 {
            return false;
        }
        self.retry(now, &from)
    }

    /// The peer's way from a place works: so may ours to it. Soon and often at first, then ever more rarely: in
    /// some pairs of NATs only one direction can work.
    pub(super) fn retry(&mut self, now: Instant, place: &Remote) -> bool {
        let quiet = self.round.get().map_or(ROUND, |at| now.since(at));
        match self.find(place).and_then(|at| self.candidates.get_mut(at)) {
            Some(candidate) if !candidate.due.is_set() && quiet >= candidate.retry_gap() => {
                candidate.restart(now, UPGRADE_PROBES);
                self.round = At::new(now);
                true
            }
            _ => false,
        }
    }

    /// The path is in doubt from now on: copies go over the relay, and it is probed at once.
    pub(super) fn suspect_now(&mut self, now: Instant) {
        if !self.suspect.is_set() {
            self.suspect = At::new(now);
            self.doubled = 0;
        }
        if !self.unanswered.is_set() {
            self.unanswered = At::new(now);
        }
        if !self.first_probe.is_set() {
            self.last_probe = At::NONE;
        }
    }

    /// Begins a round: every candidate but the path in use is probed from `at` on.
    pub(super) fn begin_round(&mut self, now: Instant, at: Instant) {
        let fresh = self.current == 0 && self.rounds < FULL_ROUNDS;
        let limit = if fresh { ROUND_PROBES } else { UPGRADE_PROBES };
        let current = usize::from(self.current).checked_sub(1);
        for (n, candidate) in self.candidates.iter_mut().enumerate() {
            if candidate.is_live() && Some(n) != current {
                candidate.restart(at, limit);
            }
        }
        self.has &= !RESTING;
        self.round = At::new(now);
        self.round_due = self.next_round(now);
    }

    /// Whether it is time for a rest instead of a round.
    fn is_tired(&self) -> bool {
        let times = self.rounds.checked_div(TIRED).unwrap_or_default();
        let whole = self.rounds.checked_rem(TIRED) == Some(0);
        self.current == 0 && whole && times.is_power_of_two() && self.has & RESTING == 0
    }

    /// No probes for a while: until the next round, which is both sides' again.
    pub(super) fn rest(&mut self, now: Instant) {
        self.has |= RESTING;
        for candidate in &mut self.candidates {
            candidate.due = At::NONE;
        }
        self.rounds = self.rounds.saturating_add(1);
        self.round_due = At::new(now.after(REST));
    }

    /// Something is new: the next rounds are full ones.
    pub(super) fn refresh_rounds(&mut self) {
        self.rounds = 0;
    }

    /// When the next round comes: rarely when a path is in use, steadily while packets take the relay, and behind
    /// the last packet after as long again as nothing was sent, until the peer counts as idle.
    fn next_round(&mut self, now: Instant) -> At {
        let factor = 1u64.checked_shl(u32::from(self.rounds)).unwrap_or(u64::MAX);
        self.rounds = self.rounds.saturating_add(1);
        let gap = match self.current {
            0 => self.idle(now).max(ROUND),
            _ => UPGRADE_FIRST.times(factor).min(UPGRADE_MAX),
        };
        At::new(now.after(gap))
    }

    /// Datagrams to the relay go another way: what was measured of it no longer holds.
    pub(super) fn relay_changed(&mut self, now: Instant) {
        self.measured = 0;
        let soon = At::new(now.after(Duration::from_secs(1)));
        if self.relay_probe > soon {
            self.relay_probe = soon;
        }
        if self.mtu[super::mtu::RELAY].size == 0 {
            self.restart_mtu(super::mtu::RELAY, now.after(Duration::from_millis(100)));
        }
    }

    /// How long nothing was sent to the peer.
    pub(super) fn idle(&self, now: Instant) -> Duration {
        self.sent.get().map_or(Duration::ZERO, |at| now.since(at))
    }

    /// Back from a pause: what had gone dormant is due again, what had become rare comes at its usual distance.
    /// True when a deadline moved forward.
    fn resume(&mut self, now: Instant) -> bool {
        let mut moved = !self.is_active(now);
        if moved {
            let mtu = self.mtu.iter_mut().map(|m| &mut m.due);
            for due in mtu.chain([&mut self.round_due, &mut self.relay_probe]).filter(|due| !due.is_set()) {
                *due = At::new(now);
            }
        }
        let round = At::new(self.round.get().map_or(now, |at| at.after(ROUND)).max(now));
        if self.current == 0 && self.has & RESTING == 0 && self.round_due > round {
            (self.round_due, moved) = (round, true);
        }
        let measure = At::new(now.after(ROUND));
        if self.relay_probe > measure {
            (self.relay_probe, moved) = (measure, true);
        }
        moved
    }

    pub(super) fn next_action(&self, now: Instant) -> Option<Action> {
        if !self.is(UP) {
            return None;
        }
        if self.list_due.is_due(now) {
            return Some(Action::List);
        }
        if self.is(OWE_LIST_ACK) {
            return Some(Action::ListAck);
        }
        if let Some(n) = self.candidates.iter().position(|c| c.due.is_due(now)) {
            return Some(Action::Candidate(n));
        }
        if self.next_path_probe().is_some_and(|at| at <= now) {
            return Some(Action::Path);
        }
        if let Some(way) = self.mtu.iter().position(|m| m.due.is_due(now)) {
            return Some(Action::Mtu(way));
        }
        self.relay_probe.is_due(now).then_some(Action::Relay)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        if !self.is(UP) {
            return None;
        }
        let candidates = self.candidates.iter().map(|c| c.due.get());
        let mtu = self.mtu.iter().map(|m| m.due.get());
        let rest = [self.list_due.get(), self.round_due.get(), self.relay_probe.get(), self.armed.get()];
        let path = [self.next_path_probe(), self.suspect_at(), self.demote_at()];
        candidates.chain(mtu).chain(rest).chain(path).flatten().min()
    }

    /// Distance of probes on a path that is sending and hears nothing.
    fn probe_gap(&self) -> Duration {
        Duration::from_micros(u64::from(self.srtt / 2)).max(PROBE_GAP_MIN)
    }

    /// When the path in use is to be probed next.
    fn next_path_probe(&self) -> Option<Instant> {
        let path = self.direct()?;
        let last = self.last_probe.get();
        if let Some(since) = self.suspect.get() {
            return Some(last.map_or(since, |at| at.after(self.probe_gap())));
        }
        let (sent, known) = (self.sent.get()?, last.or(path.proven.get())?);
        let verify = known.after(if self.unacked == 0 { VERIFY } else { SUSPECT_MIN }).max(sent);
        if let Some(since) = self.unanswered.get() {
            let again = last.map_or(since, |at| at.max(since)).after(self.probe_gap());
            return Some(if sent > known { again.min(verify) } else { again });
        }
        if sent > known {
            return Some(verify);
        }
        let keepalive = known.after(KEEPALIVE);
        (keepalive <= sent.after(ACTIVE)).then_some(keepalive)
    }

    /// When silence turns into doubt: measured from the first probe too, so that a long round trip is no reason.
    fn suspect_at(&self) -> Option<Instant> {
        if self.current == 0 || self.suspect.is_set() {
            return None;
        }
        let patience = u64::from(self.srtt).saturating_add(u64::from(self.rttvar).saturating_mul(4));
        let probed = self.first_probe.get()?.after(Duration::from_micros(patience));
        Some(self.unanswered.get()?.after(SUSPECT_MIN).max(probed))
    }

    /// When doubt ends in favour of the relay.
    fn demote_at(&self) -> Option<Instant> {
        self.suspect.get().filter(|_| self.current != 0).map(|at| at.after(DOUBLE_MAX))
    }

    /// Takes one probe from the ration, or says when there will be one.
    pub(super) fn take_token(&mut self, now: Instant) -> Result<(), Instant> {
        match self.tokens_at.get() {
            None => (self.tokens, self.tokens_at) = (TOKENS, At::new(now)),
            Some(at) => {
                let fresh = now.since(at).as_micros().checked_div(REFILL.as_micros()).unwrap_or_default();
                if fresh > 0 {
                    let sum = u64::from(self.tokens).saturating_add(fresh).min(u64::from(TOKENS));
                    (self.tokens, self.tokens_at) = (u8::try_from(sum).unwrap_or(TOKENS), At::new(now));
                }
            }
        }
        self.tokens = self.tokens.checked_sub(1).ok_or(now.after(REFILL))?;
        Ok(())
    }
}

/// The gap behind the `tries`-th probe of a candidate.
pub(super) fn gap_behind(tries: u8) -> Duration {
    let at = usize::from(tries).saturating_sub(1);
    Duration::from_millis(GAPS_MS.get(at).copied().unwrap_or_default())
}

impl Paths<'_> {
    pub(super) fn peer_timeout(&mut self, now: Instant, peer: PeerId) {
        let Some(slot) = self.slot_mut(peer).filter(|s| s.is(UP)) else { return };
        if slot.armed.is_due(now) {
            slot.armed = At::NONE;
        }
        if slot.suspect_at().is_some_and(|at| at <= now) {
            slot.suspect_now(now);
        }
        if slot.demote_at().is_some_and(|at| at <= now) {
            self.demote(now, peer);
        }
        self.round_timeout(now, peer);
        self.touch(now, peer);
    }

    fn round_timeout(&mut self, now: Instant, peer: PeerId) {
        let Some(slot) = self.slot_mut(peer) else { return };
        if !slot.round_due.is_due(now) {
            return;
        }
        let best = slot.direct().is_some_and(|c| c.tier() == 0);
        if best || !slot.is_active(now) {
            slot.round_due = At::NONE;
            return;
        }
        // The peer is asked to probe back, or to rest as well. Its list goes first, probes start when it has arrived.
        slot.list_due = At::new(now);
        if slot.is_tired() {
            slot.rest(now);
        } else {
            slot.begin_round(now, now.after(slot.relay_half()));
        }
    }

    /// The direct path is given up until a new proof.
    pub(super) fn demote(&mut self, now: Instant, peer: PeerId) {
        let Some(slot) = self.slot_mut(peer) else { return };
        slot.current = 0;
        slot.calm();
        (slot.rounds, slot.unacked) = (0, 0);
        slot.mtu[super::mtu::DIRECT] = super::slot::Mtu::EMPTY;
        slot.list_due = At::new(now);
        slot.begin_round(now, now.after(slot.relay_half()));
        self.raise(peer, CHANGED);
        self.touch(now, peer);
        // What broke the path may have broken all UDP: the binding is checked now, not at its next refresh.
        self.relay.rebind(now);
        self.begin(now);
    }
}
