//! All talk with Linux. The only crate with unsafe code: a thin, safe face on system calls, `/proc` and netlink,
//! so that everything above it can forbid unsafe.
//!
//! `process ⇄ **kernel** ⇄ resources ⇄ image records ⇄ image stream ⇄ archive` (you are here: kernel)

pub mod aio;
pub mod arch;
pub mod beneath;
pub mod descriptor;
pub mod devices;
pub mod elf;
pub mod error;
pub mod event;
pub mod fanotify;
pub mod guardian;
pub mod host;
pub mod identity;
pub mod kcmp;
pub mod last_pid;
pub mod mount;
pub mod mqueue;
pub mod namespaces;
pub mod netlink;
pub mod network;
pub mod nftables;
pub mod nsfs;
pub mod open;
pub mod overlay;
pub mod own;
pub mod pagemap;
pub mod pidfd;
pub mod pipe;
pub mod proc;
pub mod ptrace;
pub mod remote;
pub mod rlimit;
pub mod robust;
pub mod rseq;
pub mod rtnetlink;
pub mod sched;
pub mod sock_diag;
pub mod socket;
pub mod sysv;
pub mod tty;
pub mod tun;
pub mod userfault;
pub mod vm;
pub mod within;
pub mod witness;
pub mod xattr;

pub use error::{Error, Result};
pub use within::{Namespace, attended, within};

/// A process or thread id in *our* pid namespace.
pub type Pid = i32;
