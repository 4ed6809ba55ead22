//! New TCP connections: 32 clients, each connects, reads one byte and the server's end, and begins again.

use super::{Field, Plan, Results};
use crate::load;
use crate::report::{Table, Wanted, millis, number, target};
use crate::stats::{median, percentile};
use crate::world::ONCE;
use edgemesh_lab::Result;
use std::path::Path;
use std::time::Duration;

const CLIENTS: usize = 32;

pub(super) fn run(plan: Plan, directory: &Path) -> Result {
    let field = Field::build(directory)?;
    let near = &field.pair()?.near;
    let contenders = field.contenders()?;
    let results = Results::of(plan, &contenders, |contender| {
        load::new_connections(near, contender.at(ONCE), CLIENTS, plan.span)
    })?;
    let rate = |times: &Vec<Duration>| times.len() as f64 / plan.span.as_secs_f64();
    let p99 = |times: &Vec<Duration>| millis(percentile(times, 99.0));
    let mut table = Table::new(&["TCP connections, 32 clients", "per second", "p50 ms", "p99 ms"]);
    for (contender, rounds) in results.iter() {
        table.row([
            contender.name.clone(),
            number(median(rounds.iter().map(rate))),
            number(median(rounds.iter().map(|times| millis(percentile(times, 50.0))))),
            number(median(rounds.iter().map(p99))),
        ]);
    }
    table.print();
    target("new connections a second", results.ours(rate), Wanted::AtLeast(11_800.0), "");
    if let Some(ratio) = results.against("no tunnel", p99) {
        target("p99 of a connection to that without a tunnel", ratio, Wanted::AtMost(2.0), "x");
    }
    Ok(())
}
