//! The agent's clock: [`edgemesh_host::clock`], and points of the standard library's clock on it.
//!
//! Stateless. Its epoch is the machine's boot and it counts through suspend, so instants in tables that the next
//! process adopts keep their meaning.

use std::time::Duration as StdDuration;

use edgemesh_core::time::{Duration, Instant};

pub use edgemesh_host::clock::{now, wall};

/// A point on the standard library's clock as one on ours. The two run alike except through a suspend, so a
/// point is exact when no suspend lies between it and now.
pub fn from_std(point: std::time::Instant) -> Instant {
    let (ours, theirs) = (now(), std::time::Instant::now());
    match point.checked_duration_since(theirs) {
        Some(ahead) => ours.after(from_std_duration(ahead)),
        None => {
            let behind = micros(theirs.duration_since(point));
            Instant::from_micros(ours.as_micros().saturating_sub(behind))
        }
    }
}

/// A span of the standard library as one of ours, rounded down to microseconds.
pub fn from_std_duration(span: StdDuration) -> Duration {
    Duration::from_micros(micros(span))
}

fn micros(span: StdDuration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_time_since_boot_and_only_grows() {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let first = now();
        assert!((first.as_micros() as f64 / 1e6 - uptime).abs() < 5.0);
        let mut last = first;
        for _ in 0..1000 {
            let next = now();
            assert!(next >= last);
            last = next;
        }
        assert!(last > first);
    }

    #[test]
    fn points_of_the_standard_clock_keep_their_distance() {
        let base = std::time::Instant::now();
        let later = from_std(base + StdDuration::from_secs(10));
        let earlier = from_std(base - StdDuration::from_millis(1));
        let apart = later.since(earlier).as_micros();
        assert!((9_900_000..10_200_000).contains(&apart), "{apart}");
        assert!(earlier <= now() && later > now());
    }
}
