//! The parts of the benchmark: each builds its own world, measures and prints.

mod connections;
mod delay;
mod dns;
mod growth;
mod memory;
mod packets;
mod relay;
mod stream;

use crate::forwarder;
use crate::load::{self, Held, Sink};
use crate::report::number;
use crate::rivals::{Kind, Rival};
use crate::stats::{median, ratio};
use crate::world::{Contender, ECHO, HOLD, NAMES, ONCE, Pair, SINK, Way, World};
use edgemesh_lab::Result;
use std::path::Path;
use std::time::Duration;

/// How often and how long.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    /// Rounds of each comparison.
    pub(crate) rounds: u32,
    /// Wall time of each measurement.
    pub(crate) span: Duration,
}

impl Plan {
    /// Measures each contender once a round, in turns; the costs of each in the order of the rounds.
    ///
    /// # Errors
    /// The first failure.
    pub(crate) fn turns<C, T>(
        self,
        contenders: &[C],
        mut measure: impl FnMut(&C) -> Result<T>,
    ) -> Result<Vec<Vec<T>>> {
        let mut all: Vec<Vec<T>> = contenders.iter().map(|_| Vec::new()).collect();
        for _ in 0..self.rounds {
            for (contender, results) in contenders.iter().zip(&mut all) {
                results.push(measure(contender)?);
            }
        }
        Ok(all)
    }
}

/// One figure of each round.
pub(crate) fn each<T>(rounds: &[T], figure: impl Fn(&T) -> f64) -> Vec<f64> {
    rounds.iter().map(figure).collect()
}

/// The median of a figure of the contender's programs; a dash where there are none.
pub(crate) fn of_programs<T>(contender: &Contender, rounds: &[T], figure: impl Fn(&T) -> f64) -> String {
    if contender.is_bare() { "-".to_owned() } else { number(median(each(rounds, figure))) }
}

/// One pair of nodes on the direct path with all servers and all other tunnels.
pub(crate) struct Field {
    rivals: Vec<Rival>,
    world: World,
    sink: Sink,
    held: Held,
}

impl Field {
    fn build(directory: &Path) -> Result<Self> {
        let (sink, held) = (Sink::default(), Held::default());
        let world = World::build(directory, &[Way::Direct], NAMES, |far| {
            sink.serve(far, SINK)?;
            load::serve_echo(far, ECHO)?;
            load::serve_once(far, ONCE)?;
            held.serve(far, HOLD)
        })?;
        let pair = world.pair(Way::Direct)?;
        let mut rivals = Vec::new();
        for kind in [Kind::WireguardGo, Kind::Boringtun] {
            if let Some(rival) = kind.start(pair)? {
                rival.wait(&pair.near)?;
                rivals.push(rival);
            }
        }
        let forwarder = forwarder::start(pair)?;
        forwarder.wait(&pair.near)?;
        rivals.push(forwarder);
        Ok(Self { rivals, world, sink, held })
    }

    fn pair(&self) -> Result<&Pair> {
        self.world.pair(Way::Direct)
    }

    /// The product first, no tunnel last.
    fn contenders(&self) -> Result<Vec<Contender>> {
        let pair = self.pair()?;
        let rivals = self.rivals.iter().map(|rival| pair.rival(rival));
        Ok([self.world.product(Way::Direct)?].into_iter().chain(rivals).chain([pair.bare()]).collect())
    }
}

/// What was measured of each contender, in the order of the rounds.
pub(crate) struct Results<'c, T> {
    contenders: &'c [Contender],
    all: Vec<Vec<T>>,
}

impl<'c, T> Results<'c, T> {
    fn of(
        plan: Plan,
        contenders: &'c [Contender],
        measure: impl FnMut(&Contender) -> Result<T>,
    ) -> Result<Self> {
        Ok(Self { contenders, all: plan.turns(contenders, measure)? })
    }

    fn iter(&self) -> impl Iterator<Item = (&'c Contender, &[T])> {
        self.contenders.iter().zip(self.all.iter().map(Vec::as_slice))
    }

    /// The median of a figure of the product over the rounds.
    fn ours(&self, figure: impl Fn(&T) -> f64) -> f64 {
        median(self.all.first().into_iter().flatten().map(figure))
    }

    /// The product's figure to that of the contender whose name begins so; `None` when it was not there.
    fn against(&self, name: &str, figure: impl Fn(&T) -> f64 + Copy) -> Option<f64> {
        let (_, theirs) = self.iter().find(|(contender, _)| contender.name.starts_with(name))?;
        Some(ratio(&each(self.all.first()?, figure), &each(theirs, figure)))
    }
}

/// One part.
pub(crate) struct Part {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// What it measures.
    pub(crate) shows: &'static str,
    /// Runs it with its files below the directory.
    pub(crate) run: fn(Plan, &Path) -> Result,
}

/// All parts in the order of their run.
pub(crate) const ALL: &[Part] = &[
    Part { name: "stream", shows: "one TCP stream and four, straight from node to node", run: stream::run },
    Part {
        name: "delay",
        shows: "answers: without load, beside a stream, of many flows beside one",
        run: delay::run,
    },
    Part { name: "packets", shows: "64-byte datagrams, as many as one thread sends", run: packets::run },
    Part { name: "connections", shows: "new TCP connections, 32 clients", run: connections::run },
    Part { name: "memory", shows: "10,000 flows under load; start to the first answer", run: memory::run },
    Part { name: "relay", shows: "one TCP stream over the server, by UDP and by TCP", run: relay::run },
    Part { name: "dns", shows: "in-zone queries beside Knot and Unbound", run: dns::run },
    Part { name: "growth", shows: "the engine with ever more peers, flows and Services", run: growth::run },
];
