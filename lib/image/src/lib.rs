//! A frozen container as data and as bytes. No system calls, no unsafe code; every byte read is untrusted.
//!
//! `process ⇄ kernel ⇄ resources ⇄ **image records ⇄ image stream** ⇄ archive` (you are here: image)
#![forbid(unsafe_code)]

mod archive;
pub mod bytes;
pub mod cgroups;
mod check;
mod chunk;
pub mod container;
pub mod credentials;
mod directory;
pub mod engine;
pub mod error;
pub mod files;
pub mod format;
pub mod header;
pub mod ids;
pub mod ipc;
pub mod limits;
pub mod locks;
mod manifest;
mod member;
pub mod memory;
pub mod namespaces;
pub mod path;
pub mod process;
mod reader;
pub mod record;
pub mod rootfs;
mod seal;
pub mod signals;
pub mod sockets;
mod source;
mod stream;
pub mod threads;
pub mod timers;
pub mod tree;
mod writer;

pub use archive::{ArchiveWriter, Compression};
pub use directory::DirectoryWriter;
pub use error::{Error, Result};
pub use format::{Pages, Range, Space};
pub use header::Header;
pub use member::{Member, MemberKind, Segment};
pub use reader::{Entry, Form, Kind, Reader, Tap};
pub use record::Record;
pub use writer::{CopyWriter, EntryWriter, Writer};
