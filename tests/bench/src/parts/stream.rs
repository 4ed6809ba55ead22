//! One TCP stream through two agents on the direct path, beside other tunnels and no tunnel; and four streams.

use super::{Field, Plan, each};
use crate::load;
use crate::meter::Cost;
use crate::report::{Table, Wanted, number, target};
use crate::stats::{median, ratio};
use crate::world::{Contender, SINK, Way};
use edgemesh_lab::Result;
use std::path::Path;

pub(super) fn run(plan: Plan, directory: &Path) -> Result {
    let field = Field::build(directory)?;
    let near = &field.pair()?.near;
    let mut contenders = vec![(field.world.product(Way::Direct)?, 4)];
    contenders.extend(field.contenders()?.into_iter().map(|contender| (contender, 1)));
    let all = plan.turns(&contenders, |(contender, streams)| {
        load::bulk(near, contender.at(SINK), *streams, &field.sink, &contender.meter, plan.span)
    })?;
    print(&contenders, &all);
    let [four, ours, others @ ..] = all.as_slice() else { return Ok(()) };
    let against =
        |theirs: &[Cost], figure: fn(&Cost) -> f64| ratio(&each(ours, figure), &each(theirs, figure));
    for ((contender, _), theirs) in contenders.iter().skip(2).zip(others) {
        let (name, gbits) = (&contender.name, against(theirs, Cost::gbits));
        if name.starts_with("wireguard-go") {
            target(&format!("throughput to that of {name}"), gbits, Wanted::AtLeast(2.0), "x");
            let cpu = against(theirs, Cost::per_gigabyte);
            target(&format!("CPU s/GB to that of {name}"), cpu, Wanted::AtMost(0.5), "x");
        }
    }
    let four = ratio(&each(four, Cost::gbits), &each(ours, Cost::gbits));
    target("throughput of four streams to that of one", four, Wanted::AtLeast(1.0), "x");
    Ok(())
}

fn print(contenders: &[(Contender, usize)], all: &[Vec<Cost>]) {
    let mut table = Table::new(&[
        "TCP, near to far",
        "streams",
        "Gbit/s",
        "CPU s/GB of its programs",
        "CPU s/GB with both ends",
        "Gbit/s of each round",
    ]);
    for ((contender, streams), costs) in contenders.iter().zip(all) {
        let figure = |figure: fn(&Cost) -> f64| number(median(each(costs, figure)));
        let rounds: Vec<String> = each(costs, Cost::gbits).into_iter().map(number).collect();
        table.row([
            contender.name.clone(),
            streams.to_string(),
            figure(Cost::gbits),
            figure(Cost::per_gigabyte),
            figure(Cost::whole_per_gigabyte),
            rounds.join(" "),
        ]);
    }
    table.print();
}
