//! Waiting until something in a directory changes.
//!
//! Only the directory itself is watched: editors and Kubernetes replace files and symbolic links by renaming,
//! which a watch on the file would lose. Changes are collected until 100 ms pass without another one, at most
//! 2 s. A directory that disappears is looked for once a second. File systems that tell nothing (NFS) are
//! covered by a look every 30 s.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const QUIET: Duration = Duration::from_millis(100);
const AT_MOST: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_secs(1);
const BLIND: Duration = Duration::from_secs(30);

/// A watch on one directory.
pub(crate) struct Watch {
    inotify: OwnedFd,
    path: PathBuf,
    watching: bool,
    looked: Instant,
}

impl Watch {
    /// Watches `path`; it may appear later.
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let mut watch = Self { inotify, path: path.to_owned(), watching: false, looked: Instant::now() };
        watch.watch();
        Ok(watch)
    }

    fn watch(&mut self) {
        let flags = WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MODIFY
            | WatchFlags::MOVE
            | WatchFlags::MOVE_SELF
            | WatchFlags::ATTRIB
            | WatchFlags::ONLYDIR;
        self.watching = inotify::add_watch(&self.inotify, &self.path, flags).is_ok();
    }

    /// Waits at most `until`. True after a change and the quiet that follows it, and when it is time to look
    /// although nothing was told.
    pub(crate) fn wait(&mut self, until: Duration) -> bool {
        if !self.watching {
            std::thread::sleep(RETRY.min(until));
            self.watch();
            return self.watching;
        }
        if !self.readable(until) {
            let look = self.looked.elapsed() >= BLIND;
            if look {
                self.looked = Instant::now();
            }
            return look;
        }
        self.looked = Instant::now();
        self.drain();
        while self.looked.elapsed() < AT_MOST && self.readable(QUIET) {
            self.drain();
        }
        true
    }

    fn readable(&self, timeout: Duration) -> bool {
        let timeout =
            Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        let mut fds = [PollFd::new(&self.inotify, PollFlags::IN)];
        poll(&mut fds, Some(&timeout)).is_ok_and(|n| n > 0)
    }

    fn drain(&mut self) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        let mut gone = false;
        loop {
            match reader.next() {
                Ok(event) => {
                    let flags = event.events();
                    gone |= flags.contains(inotify::ReadFlags::IGNORED)
                        || flags.contains(inotify::ReadFlags::MOVE_SELF);
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        if gone {
            // A directory moved away keeps its old watch; a fresh inotify drops it.
            if let Ok(fresh) = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) {
                self.inotify = fresh;
            }
            self.watch();
        }
    }
}
