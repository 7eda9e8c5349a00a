//! Threads: what the kernel keeps for each of them.
//!
//! The order at restore: [`create`] once memory is mapped; [`restore`] once its pages are in; credentials after that;
//! and at the very end, with the stub gone, [`release`].

mod apart;
mod controls;
mod registers;
mod scheduling;

pub use apart::{Apart, Birth, order};
pub use registers::{missing, release, wait_again};

use crate::tree::{Born, Numbers, Patience};
use crate::{Blocker, Error, Result, SourceProcess, SourceThread, TargetProcess, credentials};
use image::credentials::Credentials;
use image::ids::Pid;
use image::path::Name;
use image::signals::Pending;
use image::threads::{AlternateStack, Dispatch, RobustList, Rseq, Thread};
use image::tree::Ended;
use kernel::pidfd::PidFd;
use kernel::proc::{Proc, status};
use kernel::ptrace::Stopped;
use kernel::remote::{Call, Caller, Gates, Stub, call};
use kernel::sched;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// `SS_DISABLE`, `SS_ONSTACK` (sigaltstack(2)).
const SS_DISABLE: u32 = libc::SS_DISABLE as u32;
const SS_ONSTACK: u32 = libc::SS_ONSTACK as u32;
/// `rseq(2)`, which the C library has no number for on every system, and its flag to unregister.
const SYS_RSEQ: i64 = libc::SYS_rseq;
const RSEQ_UNREGISTER: u64 = 1;
/// `sizeof(stack_t)`.
const STACK_T: usize = 24;
/// `TASK_COMM_LEN` without its NUL.
const NAME: usize = 15;

/// Why the threads of a process cannot be taken, seen from outside before it is frozen.
pub fn blockers(pid: kernel::Pid) -> Result<Vec<Blocker>> {
    let blocker = |what: String, remedy: &str| Blocker {
        pid,
        place: String::new(),
        what,
        remedy: remedy.into(),
    };
    let mut found = Vec::new();
    let status = status::read(pid)?;
    let tracer = status.number("TracerPid")?;
    if tracer != 0 {
        found.push(blocker(
            format!("it is traced by process {tracer}"),
            "detach the debugger first",
        ));
    }
    if status
        .get("x86_Thread_features")
        .is_some_and(|features| features.contains("shstk"))
    {
        found.push(blocker(
            "it has a shadow stack".into(),
            "start it with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off",
        ));
    }
    for tid in Proc::process(pid).numbers("task")? {
        match sched::core_cookie(tid) {
            Ok(0) => continue,
            Err(e) if e.raw() == Some(libc::ESRCH) => continue,
            cookie => cookie?,
        };
        found.push(blocker(
            format!("its thread {tid} runs beside chosen others only (core scheduling)"),
            "start it without PR_SCHED_CORE (coresched new, schedCore)",
        ));
    }
    let mut class = [0; 5];
    let elf = std::fs::File::open(Proc::process(pid).path("exe"))
        .and_then(|mut exe| std::io::Read::read_exact(&mut exe, &mut class));
    if elf.is_ok() && class[..4] == *b"\x7fELF" && class[4] == 1 {
        found.push(blocker(
            "it is a 32-bit program".into(),
            "only 64-bit programs are supported",
        ));
    } else if Gates::find(pid)?.is_none() {
        found.push(blocker(
            "its program has no signal-return code by which a call in it could come home".into(),
            "link it with a C library",
        ));
    }
    Ok(found)
}

/// Takes all threads of a process, the leader first. `of_process` is what [`credentials::dump`] found.
pub fn dump(
    process: &mut SourceProcess,
    inside: &HashMap<kernel::Pid, Pid>,
    of_process: &Credentials,
) -> Result<Vec<Thread>> {
    let pid = process.pid;
    let parent = kernel::proc::stat::read(pid)?.ppid();
    let mut threads = Vec::with_capacity(process.threads.len());
    for (i, thread) in process.threads.iter_mut().enumerate() {
        let own = match i {
            0 => None,
            _ => Some(credentials::of_thread(pid, thread, of_process)?)
                .filter(|own| own != of_process),
        };
        let mut taken = dump_one(pid, thread, own)?;
        if !inside.contains_key(&parent) {
            // Its parent stays behind: the one it gets may end before it (`restore` itself does).
            taken.death_signal = 0;
        }
        thread.guest.rest()?;
        threads.push(taken);
    }
    Ok(threads)
}

fn dump_one(
    pid: kernel::Pid,
    thread: &mut SourceThread,
    credentials: Option<Credentials>,
) -> Result<Thread> {
    let tid = thread.tid;
    let mut name = Proc::thread(pid, tid).bytes("comm")?;
    name.pop(); // the newline
    let alternate_stack = alternate_stack(thread)?;
    let (address, _) = thread.guest.scratch()?;
    let mut word = |what: &str, option: i32| -> Result<[u8; 8]> {
        thread.guest.must(what, call::prctl(option, address))?;
        let mut word = [0; 8];
        thread.guest.read(address, &mut word)?;
        Ok(word)
    };
    let clear_child_tid = u64::from_ne_bytes(word("PR_GET_TID_ADDRESS", libc::PR_GET_TID_ADDRESS)?);
    let death = word("PR_GET_PDEATHSIG", libc::PR_GET_PDEATHSIG)?;
    let task = thread.guest.task()?;
    let rseq = task.rseq().unwrap_or_default();
    let dispatch = task.dispatch()?;
    Ok(Thread {
        tid: thread.inside,
        name: Name(name),
        registers: registers::general(thread.guest.registers()),
        extended: registers::extended(task)?,
        mask: thread.guest.mask(),
        pending: pending(pid, tid, task, false)?,
        alternate_stack,
        rseq: (rseq.address != 0).then_some(Rseq {
            address: rseq.address,
            size: rseq.size,
            signature: rseq.signature,
            flags: rseq.flags,
        }),
        robust_list: kernel::robust::list(tid)?.map(|(head, size)| RobustList { head, size }),
        clear_child_tid,
        death_signal: i32::from_ne_bytes([death[0], death[1], death[2], death[3]]),
        scheduling: scheduling::dump(tid)?,
        dispatch: (dispatch.mode != 0).then_some(Dispatch {
            mode: dispatch.mode,
            selector: dispatch.selector,
            offset: dispatch.offset,
            len: dispatch.len,
        }),
        controls: controls::dump(pid, thread)?,
        wait: thread.wait,
        credentials,
        // As the files are taken.
        table: None,
        fs: None,
    })
}

fn alternate_stack(thread: &mut SourceThread) -> Result<Option<AlternateStack>> {
    let (address, _) = thread.guest.scratch()?;
    thread.guest.must(
        "sigaltstack",
        Call::new(libc::SYS_sigaltstack, &[0, address]),
    )?;
    let mut bytes = [0; STACK_T];
    thread.guest.read(address, &mut bytes)?;
    let [address, flags, size] = [0, 8, 16].map(|at| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_ne_bytes(word)
    });
    let flags = flags as u32 & !SS_ONSTACK;
    Ok((flags & SS_DISABLE == 0).then_some(AlternateStack {
        address,
        size,
        flags,
    }))
}

/// A queue of signals, that of the thread or that of its process. A signal whose siginfo did not fit the receiver's
/// limit is pending all the same, as one of nobody's (kernel/signal.c, `collect_signal`).
pub(crate) fn pending(
    pid: kernel::Pid,
    tid: kernel::Pid,
    task: &Stopped,
    shared: bool,
) -> Result<Vec<Pending>> {
    let mut queue: Vec<[u8; 128]> = Vec::new();
    loop {
        let more = task.pending(shared, queue.len() as u64)?;
        if more.is_empty() {
            break;
        }
        queue.extend(more);
    }
    let status = status::read_thread(pid, tid)?;
    let mut mask = status.mask(if shared { "ShdPnd" } else { "SigPnd" })?;
    for info in &queue {
        mask &= !(1u64.rotate_left(u32::from(info[0]).wrapping_sub(1)));
    }
    for signal in (1..=64u8).filter(|n| mask & 1 << (n - 1) != 0) {
        let mut info = [0; 128];
        info[0] = signal;
        queue.push(info);
    }
    Ok(queue
        .into_iter()
        .map(|info| Pending {
            siginfo: info.to_vec().into(),
        })
        .collect())
}

/// Ends the registration that a forked child inherits, before the memory it lies in goes away: the kernel writes there.
pub fn unregister_rseq(stub: &mut Stub) -> Result<()> {
    let Ok(rseq) = stub.task()?.rseq() else {
        return Ok(()); // a kernel that cannot say: Linux before 5.13
    };
    if rseq.address != 0 {
        let arguments = [
            rseq.address,
            rseq.size.into(),
            RSEQ_UNREGISTER,
            rseq.signature.into(),
        ];
        stub.must("unregister rseq", Call::new(SYS_RSEQ, &arguments))?;
    }
    Ok(())
}

/// Makes threads of a process, each with its id, stopped in the stub. The first of all, which is there, is passed over.
pub fn create(
    process: &mut TargetProcess,
    births: impl IntoIterator<Item = impl Into<Birth>>,
    numbers: &mut Numbers,
) -> Result<()> {
    let inside = process.inside;
    let births = births.into_iter().map(Into::into);
    for birth in births.filter(|birth: &Birth| birth.tid != inside) {
        let creator = match birth.creator {
            None => &mut process.leader,
            Some(tid) => process.threads.get_mut(&tid).ok_or_else(|| {
                Error::Refused(format!(
                    "thread {} of process {inside} is to be made by thread {tid}, which is not there",
                    birth.tid
                ))
            })?,
        };
        let thread = clone_thread(creator, birth, numbers)?;
        let inherits = |creator| process.pidfds.contains_key(&creator);
        if !birth.table || birth.creator.is_some_and(inherits) {
            let pidfd = PidFd::thread(thread.tid())?;
            process.pidfds.insert(birth.tid, pidfd);
        }
        if process.threads.insert(birth.tid, thread).is_some() {
            return Err(Error::Refused(format!(
                "the image has thread {} of process {inside} twice",
                birth.tid
            )));
        }
    }
    Ok(())
}

/// How long a first thread may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ends the first thread of a process whose others live on, as it had ended.
pub fn end_first(mut stub: Stub, record: &Ended) -> Result<()> {
    let tid = stub.tid();
    let mut name: Vec<u8> = record.name.0.iter().take(NAME).copied().collect();
    name.push(0);
    let at = stub.put(&name)?;
    stub.must("PR_SET_NAME", call::set_name(at))?;
    stub.leave(call::exit(record.status >> 8 & 0xff))?;
    let deadline = Instant::now() + PATIENCE;
    while kernel::proc::stat::read(tid)?.state != 'Z' {
        if Instant::now() > deadline {
            return Err(Error::Refused(format!(
                "thread {tid} was to end and does not"
            )));
        }
        std::thread::yield_now();
    }
    Ok(())
}

/// What threads of one process share.
const SHARED: i32 = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM;

fn clone_thread(creator: &mut Stub, birth: Birth, numbers: &mut Numbers) -> Result<Stub> {
    let (id, mut shared) = (birth.tid, SHARED);
    if !birth.table {
        shared &= !libc::CLONE_FILES;
    }
    if !birth.fs {
        shared &= !libc::CLONE_FS;
    }
    let (patience, what) = (Patience::new(), format!("make thread {id}"));
    loop {
        match numbers.birth(creator, &what, id, shared as u64, 0)? {
            Born::Right(thread) => return Ok(thread),
            Born::Other(_, thread) => thread.last_call(call::exit(0)).map(drop)?,
            Born::Taken => {}
        }
        patience.wait(id)?;
    }
}

/// Gives a thread back what is its own, but for credentials, signals and registers. Its memory must be complete: the
/// kernel writes into the rseq area. What this host does not allow and the thread can do without is returned in words.
pub fn restore(stub: &mut Stub, record: &Thread) -> Result<Vec<String>> {
    let (address, _) = stub.scratch()?;
    let stack = match &record.alternate_stack {
        Some(stack) => [stack.address, stack.flags.into(), stack.size],
        None => [0, SS_DISABLE.into(), 0],
    };
    let mut scratch: Vec<u8> = stack.into_iter().flat_map(u64::to_ne_bytes).collect();
    scratch.extend(record.name.0.iter().take(NAME));
    scratch.push(0);
    stub.put(&scratch)?;
    let mut calls = vec![
        (
            "sigaltstack",
            Call::new(libc::SYS_sigaltstack, &[address, 0]),
        ),
        ("PR_SET_NAME", call::set_name(address + STACK_T as u64)),
        (
            "PR_SET_TIMERSLACK",
            call::prctl(libc::PR_SET_TIMERSLACK, record.scheduling.timer_slack),
        ),
        (
            "set_tid_address",
            Call::new(libc::SYS_set_tid_address, &[record.clear_child_tid]),
        ),
    ];
    if let Some(list) = &record.robust_list {
        calls.push((
            "set_robust_list",
            Call::new(libc::SYS_set_robust_list, &[list.head, list.size]),
        ));
    }
    if let Some(rseq) = &record.rseq {
        let arguments = [rseq.address, rseq.size.into(), 0, rseq.signature.into()];
        calls.push(("register rseq", Call::new(SYS_RSEQ, &arguments)));
    }
    let plain: Vec<Call> = calls.iter().map(|(_, call)| *call).collect();
    stub.must_all(&plain, &|i| {
        calls
            .get(i)
            .map(|(what, _)| (*what).to_owned())
            .unwrap_or_default()
    })?;
    let mut words = scheduling::restore(stub.tid(), &record.scheduling)?;
    words.extend(controls::restore(stub, &record.controls)?);
    Ok(words)
}
