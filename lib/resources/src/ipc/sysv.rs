//! Semaphore sets and message queues of System V (sysvipc(7)) of an IPC namespace of its own. Segments are
//! `memory::segments`.
//!
//! What is taken back on semaphores when a process ends (`SEM_UNDO`) the kernel tells nobody, but an operation that would
//! bring it out of its range fails in another way than one that would wait: so the process is asked for operations that
//! fail in either way, and whose failure changes nothing (`perform_atomic_semop`, ipc/sem.c).

use crate::memory::segments::{record, wanted};
use crate::namespaces::is_own;
use crate::{Blocker, Error, Result, Source, SourceProcess, Target, tree};
use image::ipc::sysv::{HIGHEST, Message, Queue, Semaphore, Set, SystemV, Undo};
use image::namespaces::nested::{Content, Nested};
use kernel::identity::write_as_owner;
use kernel::kcmp::Sharers;
use kernel::namespaces::Kind;
use kernel::proc::stat;
use kernel::remote::{Call, Caller};
use kernel::sysv::sem::Operation;
use kernel::sysv::{msg, sem};
use kernel::{Namespace, Pid, kcmp, within};
use std::collections::HashSet;

/// Takes everything of the frozen container with this root process. Of the host's namespace nothing is taken, and nothing
/// may be owed there.
pub fn dump(root: Pid, source: &mut Source) -> Result<SystemV> {
    let inner: HashSet<Pid> = source
        .sights
        .queues
        .iter()
        .flat_map(|(_, _, members)| members.iter().copied())
        .collect();
    of(root, source, |pid| !inner.contains(&pid))
}

/// Adds what is in the ipc namespaces inside the container.
pub fn dump_inner(nested: &mut Nested, source: &mut Source) -> Result<()> {
    for (id, there, members) in source.sights.queues.clone() {
        let found = of(there, source, |pid| members.contains(&pid))?;
        let inner = nested.namespaces.iter_mut().find(|inner| inner.id == id);
        if let Some(Content::Ipc { sysv, .. }) = inner.map(|inner| &mut inner.content) {
            *sysv = found;
        }
    }
    Ok(())
}

/// What is in the ipc namespace of a process; who is in it may owe something there.
fn of(root: Pid, source: &mut Source, is_in: impl Fn(Pid) -> bool) -> Result<SystemV> {
    let own = is_own(root, Kind::Ipc)?;
    let (found, queues) = within(root, &[Namespace::Ipc], || {
        let sets = sem::list()?.into_iter().map(read);
        let queues = if own { msg::list()? } else { Vec::new() };
        let queues = queues.into_iter().map(messages);
        Ok::<_, Error>((
            sets.collect::<Result<Vec<_>>>()?,
            queues.collect::<Result<Vec<_>>>()?,
        ))
    })??;
    let mut sets = Vec::new();
    for (mut set, pids) in found {
        for (semaphore, pid) in set.semaphores.iter_mut().zip(pids) {
            // Who is in there with a thread alone cannot be made to use it again.
            semaphore.last = source.inside(pid).filter(|_| is_in(pid));
        }
        sets.push(set);
    }
    for process in &mut source.processes {
        if !sets.is_empty() && is_in(process.pid) && kcmp::has_undo(process.pid)? {
            ask(process, &mut sets)?;
        }
    }
    if own {
        return Ok(SystemV { sets, queues });
    }
    let owed = sets.iter().find_map(|set| Some((set, set.undo.first()?)));
    owed.map_or(Ok(SystemV::default()), |(set, undo)| {
        Err(Error::Blocked(vec![Blocker {
            pid: source.outside(undo.pid),
            place: format!("semaphore set {}", set.permissions.id),
            what: "operations that are taken back when it ends (SEM_UNDO), in an ipc namespace that is the host's".into(),
            remedy: "start the program in an ipc namespace of its own (unshare --ipc)".into(),
        }]))
    })
}

fn read(set: sem::Set) -> Result<(Set, Vec<Pid>)> {
    let id = set.permissions.id;
    let values = sem::values(id, set.count)?;
    let last = (0..set.count).map(|number| sem::last_pid(id, number));
    let last = last.collect::<kernel::Result<Vec<_>>>()?;
    let semaphore = |value| Semaphore { value, last: None };
    let set = Set {
        permissions: record(&set.permissions),
        used: set.used,
        semaphores: values.into_iter().map(semaphore).collect(),
        undo: Vec::new(),
    };
    Ok((set, last))
}

fn messages(queue: msg::Queue) -> Result<Queue> {
    let id = queue.permissions.id;
    let longest = usize::try_from(queue.bytes).unwrap_or(usize::MAX);
    let mut messages = Vec::new();
    for at in 0..queue.messages {
        let Some((kind, content)) = msg::peek(id, at, longest)? else {
            break;
        };
        messages.push(Message {
            kind,
            content: content.into(),
        });
    }
    Ok(Queue {
        permissions: record(&queue.permissions),
        limit: msg::limit(id)?,
        messages,
    })
}

/// One more than the lowest adjustment there can be is how far a semaphore may be raised before it is out of range.
const RANGE: i32 = 32768;

/// Asks a process what it takes back on each semaphore.
fn ask(process: &mut SourceProcess, sets: &mut [Set]) -> Result<()> {
    let pid = process.inside;
    let guest = &mut process.leader()?.guest;
    for set in sets {
        let id = set.permissions.id;
        for (number, semaphore) in (0..).zip(&set.semaphores) {
            let mut fits = |raised: i32| {
                let operations = raise(number, semaphore.value, raised);
                let at = guest.put(&bytes(&operations))?;
                let call = semop(id, at, operations.len());
                match -guest.call(call)? as i32 {
                    kernel::sysv::EAGAIN => Ok(true),
                    kernel::sysv::ERANGE => Ok(false),
                    // It may not use them, and owes nothing.
                    kernel::sysv::EACCES => Ok(raised <= RANGE),
                    errno => Err(Error::from(kernel::Error::errno(
                        format!(
                            "ask process {pid} what it takes back on semaphore {number} of set {id}"
                        ),
                        errno,
                    ))),
                }
            };
            let adjustment = adjustment(&mut fits)?;
            if adjustment != 0 {
                set.undo.push(Undo {
                    pid,
                    number,
                    adjustment,
                });
            }
        }
    }
    Ok(guest.rest()?)
}

/// The adjustment, from whether the semaphore may be raised so far in all.
fn adjustment(fits: &mut dyn FnMut(i32) -> Result<bool>) -> Result<i32> {
    // Nearly always there is none.
    if fits(RANGE)? && !fits(RANGE + 1)? {
        return Ok(0);
    }
    let (mut right, mut wrong) = (0, 2 * RANGE);
    while wrong - right > 1 {
        let middle = (right + wrong) / 2;
        match fits(middle)? {
            true => right = middle,
            false => wrong = middle,
        }
    }
    Ok(right - RANGE)
}

/// Operations that raise a semaphore so far in all, with `SEM_UNDO`, and in the end would wait: none of them happens.
fn raise(number: u16, value: u16, raised: i32) -> Vec<Operation> {
    let change = |by: i32| Operation::new(number, i16::try_from(by).unwrap_or(0));
    let mut operations = Vec::new();
    if value > 0 {
        operations.push(change(-i32::from(value)));
    }
    let mut left = raised;
    while left > 0 {
        let step = left.min(HIGHEST.into());
        operations.push(change(step).undone());
        left -= step;
        if left > 0 {
            operations.push(change(-step));
        }
    }
    operations.push(change(if raised > 0 { 0 } else { -1 }));
    operations
}

fn bytes(operations: &[Operation]) -> Vec<u8> {
    operations.iter().flat_map(|o| o.bytes()).collect()
}

fn semop(id: i32, at: u64, count: usize) -> Call {
    Call::new(libc::SYS_semop, &[id as u64, at, count as u64])
}

/// Makes everything in the vessel whose first process this is; who may use it is said by [`resume`].
pub fn restore(vessel: Pid, record: &SystemV) -> Result<()> {
    record.check().map_err(Error::Refused)?;
    within(vessel, &[Namespace::Ipc], || {
        record.sets.iter().try_for_each(make_set)?;
        record.queues.iter().try_for_each(make_queue)
    })?
}

fn make_set(set: &Set) -> Result<()> {
    let id = set.permissions.id;
    let values: Vec<u16> = set.semaphores.iter().map(|one| one.value).collect();
    sem::create(&wanted(&set.permissions), values.len() as u32)?;
    if set.used {
        // A new one has the value 0, and nothing is done but to say so.
        sem::operate(id, &[Operation::new(0, 0)])?;
    }
    Ok(sem::set_values(id, &values)?)
}

fn make_queue(queue: &Queue) -> Result<()> {
    let longest = queue.messages.iter().map(|m| m.content.0.len() as u64);
    let (longest, all) = (longest.clone().max(), longest.sum::<u64>());
    // A queue may hold more than the limits allow that were lowered since; one that is made takes its own from them.
    let most = all.max(queue.limit).to_string();
    let _lifted = [
        Lifted::to("kernel/msgmnb", &most)?,
        Lifted::to("kernel/msgmax", &longest.unwrap_or(0).max(8192).to_string())?,
    ];
    let permissions = wanted(&queue.permissions);
    msg::create(&permissions)?;
    for message in &queue.messages {
        msg::send(permissions.id, message.kind, &message.content.0)?;
    }
    Ok(msg::set(&permissions, queue.limit)?)
}

/// A limit that is another for a moment.
struct Lifted {
    path: String,
    before: String,
}

impl Lifted {
    fn to(name: &str, value: &str) -> Result<Self> {
        let path = format!("/proc/sys/{name}");
        let io = |e| kernel::Error::io(format!("set {path}"), &e);
        let before = std::fs::read_to_string(&path).map_err(io)?;
        write_as_owner(&path, value)?;
        Ok(Lifted { path, before })
    }
}

impl Drop for Lifted {
    fn drop(&mut self) {
        let _ = write_as_owner(&self.path, &self.before);
    }
}

/// Once the processes are there, and before their credentials are their own: what they take back, who was the last, and
/// who may use it all. `there` is a process in their namespace.
pub fn resume(target: &mut Target, there: Pid, record: &SystemV) -> Result<()> {
    for set in &record.sets {
        for undo in &set.undo {
            let semaphore = set.semaphores.get(usize::from(undo.number));
            let value = semaphore.map_or(0, |semaphore| i32::from(semaphore.value));
            let operations = owing(undo.number, value, undo.adjustment);
            operate(target, undo.pid, set.permissions.id, &operations)?;
        }
        for (number, semaphore) in (0..).zip(&set.semaphores) {
            let up_first = semaphore.value < HIGHEST;
            let operations = [1, -1].map(|by: i16| if up_first { by } else { -by });
            let operations = operations.map(|by| Operation::new(number, by));
            if let Some(pid) = semaphore.last.filter(|_| set.used) {
                operate(target, pid, set.permissions.id, &operations)?;
            }
        }
    }
    if record.sets.is_empty() {
        return Ok(());
    }
    within(there, &[Namespace::Ipc], || {
        let mut sets = record.sets.iter();
        sets.try_for_each(|set| sem::set(&wanted(&set.permissions)))
    })??;
    Ok(())
}

/// Operations after which a semaphore has its value again, and the process something to take back. On the way the value
/// stays within its range.
fn owing(number: u16, value: i32, adjustment: i32) -> Vec<Operation> {
    let change = |by: i32| Operation::new(number, i16::try_from(by).unwrap_or(0));
    let from = adjustment.max(0);
    let to = from - adjustment;
    let steps = [
        (from - value, change(from - value)),
        (-adjustment, change(-adjustment).undone()),
        (value - to, change(value - to)),
    ];
    // A change by nothing would wait for 0.
    let steps = steps.into_iter().filter(|(by, _)| *by != 0);
    steps.map(|(_, operation)| operation).collect()
}

fn operate(target: &mut Target, pid: image::ids::Pid, id: i32, all: &[Operation]) -> Result<()> {
    let stub = &mut target.process(pid)?.leader;
    let at = stub.put(&bytes(all))?;
    stub.must(&format!("semop on set {id}"), semop(id, at, all.len()))?;
    Ok(())
}

/// Lists of things to take back that more than the threads of one process share.
pub fn blockers(processes: &[Pid]) -> Result<Vec<Blocker>> {
    let mut found = Vec::new();
    let mut owing = Sharers::of(kcmp::Kind::Undo);
    // By a thread that lives, where the first one does not.
    let living = |pid: &Pid| tree::living(&stat::read(*pid).ok()?);
    for pid in processes.iter().filter_map(living) {
        let mut blocked = |place: String, what: String| {
            found.push(Blocker {
                pid,
                place,
                what,
                remedy:
                    "start it without CLONE_SYSVSEM, or all threads with it, as pthread_create does"
                        .into(),
            });
        };
        // A task that ends meanwhile is no obstacle.
        if kcmp::has_undo(pid) == Ok(true)
            && let Ok(Some(other)) = owing.meet(pid)
        {
            let what = format!(
                "what it takes back on semaphores when it ends (SEM_UNDO) is that of process {other}, too"
            );
            blocked(String::new(), what);
        }
        let threads = kernel::proc::Proc::process(pid).numbers("task");
        for tid in threads.unwrap_or_default() {
            let apart = kcmp::same_undo(pid, tid) == Ok(false);
            if apart && kcmp::has_undo(tid) == Ok(true) {
                let what = "what it takes back on semaphores (SEM_UNDO) is not that of its process";
                blocked(format!("thread {tid}"), what.into());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel does it: what becomes of a semaphore and of what is owed on it, or which error.
    fn kernel(
        (mut value, mut owed): (i32, i32),
        all: &[Operation],
    ) -> std::result::Result<(i32, i32), i32> {
        for operation in all {
            let bytes = operation.bytes();
            let change = i32::from(i16::from_ne_bytes([bytes[2], bytes[3]]));
            let undo = i16::from_ne_bytes([bytes[4], bytes[5]]) & 0x1000 != 0;
            if change == 0 && value != 0 || value + change < 0 {
                return Err(kernel::sysv::EAGAIN);
            }
            if value + change > HIGHEST.into() {
                return Err(kernel::sysv::ERANGE);
            }
            if undo && !(-RANGE..RANGE).contains(&(owed - change)) {
                return Err(kernel::sysv::ERANGE);
            }
            value += change;
            owed -= if undo { change } else { 0 };
        }
        Ok((value, owed))
    }

    #[test]
    fn what_is_owed_is_found_by_operations_that_all_fail() {
        for value in [0, 1, 700, HIGHEST] {
            for owed in [0, 1, -1, 5, -700, 32766, 32767, -32767] {
                let mut fits = |raised| {
                    let tried = kernel((value.into(), owed), &raise(3, value, raised));
                    Ok(tried.unwrap_err() == kernel::sysv::EAGAIN)
                };
                assert_eq!(adjustment(&mut fits).unwrap(), owed, "at {value}");
            }
        }
    }

    #[test]
    fn what_is_owed_is_owed_again_and_the_value_stays() {
        for (value, owed) in [
            (0, 1),
            (0, -1),
            (5, 5),
            (32767, -3),
            (32767, 3),
            (0, 32767),
            (1, -32767),
        ] {
            let all = owing(2, value, owed);
            assert_eq!(kernel((value, 0), &all), Ok((value, owed)), "{all:?}");
        }
    }
}
