//! Calls about the calling process itself that have no safe face elsewhere: its own areas of memory, its own children.
//! The subjects of the tests build their states with these; they forbid unsafe code like everything else.

pub mod accomplice;
pub mod area;
pub mod child;
pub mod seccomp;
pub mod setting;
pub mod signal;
pub mod vector;
pub mod wait;

pub use area::Area;
