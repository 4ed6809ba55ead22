//! Memory that outlives the process, a file mapped shared; and memory that no dump of the process is to show.

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
    let _ = keep_out_of_dumps(start.addr(), len);
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

/// Leaves the pages that hold `value` out of core dumps, also of those that root makes with a debugger.
///
/// # Errors
/// As `madvise(2)`.
pub(crate) fn undumped<T>(value: &T) -> io::Result<()> {
    keep_out_of_dumps(core::ptr::from_ref(value).addr(), size_of::<T>())
}

/// The same for the calling thread's stack; not for the first thread, whose stack grows.
///
/// # Errors
/// As `pthread_getattr_np(3)` and `madvise(2)`.
pub(crate) fn undumped_stack() -> io::Result<()> {
    let (mut start, mut len) = (core::ptr::null_mut(), 0);
    // SAFETY: zeros are a value of this plain structure, which the first call fills and the last one empties; the
    // second one writes two numbers of ours.
    let failed = unsafe {
        let mut attributes: libc::pthread_attr_t = core::mem::zeroed();
        match libc::pthread_getattr_np(libc::pthread_self(), &mut attributes) {
            0 => {
                let failed = libc::pthread_attr_getstack(&attributes, &mut start, &mut len);
                libc::pthread_attr_destroy(&mut attributes);
                failed
            }
            failed => failed,
        }
    };
    if failed == 0 { keep_out_of_dumps(start.addr(), len) } else { Err(io::Error::from_raw_os_error(failed)) }
}

fn keep_out_of_dumps(start: usize, len: usize) -> io::Result<()> {
    let page = rustix::param::page_size();
    let first = start / page * page;
    let len = (start + len).next_multiple_of(page) - first;
    // SAFETY: the advice changes nothing in memory, and nothing but what a dump holds.
    check(unsafe { libc::madvise(core::ptr::without_provenance_mut(first), len, libc::MADV_DONTDUMP) })
        .map(drop)
}

/// # Safety
/// As `core::slice::from_raw_parts_mut`, for 'static.
unsafe fn slice<T: Plain>(start: *mut T, len: usize) -> &'static mut [T] {
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts_mut(start, len) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Flags of the mapping that holds the address, as the kernel shows them.
    fn flags(address: usize) -> String {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in maps.lines() {
            let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
            let bounds = range.map(|(from, to)| [from, to].map(|hex| usize::from_str_radix(hex, 16)));
            if let Some([Ok(from), Ok(to)]) = bounds {
                inside = (from..to).contains(&address);
            } else if inside && let Some(flags) = line.strip_prefix("VmFlags:") {
                return flags.to_owned();
            }
        }
        panic!("no mapping at {address:x}");
    }

    fn is_dumped(address: usize) -> bool {
        !flags(address).split(' ').any(|flag| flag == "dd")
    }

    #[test]
    fn a_dump_leaves_out_what_it_is_told_to() {
        static SLOTS: [[u8; 4_096]; 8] = [[7; 4_096]; 8];
        let [first, last] = [&raw const SLOTS[0], &raw const SLOTS[7]].map(|slot| slot.addr());
        assert!(is_dumped(first) && is_dumped(last));
        undumped(&SLOTS).unwrap();
        assert!(!is_dumped(first) && !is_dumped(last));
        let stack = std::thread::spawn(|| {
            let local = [0_u8; 64];
            undumped_stack().map(|()| is_dumped(local.as_ptr().addr()))
        });
        assert!(!stack.join().unwrap().unwrap());
    }
}
