//! Memory that outlives the process: a file mapped shared.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use edgemesh_core::flow::{AdmittedSlot, FlowSlot};

use super::check;

/// Types that any bytes are a value of.
///
/// # Safety
/// All fields are integers or arrays of them, of every bit pattern.
unsafe trait Plain {}

// SAFETY: integers and byte arrays only (`core/src/flow/slots.rs`); padding is never read.
unsafe impl Plain for FlowSlot {}
// SAFETY: as above.
unsafe impl Plain for AdmittedSlot {}

/// Maps `flows` and `admitted` slots, one array behind the other, from `offset` (a multiple of the page size) of
/// `file`, for the rest of the process's life. The file must be long enough and no other process may change it:
/// the caller holds the lock of the state directory.
///
/// # Errors
/// As `mmap(2)`; `InvalidInput` when the file is too short.
pub(crate) fn flows(
    file: &File,
    offset: usize,
    flows: usize,
    admitted: usize,
) -> io::Result<(&'static mut [FlowSlot], &'static mut [AdmittedSlot])> {
    let split = size_of::<FlowSlot>() * flows;
    let len = split + size_of::<AdmittedSlot>() * admitted;
    if file.metadata()?.len() < (offset + len) as u64 || !split.is_multiple_of(align_of::<AdmittedSlot>()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: a new mapping at an address that the kernel chooses touches no memory of ours.
    let start = unsafe {
        libc::mmap(
            core::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // A core dump is for finding errors, not for carrying who talked to whom.
    // SAFETY: the range is the mapping just made.
    let _ = check(unsafe { libc::madvise(start, len, libc::MADV_DONTDUMP) });
    // SAFETY: the mapping is page-aligned, `len` bytes long, never unmapped and handed out only here, so both
    // slices are valid, aligned (`split` is a multiple of the second alignment), disjoint and unique for 'static;
    // both types are `Plain`, so whatever the file holds is a value.
    unsafe {
        Ok((
            slice::<FlowSlot>(start.cast(), flows),
            slice::<AdmittedSlot>(start.cast::<u8>().add(split).cast(), admitted),
        ))
    }
}

/// # Safety
/// As `core::slice::from_raw_parts_mut`, for 'static.
unsafe fn slice<T: Plain>(start: *mut T, len: usize) -> &'static mut [T] {
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts_mut(start, len) }
}
