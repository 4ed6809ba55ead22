//! Resident memory of the largest program of each tunnel with 10,000 TCP connections (or as many as the machine allows
//! descriptors for) and a stream that fills it; and how long an agent that was killed needs from its start until a
//! datagram through a Service is answered.

use super::{Field, Plan};
use crate::load::{self, Sources};
use crate::report::{Table, Wanted, millis, number, target};
use crate::stats::median;
use crate::world::{ECHO, HOLD, SINK, Way};
use edgemesh_lab::Result;
use rustix::process::{Resource, getrlimit};
use std::path::Path;
use std::thread;
use std::time::Duration;

const FLOWS: u64 = 10_000;
/// Descriptors for everything but both ends of these connections.
const OTHERS: u64 = 400;

/// Between the starts of an agent.
const BETWEEN: Duration = Duration::from_secs(3);

pub(super) fn run(plan: Plan, directory: &Path) -> Result {
    let mut field = Field::build(directory)?;
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let flows = FLOWS.min(descriptors.saturating_sub(OTHERS) / 2);
    let mut table = Table::new(&[&format!("{flows} TCP connections and a stream"), "resident MB"]);
    let mut ours = f64::NAN;
    for contender in field.contenders()?.into_iter().filter(|contender| !contender.is_bare()) {
        let near = &field.pair()?.near;
        let held: Vec<_> = (0..flows).map(|_| load::dial(near, contender.at(HOLD))).collect::<Result<_>>()?;
        let stream = Sources::start(near, contender.at(SINK), 1)?;
        thread::sleep(plan.span);
        let resident = contender.meter.resident()? as f64 / 1e6;
        drop((stream, held));
        field.held.release();
        field.sink.rest()?;
        table.row([contender.name.clone(), number(resident)]);
        if ours.is_nan() {
            ours = resident;
        }
    }
    table.print();
    target("resident memory", ours, Wanted::AtMost(15.0), " MB");

    let mut times = Vec::new();
    for _ in 0..plan.rounds {
        let target = field.world.product(Way::Direct)?.at(ECHO);
        // Not within 20 ms of the handshake before: the peer refuses that, as WireGuard does.
        thread::sleep(BETWEEN);
        let began = field.world.restart(Way::Direct)?;
        times.push(millis(load::first_answer(&field.pair()?.near, target, began)?));
    }
    target(
        "start of a killed agent to the first answer through a Service",
        median(times),
        Wanted::AtMost(50.0),
        " ms",
    );
    Ok(())
}
