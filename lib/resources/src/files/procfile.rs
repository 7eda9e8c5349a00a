//! Files that the kernel makes up. Those about a process that is dead are opened of one that dies at once.

use super::borrowed::{Borrowed, Seen};
use super::collect::Collector;
use super::departed;
use super::surroundings::Surroundings;
use crate::{Error, Result, Target};
use image::files::procfile::Procfile;
use image::ids::Pid;
use image::path::Name;
use kernel::last_pid::LastPid;
use kernel::open::Root;
use kernel::proc::Proc;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// Takes one.
pub(crate) fn dump(file: &Borrowed, collector: &Collector) -> Result<Procfile> {
    let around = &collector.around;
    if let Some(path) = of_living(file, around) {
        return Ok(Procfile { path, dead: None });
    }
    let (path, pid) = of_dead(file, around).ok_or_else(|| {
        Error::Refused(format!(
            "{}: {} is gone with its process; close it first",
            file.holder, file.link
        ))
    })?;
    let dead = Some(pid);
    Ok(Procfile { path, dead })
}

/// The path of a file that is there. That of one about a network (`/proc/PID/net/dev`) counts as deleted as soon as anybody looks
/// at it again, and leads there nevertheless.
pub(super) fn of_living(file: &Seen, around: &Surroundings) -> Option<Name> {
    let path = around.inside(&file.link)?;
    if is_there(&path, file.key(), around) {
        return Some(path);
    }
    let path = Surroundings::without_deleted(&path);
    let of_network = path.as_path().iter().any(|name| name == "net");
    let (device, inode) = file.key();
    (of_network && around.leads_to(&path, device, inode)).then_some(path)
}

/// Of a file of procfs about a process that is dead, by the numbers of the container's first process or of the host: its
/// path, and who that was.
pub(super) fn of_dead(file: &Seen, around: &Surroundings) -> Option<(Name, Pid)> {
    let path = Surroundings::without_deleted(&around.inside(&file.link)?);
    let (place, pid) = process(path.as_path())?;
    let known = around.view.namespace().is_none() && numbers(&around.view.root, &place).is_some();
    let gone = !is_there(&path, file.key(), around);
    (known && gone).then_some((path, pid))
}

/// Whether a path leads to what was opened by it. What procfs has about a process that lives keeps its inode while it is open;
/// where another has the number of one that is dead, a look finds a new one.
pub(super) fn is_there(path: &Name, (device, inode): (u64, u64), around: &Surroundings) -> bool {
    let found = around.view.root.stat(path.as_path());
    let about_process = departed::number(path.as_path()).is_some();
    found.is_ok_and(|found| !about_process || found.device != device || found.inode == inode)
}

/// Where procfs is mounted and which process it is that a path leads to, itself or its first thread.
fn process(path: &Path) -> Option<(PathBuf, Pid)> {
    let mut place = PathBuf::new();
    let mut names = path.components();
    let pid: Pid = loop {
        let name = names.next()?;
        let number = name.as_os_str().to_str().and_then(|name| name.parse().ok());
        match number {
            Some(pid) => break pid,
            None => place.push(name),
        }
    };
    let rest: Vec<&str> = names
        .map(|name| match name {
            Component::Normal(name) => name.to_str().unwrap_or_default(),
            _ => "",
        })
        .collect();
    let own = pid.to_string();
    let is_its = match rest[..] {
        [] | [_] => true,
        ["task", tid] | ["task", tid, _] => tid == own,
        _ => false,
    };
    (is_its && pid > 0).then_some((place, pid))
}

/// The pid namespace whose numbers a mount of procfs shows, if that is seen from there.
fn numbers(root: &Root, place: &Path) -> Option<PathBuf> {
    let top = root.below(place).ok()?;
    std::fs::read_link(format!("/proc/self/fd/{}/1/ns/pid", top.fd().as_raw_fd())).ok()
}

/// Opens it.
pub(crate) fn restore(
    record: &Procfile,
    flags: u32,
    root: &Root,
    target: &Target,
) -> Result<OwnedFd> {
    let path = record.path.as_path();
    let flags = super::reopening(flags);
    let Some(pid) = record.dead else {
        return Ok(root.open(path, flags)?);
    };
    let strange = || Error::Refused(format!("{path:?}: is no file about process {pid}"));
    let (place, _) = process(path)
        .filter(|(_, of)| *of == pid)
        .ok_or_else(strange)?;
    let wanted = numbers(root, &place).ok_or_else(strange)?;
    let candidates = [target.root_pid, std::process::id() as kernel::Pid];
    let near = candidates.into_iter().find(|near| {
        Proc::process(*near)
            .link("ns/pid")
            .is_ok_and(|there| there == wanted)
    });
    let near = near.ok_or_else(strange)?;
    let below = path.strip_prefix(&place).map_err(|_| strange())?;
    let own = pid.to_string();
    // Where its number is taken by now, it is about another that is as dead.
    for tried in [pid].into_iter().chain(300..) {
        let _brief = match LastPid::of(near, &[tried]) {
            Err(e) if e.raw() == Some(libc::EEXIST) => continue,
            made => made?,
        };
        let tried = tried.to_string();
        let path = below
            .iter()
            .fold(place, |path, name| match name == own.as_str() {
                true => path.join(&tried),
                false => path.join(name),
            });
        return Ok(root.open(&path, flags)?);
    }
    Err(strange())
}
