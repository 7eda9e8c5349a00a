//! `pack`: an image becomes an archive. Compressed by all cores, digested, sealed.
//!
//! The seal is written when the image's own end was found right, so a bad image becomes no archive.
#![forbid(unsafe_code)]

mod run;

fn main() -> std::process::ExitCode {
    tool::main(run::run)
}
