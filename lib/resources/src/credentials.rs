//! Credentials: ids, capabilities, seccomp. The kernel keeps them for each thread, so each thread is given its own.

use crate::{Blocker, Error, Result, SourceProcess, SourceThread};
use image::credentials::{Capabilities, Credentials, Filter, Ids, Seccomp};
use image::threads::Thread;
use kernel::proc::status::{self, Status};
use kernel::ptrace::{Stopped, options};
use kernel::remote::{Call, Caller, Stub, call};

/// `SECBIT_NO_SETUID_FIXUP`: ids change, capabilities stay (capabilities(7)).
const NO_SETUID_FIXUP: u64 = 1 << 2;
/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// `BPF_RET | BPF_K` and `SECCOMP_RET_USER_NOTIF`: a supervisor decides.
const RETURN: u16 = 0x06;
const USER_NOTIF: u32 = 0x7fc0_0000;
/// `BPF_MAXINSNS`, and the kernel's own limit on the stack of filters (kernel/seccomp.c, `MAX_INSNS_PER_PATH`).
const MOST_INSTRUCTIONS: usize = 4096;
const MOST_FILTERS: u64 = 32768;
/// `NGROUPS_MAX`, less what the scratch memory holds beside it.
const MOST_GROUPS: usize = 16384;
const SET_MODE_FILTER: u64 = 1;

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
    read(pid, leader, &status, securebits as u32, dumpable as u32)
}

/// Takes those of another thread. Its securebits are asked for only where it went its own way at all: they change by a
/// call of the thread's own that no other purpose has.
pub(crate) fn of_thread(
    pid: kernel::Pid,
    thread: &mut SourceThread,
    of_process: &Credentials,
) -> Result<Credentials> {
    let status = status::read_thread(pid, thread.tid)?;
    let (securebits, dumpable) = (of_process.securebits, of_process.dumpable);
    let mut own = read(pid, thread, &status, securebits, dumpable)?;
    if own != *of_process {
        let ask = call::prctl(libc::PR_GET_SECUREBITS, 0);
        own.securebits = thread.guest.must("PR_GET_SECUREBITS", ask)? as u32;
    }
    Ok(own)
}

fn read(
    pid: kernel::Pid,
    thread: &SourceThread,
    status: &Status,
    securebits: u32,
    dumpable: u32,
) -> Result<Credentials> {
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
        seccomp: match status.get("Seccomp") {
            Some("1") => Seccomp::Strict,
            Some("2") => Seccomp::Filter {
                filters: filters(pid, thread.guest.task()?)?,
            },
            _ => Seccomp::Disabled,
        },
        dumpable,
    })
}

/// All filters of a thread, the oldest first.
fn filters(pid: kernel::Pid, task: &Stopped) -> Result<Vec<Filter>> {
    let mut filters = Vec::new();
    for index in 0..MOST_FILTERS {
        let Some(program) = task.seccomp_filter(index)? else {
            break;
        };
        if program.iter().any(asks_supervisor) {
            return Err(Error::Blocked(vec![Blocker {
                pid,
                place: format!("seccomp filter {index}"),
                what: "a supervisor outside decides about its system calls".into(),
                remedy: "seccomp user notification is not supported".into(),
            }]));
        }
        filters.push(Filter {
            flags: task.seccomp_flags(index)?,
            program: program.concat().into(),
        });
    }
    Ok(filters)
}

fn asks_supervisor(instruction: &[u8; 8]) -> bool {
    let code = u16::from_ne_bytes([instruction[0], instruction[1]]);
    let [.., a, b, c, d] = *instruction;
    code == RETURN && u32::from_ne_bytes([a, b, c, d]) == USER_NOTIF
}

/// Gives a thread its credentials, and with them its signal for the parent's death, which a change of ids would clear.
///
/// Filters come first, while the thread may still load them; they do not apply as long as it is traced
/// (`PTRACE_O_SUSPEND_SECCOMP`), so that what follows is not in their way.
pub fn restore(stub: &mut Stub, thread: &Thread, of_process: &Credentials) -> Result<()> {
    let record = thread.credentials.as_ref().unwrap_or(of_process);
    let has = permitted(stub, record)?;
    if record.no_new_privs {
        stub.must(
            "PR_SET_NO_NEW_PRIVS",
            call::prctl(libc::PR_SET_NO_NEW_PRIVS, 1),
        )?;
    }
    if record.seccomp != Seccomp::Disabled {
        seccomp(stub, &record.seccomp)?;
    }
    let (address, _) = stub.scratch()?;
    let (calls, bytes) = identity(record, has, address)?;
    stub.put(&bytes)?;
    perform(stub, &calls)?;
    // PR_SET_DUMPABLE takes no 2, which a change of ids sets where fs.suid_dumpable says so (prctl(2)).
    let dumpable = u64::from(record.dumpable == 1);
    let last = [
        ("PR_SET_DUMPABLE", call::set_dumpable(dumpable)),
        (
            "PR_SET_PDEATHSIG",
            call::prctl(libc::PR_SET_PDEATHSIG, thread.death_signal as u64),
        ),
    ];
    perform(stub, &last)
}

fn perform(stub: &mut Stub, calls: &[Named]) -> Result<()> {
    let plain: Vec<Call> = calls.iter().map(|(_, call)| *call).collect();
    stub.must_all(&plain, &|i| {
        calls.get(i).map_or("", |(what, _)| what).to_owned()
    })?;
    Ok(())
}

/// What the thread being rebuilt is permitted, which must be at least what it was.
fn permitted(stub: &Stub, record: &Credentials) -> Result<u64> {
    let has = status::read(stub.tid())?.mask("CapPrm")?;
    let lost = record.capabilities.permitted & !has;
    if lost == 0 {
        return Ok(has);
    }
    let numbers: Vec<String> = bits(lost).map(|n| n.to_string()).collect();
    Err(Error::Blocked(vec![Blocker {
        pid: stub.tid(),
        place: "credentials".into(),
        what: format!(
            "it had capabilities that restore does not have here (number {})",
            numbers.join(", ")
        ),
        remedy: "run restore with all capabilities".into(),
    }]))
}

fn seccomp(stub: &mut Stub, record: &Seccomp) -> Result<()> {
    let options = options::SYSGOOD | options::EXITKILL | options::FAMILY | options::EXEC;
    stub.task()?
        .set_options(options | options::SUSPEND_SECCOMP)?;
    let filters = match record {
        Seccomp::Disabled => return Ok(()),
        Seccomp::Strict => {
            let strict = call::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT.into());
            stub.must("PR_SET_SECCOMP", strict)?;
            return Ok(());
        }
        Seccomp::Filter { filters } => filters,
    };
    let (address, _) = stub.scratch()?;
    for (i, filter) in filters.iter().enumerate() {
        let program = &filter.program.0;
        let count = program.len() / 8;
        if program.len() % 8 != 0 || !(1..=MOST_INSTRUCTIONS).contains(&count) {
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
            &format!("load seccomp filter {i}"),
            Call::new(libc::SYS_seccomp, &arguments),
        )?;
    }
    Ok(())
}

/// The calls that make a thread who it was, in the order in which none takes away what a later one needs, and the bytes
/// they need at `address`. `has` is what it is permitted so far.
fn identity(record: &Credentials, has: u64, address: u64) -> Result<(Vec<Named>, Vec<u8>)> {
    if record.groups.len() > MOST_GROUPS {
        return Err(Error::Refused(format!(
            "the image has {} supplementary groups in one thread",
            record.groups.len()
        )));
    }
    let caps = &record.capabilities;
    // struct __user_cap_header_struct, then two sets of capabilities, then the groups.
    let words = [
        vec![CAPABILITY_VERSION, 0],
        sets(has, has, caps.inheritable),
        sets(caps.effective, caps.permitted, caps.inheritable),
        record.groups.clone(),
    ];
    let [interim, last, groups] = [8, 32, 56].map(|offset| address + offset);
    let bytes = words.concat().into_iter().flat_map(u32::to_ne_bytes);
    let mut calls = vec![
        ("PR_SET_SECUREBITS", securebits(NO_SETUID_FIXUP)),
        (
            "setgroups",
            Call::new(libc::SYS_setgroups, &[record.groups.len() as u64, groups]),
        ),
    ];
    calls.extend(ids(
        ("setresgid", libc::SYS_setresgid),
        ("setfsgid", libc::SYS_setfsgid),
        &record.gid,
    ));
    calls.extend(ids(
        ("setresuid", libc::SYS_setresuid),
        ("setfsuid", libc::SYS_setfsuid),
        &record.uid,
    ));
    let capset = |at: u64| ("capset", Call::new(libc::SYS_capset, &[address, at]));
    calls.push(capset(interim));
    calls.push((
        "PR_CAP_AMBIENT_CLEAR_ALL",
        ambient(libc::PR_CAP_AMBIENT_CLEAR_ALL, 0),
    ));
    for n in bits(caps.ambient) {
        calls.push((
            "PR_CAP_AMBIENT_RAISE",
            ambient(libc::PR_CAP_AMBIENT_RAISE, n),
        ));
    }
    for n in bits(!caps.bounding).filter(|n| *n <= last_capability()) {
        calls.push(("PR_CAPBSET_DROP", call::prctl(libc::PR_CAPBSET_DROP, n)));
    }
    calls.push(("PR_SET_SECUREBITS", securebits(record.securebits.into())));
    calls.push(capset(last));
    Ok((calls, bytes.collect()))
}

/// A call and its name.
type Named = (&'static str, Call);

/// `struct __user_cap_data_struct`, twice: low halves, then high ones.
fn sets(effective: u64, permitted: u64, inheritable: u64) -> Vec<u32> {
    let half = |shift: u32| [effective, permitted, inheritable].map(|set| (set >> shift) as u32);
    [half(0), half(32)].concat()
}

fn bits(set: u64) -> impl Iterator<Item = u64> {
    (0..64).filter(move |n| set & 1 << n != 0)
}

fn securebits(bits: u64) -> Call {
    call::prctl(libc::PR_SET_SECUREBITS, bits)
}

fn ambient(operation: i32, capability: u64) -> Call {
    let arguments = [
        libc::PR_CAP_AMBIENT as u64,
        operation as u64,
        capability,
        0,
        0,
    ];
    Call::new(libc::SYS_prctl, &arguments)
}

/// The file system id follows the effective one and is set by itself only where it has been apart (setfsuid(2)).
fn ids(three: (&'static str, i64), filesystem: (&'static str, i64), ids: &Ids) -> Vec<Named> {
    let values = [ids.real, ids.effective, ids.saved].map(u64::from);
    let mut calls = vec![(three.0, Call::new(three.1, &values))];
    if ids.filesystem != ids.effective {
        calls.push((
            filesystem.0,
            Call::new(filesystem.1, &[ids.filesystem.into()]),
        ));
    }
    calls
}

/// The highest capability this kernel knows: dropping a higher one is an error.
fn last_capability() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap_or_default();
    text.trim().parse().unwrap_or(40) // CAP_CHECKPOINT_RESTORE, the last one since Linux 5.9
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nobody() -> Credentials {
        let ids = Ids {
            real: 65534,
            effective: 65534,
            saved: 65534,
            filesystem: 65534,
        };
        Credentials {
            uid: ids,
            gid: ids,
            groups: vec![4, 5],
            capabilities: Capabilities {
                inheritable: 0x400,
                permitted: 0x400,
                effective: 0,
                bounding: !0x21,
                ambient: 0x400,
            },
            securebits: 0,
            no_new_privs: false,
            seccomp: Seccomp::Disabled,
            dumpable: 1,
        }
    }

    #[test]
    fn groups_go_before_ids_and_the_right_to_change_goes_last() {
        let (calls, bytes) = identity(&nobody(), 0xffff, 0x1000).unwrap();
        let names: Vec<_> = calls.iter().map(|(what, _)| *what).collect();
        assert_eq!(
            names,
            [
                "PR_SET_SECUREBITS",
                "setgroups",
                "setresgid",
                "setresuid",
                "capset",
                "PR_CAP_AMBIENT_CLEAR_ALL",
                "PR_CAP_AMBIENT_RAISE",
                "PR_CAPBSET_DROP",
                "PR_CAPBSET_DROP",
                "PR_SET_SECUREBITS",
                "capset",
            ]
        );
        assert_eq!(calls[1].1.args[..2], [2, 0x1038]);
        assert_eq!(bytes.len(), 56 + 8);
        assert_eq!(bytes[56], 4);
        assert_eq!(bytes[12..14], [0xff, 0xff], "still permitted in between");
        assert_eq!(bytes[36..40], [0, 4, 0, 0], "permitted at the end");
    }

    #[test]
    fn a_file_system_id_of_its_own_is_set_after_the_others() {
        let mut record = nobody();
        record.uid.filesystem = 7;
        let (calls, _) = identity(&record, 0, 0).unwrap();
        let names: Vec<_> = calls.iter().map(|(what, _)| *what).collect();
        assert_eq!(names[3..5], ["setresuid", "setfsuid"]);
        record.groups = vec![0; MOST_GROUPS + 1];
        assert!(identity(&record, 0, 0).is_err());
    }

    #[test]
    fn a_filter_with_a_supervisor_is_told_apart() {
        let asks = [0x06, 0, 0, 0, 0x00, 0x00, 0xc0, 0x7f];
        let allows = [0x06, 0, 0, 0, 0x00, 0x00, 0xff, 0x7f];
        assert!(asks_supervisor(&asks) && !asks_supervisor(&allows));
    }
}
