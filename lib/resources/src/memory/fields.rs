//! The mm fields, by `PR_SET_MM_MAP` (prctl(2)): one call that needs no privilege but for the executable.

use super::executable;
use super::mapped::{Files, Sight};
use super::shared::Inodes;
use crate::{Result, SourceProcess, Target};
use image::ids::Pid;
use image::memory::{Fields, Space};
use kernel::proc::{maps, stat};
use kernel::remote::{Call, Caller, Plant, plant};
use std::os::fd::AsFd;

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
        exe: executable::dump(process, sight, files, inodes)?,
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

/// Sets them. After [`super::clear`], while no file is mapped: the kernel lets go of an executable only when nothing of
/// it is mapped any more (kernel/sys.c, `replace_mm_exe_file`).
pub fn restore(target: &mut Target, inside: Pid, space: &Space) -> Result<()> {
    let exe = executable::missing(target, inside, space)?;
    let process = target.process(inside)?;
    let number = executable::spare(process)?;
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
    let what = match &exe {
        Some(_) => format!(" and the executable{}", executable::what(space)),
        None => String::new(),
    };
    task.must(&format!("set the fields of the address space{what}"), set)?;
    if exe.is_some() {
        task.must("close", Call::new(libc::SYS_close, &[number as u64]))?;
    }
    Ok(())
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
