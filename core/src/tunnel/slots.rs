//! The plain slots that the tunnel's memory is made of; all-zero is empty.
//!
//! They hold keys, so they are never adopted from another process and are zeroised when given up.

use zeroize::Zeroize;

use super::secrets::Which;
use crate::noise::{PublicKey, SymmetricState};
use crate::storage::Slot;
use crate::time::{Duration, Instant};
use crate::wire::wireguard;

/// Where a datagram came from, as far as cookies and rate limits need to know.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Hash)]
#[repr(C)]
pub struct Origin {
    /// Source address; IPv4 as `::ffff:a.b.c.d`, all zero behind a relay.
    pub address: [u8; 16],
    /// What it came through, in the caller's numbers: a relay session, 0 for a datagram straight from its source.
    pub via: u32,
    /// Source port.
    pub port: u16,
    /// Zero.
    pub reserved: u16,
}

impl Origin {
    /// Nowhere.
    pub const EMPTY: Self = Self { address: [0; 16], via: 0, port: 0, reserved: 0 };

    /// What a cookie is bound to.
    pub(super) fn bytes(&self) -> [u8; 22] {
        let mut out = [0; 22];
        let (via, port) = (self.via.to_le_bytes(), self.port.to_le_bytes());
        for (to, from) in out.iter_mut().zip(self.address.iter().chain(&via).chain(&port)) {
            *to = *from;
        }
        out
    }
}

/// A point in time or none, in 8 bytes whose all-zero value is none.
#[derive(Clone, Copy, PartialEq, Eq, Default, Zeroize)]
#[repr(transparent)]
pub(super) struct Moment(u64);

impl Moment {
    pub(super) const NONE: Self = Self(0);

    pub(super) const fn at(now: Instant) -> Self {
        Self(now.as_micros().saturating_add(1))
    }

    pub(super) fn get(self) -> Option<Instant> {
        self.0.checked_sub(1).map(Instant::from_micros)
    }

    /// The point `d` later, if there is one.
    pub(super) fn after(self, d: Duration) -> Option<Instant> {
        self.get().map(|at| at.after(d))
    }

    /// Whether the point `d` later is not in the future. No point: false.
    pub(super) fn older(self, now: Instant, d: Duration) -> bool {
        self.after(d).is_some_and(|at| at <= now)
    }

    /// Whether it is `d` old or there is none.
    pub(super) fn allows(self, now: Instant, d: Duration) -> bool {
        self.after(d).is_none_or(|at| at <= now)
    }

    pub(super) fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// Bits of [`PeerSlot::flags`].
pub(super) mod flag {
    /// A usable sending key exists, as far as the caller was or will be told.
    pub(in crate::tunnel) const UP: u16 = 1;
    /// `SessionUp` is due.
    pub(in crate::tunnel) const SAY_UP: u16 = 1 << 1;
    /// `SessionDown` is due.
    pub(in crate::tunnel) const SAY_DOWN: u16 = 1 << 2;
    /// `HandshakeFailed` is due.
    pub(in crate::tunnel) const SAY_FAILED: u16 = 1 << 3;
    /// A keepalive is due.
    pub(in crate::tunnel) const KEEPALIVE: u16 = 1 << 4;
    /// More data came while a keepalive was waiting for its time.
    pub(in crate::tunnel) const KEEPALIVE_AGAIN: u16 = 1 << 5;
    /// An initiation is queued or being computed.
    pub(in crate::tunnel) const INITIATING: u16 = 1 << 6;
    /// `shared` holds the static-static agreement.
    pub(in crate::tunnel) const SHARED: u16 = 1 << 7;
    /// `mac1` holds the MAC of the last handshake message sent.
    pub(in crate::tunnel) const MAC1: u16 = 1 << 8;
    /// The last handshake message sent may have led nowhere.
    pub(in crate::tunnel) const DOUBTED: u16 = 1 << 9;
    /// The initiation that waits for its response was made with this node's key before the present one.
    pub(in crate::tunnel) const BEFORE: u16 = 1 << 10;
}

/// What is known of one peer; first what every packet looks at.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PeerSlot {
    pub(super) flags: u16,
    /// Keypairs by role, 1 to 3; 0 for none.
    pub(super) current: u8,
    pub(super) previous: u8,
    pub(super) next: u8,
    /// Initiations sent since a handshake message last came from the peer.
    pub(super) tries: u8,
    pub(super) live: bool,
    /// Lists that it is in, one bit each. Survives removal, as do `links` and `generation`.
    pub(super) listed: u8,
    pub(super) generation: u32,
    pub(super) links: [u32; 4],
    /// Microseconds, below [`JITTER`](super::JITTER); drawn anew with every handshake.
    pub(super) jitter: u32,
    /// When to send a passive keepalive.
    pub(super) keepalive: Moment,
    /// When silence after data we sent becomes a reason to initiate.
    pub(super) silence: Moment,
    /// The deadline that the caller knows of.
    pub(super) told: Moment,
    /// When to initiate again.
    pub(super) retransmit: Moment,
    /// When to forget all keys.
    pub(super) zero: Moment,
    /// Handshake message last sent.
    pub(super) sent: Moment,
    /// Start of the present attempt.
    pub(super) attempt: Moment,
    /// Initiation last accepted.
    pub(super) consumed: Moment,
    pub(super) cookie_born: Moment,
    /// Handshake last completed.
    pub(super) established: Moment,
    /// From the last handshake message sent to its answer, in microseconds; 0 for never.
    pub(super) round_trip: u32,
    /// Our index of the initiation that waits for its response, 0 for none.
    pub(super) index: u32,
    pub(super) key: PublicKey,
    /// The peer's own, in place of the mesh's; zero for none.
    pub(super) psk: [u8; 32],
    /// Static-static agreement.
    pub(super) shared: [u8; 32],
    /// That initiation: state and ephemeral secret.
    pub(super) state: SymmetricState,
    pub(super) ephemeral: [u8; 32],
    pub(super) mac1: [u8; 16],
    pub(super) cookie: [u8; 16],
    /// Greatest stamp that the peer has shown.
    pub(super) stamp: [u8; 12],
}

impl PeerSlot {
    /// No peer.
    pub const EMPTY: Self = Self {
        key: PublicKey([0; 32]),
        psk: [0; 32],
        shared: [0; 32],
        state: SymmetricState::EMPTY,
        ephemeral: [0; 32],
        mac1: [0; 16],
        cookie: [0; 16],
        stamp: [0; 12],
        index: 0,
        sent: Moment::NONE,
        attempt: Moment::NONE,
        retransmit: Moment::NONE,
        keepalive: Moment::NONE,
        silence: Moment::NONE,
        zero: Moment::NONE,
        consumed: Moment::NONE,
        cookie_born: Moment::NONE,
        established: Moment::NONE,
        told: Moment::NONE,
        round_trip: 0,
        jitter: 0,
        flags: 0,
        current: 0,
        previous: 0,
        next: 0,
        tries: 0,
        live: false,
        listed: 0,
        links: [0; 4],
        generation: 0,
    };

    pub(super) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn set(&mut self, flag: u16) {
        self.flags |= flag;
    }

    pub(super) fn clear(&mut self, flag: u16) {
        self.flags &= !flag;
    }

    /// Takes `flag`: whether it was set.
    pub(super) fn take(&mut self, flag: u16) -> bool {
        let was = self.has(flag);
        self.clear(flag);
        was
    }

    /// Forgets the initiation that waits for its response.
    pub(super) fn forget_handshake(&mut self) {
        self.state.zeroize();
        self.ephemeral.zeroize();
        self.index = 0;
    }

    /// Forgets the static-static agreement: one of the two keys is another one.
    pub(super) fn forget_shared(&mut self) {
        self.shared.zeroize();
        self.clear(flag::SHARED);
    }

    /// Forgets the cookie that the peer gave us.
    pub(super) fn forget_cookie(&mut self) {
        self.cookie.zeroize();
        self.cookie_born = Moment::NONE;
        self.clear(flag::MAC1);
    }

    /// Empties the slot, secrets first.
    pub(super) fn wipe(&mut self) {
        self.psk.zeroize();
        self.forget_shared();
        self.cookie.zeroize();
        self.forget_handshake();
        *self = Self {
            links: self.links,
            listed: self.listed,
            generation: self.generation.wrapping_add(1),
            ..Self::EMPTY
        };
    }
}

/// The two keys of one session; what a packet that is sent needs is together.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct KeypairSlot {
    /// The greatest counter received plus one.
    pub(super) seen: u64,
    /// The next counter to send with.
    pub(super) counter: u64,
    pub(super) born: Moment,
    /// Our index, 0 for an empty slot.
    pub(super) local: u32,
    /// The peer's index.
    pub(super) remote: u32,
    pub(super) send: [u8; 32],
    pub(super) receive: [u8; 32],
    pub(super) initiator: bool,
}

impl KeypairSlot {
    /// No keys.
    pub const EMPTY: Self = Self {
        send: [0; 32],
        receive: [0; 32],
        counter: 0,
        seen: 0,
        born: Moment::NONE,
        local: 0,
        remote: 0,
        initiator: false,
    };

    /// Empties the slot, secrets first.
    pub(super) fn wipe(&mut self) {
        self.send.zeroize();
        self.receive.zeroize();
        *self = Self::EMPTY;
    }
}

/// What a job does next.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stage {
    /// Nothing.
    Free = 0,
    /// Of an initiation received: who sent it?
    OpenIdentity,
    /// Of an initiation received: its sender is no peer, which the caller is to be told.
    TellStranger,
    /// Of an initiation received: its sender is no peer, and the caller knows.
    AwaitPeer,
    /// Of an initiation received: the static-static agreement, then the stamp.
    OpenStamp,
    /// Of our response: ephemeral key.
    AnswerEphemeral,
    /// Of our response: ephemeral-ephemeral agreement.
    AnswerEphemerals,
    /// Of our response: the last agreement, and the keys.
    AnswerIdentity,
    /// Of a response received: ephemeral-ephemeral agreement.
    FinishEphemerals,
    /// Of a response received: the last agreement, and the keys.
    FinishIdentity,
    /// Of our initiation: ephemeral key.
    StartEphemeral,
    /// Of our initiation: our identity for the peer's eyes.
    StartIdentity,
    /// Of our initiation: the static-static agreement, the stamp.
    StartStamp,
    /// An initiation to be sent.
    SendInitiation,
    /// A response to be sent.
    SendResponse,
}

/// One handshake message on its way in or out, between two X25519.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct JobSlot {
    pub(super) state: SymmetricState,
    pub(super) ephemeral: [u8; 32],
    /// The other side's ephemeral public key.
    pub(super) remote: PublicKey,
    pub(super) origin: Origin,
    /// Since when it waits for its sender to become a peer.
    pub(super) parked: Moment,
    /// The other side's index.
    pub(super) remote_index: u32,
    pub(super) peer: u32,
    /// The peer slot's when `peer` was set.
    pub(super) generation: u32,
    pub(super) next: u32,
    pub(super) stage: Stage,
    /// Of this node's keys, the one that it is about.
    pub(super) which: Which,
    pub(super) message: [u8; wireguard::INITIATION],
}

impl JobSlot {
    /// No job.
    pub const EMPTY: Self = Self {
        state: SymmetricState::EMPTY,
        ephemeral: [0; 32],
        remote: PublicKey([0; 32]),
        origin: Origin::EMPTY,
        parked: Moment::NONE,
        remote_index: 0,
        peer: 0,
        generation: 0,
        next: 0,
        stage: Stage::Free,
        which: Which::Present,
        message: [0; wireguard::INITIATION],
    };

    pub(super) fn wipe(&mut self) {
        self.state.zeroize();
        self.ephemeral.zeroize();
        *self = Self::EMPTY;
    }
}

impl Slot for JobSlot {
    const EMPTY: Self = JobSlot::EMPTY;
    fn link(&self) -> u32 {
        self.next
    }
    fn set_link(&mut self, id: u32) {
        self.next = id;
    }
}
