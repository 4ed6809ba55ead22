//! The file that holds the last good table: the whole of it, and behind that what has changed since.
//!
//! A file is [`MAGIC`] and then records; a record is its content's length (u32, little-endian) and BLAKE2s-256, and
//! its content: a [`Head`] and a run of updates. The first record is a full list, the others are steps. A record
//! that was being appended when power went is left out with what follows it; a first record that is not whole makes
//! the file worthless. So a change costs the medium what changed; whoever writes the file begins it anew before the
//! steps outgrow the table.

use crate::encoded::{Encoded, Run, Step};
use crate::replica::{Replica, ReplicaError};
use blake2::Blake2s256;
use blake2::digest::Digest;

/// First bytes of a snapshot file.
const MAGIC: &[u8; 8] = b"EMSNAP3\n";
/// Length and hash of a record's content.
const RECORD_HEAD: usize = 4 + 32;

/// What a snapshot says of its table.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Head {
    /// Directory epoch.
    pub epoch: u32,
    /// Sequence of the commit, 0 without a feed.
    pub sequence: u64,
    /// Unix time in seconds at which it was current.
    pub unix_secs: u64,
}

/// A snapshot file's content.
pub fn to_snapshot(head: &Head, table: &Encoded) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    record(head, &table.way(&Step::whole()), &mut out);
    out
}

/// What is appended to a snapshot file when `way` was gone since.
pub fn to_addition(head: &Head, way: &[Run]) -> Vec<u8> {
    let mut out = Vec::new();
    record(head, way, &mut out);
    out
}

fn record(head: &Head, runs: &[Run], out: &mut Vec<u8>) {
    // Serialising plain data into memory has no way to fail.
    let head = postcard::to_allocvec(head).unwrap_or_default();
    let len = head.len() + runs.iter().map(|run| run.len()).sum::<usize>();
    let mut hash = Blake2s256::new();
    hash.update(&head);
    runs.iter().for_each(|run| hash.update(run));
    out.reserve_exact(RECORD_HEAD + len);
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&hash.finalize());
    out.extend_from_slice(&head);
    runs.iter().for_each(|run| out.extend_from_slice(run));
}

/// Reads a snapshot file's content.
///
/// # Errors
/// When it is none, or its first record is not whole.
pub fn from_snapshot(bytes: &[u8]) -> Result<(Head, Encoded), ReplicaError> {
    let mut rest = bytes.strip_prefix(MAGIC).ok_or(ReplicaError::Malformed)?;
    let mut read = None;
    let mut replica = Replica::default();
    while let Some((content, after)) = whole_record(rest) {
        let (head, runs) = postcard::take_from_bytes::<Head>(content).map_err(|_| ReplicaError::Malformed)?;
        replica.apply_run(runs)?;
        (read, rest) = (Some(head), after);
    }
    Ok((read.ok_or(ReplicaError::Malformed)?, replica.into_table()))
}

/// The content of the first record, and what follows it.
fn whole_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (hash, rest) = rest.split_first_chunk::<32>()?;
    let (content, after) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    (<[u8; 32]>::from(Blake2s256::digest(content)) == *hash).then_some((content, after))
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
