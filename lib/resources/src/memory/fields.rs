//! The mm fields, by `PR_SET_MM_MAP` (prctl(2)): one call that needs no privilege but for the executable.

use super::mapped::{self, Files, Sight};
use super::shared::Inodes;
use crate::{Error, Result, SourceProcess, Target};
use image::ids::Pid;
use image::memory::{Executable, Fields, Space};
use kernel::open::Root;
use kernel::proc::{maps, stat};
use kernel::remote::{Call, Caller, Plant, plant};
use nix::sys::stat::fstat;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// Takes them; fields of `/proc/PID/stat` by their numbers in proc_pid_stat(5).
pub(super) fn dump(
    process: &mut SourceProcess,
    shown: &[maps::Area],
    sight: &Sight,
    files: &mut Files,
    inodes: &mut Inodes,
) -> Result<Fields> {
    let stat = stat::read(process.pid)?;
    let field = |number| stat.field(number) as u64;
    Ok(Fields {
        start_code: field(26),
        end_code: field(27),
        start_data: field(45),
        end_data: field(46),
        start_brk: field(47),
        brk: brk(process, shown, field(47))?,
        start_stack: field(28),
        arg_start: field(48),
        arg_end: field(49),
        env_start: field(50),
        env_end: field(51),
        auxv: process.proc.bytes("auxv")?.into(),
        exe: executable(process, sight, files, inodes)?,
    })
}

/// Where the heap ends: by asking, or, in a program that cannot be asked, where its area ends.
fn brk(process: &mut SourceProcess, shown: &[maps::Area], start: u64) -> Result<u64> {
    match process.leader()?.guest.call(Call::new(libc::SYS_brk, &[0])) {
        Ok(brk) => Ok(brk as u64),
        Err(kernel::Error::Unsupported { .. }) => {
            let heap = shown.iter().filter(|area| area.name == b"[heap]");
            Ok(heap.map(|area| area.end).max().unwrap_or(start))
        }
        Err(e) => Err(e.into()),
    }
}

fn executable(
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

/// Sets them. After [`super::clear`], while no file is mapped: the kernel lets go of an executable only when nothing of
/// it is mapped any more (kernel/sys.c, `replace_mm_exe_file`).
pub fn restore(target: &mut Target, inside: Pid, space: &Space) -> Result<()> {
    let exe = space
        .fields
        .exe
        .map(|exe| open(target, space, exe))
        .transpose()?;
    let process = target.process(inside)?;
    let number = process
        .proc
        .numbers("fd")?
        .last()
        .map_or(0, |last| last + 1);
    if let Some(fd) = &exe {
        let plants = [Plant {
            fd: fd.as_fd(),
            number,
            close_on_exec: true,
        }];
        plant(&mut process.leader, &process.pidfd, &plants)?;
    }
    let task = &mut process.leader;
    let (at, _) = task.scratch()?;
    let auxv = &space.fields.auxv.0;
    let exe_fd = exe.as_ref().map_or(-1, |_| number);
    let bytes = prctl_mm_map(&space.fields, at + MAP_LEN, exe_fd);
    task.write(at, &bytes)?;
    task.write(at + MAP_LEN, auxv)?;
    let (option, field) = (libc::PR_SET_MM as u64, libc::PR_SET_MM_MAP as u64);
    let set = Call::new(libc::SYS_prctl, &[option, field, at, MAP_LEN, 0]);
    let what = match space.fields.exe {
        Some(Executable::File { file }) => space.files.get(file as usize).map(|f| &f.path),
        _ => None,
    };
    let what = what.map_or(String::new(), |path| format!(" and the executable {path}"));
    task.must(&format!("set the fields of the address space{what}"), set)?;
    if exe.is_some() {
        task.must("close", Call::new(libc::SYS_close, &[number as u64]))?;
    }
    Ok(())
}

fn open(target: &Target, space: &Space, exe: Executable) -> Result<OwnedFd> {
    match exe {
        Executable::File { file } => {
            let file = space.files.get(file as usize).ok_or_else(|| {
                Error::Refused(format!("the executable, file {file}, is not in the image"))
            })?;
            mapped::open(&Root::of(target.root_pid)?, file, false, false)
        }
        Executable::Shared { id } => {
            let fd = target.objects.get(&id).ok_or_else(|| {
                Error::Refused(format!(
                    "the executable, inode {}, is not in the image",
                    id.0
                ))
            })?;
            Ok(kernel::descriptor::reopen(fd.as_fd(), libc::O_RDONLY)?)
        }
    }
}

/// `sizeof(struct prctl_mm_map)` (include/uapi/linux/prctl.h).
const MAP_LEN: u64 = 104;

fn prctl_mm_map(fields: &Fields, auxv: u64, exe_fd: i32) -> Vec<u8> {
    let f = fields;
    let words = [
        f.start_code,
        f.end_code,
        f.start_data,
        f.end_data,
        f.start_brk,
        f.brk,
        f.start_stack,
        f.arg_start,
        f.arg_end,
        f.env_start,
        f.env_end,
        if f.auxv.0.is_empty() { 0 } else { auxv },
    ];
    let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
    bytes.extend((f.auxv.0.len() as u32).to_ne_bytes());
    bytes.extend(exe_fd.to_ne_bytes());
    bytes
}
