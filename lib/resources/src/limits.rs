//! Resource limits, and the other settings of a process as a whole.

use crate::{Error, Result, SourceProcess, TargetProcess};
use image::limits::{Limit, Limits, Resource};
use kernel::proc::{Proc, limits};
use kernel::remote::{Call, Caller, Guest, Plant, Stub, call, plant};
use kernel::rlimit;
use std::os::fd::AsFd;

/// `PR_SET_MDWE`, `PR_GET_MDWE` (include/uapi/linux/prctl.h).
const SET_MDWE: i32 = 65;
const GET_MDWE: i32 = 66;
/// `PR_SET_MEMORY_MERGE`, `PR_GET_MEMORY_MERGE`.
const SET_MEMORY_MERGE: i32 = 67;
const GET_MEMORY_MERGE: i32 = 68;
/// `MEMBARRIER_CMD_GET_REGISTRATIONS` (include/uapi/linux/membarrier.h).
const GET_REGISTRATIONS: u64 = 1 << 9;
/// No user has logged in (`AUDIT_UID_UNSET`).
const NOBODY: u32 = u32::MAX;
const SET_THP_DISABLE: i32 = libc::PR_SET_THP_DISABLE;
const GET_THP_DISABLE: i32 = libc::PR_GET_THP_DISABLE;

/// In the order of `RLIMIT_*`.
const RESOURCES: [Resource; 16] = [
    Resource::Cpu,
    Resource::Fsize,
    Resource::Data,
    Resource::Stack,
    Resource::Core,
    Resource::Rss,
    Resource::Nproc,
    Resource::Nofile,
    Resource::Memlock,
    Resource::As,
    Resource::Locks,
    Resource::Sigpending,
    Resource::Msgqueue,
    Resource::Nice,
    Resource::Rtprio,
    Resource::Rttime,
];

/// Takes limits and settings.
pub fn dump(process: &mut SourceProcess) -> Result<Limits> {
    let pid = process.pid;
    let resources = limits::read(pid)?
        .into_iter()
        .zip(RESOURCES)
        .map(|(limit, resource)| Limit {
            resource,
            soft: limit.soft,
            hard: limit.hard,
        })
        .collect();
    let number = |name: &str, radix: u32| -> Result<i64> {
        let text = process.proc.text(name)?;
        let digits = text.trim().trim_start_matches("0x");
        i64::from_str_radix(digits, radix).map_err(|_| {
            let source = format!("/proc/{pid}/{name}");
            kernel::Error::unreadable(source, format!("not a number: {text:?}")).into()
        })
    };
    let oom_score_adj = number("oom_score_adj", 10)? as i32;
    let coredump_filter = match number("coredump_filter", 16) {
        Ok(filter) => Some(filter as u32),
        Err(Error::Kernel(e)) if e.raw() == Some(libc::ENOENT) => None,
        Err(e) => return Err(e),
    };
    let personality = number("personality", 16)? as u32;
    let guest = &mut process.leader()?.guest;
    let (address, _) = guest.scratch()?;
    let reaps = call::prctl(libc::PR_GET_CHILD_SUBREAPER, address);
    guest.must("PR_GET_CHILD_SUBREAPER", reaps)?;
    let mut subreaper = [0; 4];
    guest.read(address, &mut subreaper)?;
    let registrations = Call::new(libc::SYS_membarrier, &[GET_REGISTRATIONS, 0, 0]);
    let (thp_disable, mdwe, merge, membarrier) = (
        asked(guest, call::prctl(GET_THP_DISABLE, 0))?,
        asked(guest, call::prctl(GET_MDWE, 0))?,
        asked(guest, call::prctl(GET_MEMORY_MERGE, 0))?,
        asked(guest, registrations)?,
    );
    Ok(Limits {
        resources,
        oom_score_adj,
        coredump_filter,
        personality,
        child_subreaper: subreaper != [0; 4],
        thp_disable,
        mdwe,
        memory_merge: merge != 0,
        membarrier,
        autogroup: autogroup(&process.proc),
        login: login(&process.proc),
    })
}

/// 0 where this kernel has no such setting.
fn asked(guest: &mut Guest, call: Call) -> Result<u32> {
    Ok(u32::try_from(guest.call(call)?).unwrap_or(0))
}

/// The nice value of its autogroup (`/autogroup-5 nice 0`, sched(7)).
fn autogroup(proc: &Proc) -> Option<i32> {
    let text = proc.text("autogroup").ok()?;
    text.rsplit_once("nice ")?.1.trim().parse().ok()
}

/// The user that logged in, where the kernel keeps that and somebody did.
fn login(proc: &Proc) -> Option<u32> {
    let user = proc.text("loginuid").ok()?.trim().parse().ok()?;
    (user != NOBODY).then_some(user)
}

/// What the making of a container may end at.
const IN_THE_WAY: [Resource; 8] = [
    Resource::Fsize,
    Resource::Data,
    Resource::Nproc,
    Resource::Nofile,
    Resource::Memlock,
    Resource::As,
    Resource::Sigpending,
    Resource::Msgqueue,
];

/// Takes soft limits of the first process out of the way, as far as its hard ones go: those that an engine gives are for
/// the program that it starts. All others inherit them.
pub fn widen(first: &mut Stub) -> Result<()> {
    let narrow = limits::read(first.tid())?;
    let in_the_way = |limit: &&limits::Limit| {
        limit.soft != limit.hard && IN_THE_WAY.iter().any(|r| *r as u32 == limit.resource)
    };
    let narrow = narrow.iter().filter(in_the_way);
    let (at, _) = first.scratch()?;
    let (mut bytes, mut calls) = (Vec::new(), Vec::new());
    for limit in narrow {
        let hard = limit.hard.unwrap_or(rlimit::INFINITY);
        let arguments = [0, limit.resource.into(), at + bytes.len() as u64, 0];
        calls.push(Call::new(libc::SYS_prlimit64, &arguments));
        bytes.extend([hard, hard].into_iter().flat_map(u64::to_ne_bytes));
    }
    first.put(&bytes)?;
    first.must_all(&calls, &|_| "raise a soft limit".into())?;
    Ok(())
}

/// Sets limits and settings, after everything that they might hinder. What this host does not allow is returned in
/// words: the program then has what its new host can give.
pub fn restore(process: &mut TargetProcess, record: &Limits) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut calls = vec![Call::new(
        libc::SYS_personality,
        &[record.personality.into()],
    )];
    let subreaper = call::prctl(libc::PR_SET_CHILD_SUBREAPER, record.child_subreaper.into());
    // Whether at all, and with which exceptions.
    let (option, disable) = (SET_THP_DISABLE as u64, record.thp_disable);
    let arguments = [option, (disable & 1).into(), (disable & !1).into(), 0, 0];
    calls.extend([subreaper, Call::new(libc::SYS_prctl, &arguments)]);
    process.leader.must_all(&calls, &|i| {
        [
            "personality",
            "PR_SET_CHILD_SUBREAPER",
            "PR_SET_THP_DISABLE",
        ][i]
            .into()
    })?;
    words.extend(set_memory(process, record)?);
    words.extend(set_login(process, record.login)?);
    let here = limits::read(process.pid)?;
    for limit in &record.resources {
        let number = limit.resource as u32;
        let Some(now) = here.iter().find(|now| now.resource == number) else {
            continue;
        };
        words.extend(set_limit(process, limit, now)?);
    }
    let mut write = |name: &str, value: String| {
        let path = process.proc.path(name);
        let is = std::fs::read_to_string(&path).unwrap_or_default();
        if is.trim() != value.trim_start_matches("0x")
            && let Err(e) = std::fs::write(&path, &value)
        {
            words.push(format!(
                "process {}: {name} stays {} instead of {value}: {e}",
                process.inside,
                is.trim()
            ));
        }
    };
    write("oom_score_adj", record.oom_score_adj.to_string());
    if let Some(nice) = record.autogroup
        && autogroup(&process.proc).is_some_and(|now| now != nice)
    {
        write("autogroup", nice.to_string());
    }
    if let Some(filter) = record.coredump_filter {
        write("coredump_filter", format!("0x{filter:08x}"));
    }
    Ok(words)
}

/// Registers with membarrier(2): before there are threads, which the kernel would wait for.
pub fn register(process: &mut TargetProcess, record: &Limits) -> Result<()> {
    let calls: Vec<Call> = (0..u32::BITS)
        .map(|bit| 1 << bit)
        .filter(|command| record.membarrier & command != 0)
        .map(|command: u32| Call::new(libc::SYS_membarrier, &[command.into(), 0, 0]))
        .collect();
    process.leader.must_all(&calls, &|i| {
        format!("register with membarrier by command {}", calls[i].args[0])
    })?;
    Ok(())
}

/// What is set for its memory as a whole, and cannot all be taken back: after everything that maps.
fn set_memory(process: &mut TargetProcess, record: &Limits) -> Result<Option<String>> {
    let leader = &mut process.leader;
    let merges = leader.call(call::prctl(GET_MEMORY_MERGE, 0))? == 1;
    let mut words = None;
    if merges != record.memory_merge {
        let set = call::prctl(SET_MEMORY_MERGE, record.memory_merge.into());
        words = (leader.call(set)? < 0).then(|| {
            let inside = process.inside;
            format!(
                "process {inside}: pages of its memory are not merged, which this host does not do"
            )
        });
    }
    if record.mdwe != 0 {
        leader.must("PR_SET_MDWE", call::prctl(SET_MDWE, record.mdwe.into()))?;
    }
    Ok(words)
}

/// A process says itself who logged in (kernel/audit.c, `proc_loginuid_write`), by a descriptor of ours.
fn set_login(process: &mut TargetProcess, wanted: Option<u32>) -> Result<Option<String>> {
    if login(&process.proc) == wanted {
        return Ok(None);
    }
    let path = process.proc.path("loginuid");
    let Ok(file) = std::fs::File::options().write(true).open(&path) else {
        return Ok(None); // a kernel that does not keep it
    };
    let number = 1 + process.proc.numbers("fd")?.last().copied().unwrap_or(2);
    let plants = [Plant {
        fd: file.as_fd(),
        number,
        close_on_exec: true,
    }];
    plant(&mut process.leader, &process.pidfd, &plants)?;
    let text = wanted.unwrap_or(NOBODY).to_string();
    let at = process.leader.put(text.as_bytes())?;
    let write = call::write(number, at, text.len() as u64);
    let result = process.leader.call(write)?;
    process.leader.must("close", call::close(number))?;
    Ok((result < 0).then(|| {
        let why = std::io::Error::from_raw_os_error(-result as i32);
        format!(
            "process {}: loginuid stays as it is here instead of {text}: {why}",
            process.inside
        )
    }))
}

/// Sets one limit, as far as it can be: raising a hard limit needs CAP_SYS_RESOURCE (setrlimit(2)).
fn set_limit(
    process: &mut TargetProcess,
    limit: &Limit,
    now: &limits::Limit,
) -> Result<Option<String>> {
    if (limit.soft, limit.hard) == (now.soft, now.hard) {
        return Ok(None);
    }
    let (inside, resource) = (process.inside, limit.resource as u32);
    let [soft, hard, most] =
        [limit.soft, limit.hard, now.hard].map(|l| l.unwrap_or(rlimit::INFINITY));
    if soft > hard {
        return Err(Error::Refused(format!(
            "the image limits {:?} of process {inside} to {soft}, above its hard limit {hard}",
            limit.resource
        )));
    }
    if set_anyhow(process, resource, soft, hard)? {
        return Ok(None);
    }
    if hard > most && set_anyhow(process, resource, soft.min(most), most)? {
        return Ok(Some(format!(
            "process {inside}: the limit of {:?} is {} here and was {}: restore cannot raise it without CAP_SYS_RESOURCE",
            limit.resource,
            shown(now.hard),
            shown(limit.hard)
        )));
    }
    Err(Error::Refused(format!(
        "process {inside}: the limit of {:?} cannot be set to {}, {}",
        limit.resource,
        shown(limit.soft),
        shown(limit.hard)
    )))
}

/// From outside, which needs our privilege where it belongs to another user, or by itself, which needs none to lower.
fn set_anyhow(process: &mut TargetProcess, resource: u32, soft: u64, hard: u64) -> Result<bool> {
    match rlimit::set(process.pid, resource, soft, hard) {
        Err(e) if e.raw() == Some(libc::EPERM) => {}
        result => return Ok(result.map(|()| true)?),
    }
    let leader = &mut process.leader;
    let limits: Vec<u8> = [soft, hard]
        .into_iter()
        .flat_map(u64::to_ne_bytes)
        .collect();
    let at = leader.put(&limits)?;
    let arguments = [0, resource.into(), at, 0];
    match leader.call(Call::new(libc::SYS_prlimit64, &arguments))? {
        0 => Ok(true),
        errno if errno == -i64::from(libc::EPERM) => Ok(false),
        errno => Err(kernel::Error::errno(
            format!("set limit {resource} in process {}", process.pid),
            -errno as i32,
        )
        .into()),
    }
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".into(), |limit| limit.to_string())
}
