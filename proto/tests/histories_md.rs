//! `docs/histories.md` and the code say the same: every example on the page reads and writes back to
//! its bytes, every fact has a row with its fields, and the invariants are the code's.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use dreamcatcher_proto::history::line::read;
use dreamcatcher_proto::history::{
    FILE_BYTES_MAX, FORMAT, Fact, Facts, Invariant, LINE_BYTES_MAX, Mark, NAME_CHARS_MAX, Recorded,
    Recorder, RelayFact, VERSION,
};
use serde_json::Value;

const PAGE: &str = include_str!("../../docs/histories.md");

#[test]
fn the_table_of_invariants_is_that_of_the_code() {
    let mut is = "\n| | name | says | stands for |\n|---|---|---|---|\n".to_owned();
    for invariant in Invariant::ALL {
        let (id, name) = (invariant.id(), invariant.name());
        let (says, stands) = (invariant.sentence(), invariant.guarantee());
        writeln!(is, "| {id} | {name} | {says} | {stands} |").unwrap();
    }
    is += "\n";
    let (_, from) = PAGE.split_once("<!-- invariants -->\n").unwrap();
    let (written, _) = from.split_once("<!-- end -->").unwrap();
    assert!(written == is, "docs/histories.md should say:\n{is}");
    let numbers = (1..).map(|number| format!("I{number}"));
    let ids = Invariant::ALL.iter().map(|invariant| invariant.id());
    assert!(ids.zip(numbers).all(|(id, number)| id == number));
}

#[test]
fn every_fact_of_a_member_has_a_row_with_its_fields_and_an_example() {
    every_fact("member", Fact::NAMES, |facts| {
        let Facts::Member(facts) = facts else {
            panic!("{facts:?}")
        };
        written_again(&facts)
    });
}

#[test]
fn every_fact_of_a_relay_has_a_row_with_its_fields_and_an_example() {
    every_fact("relay", RelayFact::NAMES, |facts| {
        let Facts::Relay(facts) = facts else {
            panic!("{facts:?}")
        };
        written_again(&facts)
    });
}

#[test]
fn every_mark_of_a_fault_has_a_row_with_its_fields_and_an_example() {
    every_fact("faults", Mark::NAMES, |facts| {
        let Facts::Faults(facts) = facts else {
            panic!("{facts:?}")
        };
        written_again(&facts)
    });
}

#[test]
fn the_limits_on_the_page_are_those_of_the_code() {
    for said in [
        format!("at most {} bytes long", grouped(LINE_BYTES_MAX as u64)),
        format!("({} bytes;", grouped(FILE_BYTES_MAX)),
        format!("of the player or node, at most {NAME_CHARS_MAX} characters"),
        format!("| `format` | `{FORMAT:?}` |"),
        format!("| `version` | `{VERSION}` |"),
    ] {
        assert!(PAGE.contains(&said), "{said}");
    }
}

fn every_fact(kind: &str, names: &[&str], again: impl Fn(Facts) -> Vec<String>) {
    let (_, section) = PAGE
        .split_once(&format!("<!-- facts of {kind} -->\n"))
        .unwrap();
    let rows = rows(section);
    let known: BTreeSet<&str> = names.iter().copied().collect();
    let written: BTreeSet<&str> = rows.keys().map(String::as_str).collect();
    assert_eq!(written, known, "the rows of {kind}");

    let (_, example) = section.split_once("```jsonl\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let lines: Vec<&str> = example.lines().collect();
    // Nothing follows `incomplete`, which is the last.
    let recording = read("the page", &lines).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(again(recording.facts), lines[1..], "{kind}");

    let mut fields: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in &lines[1..] {
        let line: Value = serde_json::from_str(line).unwrap();
        let fact = &line["fact"];
        let (name, own) = if let Some(fact) = fact.as_object() {
            let (name, body) = fact.iter().next().unwrap();
            let own = body.as_object().unwrap().keys().cloned();
            (name.clone(), own.collect())
        } else {
            (fact.as_str().unwrap().to_owned(), BTreeSet::new())
        };
        fields.entry(name).or_default().extend(own);
    }
    assert_eq!(rows, fields, "the fields of {kind}");
}

/// By fact, the fields of its row in the first table.
fn rows(section: &str) -> BTreeMap<String, BTreeSet<String>> {
    let table = section.lines().skip_while(|line| !line.starts_with("| `"));
    let table = table.take_while(|line| line.starts_with('|'));
    let row = |line: &str| {
        let mut cells = line.split('|').skip(1);
        let ticked = |cell: &str| -> BTreeSet<String> {
            cell.split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect()
        };
        let name = ticked(cells.next().unwrap()).pop_first().unwrap();
        (name, ticked(cells.next().unwrap()))
    };
    table.map(row).collect()
}

/// The lines of these facts, as a recorder writes them.
fn written_again<F: Recorded>(facts: &[(Duration, F)]) -> Vec<String> {
    let mut out = Vec::new();
    let mut recorder = Recorder::begin("n", 0, &mut out).unwrap();
    for (at, fact) in facts {
        recorder.note(*at, fact, &mut out);
    }
    let text = String::from_utf8(out).unwrap();
    text.lines().skip(1).map(str::to_owned).collect()
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
