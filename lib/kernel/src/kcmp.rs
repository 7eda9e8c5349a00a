//! Whether two tasks share a kernel object (kcmp(2)). The kernel gives an order too, so that many are compared by sorting.

use crate::error::{Named, check};
use crate::{Pid, Result};
use std::cmp::Ordering;
use std::os::fd::RawFd;

const FILE: u64 = 0;
const VM: u64 = 1;
const FILES: u64 = 2;
const FS: u64 = 3;
const SIGHAND: u64 = 4;
const SYSVSEM: u64 = 6;
const EPOLL_TFD: u64 = 7;

fn kcmp(pids: (Pid, Pid), kind: u64, first: u64, second: u64) -> Result<Ordering> {
    // SAFETY: numbers only, but for KCMP_EPOLL_TFD, whose second index is a pointer to a slot that outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_kcmp, pids.0, pids.1, kind, first, second) };
    let what = || format!("kcmp of processes {} and {}", pids.0, pids.1);
    // 3 means "different, and no order is known": as good as any fixed order (kcmp(2)).
    Ok(match check(result, what)? {
        0 => Ordering::Equal,
        1 => Ordering::Less,
        _ => Ordering::Greater,
    })
}

/// Orders two descriptors, each of a process, by their open file description.
pub fn file(first: (Pid, RawFd), second: (Pid, RawFd)) -> Result<Ordering> {
    kcmp((first.0, second.0), FILE, first.1 as u64, second.1 as u64)
}

/// Whether two tasks share their memory.
pub fn same_memory(first: Pid, second: Pid) -> Result<bool> {
    Ok(Kind::Memory.order(first, second)?.is_eq())
}

/// Whether two tasks share a descriptor table.
pub fn same_table(first: Pid, second: Pid) -> Result<bool> {
    Ok(Kind::Table.order(first, second)?.is_eq())
}

/// Whether two tasks share working directory, root and umask.
pub fn same_fs(first: Pid, second: Pid) -> Result<bool> {
    Ok(Kind::Fs.order(first, second)?.is_eq())
}

/// What tasks may share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Memory.
    Memory,
    /// The descriptor table.
    Table,
    /// Working directory, root and umask.
    Fs,
    /// Signal actions.
    Actions,
    /// What is taken back on semaphores of System V when they end (`SEM_UNDO`).
    Undo,
}

impl Kind {
    /// Orders two tasks by such an object of theirs.
    pub fn order(self, first: Pid, second: Pid) -> Result<Ordering> {
        let kind = match self {
            Kind::Memory => VM,
            Kind::Table => FILES,
            Kind::Fs => FS,
            Kind::Actions => SIGHAND,
            Kind::Undo => SYSVSEM,
        };
        kcmp((first, second), kind, 0, 0)
    }
}

/// Tasks, one for each object that they share among them: many are told apart by sorting, not each with each.
#[derive(Debug)]
pub struct Sharers {
    kind: Kind,
    /// In the kernel's order.
    known: Vec<Pid>,
}

impl Sharers {
    /// Nobody yet.
    pub fn of(kind: Kind) -> Self {
        Sharers {
            kind,
            known: Vec::new(),
        }
    }

    /// The task met before that shares with this one; `None` where it is the first. Tasks may end meanwhile.
    pub fn meet(&mut self, pid: Pid) -> Result<Option<Pid>> {
        let (mut low, mut high) = (0, self.known.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.kind.order(self.known[middle], pid) {
                Ok(Ordering::Equal) => return Ok(Some(self.known[middle])),
                Ok(Ordering::Less) => low = middle + 1,
                Ok(Ordering::Greater) => high = middle,
                // One of the two is gone.
                Err(e) if e.raw() == Some(libc::ESRCH) => {
                    self.kind.order(pid, pid)?;
                    self.known.remove(middle);
                    high -= 1;
                }
                Err(e) => return Err(e),
            }
        }
        self.known.insert(low, pid);
        Ok(None)
    }
}

/// Whether two tasks share the list of what is taken back on semaphores when they end (`SEM_UNDO`), or have none, both.
pub fn same_undo(first: Pid, second: Pid) -> Result<bool> {
    Ok(kcmp((first, second), SYSVSEM, 0, 0)?.is_eq())
}

/// Whether a task has such a list at all, be it empty: all have that were ever two threads.
pub fn has_undo(task: Pid) -> Result<bool> {
    // Ours is let go of; nothing was ever in it.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_SYSVSEM)
        .named(|| "unshare semaphore operations".into())?;
    Ok(!same_undo(nix::unistd::gettid().as_raw(), task)?)
}

/// `struct kcmp_epoll_slot` (include/uapi/linux/kcmp.h).
#[repr(C)]
struct Slot {
    efd: u32,
    tfd: u32,
    toff: u32,
}

/// Orders a descriptor and what the epoll `efd` of process `holder` watches under the number `tfd`, in the order that
/// [`file`] has; `nth` counts registrations with the same number.
pub fn watched(
    descriptor: (Pid, RawFd),
    holder: Pid,
    efd: RawFd,
    tfd: RawFd,
    nth: u32,
) -> Result<Ordering> {
    let slot = Slot {
        efd: efd as u32,
        tfd: tfd as u32,
        toff: nth,
    };
    let address = &raw const slot as u64;
    kcmp(
        (descriptor.0, holder),
        EPOLL_TFD,
        descriptor.1 as u64,
        address,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn duplicates_are_equal_and_others_keep_one_order() {
        let pid = std::process::id() as Pid;
        let one = std::fs::File::open("/dev/null").unwrap();
        let dup = one.try_clone().unwrap();
        let two = std::fs::File::open("/dev/null").unwrap();
        let compare = |a: &std::fs::File, b: &std::fs::File| {
            file((pid, a.as_raw_fd()), (pid, b.as_raw_fd())).unwrap()
        };
        assert_eq!(compare(&one, &dup), Ordering::Equal);
        assert_eq!(compare(&one, &two), compare(&dup, &two));
        assert_eq!(compare(&one, &two), compare(&two, &one).reverse());
        assert_ne!(compare(&one, &two), Ordering::Equal);
    }

    #[test]
    fn who_shares_is_found_among_many() {
        let sleep = || {
            std::process::Command::new("sleep")
                .arg("100")
                .spawn()
                .unwrap()
        };
        let mut children: Vec<_> = (0..9).map(|_| sleep()).collect();
        let mut sharers = Sharers::of(Kind::Memory);
        for child in &children {
            assert_eq!(sharers.meet(child.id() as Pid).unwrap(), None);
        }
        let own = std::process::id() as Pid;
        assert_eq!(sharers.meet(own).unwrap(), None);
        // The thread that runs this test.
        let thread = nix::unistd::gettid().as_raw();
        assert_eq!(sharers.meet(thread).unwrap(), Some(own));
        for child in &mut children[..5] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let again = children[7].id() as Pid;
        assert_eq!(sharers.meet(again).unwrap(), Some(again));
        assert_eq!(sharers.meet(thread).unwrap(), Some(own));
        let gone = sharers.meet(children[0].id() as Pid);
        assert_eq!(gone.unwrap_err().raw(), Some(libc::ESRCH));
        for child in &mut children[5..] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn a_task_has_something_to_take_back_only_after_it_shared_that_with_another() {
        let mut alone = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let seen = has_undo(alone.id() as Pid);
        alone.kill().unwrap();
        alone.wait().unwrap();
        assert_eq!(seen, Ok(false));
        // The test runner's threads are of one process.
        let me = std::process::id() as Pid;
        assert_eq!(has_undo(me), Ok(true));
    }

    #[test]
    fn what_an_epoll_watches_is_found_after_its_number_is_gone() {
        use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
        let pid = std::process::id() as Pid;
        let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
        let (read, _write) = nix::unistd::pipe().unwrap();
        let number = read.as_raw_fd();
        epoll
            .add(&read, EpollEvent::new(EpollFlags::EPOLLIN, 0))
            .unwrap();
        let kept = read.try_clone().unwrap();
        drop(read);
        let is = |fd: RawFd| {
            watched((pid, fd), pid, epoll.0.as_raw_fd(), number, 0)
                .unwrap()
                .is_eq()
        };
        assert!(is(kept.as_raw_fd()));
        assert!(!is(_write.as_raw_fd()));
    }
}
