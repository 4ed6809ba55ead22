//! The node's end of the control connection: whom it believes, and what it says first.
//!
//! **Life cycle.** The shell connects and calls [`Link::connected`]; every frame it reads goes through
//! [`Link::frame`], every frame that [`Link::poll_frame`] writes goes out. The server's greeting is believed when
//! the pinned root key certifies it; then Noise IK, then `Hello`, then messages both ways. A server that stays
//! silent or breaks a rule makes [`Link::must_close`] true; the shell closes, pauses and connects again.
//!
//! **Bounds.** One connection at a time, no queue: what has to be said is kept as an intent and written on demand.
//!
//! It does not choose servers, does not act on messages (the caller does), and keeps nothing across restarts: the
//! caller stores [`Link::authority`] and gives it back.

mod authority;

pub use crate::wire::control::{
    Network, Peer, Revocation, ToNode as Message, ToServer as Question, Welcome, updates,
};
pub use authority::Authority;

use crate::counters::DropReason;
use crate::noise::ik::{Initiator, Pending, Transport};
use crate::noise::{PublicKey, StaticSecret};
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use crate::wire::ask::{ASK, FORGET};
use crate::wire::control::{
    FEATURE_ACCOUNT, FEATURE_ON_DEMAND, FRAME_OVERHEAD, Greeting, Held, Hello, PROLOGUE, Preamble, ToNode,
    ToServer, said,
};
use core::net::SocketAddr;
use heapless::String;

/// How long the server may take for greeting and handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a connection without other traffic is tested.
pub const PING_EVERY: Duration = Duration::from_secs(15);
/// How long the answer may take.
pub const PONG_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest node name (RFC 1123 subdomain).
pub const NAME_MAX: usize = 253;

/// How this node presents itself.
#[derive(Clone)]
pub struct Credentials {
    /// Kubernetes node name.
    pub name: String<NAME_MAX>,
    /// The join token's secret; `None` once enrolled.
    pub secret: Option<[u8; 16]>,
    /// Whether the shell answers [`Message::Prove`] with a ServiceAccount token.
    pub account: bool,
    /// Software and version, for the operator.
    pub agent: &'static str,
    /// What of the Services comes from this server.
    pub feed: Feed,
}

/// What a node wants of a server's feed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Feed {
    /// Nothing: Services come from elsewhere.
    None,
    /// The whole table.
    Whole,
    /// Those Services that this node has endpoints of or asks for.
    OnDemand,
}

enum State {
    Down,
    /// Waiting for the greeting.
    Connected,
    /// Message 1 is to be written, to this server key.
    Greeted(PublicKey),
    /// Waiting for message 2.
    Pending(Pending),
    /// Established; `Hello` is to be written when false.
    Up(Transport, bool),
    /// To be closed.
    Broken,
}

/// The control connection of a node.
pub struct Link {
    identity: StaticSecret,
    /// Computed once, at the first welcome: where the engine is made, a board's stack is too deep for it.
    public: Option<PublicKey>,
    credentials: Credentials,
    authority: Authority,
    server: Option<SocketAddr>,
    state: State,
    welcome: bool,
    sequence: u64,
    /// The highest sequence that the directory has signed for: nothing older is taken, whatever the table holds.
    floor: u64,
    /// Digest of what was fed since the last answer.
    said: [u8; 32],
    /// How many revocations of the directory's epoch are known.
    revocations: u32,
    /// The server is to be asked for more of them.
    asks: bool,
    /// When the wait for the server ends, or the next ping is due.
    deadline: Option<Instant>,
    ping: Ping,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ping {
    Quiet,
    Due,
    Sent,
}

impl Link {
    /// A link that is down.
    pub fn new(identity: StaticSecret, credentials: Credentials, authority: Authority) -> Self {
        Self {
            identity,
            public: None,
            credentials,
            authority,
            server: None,
            state: State::Down,
            welcome: false,
            sequence: 0,
            floor: 0,
            said: [0; 32],
            revocations: 0,
            asks: false,
            deadline: None,
            ping: Ping::Quiet,
        }
    }

    /// This node has another key: the next connection is made with it.
    pub(crate) fn rotate(&mut self, identity: StaticSecret) {
        (self.identity, self.public) = (identity, None);
    }

    /// The transport connection to the server at `server` stands. The shell has sent [`Preamble::Control`].
    pub fn connected(&mut self, now: Instant, server: SocketAddr) {
        self.reset(State::Connected);
        self.server = Some(server);
        self.deadline = Some(now.after(HANDSHAKE_TIMEOUT));
    }

    /// It is gone.
    pub fn disconnected(&mut self) {
        self.reset(State::Down);
    }

    /// What the shell writes first.
    pub const fn preamble() -> [u8; 4] {
        Preamble::Control.bytes()
    }

    /// Whether the server has accepted this node and the connection stands.
    pub fn is_up(&self) -> bool {
        self.welcome && matches!(self.state, State::Up(..))
    }

    /// The server of the connection now or last.
    pub fn server(&self) -> Option<SocketAddr> {
        self.server
    }

    /// Whether the connection is of no use any more.
    pub fn must_close(&self) -> bool {
        matches!(self.state, State::Broken)
    }

    /// The keys that this node believes.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// How many revocations of the directory's epoch are known, from the first on.
    pub fn revocations(&self) -> u32 {
        self.revocations
    }

    /// The one with this number is known from here on: false unless it is the next.
    pub fn take_revocation(&mut self, number: u32) -> bool {
        let is_next = self.revocations.checked_add(1) == Some(number);
        if is_next {
            self.revocations = number;
        }
        is_next
    }

    /// There are so many: if that is more than are known, the others are asked for.
    pub(crate) fn expect_revocations(&mut self, count: u32) {
        self.asks |= self.welcome && count > self.revocations;
    }

    /// The feed commit that the table holds, told to the server with the next connection.
    pub fn set_sequence(&mut self, sequence: u64) {
        self.sequence = sequence;
        self.set_floor(sequence);
    }

    /// A feed of this sequence was signed, now or before the last restart: none before it is taken any more.
    pub fn set_floor(&mut self, sequence: u64) {
        self.floor = self.floor.max(sequence);
    }

    /// Takes a frame, decrypts it in place and returns its message, if it is one for the caller.
    ///
    /// # Errors
    /// A reason that breaks the connection: [`Link::must_close`] is true then.
    pub fn frame<'f>(&mut self, now: Instant, frame: &'f mut [u8]) -> Result<Option<ToNode<'f>>, DropReason> {
        match core::mem::replace(&mut self.state, State::Broken) {
            State::Connected => {
                let greeting: Greeting<'_> =
                    postcard::from_bytes(frame).map_err(|_| DropReason::Malformed)?;
                let epoch = self.authority.epoch;
                self.authority.certify(&greeting)?;
                if self.authority.epoch != epoch {
                    self.revocations = 0;
                }
                self.state = State::Greeted(PublicKey(greeting.noise_key));
                Ok(None)
            }
            State::Pending(pending) => {
                let (transport, _) = pending.read_message2(frame)?;
                self.state = State::Up(transport, false);
                Ok(None)
            }
            State::Up(mut transport, greeted) => {
                let message = ToNode::decode(transport.open(frame)?)?;
                self.check(message.as_ref())?;
                self.state = State::Up(transport, greeted);
                self.alive(now);
                Ok(self.take(message))
            }
            State::Down | State::Greeted(_) | State::Broken => Err(DropReason::Malformed),
        }
    }

    /// Writes the next frame, if there is one; `lookup` gives what to ask for, one a call: indices of nodes, and
    /// fingerprints of Services.
    ///
    /// # Errors
    /// [`DropReason::NoRoom`] when `out` is shorter than a frame may be, [`DropReason::WeakKey`].
    pub fn poll_frame(
        &mut self,
        now: Instant,
        rng: &mut Rng,
        out: &mut [u8],
        mut lookup: impl FnMut() -> Option<u32>,
    ) -> Result<Option<usize>, DropReason> {
        match core::mem::replace(&mut self.state, State::Broken) {
            State::Greeted(server) => {
                let identity = StaticSecret::from_bytes(*self.identity.as_bytes());
                let (pending, len) =
                    Initiator::new(identity, server, PROLOGUE, rng).write_message1(&[], out)?;
                self.state = State::Pending(pending);
                Ok(Some(len))
            }
            State::Up(mut transport, greeted) => {
                let room = out.len().saturating_sub(FRAME_OVERHEAD);
                let written = self.say(greeted, &mut lookup, out.get_mut(..room).unwrap_or_default())?;
                let sealed = match written {
                    Some(len) => Some(transport.seal(out, len)?),
                    None => None,
                };
                self.state = State::Up(transport, true);
                if self.ping == Ping::Due {
                    self.ping = Ping::Sent;
                    self.deadline = Some(now.after(PONG_TIMEOUT));
                }
                Ok(sealed)
            }
            other => {
                self.state = other;
                Ok(None)
            }
        }
    }

    /// Writes a message of the caller's: a [`Question::LookupName`], answered by a [`Message::Peer`] or a
    /// [`Message::NoPeer`], or, where [`Message::Prove`] asked for it, a [`Question::Proof`]. `None` while it has no
    /// place: the first needs [`Link::is_up`], the other that the server has not accepted this node yet. Nothing is
    /// kept, so saying it again is the caller's.
    ///
    /// # Errors
    /// [`DropReason::NoRoom`] when `out` is shorter than a frame may be.
    pub fn ask(&mut self, question: &Question<'_>, out: &mut [u8]) -> Result<Option<usize>, DropReason> {
        let State::Up(transport, true) = &mut self.state else { return Ok(None) };
        if self.welcome == matches!(question, ToServer::Proof { .. }) {
            return Ok(None);
        }
        let room = out.len().saturating_sub(FRAME_OVERHEAD);
        let len = question.encode(out.get_mut(..room).unwrap_or_default())?;
        transport.seal(out, len).map(Some)
    }

    /// Whether [`Link::poll_frame`] has a frame of its own, lookups aside.
    pub fn has_frame(&self) -> bool {
        match &self.state {
            State::Greeted(_) | State::Up(_, false) => true,
            State::Up(_, true) => self.ping == Ping::Due || self.asks,
            State::Down | State::Connected | State::Pending(_) | State::Broken => false,
        }
    }

    /// When to call [`Link::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.is_none_or(|at| at > now) {
            return;
        }
        self.deadline = None;
        if self.welcome && self.ping == Ping::Quiet {
            self.ping = Ping::Due;
        } else if !matches!(self.state, State::Down) {
            self.reset(State::Broken);
        }
    }

    fn say(
        &mut self,
        greeted: bool,
        lookup: &mut impl FnMut() -> Option<u32>,
        out: &mut [u8],
    ) -> Result<Option<usize>, DropReason> {
        let message = if !greeted {
            ToServer::Hello(Hello {
                name: &self.credentials.name,
                secret: self.credentials.secret.as_ref().map_or(&[], |s| s.as_slice()),
                features: self.features(),
                agent: self.credentials.agent,
                feed: self.credentials.feed == Feed::Whole,
                sequence: self.sequence,
            })
        } else if self.ping == Ping::Due {
            ToServer::Ping(self.sequence)
        } else if !self.welcome {
            return Ok(None);
        } else if core::mem::take(&mut self.asks) {
            ToServer::Revocations(Held { epoch: self.authority.epoch, count: self.revocations })
        } else if let Some(what) = lookup() {
            match (what & ASK, what & FORGET) {
                (0, _) => ToServer::LookupIndex(what),
                (_, 0) => ToServer::Want(what),
                _ => ToServer::Forget(what & !FORGET),
            }
        } else {
            return Ok(None);
        };
        message.encode(out).map(Some)
    }

    fn features(&self) -> u32 {
        let account = if self.credentials.account { FEATURE_ACCOUNT } else { 0 };
        account | if self.credentials.feed == Feed::OnDemand { FEATURE_ON_DEMAND } else { 0 }
    }

    /// A server speaks of nothing before it has accepted this node or turned it away, and it accepts this node
    /// only: with a record that the directory signed for our name and key.
    fn check(&mut self, message: Option<&ToNode<'_>>) -> Result<(), DropReason> {
        match message {
            Some(ToNode::Welcome(welcome)) => {
                let record = self.authority.record(&welcome.record)?;
                let public = self.public.get_or_insert_with(|| self.identity.public());
                // A node that changes its key may not have heard that it was done.
                let is_key = record.key == public.0 || record.follows == Some(public.0);
                let ours = record.name == self.credentials.name && is_key;
                if ours { Ok(()) } else { Err(DropReason::Authentication) }
            }
            Some(ToNode::Prove) if !self.credentials.account => Err(DropReason::Malformed),
            Some(ToNode::Refused { .. } | ToNode::Prove) | None => Ok(()),
            Some(ToNode::Feed(updates)) if self.welcome => {
                self.said = said(&self.said, updates);
                Ok(())
            }
            Some(ToNode::Answer(answer)) if self.welcome => {
                self.authority.answer(answer, &core::mem::take(&mut self.said))?;
                if answer.sequence < self.floor { Err(DropReason::OldRecord) } else { Ok(()) }
            }
            Some(ToNode::FeedCommit(commit)) if self.welcome && commit.sequence < self.floor => {
                Err(DropReason::OldRecord)
            }
            Some(ToNode::Revocations(revocations)) if self.welcome => {
                self.authority.revocations(revocations)?;
                // Those in between are missing.
                if revocations.after > self.revocations { Err(DropReason::Malformed) } else { Ok(()) }
            }
            Some(_) if self.welcome => Ok(()),
            Some(_) => Err(DropReason::Malformed),
        }
    }

    /// Any authentic frame proves that the server is there.
    fn alive(&mut self, now: Instant) {
        if self.welcome {
            self.ping = Ping::Quiet;
            self.deadline = Some(now.after(PING_EVERY));
        }
    }

    fn take<'f>(&mut self, message: Option<ToNode<'f>>) -> Option<ToNode<'f>> {
        match &message {
            Some(ToNode::Welcome(_)) => {
                (self.welcome, self.asks) = (true, true);
                self.credentials.secret = None;
                self.ping = Ping::Due;
            }
            Some(ToNode::Refused { .. }) => self.reset(State::Broken),
            Some(ToNode::Pong(_)) => return None,
            _ => {}
        }
        message
    }

    fn reset(&mut self, state: State) {
        self.state = state;
        self.welcome = false;
        self.asks = false;
        self.said = [0; 32];
        self.deadline = None;
        self.ping = Ping::Quiet;
    }
}

#[cfg(test)]
mod tests;
