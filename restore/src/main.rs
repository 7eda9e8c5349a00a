//! `restore [FILE|DIR]`: an image or an archive becomes a running container.
//!
//! The order only: make the vessel, grow the tree, walk the rooms, pour the pages while they arrive, check the end,
//! and only then let it run. How each resource is given back is the rooms' business (`lib/resources`).
#![forbid(unsafe_code)]

mod finish;
mod maker;
mod options;
mod order;
mod phase;
mod pour;

fn main() -> std::process::ExitCode {
    tool::main(order::run)
}
