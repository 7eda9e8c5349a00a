//! One room per kernel resource: the module that knows how to take it from a frozen container (`dump`) and how to give
//! it back to one being rebuilt (`restore`, and `resume` where the kernel wants a step at the very end). Rooms say how;
//! the tools say when.
//!
//! `process ⇄ kernel ⇄ **resources** ⇄ image records ⇄ image stream ⇄ archive` (you are here: resources)
#![forbid(unsafe_code)]

pub mod cgroups;
pub mod container;
pub mod credentials;
pub mod engine;
pub mod error;
pub mod files;
pub mod ipc;
pub mod limits;
pub mod locks;
pub mod memory;
pub mod namespaces;
pub mod rootfs;
pub mod signals;
mod sink;
pub mod sockets;
pub mod source;
pub mod target;
pub mod threads;
pub mod timers;
pub mod tree;
pub mod vessel;

pub use error::{Blocker, Error, Result};
pub use source::{Source, SourceProcess, SourceThread};
pub use target::{Target, TargetProcess};
