//! What a thread has forbidden itself or its processor: flags that prctl(2) and arch_prctl(2) set, and that children and
//! further threads inherit.

use crate::{Error, Result, SourceThread};
use image::threads::{Controls, Placement, Speculation};
use kernel::proc::status::{self, Status};
use kernel::proc::{Proc, stat};
use kernel::remote::{Call, Caller, Stub, call};
use std::sync::LazyLock;

/// include/uapi/linux/prctl.h, arch/x86/include/uapi/asm/prctl.h.
const GET_IO_FLUSHER: u64 = 0x8_0000 | 0x10_0000; // PF_MEMALLOC_NOIO, PF_LOCAL_THROTTLE (include/linux/sched.h)
const SET_IO_FLUSHER: i32 = 57;
const GET_SPECULATION: i32 = 52;
const SET_SPECULATION: u64 = 53;
const GET_CPUID: u64 = 0x1011;
const SET_CPUID: u64 = 0x1012;
const TSC_SIGSEGV: u64 = 2;
/// `PF_MCE_PROCESS` and `PF_MCE_EARLY` (include/linux/sched.h).
const MCE_SAID: u64 = 0x80;
const MCE_EARLY: u64 = 0x0800_0000;
const PR_MCE_KILL: u64 = 33;
const PR_MCE_KILL_SET: u64 = 1;
/// The most nodes that a kernel knows (`MAX_NUMNODES`), in bytes of a mask.
const NODES: usize = 1024;
const MASK: usize = NODES / 8;

/// `PR_SPEC_*`.
const STORE_BYPASS: u32 = 0;
const INDIRECT_BRANCH: u32 = 1;
const L1D_FLUSH: u32 = 2;
const PRCTL: u64 = 1;
const ENABLE: u32 = 2;
const DISABLE: u32 = 4;
const FORCE_DISABLE: u32 = 8;
const DISABLE_NOEXEC: u32 = 16;

/// Takes them from a stopped thread. Registers that say them do not exist, so some calls are made in it.
pub(super) fn dump(pid: kernel::Pid, thread: &mut SourceThread) -> Result<Controls> {
    let tid = thread.tid;
    let flags = stat::parse(&Proc::thread(pid, tid).text("stat")?)?.field(9) as u64;
    let guest = &mut thread.guest;
    let (address, _) = guest.scratch()?;
    guest.must("PR_GET_TSC", call::prctl(libc::PR_GET_TSC, address))?;
    let mut tsc = [0; 4];
    guest.read(address, &mut tsc)?;
    // An error where the processor cannot be told to (ENODEV), or the kernel is older.
    let cpuid = guest.call(Call::new(libc::SYS_arch_prctl, &[GET_CPUID, 0]))?;
    let mut speculation = shown(&status::read_thread(pid, tid)?, &OURS);
    if *L1D_IS_CONTROLLED {
        let get = call::prctl(GET_SPECULATION, L1D_FLUSH.into());
        let control = guest.must("PR_GET_SPECULATION_CTRL", get)? as u32 & !(PRCTL as u32);
        if control == ENABLE {
            let misfeature = L1D_FLUSH;
            speculation.push(Speculation {
                misfeature,
                control,
            });
        }
    }
    Ok(Controls {
        no_tsc: u32::from_ne_bytes(tsc) as u64 == TSC_SIGSEGV,
        no_cpuid: cpuid == 0,
        io_flusher: flags & GET_IO_FLUSHER == GET_IO_FLUSHER,
        speculation,
        early_kill: (flags & MCE_SAID != 0).then_some(flags & MCE_EARLY != 0),
        placement: placement(guest)?,
    })
}

/// Where its memory is to come from (get_mempolicy(2)); an error on a kernel without NUMA.
fn placement(guest: &mut impl Caller) -> Result<Option<Placement>> {
    let address = guest.put(&[0; 8 + MASK])?;
    // The kernel counts one more than it means (mm/mempolicy.c, get_nodes).
    let arguments = [address, address + 8, NODES as u64 + 1, 0, 0];
    if guest.call(Call::new(libc::SYS_get_mempolicy, &arguments))? < 0 {
        return Ok(None);
    }
    let (mut mode, mut mask) = ([0; 4], [0; MASK]);
    guest.read(address, &mut mode)?;
    guest.read(address + 8, &mut mask)?;
    let mode = u32::from_ne_bytes(mode);
    let is_in = |node: &u16| mask[usize::from(node / 8)] & 1 << (node % 8) != 0;
    let nodes = (0..NODES as u16).filter(is_in).collect();
    Ok((mode != libc::MPOL_DEFAULT as u32).then_some(Placement { mode, nodes }))
}

/// As a mask, in the scratch memory.
fn place(stub: &mut Stub, record: &Placement) -> Result<Call> {
    let mut mask = [0u8; MASK];
    for node in &record.nodes {
        let byte = mask.get_mut(usize::from(node / 8)).ok_or_else(|| {
            Error::Refused(format!(
                "the image names a node of memory that no kernel has: {node}"
            ))
        })?;
        *byte |= 1 << (node % 8);
    }
    let (address, count) = match record.nodes.is_empty() {
        true => (0, 0),
        false => (stub.put(&mask)?, NODES as u64 + 1),
    };
    let arguments = [record.mode.into(), address, count];
    Ok(Call::new(libc::SYS_set_mempolicy, &arguments))
}

/// Our own lines, which say what is as usual.
static OURS: LazyLock<Option<Status>> =
    LazyLock::new(|| status::read(std::process::id() as kernel::Pid).ok());
/// Whether threads of this host may have the cache flushed when they leave a processor, which nothing shows.
static L1D_IS_CONTROLLED: LazyLock<bool> =
    LazyLock::new(|| kernel::host::speculation(L1D_FLUSH).is_ok_and(|now| now & PRCTL != 0));

/// What the lines of `/proc/PID/status` say that is not as usual (fs/proc/array.c, `task_seccomp`).
fn shown(status: &Status, ours: &Option<Status>) -> Vec<Speculation> {
    let mut found = Vec::new();
    let mut note = |misfeature, control| {
        found.push(Speculation {
            misfeature,
            control,
        })
    };
    let store = "Speculation_Store_Bypass";
    let usual = ours.as_ref().and_then(|ours| ours.get(store));
    match status.get(store) {
        Some("thread force mitigated") => note(STORE_BYPASS, FORCE_DISABLE),
        Some("thread mitigated") => note(STORE_BYPASS, DISABLE),
        // The line has no words for "until the next exec": it falls through to those of a kernel that has no such control.
        Some("vulnerable") if usual.is_some_and(|usual| usual.starts_with("thread")) => {
            note(STORE_BYPASS, DISABLE_NOEXEC);
        }
        _ => {}
    }
    match status.get("SpeculationIndirectBranch") {
        Some("conditional force disabled") => note(INDIRECT_BRANCH, FORCE_DISABLE),
        Some("conditional disabled") => note(INDIRECT_BRANCH, DISABLE),
        _ => {}
    }
    found
}

/// Gives them to a thread that has none of them. What this host does not have is returned in words.
pub(super) fn restore(stub: &mut Stub, record: &Controls) -> Result<Vec<String>> {
    let mut calls = Vec::new();
    if record.no_tsc {
        let set = call::prctl(libc::PR_SET_TSC, TSC_SIGSEGV);
        calls.push(("reading the time stamp counter is no fault", set));
    }
    if record.no_cpuid {
        let set = Call::new(libc::SYS_arch_prctl, &[SET_CPUID, 0]);
        calls.push(("the CPUID instruction is no fault", set));
    }
    if record.io_flusher {
        calls.push((
            "it is no writer that others wait for (PR_SET_IO_FLUSHER)",
            call::prctl(SET_IO_FLUSHER, 1),
        ));
    }
    for wish in &record.speculation {
        let arguments = [
            SET_SPECULATION,
            wish.misfeature.into(),
            wish.control.into(),
            0,
            0,
        ];
        calls.push((
            "its processor speculates as is usual here (PR_SET_SPECULATION_CTRL)",
            Call::new(libc::SYS_prctl, &arguments),
        ));
    }
    if let Some(early) = record.early_kill {
        let arguments = [PR_MCE_KILL, PR_MCE_KILL_SET, early.into(), 0, 0];
        calls.push((
            "it hears of failing memory as is usual here (PR_MCE_KILL)",
            Call::new(libc::SYS_prctl, &arguments),
        ));
    }
    if let Some(placement) = &record.placement {
        calls.push((
            "its memory comes from where this host puts it (set_mempolicy)",
            place(stub, placement)?,
        ));
    }
    let plain: Vec<Call> = calls.iter().map(|(_, call)| *call).collect();
    let results = stub.batch(&plain)?;
    let failed = calls.iter().zip(results).filter(|(_, result)| *result < 0);
    Ok(failed
        .map(|((what, _), result)| {
            let why = std::io::Error::from_raw_os_error(-result as i32);
            format!("thread {}: {what}: {why}", stub.tid())
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_usual_is_read_from_status() {
        let of = |store: &str, branch: &str| {
            status::parse(&format!(
                "Speculation_Store_Bypass:\t{store}\nSpeculationIndirectBranch:\t{branch}\n"
            ))
        };
        let ours = Some(of("thread vulnerable", "conditional enabled"));
        let controls = |status: &Status, ours| {
            let found = shown(status, ours);
            let pairs = found.iter().map(|s| (s.misfeature, s.control));
            pairs.collect::<Vec<_>>()
        };
        let usual = of("thread vulnerable", "conditional enabled");
        assert_eq!(controls(&usual, &ours), []);
        let wishes = of("thread force mitigated", "conditional disabled");
        assert_eq!(controls(&wishes, &ours), [(0, 8), (1, 4)]);
        let until_exec = of("vulnerable", "always enabled");
        assert_eq!(controls(&until_exec, &ours), [(0, 16)]);
        let nothing = Some(until_exec.clone());
        assert_eq!(
            controls(&until_exec, &nothing),
            [],
            "none here has a choice"
        );
    }
}
