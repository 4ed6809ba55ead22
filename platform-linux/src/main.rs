//! `edgemesh-agent`: the command.

use edgemesh_agent::agent::{self, RunError};
use edgemesh_agent::cli::{Cli, Command};
use edgemesh_agent::commands;
use edgemesh_host::config::EXIT_USAGE;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli: Cli = edgemesh_host::config::parse();
    let result = match cli.command {
        Command::Run(settings) => match edgemesh_host::log::init() {
            Ok(()) => agent::run(*settings),
            Err(error) => Err(RunError::Usage(error)),
        },
        other => commands::execute(other).map_err(RunError::Failed),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(RunError::Usage(error)) => {
            eprintln!("error: {error}");
            ExitCode::from(EXIT_USAGE)
        }
        Err(RunError::Failed(error)) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
