//! Who we are, for a while: as whom a child of ours is born (setresuid(2)), and whose the files are that we make
//! (setfsuid(2)). Capabilities are kept throughout.

use crate::Result;
use crate::error::{Named, check};
use crate::socket::root::as_user;
use nix::unistd::getgroups;
use std::os::unix::fs::MetadataExt;

/// Who makes a user namespace, by our own numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maker {
    /// Its owner: in the namespace around it that user may do anything to it.
    pub uid: u32,
    /// The maker's group.
    pub gid: u32,
    /// And the others that it is in.
    pub groups: Vec<u32>,
}

/// Acting as another user with all our capabilities, until [`Acting::end`]. Other threads stay who they are.
#[derive(Debug)]
#[must_use]
pub struct Acting {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    capabilities: Capabilities,
}

impl Acting {
    /// Acts as this user from now on.
    pub fn begin(maker: &Maker) -> Result<Self> {
        let error = |e: nix::Error| crate::Error::errno("ask for our own ids", e as i32);
        let groups = getgroups().map_err(error)?;
        let ours = Acting {
            uid: nix::unistd::getuid().as_raw(),
            gid: nix::unistd::getgid().as_raw(),
            groups: groups.into_iter().map(|group| group.as_raw()).collect(),
            capabilities: capabilities()?,
        };
        set_groups(&maker.groups)?;
        become_user(maker.uid, maker.gid, &ours.capabilities)?;
        Ok(ours)
    }

    /// We are ourselves again. Not for a child that has been born meanwhile: it stays what it is.
    pub fn end(self) -> Result<()> {
        become_user(self.uid, self.gid, &self.capabilities)?;
        set_groups(&self.groups)
    }
}

fn set_groups(groups: &[u32]) -> Result<()> {
    // SAFETY: the list has as many numbers as are said and outlives the call, which, made raw, changes this thread alone.
    let set = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    check(set, || "setgroups".into()).map(drop)
}

/// All three ids, with the capabilities that a change of users takes out of force.
fn become_user(uid: u32, gid: u32, all: &Capabilities) -> Result<()> {
    let what = || format!("become user {uid}, group {gid}");
    // SAFETY: the calls take numbers only; made raw, they change this thread alone (credentials(7)).
    unsafe {
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid), what)?;
        let keep = libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0);
        check(keep.into(), what)?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid), what)?;
        libc::prctl(libc::PR_SET_KEEPCAPS, 0, 0, 0, 0);
    }
    set_capabilities(all)
}

/// As long as it lives, what the calling thread and threads that it starts make is another's; made with our capabilities.
#[derive(Debug)]
pub struct FilesOf {
    ours: (u32, u32),
}

impl FilesOf {
    /// The same from now on for good.
    pub(crate) fn user_for_good(uid: u32, gid: u32) -> Result<()> {
        FilesOf::user(uid, gid).map(std::mem::forget)
    }

    /// Files are this user's and this group's from now on.
    pub fn user(uid: u32, gid: u32) -> Result<Self> {
        let all = capabilities()?;
        let ours = file_ids(uid, gid);
        let set = FilesOf { ours };
        set_capabilities(&all)?;
        Ok(set)
    }
}

impl Drop for FilesOf {
    fn drop(&mut self) {
        // Back to user 0 the kernel puts all capabilities in force again by itself (capabilities(7)).
        file_ids(self.ours.0, self.ours.1);
    }
}

/// Writes a sysctl as the user whose it is: those of an ipc namespace are its root's, and no capability counts for them
/// (ipc/ipc_sysctl.c).
pub fn write_as_owner(path: &str, text: &str) -> Result<()> {
    let write = || std::fs::write(path, text).named(|| format!("write {path}"));
    let looks = std::fs::metadata(path).named(|| format!("stat {path}"))?;
    match (looks.uid(), looks.gid()) {
        (0, _) => write(),
        (uid, gid) => as_user(uid, gid, write)?,
    }
}

/// Whose files the calling thread makes.
pub(crate) fn files_are_of() -> (u32, u32) {
    // No user has this number: nothing is changed.
    file_ids(u32::MAX, u32::MAX)
}

/// Sets both, and gives those before. The calls say nothing of failure (setfsuid(2)).
fn file_ids(uid: u32, gid: u32) -> (u32, u32) {
    // SAFETY: the calls take numbers only; made raw, they change this thread alone.
    unsafe {
        let gid = libc::syscall(libc::SYS_setfsgid, gid);
        let uid = libc::syscall(libc::SYS_setfsuid, uid);
        (uid as u32, gid as u32)
    }
}

/// `struct __user_cap_data_struct`, twice: effective, permitted, inheritable.
type Capabilities = [u32; 6];

/// `_LINUX_CAPABILITY_VERSION_3`, of the calling thread.
const VERSION: [u32; 2] = [0x2008_0522, 0];

fn capabilities() -> Result<Capabilities> {
    let mut all: Capabilities = [0; 6];
    // SAFETY: the header has two and the data six words, as the kernel reads and writes them; both outlive the call.
    let got = unsafe { libc::syscall(libc::SYS_capget, VERSION.as_ptr(), all.as_mut_ptr()) };
    check(got, || "capget".into())?;
    Ok(all)
}

fn set_capabilities(all: &Capabilities) -> Result<()> {
    // SAFETY: as above; nothing is written.
    let set = unsafe { libc::syscall(libc::SYS_capset, VERSION.as_ptr(), all.as_ptr()) };
    check(set, || "capset".into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_made_for_another_are_the_others_and_may_be_made_anywhere() {
        let dir = tempfile::tempdir().unwrap();
        let owner = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, "").unwrap();
            let stat = std::fs::metadata(path).unwrap();
            (stat.uid(), stat.gid())
        };
        let files = FilesOf::user(1001, 1002).unwrap();
        assert_eq!(owner("theirs"), (1001, 1002));
        assert_eq!(
            std::thread::scope(|s| s.spawn(|| owner("a thread's")).join().unwrap()),
            (1001, 1002)
        );
        drop(files);
        assert_eq!(owner("ours"), (0, 0));
    }

    #[test]
    fn a_child_is_born_as_who_we_act_as_and_we_are_ourselves_afterwards() {
        let maker = Maker {
            uid: 1001,
            gid: 1002,
            groups: vec![7, 8],
        };
        let status = || std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let before = status();
        let during = std::thread::spawn(move || {
            let acting = Acting::begin(&maker).unwrap();
            let during = status();
            acting.end().unwrap();
            (during, status())
        });
        let (during, after) = during.join().unwrap();
        for line in ["Uid:\t1001\t1001\t1001\t1001", "Groups:\t7 8"] {
            assert!(during.contains(line), "{during}");
        }
        let of = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key));
            line.map(str::to_owned)
        };
        assert_eq!(of(&during, "CapEff"), of(&before, "CapEff"));
        for key in ["Uid", "Gid", "Groups", "CapEff", "CapPrm"] {
            assert_eq!(of(&after, key), of(&before, key));
        }
    }
}
