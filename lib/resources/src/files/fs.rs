//! Working directory, root directory and umask.

use super::CoveredRoots;
use super::surroundings::Surroundings;
use super::{departed, directory};
use crate::target::TargetTask;
use crate::{Error, Result};
use image::files::directory::Directory;
use image::files::fs::{Covered, Fs};
use image::ids::MountId;
use image::path::Name;
use kernel::descriptor;
use kernel::open::Root;
use kernel::proc::{Proc, status};
use kernel::remote::{Call, Caller, Plant, plant};
use std::os::fd::AsFd;

/// Takes those of one task.
pub(crate) fn dump(pid: kernel::Pid, around: &Surroundings) -> Result<Fs> {
    let proc = Proc::process(pid);
    let status = status::read(pid)?;
    let umask = status
        .get("Umask")
        .and_then(|m| u32::from_str_radix(m.trim(), 8).ok());
    let (cwd, of_cwd) = place(pid, &proc, "cwd", around)?;
    let (root, of_root) = place(pid, &proc, "root", around)?;
    Ok(Fs {
        cwd,
        root,
        covered: Covered {
            cwd: of_cwd,
            root: of_root,
        },
        umask: umask
            .ok_or_else(|| kernel::Error::unreadable(format!("/proc/{pid}/status"), "no Umask"))?,
    })
}

fn place(
    pid: kernel::Pid,
    proc: &Proc,
    which: &str,
    around: &Surroundings,
) -> Result<(Directory, Option<MountId>)> {
    let link = proc.link(which)?;
    let path = proc.path(which);
    let there = Root::at(&path)?;
    let stat = descriptor::stat(there.fd())?;
    around.view.at_mount(pid, descriptor::mount(there.fd())?);
    let key = (stat.device, stat.inode);
    let link = Name::from(link.as_path());
    if let Some(found) = departed::dump(&path, &link, &stat, around) {
        return Ok((found, None));
    }
    let found = directory::at(&link, key, stat.permissions(), around)
        .map_err(|what| Error::Refused(format!("{}: {what}", path.display())))?;
    Ok((found, around.view.covered()))
}

/// Gives them to a task: directories are opened on our side and entered by descriptor. `first` is the container's first
/// process.
pub(crate) fn restore(
    task: &mut TargetTask,
    record: &Fs,
    root: &Root,
    covered: &CoveredRoots,
    first: kernel::Pid,
) -> Result<()> {
    let tid = task.stub.tid();
    let open = |record, mount| departed::restore(record, covered.at(mount, root)?, first, tid);
    // What a process of ours shows is there as long as that is.
    let (cwd, _of_cwd) = open(&record.cwd, record.covered.cwd)?;
    let is_plain = record.root.path.0 == b"/" && record.covered.root.is_none();
    // The same directory, not another like it: a way up would lead out.
    let is_cwd = (&record.root, record.covered.root) == (&record.cwd, record.covered.cwd);
    let other = match is_plain || is_cwd {
        true => None,
        false => Some(open(&record.root, record.covered.root)?),
    };
    let chroot = match &other {
        Some((root, _)) => Some(root),
        None => (!is_plain).then_some(&cwd),
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
        enter(root, task)?;
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
