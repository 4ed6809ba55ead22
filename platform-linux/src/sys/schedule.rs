//! How the kernel schedules the calling thread.

use std::io;
use std::time::Duration;

use super::check;

/// Asks for turns of this length instead of the kernel's own (about 3 ms): a thread that works in short turns is let in
/// sooner. It changes no thread's share of the processor, and needs no privilege. Kernels before 6.12 take no notice.
pub(crate) fn set_slice(slice: Duration) -> io::Result<()> {
    // SAFETY: sched_attr is a C struct of integers, for which all-zero is a valid value.
    let mut attributes: libc::sched_attr = unsafe { core::mem::zeroed() };
    let size = size_of::<libc::sched_attr>() as u32;
    // SAFETY: the kernel writes at most `size` bytes into `attributes`, which outlives the call; 0 is this thread.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    check(got as libc::c_int)?;
    attributes.sched_runtime = slice.as_nanos() as u64;
    // SAFETY: the kernel reads `size` bytes of `attributes`, as its first field says.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) } as libc::c_int)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_may_ask_for_short_turns() {
        set_slice(Duration::from_micros(100)).unwrap();
    }
}
