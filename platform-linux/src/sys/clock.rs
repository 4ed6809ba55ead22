//! Reading `CLOCK_BOOTTIME`.

use std::time::Duration;

/// Time since boot, suspend included.
pub(crate) fn boottime() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec to write to. The call cannot fail for a clock that Linux has had since
    // 2.6.39; were it to, `now` stays zero.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
