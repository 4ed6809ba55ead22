//! `edgemesh-counts compare FILE` and `edgemesh-counts format`: the runner's summaries on standard input, held to the
//! counts in the file, or as such a file. `run.sh` is what calls it.

use edgemesh_counts::gate::{compare, format, parse, summaries};
use std::io::Read;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("edgemesh-counts: {error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool, String> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|error| error.to_string())?;
    let now = summaries(&text)?;
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["format"] => {
            print!("{}", format(&now));
            Ok(true)
        }
        ["compare", file] => {
            let before = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
            let (text, good) = compare(&parse(&before)?, &now);
            print!("{text}");
            Ok(good)
        }
        _ => Err("compare FILE or format".to_owned()),
    }
}
