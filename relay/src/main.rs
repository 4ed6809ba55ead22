//! `edgemesh-server`: the part of EdgeMesh that has a public address.
//!
//! * `directory/`: which node has which index and key; crash-safe
//! * `control/`: the nodes' control connections; `feed`: what Services they are told of; `source`: whose they are
//! * `forward/`: the relay; `relays/`: servers that do nothing else
//! * `accept`: the TCP port
//! * `run`: how they are put together; `admin`: probes, metrics, JSON
//! * `orders`: what operators have done to nodes and keys; `commands`: how they say so
//!
//! One small async runtime serves TCP; the relay's UDP socket and the source of Services have threads of their own. The
//! server can read nothing that nodes say to each other.

mod accept;
mod admin;
mod cli;
mod commands;
mod control;
mod counters;
mod directory;
mod entries;
mod feed;
mod fingerprints;
mod forward;
mod orders;
mod relays;
mod run;
mod source;

use cli::{Cli, Command};
use edgemesh_host::{config, memory};
use std::process::ExitCode;

/// Why the program ends without success.
pub(crate) enum Failure {
    /// Wrong usage or configuration.
    Config(String),
    /// Anything else.
    Failed(String),
}

fn main() -> ExitCode {
    let cli: Cli = config::parse();
    let result = edgemesh_host::log::init().map_err(Failure::Config).and_then(|()| match cli.command {
        Command::Run(args) => {
            memory::keep_private().map_err(|e| Failure::Failed(e.to_string())).and_then(|()| run::run(&args))
        }
        Command::Token(args) => commands::token(args),
        Command::Nodes(args) => commands::nodes(&args),
        Command::Revoke(args) => commands::revoke(&args),
        Command::Rejoin(args) => commands::rejoin(args),
        Command::RotateKey(args) => commands::rotate_key(&args),
        Command::Backup(args) => commands::backup(&args),
        Command::Restore(args) => commands::restore(&args),
    });
    let (text, code) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Config(text)) => (text, config::EXIT_USAGE),
        Err(Failure::Failed(text)) => (text, 1),
    };
    eprintln!("error: {text}");
    ExitCode::from(code)
}
