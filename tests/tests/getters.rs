//! What a program can ask for, asked before and after, by programs in Python.
#![forbid(unsafe_code)]

use ferry_tests::asked;

#[test]
fn all_options_of_sockets_and_files_are_the_same_after_three_generations() {
    asked::survives_three_generations("getters");
}

#[test]
fn connections_between_open_and_closed_keep_their_states_through_three_generations() {
    asked::survives_three_generations("half");
}

#[test]
fn leases_are_broken_by_others_after_three_generations() {
    asked::survives_three_generations("leases");
}

#[test]
fn ticks_of_timers_are_all_counted_after_three_generations() {
    asked::survives_three_generations("timed");
}

#[test]
fn ticks_are_all_counted_where_a_program_is_only_looked_at() {
    asked::is_undisturbed_by_looks("timed", 10);
}
