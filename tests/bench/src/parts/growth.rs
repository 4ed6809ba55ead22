//! What a packet costs the engine with ever more peers, flows and Services: in process, without kernel and devices.
//!
//! Each size has an engine of its own, with tables of the agent's sizes, and all of them are measured in turns. Flows and
//! names come in an order that is random but the same for all rounds; each is used once before it is measured, so that
//! caches hold what they hold on a node that goes on like this, not what the turn before left. The table and
//! `docs/growth.svg` are about nanoseconds, which caches have a part in; how many instructions it is, `make counts-growth`
//! tells.

use super::Plan;
use crate::plot::{self, Line, Panel};
use crate::report::{Table, Wanted, number, target};
use crate::stats::{median, ratio};
use edgemesh_counts::{Field, Size};
use edgemesh_lab::{Context, Result};
use rustix::time::{ClockId, clock_gettime};
use std::fs;
use std::path::Path;

/// Packets that are sent in one measurement, and names that are asked for: every flow has its turn.
const SENT: usize = 100_000;
/// Packets of one measurement that are taken in, once every flow had its turn.
const RECEIVED: usize = 20_000;
/// Of these, how many a kernel hands over at once: they are in the cache when they are taken in.
const BURST: usize = 40;

/// Sizes that differ in one thing.
struct Axis {
    name: &'static str,
    sizes: &'static [Size],
    value: fn(&Size) -> u32,
}

const AXES: [Axis; 3] = [
    Axis {
        name: "peers",
        sizes: &[
            size(1, 10_000, 1_000),
            size(10, 10_000, 1_000),
            size(100, 10_000, 1_000),
            size(1_000, 10_000, 1_000),
        ],
        value: |size| size.peers,
    },
    Axis {
        name: "flows",
        sizes: &[size(10, 100, 100), size(10, 10_000, 100), size(10, 100_000, 100)],
        value: |size| size.flows,
    },
    Axis {
        name: "Services",
        sizes: &[size(10, 10_000, 100), size(10, 10_000, 10_000)],
        value: |size| size.services,
    },
];

const fn size(peers: u32, flows: u32, services: u32) -> Size {
    Size { peers, flows, services }
}

/// What is measured, and how many nanoseconds each took in each round.
const COSTS: [&str; 5] =
    ["sent, sealed", "received, opened", "sent, without cipher", "received, without cipher", "name answered"];

type Costs = [f64; COSTS.len()];

pub(super) fn run(plan: Plan, _: &Path) -> Result {
    let mut fields: Vec<Vec<(Field, usize)>> =
        AXES.iter().map(|axis| axis.sizes.iter().map(|size| (Field::new(*size), 0)).collect()).collect();
    let mut rounds: Vec<Vec<Vec<Costs>>> =
        fields.iter().map(|axis| axis.iter().map(|_| Vec::new()).collect()).collect();
    for _ in 0..plan.rounds {
        for (axis, results) in fields.iter_mut().zip(&mut rounds) {
            for ((field, next), results) in axis.iter_mut().zip(results) {
                results.push(measure(field, next));
            }
        }
    }
    print(&rounds);
    targets(&rounds);
    // From a copy of the project it belongs to the documentation.
    let place = if Path::new("docs").is_dir() { "docs/growth.svg" } else { "growth.svg" };
    fs::write(place, plot::draw("Nanoseconds for a packet of 1,408 bytes", &panels(&rounds)))
        .context(place)?;
    println!("\ndrawn in {place}");
    Ok(())
}

/// One turn. `next` is the first flow that was not used in the turn before.
fn measure(field: &mut Field, next: &mut usize) -> Costs {
    let from = *next;
    *next += SENT;
    let [_, sealed] = [(); 2].map(|()| timed(SENT, |n| field.send(from + n)));
    let [_, plain] = [(); 2].map(|()| timed(SENT, |n| _ = field.outbound(from + n)));
    let datagrams = field.sealed(from, SENT + RECEIVED);
    let opened = in_bursts(field, &datagrams, |field, datagram| field.receive(datagram));
    let arrivals = field.arrivals(from, SENT + RECEIVED);
    let taken = in_bursts(field, &arrivals, |field, arrival| field.inbound(arrival));
    let [_, answered] = [(); 2].map(|()| timed(SENT, |n| field.query(from + n)));
    [sealed, opened, plain, taken, answered]
}

/// Nanoseconds of taking in one of the last packets. Their peers have made all of them before, as other machines do, and
/// they are copied a burst at a time to where they are taken from, as a kernel does.
fn in_bursts<T: Clone>(field: &mut Field, made: &[T], take: fn(&mut Field, &mut T)) -> f64 {
    let mut each = made.chunks_exact(BURST).map(|burst| {
        let mut here = burst.to_vec();
        timed(BURST, |n| take(field, &mut here[n]))
    });
    each.by_ref().take(SENT / BURST).for_each(drop);
    each.sum::<f64>() / (RECEIVED / BURST) as f64
}

/// Nanoseconds of one call, of this thread's own time: what others do meanwhile counts only by what it does to caches.
fn timed(calls: usize, mut call: impl FnMut(usize)) -> f64 {
    let own = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
    };
    let began = own();
    (0..calls).for_each(&mut call);
    (own() - began) / calls as f64
}

fn middle(rounds: &[Costs], cost: usize) -> f64 {
    median(rounds.iter().map(|costs| costs[cost]))
}

fn print(rounds: &[Vec<Vec<Costs>>]) {
    let columns: Vec<&str> = ["peers", "flows", "Services"].into_iter().chain(COSTS).collect();
    let mut table = Table::new(&columns);
    for (axis, results) in AXES.iter().zip(rounds) {
        for (size, rounds) in axis.sizes.iter().zip(results) {
            let sizes = [size.peers, size.flows, size.services].map(|n| n.to_string());
            let costs = (0..COSTS.len()).map(|cost| number(middle(rounds, cost)));
            table.row(sizes.into_iter().chain(costs));
        }
    }
    table.print();
}

fn targets(rounds: &[Vec<Vec<Costs>>]) {
    for (axis, results) in AXES.iter().zip(rounds) {
        let (Some(first), Some(last)) = (results.first(), results.last()) else { continue };
        for (cost, name) in COSTS.iter().enumerate() {
            let of = |rounds: &[Costs]| rounds.iter().map(|costs| costs[cost]).collect::<Vec<_>>();
            let what = format!("{name}, most {} to fewest", axis.name);
            target(&what, ratio(&of(last), &of(first)), Wanted::AtMost(1.2), "x");
        }
    }
}

fn panels(rounds: &[Vec<Vec<Costs>>]) -> Vec<Panel> {
    let line = |axis: &Axis, results: &[Vec<Costs>], cost: usize| Line {
        name: COSTS[cost],
        points: axis
            .sizes
            .iter()
            .zip(results)
            .map(|(size, rounds)| (f64::from((axis.value)(size)), middle(rounds, cost)))
            .collect(),
    };
    AXES.iter()
        .zip(rounds)
        .map(|(axis, results)| Panel {
            name: axis.name,
            lines: (0..COSTS.len()).map(|cost| line(axis, results, cost)).collect(),
        })
        .collect()
}
