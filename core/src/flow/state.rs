//! How far a flow has come, and when it ends: what both tables keep of each entry.

use crate::time::{Duration, Instant};
use crate::wire::ip::{FIN, RST, SCTP, SYN, TCP, Transport, UDP, sctp};

/// Liveness of one entry.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Track {
    /// Its last packet, in microseconds.
    last: u64,
    /// When it was made, in milliseconds, modulo 2^32.
    opened: u32,
    protocol: u8,
    /// One of the constants below; 0 is a free slot.
    state: u8,
    fins: u8,
    /// Not 0 while only the endpoint was heard.
    unasked: u8,
}

/// The endpoint has not answered.
const UNREPLIED: u8 = 1;
/// TCP, SCTP: the endpoint answered, the client has not confirmed.
const REPLIED: u8 = 2;
/// Both sides confirmed.
const ESTABLISHED: u8 = 3;
/// TCP: both sides have sent a FIN. SCTP: the last packet of the shutdown has passed.
const CLOSING: u8 = 4;
/// Handed over to this node's kernel: kept only for what was on its way here before the kernel took it.
const HANDED: u8 = 5;

/// What a packet did to its entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Progress {
    /// It lives at least as long as before.
    On,
    /// It ends sooner than said before.
    Sooner,
    /// It has ended with this packet.
    Over,
}

/// In which order entries of a full table give way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Class {
    Closing,
    Unreplied,
    Idle,
}

impl Track {
    pub(super) const ZERO: Self = Self { last: 0, opened: 0, protocol: 0, state: 0, fins: 0, unasked: 0 };

    /// The state after the first packet. One without SYN or INIT belongs to a connection that was there before
    /// this table.
    pub(super) fn new(now: Instant, from_client: bool, t: &Transport) -> Self {
        let midway = match t.protocol {
            TCP => t.tcp_flags() & SYN == 0,
            SCTP => !matches!(t.sctp_chunk(), sctp::INIT | sctp::INIT_ACK),
            _ => false,
        };
        let mut track = Self::ahead(now, t.protocol, midway);
        track.unasked = u8::from(!from_client);
        let _ = track.packet(now, from_client, t);
        track
    }

    /// The state of an entry that is made ahead of its first packet.
    pub(super) fn ahead(now: Instant, protocol: u8, established: bool) -> Self {
        let state = if established { ESTABLISHED } else { UNREPLIED };
        Self { last: now.as_micros(), opened: millis(now), protocol, state, fins: 0, unasked: 0 }
    }

    /// Whether this is a track at all, after its memory went through another run; a clock that began anew does
    /// not make it immortal.
    pub(super) fn mend(&mut self, now: Instant) -> bool {
        self.last = self.last.min(now.as_micros());
        (UNREPLIED..=HANDED).contains(&self.state)
    }

    pub(super) fn packet(&mut self, now: Instant, from_client: bool, t: &Transport) -> Progress {
        self.last = now.as_micros();
        if from_client {
            self.unasked = 0;
        }
        match self.protocol {
            TCP => self.segment(from_client, t.tcp_flags()),
            SCTP => self.chunk(from_client, t.sctp_chunk()),
            _ => {
                if !from_client {
                    self.state = ESTABLISHED;
                }
                Progress::On
            }
        }
    }

    fn segment(&mut self, from_client: bool, flags: u8) -> Progress {
        if flags & RST != 0 {
            return Progress::Over;
        }
        let before = self.timeout();
        if flags & FIN != 0 {
            self.fins |= if from_client { 1 } else { 2 };
        }
        self.state = match (self.state, from_client) {
            _ if self.fins == 3 => CLOSING,
            (UNREPLIED, false) => REPLIED,
            (REPLIED, true) if flags & SYN == 0 => ESTABLISHED,
            (state, _) => state,
        };
        self.compared_with(before)
    }

    /// RFC 9260, 4. A COOKIE ECHO, and all that belongs to an association from before this table, establishes.
    fn chunk(&mut self, from_client: bool, chunk: u8) -> Progress {
        if chunk == sctp::ABORT {
            return Progress::Over;
        }
        let before = self.timeout();
        self.state = match (self.state, from_client, chunk) {
            (_, _, sctp::SHUTDOWN_COMPLETE) => CLOSING,
            (CLOSING, true, sctp::INIT) => UNREPLIED,
            (UNREPLIED, false, sctp::INIT_ACK) => REPLIED,
            (REPLIED, true, sctp::INIT) => REPLIED,
            (UNREPLIED, false, _) | (REPLIED, true, _) => ESTABLISHED,
            (state, ..) => state,
        };
        self.compared_with(before)
    }

    fn compared_with(&self, before: Duration) -> Progress {
        if self.timeout() < before { Progress::Sooner } else { Progress::On }
    }

    pub(super) fn deadline(&self) -> Instant {
        Instant::from_micros(self.last).after(self.timeout())
    }

    pub(super) fn live(&self) -> bool {
        self.state != 0
    }

    pub(super) fn protocol(&self) -> u8 {
        self.protocol
    }

    pub(super) fn is_closing(&self) -> bool {
        self.state == CLOSING
    }

    /// The kernel carries it from now on, or again we do.
    pub(super) fn hand_over(&mut self, to_kernel: bool) {
        self.state = if to_kernel { HANDED } else { UNREPLIED };
    }

    pub(super) fn is_handed(&self) -> bool {
        self.state == HANDED
    }

    pub(super) fn is_unreplied(&self) -> bool {
        self.state == UNREPLIED
    }

    pub(super) fn idle(&self, now: Instant) -> Duration {
        now.since(Instant::from_micros(self.last))
    }

    /// How long it has been there, modulo 49 days: for those that are not answered yet.
    pub(super) fn age(&self, now: Instant) -> Duration {
        Duration::from_millis(millis(now).wrapping_sub(self.opened).into())
    }

    /// Whether it may give way in a full table: a live entry never does.
    pub(super) fn class(&self, now: Instant) -> Option<Class> {
        match self.state {
            CLOSING => Some(Class::Closing),
            // Who answers nobody must not keep clients out.
            _ if self.unasked != 0 => Some(Class::Unreplied),
            UNREPLIED | REPLIED | HANDED => Some(Class::Unreplied),
            ESTABLISHED if self.idle(now) > self.patience() => Some(Class::Idle),
            _ => None,
        }
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(match (self.protocol, self.state) {
            (TCP, UNREPLIED) => 120,
            (TCP, REPLIED) => 60,
            (TCP | SCTP, CLOSING) => 2,
            (_, HANDED) => 5,
            // Half closed: kube-proxy's CLOSE_WAIT timeout; otherwise its established timeout (row C12).
            (TCP, _) if self.fins != 0 => 3_600,
            (TCP, _) => 86_400,
            (UDP, ESTABLISHED) => 180,
            // Its heartbeats come every 30 s.
            (SCTP, ESTABLISHED) => 210,
            _ => 30,
        })
    }

    /// How long an established entry is silent before it counts as idle (RFC 5382 REQ-5, RFC 4787 REQ-5).
    fn patience(&self) -> Duration {
        Duration::from_secs(match self.protocol {
            TCP if self.fins != 0 => 240,
            TCP => 7_440,
            UDP | SCTP => 120,
            _ => 10,
        })
    }
}

fn millis(now: Instant) -> u32 {
    (now.as_micros() / 1_000) as u32
}
