//! `checkpoint TARGET`: a running container becomes an image on standard output.
//!
//! The order only: resolve the name, look for blockers, freeze, walk the rooms, stream, then stop the container or let
//! it run on. How each resource is taken is the rooms' business (`lib/resources`).
#![forbid(unsafe_code)]

mod hand_over;
mod header;
mod options;
mod order;
mod phase;
mod take;
mod target;

fn main() -> std::process::ExitCode {
    tool::main(order::run)
}
