//! The one place that reads clocks and turns them into the core's own types.
//!
//! Monotonic time is CLOCK_BOOTTIME: it goes on while the machine is suspended (tunnels must age then) and has
//! the same epoch in every process until reboot, so stored instants of an earlier run can be compared.

use edgemesh_core::time::{Instant, WallTime};
use rustix::time::{ClockId, clock_gettime};

/// Microseconds since boot.
pub fn now() -> Instant {
    let t = clock_gettime(ClockId::Boottime);
    let (secs, nanos) = (u64::try_from(t.tv_sec).unwrap_or(0), u64::try_from(t.tv_nsec).unwrap_or(0));
    Instant::from_micros(secs.saturating_mul(1_000_000).saturating_add(nanos / 1_000))
}

/// Unix time by the machine's clock, which may be wrong.
pub fn wall() -> WallTime {
    let t = clock_gettime(ClockId::Realtime);
    WallTime { secs: u64::try_from(t.tv_sec).unwrap_or(0), nanos: u32::try_from(t.tv_nsec).unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_forward_and_the_year_is_this_century() {
        let a = now();
        let b = now();
        assert!(b >= a && a > Instant::ZERO);
        assert!(wall().secs > 1_700_000_000);
    }
}
