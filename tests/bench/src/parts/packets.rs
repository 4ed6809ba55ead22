//! Small datagrams: how many arrive per processor second of the programs when one thread sends all it can.

use super::{Field, Plan, Results, each};
use crate::load;
use crate::meter::Cost;
use crate::report::{Table, Wanted, number, target};
use crate::stats::median;
use crate::world::SINK;
use edgemesh_lab::Result;
use std::path::Path;

pub(super) fn run(plan: Plan, directory: &Path) -> Result {
    let field = Field::build(directory)?;
    let near = &field.pair()?.near;
    let contenders = field.contenders()?;
    let results = Results::of(plan, &contenders, |contender| {
        load::flood(near, contender.at(SINK), &field.sink, &contender.meter, plan.span)
    })?;
    let mut table =
        Table::new(&["64-byte datagrams", "arrived per second", "arrived per CPU second of its programs"]);
    for (contender, costs) in results.iter() {
        let per_cpu = match contender.is_bare() {
            true => "-".to_owned(),
            false => number(median(each(costs, Cost::per_cpu_second))),
        };
        table.row([contender.name.clone(), number(median(each(costs, Cost::rate))), per_cpu]);
    }
    table.print();
    if let Some(ratio) = results.against("boringtun", Cost::per_cpu_second) {
        target("datagrams per CPU second to those of boringtun", ratio, Wanted::AtLeast(1.5), "x");
    }
    Ok(())
}
