//! docs/parity.md says which rows of the Kubernetes checklist are tested, and where. It must name every row once, and
//! what it calls tested must have, in every place it names, a test function or lab row whose name begins with the
//! row's id.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use edgemesh_lab::scenarios::ALL;

/// The rows of the checklist: letter and how many there are.
const ROWS: [(char, u8); 16] = [
    ('D', 30),
    ('N', 10),
    ('W', 13),
    ('U', 16),
    ('S', 16),
    ('C', 16),
    ('A', 4),
    ('T', 13),
    ('X', 8),
    ('Q', 7),
    ('V', 2),
    ('R', 6),
    ('G', 7),
    ('L', 11),
    ('K', 8),
    ('B', 16),
];
const STATES: [&str; 4] = ["tested", "partly", "not yet", "not built"];

struct Row {
    id: String,
    state: String,
    /// Files and lab rows.
    places: Vec<String>,
}

fn ledger() -> Vec<Row> {
    let text = fs::read_to_string(root().join("docs/parity.md")).unwrap();
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<&str> =
            line.strip_prefix("| ")?.trim_end_matches('|').split(" | ").map(str::trim).collect();
        let [id, _level, state, _what, place] = cells.as_slice() else { return None };
        is_id(&id.to_lowercase()).then(|| Row {
            id: id.to_lowercase(),
            state: (*state).to_owned(),
            // Every other piece between backquotes is quoted.
            places: place.split('`').skip(1).step_by(2).map(str::to_owned).collect(),
        })
    });
    rows.collect()
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// A small letter and a number.
fn is_id(word: &str) -> bool {
    let mut letters = word.chars();
    letters.next().is_some_and(|letter| letter.is_ascii_lowercase())
        && word.len() > 1
        && letters.all(|digit| digit.is_ascii_digit())
}

/// The ids that a name begins with.
fn ids(name: &str) -> Vec<&str> {
    name.split(['_', '-']).take_while(|word| is_id(word)).collect()
}

/// The ids of the test functions in a source text.
fn tested(source: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        let function = line.strip_prefix("async ").unwrap_or(line);
        if let Some(name) = function.strip_prefix("fn ").filter(|_| is_test) {
            found.extend(ids(name).into_iter().map(str::to_owned));
        }
        is_test = line == "#[test]" || line.starts_with("#[tokio::test");
    }
    found
}

#[test]
fn every_row_of_the_checklist_stands_in_the_ledger_once() {
    let mut counts = BTreeMap::new();
    for row in ledger() {
        assert!(STATES.contains(&row.state.as_str()), "{}: state {:?}; known: {STATES:?}", row.id, row.state);
        *counts.entry(row.id).or_insert(0) += 1;
    }
    for (letter, last) in ROWS {
        for number in 1..=last {
            let id = format!("{}{number}", letter.to_ascii_lowercase());
            assert_eq!(counts.remove(&id), Some(1), "lines for {id}");
        }
    }
    assert!(counts.is_empty(), "no rows of the checklist: {counts:?}");
}

#[test]
fn what_the_ledger_calls_tested_has_a_test_of_that_name() {
    let mut missing = Vec::new();
    for row in ledger() {
        if !matches!(row.state.as_str(), "tested" | "partly") {
            continue;
        }
        if row.places.is_empty() {
            missing.push(format!("{}: no place named", row.id));
        }
        for place in &row.places {
            let named = |what: &str| ids(what).contains(&row.id.as_str());
            let has = match ALL.iter().find(|scenario| scenario.name == place) {
                Some(scenario) => scenario.name.split_once('/').is_some_and(|(_, what)| named(what)),
                None => {
                    fs::read_to_string(root().join(place)).is_ok_and(|text| tested(&text).contains(&row.id))
                }
            };
            if !has {
                missing.push(format!("{}: nothing in {place}", row.id));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn ids_are_what_a_name_begins_with() {
    assert_eq!(ids("d4_d26_names_with_b1"), ["d4", "d26"]);
    assert_eq!(ids("w11-source"), ["w11"]);
    assert!(ids("udp_sizes").is_empty() && ids("_d1").is_empty() && ids("d_1").is_empty());
    let source = "#[test]\nfn d1_yes() {}\nfn d2_no() {}\n    #[test]\n    fn d3_d4_yes() {}\n\
                  #[tokio::test]\nasync fn d5_yes() {}\n";
    assert_eq!(tested(source), ["d1", "d3", "d4", "d5"].map(str::to_owned).into());
}
