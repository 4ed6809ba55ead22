//! Plain data of the path layer: what is kept per peer, all-zero being nothing known.

use crate::path::{Route, Source};
use crate::time::{Duration, Instant};
use core::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Candidates kept per peer.
pub(super) const CANDIDATES: usize = 8;
/// Of these, how many the peer's own list may fill: the rest is for sources that its probes come from.
pub(super) const LISTED: usize = 6;

/// A point in time or none, as plain data.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub(super) struct At(u64);

impl At {
    pub(super) const NONE: Self = Self(0);

    pub(super) fn new(at: Instant) -> Self {
        Self(at.as_micros().max(1))
    }

    pub(super) fn get(self) -> Option<Instant> {
        (self.0 != 0).then_some(Instant::from_micros(self.0))
    }

    pub(super) fn is_due(self, now: Instant) -> bool {
        self.get().is_some_and(|at| at <= now)
    }

    pub(super) fn is_set(self) -> bool {
        self.0 != 0
    }
}

/// How a direct datagram is sent: by which of our sockets, to which address. IPv4 is kept as itself, never as
/// an IPv4-mapped IPv6 address, so that one place has one form.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Remote {
    pub(super) ip: [u8; 16],
    pub(super) port: u16,
    /// 4, 6, or 0 for an empty place.
    pub(super) family: u8,
    pub(super) local: u8,
}

impl Remote {
    pub(super) const EMPTY: Self = Self { ip: [0; 16], port: 0, family: 0, local: 0 };

    pub(super) fn new(local: u8, address: SocketAddr) -> Self {
        let (family, ip) = match address.ip().to_canonical() {
            IpAddr::V4(v4) => (4, v4.to_ipv6_compatible().octets()),
            IpAddr::V6(v6) => (6, v6.octets()),
        };
        Self { ip, port: address.port(), family, local }
    }

    pub(super) fn address(&self) -> Option<SocketAddr> {
        let v6 = Ipv6Addr::from(self.ip);
        let ip = match self.family {
            4 => {
                let [.., a, b, c, d] = self.ip;
                IpAddr::from([a, b, c, d])
            }
            6 => IpAddr::V6(v6),
            _ => return None,
        };
        Some(SocketAddr::new(ip, self.port))
    }

    /// Same place at the other end, whichever socket of ours it is reached by.
    pub(super) fn same_place(&self, other: &Self) -> bool {
        self.family == other.family && self.port == other.port && self.ip == other.ip
    }

    /// Whether no NAT lies between: a private address.
    pub(super) fn is_near(&self) -> bool {
        self.address().is_some_and(|address| is_near(address.ip()))
    }

    pub(super) fn route(&self) -> Option<Route> {
        Some(Route::Direct { local: self.local, remote: self.address()? })
    }

    pub(super) fn of(source: &Source) -> Option<Self> {
        match *source {
            Source::Direct { local, remote } => Some(Self::new(local, remote)),
            Source::Relay | Source::RelayTcp => None,
        }
    }
}

/// Whether an address is of a site's own network: then so is who answers there.
pub fn is_near(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

/// The peer named the address as one of its interfaces'.
pub(super) const HOST: u8 = 1;
/// The peer named the address as the relay's view of it.
pub(super) const REFLEXIVE: u8 = 2;
/// A probe came from there.
pub(super) const OBSERVED: u8 = 3;

/// One place where a peer may be reached.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Candidate {
    /// When the last acknowledged probe was *sent*, so that a repeated acknowledgement proves nothing new.
    pub(super) proven: At,
    pub(super) due: At,
    pub(super) remote: Remote,
    pub(super) rtt: u32,
    pub(super) kind: u8,
    /// Probes sent in this round.
    pub(super) tries: u8,
    /// Probes allowed in this round.
    pub(super) limit: u8,
    /// Rounds without proof since the last one, for the back-off.
    pub(super) failed: u8,
}

impl Candidate {
    pub(super) const EMPTY: Self = Self {
        proven: At::NONE,
        due: At::NONE,
        remote: Remote::EMPTY,
        rtt: 0,
        kind: 0,
        tries: 0,
        limit: 0,
        failed: 0,
    };

    pub(super) fn is_live(&self) -> bool {
        self.remote.family != 0
    }

    /// Lower is better: the same network before anything that crosses a NAT.
    pub(super) fn tier(&self) -> u8 {
        u8::from(self.kind != HOST && !self.remote.is_near())
    }

    /// Begins a round of at most `limit` probes at `at`.
    pub(super) fn restart(&mut self, at: Instant, limit: u8) {
        (self.due, self.tries, self.limit) = (At::new(at), 0, limit);
        self.failed = self.failed.saturating_add(1);
    }
}

/// Search for the largest packet of one way to a peer: 0 the relay, 1 the direct path.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Mtu {
    pub(super) due: At,
    /// Largest inner packet known to pass; 0 for not yet known.
    pub(super) size: u16,
    /// Largest acknowledged in this round.
    pub(super) best: u16,
    /// Times the sizes were tried in this round.
    pub(super) tries: u8,
    /// Next size of the ladder.
    pub(super) step: u8,
    /// Rounds of re-checking since the last search.
    pub(super) checks: u8,
    pub(super) checking: u8,
}

impl Mtu {
    pub(super) const EMPTY: Self =
        Self { due: At::NONE, size: 0, best: 0, tries: 0, step: 0, checks: 0, checking: 0 };
}

pub(super) const KNOWN: u8 = 1;
pub(super) const UP: u8 = 2;
pub(super) const READY: u8 = 4;
pub(super) const EVENT: u8 = 8;
pub(super) const CHANGED: u8 = 16;
pub(super) const LOOKUP: u8 = 32;
/// The peer's list is to be acknowledged.
pub(super) const OWE_LIST_ACK: u8 = 64;
/// The deadline may have moved.
pub(super) const TOUCHED: u8 = 128;

/// What is known of the ways to one peer. What every packet looks at comes first: with many peers its time is that of the
/// lines of the cache that it has to fetch.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PathSlot {
    pub(super) flags: u8,
    /// Index of the candidate in use plus one; 0 for the relay.
    pub(super) current: u8,
    /// Path probes sent since the last acknowledged one.
    pub(super) unacked: u8,
    pub(super) has: u8,
    pub(super) send_session: u32,
    pub(super) doubled: u32,
    pub(super) next_touched: u32,
    /// Last packet for the peer, and last one that arrived by the direct path in use.
    pub(super) sent: At,
    pub(super) received: At,
    pub(super) suspect: At,
    /// First packet sent on the direct path since anything proved it.
    pub(super) unanswered: At,
    /// First and last probe on the path since then.
    pub(super) first_probe: At,
    pub(super) last_probe: At,
    /// A deadline that the caller holds already, so that not every packet moves one.
    pub(super) armed: At,
    pub(super) mtu: [Mtu; 2],
    pub(super) candidates: [Candidate; CANDIDATES],
    pub(super) srtt: u32,
    pub(super) rttvar: u32,
    pub(super) relay_rtt: u32,
    pub(super) receive_session: u32,
    pub(super) list_due: At,
    pub(super) list_sent: At,
    pub(super) round: At,
    pub(super) round_due: At,
    pub(super) relay_probe: At,
    pub(super) tokens_at: At,
    /// Generation of our list that the peer acknowledged, and of its list that we hold.
    pub(super) heard: u32,
    pub(super) generation: u32,
    pub(super) next_ready: u32,
    pub(super) next_event: u32,
    /// Where it was last reached directly, for a start without a relay.
    pub(super) hint: Remote,
    /// How often the hint may still be called at before something proves it.
    pub(super) hint_calls: u8,
    /// Rounds since the last success, for the back-off.
    pub(super) rounds: u8,
    pub(super) list_tries: u8,
    pub(super) tokens: u8,
    /// Whether the relay's round trip was measured, not guessed.
    pub(super) measured: u8,
    pub(super) reserved: [u8; 7],
}

/// Peer's list was received at least once (in `has`).
pub(super) const HAS_LIST: u8 = 1;
/// The peer acknowledged one of our lists.
pub(super) const HEARD: u8 = 2;
/// No rounds for a while.
pub(super) const RESTING: u8 = 4;

impl PathSlot {
    /// Nothing known.
    pub const EMPTY: Self = Self {
        candidates: [Candidate::EMPTY; CANDIDATES],
        mtu: [Mtu::EMPTY; 2],
        hint: Remote::EMPTY,
        send_session: 0,
        receive_session: 0,
        heard: 0,
        generation: 0,
        has: 0,
        flags: 0,
        current: 0,
        rounds: 0,
        list_tries: 0,
        tokens: 0,
        unacked: 0,
        measured: 0,
        srtt: 0,
        rttvar: 0,
        relay_rtt: 0,
        doubled: 0,
        sent: At::NONE,
        received: At::NONE,
        unanswered: At::NONE,
        first_probe: At::NONE,
        last_probe: At::NONE,
        suspect: At::NONE,
        list_due: At::NONE,
        list_sent: At::NONE,
        round: At::NONE,
        round_due: At::NONE,
        relay_probe: At::NONE,
        tokens_at: At::NONE,
        armed: At::NONE,
        next_ready: 0,
        next_event: 0,
        next_touched: 0,
        hint_calls: 0,
        reserved: [0; 7],
    };

    pub(super) fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn set(&mut self, flag: u8) {
        self.flags |= flag;
    }

    pub(super) fn clear(&mut self, flag: u8) {
        self.flags &= !flag;
    }

    /// Forgets everything but the lists, which thread through the slots: what they hold leaves in its turn.
    pub(super) fn forget(&mut self) {
        let flags = self.flags & (READY | EVENT | TOUCHED);
        let links = (self.next_ready, self.next_event, self.next_touched);
        *self = Self::EMPTY;
        self.flags = flags;
        (self.next_ready, self.next_event, self.next_touched) = links;
    }

    /// The direct path in use.
    pub(super) fn direct(&self) -> Option<&Candidate> {
        self.candidates.get(usize::from(self.current).checked_sub(1)?)
    }

    /// The place of the candidate at `remote`, by whichever socket.
    pub(super) fn find(&self, remote: &Remote) -> Option<usize> {
        self.candidates.iter().position(|c| c.is_live() && c.remote.same_place(remote))
    }

    /// Where the peer was reached last, if that needed no NAT.
    pub(super) fn near_hint(&self) -> Option<Route> {
        self.hint.route().filter(|_| self.hint.is_near())
    }

    /// Half a round trip over the relay, as far as known.
    pub(super) fn relay_half(&self) -> Duration {
        Duration::from_micros(u64::from(self.relay_rtt / 2))
    }
}

/// An acknowledgement waiting to be sent.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct AckSlot {
    pub(super) peer: u32,
    pub(super) stamp: u32,
    pub(super) nonce: [u8; 8],
    pub(super) size: u16,
    pub(super) tag: u8,
    /// 0 straight back to where the probe came from, 1 by the route of the moment.
    pub(super) by_route: u8,
    /// Where the probe came from; empty for a relay.
    pub(super) remote: Remote,
}

impl AckSlot {
    /// A free place.
    pub const EMPTY: Self =
        Self { peer: 0, stamp: 0, nonce: [0; 8], size: 0, tag: 0, by_route: 0, remote: Remote::EMPTY };
}
