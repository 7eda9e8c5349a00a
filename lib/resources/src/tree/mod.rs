//! The task tree: who belongs to the container, in which order it is stopped, and how the same tree grows again.

mod freeze;
mod grow;
mod numbers;
mod pids;
mod plan;
mod sharing;
mod take;
mod waits;

pub use freeze::{Frozen, freeze, living};
pub use grow::{Grown, Growth, grow};
pub use numbers::Numbers;
pub(crate) use numbers::{Born, Patience, used};
pub(crate) use pids::go;
pub use plan::OUTSIDE;
pub(crate) use plan::{Step, plan};
pub use sharing::Sharing;
pub use take::{blockers, dump, nested};
