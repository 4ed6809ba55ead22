//! Prometheus text exposition, written on demand from counters that live elsewhere.
//!
//! There is no registry and no background work: a scrape asks the owner of the numbers, who writes families
//! into a [`Text`]. Names get the prefix `edgemesh_` here, so none can lack it.

use std::fmt::{Display, Write};

/// Content type of the exposition format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family's values mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One scrape's answer.
#[derive(Default, Debug)]
pub struct Text {
    out: String,
}

/// A family that takes samples.
pub struct Family<'a> {
    out: &'a mut String,
    name: &'a str,
}

impl Text {
    /// Empty.
    pub const fn new() -> Self {
        Self { out: String::new() }
    }

    /// Begins the family `edgemesh_{name}`.
    pub fn family<'a>(&'a mut self, name: &'a str, kind: Kind, help: &str) -> Family<'a> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        self.begin(name, kind, help)
    }

    /// Begins the histogram `edgemesh_{name}`, which is made of parts.
    pub fn histogram<'a>(&'a mut self, name: &'a str, help: &str) -> Family<'a> {
        self.begin(name, "histogram", help)
    }

    fn begin<'a>(&'a mut self, name: &'a str, kind: &str, help: &str) -> Family<'a> {
        let _ = writeln!(self.out, "# HELP edgemesh_{name} {help}\n# TYPE edgemesh_{name} {kind}");
        Family { out: &mut self.out, name }
    }

    /// A gauge without labels.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, Kind::Gauge, help).sample(&[], value);
    }

    /// A counter without labels.
    pub fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, Kind::Counter, help).sample(&[], value);
    }

    /// Resident memory of this process, its age and its version: what every process tells.
    pub fn process(&mut self, version: &str) {
        self.family("build_info", Kind::Gauge, "Version of the running program.")
            .sample(&[("version", version)], 1);
        if let Some(bytes) = resident_bytes() {
            self.gauge("process_resident_memory_bytes", "Resident memory in bytes.", bytes);
        }
    }

    /// The finished text.
    pub fn finish(self) -> String {
        self.out
    }
}

impl Family<'_> {
    /// One value under these labels.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        self.part("", labels, value)
    }

    /// One value of the part with this ending, under these labels.
    pub fn part(&mut self, ending: &str, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        let _ = write!(self.out, "edgemesh_{}{ending}", self.name);
        for (n, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.out, "{}{label}=\"", if n == 0 { "{" } else { "," });
            for c in text.chars() {
                match c {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    other => self.out.push(other),
                }
            }
            self.out.push('"');
        }
        let _ = writeln!(self.out, "{} {value}", if labels.is_empty() { "" } else { "}" });
        self
    }
}

/// Resident set size of this process, where /proc tells it.
pub fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    pages.checked_mul(u64::try_from(rustix::param::page_size()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_and_labels_are_written_as_prometheus_reads_them() {
        let mut text = Text::new();
        text.family("drops_total", Kind::Counter, "Dropped.")
            .sample(&[("reason", "no \"route\"\\\n"), ("dir", "in")], 3)
            .sample(&[], 4);
        text.gauge("peers", "Peers.", 0.5);
        assert_eq!(
            text.finish(),
            "# HELP edgemesh_drops_total Dropped.\n# TYPE edgemesh_drops_total counter\n\
             edgemesh_drops_total{reason=\"no \\\"route\\\"\\\\\\n\",dir=\"in\"} 3\nedgemesh_drops_total 4\n\
             # HELP edgemesh_peers Peers.\n# TYPE edgemesh_peers gauge\nedgemesh_peers 0.5\n"
        );
        assert!(resident_bytes().unwrap() > 100_000);
    }
}
