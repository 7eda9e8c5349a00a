//! `verify`: is it whole, is it authentic, and would it run here?
//!
//! Reads an image in any form to its end and every record in it, and says what it found.
#![forbid(unsafe_code)]

mod contents;
mod host;
mod pass;
mod run;
mod show;

fn main() -> std::process::ExitCode {
    tool::main(run::run)
}
