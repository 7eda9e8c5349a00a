//! The executable of a process, as `/proc/PID/exe` shows it. A privileged process says with its other fields what it is
//! to be ([`super::fields`]); any other has to execute it, which must come before everything else: `execve(2)` gives it
//! new memory. Nothing of the program runs.

use super::mapped::{self, Files, Sight};
use super::shared::{DELETED, Inodes};
use crate::files::CoveredRoots;
use crate::{Error, Result, SourceProcess, Target, TargetProcess, credentials};
use image::ids::Pid;
use image::memory::{Executable, Space};
use kernel::open::Root;
use kernel::proc::stat;
use kernel::remote::{Call, Caller, Plant, plant};
use nix::sys::stat::fstat;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

/// Takes it.
pub(super) fn dump(
    process: &SourceProcess,
    sight: &Sight,
    files: &mut Files,
    inodes: &mut Inodes,
) -> Result<Option<Executable>> {
    let link = process.proc.path("exe");
    let name = match std::fs::read_link(&link) {
        Ok(name) => name,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(kernel::Error::io(format!("readlink {}", link.display()), &e).into()),
    };
    let fd: OwnedFd = std::fs::File::open(&link)
        .map_err(|e| kernel::Error::io(format!("open {}", link.display()), &e))?
        .into();
    let behind = fstat(&fd).map_err(|e| super::call("stat of an executable", e))?;
    let path = sight.inside(name.as_os_str().as_bytes());
    Ok(Some(if sight.leads_to(&path, &behind) {
        Executable::File {
            file: files.place(path, &behind, sight)?,
        }
    } else {
        Executable::Shared {
            id: inodes.take(fd)?,
        }
    }))
}

/// The executable that a process is to have and does not have yet.
pub(super) fn missing(target: &mut Target, inside: Pid, space: &Space) -> Result<Option<OwnedFd>> {
    let Some(exe) = space.fields.exe else {
        return Ok(None);
    };
    let fd = open(target, inside, space, exe)?;
    let process = target
        .processes
        .get(&inside)
        .ok_or_else(|| Error::Refused(format!("process {inside} is not in its tree")))?;
    let has = std::fs::metadata(process.proc.path("exe"));
    let wants = fstat(&fd).map_err(|e| super::call("stat of an executable", e))?;
    let same = has.is_ok_and(|has| (has.dev(), has.ino()) == (wants.st_dev, wants.st_ino))
        && name(process, target)? == shown(space, exe);
    Ok((!same).then_some(fd))
}

/// What the link of a process says, where a file has several names.
fn name(process: &TargetProcess, target: &Target) -> Result<Option<Vec<u8>>> {
    let link = process.proc.link("exe")?;
    let bytes = link.as_os_str().as_bytes();
    if bytes.ends_with(DELETED) {
        return Ok(None);
    }
    let path = Sight::of(target.root_of(process.inside))?.inside(bytes);
    Ok(Some(path.into_os_string().into_encoded_bytes()))
}

fn shown(space: &Space, exe: Executable) -> Option<Vec<u8>> {
    match exe {
        Executable::File { file } => space.files.get(file as usize).map(|f| f.path.0.clone()),
        Executable::Shared { .. } => None,
    }
}

fn open(target: &mut Target, inside: Pid, space: &Space, exe: Executable) -> Result<OwnedFd> {
    match exe {
        Executable::File { file } => {
            let file = space.files.get(file as usize).ok_or_else(|| {
                Error::Refused(format!("the executable, file {file}, is not in the image"))
            })?;
            let root = match file.outer {
                true => target.root_pid,
                false => target.root_of(inside),
            };
            let covered = CoveredRoots::of(&target.covered)?;
            let root = Root::of(root)?;
            mapped::open(covered.at(file.covered, &root)?, file, false, false)
        }
        Executable::Shared { id } => {
            let held = target.objects.get_mut(&id).ok_or_else(|| {
                Error::Refused(format!(
                    "the executable, inode {}, is not in the image",
                    id.0
                ))
            })?;
            let fd = kernel::descriptor::reopen(held.as_fd(), libc::O_RDONLY)?;
            // No file that is open for writing is executed (execve(2), ETXTBSY); a memory file is, as it was made.
            let name = kernel::proc::name_of(held.as_fd())?;
            if !name.as_os_str().as_bytes().starts_with(b"/memfd:") {
                *held = kernel::descriptor::duplicate(fd.as_fd())?;
            }
            Ok(fd)
        }
    }
}

/// Has a process that cannot say what it is execute it.
pub(super) fn execute(target: &mut Target, inside: Pid, space: &Space) -> Result<()> {
    let Some(fd) = missing(target, inside, space)? else {
        return Ok(());
    };
    let what = what(space);
    let process = target.process(inside)?;
    if credentials::may_restore(process.pid)? {
        return Ok(());
    }
    if stat::read(process.pid)?.exit_signal() != libc::SIGCHLD {
        return Err(Error::Refused(format!(
            "process {inside} says by another signal than SIGCHLD that it ends, and would not any more if it were made \
             to execute{what}, as it must where it has no CAP_CHECKPOINT_RESTORE: restore it as a native container \
             (--engine native), or give its container that capability"
        )));
    }
    let number = spare(process)?;
    let plants = [Plant {
        fd: fd.as_fd(),
        number,
        close_on_exec: true,
    }];
    plant(&mut process.leader, &process.pidfd, &plants)?;
    drop(fd);
    let (at, _) = process.leader.scratch()?;
    // An empty path, which is also the only argument; and no environment.
    let words = [0, at, 0, 0];
    let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_ne_bytes).collect();
    process.leader.write(at, &bytes)?;
    let empty_path = libc::AT_EMPTY_PATH as u64;
    let arguments = [number as u64, at, at + 8, at + 24, empty_path];
    let call = Call::new(libc::SYS_execveat, &arguments);
    process
        .leader
        .become_another(&format!("execute{what} in process {inside}"), call)?;
    Ok(())
}

/// The executable's name, for messages: ` /usr/bin/java`.
pub(super) fn what(space: &Space) -> String {
    let name = space.fields.exe.and_then(|exe| shown(space, exe));
    let name = name.unwrap_or_else(|| b"its executable, which was deleted,".to_vec());
    format!(" {}", String::from_utf8_lossy(&name))
}

/// A descriptor that is free in the process.
pub(super) fn spare(process: &TargetProcess) -> Result<i32> {
    let numbers = process.proc.numbers("fd")?;
    Ok(numbers.last().map_or(0, |last| last + 1))
}
