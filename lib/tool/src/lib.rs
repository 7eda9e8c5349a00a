//! What the five command lines share, so that they behave as one: exit codes, data on standard input
//! and output, words on standard error.
//!
//! `process ⇄ kernel ⇄ resources ⇄ image records ⇄ image stream ⇄ archive`: you are at its ends.
#![forbid(unsafe_code)]

mod command;
mod exit;
mod progress;
mod standard;
mod stats;
mod tcp;

pub use command::{Common, ended, main};
pub use exit::{Exit, Failure};
pub use progress::{Counted, Progress};
pub use standard::{FORMS, input, open, output};
pub use stats::Stats;
pub use tcp::Tcp;
