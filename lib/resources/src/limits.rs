//! Resource limits, and the other settings of a process as a whole.

use crate::{Error, Result, SourceProcess, TargetProcess};
use image::limits::{Limit, Limits, Resource};
use kernel::proc::{limits, status};
use kernel::remote::{Call, Caller, Stub, call};
use kernel::rlimit;

/// `PR_SET_MDWE`, `PR_GET_MDWE` (include/uapi/linux/prctl.h).
const SET_MDWE: i32 = 65;
const GET_MDWE: i32 = 66;
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
    let status = status::read(pid)?;
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
    // "0" may also mean that the host has none; only then is it worth the call.
    let thp_disable = status.get("THP_enabled") != Some("1")
        && guest.must("PR_GET_THP_DISABLE", call::prctl(GET_THP_DISABLE, 0))? != 0;
    let mdwe = guest.call(call::prctl(GET_MDWE, 0))?;
    Ok(Limits {
        resources,
        oom_score_adj,
        coredump_filter,
        personality,
        child_subreaper: subreaper != [0; 4],
        thp_disable,
        mdwe: u32::try_from(mdwe).unwrap_or(0), // EINVAL before Linux 6.3
    })
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
    let thp = call::prctl(SET_THP_DISABLE, record.thp_disable.into());
    calls.extend([subreaper, thp]);
    if record.mdwe != 0 {
        calls.push(call::prctl(SET_MDWE, record.mdwe.into()));
    }
    process.leader.must_all(&calls, &|i| {
        [
            "personality",
            "PR_SET_CHILD_SUBREAPER",
            "PR_SET_THP_DISABLE",
            "PR_SET_MDWE",
        ][i]
            .into()
    })?;
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
    if let Some(filter) = record.coredump_filter {
        write("coredump_filter", format!("0x{filter:08x}"));
    }
    Ok(words)
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
