//! Seccomp filters. A container of an engine has the engine's own from its first process on, and every task inherits it:
//! so what an archive brings is loaded on top of what is there already.

use super::blocked;
use crate::{Blocker, Error, Result};
use image::bytes::Bytes;
use image::credentials::{Credentials, Filter, Seccomp};
use kernel::ptrace::{Stopped, options};
use kernel::remote::{Call, Caller, Stub, call};

/// `BPF_RET | BPF_K` and `SECCOMP_RET_USER_NOTIF`: a supervisor decides.
const RETURN: u16 = 0x06;
const USER_NOTIF: u32 = 0x7fc0_0000;
/// `BPF_MAXINSNS`, and the kernel's own limit on the stack of filters (kernel/seccomp.c, `MAX_INSNS_PER_PATH`).
const MOST_INSTRUCTIONS: usize = 4096;
const MOST_FILTERS: u64 = 32768;
const SET_MODE_FILTER: u64 = 1;
/// `CAP_SYS_ADMIN`.
const SYS_ADMIN: u64 = 1 << 21;

/// All filters of a thread, the oldest first.
pub(super) fn dump(pid: kernel::Pid, task: &Stopped) -> Result<Vec<Filter>> {
    let filters = read(task)?;
    let supervised = |filter: &Filter| filter.program.0.chunks_exact(8).any(asks_supervisor);
    match filters.iter().position(supervised) {
        None => Ok(filters),
        Some(index) => Err(Error::Blocked(vec![Blocker {
            pid,
            place: format!("seccomp filter {index}"),
            what: "a supervisor outside decides about its system calls".into(),
            remedy: "seccomp user notification is not supported".into(),
        }])),
    }
}

/// Those of a task that may have an engine's.
pub(super) fn read(task: &Stopped) -> Result<Vec<Filter>> {
    let mut filters = Vec::new();
    for index in 0..MOST_FILTERS {
        let Some(program) = task.seccomp_filter(index)? else {
            break;
        };
        filters.push(Filter {
            flags: task.seccomp_flags(index)?,
            program: Bytes(program.concat()),
        });
    }
    Ok(filters)
}

fn asks_supervisor(instruction: &[u8]) -> bool {
    match *instruction {
        [a, b, _, _, c, d, e, f] => {
            u16::from_ne_bytes([a, b]) == RETURN && u32::from_ne_bytes([c, d, e, f]) == USER_NOTIF
        }
        _ => false,
    }
}

/// What of the recorded filters is to be loaded where those of `here` are in force. The first recorded one is the source's
/// engine's own where that is said: the engine of this host has its own instead, which stays.
fn missing<'a>(recorded: &'a [Filter], here: &[Filter], first_is_engines: bool) -> &'a [Filter] {
    let same = |(there, here): (&Filter, &Filter)| there.program == here.program;
    let begins_alike = here.len() <= recorded.len() && recorded.iter().zip(here).all(same);
    match recorded {
        _ if begins_alike => recorded.get(here.len()..).unwrap_or_default(),
        [_, rest @ ..] if first_is_engines => rest,
        all => all,
    }
}

/// Loads what is missing. Filters do not apply as long as the task is traced (`PTRACE_O_SUSPEND_SECCOMP`), so that what
/// follows is not in their way.
pub(super) fn restore(
    stub: &mut Stub,
    record: &Credentials,
    now: &Credentials,
    base: &super::Base,
) -> Result<()> {
    let filters = match &record.seccomp {
        Seccomp::Disabled => return Ok(()),
        Seccomp::Strict => {
            suspend(stub)?;
            let strict = call::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT.into());
            return Ok(stub.must("PR_SET_SECCOMP", strict).map(drop)?);
        }
        Seccomp::Filter { filters } => missing(filters, &base.filters, base.first_is_engines),
    };
    if filters.is_empty() {
        return Ok(());
    }
    if !(record.no_new_privs || now.no_new_privs) && now.capabilities.effective & SYS_ADMIN == 0 {
        return Err(blocked(
            stub,
            format!(
                "it loaded {} seccomp filters of its own with CAP_SYS_ADMIN, which it has not got here",
                filters.len()
            ),
            "give the container that capability (--cap-add SYS_ADMIN), or restore it as a native one (--engine native)",
        ));
    }
    suspend(stub)?;
    filters
        .iter()
        .enumerate()
        .try_for_each(|(i, filter)| load(stub, i, filter))
}

fn suspend(stub: &mut Stub) -> Result<()> {
    let options = options::SYSGOOD | options::EXITKILL | options::FAMILY | options::EXEC;
    Ok(stub
        .task()?
        .set_options(options | options::SUSPEND_SECCOMP)?)
}

fn load(stub: &mut Stub, index: usize, filter: &Filter) -> Result<()> {
    let (address, _) = stub.scratch()?;
    let program = &filter.program.0;
    let count = program.len() / 8;
    if !program.len().is_multiple_of(8) || !(1..=MOST_INSTRUCTIONS).contains(&count) {
        return Err(Error::Refused(format!(
            "the image has a seccomp filter of {} bytes, which is no program",
            program.len()
        )));
    }
    // struct sock_fprog: a count, and the address of the instructions.
    let mut bytes = (count as u64).to_ne_bytes().to_vec();
    bytes.extend((address + 16).to_ne_bytes());
    bytes.extend(program);
    stub.put(&bytes)?;
    let arguments = [SET_MODE_FILTER, filter.flags, address];
    stub.must(
        &format!("load seccomp filter {index}"),
        Call::new(libc::SYS_seccomp, &arguments),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(n: u8) -> Filter {
        Filter {
            flags: 0,
            program: vec![n; 8].into(),
        }
    }

    #[test]
    fn only_what_is_not_in_force_yet_is_loaded() {
        let [engines, others, own] = [1, 2, 3].map(filter);
        let recorded = [engines.clone(), own.clone()];
        let rest = [own.clone()];
        let all = std::slice::from_ref(&engines);
        for first_is_engines in [true, false] {
            assert_eq!(missing(&recorded, &[], first_is_engines), recorded);
            assert_eq!(missing(&recorded, all, first_is_engines), rest);
            assert_eq!(missing(&recorded, &recorded, first_is_engines), []);
            assert_eq!(missing(&[], all, first_is_engines), []);
        }
        let others = std::slice::from_ref(&others);
        assert_eq!(
            missing(&recorded, others, true),
            rest,
            "the host's engine has its own"
        );
        assert_eq!(
            missing(&recorded, others, false),
            recorded,
            "the program's own"
        );
    }

    #[test]
    fn a_filter_with_a_supervisor_is_told_apart() {
        let asks = [0x06, 0, 0, 0, 0x00, 0x00, 0xc0, 0x7f];
        let allows = [0x06, 0, 0, 0, 0x00, 0x00, 0xff, 0x7f];
        assert!(asks_supervisor(&asks) && !asks_supervisor(&allows));
    }
}
