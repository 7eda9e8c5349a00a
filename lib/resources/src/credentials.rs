//! Credentials: ids, capabilities, seccomp. The kernel keeps them for each thread, so each thread is given its own. What a
//! thread is already, it is not made again: in a container of an engine it could not be.

mod filters;
mod identity;
mod landlock;

pub use landlock::Witnesses;

use crate::namespaces::user;
use crate::{Blocker, Error, Result, SourceProcess, SourceThread};
use image::credentials::{Capabilities, Credentials, Filter, Ids, Seccomp};
use image::namespaces::user::Users;
use image::threads::Thread;
use kernel::namespaces::{self, Kind};
use kernel::nsfs::Handle;
use kernel::proc::status::{self, Status};
use kernel::remote::{Caller, Stub, call};

/// `CAP_SYS_ADMIN` and `CAP_CHECKPOINT_RESTORE`.
const RESTORE: u64 = 1 << 21 | 1 << 40;
/// Why the credentials of a process cannot be taken, seen from outside.
pub fn blockers(pid: kernel::Pid) -> Result<Vec<Blocker>> {
    let mut found = Vec::new();
    let ours = status::read(std::process::id() as kernel::Pid)?;
    let filtered = status::read(pid)?.get("Seccomp") == Some("2");
    if filtered && ours.get("Seccomp").is_some_and(|mode| mode != "0") {
        found.push(Blocker {
            pid,
            place: String::new(),
            what: "it has seccomp filters, and checkpoint runs under one itself, so that it may not read them".into(),
            remedy: "run checkpoint outside a container".into(),
        });
    }
    Ok(found)
}

/// Takes the credentials of the process: those of its leader.
pub fn dump(process: &mut SourceProcess) -> Result<Credentials> {
    let pid = process.pid;
    let leader = process.leader()?;
    let status = status::read_thread(pid, leader.tid)?;
    let securebits = leader
        .guest
        .must("PR_GET_SECUREBITS", call::prctl(libc::PR_GET_SECUREBITS, 0))?;
    let dumpable = leader
        .guest
        .must("PR_GET_DUMPABLE", call::prctl(libc::PR_GET_DUMPABLE, 0))?;
    let mut all = shown(pid, &status, securebits as u32, dumpable as u32)?;
    all.seccomp = seccomp(pid, leader, &status)?;
    Ok(all)
}

/// Takes those of another thread.
pub(crate) fn of_thread(
    pid: kernel::Pid,
    thread: &mut SourceThread,
    of_process: &Credentials,
) -> Result<Credentials> {
    let status = status::read_thread(pid, thread.tid)?;
    let ask = call::prctl(libc::PR_GET_SECUREBITS, 0);
    let securebits = thread.guest.must("PR_GET_SECUREBITS", ask)? as u32;
    let mut own = shown(pid, &status, securebits, of_process.dumpable)?;
    own.seccomp = seccomp(pid, thread, &status)?;
    Ok(own)
}

fn seccomp(pid: kernel::Pid, thread: &SourceThread, status: &Status) -> Result<Seccomp> {
    Ok(match status.get("Seccomp") {
        Some("1") => Seccomp::Strict,
        Some("2") => Seccomp::Filter {
            filters: filters::dump(pid, thread.guest.task()?)?,
        },
        _ => Seccomp::Disabled,
    })
}

/// All that `/proc` tells: not the filters.
fn shown(pid: kernel::Pid, status: &Status, securebits: u32, dumpable: u32) -> Result<Credentials> {
    let ids = |key: &str| -> Result<Ids> {
        match status.numbers(key)?[..] {
            [real, effective, saved, filesystem] => Ok(Ids {
                real: real as u32,
                effective: effective as u32,
                saved: saved as u32,
                filesystem: filesystem as u32,
            }),
            _ => {
                let source = format!("/proc/{pid}/status");
                Err(kernel::Error::unreadable(source, format!("{key}: not four ids")).into())
            }
        }
    };
    Ok(Credentials {
        uid: ids("Uid")?,
        gid: ids("Gid")?,
        groups: status
            .numbers("Groups")?
            .into_iter()
            .map(|g| g as u32)
            .collect(),
        capabilities: Capabilities {
            inheritable: status.mask("CapInh")?,
            permitted: status.mask("CapPrm")?,
            effective: status.mask("CapEff")?,
            bounding: status.mask("CapBnd")?,
            ambient: status.mask("CapAmb")?,
        },
        securebits,
        no_new_privs: status.number("NoNewPrivs")? != 0,
        seccomp: Seccomp::Disabled,
        dumpable,
    })
}

/// Whether the process may do what only restoring needs (`checkpoint_restore_ns_capable`, include/linux/capability.h):
/// choose pids, say what its executable is. One in a container of an engine may not.
pub(crate) fn may_restore(pid: kernel::Pid) -> Result<bool> {
    Ok(status::read(pid)?.mask("CapEff")? & RESTORE != 0)
}

/// The same of pids alone: those of its pid namespace, which may belong to a user namespace around its own.
pub(crate) fn may_choose_pids(pid: kernel::Pid) -> Result<bool> {
    let user = namespaces::identity(pid, Kind::User)?;
    if !may_restore(pid)? || user == namespaces::own(Kind::User)? {
        return may_restore(pid);
    }
    let mut around = Handle::of(pid, pid, Kind::Pid)?.owner()?;
    while let Some(owner) = around {
        if owner.inode() == user {
            return Ok(true);
        }
        around = owner.parent()?;
    }
    Ok(false)
}

/// What all tasks of a container being rebuilt have from its first process, before they are given their own.
#[derive(Debug, Clone, Default)]
pub struct Base {
    securebits: u32,
    filters: Vec<Filter>,
    /// Whether the first filter of each recorded task is the source's engine's own.
    first_is_engines: bool,
}

impl Base {
    /// That of any process, none of whose credentials have been given back yet.
    pub fn of(stub: &mut Stub, first_is_engines: bool) -> Result<Self> {
        let bits = stub.must("PR_GET_SECUREBITS", call::prctl(libc::PR_GET_SECUREBITS, 0))?;
        let filtered = status::read(stub.tid())?.get("Seccomp") == Some("2");
        Ok(Base {
            securebits: bits as u32,
            filters: match filtered {
                true => filters::read(stub.task()?)?,
                false => Vec::new(),
            },
            first_is_engines,
        })
    }
}

/// Gives a thread its credentials, and with them its signal for the parent's death, which a change of ids would clear.
/// Filters come first, while the thread may still load them.
pub fn restore(
    stub: &mut Stub,
    thread: &Thread,
    of_process: &Credentials,
    base: &Base,
) -> Result<()> {
    let record = thread.credentials.as_ref().unwrap_or(of_process);
    let tid = stub.tid();
    let now = shown(tid, &status::read(tid)?, base.securebits, 1)?;
    // Inside a user namespace ids have other numbers.
    let (mut record, mut now) = (record.clone(), now);
    if namespaces::identity(tid, Kind::User)? != namespaces::own(Kind::User)? {
        let maps = user::dump(tid)?;
        record = said(record, &maps);
        now = said(now, &maps);
    }
    let record = &record;
    let lacking = identity::lacking(record, &now);
    if !lacking.is_empty() {
        return Err(blocked(
            stub,
            lacking.join("; "),
            "give the container those capabilities (--cap-add), or restore it as a native one (--engine native) with all \
             capabilities",
        ));
    }
    if record.no_new_privs && !now.no_new_privs {
        stub.must(
            "PR_SET_NO_NEW_PRIVS",
            call::prctl(libc::PR_SET_NO_NEW_PRIVS, 1),
        )?;
    }
    filters::restore(stub, record, &now, base)?;
    let (address, _) = stub.scratch()?;
    let (mut calls, bytes) = identity::calls(record, &now, address)?;
    if !calls.is_empty() {
        stub.put(&bytes)?;
    }
    // PR_SET_DUMPABLE takes no 2, which a change of ids sets where fs.suid_dumpable says so (prctl(2)).
    let dumpable = u64::from(record.dumpable == 1);
    calls.extend([
        ("PR_SET_DUMPABLE", call::set_dumpable(dumpable)),
        (
            "PR_SET_PDEATHSIG",
            call::prctl(libc::PR_SET_PDEATHSIG, thread.death_signal as u64),
        ),
    ]);
    let plain: Vec<_> = calls.iter().map(|(_, call)| *call).collect();
    stub.must_all(&plain, &|i| {
        calls.get(i).map_or("", |(what, _)| what).to_owned()
    })?;
    Ok(())
}

/// Credentials with the numbers that a user namespace has for ids that we see; for one that it has none for, as the kernel
/// shows it (`/proc/sys/kernel/overflowuid`).
fn said(mut credentials: Credentials, maps: &Users) -> Credentials {
    const NONE: u32 = 65534;
    for (ids, map) in [
        (&mut credentials.uid, &maps.uids),
        (&mut credentials.gid, &maps.gids),
    ] {
        for id in [
            &mut ids.real,
            &mut ids.effective,
            &mut ids.saved,
            &mut ids.filesystem,
        ] {
            *id = user::inside(map, *id).unwrap_or(NONE);
        }
    }
    for id in &mut credentials.groups {
        *id = user::inside(&maps.gids, *id).unwrap_or(NONE);
    }
    credentials
}

fn blocked(stub: &Stub, what: String, remedy: &str) -> Error {
    Error::Blocked(vec![Blocker {
        pid: stub.tid(),
        place: "credentials".into(),
        what,
        remedy: remedy.into(),
    }])
}
