//! Whom a node believes: the root key that it pinned, and the directory key that the root certifies.
//!
//! An epoch only grows: every restore of a directory and every new key of it raise it. What was signed in an older epoch
//! is refused, also after a restart, because the caller stores this value.

use crate::counters::DropReason;
use crate::signature::verify;
use crate::wire::control::{
    ANSWER_CONTEXT, Answer, CERTIFICATE_CONTEXT, ENTRIES_CONTEXT, FEED_CONTEXT, FeedCommit, Greeting,
    NodeRecord, RECORD_CONTEXT, REVOCATIONS_CONTEXT, Revocations, SignedRecord, VERSION,
};
use core::cmp::Ordering;

/// The keys of a cluster's directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Authority {
    /// The root's Ed25519 key, from the join token.
    pub root: [u8; 32],
    /// The directory's Ed25519 key; all zero before the first connection.
    pub directory: [u8; 32],
    /// The highest epoch seen.
    pub epoch: u32,
}

impl Authority {
    /// Believes a greeting that the root certifies.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] for another version, [`DropReason::Authentication`] without the root's signature,
    /// [`DropReason::OldRecord`] for an epoch that is over.
    pub fn certify(&mut self, greeting: &Greeting<'_>) -> Result<(), DropReason> {
        if greeting.version != VERSION {
            return Err(DropReason::Malformed);
        }
        let epoch = greeting.epoch.to_le_bytes();
        let said = [CERTIFICATE_CONTEXT, &greeting.noise_key, &greeting.directory_key, &epoch];
        signed(&self.root, &said, greeting.certificate)?;
        if greeting.epoch < self.epoch {
            return Err(DropReason::OldRecord);
        }
        self.epoch = greeting.epoch;
        self.directory = greeting.directory_key;
        Ok(())
    }

    /// The record, if the directory signed it in this epoch. Whether it was revoked is the caller's to know.
    ///
    /// # Errors
    /// [`DropReason::Authentication`], [`DropReason::Malformed`], [`DropReason::OldRecord`].
    pub fn record<'r>(&self, record: &SignedRecord<'r>) -> Result<NodeRecord<'r>, DropReason> {
        signed(&self.directory, &[RECORD_CONTEXT, record.record], record.signature)?;
        let inner = NodeRecord::decode(record.record)?;
        match inner.epoch.cmp(&self.epoch) {
            Ordering::Equal if inner.index != 0 => Ok(inner),
            Ordering::Less => Err(DropReason::OldRecord),
            _ => Err(DropReason::Malformed),
        }
    }

    /// Whether the directory signed these revocations in this epoch.
    ///
    /// # Errors
    /// [`DropReason::Authentication`], [`DropReason::Malformed`], [`DropReason::OldRecord`].
    pub fn revocations(&self, revocations: &Revocations<'_>) -> Result<(), DropReason> {
        let Revocations { epoch, after, list, signature } = revocations;
        let said = [REVOCATIONS_CONTEXT, &epoch.to_le_bytes(), &after.to_le_bytes(), list];
        signed(&self.directory, &said, signature)?;
        match epoch.cmp(&self.epoch) {
            Ordering::Equal => Ok(()),
            Ordering::Less => Err(DropReason::OldRecord),
            Ordering::Greater => Err(DropReason::Malformed),
        }
    }

    /// Whether the directory signed this feed commit.
    ///
    /// # Errors
    /// [`DropReason::Authentication`].
    pub fn commit(&self, commit: &FeedCommit<'_>) -> Result<(), DropReason> {
        self.signed_commit(FEED_CONTEXT, commit)
    }

    /// Whether the directory signed this list of entry points.
    ///
    /// # Errors
    /// [`DropReason::Authentication`].
    pub fn entries(&self, commit: &FeedCommit<'_>) -> Result<(), DropReason> {
        self.signed_commit(ENTRIES_CONTEXT, commit)
    }

    fn signed_commit(&self, context: &[u8], commit: &FeedCommit<'_>) -> Result<(), DropReason> {
        let sequence = commit.sequence.to_le_bytes();
        signed(&self.directory, &[context, &sequence, &commit.digest], commit.signature)
    }

    /// Whether the directory signed this answer to what was fed, whose digest is `said`.
    ///
    /// # Errors
    /// [`DropReason::Authentication`].
    pub fn answer(&self, answer: &Answer<'_>, said: &[u8; 32]) -> Result<(), DropReason> {
        let Answer { key, sequence, found, signature } = answer;
        let (key, sequence, found) = (key.to_le_bytes(), sequence.to_le_bytes(), found.to_le_bytes());
        signed(&self.directory, &[ANSWER_CONTEXT, &key, &sequence, &found, said], signature)
    }
}

fn signed(key: &[u8; 32], message: &[&[u8]], signature: &[u8]) -> Result<(), DropReason> {
    let signature = signature.try_into().map_err(|_| DropReason::Malformed)?;
    verify(key, message, signature).map_err(|_| DropReason::Authentication)
}
