//! Who a node is, and which words of the directory about nodes count no more.
//!
//! A record is signed by the directory for one node; a revocation makes all records of a node up to a serial void. The
//! revocations of an epoch are numbered from 1 and never taken back: who comes back gets a record with a higher serial.
//! So the list only grows, whoever holds a part of it asks for the rest, and none in the middle can be left out.

use crate::counters::DropReason;
use serde::{Deserialize, Serialize};

/// What a directory key signs over a node record: this, then the record's bytes.
pub const RECORD_CONTEXT: &[u8] = b"edgemesh node record 1";
/// What a directory key signs over revocations: this, then epoch and [`Revocations::after`] (u32 little-endian each),
/// then [`Revocations::list`].
pub const REVOCATIONS_CONTEXT: &[u8] = b"edgemesh revocations 1";
/// Revocations in one message at most: it has room for them however large their numbers are.
pub const REVOCATIONS_MAX: usize = 64;

/// Who a node is, as the directory says.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct NodeRecord<'a> {
    /// Cluster-wide index, from 1, never reused.
    pub index: u32,
    /// Kubernetes node name.
    pub name: &'a str,
    /// WireGuard and control key (X25519).
    pub key: [u8; 32],
    /// Grows with every change of this record.
    pub serial: u64,
    /// Directory epoch in which it was signed.
    pub epoch: u32,
    /// How many revocations there were in that epoch when it was signed: none of those is of this record.
    #[serde(skip)]
    pub listed: u32,
    /// The node's key before this one, while the node still answers to it: what was set up with it goes on.
    #[serde(skip)]
    pub follows: Option<[u8; 32]>,
}

/// What came to records later: behind them, where readers of the first form do not look.
type Tail = (u32, Option<[u8; 32]>);

impl<'a> NodeRecord<'a> {
    /// Writes the record; returns the length.
    ///
    /// # Errors
    /// [`DropReason::NoRoom`] when `out` is too small.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, DropReason> {
        let no_room = |_| DropReason::NoRoom;
        let head = postcard::to_slice(self, out).map_err(no_room)?.len();
        let rest = out.get_mut(head..).unwrap_or_default();
        let tail: Tail = (self.listed, self.follows);
        Ok(head.saturating_add(postcard::to_slice(&tail, rest).map_err(no_room)?.len()))
    }

    /// Reads a record, of whatever form.
    ///
    /// # Errors
    /// [`DropReason::Malformed`].
    // Apart, or its frame would lie below the check of the signature that comes before it.
    #[inline(never)]
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DropReason> {
        let (record, tail) = postcard::take_from_bytes::<Self>(bytes).map_err(|_| DropReason::Malformed)?;
        if tail.is_empty() {
            return Ok(record);
        }
        let (listed, follows): Tail = postcard::from_bytes(tail).map_err(|_| DropReason::Malformed)?;
        Ok(Self { listed, follows, ..record })
    }
}

/// A record with the directory's signature; passed on by anyone, forged by nobody.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SignedRecord<'a> {
    /// Bytes of a [`NodeRecord`].
    pub record: &'a [u8],
    /// Ed25519 over [`RECORD_CONTEXT`] and `record`, 64 bytes.
    pub signature: &'a [u8],
}

/// All records of a node up to this one are void.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[repr(C)]
pub struct Revocation {
    /// The serial of the last void one.
    pub serial: u64,
    /// The node's index.
    pub index: u32,
}

impl Revocation {
    /// Of no node.
    pub const NONE: Self = Self { serial: 0, index: 0 };
}

/// How far a node's list of revocations goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Held {
    /// The directory's epoch.
    pub epoch: u32,
    /// How many of that epoch's revocations, from the first on.
    pub count: u32,
}

/// The next revocations of a directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Revocations<'a> {
    /// The directory's epoch.
    pub epoch: u32,
    /// How many there are before these.
    pub after: u32,
    /// Postcard [`Revocation`]s one after the other, at most [`REVOCATIONS_MAX`].
    pub list: &'a [u8],
    /// Ed25519 over [`REVOCATIONS_CONTEXT`], epoch, `after` and `list`, 64 bytes.
    pub signature: &'a [u8],
}

impl<'a> Revocations<'a> {
    /// Each of them with its number, in order. Ends with an error item at the first bad byte.
    pub fn numbered(&self) -> impl Iterator<Item = Result<(u32, Revocation), DropReason>> + 'a {
        let numbers = self.after.saturating_add(1)..;
        numbers.zip(super::sequence(self.list)).map(|(number, each)| each.map(|each| (number, each)))
    }
}
