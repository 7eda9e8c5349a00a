//! Making the mounts: run by the vessel's first process, in a copy of the host's mount namespace.

use super::*;
use kernel::beneath::{self, Way};
use kernel::mount::{Atime, Attributes};
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, mkdirat};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Makes the mounts in the calling process's mount namespace, which is a fresh copy of the host's. With a directory, that
/// becomes the root; without, the host's root stays. Gives the mounts of the host's that were wanted and are not there.
///
/// Read-only comes later ([`settle`]), when the file trees have been poured.
pub fn restore(record: Option<&Mounts>, directory: Option<&Path>) -> Result<Vec<String>> {
    let everything = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    call("make all mounts private", || {
        mount(None::<&str>, "/", None::<&str>, everything, None::<&str>)
    })?;
    if let Some(directory) = directory {
        bind(directory, directory)?;
    }
    let present = mountinfo::read_own()?;
    let mut missing = Vec::new();
    let root = directory.unwrap_or(Path::new("/"));
    let none = Mounts { mounts: Vec::new() };
    let record = record.unwrap_or(&none);
    for one in &record.mounts {
        match &one.origin {
            Origin::Root => {}
            Origin::Host if directory.is_none() => {
                let there = present.iter().any(|p| p.mountpoint == one.mountpoint.0);
                if !there && one.fstype != "nsfs" {
                    missing.push(format!("{} ({})", one.mountpoint, one.fstype));
                }
            }
            Origin::Host if one.mountpoint.0 == b"/" => {}
            Origin::Host => attach(root, one, Source::Bind(one.mountpoint.as_path()))?,
            Origin::Bind { path } => attach(root, one, Source::Bind(path.as_path()))?,
            Origin::Fresh | Origin::Tmpfs { .. } => attach(root, one, Source::New)?,
            Origin::Volume { .. } | Origin::Written { .. } => {
                return Err(refused(one, "only an engine can make it"));
            }
            Origin::Again { mount } => {
                let of = record.mounts.iter().find(|m| m.id == *mount);
                let of = of.ok_or_else(|| refused(one, "it shows a mount that is not there"))?;
                let below = one.root.as_path().strip_prefix(of.root.as_path());
                let below =
                    below.map_err(|_| refused(one, "it shows a place outside its mount"))?;
                attach(
                    root,
                    one,
                    Source::Beneath(&join(of.mountpoint.as_path(), below)),
                )?;
            }
        }
    }
    if directory.is_some() {
        enter(root)?;
    }
    Ok(missing)
}

/// What is mounted.
enum Source<'a> {
    /// A new file system.
    New,
    /// A place on the host, by its path there.
    Bind(&'a Path),
    /// A place beneath the new root.
    Beneath(&'a Path),
}

fn attach(root: &Path, one: &Mount, source: Source) -> Result<()> {
    let place = one.mountpoint.as_path();
    let what = || format!("mount {} at {}", one.fstype, place.display());
    let top = directory(root)?;
    match source {
        Source::New => {
            let point = point(&top, root, place, true)?;
            let flags = flags(&one.options) - MsFlags::MS_RDONLY;
            let data = options(one);
            let from = one.source.as_path();
            call(&what(), || {
                mount(
                    Some(from),
                    &*point.1,
                    Some(&*one.fstype),
                    flags,
                    Some(&*data),
                )
            })
        }
        Source::Bind(from) => {
            let is_dir = std::fs::metadata(from).map(|m| m.is_dir()).map_err(|e| {
                Error::Refused(format!(
                    "the container has {} of the host mounted at {}, and here it cannot be used: {e}; \
                     make it available",
                    from.display(),
                    place.display()
                ))
            })?;
            let point = point(&top, root, place, is_dir)?;
            bind(from, Path::new(&point.1))
        }
        Source::Beneath(from) => {
            let from = beneath::open(top.as_fd(), from, Way::InRoot, OFlag::O_PATH, 0)?;
            let from = format!("/proc/self/fd/{}", from.as_raw_fd()).into();
            let is_dir = std::fs::metadata::<&PathBuf>(&from).is_ok_and(|m| m.is_dir());
            let point = point(&top, root, place, is_dir)?;
            bind(&from, Path::new(&point.1))
        }
    }
}

/// The mount point, made if it is not there; its path leads through a descriptor, so that no link in the container's
/// tree leads elsewhere. In the host's own tree nothing is made.
fn point(top: &OwnedFd, root: &Path, place: &Path, is_dir: bool) -> Result<(OwnedFd, String)> {
    let open = || beneath::open(top.as_fd(), place, Way::InRoot, OFlag::O_PATH, 0);
    let fd = match open() {
        Err(e) if e.raw() == Some(libc_enoent()) && root != Path::new("/") => {
            make(top, place, is_dir)?;
            open()?
        }
        Err(e) if e.raw() == Some(libc_enoent()) => {
            return Err(Error::Refused(format!(
                "the container has a mount at {}, which is not on this host; make the directory",
                place.display()
            )));
        }
        opened => opened?,
    };
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok((fd, path))
}

fn libc_enoent() -> i32 {
    nix::errno::Errno::ENOENT as i32
}

/// Makes a directory or an empty file, and the directories that lead to it, beneath `top`.
fn make(top: &OwnedFd, place: &Path, is_dir: bool) -> Result<()> {
    let mut above = PathBuf::from("/");
    let mut names = place.components().skip(1).peekable();
    while let Some(name) = names.next() {
        let parent = beneath::open(top.as_fd(), &above, Way::InRoot, OFlag::O_PATH, 0)?;
        let name = name.as_os_str();
        let what = || format!("make the mount point {}", place.display());
        if names.peek().is_some() || is_dir {
            match mkdirat(&parent, name, Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
                Err(e) => return Err(kernel::Error::errno(what(), e as i32).into()),
            }
        } else {
            let flags = OFlag::O_CREAT | OFlag::O_WRONLY;
            beneath::open(parent.as_fd(), Path::new(name), Way::Down, flags, 0o644)?;
        }
        above.push(name);
    }
    Ok(())
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    call(&format!("bind {}", from.display()), || {
        mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
    })
}

/// Makes a directory, already a mount, the root of the calling process's mount namespace.
fn enter(root: &Path) -> Result<()> {
    call("enter the root file system", || {
        nix::unistd::chdir(root)?;
        // The old root comes to lie over the new one, and is taken off (pivot_root(2), the last example).
        nix::unistd::pivot_root(".", ".")?;
        umount2(".", MntFlags::MNT_DETACH)?;
        nix::unistd::chdir("/")
    })
}

/// Once the file trees are poured: what each mount may do, and where its own mounts show. Under the host's root the
/// host's own mounts are left as they are.
pub fn settle(pid: Pid, record: &Mounts, own_root: bool) -> Result<()> {
    within(pid, &[Namespace::Mount], || {
        let top = directory(Path::new("/"))?;
        let made = |m: &&Mount| own_root || m.origin != Origin::Host;
        for one in record.mounts.iter().filter(made) {
            let fd = beneath::open(
                top.as_fd(),
                one.mountpoint.as_path(),
                Way::InRoot,
                OFlag::O_PATH,
                0,
            )?;
            kernel::mount::set(fd.as_fd(), &attributes(one))
                .map_err(|e| Error::Refused(format!("the mount at {}: {e}", one.mountpoint)))?;
        }
        Ok(())
    })?
}

fn directory(path: &Path) -> Result<OwnedFd> {
    let file = File::open(path);
    let file = file.map_err(|e| kernel::Error::io(format!("open {}", path.display()), &e))?;
    Ok(file.into())
}

fn call(what: &str, call: impl FnOnce() -> nix::Result<()>) -> Result<()> {
    call().map_err(|errno| kernel::Error::errno(what, errno as i32).into())
}

fn refused(one: &Mount, why: &str) -> Error {
    Error::Refused(format!(
        "the mount at {} cannot be made: {why}",
        one.mountpoint
    ))
}

/// The flags of mount(2) for the options of a mount; those unknown are none of a mount's.
fn flags(options: &[String]) -> MsFlags {
    let has = |name: &str| options.iter().any(|o| o == name);
    let mut flags = MsFlags::empty();
    for (name, flag) in [
        ("ro", MsFlags::MS_RDONLY),
        ("nosuid", MsFlags::MS_NOSUID),
        ("nodev", MsFlags::MS_NODEV),
        ("noexec", MsFlags::MS_NOEXEC),
        ("noatime", MsFlags::MS_NOATIME),
        ("nodiratime", MsFlags::MS_NODIRATIME),
        ("relatime", MsFlags::MS_RELATIME),
    ] {
        flags.set(flag, has(name));
    }
    if !has("relatime") && !has("noatime") {
        flags |= MsFlags::MS_STRICTATIME; // else the kernel takes relatime (mount(2))
    }
    flags
}

/// What a mount is to be in the end.
fn attributes(one: &Mount) -> Attributes {
    let has = |name: &str| one.options.iter().any(|o| o == name);
    Attributes {
        read_only: has("ro"),
        nosuid: has("nosuid"),
        nodev: has("nodev"),
        noexec: has("noexec"),
        nodiratime: has("nodiratime"),
        atime: match () {
            () if has("noatime") => Atime::None,
            () if has("relatime") => Atime::Relative,
            () => Atime::Strict,
        },
        propagation: match one.propagation {
            // It took from a group outside; there is none here.
            Propagation::Private | Propagation::Slave => None,
            Propagation::Shared => Some(kernel::mount::Propagation::Shared),
            Propagation::Unbindable => Some(kernel::mount::Propagation::Unbindable),
        },
    }
}

/// The options a file system takes back of those it shows.
fn options(one: &Mount) -> String {
    let takes: &[&str] = match one.fstype.as_str() {
        "tmpfs" => &[
            "size",
            "nr_blocks",
            "nr_inodes",
            "mode",
            "uid",
            "gid",
            "huge",
            "mpol",
        ],
        "ramfs" => &["mode"],
        "proc" => &["hidepid", "gid", "subset"],
        "devpts" => &["gid", "uid", "mode", "ptmxmode", "max"],
        "hugetlbfs" => &["pagesize", "size", "mode", "uid", "gid"],
        "cgroup" => {
            let leave = ["rw", "ro", "seclabel"];
            let all = one.super_options.iter().map(String::as_str);
            let mut kept: Vec<&str> = all
                .filter(|o| !leave.contains(o) && !o.starts_with("release_agent"))
                .collect();
            if kept.iter().any(|o| o.starts_with("name=")) {
                kept.insert(0, "none"); // a named hierarchy has no controllers
            }
            return kept.join(",");
        }
        _ => &[],
    };
    let kept: Vec<&str> = one
        .super_options
        .iter()
        .map(String::as_str)
        .filter(|o| takes.contains(&o.split('=').next().unwrap_or("")))
        .collect();
    kept.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|o| o.to_string()).collect()
    }

    #[test]
    fn options_become_flags_and_unknown_ones_do_not_travel() {
        assert_eq!(
            flags(&texts(&["ro", "nosuid", "relatime"])),
            MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_RELATIME
        );
        assert_eq!(flags(&texts(&["rw"])), MsFlags::MS_STRICTATIME);
        let mut one = Mount {
            id: MountId(1),
            parent: MountId(0),
            mountpoint: "/tmp".into(),
            root: "/".into(),
            fstype: "tmpfs".into(),
            source: "none".into(),
            options: vec![],
            super_options: texts(&["rw", "size=4k", "mode=755", "inode64"]),
            propagation: Propagation::Private,
            origin: Origin::Tmpfs { tree: 0 },
        };
        assert_eq!(options(&one), "size=4k,mode=755");
        one.fstype = "cgroup".into();
        one.super_options = texts(&["rw", "xattr", "name=systemd"]);
        assert_eq!(options(&one), "none,xattr,name=systemd");
    }
}
