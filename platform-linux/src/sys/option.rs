//! Socket options.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use super::check;

/// Sets an option whose value is an int.
pub(crate) fn set(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    set_value(fd, level, name, &value)
}

/// Reads an option whose value is an int.
pub(crate) fn get(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `value`, and both outlive the call.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &mut len) })?;
    Ok(value)
}

/// Asks for room for `bytes` in either direction, beyond the system's limit where that is allowed: speed only.
pub(crate) fn set_buffers(fd: BorrowedFd<'_>, bytes: libc::c_int) {
    for (forced, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
    {
        if set(fd, libc::SOL_SOCKET, forced, bytes).is_err() {
            let _ = set(fd, libc::SOL_SOCKET, plain, bytes);
        }
    }
}

/// How long a blocking read may take.
pub(crate) fn set_read_timeout(fd: BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
    // SAFETY: timeval is a C struct of integers, for which all-zero is a valid value.
    let mut value: libc::timeval = unsafe { core::mem::zeroed() };
    value.tv_sec = timeout.as_secs() as _;
    value.tv_usec = timeout.subsec_micros() as _;
    set_value(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &value)
}

fn set_value<T: Copy>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of `value`, a plain C value that outlives the call.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (value as *const T).cast(), len) }).map(drop)
}
