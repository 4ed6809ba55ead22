//! How long answers take: over an idle tunnel, beside a stream that fills it, and of 100 flows beside such a stream.

use super::{Field, Plan, Results, each, of_programs};
use crate::load::{self, Pings, Sources};
use crate::meter::Cost;
use crate::report::{Table, Wanted, millis, number, target};
use crate::stats::{median, percentile};
use crate::world::{Contender, ECHO, SINK};
use edgemesh_lab::Result;
use std::path::Path;
use std::time::Duration;

const PING_EVERY: Duration = Duration::from_millis(5);
const INTERACTIVE: usize = 100;

/// Of one contender in one round.
struct Delays {
    alone: Vec<Duration>,
    /// Of those answers.
    cost: Cost,
    beside: Pings,
    many: Vec<Duration>,
}

pub(super) fn run(plan: Plan, directory: &Path) -> Result {
    let field = Field::build(directory)?;
    let contenders = field.contenders()?;
    let results = Results::of(plan, &contenders, |contender| measure(&field, contender, plan.span))?;
    let mut table = Table::new(&[
        "delays in ms",
        "TCP answer, idle: p50",
        "p99",
        "CPU us",
        "UDP answer beside a stream: p50",
        "p99",
        "lost",
        "of 100 TCP flows beside a stream: p50",
        "p99",
    ]);
    for (contender, rounds) in results.iter() {
        let middle = |figure: fn(&Delays) -> f64| number(median(each(rounds, figure)));
        let lost: usize = rounds.iter().map(|round| round.beside.lost).sum();
        table.row([
            contender.name.clone(),
            middle(|d| p(&d.alone, 50.0)),
            middle(|d| p(&d.alone, 99.0)),
            of_programs(contender, rounds, |d| d.cost.micros()),
            middle(|d| p(&d.beside.times, 50.0)),
            middle(|d| p(&d.beside.times, 99.0)),
            lost.to_string(),
            middle(|d| p(&d.many, 50.0)),
            middle(|d| p(&d.many, 99.0)),
        ]);
    }
    table.print();
    if let Some(ratio) = results.against("boringtun", |d| p(&d.alone, 50.0)) {
        target("p50 of a TCP answer to that of boringtun", ratio, Wanted::AtMost(1.0), "x");
    }
    let beside = |percent| results.ours(|d| p(&d.beside.times, percent));
    target("UDP answer beside a stream, p50", beside(50.0), Wanted::AtMost(3.0), " ms");
    target("UDP answer beside a stream, p99", beside(99.0), Wanted::AtMost(3.0), " ms");
    let many = results.ours(|d| p(&d.many, 99.0));
    target("100 interactive flows beside a stream, p99", many, Wanted::AtMost(5.0), " ms");
    Ok(())
}

fn p(times: &[Duration], percent: f64) -> f64 {
    millis(percentile(times, percent))
}

fn measure(field: &Field, contender: &Contender, span: Duration) -> Result<Delays> {
    let near = &field.pair()?.near;
    let before = contender.meter.sample()?;
    let alone = load::round_trips(near, contender.at(ECHO), span / 2)?;
    let cost = contender.meter.since(&before, alone.len() as u64)?;
    let stream = Sources::start(near, contender.at(SINK), 1)?;
    let beside = load::pings(near, contender.at(ECHO), PING_EVERY, span)?;
    let many = load::interactive(near, contender.at(ECHO), INTERACTIVE, span)?;
    drop(stream);
    field.sink.rest()?;
    Ok(Delays { alone, cost, beside, many })
}
