//! System V IPC (sysvipc(7)): the shared memory segments, semaphore sets and message queues of the calling thread's IPC
//! namespace.

use crate::error::{Named, check};
use crate::{Error, Result};
use std::collections::HashMap;

pub use libc::{EACCES, EAGAIN, ERANGE};

pub mod msg;
pub mod sem;
pub mod shm;

/// Who may use an object, and by which numbers it is found (`struct ipc_perm`, svipc(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permissions {
    /// Its key (ftok(3)); 0 for a private one, and for one that is removed already.
    pub key: i32,
    /// Its id.
    pub id: i32,
    /// Permission bits, and those of the kernel's own above them.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// The owner's group.
    pub gid: u32,
    /// Who has made it.
    pub creator_uid: u32,
    /// The group of who has made it.
    pub creator_gid: u32,
}

/// A row of a table under `/proc/sysvipc`, by the names in the table's head.
struct Row<'a>(HashMap<&'a str, &'a str>, &'a str);

fn rows(text: &str) -> impl Iterator<Item = Row<'_>> {
    let head = text.lines().next().unwrap_or_default();
    let row = move |line| {
        let columns = head
            .split_ascii_whitespace()
            .zip(str::split_ascii_whitespace(line));
        Row(columns.collect(), line)
    };
    text.lines().skip(1).map(row)
}

impl Row<'_> {
    fn number<T: TryFrom<i64>>(&self, name: &str) -> Result<T> {
        let number = self.0.get(name).and_then(|text| text.parse::<i64>().ok());
        number
            .and_then(|n| T::try_from(n).ok())
            .ok_or_else(|| Error::unreadable("/proc/sysvipc", format!("no {name} in {:?}", self.1)))
    }

    fn permissions(&self, id: &str) -> Result<Permissions> {
        let mode = self
            .0
            .get("perms")
            .and_then(|text| u32::from_str_radix(text, 8).ok());
        Ok(Permissions {
            key: self.number("key")?,
            id: self.number(id)?,
            mode: mode.ok_or_else(|| Error::unreadable("/proc/sysvipc", "no perms"))?,
            uid: self.number("uid")?,
            gid: self.number("gid")?,
            creator_uid: self.number("cuid")?,
            creator_gid: self.number("cgid")?,
        })
    }
}

fn table(kind: &str) -> Result<String> {
    let path = format!("/proc/sysvipc/{kind}");
    std::fs::read_to_string(&path).named(|| format!("read {path}"))
}

/// The calling thread alone with the effective ids of another, until dropped.
struct Creator;

fn set_ids(call: libc::c_long, id: u32) -> libc::c_long {
    // SAFETY: numbers only; the bare system call changes the calling thread alone.
    unsafe { libc::syscall(call, -1, id as libc::c_int, -1) }
}

impl Creator {
    fn become_one(permissions: &Permissions) -> Result<Option<Self>> {
        let (uid, gid) = (permissions.creator_uid, permissions.creator_gid);
        if (uid, gid) == (0, 0) {
            return Ok(None);
        }
        let creator = Creator;
        let what = || format!("become user {uid}, group {gid}");
        check(set_ids(libc::SYS_setresgid, gid), what)?;
        check(set_ids(libc::SYS_setresuid, uid), what)?;
        Ok(Some(creator))
    }
}

impl Drop for Creator {
    fn drop(&mut self) {
        set_ids(libc::SYS_setresuid, 0);
        set_ids(libc::SYS_setresgid, 0);
    }
}

/// Makes an object with the id and the creator wanted; `remove` takes one away that got another id.
fn make_as(
    kind: &str,
    wanted: &Permissions,
    make: impl FnOnce() -> Result<i32>,
    remove: impl FnOnce(i32),
) -> Result<()> {
    let path = format!("/proc/sys/kernel/{kind}_next_id");
    std::fs::write(&path, wanted.id.to_string()).named(|| format!("write {path}"))?;
    let creator = Creator::become_one(wanted)?;
    let made = make();
    drop(creator);
    match made? {
        id if id == wanted.id => Ok(()),
        other => {
            remove(other);
            let what = format!("make {kind} {} of key {:#x}", wanted.id, wanted.key);
            Err(Error::errno(what, libc::EEXIST))
        }
    }
}

/// For `IPC_SET`: what of `struct ipc_perm` it takes.
fn fill(into: &mut libc::ipc_perm, wanted: &Permissions) {
    into.uid = wanted.uid;
    into.gid = wanted.gid;
    into.mode = (wanted.mode & 0o777) as _;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captured_tables_read_as_they_were() {
        let text = "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap
-559038737      98313  3600                  5000  1041  1041      2     7     8     9    10 1795450515          0 1795450515                  4096                     0\n";
        let found = shm::parse(text).unwrap();
        assert_eq!(found.len(), 1);
        let permissions = Permissions {
            key: -559038737,
            id: 98313,
            mode: 0o3600,
            uid: 7,
            gid: 8,
            creator_uid: 9,
            creator_gid: 10,
        };
        assert_eq!(found[0].permissions, permissions);
        assert_eq!((found[0].size, found[0].attached), (5000, 2));
        let text =
            "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime
         5          0   640          3     0     0     0     0          0 1795450515\n";
        let found = sem::parse(text).unwrap();
        assert_eq!((found[0].count, found[0].used), (3, false));
        let text = "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime
         5          0   640          30      2  1 0   0     0     0     0          0 0 1795450515\n";
        let found = msg::parse(text).unwrap();
        assert_eq!((found[0].bytes, found[0].messages), (30, 2));
        assert!(shm::parse("key shmid\n1 nonsense\n").is_err());
    }

    /// In an IPC namespace that ends with the thread.
    fn alone(work: impl FnOnce() + Send + 'static) {
        let work = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWIPC).unwrap();
            work();
        };
        std::thread::spawn(work).join().unwrap();
    }

    fn wanted(key: i32, id: i32) -> Permissions {
        Permissions {
            key,
            id,
            mode: 0o640,
            uid: 1,
            gid: 2,
            creator_uid: 3,
            creator_gid: 4,
        }
    }

    #[test]
    fn a_segment_has_the_id_and_the_makers_wanted_and_is_read_by_descriptor() {
        use std::os::unix::fs::FileExt;
        alone(|| {
            let wanted = wanted(0x1234, 5 * 32768 + 7);
            shm::create(&wanted, 5000, None).unwrap();
            shm::set(&wanted).unwrap();
            let attached = shm::Attached::attach(wanted.id).unwrap();
            let file = attached.open().unwrap();
            file.write_all_at(b"here", 4096).unwrap();
            drop(attached);
            shm::lock(wanted.id).unwrap();
            let again = shm::Attached::attach(wanted.id).unwrap();
            let mut bytes = [0; 4];
            again
                .open()
                .unwrap()
                .read_exact_at(&mut bytes, 4096)
                .unwrap();
            assert_eq!(&bytes, b"here");
            let found = shm::list().unwrap();
            let mode = wanted.mode | shm::LOCKED;
            assert_eq!(found[0].permissions, Permissions { mode, ..wanted });
            assert_eq!((found[0].size, found[0].attached), (5000, 1));
            assert!(shm::create(&wanted, 5000, None).is_err());
            shm::remove(wanted.id).unwrap();
            assert_eq!(
                shm::list().unwrap()[0].permissions.mode,
                mode | shm::REMOVED
            );
            drop(again);
            assert_eq!(shm::list().unwrap(), []);
        });
    }

    #[test]
    fn semaphores_have_their_values_and_say_whether_they_were_used() {
        alone(|| {
            let wanted = wanted(0, 3);
            sem::create(&wanted, 3).unwrap();
            assert!(!sem::list().unwrap()[0].used);
            sem::operate(3, &[sem::Operation::new(1, 0)]).unwrap();
            sem::set_values(3, &[1, 0, 32767]).unwrap();
            sem::set(&wanted).unwrap();
            let found = sem::list().unwrap();
            assert_eq!((found[0].permissions, found[0].used), (wanted, true));
            assert_eq!(sem::values(3, 3).unwrap(), [1, 0, 32767]);
            assert_eq!(sem::last_pid(3, 0).unwrap(), std::process::id() as i32);
            let busy = sem::operate(3, &[sem::Operation::new(0, -2)]).unwrap_err();
            assert_eq!(busy.raw(), Some(libc::EAGAIN));
        });
    }

    #[test]
    fn messages_are_looked_at_without_being_taken() {
        alone(|| {
            let wanted = wanted(9, 0);
            msg::create(&wanted).unwrap();
            for (kind, text) in [(7, "one"), (3, ""), (7, "two")] {
                msg::send(0, kind, text.as_bytes()).unwrap();
            }
            msg::set(&wanted, 100).unwrap();
            let peek = |at| msg::peek(0, at, 100).unwrap();
            assert_eq!(peek(0), Some((7, b"one".to_vec())));
            assert_eq!(peek(1), Some((3, Vec::new())));
            assert_eq!(peek(2), Some((7, b"two".to_vec())));
            assert_eq!(peek(3), None);
            let found = msg::list().unwrap();
            assert_eq!((found[0].permissions, found[0].messages), (wanted, 3));
            assert_eq!(msg::limit(0).unwrap(), 100);
        });
    }
}
