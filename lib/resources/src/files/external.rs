//! Standard streams that lead outside.

use super::borrowed::Borrowed;
use crate::Result;
use image::files::external::{External, Stream};
use kernel::descriptor::{self, O_ACCMODE, O_APPEND, O_ASYNC, O_NONBLOCK, S_IFCHR, S_IFIFO};
use kernel::error::EBADF;
use kernel::open::Root;
use kernel::pidfd::PidFd;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Where standard streams lead that led outside.
#[derive(Debug, Default)]
pub enum Stdio {
    /// To `/dev/null`.
    #[default]
    Null,
    /// To where those of this very process lead.
    Ours,
    /// To where an engine had its own container's lead: descriptors 0, 1 and 2 of the vessel's process 1, see [`of`].
    Vessel([Option<OwnedFd>; 3]),
}

/// Standard input, output and error of a process, borrowed: those of a vessel, before it is poured into.
pub fn of(pid: kernel::Pid) -> Result<Stdio> {
    let process = PidFd::open(pid)?;
    let borrow = |number| match process.borrow(number) {
        Err(e) if e.raw() == Some(EBADF) => Ok(None),
        fd => fd.map(Some),
    };
    Ok(Stdio::Vessel([borrow(0)?, borrow(1)?, borrow(2)?]))
}

/// Takes one.
pub(crate) fn dump(file: &Borrowed, stream: Stream) -> External {
    External {
        was: file.link.clone(),
        stream,
    }
}

/// Opens what stands for it.
pub(crate) fn restore(record: &External, flags: u32, stdio: &Stdio) -> Result<OwnedFd> {
    match stdio {
        Stdio::Null => null(flags),
        Stdio::Ours => {
            let fd = match record.stream {
                Stream::Input => descriptor::duplicate(std::io::stdin().as_fd()),
                Stream::Output => descriptor::duplicate(std::io::stdout().as_fd()),
                Stream::Error => descriptor::duplicate(std::io::stderr().as_fd()),
            };
            Ok(fd?)
        }
        Stdio::Vessel(given) => {
            let [input, output, error] = given;
            let chosen = match record.stream {
                Stream::Input => input,
                Stream::Output => output,
                Stream::Error => error,
            };
            match chosen {
                Some(fd) => vessels(fd.as_fd(), flags as i32),
                None => null(flags),
            }
        }
    }
}

pub(super) fn null(flags: u32) -> Result<OwnedFd> {
    let access = flags as i32 & O_ACCMODE;
    Ok(Root::at(Path::new("/"))?.open(Path::new("/dev/null"), access)?)
}

/// The vessel's own, or, where its status flags are not those wanted, the same pipe or device opened once more: the
/// engine may hold the same open file description, and its flags are not ours to change. A file keeps the offset that it
/// shares with the engine, and so its flags.
fn vessels(fd: BorrowedFd, flags: i32) -> Result<OwnedFd> {
    const SET: i32 = O_APPEND | O_NONBLOCK;
    let now = descriptor::flags(fd)?;
    let format = descriptor::stat(fd)?.format();
    let own = (now ^ flags) & SET != 0 && matches!(format, S_IFIFO | S_IFCHR);
    if own && let Ok(fd) = descriptor::reopen(fd, now & O_ACCMODE | O_NONBLOCK) {
        descriptor::set_flags(fd.as_fd(), flags & !O_ASYNC)?;
        return Ok(fd);
    }
    Ok(descriptor::duplicate(fd)?)
}
