//! The replay window of one receiving key (RFC 6479): counters older than the window count as seen.
//!
//! The window's memory is `words` of 64 bits, one of which is always being refilled: it covers
//! `(words - 1) * 64` counters below the greatest one seen. All-zero words with `seen` 0 are an unused window.

use super::REJECT_AFTER_MESSAGES;

/// Whether `counter` is new. `seen` is the greatest counter accepted so far plus one.
pub(super) fn is_new(words: &[u64], seen: u64, counter: u64) -> bool {
    let Some((place, bit)) = locate(words, seen, counter) else { return false };
    counter >= seen || words.get(place).is_some_and(|word| word & bit == 0)
}

/// Marks `counter` as seen; false when it was already, or is too old to tell, and nothing is changed.
#[must_use]
pub(super) fn accept(words: &mut [u64], seen: &mut u64, counter: u64) -> bool {
    let Some((place, bit)) = locate(words, *seen, counter) else { return false };
    let number = counter.saturating_add(1);
    if number > *seen {
        let from = *seen >> 6;
        let fresh = (number >> 6).saturating_sub(from).min(words.len() as u64);
        for step in 1..=fresh {
            if let Some(word) = slot(words, from.saturating_add(step)).and_then(|at| words.get_mut(at)) {
                *word = 0;
            }
        }
        *seen = number;
    }
    match words.get_mut(place) {
        Some(word) if *word & bit == 0 => {
            *word |= bit;
            true
        }
        _ => false,
    }
}

/// Word and bit of `counter`, or `None` when it can never be accepted.
fn locate(words: &[u64], seen: u64, counter: u64) -> Option<(usize, u64)> {
    if counter >= REJECT_AFTER_MESSAGES {
        return None;
    }
    let number = counter.checked_add(1)?;
    let window = (words.len() as u64).checked_sub(1)?.checked_mul(64)?;
    if number.saturating_add(window) < seen {
        return None;
    }
    Some((slot(words, number >> 6)?, 1 << (number & 63)))
}

fn slot(words: &[u64], block: u64) -> Option<usize> {
    block.checked_rem(words.len() as u64).map(|at| at as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::vec;
    use std::vec::Vec;

    struct Window(Vec<u64>, u64);

    /// Counters that are all new, then some with the expected verdict.
    type Run<'r> = (Vec<u64>, &'r [(u64, bool)]);

    impl Window {
        fn new(words: usize) -> Self {
            Self(vec![0; words], 0)
        }
        fn expect(&mut self, counter: u64, new: bool) {
            assert_eq!(is_new(&self.0, self.1, counter), new, "peek at {counter}");
            assert_eq!(accept(&mut self.0, &mut self.1, counter), new, "accept {counter}");
        }
    }

    /// The cases of the kernel's `selftest/counter.c`, for the windows of Linux, the microcontroller and two
    /// odd ones.
    #[test]
    fn passes_the_kernel_cases() {
        for words in [128, 17, 16, 3] {
            let size = (words as u64 - 1) * 64;
            let limit = size + 1;
            let reject = REJECT_AFTER_MESSAGES;
            let mut w = Window::new(words);
            let script = [
                (0, true),
                (1, true),
                (1, false),
                (9, true),
                (8, true),
                (7, true),
                (7, false),
                (limit, true),
                (limit - 1, true),
                (limit - 1, false),
                (limit - 2, true),
                (2, true),
                (2, false),
                (limit + 16, true),
                (3, false),
                (limit + 16, false),
                (limit * 4, true),
                (limit * 4 - (limit - 1), true),
                (10, false),
                (limit * 4 - limit, false),
                (limit * 4 - (limit + 1), false),
                (limit * 4 - (limit - 2), true),
                (limit * 4 + 1 - limit, false),
                (0, false),
                (reject, false),
                (reject - 1, true),
                (reject, false),
                (reject - 1, false),
                (reject - 2, true),
                (reject + 1, false),
                (reject + 2, false),
                (reject - 2, false),
                (reject - 3, true),
                (0, false),
            ];
            for (counter, new) in script {
                w.expect(counter, new);
            }
            let runs: [Run<'_>; 6] = [
                ((1..=size).collect(), &[(0, true), (0, false)]),
                ((2..=size + 1).collect(), &[(1, true), (0, false)]),
                ((0..=size).rev().collect(), &[]),
                ((1..=size + 1).rev().collect(), &[(0, false)]),
                ((1..=size).rev().collect(), &[(size + 1, true), (0, false)]),
                ((1..=size).rev().collect(), &[(0, true), (size + 1, true)]),
            ];
            for (ascent, then) in runs {
                let mut w = Window::new(words);
                ascent.iter().for_each(|&counter| w.expect(counter, true));
                then.iter().for_each(|&(counter, new)| w.expect(counter, new));
            }
        }
    }

    #[test]
    fn a_window_without_memory_accepts_nothing() {
        assert!(!accept(&mut [], &mut 0, 0));
        assert!(!is_new(&[], 0, 0));
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(
            words in 2usize..6,
            steps in proptest::collection::vec((0u64..3, 0u64..400), 1..200),
        ) {
            let mut w = Window::new(words);
            let mut set = BTreeSet::new();
            let mut at = 0u64;
            for (kind, n) in steps {
                at = match kind { 0 => at.saturating_sub(n), 1 => at + n % 4, _ => at + n };
                let greatest = set.last().copied().unwrap_or(0);
                let new = !set.contains(&at) && at + (words as u64 - 1) * 64 >= greatest;
                prop_assert_eq!(is_new(&w.0, w.1, at), new);
                prop_assert_eq!(accept(&mut w.0, &mut w.1, at), new);
                if new {
                    set.insert(at);
                }
            }
        }
    }
}
