//! What a span of work costs: time, processor time of the programs under test and of the load itself.
//!
//! Processor time of a program is user and system time of all its threads, as `/proc` tells it (in steps of 10 ms).
//! The kernel's work in interrupts is charged to whoever runs just then, so the load's own time is told as well.

use edgemesh_lab::{Context, Result};
use std::fs;
use std::time::{Duration, Instant};

/// The programs that are looked at, by process id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter(Vec<u32>);

/// A moment, with what was used until then.
pub(crate) struct Sample {
    at: Instant,
    programs: Duration,
    load: Duration,
}

/// What was used between two samples.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Wall time.
    pub(crate) took: Duration,
    /// Processor time of the programs.
    pub(crate) programs: Duration,
    /// Processor time of this process, which makes and takes the load.
    pub(crate) load: Duration,
    /// Payload bytes, or packets, or whatever was counted.
    pub(crate) amount: u64,
}

impl Meter {
    /// Looks at these programs.
    pub(crate) fn new(programs: impl IntoIterator<Item = u32>) -> Self {
        Self(programs.into_iter().collect())
    }

    /// Whether there is no program to look at.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was used so far.
    ///
    /// # Errors
    /// When a program has ended.
    pub(crate) fn sample(&self) -> Result<Sample> {
        let mut programs = Duration::ZERO;
        for pid in &self.0 {
            programs += cpu(&pid.to_string())?;
        }
        Ok(Sample { at: Instant::now(), programs, load: cpu("self")? })
    }

    /// What was used since `before`, for `amount` of anything.
    ///
    /// # Errors
    /// As [`Meter::sample`].
    pub(crate) fn since(&self, before: &Sample, amount: u64) -> Result<Cost> {
        let now = self.sample()?;
        Ok(Cost {
            took: now.at - before.at,
            programs: now.programs.saturating_sub(before.programs),
            load: now.load.saturating_sub(before.load),
            amount,
        })
    }

    /// Resident memory of the largest of the programs in bytes.
    ///
    /// # Errors
    /// When a program has ended.
    pub(crate) fn resident(&self) -> Result<u64> {
        let mut most = 0;
        for pid in &self.0 {
            let text = fs::read_to_string(format!("/proc/{pid}/status")).context("memory")?;
            let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
            let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS")?;
            most = most.max(kib << 10);
        }
        Ok(most)
    }
}

impl Cost {
    /// Of the amount, per second.
    pub(crate) fn rate(&self) -> f64 {
        self.amount as f64 / self.took.as_secs_f64()
    }

    /// Of bytes: Gbit/s.
    pub(crate) fn gbits(&self) -> f64 {
        self.rate() * 8.0 / 1e9
    }

    /// Of bytes: processor seconds of the programs per gigabyte (10^9).
    pub(crate) fn per_gigabyte(&self) -> f64 {
        self.programs.as_secs_f64() / (self.amount as f64 / 1e9)
    }

    /// Of bytes: the same with the load's own time.
    pub(crate) fn whole_per_gigabyte(&self) -> f64 {
        (self.programs + self.load).as_secs_f64() / (self.amount as f64 / 1e9)
    }

    /// Of the amount, per processor second of the programs.
    pub(crate) fn per_cpu_second(&self) -> f64 {
        self.amount as f64 / self.programs.as_secs_f64()
    }

    /// Processor microseconds of the programs for each of the amount.
    pub(crate) fn micros(&self) -> f64 {
        1e6 / self.per_cpu_second()
    }
}

/// User and system time of all threads of a process.
fn cpu(process: &str) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).context("processor time")?;
    // The second field is a name that may hold anything but ends with the last parenthesis.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().filter_map(|n| fields.get(*n)?.parse::<u64>().ok()).sum();
    // USER_HZ is 100 on every Linux.
    Ok(Duration::from_millis(ticks * 10))
}

/// The machine in one line.
pub(crate) fn machine() -> String {
    let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = file("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = file("/proc/sys/kernel/osrelease");
    let name = model.map_or("unknown processor", |(_, name)| name);
    format!("{cores} cores of {name}, Linux {}, load {}", kernel.trim(), load())
}

/// How busy the machine was in the last minute.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_seen_as_processor_time() {
        let meter = Meter::new([std::process::id()]);
        let before = meter.sample().unwrap();
        let end = Instant::now() + Duration::from_millis(200);
        let mut n = 0u64;
        while Instant::now() < end {
            n = std::hint::black_box(n + 1);
        }
        let cost = meter.since(&before, n).unwrap();
        assert!(cost.programs > Duration::ZERO && cost.programs <= cost.took * 8);
        assert_eq!(cost.programs, cost.load);
        assert!(cost.rate() > 0.0 && cost.per_cpu_second() > 0.0);
        assert!(meter.resident().unwrap() > 100_000);
    }
}
