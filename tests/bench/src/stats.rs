//! Medians and percentiles.

use std::time::Duration;

/// The middle of the values; of an even number, the mean of both middle ones. Without values it is not a number.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = values.into_iter().collect();
    all.sort_by(f64::total_cmp);
    let middle = all.len() / 2;
    match (all.len() % 2, all.get(middle), all.get(middle.wrapping_sub(1))) {
        (1, Some(one), _) => *one,
        (0, Some(one), Some(other)) => (one + other) / 2.0,
        _ => f64::NAN,
    }
}

/// The median of each round's own ratio.
pub(crate) fn ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    median(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs))
}

/// The value that `percent` of all do not exceed; zero without values.
pub(crate) fn percentile(all: &[Duration], percent: f64) -> Duration {
    let mut all = all.to_vec();
    all.sort_unstable();
    let at = (all.len() as f64 * percent / 100.0).ceil() as usize;
    all.get(at.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_and_not_moved_by_outliers() {
        assert_eq!(median([9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([1.0, 1000.0, 2.0, 4.0]), 3.0);
        assert!(median([]).is_nan());
        assert_eq!(ratio(&[2.0, 30.0, 6.0], &[1.0, 10.0, 2.0]), 3.0);
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let all: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&all, 50.0), Duration::from_millis(100));
        assert_eq!(percentile(&all, 99.0), Duration::from_millis(198));
        assert_eq!(percentile(&all, 100.0), Duration::from_millis(200));
        assert_eq!(percentile(&[], 99.0), Duration::ZERO);
    }
}
