//! How long changes of endpoints take until they have an effect: row R5 of the Kubernetes checklist.
//!
//! The control plane notes on an EndpointSlice when the pod or Service changed that it was made anew for
//! (`endpoints.kubernetes.io/last-change-trigger-time`); from then to the effect is the latency. What happened before
//! this process began is not counted: it would measure how long the process was away. Bounds: one counter a bucket.

use crate::clock;
use crate::metrics::Text;
use std::sync::{Mutex, PoisonError};

/// Upper bounds of the buckets in seconds, as kube-proxy has them: 0.25 to 300.
fn bounds() -> impl Iterator<Item = f64> {
    let seconds = (1..60).chain((60..120).step_by(5)).chain((120..=300).step_by(30));
    [0.25, 0.5].into_iter().chain(seconds.map(f64::from))
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Programming {
    /// Unix milliseconds.
    started: u64,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// One for each of [`bounds`].
    buckets: Vec<u64>,
    count: u64,
    seconds: f64,
}

/// Unix time in milliseconds.
fn unix_millis() -> u64 {
    let now = clock::wall();
    now.secs.saturating_mul(1_000).saturating_add(u64::from(now.nanos / 1_000_000))
}

impl Default for Programming {
    fn default() -> Self {
        let seen = Seen { buckets: bounds().map(|_| 0).collect(), ..Seen::default() };
        Self { started: unix_millis(), seen: Mutex::new(seen) }
    }
}

impl Programming {
    /// What began at these moments, in Unix milliseconds, has its effect now.
    pub fn done(&self, triggers: &[u64]) {
        self.done_at(triggers, unix_millis());
    }

    fn done_at(&self, triggers: &[u64], now: u64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for trigger in triggers.iter().filter(|at| **at >= self.started) {
            // Clocks of other machines may be ahead.
            let seconds = now.saturating_sub(*trigger) as f64 / 1_000.0;
            for (bucket, _) in seen.buckets.iter_mut().zip(bounds()).filter(|(_, bound)| seconds <= *bound) {
                *bucket += 1;
            }
            seen.count += 1;
            seen.seconds += seconds;
        }
    }

    /// Writes the histogram `edgemesh_network_programming_duration_seconds`.
    pub fn write(&self, out: &mut Text) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let help = "From a change of endpoints, as the control plane noted it, to its effect here.";
        let mut family = out.histogram("network_programming_duration_seconds", help);
        for (bucket, bound) in seen.buckets.iter().zip(bounds()) {
            family.part("_bucket", &[("le", &bound.to_string())], bucket);
        }
        family.part("_bucket", &[("le", "+Inf")], seen.count);
        family.part("_sum", &[], seen.seconds).part("_count", &[], seen.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r5_latency_is_from_the_trigger_and_nothing_counts_from_before_the_start() {
        let programming = Programming::default();
        let at = programming.started;
        programming.done_at(&[at - 1, at, at + 700, at + 1_000, at + 9_000], at + 1_000);
        let mut text = Text::new();
        programming.write(&mut text);
        let text = text.finish();
        let has = |line: &str| {
            let line = format!("edgemesh_network_programming_duration_seconds{line}");
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        };
        has("_bucket{le=\"0.25\"} 2");
        has("_bucket{le=\"0.5\"} 3");
        has("_bucket{le=\"1\"} 4");
        has("_bucket{le=\"300\"} 4");
        has("_bucket{le=\"+Inf\"} 4");
        has("_sum 1.3");
        has("_count 4");
        assert!(text.contains("# TYPE edgemesh_network_programming_duration_seconds histogram\n"));
    }
}
