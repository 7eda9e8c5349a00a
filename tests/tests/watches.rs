//! File system watches of the wider kind (fanotify): told of what they watch, and of nothing else.
#![forbid(unsafe_code)]

use ferry_tests::Host;
use ferry_tests::asked::{self, Asked};

#[test]
fn files_mounts_and_file_systems_are_watched_on() {
    asked::survives_three_generations("watches");
}

#[test]
fn one_that_decides_for_others_is_named_and_runs_on() {
    let host = Host::new("alder");
    let (_, program) = Asked::alone(&host, "watches", "decides");
    asked::is_refused(
        &host,
        &program,
        "fanotify, which decides what others may open",
    );
}
