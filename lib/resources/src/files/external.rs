//! Standard streams that lead outside.

use super::borrowed::Borrowed;
use crate::Result;
use image::files::external::{External, Stream};
use kernel::descriptor;
use kernel::open::Root;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Where standard streams lead that led outside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stdio {
    /// To `/dev/null`.
    #[default]
    Null,
    /// To where those of this very process lead.
    Ours,
}

/// Takes one.
pub(crate) fn dump(file: &Borrowed, stream: Stream) -> External {
    External {
        was: file.link.clone(),
        stream,
    }
}

/// Opens what stands for it.
pub(crate) fn restore(record: &External, flags: u32, stdio: Stdio) -> Result<OwnedFd> {
    let fd = match (stdio, record.stream) {
        (Stdio::Null, _) => {
            let access = flags as i32 & descriptor::O_ACCMODE;
            return Ok(Root::at(Path::new("/"))?.open(Path::new("/dev/null"), access)?);
        }
        (Stdio::Ours, Stream::Input) => descriptor::duplicate(std::io::stdin().as_fd()),
        (Stdio::Ours, Stream::Output) => descriptor::duplicate(std::io::stdout().as_fd()),
        (Stdio::Ours, Stream::Error) => descriptor::duplicate(std::io::stderr().as_fd()),
    };
    Ok(fd?)
}
