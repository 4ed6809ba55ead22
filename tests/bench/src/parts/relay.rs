//! One TCP stream over the server, by UDP and by TCP, beside the direct path: three pairs of nodes on one server.

use super::{Plan, each};
use crate::load::{self, Sink};
use crate::meter::Cost;
use crate::report::{Table, Wanted, number, target};
use crate::stats::{median, ratio};
use crate::world::{ECHO, NAMES, SINK, Way, World};
use edgemesh_lab::Result;
use std::path::Path;

const WAYS: [Way; 3] = [Way::Direct, Way::Relay, Way::RelayTcp];

pub(super) fn run(plan: Plan, directory: &Path) -> Result {
    let sink = Sink::default();
    let world = World::build(directory, &WAYS, NAMES, |far| {
        sink.serve(far, SINK)?;
        load::serve_echo(far, ECHO)
    })?;
    let [direct, udp, tcp] = &plan.turns(&WAYS, |&way| {
        let (pair, product) = (world.pair(way)?, world.product(way)?);
        load::bulk(&pair.near, product.at(SINK), 1, &sink, &product.meter, plan.span)
    })?[..] else {
        return Ok(());
    };
    let mut table = Table::new(&["one TCP stream", "Gbit/s", "CPU s/GB, server included"]);
    for (way, costs) in WAYS.iter().zip([direct, udp, tcp]) {
        let figure = |figure: fn(&Cost) -> f64| number(median(each(costs, figure)));
        table.row([way.name().to_owned(), figure(Cost::gbits), figure(Cost::per_gigabyte)]);
    }
    table.print();
    let cpu = ratio(&each(udp, Cost::per_gigabyte), &each(direct, Cost::per_gigabyte));
    target("CPU s/GB over the relay to that of the direct path", cpu, Wanted::AtMost(1.6), "x");
    let throughput = ratio(&each(tcp, Cost::gbits), &each(udp, Cost::gbits));
    target(
        "throughput over the TCP fallback to that over the UDP relay",
        throughput,
        Wanted::AtLeast(0.5),
        "x",
    );
    Ok(())
}
