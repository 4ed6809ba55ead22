//! An append-only file of checksummed entries: what survives kill -9, power loss and a full disk.
//!
//! An entry is its length (u32 little-endian), 4 bytes of the length's BLAKE2s-256, 8 bytes of its content's, and
//! its content. Entries are appended in one write and made durable before anybody acts on them. A torn last
//! append, which nobody acted on, is cut off at the next start: the file ends, or reads as zeros, inside an entry.
//! Damage before that is an error that names the place, because what follows it must not be lost silently. When
//! an append fails the file is cut back to its last good length. A file that has grown is replaced by one with the same
//! meaning, written aside and renamed, so that a crash at any moment leaves the one or the other.

use blake2::digest::Digest;
use edgemesh_host::state::{Directory, StateError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

const HEAD: usize = 16;
/// Largest entry, in bytes.
const ENTRY_MAX: usize = 1 << 20;

/// The open file.
pub(super) struct Log {
    file: File,
    path: PathBuf,
    len: u64,
    /// What the file holds past `len` could not be removed: nothing may be appended behind it.
    broken: bool,
    /// The file took the place of another one, which is not known to have reached the disk.
    moved: bool,
}

impl Log {
    /// Opens `name`, making it when it does not exist, and returns its entries.
    pub(super) fn open<T: DeserializeOwned>(
        state: &Directory,
        name: &str,
    ) -> Result<(Self, Vec<T>), StateError> {
        let path = state.path(name);
        let bytes = state.read(name)?.unwrap_or_default();
        let (entries, len) = read(&bytes).map_err(|(at, what)| {
            StateError::invalid(&path, format!("damaged at byte {at} ({what}); restore it from a backup"))
        })?;
        let open = |e| StateError::new("open", &path, e);
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(open)?;
        if (len as usize) < bytes.len() {
            tracing::warn!(file = %path.display(), cut = bytes.len() - len as usize, "cut off a torn last entry");
            file.set_len(len).map_err(open)?;
        }
        state.sync()?;
        Ok((Self { file, path, len, broken: false, moved: false }, entries))
    }

    /// Appends all entries, durably, or none.
    pub(super) fn append<T: Serialize>(&mut self, entries: &[T]) -> Result<(), StateError> {
        if entries.is_empty() {
            return Ok(());
        }
        let bytes = write(entries);
        let result = self.write(&bytes);
        if result.is_err() {
            self.broken = self.file.set_len(self.len).and_then(|()| self.file.sync_data()).is_err();
        }
        result.map_err(|e| StateError::new("write", &self.path, e))
    }

    /// Puts a file with these entries in the place of this one, whole or not at all. What is appended from then on is
    /// behind them.
    pub(super) fn replace<T: Serialize>(
        &mut self,
        state: &Directory,
        entries: &[T],
    ) -> Result<(), StateError> {
        let (bytes, fresh) = (write(entries), self.path.with_extension("new"));
        let replaced =
            File::options().create(true).truncate(true).write(true).mode(0o600).open(&fresh).and_then(
                |mut file| {
                    file.write_all(&bytes)?;
                    file.sync_all()?;
                    std::fs::rename(&fresh, &self.path)?;
                    Ok(file)
                },
            );
        match replaced {
            Ok(file) => {
                (self.file, self.len, self.broken) = (file, bytes.len() as u64, false);
                self.moved = state.sync().is_err();
                Ok(())
            }
            Err(error) => {
                let _ = std::fs::remove_file(&fresh);
                Err(StateError::new("write", &self.path, error))
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.moved {
            // Else the file that comes back after a crash could be the one before.
            self.path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())?;
            self.moved = false;
        }
        if self.broken {
            self.file.set_len(self.len)?;
        }
        self.file.seek(SeekFrom::Start(self.len))?;
        self.file.write_all(bytes)?;
        self.file.sync_data()?;
        self.len += bytes.len() as u64;
        self.broken = false;
        Ok(())
    }

    /// Length of the file in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }
}

/// The content of a log with these entries.
pub(super) fn write<T: Serialize>(entries: &[T]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        // Plain data always has a postcard form.
        let bytes = postcard::to_allocvec(entry).unwrap_or_default();
        let len = (bytes.len() as u32).to_le_bytes();
        out.extend_from_slice(&len);
        out.extend_from_slice(&checksum::<4>(&len));
        out.extend_from_slice(&checksum::<8>(&bytes));
        out.extend_from_slice(&bytes);
    }
    out
}

/// All entries and the length they take; or where it is damaged, and how.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<(Vec<T>, u64), (usize, &'static str)> {
    // A file that was extended but not filled before the power went reads as zeros from there on.
    let filled = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let Some((head, body)) = rest.split_first_chunk::<HEAD>() else { break };
        let [a, b, c, d, len_sum @ ..] = *head;
        let [w, x, y, z, sum @ ..] = len_sum;
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        if checksum([a, b, c, d].as_slice()) != [w, x, y, z] || len > ENTRY_MAX {
            if filled <= at + HEAD {
                break;
            }
            return Err((at, "wrong checksum of a length"));
        }
        let Some(entry) = body.get(..len) else { break };
        if checksum(entry) != sum {
            if filled <= at + HEAD + len {
                break;
            }
            return Err((at, "wrong checksum"));
        }
        match postcard::from_bytes(entry) {
            Ok(entry) => out.push(entry),
            Err(_) => return Err((at, "an entry of another version")),
        }
        at += HEAD + len;
    }
    Ok((out, at as u64))
}

fn checksum<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let hash: [u8; 32] = blake2::Blake2s256::digest(bytes).into();
    let mut out = [0; N];
    out.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<String> {
        (0..5).map(|n| format!("entry number {n}")).collect()
    }

    #[test]
    fn a_torn_tail_is_cut_and_everything_before_it_stays() {
        let bytes = write(&entries());
        let whole = write(&entries()[..4]).len();
        for cut in whole..bytes.len() {
            assert_eq!(read::<String>(&bytes[..cut]).unwrap(), (entries()[..4].to_vec(), whole as u64));
        }
        for filled in whole..bytes.len() {
            let mut zeros = bytes[..filled].to_vec();
            zeros.resize(bytes.len() + 4096, 0);
            assert_eq!(read::<String>(&zeros).unwrap().0.len(), 4, "{filled}");
        }
        let mut flipped = bytes.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert_eq!(read::<String>(&flipped).unwrap().0.len(), 4);
    }

    #[test]
    fn damage_before_the_end_is_an_error_with_its_place() {
        let bytes = write(&entries());
        let second = write(&entries()[..1]).len();
        for at in second..write(&entries()[..4]).len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x40;
            let (place, what) = read::<String>(&bad).unwrap_err();
            assert!(
                place >= second && place <= at && what.contains("wrong checksum"),
                "{at}: {place} {what}"
            );
        }
    }
}
