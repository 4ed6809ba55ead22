//! Seeds: where a simulation's chance comes from, and how a failing one is run again.
//!
//! A test wraps its body in [`for_each_seed`]. When a seed fails, the last line printed is the one command that
//! replays it. `SEED=7` (or `SEED=7,9`) in the environment runs these seeds only; `SEEDS=500` runs that many. Seeds
//! run on all processors; each is a world of its own, so the course of one does not depend on the others.

use edgemesh_core::rng::Rng;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::thread;

/// A generator for one part of a simulation: equal `(seed, part)` draw equal sequences, different parts
/// independent ones, so that a change in one part does not shift the chance of another.
pub fn rng(seed: u64, part: u64) -> Rng {
    let mut bytes = [0x5e; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&part.to_le_bytes());
    Rng::new(bytes)
}

/// Runs `test` with seeds `0..count`, or with those of the environment.
///
/// # Panics
/// With the test's own panic, after saying how to replay it; and when `SEED` or `SEEDS` holds no number.
pub fn for_each_seed(count: u64, test: impl Fn(u64) + Sync) {
    let chosen = std::env::var("SEED").ok().filter(|list| !list.is_empty());
    let count = std::env::var("SEEDS").ok().filter(|n| !n.is_empty()).map_or(count, |n| number("SEEDS", &n));
    run(&seeds(chosen.as_deref(), count), &test_name(), test);
}

fn seeds(chosen: Option<&str>, count: u64) -> Vec<u64> {
    match chosen {
        Some(list) => list.split(',').map(|one| number("SEED", one)).collect(),
        None => (0..count).collect(),
    }
}

fn number(variable: &str, text: &str) -> u64 {
    text.trim().parse().unwrap_or_else(|_| panic!("{variable}: '{text}' is not a number"))
}

/// The running test's name; libtest names the thread after it, except when it runs all tests in the main one.
fn test_name() -> String {
    std::thread::current().name().filter(|name| *name != "main").unwrap_or_default().to_owned()
}

/// Every processor takes the next seed until none is left or one has failed; of those that fail the lowest is told.
fn run(seeds: &[u64], name: &str, test: impl Fn(u64) + Sync) {
    let (next, failed) = (Mutex::new(seeds.iter()), Mutex::new(None));
    let work = || {
        while let Some(seed) = next.lock().ok().and_then(|mut next| next.next().copied()) {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(seed))) {
                next.lock().into_iter().for_each(|mut next| *next = [].iter());
                let Ok(mut failed) = failed.lock() else { return };
                if failed.as_ref().is_none_or(|(lowest, _)| seed < *lowest) {
                    *failed = Some((seed, panic));
                }
            }
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from).min(seeds.len());
    thread::scope(|scope| {
        for _ in 1..workers {
            // The name is what a panic is reported under.
            let worker = thread::Builder::new().name(name.to_owned());
            let _ = worker.spawn_scoped(scope, work);
        }
        work();
    });
    if let Ok(Some((seed, panic))) = failed.into_inner() {
        eprintln!("{}", replay_command(seed, name));
        resume_unwind(panic);
    }
}

fn replay_command(seed: u64, name: &str) -> String {
    let filter = if name.is_empty() { String::new() } else { format!(" TEST={name}") };
    format!("seed {seed} failed; replay it with: make sim SEED={seed}{filter}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Says that its scope was left.
    struct Tells<'a>(&'a AtomicBool);

    impl Drop for Tells<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn parts_of_a_simulation_draw_independently_and_repeatably() {
        assert_eq!(rng(7, 1).u64(), rng(7, 1).u64());
        assert_ne!(rng(7, 1).u64(), rng(7, 2).u64());
        assert_ne!(rng(7, 1).u64(), rng(8, 1).u64());
    }

    #[test]
    fn chosen_seeds_replace_the_count() {
        assert_eq!(seeds(None, 3), [0, 1, 2]);
        assert_eq!(seeds(Some("9, 4"), 3), [9, 4]);
    }

    #[test]
    fn a_failing_seed_ends_the_run_and_says_how_to_replay_it() {
        let (seen, over) = (Mutex::new(Vec::new()), AtomicBool::new(false));
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            run(&Vec::from_iter(0..1_000_000), "module::test", |seed| {
                seen.lock().unwrap().push(seed);
                if seed == 5 {
                    let _tells = Tells(&over);
                    panic!("as it should");
                }
                // Nobody is far ahead when that one has failed, however long its report takes.
                while seed > 10 && !over.load(Ordering::Relaxed) {
                    thread::yield_now();
                }
            });
        }));
        assert!(outcome.is_err());
        assert!((6..1_000_000).contains(&seen.lock().unwrap().len()), "the others do not go on for long");
        let command = replay_command(5, "module::test");
        assert_eq!(command, "seed 5 failed; replay it with: make sim SEED=5 TEST=module::test");
    }

    #[test]
    fn every_seed_is_run_once() {
        let seen = Mutex::new(Vec::new());
        run(&Vec::from_iter(0..100), "", |seed| seen.lock().unwrap().push(seed));
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        assert_eq!(seen, Vec::from_iter(0..100));
    }
}
