//! One descriptor of a task, looked at from outside: borrowed, its link and its fdinfo read.

use crate::Result;
use image::path::Name;
use kernel::descriptor::{self, Stat};
use kernel::proc::Proc;
use kernel::proc::fdinfo::{self, FdInfo};
use std::os::fd::{AsFd, OwnedFd};

/// Where an open file description is at hand: a process of ours (or we ourselves), and its descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Holder {
    /// Our pid of the process.
    pub pid: kernel::Pid,
    /// Its descriptor.
    pub number: i32,
}

impl Holder {
    /// For kcmp(2).
    pub fn pair(self) -> (kernel::Pid, i32) {
        (self.pid, self.number)
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {}, descriptor {}", self.pid, self.number)
    }
}

/// What is seen of a descriptor.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Whose it is.
    pub holder: Holder,
    /// What `/proc/PID/fd/N` points to.
    pub link: Name,
    /// Its fdinfo.
    pub fdinfo: FdInfo,
    /// fstat(2) of it.
    pub stat: Stat,
    /// Magic number of its file system.
    pub filesystem: i64,
}

/// One that is at hand.
#[derive(Debug)]
pub(crate) struct Borrowed {
    /// What is seen of it.
    pub seen: Seen,
    /// The same open file description, ours.
    pub fd: OwnedFd,
}

impl std::ops::Deref for Borrowed {
    type Target = Seen;

    fn deref(&self) -> &Seen {
        &self.seen
    }
}

impl Borrowed {
    /// Looks at a descriptor: `fd` is the same, borrowed.
    pub fn look(holder: Holder, fd: OwnedFd) -> Result<Self> {
        let proc = Proc::process(holder.pid);
        let link = proc.link(&format!("fd/{}", holder.number))?;
        let mut fdinfo = fdinfo::parse(&proc.text(&format!("fdinfo/{}", holder.number))?)?;
        // The slave of a terminal keeps an O_CLOEXEC that it was opened with among its status flags (ptm_open_peer,
        // drivers/tty/pty.c), where it says nothing of a descriptor: standard streams are there to be inherited.
        let stuck = descriptor::flags(fd.as_fd())? & descriptor::O_CLOEXEC != 0;
        if stuck && (0..=2).contains(&holder.number) {
            fdinfo.flags &= !descriptor::O_CLOEXEC as u32;
        }
        let seen = Seen {
            holder,
            link: Name::from(link.as_path()),
            fdinfo,
            stat: descriptor::stat(fd.as_fd())?,
            filesystem: descriptor::filesystem(fd.as_fd())?,
        };
        Ok(Borrowed { seen, fd })
    }
}

impl Seen {
    /// `O_*` without `O_CLOEXEC`.
    pub fn flags(&self) -> i32 {
        self.fdinfo.flags as i32 & !descriptor::O_CLOEXEC
    }

    /// Device and inode.
    pub fn key(&self) -> (u64, u64) {
        (self.stat.device, self.stat.inode)
    }

    /// Open for reading, for writing.
    pub fn access(&self) -> (bool, bool) {
        match self.flags() & descriptor::O_ACCMODE {
            descriptor::O_RDONLY => (true, false),
            descriptor::O_WRONLY => (false, true),
            _ => (true, true),
        }
    }
}
