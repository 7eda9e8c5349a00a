//! Working directory, root directory and umask.

use super::directory;
use super::surroundings::Surroundings;
use crate::target::TargetTask;
use crate::{Error, Result};
use image::files::directory::Directory;
use image::files::fs::Fs;
use image::path::Name;
use kernel::descriptor::{O_DIRECTORY, O_PATH};
use kernel::open::Root;
use kernel::proc::{Proc, status};
use kernel::remote::{Call, Caller, Plant, plant};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

/// Takes those of one task.
pub(crate) fn dump(pid: kernel::Pid, around: &Surroundings) -> Result<Fs> {
    around.view.as_process(pid);
    let proc = Proc::process(pid);
    let status = status::read(pid)?;
    let umask = status
        .get("Umask")
        .and_then(|m| u32::from_str_radix(m.trim(), 8).ok());
    Ok(Fs {
        cwd: place(&proc, "cwd", around)?,
        root: place(&proc, "root", around)?,
        umask: umask
            .ok_or_else(|| kernel::Error::unreadable(format!("/proc/{pid}/status"), "no Umask"))?,
    })
}

fn place(proc: &Proc, which: &str, around: &Surroundings) -> Result<Directory> {
    let link = proc.link(which)?;
    let path = proc.path(which);
    let stat = std::fs::metadata(&path)
        .map_err(|e| kernel::Error::io(format!("stat {}", path.display()), &e))?;
    let key = (stat.dev(), stat.ino());
    directory::at(
        &Name::from(link.as_path()),
        key,
        stat.mode() & 0o7777,
        around,
    )
    .map_err(|what| Error::Refused(format!("{}: {what}", path.display())))
}

/// Gives them to a task: directories are opened on our side and entered by descriptor.
pub(crate) fn restore(task: &mut TargetTask, record: &Fs, root: &Root) -> Result<()> {
    let flags = (O_PATH | O_DIRECTORY) as u32;
    let cwd = directory::restore(&record.cwd, flags, root)?;
    let chroot = match record.root.path.0.as_slice() {
        b"/" => None,
        _ => Some(directory::restore(&record.root, flags, root)?),
    };
    let spare = task.proc.numbers("fd")?.last().map_or(3, |last| last + 1);
    let enter = |at: &std::os::fd::OwnedFd, task: &mut TargetTask| -> Result<()> {
        let plants = [Plant {
            fd: at.as_fd(),
            number: spare,
            close_on_exec: true,
        }];
        plant(task.stub, task.pidfd, &plants)?;
        let fchdir = Call::new(libc::SYS_fchdir, &[spare as u64]);
        task.stub.must("fchdir", fchdir)?;
        let close = Call::new(libc::SYS_close, &[spare as u64]);
        task.stub.must("close", close)?;
        Ok(())
    };
    if let Some(root) = chroot {
        enter(&root, task)?;
        let dot = task.stub.put(b".\0")?;
        let call = Call::new(libc::SYS_chroot, &[dot]);
        task.stub
            .must(&format!("chroot to {}", record.root.path), call)?;
    }
    enter(&cwd, task)?;
    let umask = Call::new(libc::SYS_umask, &[u64::from(record.umask & 0o777)]);
    task.stub.must("umask", umask)?;
    Ok(())
}
