//! Runs the rows of the table, a few at a time, and reports.
//!
//! Rows of the network alone come first, one after the other, and those that measure time; then the rows of the shared mesh
//! in their order, beside those that have a mesh of their own, and those that mostly wait beside all of them. The shared
//! mesh is started by the first row that wants it and thrown away when a row fails, so that one failure does not become
//! many.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::mesh::Mesh;
use crate::product::may_open_tun;
use crate::scenarios::{ALL, Run, Scenario};
use crate::topology::Lab;
use crate::{Error, Result, fail};

/// How many rows run at once: nearly all of their time is waiting.
const LANES: usize = 3;
/// The group of rows that take long.
const FULL: &str = "full/";

/// Refuses a filter that selects no row, which would look like success when misspelt, and rows with agents where
/// none could run, which would all fail for the same reason.
///
/// # Errors
/// Naming the first such filter, or what an agent lacks.
pub fn check(filters: &[String]) -> Result {
    if let Some(filter) = filters.iter().find(|filter| !ALL.iter().any(|row| chosen(row, filter))) {
        return fail(format!("no scenario's name contains {filter:?}; see: edgemesh-lab list"));
    }
    match ALL.iter().filter(|row| has_agents(row)).any(|row| wanted(row, filters)) {
        true => may_open_tun(),
        false => Ok(()),
    }
}

/// Runs every row whose name contains one of `filters` (all rows when there is none, but for those of the group
/// `full/`, which are asked for by its name); whether all passed.
pub fn test(directory: &Path, filters: &[String]) -> bool {
    let started = Instant::now();
    let report = Mutex::default();
    let rows = || ALL.iter().filter(|row| wanted(row, filters));
    // They look for what is left in the whole world, or at the clock, so nobody else may be in it.
    let quiet = rows().filter(|row| matches!(row.run, Run::Quiet(_)));
    for row in rows().filter(|row| is_alone(row)).chain(quiet) {
        told(&report, row, || run(row, directory));
    }
    let shared = rows().filter(|row| matches!(row.run, Run::Shared(_)));
    let others = rows().filter(|row| matches!(row.run, Run::Apart(_) | Run::Own(_) | Run::Prepared(_)));
    let others = Mutex::new(others);
    let lane = || {
        while let Some(row) = next(&others) {
            told(&report, row, || run(row, directory));
        }
    };
    thread::scope(|scope| {
        for row in rows().filter(|row| matches!(row.run, Run::Beside(_))) {
            let report = &report;
            scope.spawn(move || told(report, row, || run(row, directory)));
        }
        (1..LANES).for_each(|_| drop(scope.spawn(lane)));
        run_shared(shared, directory, &report);
        lane();
    });
    let Report { passed, failed } = report.into_inner().unwrap_or_else(PoisonError::into_inner);
    for name in &failed {
        println!("failed: {name}");
    }
    println!("{passed} passed, {} failed in {}", failed.len(), seconds(started.elapsed()));
    failed.is_empty()
}

/// What has run so far.
#[derive(Default)]
struct Report {
    passed: u32,
    failed: Vec<&'static str>,
}

fn is_alone(row: &Scenario) -> bool {
    matches!(row.run, Run::Alone(_) | Run::Bare(_))
}

fn has_agents(row: &Scenario) -> bool {
    !is_alone(row) && !matches!(row.run, Run::Apart(_) | Run::Beside(_))
}

fn next<'a>(rows: &Mutex<impl Iterator<Item = &'a Scenario>>) -> Option<&'a Scenario> {
    rows.lock().unwrap_or_else(PoisonError::into_inner).next()
}

/// Runs a row and reports it; whether it passed.
fn told(report: &Mutex<Report>, row: &Scenario, work: impl FnOnce() -> Result) -> bool {
    let began = Instant::now();
    let result = work();
    let took = seconds(began.elapsed());
    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
    match &result {
        Ok(()) => {
            report.passed = report.passed.saturating_add(1);
            println!("ok    {:<26} {} ({took})", row.name, row.shows);
        }
        Err(error) => {
            report.failed.push(row.name);
            println!("FAIL  {:<26} {} ({took})", row.name, row.shows);
            println!("      {}", error.to_string().replace('\n', "\n      "));
        }
    }
    result.is_ok()
}

/// The rows of the shared mesh, in their order: some begin what later ones end.
fn run_shared<'a>(rows: impl Iterator<Item = &'a Scenario>, directory: &Path, report: &Mutex<Report>) {
    let mut shared = None;
    for row in rows {
        let Run::Shared(function) = row.run else { continue };
        let passed = told(report, row, || {
            let mesh = match shared.take() {
                Some(mesh) => mesh,
                None => Mesh::start(directory)?,
            };
            with_logs(shared.insert(mesh), function)
        });
        if !passed {
            shared = None;
        }
    }
}

fn wanted(scenario: &Scenario, filters: &[String]) -> bool {
    let by_default = filters.is_empty() && !scenario.name.starts_with(FULL);
    by_default || filters.iter().any(|filter| chosen(scenario, filter))
}

fn chosen(scenario: &Scenario, filter: &str) -> bool {
    scenario.name.contains(filter) && (!scenario.name.starts_with(FULL) || filter.starts_with(FULL))
}

fn run(scenario: &Scenario, directory: &Path) -> Result {
    match scenario.run {
        Run::Alone(function) | Run::Apart(function) | Run::Beside(function) => function(directory),
        Run::Bare(function) => function(&Lab::build(directory)?),
        Run::Own(function) | Run::Quiet(function) | Run::Shared(function) => {
            with_logs(&mut Mesh::start(directory)?, function)
        }
        Run::Prepared(function) => with_logs(&mut Mesh::prepare(directory)?, function),
    }
}

/// Runs a scenario; a failure comes with the last lines of every log.
fn with_logs(mesh: &mut Mesh, function: fn(&mut Mesh) -> Result) -> Result {
    function(mesh).map_err(|error| Error::new(format!("{error}\n{}", mesh.logs())))
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_selects_nothing_is_named() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        check(&words(&["bare/"])).unwrap();
        let error = check(&words(&["bare/", "raech/"])).unwrap_err().to_string();
        assert!(error.contains("\"raech/\""), "{error}");
    }

    #[test]
    fn what_takes_long_is_run_only_when_its_group_is_named() {
        let rows = |filters: &[&str]| {
            let filters: Vec<String> = filters.iter().map(|word| (*word).to_owned()).collect();
            ALL.iter().filter(|row| wanted(row, &filters)).map(|row| row.name).collect::<Vec<_>>()
        };
        let long = rows(&["full/"]);
        assert!(!long.is_empty() && long.iter().all(|name| name.starts_with(FULL)));
        assert_eq!(rows(&[]).len(), ALL.len() - long.len());
        assert!(rows(&["idle"]).iter().all(|name| !name.starts_with(FULL)));
        assert_eq!(rows(&["full/c12"]), ["full/c12-idle"]);
    }
}
