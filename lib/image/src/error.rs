//! What can go wrong with an image, and the exit code that follows from it.

use crate::source::Undecodable;
use std::fmt;
use std::io;

/// Why an image could not be written or read.
#[derive(Debug)]
pub enum Error {
    /// The bytes are not what the format says, or not what the end record or the seal says.
    Damaged {
        /// Path of the entry in which it was seen.
        entry: String,
        /// Byte of the uncompressed image at which it was seen.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// Neither an image nor an archive: the first bytes are of another kind of file.
    Unrecognised {
        /// What the first bytes look like.
        what: String,
    },
    /// Written in a version of the format that this program does not know.
    Version {
        /// The entry or frame that names the version.
        entry: String,
        /// The version found there.
        found: u64,
        /// The newest version that is known here.
        known: u32,
    },
    /// A seal was asked for and the input has none.
    Unsealed,
    /// The input could not be read.
    Read(io::Error),
    /// The output could not be written.
    Write(io::Error),
    /// A file of the directory form could not be used.
    Directory {
        /// The file, as a path beneath the directory.
        path: String,
        /// What the system said.
        error: io::Error,
    },
    /// What was to be written has no place in the format.
    Refused {
        /// The entry that was to be written.
        entry: String,
        /// Why it cannot be.
        what: String,
    },
}

/// A result with the error of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Whether the input is at fault (exit code 3), not the machine or the caller (exit code 1).
    pub fn is_bad_archive(&self) -> bool {
        match self {
            Error::Damaged { .. }
            | Error::Unrecognised { .. }
            | Error::Version { .. }
            | Error::Unsealed => true,
            Error::Read(_) | Error::Write(_) | Error::Directory { .. } | Error::Refused { .. } => {
                false
            }
        }
    }

    /// A refusal to write `entry`.
    pub(crate) fn refused(entry: &str, what: impl Into<String>) -> Error {
        Error::Refused {
            entry: entry.to_owned(),
            what: what.into(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Damaged {
                entry,
                offset,
                what,
            } => write!(
                f,
                "damaged image: {what} (entry {entry}, offset {offset}); fetch or make it again"
            ),
            Error::Unrecognised { what } => write!(
                f,
                "neither an image nor an archive: {what} (entry header.json, offset 0)"
            ),
            Error::Version {
                entry,
                found,
                known,
            } => write!(
                f,
                "format version {found} is not known here, only {known} (entry {entry}, offset 0); \
                 use the version of the tools that wrote it"
            ),
            Error::Unsealed => write!(
                f,
                "the image has no seal and one is required; run it through pack first"
            ),
            Error::Read(error) => write!(f, "cannot read the image: {error}"),
            Error::Write(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                write!(f, "cannot write: what reads the pipe has ended ({error})")
            }
            Error::Write(error) => write!(f, "cannot write: {error}"),
            Error::Directory { path, error } => {
                write!(f, "cannot use {path} of the unpacked image: {error}")
            }
            Error::Refused { entry, what } => write!(f, "cannot write entry {entry}: {what}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Read(error) | Error::Write(error) | Error::Directory { error, .. } => {
                Some(error)
            }
            _ => None,
        }
    }
}

/// What a layer below the entries found, before the reader adds entry and offset.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The bytes are wrong.
    Damaged(String),
    /// The bytes are wrong, and the layer knows better than the reader where.
    At(Error),
    /// The input could not be read.
    Read(io::Error),
}

impl Fault {
    /// A fault in the bytes.
    pub(crate) fn damaged(what: impl Into<String>) -> Fault {
        Fault::Damaged(what.into())
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        // A source that is itself an image source hands its finding through `io::Error`.
        match error.downcast::<Error>() {
            Ok(error) => Fault::At(error),
            Err(error) => match error.downcast::<Undecodable>() {
                Ok(undecodable) => Fault::Damaged(undecodable.to_string()),
                Err(error) => Fault::Read(error),
            },
        }
    }
}
