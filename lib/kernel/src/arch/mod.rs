//! What differs between processors: registers, the bytes of a system call instruction, signal frames. One module each.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;
#[cfg(target_arch = "x86_64")]
pub mod xstate;
