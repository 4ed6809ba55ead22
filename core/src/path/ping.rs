//! A round trip measured on demand: one probe by the way in use, and the time until its acknowledgement.
//!
//! **Life cycle.** [`Paths::ping`], then [`Event::Pong`](super::Event::Pong) or silence. A ping counts as traffic
//! for the peer: a path that has gone quiet is checked again, and given up for the relay when it is dead.
//!
//! **Bounds.** One at a time; a new one takes the place of the one before. It moves no path: only the schedule's
//! own probes do.

use crate::path::{Event, Paths, PeerId, Transmit};
use crate::time::{Duration, Instant};
use crate::wire::path::{PROBE_MIN, Proof};

/// Tag of its probes: no candidate has it, nor has the relay.
pub(super) const PING_TAG: u8 = 0xFE;
const SIZE: u16 = PROBE_MIN as u16;

/// The measurement that is under way.
pub(super) struct Ping {
    /// To be sent.
    due: Option<PeerId>,
    /// Sent, with the stamp of its probe.
    sent: Option<(PeerId, u32)>,
    /// Answered.
    answer: Option<(PeerId, Duration)>,
}

impl Ping {
    pub(super) const NONE: Self = Self { due: None, sent: None, answer: None };

    /// Whether there is something to poll.
    pub(super) fn is_queued(&self) -> bool {
        self.due.is_some() || self.answer.is_some()
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.answer.take().map(|(peer, rtt)| Event::Pong { peer, rtt })
    }
}

impl Paths<'_> {
    /// Measures the round trip to a peer with a session by the way in use.
    pub fn ping(&mut self, now: Instant, peer: PeerId) {
        self.begin(now);
        self.sent(now, peer, 0);
        self.ping = Ping { due: Some(peer), ..Ping::NONE };
    }

    /// Writes the probe that is due.
    pub(super) fn poll_ping(&mut self, now: Instant, out: &mut [u8]) -> Option<Transmit> {
        let peer = self.ping.due.take()?;
        let route = self.route(now, peer, 0).first?;
        self.ping.sent = Some((peer, now.as_micros() as u32));
        self.emit_probe(now, peer, PING_TAG, route, SIZE, out, false)
    }

    /// The probe's acknowledgement. A copy that came another way proves nothing new.
    pub(super) fn ponged(&mut self, now: Instant, peer: PeerId, proof: &Proof) {
        if self.ping.sent != Some((peer, proof.stamp)) {
            return;
        }
        self.ping.sent = None;
        let age = (now.as_micros() as u32).wrapping_sub(proof.stamp);
        self.ping.answer = Some((peer, Duration::from_micros(age.into())));
    }
}
