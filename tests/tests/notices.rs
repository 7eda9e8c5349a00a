//! Who waits to be told of the next message in a queue (mq_notify) is told by it, and by nothing before.
#![forbid(unsafe_code)]

use ferry_tests::Host;
use ferry_tests::asked::{self, Asked};

#[test]
fn who_waits_for_a_message_is_told_of_it_by_signal_or_socket() {
    asked::survives_three_generations("notices");
}

#[test]
fn who_waits_for_a_message_is_told_of_it_in_a_container_of_podmans() {
    asked::survives_in_podman("notices");
}

#[test]
fn who_is_only_looked_at_is_told_as_before() {
    asked::is_undisturbed_by_looks("notices", 5);
}

#[test]
fn who_has_such_a_signal_already_and_is_in_a_namespace_inside_is_told_of_it() {
    asked::survives_with("notices", "blocked");
}

#[test]
fn one_that_waits_for_a_timer_by_the_same_signal_is_named_and_not_told() {
    let host = Host::new("alder");
    let (asked, program) = Asked::alone(&host, "notices", "timer");
    let words = "message queue /empty: it waits to be told of the next message (mq_notify) by a signal, and one of a timer's waits already";
    asked::is_refused(&host, &program, words);
    asked.is_whole();
}
