//! How fast the programs are, beside other tunnels and DNS servers: real programs and real packets in a private
//! world as the lab's.
//!
//! `edgemesh-bench [PART..]` runs the parts whose names contain one of the words, all of them without a word. What is
//! compared is measured in turns, round after round, so that whatever else the machine does meets all alike; told
//! are medians over the rounds, and ratios as medians of each round's own ratio. Nothing is held to account here: a
//! machine that does other things would fail at random.
//!
//! Not here: behaviour (the lab's), many Services and nodes (`tests/scale`).

mod forwarder;
mod load;
mod meter;
mod parts;
mod plot;
mod report;
mod rivals;
mod stats;
mod world;

use clap::Parser;
use edgemesh_lab::sandbox::{self, Place};
use edgemesh_lab::{Context, Result, fail, machine};
use parts::{ALL, Plan};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What is measured, and how often.
#[derive(Parser, Clone, Debug)]
#[command(name = "edgemesh-bench", version)]
struct Cli {
    /// Rounds of each comparison.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 2.5)]
    seconds: f64,
    /// Words that the names of the wanted parts contain; without any, all.
    parts: Vec<String>,
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let result = match arguments.split_first() {
        Some((first, rest)) if first == machine::EXEC => Err(machine::exec(rest)),
        Some((first, rest)) if first == forwarder::FORWARD => forwarder::run(rest),
        _ => start(&arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("edgemesh-bench: {error}");
        ExitCode::FAILURE
    })
}

fn start(arguments: &[OsString]) -> Result<ExitCode> {
    let cli = Cli::parse();
    let wanted =
        |name: &str| cli.parts.is_empty() || cli.parts.iter().any(|word| name.contains(word.as_str()));
    if !ALL.iter().any(|part| wanted(part.name)) {
        let names: Vec<&str> = ALL.iter().map(|part| part.name).collect();
        return fail(format!("no part is named {:?}; there are: {}", cli.parts.join(" "), names.join(" ")));
    }
    match sandbox::enter(arguments)? {
        Place::Left(code) => Ok(ExitCode::from(code)),
        Place::Inside(directory) => run(&cli, wanted, &directory).map(|()| ExitCode::SUCCESS),
    }
}

fn run(cli: &Cli, wanted: impl Fn(&str) -> bool, directory: &Path) -> Result {
    // As many as this machine allows; both ends of many connections are here.
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).context("room for descriptors")?;
    let plan = Plan { rounds: cli.rounds, span: Duration::from_secs_f64(cli.seconds) };
    println!("{}", meter::machine());
    let began = Instant::now();
    for part in ALL.iter().filter(|part| wanted(part.name)) {
        println!("\n## {}: {}\n", part.name, part.shows);
        (part.run)(plan, &directory.join(part.name)).context(part.name)?;
    }
    println!("\n{} s; load {}", began.elapsed().as_secs(), meter::load());
    Ok(())
}
