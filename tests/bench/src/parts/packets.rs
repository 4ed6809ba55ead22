//! Small datagrams: how many arrive per processor second of the programs when one thread sends all it can, of one flow
//! beside other tunnels, and through the agents of ever more flows.

use super::{Field, Plan, Results, each, of_programs};
use crate::load;
use crate::meter::Cost;
use crate::report::{Table, Wanted, number, target};
use crate::stats::{median, ratio};
use crate::world::{Contender, SINK};
use edgemesh_lab::Result;
use std::path::Path;

/// Flows at once. An agent keeps 65,536, three quarters of them for one source.
const FLOWS: [u16; 3] = [100, 10_000, 40_000];

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
        let per_cpu = of_programs(contender, costs, Cost::per_cpu_second);
        table.row([contender.name.clone(), number(median(each(costs, Cost::rate))), per_cpu]);
    }
    table.print();
    if let Some(ratio) = results.against("boringtun", Cost::per_cpu_second) {
        target("datagrams per CPU second to those of boringtun", ratio, Wanted::AtLeast(1.5), "x");
    }
    println!();
    many_flows(plan, &field, &contenders)
}

/// What more flows cost the agents, and what of that is the kernel's, which tracks them, too.
fn many_flows(plan: Plan, field: &Field, contenders: &[Contender]) -> Result {
    let near = &field.pair()?.near;
    let compared = contenders
        .iter()
        .filter(|one| ["EdgeMesh", "forwarding"].iter().any(|name| one.name.starts_with(name)));
    let turns: Vec<(&Contender, u16)> =
        compared.flat_map(|contender| FLOWS.map(|flows| (contender, flows))).collect();
    let costs = plan.turns(&turns, |(contender, flows)| {
        load::flood_flows(near, (contender.target, SINK), *flows, &field.sink, &contender.meter, plan.span)
    })?;
    let micros = |costs: &[Cost]| each(costs, Cost::micros);
    let mut table = Table::new(&[
        "64-byte datagrams",
        "flows in turn",
        "arrived per second",
        "CPU us each",
        "to the fewest",
    ]);
    let mut growths = Vec::new();
    for (turns, costs) in turns.chunks(FLOWS.len()).zip(costs.chunks(FLOWS.len())) {
        for ((contender, flows), seen) in turns.iter().zip(costs) {
            let growth = costs.first().map_or(f64::NAN, |fewest| ratio(&micros(seen), &micros(fewest)));
            let figures = [median(each(seen, Cost::rate)), median(micros(seen)), growth];
            table.row([contender.name.clone(), flows.to_string()].into_iter().chain(figures.map(number)));
            growths.push(growth);
        }
    }
    table.print();
    if let Some(growth) = growths.get(FLOWS.len() - 1) {
        target("CPU time of a datagram, most flows to fewest", *growth, Wanted::AtMost(1.2), "x");
    }
    Ok(())
}
