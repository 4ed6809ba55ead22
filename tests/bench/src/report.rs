//! What is printed: Markdown tables, and each target with what was seen.

/// Rows under a heading.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these columns.
    pub(crate) fn new(columns: &[&str]) -> Self {
        let head = columns.iter().map(|column| (*column).to_owned()).collect();
        Self { rows: vec![head, columns.iter().map(|_| "---".to_owned()).collect()] }
    }

    /// One more row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Prints it.
    pub(crate) fn print(&self) {
        for row in &self.rows {
            println!("| {} |", row.join(" | "));
        }
        println!();
    }
}

/// Says what was wanted, what was seen, and whether that is as wanted.
pub(crate) fn target(what: &str, seen: f64, wanted: Wanted, unit: &str) {
    let (met, sign, bound) = match wanted {
        Wanted::AtLeast(bound) => (seen >= bound, ">=", bound),
        Wanted::AtMost(bound) => (seen <= bound, "<=", bound),
    };
    let verdict = if met { "met" } else { "missed" };
    println!("- {what}: {}{unit} ({sign} {}{unit}: {verdict})", number(seen), number(bound));
}

/// A bound.
#[derive(Clone, Copy)]
pub(crate) enum Wanted {
    /// More is better.
    AtLeast(f64),
    /// Less is better.
    AtMost(f64),
}

/// A number with as many digits as it deserves.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Milliseconds.
pub(crate) fn millis(span: std::time::Duration) -> f64 {
    span.as_secs_f64() * 1e3
}
