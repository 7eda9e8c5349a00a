//! A frozen container as data and as bytes. No system calls, no unsafe code; every byte read is untrusted.
//!
//! `process ⇄ kernel ⇄ resources ⇄ **image records ⇄ image stream** ⇄ archive` (you are here: image)
#![forbid(unsafe_code)]

pub mod bytes;
pub mod error;
pub mod ids;
pub mod path;
pub mod tree;

pub use error::Error;
