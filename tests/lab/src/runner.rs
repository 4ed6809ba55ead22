//! Runs the rows of the table one after the other and reports.
//!
//! A shared mesh is started by the first row that wants one and thrown away when a row fails, so that one failure
//! does not become many.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::mesh::Mesh;
use crate::product::may_open_tun;
use crate::scenarios::{ALL, Run, Scenario};
use crate::topology::Lab;
use crate::{Error, Result, fail};

/// Refuses a filter that selects no row, which would look like success when misspelt, and rows with agents where
/// none could run, which would all fail for the same reason.
///
/// # Errors
/// Naming the first such filter, or what an agent lacks.
pub fn check(filters: &[String]) -> Result {
    if let Some(filter) =
        filters.iter().find(|filter| !ALL.iter().any(|row| row.name.contains(filter.as_str())))
    {
        return fail(format!("no scenario's name contains {filter:?}; see: edgemesh-lab list"));
    }
    let with_agents = |row: &&Scenario| !matches!(row.run, Run::Alone(_) | Run::Bare(_));
    match ALL.iter().filter(with_agents).any(|row| wanted(row, filters)) {
        true => may_open_tun(),
        false => Ok(()),
    }
}

/// Runs every row whose name contains one of `filters` (all rows when there is none); whether all passed.
pub fn test(directory: &Path, filters: &[String]) -> bool {
    let (mut passed, mut failed) = (0_u32, Vec::new());
    let mut shared = None;
    let started = Instant::now();
    for scenario in ALL.iter().filter(|row| wanted(row, filters)) {
        let began = Instant::now();
        match run(scenario, directory, &mut shared) {
            Ok(()) => {
                passed = passed.saturating_add(1);
                println!("ok    {:<26} {} ({})", scenario.name, scenario.shows, seconds(began.elapsed()));
            }
            Err(error) => {
                failed.push(scenario.name);
                println!("FAIL  {:<26} {} ({})", scenario.name, scenario.shows, seconds(began.elapsed()));
                println!("      {}", error.to_string().replace('\n', "\n      "));
                shared = None;
            }
        }
    }
    drop(shared);
    for name in &failed {
        println!("failed: {name}");
    }
    println!("{passed} passed, {} failed in {}", failed.len(), seconds(started.elapsed()));
    failed.is_empty()
}

fn wanted(scenario: &Scenario, filters: &[String]) -> bool {
    filters.is_empty() || filters.iter().any(|filter| scenario.name.contains(filter.as_str()))
}

fn run(scenario: &Scenario, directory: &Path, shared: &mut Option<Mesh>) -> Result {
    match scenario.run {
        Run::Alone(function) => function(directory),
        Run::Bare(function) => function(&Lab::build(directory)?),
        Run::Own(function) => told(&mut Mesh::start(directory)?, function),
        Run::Prepared(function) => told(&mut Mesh::prepare(directory)?, function),
        Run::Shared(function) => {
            if shared.is_none() {
                *shared = Some(Mesh::start(directory)?);
            }
            shared.as_mut().map_or(Ok(()), |mesh| told(mesh, function))
        }
    }
}

/// Runs a scenario; a failure comes with the last lines of every log.
fn told(mesh: &mut Mesh, function: fn(&mut Mesh) -> Result) -> Result {
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
}
