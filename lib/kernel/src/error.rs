//! What went wrong in the kernel's hands: which call, on whom, and errno.

use std::fmt;

pub use libc::{EBADF, EEXIST, EINVAL, ENOENT, EOPNOTSUPP, EPERM, ESRCH};

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed system call, or a kernel text that does not read as it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// A system call of ours, or one made in a task by remote call, failed.
    Call {
        /// What was tried, with its object: `open /proc/7/maps`, `mmap 0x1000 in process 7`.
        what: String,
        /// The error number.
        errno: i32,
    },
    /// A task died under our hands.
    Gone {
        /// The task.
        pid: i32,
    },
    /// Text or bytes from the kernel that we do not understand.
    Unreadable {
        /// Where they came from.
        source: String,
        /// What is wrong with them.
        what: String,
    },
    /// The kernel, or this kind of program, cannot do what is needed.
    Unsupported {
        /// What is missing, and the remedy.
        what: String,
    },
}

impl Error {
    /// The last error of this thread (`errno`), for the call named.
    pub fn last(what: impl Into<String>) -> Self {
        Error::Call {
            what: what.into(),
            errno: std::io::Error::last_os_error().raw_os_error().unwrap_or(0),
        }
    }

    /// An error number that a call gave.
    pub fn errno(what: impl Into<String>, errno: i32) -> Self {
        Error::Call {
            what: what.into(),
            errno,
        }
    }

    /// An error of the standard library's.
    pub fn io(what: impl Into<String>, error: &std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => Error::errno(what, errno),
            None => Error::Unreadable {
                source: what.into(),
                what: error.to_string(),
            },
        }
    }

    /// Text that does not parse.
    pub fn unreadable(source: impl Into<String>, what: impl Into<String>) -> Self {
        Error::Unreadable {
            source: source.into(),
            what: what.into(),
        }
    }

    /// The error number, where there is one.
    pub fn raw(&self) -> Option<i32> {
        match self {
            Error::Call { errno, .. } => Some(*errno),
            Error::Gone { .. } => Some(libc::ESRCH),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Call { what, errno } => {
                let reason = nix::errno::Errno::from_raw(*errno);
                write!(f, "{what}: {} ({reason:?})", reason.desc().to_lowercase())?;
                match reason {
                    nix::errno::Errno::EMFILE => {
                        f.write_str("; raise the hard limit of open files (ulimit -n)")
                    }
                    _ => Ok(()),
                }
            }
            Error::Gone { pid } => write!(f, "process {pid} died while it was being worked on"),
            Error::Unreadable { source, what } => write!(f, "{source}: {what}"),
            Error::Unsupported { what } => f.write_str(what),
        }
    }
}

impl std::error::Error for Error {}

/// Gives a system call's `-1` its name.
pub(crate) fn check(result: libc::c_long, what: impl FnOnce() -> String) -> Result<u64> {
    if result < 0 {
        Err(Error::last(what()))
    } else {
        Ok(result as u64)
    }
}

/// Gives an error of nix its name.
pub(crate) trait Named<T> {
    /// The same result, with the call named on failure.
    fn named(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Named<T> for nix::Result<T> {
    fn named(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|errno| Error::errno(what(), errno as i32))
    }
}

impl<T> Named<T> for std::io::Result<T> {
    fn named(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::io(what(), &e))
    }
}
