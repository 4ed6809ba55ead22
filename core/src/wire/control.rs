//! Control messages between a node and a server, and what travels before the encrypted part.
//!
//! One TCP connection per node. The client opens with a [`Preamble`] that says what the connection is for (the
//! same port carries relayed datagrams); the server answers with its [`Greeting`], whose certificate the node
//! checks against the root key it pinned when it joined. Then Noise_IK_25519_ChaChaPoly_BLAKE2s, client as
//! initiator, prologue [`PROLOGUE`]; then frames: u16 little-endian length, ciphertext. Each plaintext is
//! `version, kind, postcard body`: unknown kinds are skipped, fields are only ever appended in new kinds, and
//! the golden bytes of every message are pinned by tests, because sites and firmware never upgrade together.

mod record;

pub use record::{
    Held, NodeRecord, RECORD_CONTEXT, REVOCATIONS_CONTEXT, REVOCATIONS_MAX, Revocation, Revocations,
    SignedRecord,
};

use crate::counters::DropReason;
use crate::wire::feed::Update;
use core::net::{IpAddr, SocketAddr};
use serde::{Deserialize, Serialize};

/// Version of the message layer.
pub const VERSION: u8 = 1;
/// Largest frame, without its length field, in bytes.
pub const FRAME_MAX: usize = 1_600;
/// What a frame adds to its plaintext: the Poly1305 tag.
pub const FRAME_OVERHEAD: usize = 16;
/// Largest plaintext of a frame, in bytes.
pub const PLAINTEXT_MAX: usize = FRAME_MAX - FRAME_OVERHEAD;
/// Noise prologue of the control connection.
pub const PROLOGUE: &[u8] = b"edgemesh control 1";
/// What a root key signs to certify a server's keys: this, then [`Greeting::noise_key`],
/// [`Greeting::directory_key`] and the epoch as u32 little-endian.
pub const CERTIFICATE_CONTEXT: &[u8] = b"edgemesh server certificate 1";

/// The first four bytes of a TCP connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Preamble {
    /// A control connection.
    Control,
    /// Relayed datagrams: u16 little-endian length and a relay message, beginning with a bind.
    Relay,
    /// A node's control connection as a server without a directory passes it on to one that has it: whose it is and who
    /// says so (the form is the servers' own), then what the node itself said after its preamble.
    Via,
}

impl Preamble {
    /// Its bytes.
    pub const fn bytes(self) -> [u8; 4] {
        match self {
            Self::Control => *b"EMC1",
            Self::Relay => *b"EMR1",
            Self::Via => *b"EMV1",
        }
    }

    /// The preamble of these bytes.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] for anything else.
    pub fn parse(bytes: [u8; 4]) -> Result<Self, DropReason> {
        match &bytes {
            b"EMC1" => Ok(Self::Control),
            b"EMR1" => Ok(Self::Relay),
            b"EMV1" => Ok(Self::Via),
            _ => Err(DropReason::Malformed),
        }
    }
}

/// What the server says before encryption: its keys and the root's word for them. Sent as a length-prefixed
/// postcard frame. It holds nothing secret and nothing that is believed without the certificate.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Greeting<'a> {
    /// Version of the message layer.
    pub version: u8,
    /// The server's X25519 key for Noise.
    pub noise_key: [u8; 32],
    /// The Ed25519 key that signs records.
    pub directory_key: [u8; 32],
    /// Directory epoch: raised by every restore of a backup.
    pub epoch: u32,
    /// The root's Ed25519 signature, 64 bytes.
    pub certificate: &'a [u8],
}

/// The cluster's settings, the same for every node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Network {
    /// Mesh prefix, IPv4.
    pub mesh_v4: [u8; 4],
    /// Its length in bits, 8 to 24.
    pub mesh_v4_len: u8,
    /// Mesh prefix, IPv6, a /64 of fd00::/8.
    pub mesh_v6: [u8; 16],
}

/// Why a server turns a node away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Refusal {
    /// The join token's secret is not one that this directory gave out for that name.
    WrongToken,
    /// The token's time is over, by the server's clock.
    Expired,
    /// The token has enrolled another key already.
    UsedByAnotherKey,
    /// The name belongs to another key.
    NameTaken,
    /// The key is unknown and no token came with it.
    NotEnrolled,
    /// The node was revoked.
    Revoked,
    /// The message layer's versions do not meet.
    Version,
    /// No ServiceAccount token vouches for the node. Only said to nodes with [`FEATURE_ACCOUNT`].
    Account,
}

/// Feature of a node: it can show a ServiceAccount token when [`ToNode::Prove`] asks for it.
pub const FEATURE_ACCOUNT: u32 = 1;
/// Feature of a node with [`Hello::feed`] false: it asks for Services one by one ([`ToServer::Want`]).
pub const FEATURE_ON_DEMAND: u32 = 2;
/// Longest ServiceAccount token, in bytes: those of Kubernetes have 1 to 2 KiB.
pub const PROOF_MAX: usize = 8_192;
/// Longest part of it in a [`ToServer::Proof`], in bytes.
pub const PROOF_PART_MAX: usize = 1_500;

/// From a node to a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ToServer<'a> {
    /// First message of every connection (kind 1).
    Hello(Hello<'a>),
    /// Asks for the record of the node with this index, and for relay sessions with it (kind 2).
    LookupIndex(u32),
    /// As above, by node name (kind 3).
    LookupName(&'a str),
    /// Keeps the connection and its NAT mapping alive; answered by [`ToNode::Pong`] (kind 4).
    Ping(u64),
    /// Answers [`ToNode::Prove`]: the ServiceAccount token of the node's agent, in parts of at most
    /// [`PROOF_PART_MAX`] and [`PROOF_MAX`] bytes in all; nothing when there is none (kind 5).
    Proof {
        /// The next bytes of the token.
        part: &'a [u8],
        /// These are the last.
        last: bool,
    },
    /// Wants the entry points of Services, now if their digest is another than this (all zero for none held), and
    /// whenever they change; answered by [`ToNode::Entries`] (kind 8).
    Entries([u8; 32]),
    /// Asks for the Services with this fingerprint ([`crate::wire::ask`]), now and whenever they change (kind 6).
    Want(u32),
    /// The Service with this fingerprint is not held any more (kind 7).
    Forget(u32),
    /// Holds so many revocations and wants the others, now and whenever there are more; answered by
    /// [`ToNode::Revocations`] (kind 9).
    Revocations(Held),
    /// The node takes this key in place of the one that it made this connection with, which is what vouches for it;
    /// answered by [`ToNode::Rekeyed`] (kind 10).
    Rekey([u8; 32]),
    /// What a server without a directory says of the nodes that it relays for (kind 11). The form is the servers' own.
    Relay(&'a [u8]),
}

/// First message of a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello<'a> {
    /// Kubernetes node name.
    pub name: &'a str,
    /// The join token's secret, 16 bytes; empty once enrolled.
    pub secret: &'a [u8],
    /// Feature bits that the node understands: `FEATURE_*`.
    pub features: u32,
    /// Software and version, for the operator.
    pub agent: &'a str,
    /// Wants the service feed (source `server`).
    pub feed: bool,
    /// Sequence of the last feed commit that the node holds, 0 for none.
    pub sequence: u64,
}

/// From a server to a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ToNode<'a> {
    /// Accepted (kind 64).
    Welcome(Welcome<'a>),
    /// Turned away; the connection ends (kind 65).
    Refused {
        /// Why.
        reason: Refusal,
        /// The same in words, for the log.
        detail: &'a str,
    },
    /// A peer's record and the relay sessions with it: answers a lookup, and comes unasked when that peer
    /// looked this node up (kind 66).
    Peer(Peer<'a>),
    /// The node looked up does not exist or was revoked (kind 67).
    NoPeer {
        /// Its index, 0 when it was looked up by name.
        index: u32,
        /// Its name, empty when it was looked up by index.
        name: &'a str,
    },
    /// Answers a ping with its number (kind 68).
    Pong(u64),
    /// A part of the service feed: postcard [`Update`]s one after the other (kind 69).
    Feed(&'a [u8]),
    /// All updates up to here make a consistent table with this sequence and digest (kind 70).
    FeedCommit(FeedCommit<'a>),
    /// The node's key is unknown and it came without a join token: it may show a ServiceAccount token. Only sent
    /// to nodes with [`FEATURE_ACCOUNT`], before anything else (kind 71).
    Prove,
    /// The next part of the list of entry points, for nodes that asked for it (kind 80). The engine has no use for
    /// it; its form is that of `edgemesh_discovery::entry`.
    Entries(EntriesPart<'a>),
    /// What was fed since the last one of these is all that there is with this fingerprint (kind 72).
    Answer(Answer<'a>),
    /// Nodes that are members no more, for nodes that asked for them (kind 73).
    Revocations(Revocations<'a>),
    /// The node's record as it is now: with the key that it asked for, or without (kind 74).
    Rekeyed(SignedRecord<'a>),
    /// Whom a server without a directory relays for (kind 81). The form is the servers' own; no node is told.
    Relay(&'a [u8]),
}

/// The terms on which a node is accepted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Welcome<'a> {
    /// The node's own record; its index gives the mesh address.
    #[serde(borrow)]
    pub record: SignedRecord<'a>,
    /// The cluster's settings.
    pub network: Network,
    /// Cluster domain, `cluster.local` by default.
    pub domain: &'a str,
    /// Key of this node's relay binds.
    pub relay_key: [u8; 32],
    /// Binds carry epochs above this one.
    pub relay_epoch: u64,
    /// Server's Unix time in seconds.
    pub unix_secs: u64,
    /// The address that the server sees this connection come from.
    pub observed: SocketAddr,
    /// Feature bits that both sides understand.
    pub features: u32,
}

/// A peer and how to reach it through this server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Peer<'a> {
    /// Its signed record.
    #[serde(borrow)]
    pub record: SignedRecord<'a>,
    /// Relay session that carries this node's datagrams to the peer.
    pub send_session: u32,
    /// Relay session in which the peer's datagrams arrive.
    pub receive_session: u32,
}

/// End of a consistent part of the feed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FeedCommit<'a> {
    /// Grows with every change of the table.
    pub sequence: u64,
    /// BLAKE2s-256 over the BLAKE2s-256 of each namespace's update and of each Service's run of updates (from
    /// [`Update::Service`] to [`Update::Commit`]), namespaces first, both in the order of their names.
    pub digest: [u8; 32],
    /// The directory's Ed25519 over context, sequence and digest, 64 bytes.
    pub signature: &'a [u8],
}

/// A part of the list of entry points.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EntriesPart<'a> {
    /// The next bytes of the list.
    pub part: &'a [u8],
    /// With the last part: the digest, BLAKE2s-256, is over all of the list, and signed under
    /// [`ENTRIES_CONTEXT`]; the sequence grows with every change of the list. (Older servers give that of the feed.)
    #[serde(borrow)]
    pub commit: Option<FeedCommit<'a>>,
}

/// What a directory key signs over a list of entry points: this, the sequence as u64 little-endian, the digest.
pub const ENTRIES_CONTEXT: &[u8] = b"edgemesh entry points 1";

/// End of a part of the feed on demand.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Answer<'a> {
    /// The fingerprint in question; the node's own index for the Services that it has endpoints of.
    pub key: u32,
    /// The state of the table that this was taken from.
    pub sequence: u64,
    /// Services and namespaces that there are.
    pub found: u32,
    /// The directory's Ed25519 over [`ANSWER_CONTEXT`], key, sequence and found (little-endian), and [`said`], 64
    /// bytes.
    pub signature: &'a [u8],
}

/// What a directory key signs over an answer.
pub const ANSWER_CONTEXT: &[u8] = b"edgemesh service answer 1";

/// The digest of what was fed for an answer: of the digest before, first 32 zeros, and the next frame's updates.
pub fn said(before: &[u8; 32], updates: &[u8]) -> [u8; 32] {
    crate::noise::hash(&[before, updates])
}

/// What a directory key signs over a feed commit: this, the sequence as u64 little-endian, the digest.
pub const FEED_CONTEXT: &[u8] = b"edgemesh service feed 1";

impl<'a> ToServer<'a> {
    /// Writes version, kind and body; returns the length.
    ///
    /// # Errors
    /// [`DropReason::NoRoom`] when `out` is too small.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, DropReason> {
        match self {
            Self::Hello(body) => encode(1, body, out),
            Self::LookupIndex(body) => encode(2, body, out),
            Self::LookupName(body) => encode(3, body, out),
            Self::Ping(body) => encode(4, body, out),
            Self::Proof { part, last } => encode(5, &(part, last), out),
            Self::Want(body) => encode(6, body, out),
            Self::Forget(body) => encode(7, body, out),
            Self::Entries(body) => encode(8, body, out),
            Self::Revocations(body) => encode(9, body, out),
            Self::Rekey(body) => encode(10, body, out),
            Self::Relay(body) => encode(11, body, out),
        }
    }

    /// Reads a plaintext; `None` for a kind or version of the future, which is to be skipped.
    ///
    /// # Errors
    /// [`DropReason::Truncated`] or [`DropReason::Malformed`].
    pub fn decode(bytes: &'a [u8]) -> Result<Option<Self>, DropReason> {
        let (kind, body) = kind_and_body(bytes)?;
        Ok(Some(match kind {
            1 => Self::Hello(decode(body)?),
            2 => Self::LookupIndex(decode(body)?),
            3 => Self::LookupName(decode(body)?),
            4 => Self::Ping(decode(body)?),
            5 => {
                let (part, last) = decode(body)?;
                Self::Proof { part, last }
            }
            6 => Self::Want(decode(body)?),
            7 => Self::Forget(decode(body)?),
            8 => Self::Entries(decode(body)?),
            9 => Self::Revocations(decode(body)?),
            10 => Self::Rekey(decode(body)?),
            11 => Self::Relay(decode(body)?),
            _ => return Ok(None),
        }))
    }
}

impl<'a> ToNode<'a> {
    /// Writes version, kind and body; returns the length.
    ///
    /// # Errors
    /// [`DropReason::NoRoom`] when `out` is too small.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, DropReason> {
        match self {
            Self::Welcome(body) => encode(64, body, out),
            Self::Refused { reason, detail } => encode(65, &(reason, detail), out),
            Self::Peer(body) => encode(66, body, out),
            Self::NoPeer { index, name } => encode(67, &(index, name), out),
            Self::Pong(body) => encode(68, body, out),
            Self::Feed(body) => encode(69, body, out),
            Self::FeedCommit(body) => encode(70, body, out),
            Self::Prove => encode(71, &(), out),
            Self::Answer(body) => encode(72, body, out),
            Self::Revocations(body) => encode(73, body, out),
            Self::Rekeyed(body) => encode(74, body, out),
            Self::Entries(body) => encode(80, body, out),
            Self::Relay(body) => encode(81, body, out),
        }
    }

    /// Reads a plaintext; `None` for a kind or version of the future, which is to be skipped.
    ///
    /// # Errors
    /// [`DropReason::Truncated`] or [`DropReason::Malformed`].
    pub fn decode(bytes: &'a [u8]) -> Result<Option<Self>, DropReason> {
        let (kind, body) = kind_and_body(bytes)?;
        Ok(Some(match kind {
            64 => Self::Welcome(decode(body)?),
            65 => {
                let (reason, detail) = decode(body)?;
                Self::Refused { reason, detail }
            }
            66 => Self::Peer(decode(body)?),
            67 => {
                let (index, name) = decode(body)?;
                Self::NoPeer { index, name }
            }
            68 => Self::Pong(decode(body)?),
            69 => Self::Feed(decode(body)?),
            70 => Self::FeedCommit(decode(body)?),
            71 => Self::Prove,
            72 => Self::Answer(decode(body)?),
            73 => Self::Revocations(decode(body)?),
            74 => Self::Rekeyed(decode(body)?),
            80 => Self::Entries(decode(body)?),
            81 => Self::Relay(decode(body)?),
            _ => return Ok(None),
        }))
    }
}

/// The updates in the body of a [`ToNode::Feed`], in order. Ends with an error item at the first bad byte.
pub fn updates(body: &[u8]) -> impl Iterator<Item = Result<Update<'_>, DropReason>> {
    sequence(body)
}

/// Postcard values one after the other. Ends with an error item at the first bad byte.
fn sequence<'a, T: Deserialize<'a>>(mut body: &'a [u8]) -> impl Iterator<Item = Result<T, DropReason>> + 'a {
    core::iter::from_fn(move || {
        if body.is_empty() {
            return None;
        }
        match postcard::take_from_bytes(body) {
            Ok((value, rest)) => {
                body = rest;
                Some(Ok(value))
            }
            Err(_) => {
                body = &[];
                Some(Err(DropReason::Malformed))
            }
        }
    })
}

/// A node's mesh address in `network`: prefix plus index. The lower quarter of the prefix is for nodes; its
/// last address stands for "this node" in same-node flows and is assigned nowhere.
pub fn mesh_address(network: &Network, index: u32, v6: bool) -> IpAddr {
    if v6 {
        IpAddr::from((u128::from_be_bytes(network.mesh_v6) | u128::from(index)).to_be_bytes())
    } else {
        IpAddr::from((u32::from_be_bytes(network.mesh_v4) | index).to_be_bytes())
    }
}

/// How many node indices the mesh prefix has: a quarter of its IPv4 addresses, less the first and the last.
pub fn mesh_capacity(network: &Network) -> u32 {
    let host_bits = 32u32.saturating_sub(u32::from(network.mesh_v4_len));
    1u32.checked_shl(host_bits.saturating_sub(2)).unwrap_or(u32::MAX).saturating_sub(2)
}

fn encode<T: Serialize + ?Sized>(kind: u8, body: &T, out: &mut [u8]) -> Result<usize, DropReason> {
    let (head, rest) = out.split_first_chunk_mut::<2>().ok_or(DropReason::NoRoom)?;
    *head = [VERSION, kind];
    let written = postcard::to_slice(body, rest).map_err(|_| DropReason::NoRoom)?.len();
    Ok(written.saturating_add(2))
}

fn kind_and_body(bytes: &[u8]) -> Result<(u8, &[u8]), DropReason> {
    match bytes.split_first_chunk::<2>() {
        Some(([VERSION, kind], body)) => Ok((*kind, body)),
        Some((_, body)) => Ok((0, body)),
        None => Err(DropReason::Truncated),
    }
}

fn decode<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, DropReason> {
    postcard::from_bytes(body).map_err(|_| DropReason::Malformed)
}

#[cfg(test)]
mod tests;
