//! Comparing counts with those of before.
//!
//! The file of those is lines `name instructions`, for one call each; lines that begin with `#` are for people. Whatever is
//! counted must be in it and the other way round: a benchmark that vanishes would otherwise be a gate less, unseen.

use serde_json::Value;
use std::fmt::Write;

/// Calls that are counted together.
pub const CALLS: usize = 100;
/// How much more or less is let pass, in parts of the whole.
pub const TOLERANCE: f64 = 0.02;

/// A benchmark's name and its instructions for one call.
pub type Count = (String, f64);

/// The counts in the runner's summaries, one JSON value a line.
///
/// # Errors
/// What is not as expected, in words.
pub fn summaries(text: &str) -> Result<Vec<Count>, String> {
    text.lines().filter(|line| line.starts_with('{')).map(summary).collect()
}

fn summary(line: &str) -> Result<Count, String> {
    let summary: Value = serde_json::from_str(line).map_err(|error| format!("a summary: {error}"))?;
    let word = |key: &str| summary.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let name = format!("{}.{}", word("function_name"), word("id"));
    let counted = summary.get("profiles").and_then(|all| find(all, "total")).and_then(|all| find(all, "Ir"));
    let total = counted.and_then(number).ok_or_else(|| format!("{name}: no instructions in {line}"))?;
    Ok((name, total / CALLS as f64))
}

/// What is under `key`, wherever that is.
fn find<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    match value {
        Value::Object(fields) => fields.get(key).or_else(|| fields.values().find_map(|each| find(each, key))),
        Value::Array(all) => all.iter().find_map(|each| find(each, key)),
        _ => None,
    }
}

/// The first number.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::Object(fields) => fields.values().find_map(number),
        Value::Array(all) => all.iter().find_map(number),
        _ => None,
    }
}

/// The counts in the file of before.
///
/// # Errors
/// The line that is no count.
pub fn parse(text: &str) -> Result<Vec<Count>, String> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, count) = line.split_once(' ').ok_or_else(|| format!("no count: {line}"))?;
            Ok((name.to_owned(), count.trim().parse().map_err(|_| format!("no count: {line}"))?))
        })
        .collect()
}

/// The same as text.
pub fn format(counts: &[Count]) -> String {
    let mut text = String::new();
    for (name, count) in counts {
        let _ = writeln!(text, "{name} {count:.1}");
    }
    text
}

/// A line for each count, and whether all are within the tolerance.
pub fn compare(before: &[Count], now: &[Count]) -> (String, bool) {
    let (mut text, mut good) = (String::new(), true);
    for (name, count) in now {
        let known = before.iter().find(|(known, _)| known == name);
        let (change, verdict) = match known {
            Some((_, before)) => {
                let change = count / before - 1.0;
                (format!("{:+.2} %", change * 100.0), change.abs() <= TOLERANCE)
            }
            None => ("not known before".to_owned(), false),
        };
        good &= verdict;
        let mark = if verdict { "" } else { "  <-- beyond the tolerance" };
        let _ = writeln!(text, "{name:<28} {count:>10.1} {change:>10}{mark}");
    }
    for (name, _) in before.iter().filter(|(name, _)| !now.iter().any(|(counted, _)| counted == name)) {
        good = false;
        let _ = writeln!(text, "{name:<28} is not counted any more");
    }
    (text, good)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(all: &[(&str, f64)]) -> Vec<Count> {
        all.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn two_percent_either_way_pass_and_no_more() {
        let before = counts(&[("a", 1_000.0), ("b", 50.0)]);
        for (a, good) in [(1_000.0, true), (1_019.9, true), (980.1, true), (1_020.1, false), (979.9, false)] {
            assert_eq!(compare(&before, &counts(&[("b", 50.0), ("a", a)])).1, good, "{a}");
        }
    }

    #[test]
    fn nothing_comes_or_goes_unseen() {
        let (one, two) = (counts(&[("a", 1.0)]), counts(&[("a", 1.0), ("b", 1.0)]));
        assert!(!compare(&one, &two).1 && !compare(&two, &one).1);
        assert!(compare(&two, &two).1);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let all = counts(&[("seal.of_1408_bytes", 2_345.6), ("path.lookup", 41.0)]);
        assert_eq!(parse(&format!("# for people\n\n{}", format(&all))), Ok(all));
        assert!(parse("a b").is_err() && parse("a").is_err());
    }
}
