//! The rules of the core's shape that a compiler does not check, read from its sources.

#![allow(clippy::unwrap_used, clippy::std_instead_of_core, clippy::arithmetic_side_effects)]

use std::fs;
use std::path::{Path, PathBuf};

/// Folders whose code decides one thing each, and knows nothing of the others.
const MACHINES: [&str; 7] = ["dns", "service", "flow", "peer", "tunnel", "path", "control"];
/// Lines of code that the composition may have, comments, blank lines and tests aside. This only ever
/// goes down.
const NODE_LINES: usize = 600;
/// Lines of one file, tests aside.
const FILE_LINES: usize = 500;
const ENGINE_FIELDS: usize = 13;

fn source(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(folder)
}

/// Every file of a folder that is not a test, with its text before the tests.
fn files(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_stem().unwrap().to_string_lossy().into_owned();
        if entry.is_dir() && name != "tests" {
            found.extend(files(&entry));
        } else if entry.extension().is_some_and(|e| e == "rs")
            && !["tests", "testing", "vectors"].contains(&&*name)
        {
            let text = fs::read_to_string(&entry).unwrap();
            let code = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
            found.push((entry, code.to_owned()));
        }
    }
    found
}

fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"))
}

#[test]
fn machines_never_import_each_other() {
    for machine in MACHINES {
        for (path, text) in files(&source(machine)) {
            for other in MACHINES.iter().chain(&["node", "memory"]).filter(|other| **other != machine) {
                let named = format!("crate::{other}");
                let line = code(&text).find(|line| {
                    line.match_indices(&named).any(|(at, _)| {
                        let after = line.get(at + named.len()..).unwrap_or_default();
                        !after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
                    })
                });
                assert_eq!(line, None, "{} of {machine} names {other}", path.display());
            }
        }
    }
}

#[test]
fn the_composition_knows_no_format_no_clock_arithmetic_and_no_protocol() {
    for (path, text) in files(&source("node")) {
        let at = path.display();
        for line in code(&text) {
            assert!(!line.contains("crate::wire"), "{at} imports a wire format: {line}");
            assert!(
                !line.contains(".after(") && !line.contains("Duration::"),
                "{at} computes with time: {line}"
            );
            assert!(
                !line.contains("postcard::") && !line.contains("from_be_bytes"),
                "{at} reads bytes: {line}"
            );
        }
    }
}

#[test]
fn the_composition_stays_small() {
    let lines: usize = files(&source("node")).iter().map(|(_, text)| code(text).count()).sum();
    assert!(lines > 0 && lines <= NODE_LINES, "node/ has {lines} lines of code of at most {NODE_LINES}");
    let text = fs::read_to_string(source("node/mod.rs")).unwrap();
    let body = text.split("pub struct Engine<'a> {").nth(1).unwrap().split("\n}").next().unwrap();
    let fields = code(body).count();
    assert!(fields <= ENGINE_FIELDS, "the engine has {fields} fields of at most {ENGINE_FIELDS}");
}

#[test]
fn no_file_is_longer_than_one_can_read() {
    for (path, text) in files(&source("")) {
        let lines = text.lines().count();
        assert!(lines <= FILE_LINES, "{} has {lines} lines of at most {FILE_LINES}", path.display());
    }
}
