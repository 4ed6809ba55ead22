//! `edgemesh-lab test [FILTER..] | list | demo | run [bare] SCRIPT | cleanup`.

use std::ffi::OsString;
use std::process::ExitCode;

use edgemesh_lab::sandbox::{self, Place};
use edgemesh_lab::{Result, demo, machine, runner, scenarios, shell, tools};

const USAGE: &str = "usage: edgemesh-lab test [FILTER..] | list | demo | run [bare] SCRIPT | cleanup";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match dispatch(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("edgemesh-lab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[OsString]) -> Result<ExitCode> {
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.to_string_lossy().into_owned(), rest),
        None => return Ok(usage()),
    };
    let words: Vec<String> = rest.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    if command == "test" {
        runner::check(&words)?;
    }
    match command.as_str() {
        machine::EXEC => Err(machine::exec(rest)),
        "tool" => tools::main(&words).map(|()| ExitCode::SUCCESS),
        "list" => {
            for row in scenarios::ALL {
                println!("{:<26} {}", row.name, row.shows);
            }
            Ok(ExitCode::SUCCESS)
        }
        "cleanup" => {
            for path in sandbox::cleanup()? {
                println!("removed {}", path.display());
            }
            Ok(ExitCode::SUCCESS)
        }
        "test" | "demo" | "run" => match (sandbox::enter(arguments)?, command.as_str()) {
            (Place::Left(code), _) => Ok(ExitCode::from(code)),
            (Place::Inside(directory), "demo") => demo::run(&directory).map(|()| ExitCode::SUCCESS),
            (Place::Inside(directory), "run") => shell::run(&directory, &words).map(|()| ExitCode::SUCCESS),
            (Place::Inside(directory), _) if runner::test(&directory, &words) => Ok(ExitCode::SUCCESS),
            (Place::Inside(_), _) => Ok(ExitCode::FAILURE),
        },
        _ => Ok(usage()),
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}
