//! Probes, their acknowledgements, and what an acknowledgement proves.

use crate::counters::DropReason;
use crate::path::candidates::NO_ROUTE_GAP;
use crate::path::mtu::{DIRECT, RELAY, RELAY_TAG};
use crate::path::ping::PING_TAG;
use crate::path::schedule::gap_behind;
use crate::path::slot::{AckSlot, At, CHANGED, PathSlot, Remote};
use crate::path::{Paths, PeerId, Route, Source, Transmit};
use crate::time::{Duration, Instant};
use crate::wire::path::{PROBE_MIN, Probe, ProbeAck, Proof};
use core::hash::Hasher;
use core::net::SocketAddr;
use siphasher::sip::SipHasher24;

/// An acknowledgement later than this proves nothing any more.
const PROOF_AGE: Duration = Duration::from_secs(10);
/// Round trips of the relay are measured this often while packets take it.
const RELAY_PROBE: Duration = Duration::from_secs(10);
/// And this often beside a direct path.
const RELAY_PROBE_SPARE: Duration = Duration::from_secs(60);
/// A path of the same tier must be better by this share and this much to be worth a move.
const HYSTERESIS_DIVISOR: u32 = 5;
const HYSTERESIS_MIN: u32 = 10_000;
/// A new round trip counts for one in so many. RFC 6298 takes an eighth, of many samples a second; here one comes
/// every few seconds, and the first may have been an unlucky one.
const RTT_WEIGHT: u64 = 4;
const RELAY_WEIGHT: u64 = 2;

const SMALL: u16 = PROBE_MIN as u16;

impl Paths<'_> {
    /// What proves that a probe of ours with these properties arrived: nobody else can make it.
    fn nonce(&self, peer: PeerId, tag: u8, remote: &Remote, stamp: u32, size: u16) -> [u8; 8] {
        let mut hash = SipHasher24::new_with_key(&self.key);
        hash.write(&remote.ip);
        hash.write_u16(remote.port.to_le());
        hash.write(&[remote.family, remote.local, tag, 1]);
        hash.write_u32(stamp.to_le());
        hash.write_u32(peer.0.to_le());
        hash.write_u16(size.to_le());
        hash.finish().to_le_bytes()
    }

    /// A random number for spreading timers: no secret.
    pub(super) fn draw(&mut self) -> u64 {
        self.draws = self.draws.wrapping_add(1);
        let mut hash = SipHasher24::new_with_key(&self.key);
        hash.write_u64(self.draws.to_le());
        hash.finish()
    }

    #[expect(clippy::too_many_arguments, reason = "all of it is what one probe is")]
    pub(super) fn emit_probe(
        &mut self,
        now: Instant,
        peer: PeerId,
        tag: u8,
        route: Route,
        size: u16,
        out: &mut [u8],
        dont_fragment: bool,
    ) -> Option<Transmit> {
        let place = match route {
            Route::Direct { local, remote } if tag != PING_TAG => Remote::new(local, remote),
            _ => Remote::EMPTY,
        };
        let stamp = now.as_micros() as u32;
        let nonce = self.nonce(peer, tag, &place, stamp, size);
        let len = Probe { proof: Proof { nonce, tag, stamp, size } }.emit(out).ok()?;
        Some(Transmit { peer, route, len, dont_fragment })
    }

    pub(super) fn probe_candidate(
        &mut self,
        now: Instant,
        peer: PeerId,
        n: usize,
        out: &mut [u8],
    ) -> Option<Transmit> {
        let slot = self.slot_mut(peer)?;
        let current = usize::from(slot.current).checked_sub(1) == Some(n);
        let token = slot.take_token(now);
        let candidate = slot.candidates.get_mut(n)?;
        if current {
            candidate.due = At::NONE;
            return None;
        }
        if let Err(later) = token {
            candidate.due = At::new(later);
            return None;
        }
        candidate.tries = candidate.tries.saturating_add(1);
        let done = candidate.tries >= candidate.limit;
        candidate.due = if done { At::NONE } else { At::new(now.after(gap_behind(candidate.tries))) };
        let route = candidate.remote.route()?;
        self.emit_probe(now, peer, u8::try_from(n).ok()?, route, SMALL, out, false)
    }

    pub(super) fn probe_path(&mut self, now: Instant, peer: PeerId, out: &mut [u8]) -> Option<Transmit> {
        let slot = self.slot_mut(peer)?;
        slot.last_probe = At::new(now);
        if !slot.unanswered.is_set() {
            slot.unanswered = At::new(now);
        }
        if !slot.first_probe.is_set() {
            slot.first_probe = At::new(now);
        }
        slot.unacked = slot.unacked.saturating_add(1);
        let (tag, route) = (slot.current.checked_sub(1)?, slot.direct()?.remote.route()?);
        self.emit_probe(now, peer, tag, route, SMALL, out, false)
    }

    pub(super) fn probe_relay(&mut self, now: Instant, peer: PeerId, out: &mut [u8]) -> Option<Transmit> {
        let route = self.relay_route(self.slot(peer)?);
        let slot = self.slot_mut(peer)?;
        let active = slot.is_active(now);
        let gap = match route {
            None => NO_ROUTE_GAP.times(5),
            Some(_) if slot.current != 0 => RELAY_PROBE_SPARE,
            Some(_) => RELAY_PROBE.max(slot.idle(now)),
        };
        slot.relay_probe = if active { At::new(now.after(gap)) } else { At::NONE };
        // The relay was not usable over UDP when the session began.
        let unsized_yet = slot.mtu[RELAY].size == 0 && !slot.mtu[RELAY].due.is_set();
        if active && unsized_yet && matches!(route, Some(Route::Relay { .. })) {
            slot.restart_mtu(RELAY, now);
        }
        self.emit_probe(now, peer, RELAY_TAG, route.filter(|_| active)?, SMALL, out, false)
    }

    /// The peer asks for an acknowledgement. It goes straight back, and by the way in use where that differs: the
    /// peer's path may work when ours does not.
    pub(super) fn probed(
        &mut self,
        now: Instant,
        peer: PeerId,
        source: &Source,
        proof: &Proof,
    ) -> Result<(), DropReason> {
        let place = Remote::of(source);
        let mut straight = true;
        if let Some(place) = place {
            self.observed(now, peer, place);
            let slot = self.slot_mut(peer).ok_or(DropReason::NoSession)?;
            let candidate = slot.find(&place).and_then(|at| slot.candidates.get(at));
            // Where nobody proved to be, answers are rationed as probes are, and go only while there are probes.
            straight = match candidate {
                Some(candidate) if candidate.proven.is_set() => true,
                Some(candidate) => candidate.due.is_set() && slot.take_token(now).is_ok(),
                None => false,
            };
        }
        let ack = AckSlot {
            peer: peer.0,
            stamp: proof.stamp,
            nonce: proof.nonce,
            size: proof.size,
            tag: proof.tag,
            by_route: 0,
            remote: place.unwrap_or(Remote::EMPTY),
        };
        let back = place.and_then(|place| place.route());
        let elsewhere = place.is_some() && self.route(now, peer, 0).first != back;
        if straight {
            self.acks.push(ack).map_err(|_| DropReason::QueueFull)?;
        }
        if elsewhere {
            self.acks.push(AckSlot { by_route: 1, ..ack }).map_err(|_| DropReason::QueueFull)?;
        }
        Ok(())
    }

    pub(super) fn emit_ack(&mut self, ack: &AckSlot, out: &mut [u8]) -> Option<Transmit> {
        let peer = PeerId(ack.peer);
        let slot = self.slot(peer)?;
        let observed: Option<SocketAddr> = ack.remote.address();
        let route = match (ack.by_route, observed) {
            (0, Some(_)) => ack.remote.route(),
            (0, None) => self.relay_route(slot),
            _ => self.route(self.now, peer, 0).first,
        };
        let proof = Proof { nonce: ack.nonce, tag: ack.tag, stamp: ack.stamp, size: ack.size };
        let len = ProbeAck { proof, observed }.emit(out).ok()?;
        Some(Transmit { peer, route: route?, len, dont_fragment: false })
    }

    /// A probe of ours arrived, says the peer; believed if the proof is one that we made lately.
    pub(super) fn acknowledged(
        &mut self,
        now: Instant,
        peer: PeerId,
        source: &Source,
        proof: &Proof,
    ) -> Result<(), DropReason> {
        let slot = self.slot(peer).ok_or(DropReason::NoSession)?;
        let n = usize::from(proof.tag);
        let remote = match slot.candidates.get(n) {
            Some(candidate) if candidate.is_live() => candidate.remote,
            None if matches!(proof.tag, RELAY_TAG | PING_TAG) => Remote::EMPTY,
            _ => return Err(DropReason::ProbeAck),
        };
        let expected = self.nonce(peer, proof.tag, &remote, proof.stamp, proof.size);
        let age = Duration::from_micros((now.as_micros() as u32).wrapping_sub(proof.stamp).into());
        if expected != proof.nonce || age > PROOF_AGE {
            return Err(DropReason::ProbeAck);
        }
        if proof.tag == PING_TAG {
            self.ponged(now, peer, proof);
            return Ok(());
        }
        let current = slot.current != 0 && usize::from(slot.current).checked_sub(1) == Some(n);
        let padded = proof.size > SMALL;
        let way = if proof.tag == RELAY_TAG { RELAY } else { DIRECT };
        let largest = self.largest(slot, way);
        let slot = self.slot_mut(peer).ok_or(DropReason::NoSession)?;
        if padded && (way == RELAY || current) {
            slot.mtu_proven(way, proof.size, largest, now);
        }
        let micros = u32::try_from(age.as_micros()).unwrap_or(u32::MAX).max(1);
        if way == RELAY {
            if !matches!(source, Source::Direct { .. }) {
                slot.relay_measured(micros);
            }
            return Ok(());
        }
        let sent = Instant::from_micros(now.as_micros().saturating_sub(age.as_micros()));
        if slot.path_proven(n, current, sent, micros) && !current {
            self.consider(now, peer, n);
        }
        Ok(())
    }

    /// Moves to a proven candidate if it is better than the path in use.
    fn consider(&mut self, now: Instant, peer: PeerId, n: usize) {
        let Some(slot) = self.slot_mut(peer) else { return };
        let Some(candidate) = slot.candidates.get(n) else { return };
        if slot.direct().is_some_and(|path| !is_better(candidate, path, slot.srtt) && !slot.suspect.is_set())
        {
            return;
        }
        slot.promote(now, n);
        self.raise(peer, CHANGED);
    }
}

fn is_better(candidate: &super::slot::Candidate, path: &super::slot::Candidate, srtt: u32) -> bool {
    let margin = (srtt / HYSTERESIS_DIVISOR).max(HYSTERESIS_MIN);
    match candidate.tier().cmp(&path.tier()) {
        core::cmp::Ordering::Less => true,
        core::cmp::Ordering::Equal => candidate.rtt.saturating_add(margin) < srtt,
        core::cmp::Ordering::Greater => false,
    }
}

impl PathSlot {
    /// A probe sent at `sent` on candidate `n` arrived. False when that was known already.
    fn path_proven(&mut self, n: usize, current: bool, sent: Instant, rtt: u32) -> bool {
        let Some(candidate) = self.candidates.get_mut(n) else { return false };
        if candidate.proven >= At::new(sent) {
            return false;
        }
        candidate.proven = At::new(sent);
        candidate.rtt = rtt;
        candidate.failed = 0;
        candidate.due = At::NONE;
        if current {
            self.unacked = 0;
            let error = self.srtt.abs_diff(rtt);
            self.rttvar = smooth(self.rttvar, error, 4);
            self.srtt = smooth(self.srtt, rtt, RTT_WEIGHT);
            if self.unanswered <= At::new(sent) {
                self.calm();
            }
        }
        true
    }

    /// A probe over the relay took `rtt` microseconds.
    fn relay_measured(&mut self, rtt: u32) {
        let first = core::mem::replace(&mut self.measured, 1) == 0;
        self.relay_rtt = if first { rtt } else { smooth(self.relay_rtt, rtt, RELAY_WEIGHT) };
    }

    fn promote(&mut self, now: Instant, n: usize) {
        let Some(candidate) = self.candidates.get(n).copied() else { return };
        let Ok(current) = u8::try_from(n.saturating_add(1)) else { return };
        self.current = current;
        (self.hint, self.hint_calls) = (candidate.remote, u8::MAX);
        (self.srtt, self.rttvar) = (candidate.rtt, candidate.rtt / 2);
        (self.unacked, self.rounds) = (0, 0);
        self.received = At::NONE;
        self.last_probe = At::NONE;
        self.calm();
        // What could only be worse need not be probed further.
        let tier = candidate.tier();
        for other in self.candidates.iter_mut().filter(|c| c.tier() > tier) {
            other.due = At::NONE;
        }
        self.restart_mtu(DIRECT, now);
        self.round_due = At::new(now.after(Duration::from_secs(60)));
    }
}

/// Exponential average with weight 1/`weight` for the new value (after RFC 6298).
fn smooth(old: u32, new: u32, weight: u64) -> u32 {
    let sum = u64::from(old).saturating_mul(weight.saturating_sub(1)).saturating_add(new.into());
    u32::try_from(sum.checked_div(weight).unwrap_or_default()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::slot::{Candidate, HOST, REFLEXIVE};

    #[test]
    fn nearer_wins_and_equally_near_must_be_clearly_faster() {
        let candidate = |kind, address: &str, rtt| Candidate {
            remote: Remote::new(0, address.parse().unwrap()),
            kind,
            rtt,
            ..Candidate::EMPTY
        };
        let host = |rtt| candidate(HOST, "192.0.2.1:1", rtt);
        let far = |rtt| candidate(REFLEXIVE, "192.0.2.2:1", rtt);
        let near = |rtt| candidate(super::super::slot::OBSERVED, "10.0.0.1:1", rtt);
        assert!(is_better(&host(90_000), &far(20_000), 20_000));
        assert!(is_better(&near(90_000), &far(20_000), 20_000));
        assert!(!is_better(&far(1_000), &host(90_000), 90_000));
        // 20 % of 100 ms, and at least 10 ms.
        assert!(!is_better(&far(80_000), &far(100_000), 100_000));
        assert!(is_better(&far(79_999), &far(100_000), 100_000));
        assert!(!is_better(&far(10_000), &far(20_000), 20_000));
        assert!(is_better(&far(9_999), &far(20_000), 20_000));
    }
}
