//! What can go wrong in a room, and what a container holds that cannot be moved.

use std::fmt;

/// The result of every room.
pub type Result<T> = std::result::Result<T, Error>;

/// Something in a container that cannot be taken, or cannot be given back here. Found before anything is frozen or made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    /// The process, in our pid namespace; 0 where it is the container as a whole.
    pub pid: i32,
    /// Descriptor (`descriptor 7`), address or path; empty where the process says it all.
    pub place: String,
    /// What it is: `io_uring`, `an established TCP connection to 10.0.0.1:80`.
    pub what: String,
    /// What the user can do about it.
    pub remedy: String,
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pid != 0 {
            write!(f, "process {}", self.pid)?;
            if !self.place.is_empty() {
                write!(f, ", ")?;
            }
        }
        write!(f, "{}", self.place)?;
        if self.pid != 0 || !self.place.is_empty() {
            write!(f, ": ")?;
        }
        write!(f, "{} ({})", self.what, self.remedy)
    }
}

/// An error of a room.
#[derive(Debug)]
pub enum Error {
    /// The kernel refused.
    Kernel(kernel::Error),
    /// The image is not right, or its writing or reading failed.
    Image(image::Error),
    /// The container uses, or this host lacks, something: all of it at once.
    Blocked(Vec<Blocker>),
    /// No such container, or its name is taken.
    Name(String),
    /// A record asks for what cannot be: what, which process or descriptor, remedy.
    Refused(String),
}

impl Error {
    /// What a tool that fails with it ends with: 1 failed, 3 bad archive, 4 cannot be done, 5 no such container or the
    /// name is taken.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Image(e) if e.is_bad_archive() => 3,
            Error::Blocked(_) | Error::Kernel(kernel::Error::Unsupported { .. }) => 4,
            Error::Refused(_) | Error::Kernel(_) | Error::Image(_) => 1,
            Error::Name(_) => 5,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Kernel(e) => e.fmt(f),
            Error::Image(e) => e.fmt(f),
            Error::Blocked(blockers) => {
                write!(f, "cannot be done:")?;
                blockers.iter().try_for_each(|b| write!(f, "\n  {b}"))
            }
            Error::Name(what) | Error::Refused(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Error {}

impl From<kernel::Error> for Error {
    fn from(error: kernel::Error) -> Self {
        Error::Kernel(error)
    }
}

impl From<image::Error> for Error {
    fn from(error: image::Error) -> Self {
        Error::Image(error)
    }
}
