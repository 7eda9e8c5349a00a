//! Queues of asynchronous I/O: under load, with events not read, and with requests that do not end.
#![forbid(unsafe_code)]

use ferry_tests::Host;
use ferry_tests::asked::{self, Asked};

#[test]
fn queues_of_asynchronous_io_go_on_where_they_were() {
    asked::survives_three_generations("rings");
}

#[test]
fn queues_of_asynchronous_io_go_on_in_a_container_of_podmans() {
    asked::survives_in_podman("rings");
}

#[test]
fn a_program_that_is_only_looked_at_has_the_events_it_had() {
    asked::is_undisturbed_by_looks("rings", 20);
}

#[test]
fn requests_that_do_not_end_are_counted_and_the_program_runs_on() {
    let host = Host::new("alder");
    let (asked, program) = Asked::alone(&host, "rings", "poll");
    asked::is_refused(&host, &program, "(io_setup) with 2 requests on their way");
    asked.is_whole();
}
