//! A directory of small state files that survive crashes and full disks.
//!
//! A file is replaced as a whole: temporary file, fsync, rename, fsync of the directory. When anything fails,
//! the last good version stays and the error says what and where. A file may be appended to instead, where its content
//! shows a torn end. Files are 0600; a directory made here is
//! 0700 (one that exists keeps its mode: it may be shared on purpose). One process at a time holds the lock: a program
//! for as long as it runs, a command for a moment, which whoever starts then waits for.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Largest state file that is read, in bytes: a guard against pointing at the wrong directory.
pub const FILE_MAX: u64 = 1 << 30;

/// How long a lock is waited for. A command holds it for a moment; so does a process that was killed and is not yet gone.
pub const LOCK_WITHIN: Duration = Duration::from_secs(2);
/// How often it is tried meanwhile: flock(2) knows no limit of time.
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// What went wrong with which file.
#[derive(Debug)]
pub struct StateError {
    /// What was tried: "write", "read" ...
    pub action: &'static str,
    /// On which path.
    pub path: PathBuf,
    /// What the operating system says.
    pub source: io::Error,
}

impl StateError {
    /// An error of doing `action` on `path`.
    pub fn new(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self { action, path: path.into(), source }
    }

    /// An error about the content of `path`.
    pub fn invalid(path: impl Into<PathBuf>, detail: impl Into<String>) -> Self {
        Self::new("use", path, io::Error::new(io::ErrorKind::InvalidData, detail.into()))
    }

    /// Whether another process holds the lock.
    pub fn is_held(&self) -> bool {
        self.source.kind() == io::ErrorKind::WouldBlock
    }
}

impl std::fmt::Display for StateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot {} {}: {}", self.action, self.path.display(), self.source)?;
        if self.action == "write" { f.write_str("; the last good version stays") } else { Ok(()) }
    }
}

impl std::error::Error for StateError {}

/// An open state directory.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    lock: Option<File>,
}

impl Drop for Directory {
    /// Gives the lock back. To close the file would not be enough: a program that this process just begins has a copy of it
    /// until its own text is loaded, and the lock is all copies' (flock(2)).
    fn drop(&mut self) {
        if let Some(lock) = &self.lock {
            let _ = lock.unlock();
        }
    }
}

impl Directory {
    /// Opens `path`, making it (0700) when it does not exist.
    ///
    /// # Errors
    /// When it cannot be made, or is no directory.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StateError> {
        let path = path.into();
        match DirBuilder::new().recursive(true).mode(0o700).create(&path) {
            Ok(()) => Ok(Self { path, lock: None }),
            Err(source) => Err(StateError::new("make state directory", path, source)),
        }
    }

    /// Takes the directory for this process alone, until the value is dropped or the process ends. Who has it now may
    /// let go within [`LOCK_WITHIN`].
    ///
    /// # Errors
    /// As [`Directory::try_lock`].
    pub fn lock(&mut self) -> Result<(), StateError> {
        let deadline = Instant::now() + LOCK_WITHIN;
        loop {
            match self.try_lock() {
                Err(error) if error.is_held() && Instant::now() < deadline => std::thread::sleep(TRY_AGAIN),
                done => return done,
            }
        }
    }

    /// [`Directory::lock`] without waiting.
    ///
    /// # Errors
    /// When another process holds it, or the lock file cannot be made.
    pub fn try_lock(&mut self) -> Result<(), StateError> {
        let path = self.path.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(|e| StateError::new("open", &path, e))?;
        match file.try_lock() {
            Ok(()) => {
                self.lock = Some(file);
                Ok(())
            }
            Err(TryLockError::WouldBlock) => Err(StateError::new(
                "lock",
                path,
                io::Error::new(io::ErrorKind::WouldBlock, "another process uses this state directory"),
            )),
            Err(TryLockError::Error(e)) => Err(StateError::new("lock", path, e)),
        }
    }

    /// Where `name` is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.path
    }

    /// The content of `name`, `None` when there is no such file.
    ///
    /// # Errors
    /// When it exists and cannot be read, or is larger than [`FILE_MAX`].
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.path(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StateError::new("read", path, e)),
        };
        let mut out = Vec::new();
        match file.take(FILE_MAX + 1).read_to_end(&mut out) {
            Ok(_) if out.len() as u64 > FILE_MAX => Err(StateError::invalid(path, "implausibly large")),
            Ok(_) => Ok(Some(out)),
            Err(e) => Err(StateError::new("read", path, e)),
        }
    }

    /// The content of `name`, which is a secret, `None` when it does not exist.
    ///
    /// # Errors
    /// As [`Directory::read`], and when others than the owner may read the file.
    pub fn read_secret(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
        match read_secret(&self.path(name)) {
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(None),
            content => content.map(Some),
        }
    }

    /// Replaces `name` by `content`, whole or not at all.
    ///
    /// # Errors
    /// When any step fails: the last good version stays.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        write_private(&self.path(name), content)
    }

    /// Appends to `name`, which exists. What is there stays; of `more` a part may be there after a crash.
    ///
    /// # Errors
    /// When any step fails: then a part of `more` may be there, too.
    pub fn append(&self, name: &str, more: &[u8]) -> Result<(), StateError> {
        let path = self.path(name);
        let append = || {
            let mut file = OpenOptions::new().append(true).open(&path)?;
            file.write_all(more)?;
            file.sync_data()
        };
        append().map_err(|e| StateError::new("write", &path, e))
    }

    /// Removes `name`; it may be gone already.
    ///
    /// # Errors
    /// When it exists and cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), StateError> {
        let path = self.path(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StateError::new("remove", path, e)),
            _ => Ok(()),
        }
    }

    /// Makes renames and new files in the directory durable.
    ///
    /// # Errors
    /// When fsync fails.
    pub fn sync(&self) -> Result<(), StateError> {
        let sync = || File::open(&self.path)?.sync_all();
        sync().map_err(|e| StateError::new("write", &self.path, e))
    }
}

/// The content of a file that is a secret.
///
/// # Errors
/// When it cannot be read, is implausibly large, or others than its owner may read it.
pub fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, StateError> {
    let failed = |e| StateError::new("read", path, e);
    let file = File::open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    let mode = about.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let others = format!(
            "it holds a secret, and with mode {mode:04o} others than its owner may read or replace it; accepted: 0600 \
             or less (chmod 600 {})",
            path.display()
        );
        return Err(StateError::invalid(path, others));
    }
    // Room for all of it at once: what a growing buffer leaves behind is not wiped.
    let mut out = Zeroizing::new(Vec::with_capacity(about.len().min(FILE_MAX) as usize + 1));
    match file.take(FILE_MAX + 1).read_to_end(&mut out) {
        Ok(_) if out.len() as u64 > FILE_MAX => Err(StateError::invalid(path, "implausibly large")),
        Ok(_) => Ok(out),
        Err(e) => Err(failed(e)),
    }
}

/// Replaces the file at `path` by `content`, whole or not at all, with mode 0600.
///
/// # Errors
/// When any step fails: the last good version stays.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), StateError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let temporary = path.with_file_name(format!(".{name}.new"));
    let result = replace(&temporary, path, content);
    if result.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    result.map_err(|e| StateError::new("write", path, e))
}

fn replace(temporary: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(temporary, path)?;
    if let Some(parent) = path.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("edgemesh-state-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn files_are_private_and_come_back() {
        let path = scratch("private");
        let dir = Directory::open(&path).unwrap();
        assert_eq!(dir.read("a").unwrap(), None);
        dir.write("a", b"one").unwrap();
        dir.write("a", b"two").unwrap();
        assert_eq!(dir.read("a").unwrap().as_deref(), Some(&b"two"[..]));
        dir.append("a", b" three").unwrap();
        assert_eq!(dir.read("a").unwrap().as_deref(), Some(&b"two three"[..]));
        assert!(dir.append("b", b"nothing to append to").is_err());
        let mode = |p: PathBuf| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(dir.path("a")), mode(path.clone())), (0o600, 0o700));
        dir.remove("a").unwrap();
        dir.remove("a").unwrap();
        assert_eq!(dir.read("a").unwrap(), None);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_secret_that_others_may_read_is_refused_with_its_name_and_mode() {
        let path = scratch("secret");
        let dir = Directory::open(&path).unwrap();
        assert!(dir.read_secret("key").unwrap().is_none());
        dir.write("key", b"secret").unwrap();
        assert_eq!(dir.read_secret("key").unwrap().unwrap().as_slice(), b"secret");
        for (mode, refused) in [(0o640, true), (0o604, true), (0o620, true), (0o400, false), (0o600, false)] {
            std::fs::set_permissions(dir.path("key"), std::fs::Permissions::from_mode(mode)).unwrap();
            match dir.read_secret("key") {
                Ok(_) => assert!(!refused, "{mode:o}"),
                Err(error) => {
                    let text = error.to_string();
                    assert!(
                        refused && text.contains(&format!("{mode:04o}")) && text.contains("/key"),
                        "{text}"
                    );
                }
            }
        }
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_failed_write_leaves_the_last_good_version_and_no_litter() {
        let path = scratch("failed");
        let dir = Directory::open(&path).unwrap();
        dir.write("a", b"good").unwrap();
        // A directory in the way of the temporary file makes the write fail for root, too.
        std::fs::create_dir(path.join(".a.new")).unwrap();
        let error = dir.write("a", b"bad").unwrap_err().to_string();
        assert!(error.contains("cannot write") && error.contains("/a:"), "{error}");
        assert!(error.contains("last good version stays"), "{error}");
        assert_eq!(dir.read("a").unwrap().as_deref(), Some(&b"good"[..]));
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn the_lock_is_held_by_one_only() {
        let path = scratch("lock");
        let mut first = Directory::open(&path).unwrap();
        let mut second = Directory::open(&path).unwrap();
        first.lock().unwrap();
        let error = second.lock().unwrap_err();
        assert!(error.is_held() && error.to_string().contains("another process"), "{error}");
        let copy = first.lock.as_ref().unwrap().try_clone().unwrap();
        drop(first);
        second.try_lock().unwrap();
        drop(copy);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn one_that_is_let_go_in_a_moment_is_waited_for() {
        let path = scratch("moment");
        let mut command = Directory::open(&path).unwrap();
        let mut server = Directory::open(&path).unwrap();
        command.lock().unwrap();
        std::thread::scope(|scope| {
            let started = scope.spawn(|| server.lock());
            std::thread::sleep(TRY_AGAIN * 3);
            assert!(!started.is_finished());
            drop(command);
            started.join().unwrap().unwrap();
        });
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let path = scratch("file");
        std::fs::write(&path, b"").unwrap();
        let error = Directory::open(&path).unwrap_err().to_string();
        assert!(error.contains("cannot make state directory") && error.contains("edgemesh-state-file"));
        std::fs::remove_file(path).unwrap();
    }
}
