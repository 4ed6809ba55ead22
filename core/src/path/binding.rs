//! The relay client: keeps this node bound at the server, over UDP where it passes and over TCP where not.
//!
//! Life cycle: terms come with the control connection; `Bind` -> `Challenge` -> `Bind` -> `Bound` over UDP; the
//! binding is refreshed every 15 to 25 s, which also keeps the NAT's mapping and measures the round trip. When
//! UDP stays silent for [`FALLBACK`], the shell is asked for a TCP connection, and UDP is tried on in the
//! background; once it answers, it is used again and the connection closes. Datagrams that cease to come, or that
//! go out and bring nothing back, have the binding checked early.
//!
//! Bounds: one server at a time, a few fixed fields. Whoever does not know the relay key can make it send no
//! more than one early bind per second, by a forged `Unbound`. It does not carry
//! data: envelopes are written and read by the caller.

use crate::counters::DropReason;
use crate::path::{RelayLeg, RelayVia, Terms};
use crate::time::{Duration, Instant};
use crate::wire::relay::{Cookie, Message, verify};
use core::net::SocketAddr;
use zeroize::Zeroizing;

/// UDP is given up for TCP when nothing was heard for this long.
pub const FALLBACK: Duration = Duration::from_millis(1_000);
/// How long datagrams may go out by UDP with none coming back before the binding is checked.
const UNHEARD: Duration = Duration::from_millis(700);
/// Refresh of a binding: at least this, and up to [`REFRESH_SPREAD`] later.
pub const REFRESH: Duration = Duration::from_secs(15);
/// Spread of refreshes, so that a server's nodes do not move in step.
pub const REFRESH_SPREAD: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// UDP is tried at least this often while datagrams go out by the relay's TCP connection.
const RETRY_USED: Duration = Duration::from_secs(8);
/// So long after the last relayed datagram that came by UDP the binding is checked.
const CEASED: Duration = Duration::from_secs(5);
const UNBOUND_GAP: Duration = Duration::from_secs(1);
const LOOKUP_GAP: Duration = Duration::from_millis(100);
const TCP_PATIENCE: Duration = Duration::from_secs(5);
/// The TCP connection outlives the return to UDP by this, for what is still under way.
const TCP_LINGER: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    Open,
    Close,
}

/// One way of binding: over UDP or over TCP.
#[derive(Clone, Copy)]
struct Leg {
    bound: bool,
    due: Option<Instant>,
    /// First bind since the last answer.
    silent_since: Option<Instant>,
    tries: u8,
    cookie: Cookie,
    /// A bind that no challenge caused is out, so that a challenge may answer it: a flood of forged ones gets one
    /// bind per retry.
    challengeable: bool,
    challenged: bool,
    /// Epoch and time of the last bind, for the round trip.
    epoch: u64,
    sent: Instant,
    /// Lowest epoch that a `Bound` may still name.
    floor: u64,
}

impl Leg {
    const OFF: Self = Self {
        bound: false,
        due: None,
        silent_since: None,
        tries: 0,
        cookie: [0; 16],
        challengeable: false,
        challenged: false,
        epoch: 0,
        sent: Instant::ZERO,
        floor: u64::MAX,
    };
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tcp {
    Closed,
    /// The shell was asked to connect.
    Opening,
    Open,
}

/// What the peers may have to know of a binding.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    None,
    /// We are seen at another address.
    Address,
    /// UDP answers after it had been given up.
    Returned,
}

/// What a relay datagram turned out to be.
pub(super) enum Input<'d> {
    /// Part of the binding.
    Binding(News),
    /// A tunnel datagram in this receive session.
    Data { session: u32, payload: &'d [u8] },
    /// The server does not know this send session, although we are bound.
    SessionUnknown { session: u32 },
}

/// The relay client.
pub(super) struct Relay {
    server: Option<(SocketAddr, u8, u32)>,
    key: Zeroizing<[u8; 32]>,
    epoch: u64,
    /// Since when datagrams go out by UDP and none comes back.
    unheard_since: Option<Instant>,
    /// When the last datagram came by UDP, if the binding was not confirmed since.
    heard_at: Option<Instant>,
    /// When the last datagram went out by the relay.
    used: Option<Instant>,
    udp: Leg,
    tcp: Leg,
    connection: Tcp,
    reopen: Option<Instant>,
    linger: Option<Instant>,
    failures: u8,
    wish: Option<Wish>,
    changed: bool,
    leg: RelayLeg,
    observed: Option<SocketAddr>,
    rtt: Option<Duration>,
    bound_at: Option<Instant>,
    unbound_at: Option<Instant>,
    lookup_at: Option<Instant>,
}

impl Relay {
    pub(super) fn new() -> Self {
        Self {
            server: None,
            key: Zeroizing::new([0; 32]),
            epoch: 0,
            unheard_since: None,
            heard_at: None,
            used: None,
            udp: Leg::OFF,
            tcp: Leg::OFF,
            connection: Tcp::Closed,
            reopen: None,
            linger: None,
            failures: 0,
            wish: None,
            changed: false,
            leg: RelayLeg::None,
            observed: None,
            rtt: None,
            bound_at: None,
            unbound_at: None,
            lookup_at: None,
        }
    }

    /// New terms: binds afresh. A binding under the same key is kept in use meanwhile.
    pub(super) fn terms(&mut self, now: Instant, terms: &Terms) {
        let server = Some((terms.server, terms.local, terms.index));
        let same = self.server == server && *self.key == terms.key;
        self.epoch = self.epoch.max(terms.epoch);
        if !same {
            self.server = server;
            self.key = Zeroizing::new(terms.key);
            self.epoch = terms.epoch;
            self.udp = Leg::OFF;
            self.close_tcp();
        }
        self.rebind(now);
    }

    /// Binds at once: the network has changed, or the server may have forgotten.
    pub(super) fn rebind(&mut self, now: Instant) {
        if self.server.is_some() {
            self.udp.due = Some(now);
            self.udp.tries = 0;
            if self.connection == Tcp::Open && !self.udp.bound {
                self.tcp.due = Some(now);
            }
        }
    }

    /// A datagram goes out by the relay. Where nothing comes back by UDP the binding is checked early, so that a
    /// network that lost UDP is left for TCP; where UDP is being tried beside TCP, it is tried more often. True
    /// when a bind comes earlier for it.
    pub(super) fn relayed(&mut self, now: Instant) -> bool {
        let paused = !self.is_used(now);
        self.used = Some(now);
        if self.leg != RelayLeg::Udp {
            let soon = self.udp.sent.after(RETRY_USED).max(now);
            let late = paused && self.udp.due.is_some_and(|at| at > soon);
            if late {
                self.udp.due = Some(soon);
            }
            return late;
        }
        if self.udp.silent_since.is_some() {
            return false;
        }
        let since = *self.unheard_since.get_or_insert(now);
        if now.since(since) < UNHEARD {
            return false;
        }
        self.unheard_since = Some(now);
        self.rebind(now);
        true
    }

    /// Whether datagrams went out by the relay lately.
    fn is_used(&self, now: Instant) -> bool {
        self.used.is_some_and(|at| now.since(at) < RETRY_USED)
    }

    /// A tunnel datagram came by the relay. A node that only receives would not notice that UDP died: when such
    /// datagrams cease, the binding is checked.
    pub(super) fn heard(&mut self, now: Instant, via: RelayVia) {
        if matches!(via, RelayVia::Udp { .. }) {
            self.unheard_since = None;
            self.heard_at = Some(now);
        }
    }

    pub(super) fn leg(&self) -> RelayLeg {
        self.leg
    }

    pub(super) fn observed(&self) -> Option<SocketAddr> {
        self.observed
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    pub(super) fn server(&self) -> Option<(u8, SocketAddr)> {
        self.server.map(|(server, local, _)| (local, server))
    }

    /// The TCP connection stands; the preamble is the shell's.
    pub(super) fn tcp_up(&mut self, now: Instant) {
        self.connection = Tcp::Open;
        self.tcp = Leg { due: Some(now), ..Leg::OFF };
    }

    /// The TCP connection could not be made, or broke.
    pub(super) fn tcp_down(&mut self, now: Instant) {
        self.connection = Tcp::Closed;
        self.tcp = Leg::OFF;
        self.linger = None;
        self.failures = self.failures.saturating_add(1);
        self.reopen =
            Some(now.after(back_off(Duration::from_secs(1), self.failures, Duration::from_secs(30))));
        self.settle();
    }

    /// Reads a datagram that came by `via`. `spread`: a random share, in 1/256, of the refresh spread.
    pub(super) fn datagram<'d>(
        &mut self,
        now: Instant,
        via: RelayVia,
        datagram: &'d [u8],
        spread: u8,
    ) -> Result<Input<'d>, DropReason> {
        let (server, _, index) = self.server.ok_or(DropReason::Relay)?;
        let tcp = match via {
            RelayVia::Udp { server: from, .. } if same_address(from, server) => false,
            RelayVia::Tcp if self.connection == Tcp::Open => true,
            _ => return Err(DropReason::Relay),
        };
        match Message::parse(datagram)? {
            Message::Data { session, payload } => Ok(Input::Data { session, payload }),
            Message::Challenge { index: to, cookie } if to == index => {
                if !verify(&self.key, datagram) {
                    return Err(DropReason::Authentication);
                }
                let leg = if tcp { &mut self.tcp } else { &mut self.udp };
                if !leg.challengeable {
                    return Err(DropReason::Challenge);
                }
                (leg.cookie, leg.challengeable, leg.challenged) = (cookie, false, true);
                leg.due = Some(now);
                Ok(Input::Binding(News::None))
            }
            Message::Bound { index: to, epoch, observed } if to == index => {
                if !verify(&self.key, datagram) {
                    return Err(DropReason::Authentication);
                }
                self.bound(now, tcp, epoch, observed, spread).map(Input::Binding)
            }
            Message::Unbound { session } => Ok(self.unbound(now, session)),
            _ => Err(DropReason::Relay),
        }
    }

    fn bound(
        &mut self,
        now: Instant,
        tcp: bool,
        epoch: u64,
        observed: SocketAddr,
        spread: u8,
    ) -> Result<News, DropReason> {
        let leg = if tcp { &mut self.tcp } else { &mut self.udp };
        if epoch < leg.floor || epoch > leg.epoch {
            return Err(DropReason::Replay);
        }
        leg.floor = epoch.saturating_add(1);
        let returned = !leg.bound;
        (leg.bound, leg.silent_since, leg.tries) = (true, None, 0);
        self.bound_at = Some(now);
        let extra = REFRESH_SPREAD.times(u64::from(spread)).over(256);
        leg.due = Some(now.after(REFRESH).after(extra));
        if epoch == leg.epoch {
            self.rtt = Some(now.since(leg.sent));
        }
        let mut news = News::None;
        if !tcp {
            let observed = SocketAddr::new(observed.ip().to_canonical(), observed.port());
            news = match self.observed.replace(observed) {
                before if before != Some(observed) => News::Address,
                _ if returned => News::Returned,
                _ => News::None,
            };
            self.heard_at = None;
            self.failures = 0;
            self.reopen = None;
            self.tcp.due = None;
            if self.connection != Tcp::Closed && self.linger.is_none() {
                self.linger = Some(now.after(TCP_LINGER));
            }
        }
        self.settle();
        Ok(news)
    }

    fn unbound<'d>(&mut self, now: Instant, session: u32) -> Input<'d> {
        let soon = |at: Option<Instant>, gap| at.is_some_and(|at| now.since(at) < gap);
        // Still unknown although a bind was answered since: it is the session, not the binding.
        let confirmed = self.bound_at > self.unbound_at && soon(self.unbound_at, UNBOUND_GAP.times(10));
        if confirmed && !soon(self.lookup_at, LOOKUP_GAP) {
            self.lookup_at = Some(now);
            return Input::SessionUnknown { session };
        }
        if !soon(self.unbound_at, UNBOUND_GAP) {
            self.unbound_at = Some(now);
            self.rebind(now);
        }
        Input::Binding(News::None)
    }

    /// Whether a bind is to be sent now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let due = |leg: &Leg| leg.due.is_some_and(|at| at <= now);
        self.server.is_some() && (due(&self.udp) || (due(&self.tcp) && self.connection == Tcp::Open))
    }

    /// Writes the next bind that is due. `None` when there is none, or `out` is too small for it.
    pub(super) fn poll(&mut self, now: Instant, out: &mut [u8]) -> Option<(RelayVia, usize)> {
        let (server, local, index) = self.server?;
        let due = |leg: &Leg| leg.due.is_some_and(|at| at <= now);
        let tcp = !due(&self.udp);
        if tcp && !(due(&self.tcp) && self.connection == Tcp::Open) {
            return None;
        }
        let epoch = self.epoch.saturating_add(1);
        let most = if !tcp && self.is_used(now) { RETRY_USED } else { RETRY_MAX };
        let leg = if tcp { &mut self.tcp } else { &mut self.udp };
        let len = Message::Bind { index, epoch, cookie: leg.cookie }.emit(&self.key, out).ok()?;
        self.epoch = epoch;
        leg.floor = leg.floor.min(epoch);
        (leg.epoch, leg.sent, leg.challengeable) = (epoch, now, !leg.challenged);
        leg.challenged = false;
        leg.silent_since = leg.silent_since.or(Some(now));
        leg.tries = leg.tries.saturating_add(1);
        leg.due = Some(now.after(back_off(RETRY, leg.tries.saturating_sub(1), most)));
        Some((if tcp { RelayVia::Tcp } else { RelayVia::Udp { local, server } }, len))
    }

    /// What the shell is to do about the TCP connection, or that the usable leg changed.
    pub(super) fn poll_event(&mut self) -> Option<super::Event> {
        match self.wish.take() {
            Some(Wish::Open) => return Some(super::Event::OpenRelayTcp),
            Some(Wish::Close) => return Some(super::Event::CloseRelayTcp),
            None => {}
        }
        if core::mem::take(&mut self.changed) {
            return Some(super::Event::RelayChanged { leg: self.leg });
        }
        None
    }

    pub(super) fn has_event(&self) -> bool {
        self.wish.is_some() || self.changed
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.server.is_none() {
            return;
        }
        if self.ceased().is_some_and(|at| at <= now) {
            self.heard_at = None;
            self.rebind(now);
        }
        if self.udp_gives_up().is_some_and(|at| at <= now) {
            (self.udp.bound, self.udp.cookie) = (false, [0; 16]);
            // The server sends where the newest bind came from: a connection that lingers has to bind again.
            self.tcp.due = Some(now);
            self.settle();
        }
        if self.opens().is_some_and(|at| at <= now) {
            (self.connection, self.reopen) = (Tcp::Opening, None);
            self.wish = Some(Wish::Open);
        }
        if self.tcp_gives_up().is_some_and(|at| at <= now) {
            self.close_tcp();
            self.tcp_down(now);
        }
        if self.linger.is_some_and(|at| at <= now) {
            // UDP may have gone silent again meanwhile: then the connection stays.
            self.linger = None;
            if self.udp.bound {
                self.close_tcp();
            }
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.server?;
        let tcp = self.tcp.due.filter(|_| self.connection == Tcp::Open);
        let checks = [self.ceased(), self.udp_gives_up(), self.opens(), self.tcp_gives_up(), self.linger];
        [self.udp.due, tcp].into_iter().chain(checks).flatten().min()
    }

    /// When the end of what came by UDP is a reason to check the binding.
    fn ceased(&self) -> Option<Instant> {
        self.heard_at.filter(|_| self.udp.bound).map(|at| at.after(CEASED))
    }

    /// When a bound UDP leg counts as broken.
    fn udp_gives_up(&self) -> Option<Instant> {
        self.udp.silent_since.filter(|_| self.udp.bound).map(|at| at.after(FALLBACK))
    }

    /// When the TCP connection is to be opened.
    fn opens(&self) -> Option<Instant> {
        if self.connection != Tcp::Closed || self.udp.bound {
            return None;
        }
        let silent = self.udp.silent_since?.after(FALLBACK);
        Some(self.reopen.map_or(silent, |at| at.max(silent)))
    }

    fn tcp_gives_up(&self) -> Option<Instant> {
        let open = self.connection == Tcp::Open && self.linger.is_none();
        self.tcp.silent_since.filter(|_| open).map(|at| at.after(TCP_PATIENCE))
    }

    fn close_tcp(&mut self) {
        if self.connection != Tcp::Closed {
            self.wish = Some(Wish::Close);
        }
        (self.connection, self.tcp, self.linger) = (Tcp::Closed, Leg::OFF, None);
        self.settle();
    }

    fn settle(&mut self) {
        let leg = match (self.udp.bound, self.tcp.bound) {
            (true, _) => RelayLeg::Udp,
            (false, true) => RelayLeg::Tcp,
            (false, false) => RelayLeg::None,
        };
        self.changed |= leg != self.leg;
        self.leg = leg;
    }
}

fn back_off(first: Duration, tries: u8, most: Duration) -> Duration {
    // Two tries at the first distance, then doubling.
    first.times(1u64.checked_shl(u32::from(tries.saturating_sub(1))).unwrap_or(u64::MAX)).min(most)
}

fn same_address(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && a.ip().to_canonical() == b.ip().to_canonical()
}
