//! `docs/RESOURCES.md` says what becomes of each resource; here it is held to what is in the source: rooms, subjects, tests,
//! and the words of refusals.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// One row of a table.
struct Row {
    resource: String,
    room: String,
    outcome: String,
    witnesses: Vec<Witness>,
}

/// What a row calls upon.
enum Witness {
    /// A self-checking program.
    Subject(String),
    /// A test, by its file and its name.
    Test(String, String),
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

/// All sources below a directory, as paths relative to it without `.rs`; `mod.rs` is its directory.
fn sources(dir: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![dir.to_owned()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).expect("list a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let inner = path
                    .strip_prefix(dir)
                    .expect("it is below")
                    .with_extension("");
                let name = inner.to_string_lossy();
                found.insert(name.strip_suffix("/mod").unwrap_or(&name).to_owned());
            }
        }
    }
    found
}

fn witness(cell: &str) -> Witness {
    if let Some(subject) = cell.strip_prefix("subject ") {
        return Witness::Subject(subject.to_owned());
    }
    let (file, name) = cell
        .split_once(": ")
        .unwrap_or_else(|| panic!("`{cell}` is neither `subject NAME` nor `FILE: test`"));
    Witness::Test(file.to_owned(), name.to_owned())
}

fn rows() -> Vec<Row> {
    text(&root().join("docs/RESOURCES.md"))
        .lines()
        .filter(|line| {
            line.starts_with("| ")
                && !line.starts_with("| ---")
                && !line.starts_with("| resource |")
        })
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [resource, room, outcome, seen] = cells[..] else {
                panic!("a row needs four cells: {line}")
            };
            Row {
                resource: resource.to_owned(),
                room: room.to_owned(),
                outcome: outcome.to_owned(),
                witnesses: seen.split("; ").map(witness).collect(),
            }
        })
        .collect()
}

#[test]
fn every_row_says_what_becomes_of_it_in_one_of_the_agreed_ways() {
    let ways = ["yes, but ", "lost: ", "refused: `", "unseen: "];
    for row in rows() {
        assert!(
            row.outcome == "yes" || ways.iter().any(|way| row.outcome.starts_with(way)),
            "{}: `{}`",
            row.resource,
            row.outcome
        );
    }
}

#[test]
fn every_room_has_a_row_and_every_row_a_room() {
    let rooms = sources(&root().join("lib/resources/src"));
    let records = sources(&root().join("lib/image/src"));
    let named: BTreeSet<String> = rows().into_iter().map(|row| row.room).collect();
    for room in &named {
        assert!(rooms.contains(room), "there is no room {room}");
    }
    // What has a record of the same name is a room; folders of rooms and what is of no one resource are not.
    let none = [
        "error",
        "lib",
        "source",
        "container",
        "engine",
        "files",
        "memory",
        "namespaces",
        "sockets",
    ];
    for room in rooms
        .intersection(&records)
        .filter(|room| !none.contains(&room.as_str()))
    {
        let inside = format!("{room}/");
        assert!(
            named
                .iter()
                .any(|named| named == room || named.starts_with(&inside)),
            "the room {room} has no row"
        );
    }
}

#[test]
fn every_subject_has_a_row_and_every_witness_exists() {
    let subjects = sources(&root().join("tests/subjects/src/bin"));
    let mut called = BTreeSet::new();
    for row in rows() {
        for witness in row.witnesses {
            match witness {
                Witness::Subject(name) => {
                    assert!(
                        subjects.contains(&name),
                        "{}: no subject {name}",
                        row.resource
                    );
                    called.insert(name);
                }
                Witness::Test(file, name) => {
                    let source = text(&root().join(&file));
                    assert!(
                        source.contains(&format!("fn {name}(")),
                        "{}: no test {name} in {file}",
                        row.resource
                    );
                }
            }
        }
    }
    let without: Vec<_> = subjects.difference(&called).collect();
    assert!(without.is_empty(), "subjects without a row: {without:?}");
}

#[test]
fn what_is_refused_is_refused_in_these_words() {
    let rooms = root().join("lib/resources/src");
    let said: String = sources(&rooms)
        .into_iter()
        .map(|room| {
            let file = rooms.join(format!("{room}.rs"));
            text(&if file.exists() {
                file
            } else {
                rooms.join(room).join("mod.rs")
            })
        })
        .collect();
    // A text over several lines is one.
    let said = said
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace("\\ ", "");
    for row in rows()
        .iter()
        .filter(|row| row.outcome.starts_with("refused: "))
    {
        let words = row.outcome.split('`').nth(1).expect("words in backquotes");
        assert!(
            said.contains(words),
            "{}: nobody says `{words}`",
            row.resource
        );
    }
}
