//! The list of entry points, for the nodes that ask for it.
//!
//! Beside the feed, because few nodes want it: it is short, changes seldom, and goes as a whole. A node names the
//! digest of what it holds and is sent nothing while that is the newest.

use crate::directory::{Directory, Keys};
use edgemesh_core::wire::control::{EntriesPart, FeedCommit, PLAINTEXT_MAX, ToNode};
use edgemesh_discovery::entry::{EncodedEntries, Entries};
use edgemesh_host::state::StateError;
use std::sync::Arc;
use tokio::sync::watch;

/// Room in a message for what is not the part: version, kind, length, the commit.
const OVERHEAD: usize = 128;

/// A list and the directory's word for it.
pub(crate) struct Listed {
    list: Arc<EncodedEntries>,
    sequence: u64,
    signature: [u8; 64],
}

impl Listed {
    /// Numbered and signed by the directory.
    pub(crate) fn new(entries: &Entries, directory: &mut Directory) -> Result<Self, StateError> {
        let list = Arc::new(EncodedEntries::new(entries));
        let mark = directory.number_entry_points(list.digest())?;
        Ok(Self::signed(list, mark.sequence, &directory.keys))
    }

    /// The same list, signed by another key.
    pub(crate) fn sign_again(&self, directory: &Directory) -> Self {
        Self::signed(self.list.clone(), directory.entry_points().sequence, &directory.keys)
    }

    fn signed(list: Arc<EncodedEntries>, sequence: u64, keys: &Keys) -> Self {
        Self { signature: keys.sign_entries(sequence, &list.digest()), sequence, list }
    }
}

/// A node that follows the list, and how far it has been sent to it.
pub(crate) struct Follower {
    newest: watch::Receiver<Option<Arc<Listed>>>,
    /// Digest of what the node has.
    held: [u8; 32],
    sending: Option<(Arc<Listed>, usize)>,
}

impl Follower {
    /// A node that holds the list with this digest.
    pub(crate) fn new(mut newest: watch::Receiver<Option<Arc<Listed>>>, held: [u8; 32]) -> Self {
        newest.mark_changed();
        Self { newest, held, sending: None }
    }

    /// Waits until there is something to send.
    pub(crate) async fn due(&mut self) {
        while self.sending.is_none() {
            if self.newest.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            let newest = self.newest.borrow_and_update().clone();
            self.sending =
                newest.filter(|newest| newest.list.digest() != self.held).map(|newest| (newest, 0));
        }
    }

    /// The next plaintext, written to `out`, if there is any. A newer list waits for the end of this one.
    pub(crate) fn next(&mut self, out: &mut [u8; PLAINTEXT_MAX]) -> Option<usize> {
        let (listed, at) = self.sending.take()?;
        let bytes = listed.list.bytes();
        let end = bytes.len().min(at + PLAINTEXT_MAX - OVERHEAD);
        let digest = listed.list.digest();
        let (sequence, signature) = (listed.sequence, listed.signature);
        let commit = (end == bytes.len()).then_some(FeedCommit { sequence, digest, signature: &signature });
        let last = commit.is_some();
        let part = bytes.get(at..end).unwrap_or_default();
        let len = ToNode::Entries(EntriesPart { part, commit }).encode(out).ok()?;
        if last {
            self.held = digest;
        } else {
            self.sending = Some((listed, end));
        }
        Some(len)
    }
}
