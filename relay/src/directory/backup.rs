//! A backup of all that the server has to keep: its keys, the root's with them, and the directory.
//!
//! One file: [`MAGIC`], the postcard of a [`Backup`], BLAKE2s-256 over both. It is made while the server runs. A restore
//! puts keys and log into the state directory in one step ([`RESTORED`], taken over at the next start) and raises the
//! epoch, so that every node follows the restored directory and believes nothing older. What happened after the backup is
//! forgotten: nodes that joined since join again, and who was revoked since has to be revoked again.

use super::keys::Sealed;
use super::log;
use super::{Directory, Entry, FILE, epoch_after};
use blake2::digest::Digest;
use edgemesh_host::state::{self, StateError};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

const MAGIC: &[u8] = b"edgemesh backup 1\n";
const CHECKSUM: usize = 32;
/// Keys and log of a restore that is to be taken over at the next start.
const RESTORED: &str = "restored";

/// What a backup holds.
#[derive(Serialize, Deserialize)]
pub(crate) struct Backup {
    keys: Sealed,
    /// The log, as short as it can be.
    directory: Vec<u8>,
}

/// Why a file is no backup that can be restored here.
#[derive(Debug)]
pub(crate) enum RestoreError {
    /// It does not begin as one.
    Magic,
    /// It is incomplete or was changed.
    Checksum,
    /// Its content is not of this version.
    Content,
    /// The state directory is that of another cluster.
    AnotherCluster,
    /// The state directory cannot be read or written.
    State(StateError),
}

impl From<StateError> for RestoreError {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

impl std::fmt::Display for RestoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Magic => f.write_str("no backup of an edgemesh-server"),
            Self::Checksum => f.write_str("the backup is incomplete or was changed: its checksum is wrong"),
            Self::Content => f.write_str("the backup was made by another version"),
            Self::AnotherCluster => f.write_str(
                "the backup is of another cluster than the state directory; accepted: that cluster's, or an empty one",
            ),
            Self::State(error) => error.fmt(f),
        }
    }
}

impl Directory {
    /// A backup of this moment, as its file.
    ///
    /// # Errors
    /// When the keys cannot be read.
    pub(crate) fn backup(&self) -> Result<Zeroizing<Vec<u8>>, StateError> {
        let backup = Backup { keys: Sealed::read(&self.state)?, directory: log::write(&self.entries()) };
        let unwritable = |e: postcard::Error| StateError::invalid(self.state.path(FILE), e.to_string());
        let body = Zeroizing::new(postcard::to_allocvec(&backup).map_err(unwritable)?);
        let mut file = Zeroizing::new([MAGIC, &body].concat());
        let sum = checksum(&file);
        file.extend_from_slice(&sum);
        Ok(file)
    }
}

impl Backup {
    /// Reads a backup file.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub(crate) fn parse(file: &[u8]) -> Result<Self, RestoreError> {
        let rest = file.strip_prefix(MAGIC).ok_or(RestoreError::Magic)?;
        let (body, sum) = rest.split_last_chunk::<CHECKSUM>().ok_or(RestoreError::Checksum)?;
        if checksum(file.get(..file.len() - CHECKSUM).unwrap_or_default()) != *sum {
            return Err(RestoreError::Checksum);
        }
        let backup: Self = postcard::from_bytes(body).map_err(|_| RestoreError::Content)?;
        let whole = log::read::<Entry>(&backup.directory).is_ok() && backup.keys.root().is_some();
        if whole { Ok(backup) } else { Err(RestoreError::Content) }
    }

    /// Puts the backup into a state directory, to be taken over by the next start; the new epoch.
    ///
    /// # Errors
    /// [`RestoreError`]; nothing is changed.
    pub(crate) fn restore(self, state: &state::Directory, now: u64) -> Result<u32, RestoreError> {
        let there = Sealed::find(state)?;
        if there.as_ref().is_some_and(|there| there.root() != self.keys.root()) {
            return Err(RestoreError::AnotherCluster);
        }
        // What is there may be damaged: that is why somebody restores.
        let log = state.read(FILE)?.and_then(|bytes| log::read::<Entry>(&bytes).ok());
        let there = log.map_or(0, |(entries, _)| last_epoch(&entries));
        let before = log::read::<Entry>(&self.directory).map_or(0, |(entries, _)| last_epoch(&entries));
        let epoch = epoch_after(before.max(there), now);
        let keys = self.keys.in_epoch(epoch).ok_or(RestoreError::Content)?;
        let restored = Self { keys, directory: self.directory };
        let bytes = postcard::to_allocvec(&restored).map(Zeroizing::new);
        let bytes = bytes.map_err(|e| StateError::invalid(state.path(RESTORED), e.to_string()))?;
        state.write(RESTORED, &bytes)?;
        Ok(epoch)
    }
}

/// Takes over what was restored, if something was. Broken off in the middle it is done again.
pub(super) fn take_over(state: &state::Directory) -> Result<(), StateError> {
    let Some(bytes) = state.read_secret(RESTORED)? else { return Ok(()) };
    let invalid = |_| StateError::invalid(state.path(RESTORED), "damaged; restore the backup again");
    let backup: Backup = postcard::from_bytes(&bytes).map_err(invalid)?;
    backup.keys.write(state)?;
    state.write(FILE, &backup.directory)?;
    state.remove(RESTORED)?;
    state.sync()?;
    tracing::info!(state = %state.root().display(), "took over a restored backup");
    Ok(())
}

fn last_epoch(entries: &[Entry]) -> u32 {
    let epoch = |entry: &Entry| if let Entry::Epoch(epoch) = entry { Some(*epoch) } else { None };
    entries.iter().rev().find_map(epoch).unwrap_or_default()
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    blake2::Blake2s256::digest(bytes).into()
}
