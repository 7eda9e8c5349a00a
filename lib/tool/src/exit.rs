//! Exit codes, which are an interface, and which error means which.

use std::error::Error;
use std::fmt;
use std::io;
use std::process::ExitCode;

/// How a tool ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: failed.
    Failed,
    /// 2: bad usage.
    Usage,
    /// 3: bad archive: damaged, truncated, tampered with, of an unknown version.
    BadArchive,
    /// 4: cannot be done: the container uses, or this host lacks, something.
    Impossible,
    /// 5: no such container, or the name is taken.
    Name,
    /// The status of the container's process 1, where a tool waits for it.
    Status(u8),
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::BadArchive => 3,
            Exit::Impossible => 4,
            Exit::Name => 5,
            Exit::Status(code) => code,
        }
    }

    /// What an error means: the first of its causes that knows decides, otherwise it is 1.
    pub fn of(error: &anyhow::Error) -> Exit {
        error.chain().find_map(of_cause).unwrap_or(Exit::Failed)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

fn of_cause(cause: &(dyn Error + 'static)) -> Option<Exit> {
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return Some(failure.exit);
    }
    if let Some(error) = cause.downcast_ref::<image::Error>() {
        return Some(if error.is_bad_archive() {
            Exit::BadArchive
        } else {
            Exit::Failed
        });
    }
    // An image's entry is read through `Read`, whose errors wrap the image's own.
    let inner = cause.downcast_ref::<io::Error>()?.get_ref()?;
    of_cause(inner)
}

/// An error that knows its exit code: for what only a tool can judge.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    what: String,
}

impl Failure {
    /// What went wrong, in words with a remedy, and how the tool is to end.
    pub fn new(exit: Exit, what: impl Into<String>) -> Failure {
        Failure {
            exit,
            what: what.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn an_error_ends_with_the_code_of_its_cause() {
        let unsealed = || Err::<(), _>(image::Error::Unsealed);
        let wrapped = || io::Error::other(image::Error::Unsealed);
        let full = || image::Error::Write(io::ErrorKind::StorageFull.into());
        for (error, exit) in [
            (
                unsealed().context("in context").unwrap_err(),
                Exit::BadArchive,
            ),
            (wrapped().into(), Exit::BadArchive),
            (full().into(), Exit::Failed),
            (anyhow::anyhow!("words"), Exit::Failed),
            (
                Failure::new(Exit::Name, "no such container").into(),
                Exit::Name,
            ),
        ] {
            assert_eq!(Exit::of(&error), exit, "{error:#}");
        }
    }
}
