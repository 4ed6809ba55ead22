//! Bounded waiting: a condition is polled until it holds or its limit is over.
//!
//! There is no fixed sleep anywhere else in the lab; how long a wait took is what the condition needed.

use std::time::{Duration, Instant};

use crate::{Error, Result};

/// How often a condition is looked at. Small against every limit used, large against one look.
const POLL: Duration = Duration::from_millis(20);

/// Polls `probe` until it succeeds; an error means "not yet".
///
/// # Errors
/// When `limit` is over: `what` was waited for, and the last reason why it did not hold.
pub fn wait_until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(last) if started.elapsed() >= limit => {
                return Err(Error::new(format!("waited {} ms until {what}: {last}", limit.as_millis())));
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// Seconds as a duration; limits read better so.
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
