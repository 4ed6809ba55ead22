//! The only place with `unsafe`: thin safe wrappers over system calls that the standard library lacks.
//!
//! Stateless functions on descriptors; each returns `io::Result` and owns nothing beyond the call, except the
//! descriptors it creates. No policy lives here: which option to set, and what an error means, is the callers'.
#![allow(unsafe_code)]

pub(crate) mod device;
pub(crate) mod mapping;
#[cfg(test)]
pub(crate) mod namespace;
pub(crate) mod option;
pub(crate) mod socket;

use std::io;

/// Turns the `-1` convention of system calls into a `Result`.
fn check(returned: libc::c_int) -> io::Result<libc::c_int> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

/// The same for calls that return a length.
fn check_len(returned: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(returned).map_err(|_| io::Error::last_os_error())
}
