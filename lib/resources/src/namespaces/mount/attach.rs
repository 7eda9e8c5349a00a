//! Making the mounts: run by the vessel's first process, in a copy of the host's mount namespace.

use super::base::{Base, enter};
use super::{order, *};
use kernel::beneath::{self, Way};
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, mkdirat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, SYSFS_MAGIC};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Makes the mounts in the calling process's mount namespace, which is a fresh copy of the host's. `groups` are the
/// container's own cgroups, by their paths on the host. Gives what was wanted and is not there on this host.
///
/// Mounts that show what only the file trees bring, and read-only, come later ([`settle`]). `detached` are file systems that are
/// there already, mounted nowhere ([`super::owned`]); `by_us` says that the calling thread is one of ours, which the container's
/// own `/proc` does not know.
pub fn restore(
    record: Option<&Mounts>,
    base: &Base,
    groups: &[PathBuf],
    detached: Covered,
    by_us: bool,
) -> Result<Made> {
    let known = Known {
        made: detached,
        present: mountinfo::read_own()?,
    };
    build(record, base, groups, known, by_us)
}

/// What has become of the mounts.
#[derive(Debug, Default)]
pub struct Made {
    /// What was wanted and is not there on this host.
    pub missing: Vec<String>,
    /// Those over which others lie.
    pub covered: Covered,
}

/// What is known already where no `/proc` speaks of us: in a mount namespace inside the container.
#[derive(Debug, Default)]
pub struct Known {
    /// File systems that are mounted nowhere yet.
    pub made: Covered,
    /// The mounts that are there.
    pub present: Vec<mountinfo::Mount>,
}

/// The same with what is known, in a mount namespace inside the container (`inner`) too.
pub(super) fn build(
    record: Option<&Mounts>,
    base: &Base,
    groups: &[PathBuf],
    known: Known,
    inner: bool,
) -> Result<Made> {
    // Nothing that is done here shows on the host. What took from the host takes again, as binds of what does.
    let takes = record.is_some_and(|record| record.mounts.iter().any(takes_from_host));
    let change = match takes {
        true => MsFlags::MS_SLAVE,
        false => MsFlags::MS_PRIVATE,
    };
    call("make all mounts private", || {
        let everything = MsFlags::MS_REC | change;
        mount(None::<&str>, "/", None::<&str>, everything, None::<&str>)
    })?;
    let directory = base.mount()?;
    let present = known.present;
    let none = Mounts { mounts: Vec::new() };
    let record = record.unwrap_or(&none);
    let mut top = Top::open(
        directory.as_deref().unwrap_or(Path::new("/")),
        directory.is_some(),
        record,
    )?;
    (top.made, top.inner) = (known.made, inner);
    if inner {
        top.open_sources(record);
    }
    let (now, _) = order::rounds(record);
    let mut left_out: Vec<&Mount> = Vec::new();
    for one in now {
        let here = one.mountpoint.as_path();
        let above = |m: &&Mount| here.starts_with(m.mountpoint.as_path());
        let covered = top.own && left_out.iter().any(above);
        if covered || !make_one(&top, one, record, &present, groups)? {
            left_out.push(one);
        } else if one.covered {
            top.covered
                .insert(one.id, top.path(one.mountpoint.as_path())?);
        }
    }
    if let Some(directory) = directory {
        enter(&directory)?;
    }
    let said = left_out
        .iter()
        .filter(|one| one.fstype != "nsfs")
        .map(|one| format!("{} ({})", one.mountpoint, one.fstype));
    Ok(Made {
        missing: said.collect(),
        covered: top.covered,
    })
}

fn takes_from_host(one: &Mount) -> bool {
    one.propagation == Propagation::Slave && one.master.is_none()
}

/// The root directory that mounts are made beneath.
pub(super) struct Top {
    fd: OwnedFd,
    /// The container's own, in which mount points may be made; else the host's.
    own: bool,
    /// The mounts in it, and which are of file systems of the container's own.
    mounts: Vec<(PathBuf, bool)>,
    /// File systems that are mounted nowhere yet.
    made: Covered,
    /// What is bound, opened before anything was mounted over it.
    sources: BTreeMap<MountId, OwnedFd>,
    /// Mounts over which others lie.
    covered: Covered,
    /// In a mount namespace inside the container, where no path of `/proc` speaks of us.
    inner: bool,
}

impl Top {
    pub(super) fn open(path: &Path, own: bool, record: &Mounts) -> Result<Self> {
        let file = File::open(path);
        let file = file.map_err(|e| kernel::Error::io(format!("open {}", path.display()), &e))?;
        let of_own = |one: &Mount| {
            let own = matches!(one.origin, Origin::Tmpfs { .. } | Origin::Overlay {});
            (one.mountpoint.as_path().to_path_buf(), own)
        };
        Ok(Top {
            fd: file.into(),
            own,
            mounts: record.mounts.iter().map(of_own).collect(),
            made: BTreeMap::new(),
            sources: BTreeMap::new(),
            covered: Covered::new(),
            inner: false,
        })
    }

    /// What is not there yet is looked for when it is its turn.
    fn open_sources(&mut self, record: &Mounts) {
        for one in &record.mounts {
            if let Origin::Bind { path } = &one.origin {
                let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
                let opened = nix::fcntl::open(path.as_path(), flags, Mode::empty());
                self.sources.extend(opened.ok().map(|fd| (one.id, fd)));
            }
        }
    }

    /// Whether a place is in the container's own files, not in the host's.
    fn is_own(&self, place: &Path) -> bool {
        let above = place.parent().unwrap_or(place);
        let around = self.mounts.iter().filter(|(at, _)| above.starts_with(at));
        let nearest = around.max_by_key(|(at, _)| at.components().count());
        self.own || nearest.is_some_and(|(_, own)| *own)
    }

    /// The root directory of a mount, or the file that it shows.
    pub(super) fn of(&self, one: &Mount) -> kernel::Result<OwnedFd> {
        match self.covered.get(&one.id) {
            Some(fd) => kernel::descriptor::duplicate(fd.as_fd()),
            None => self.path(one.mountpoint.as_path()),
        }
    }

    /// The same with those over which others lie.
    pub(super) fn with(mut self, covered: &Covered) -> Result<Self> {
        self.covered.extend(copies(covered)?);
        Ok(self)
    }

    pub(super) fn path(&self, path: &Path) -> kernel::Result<OwnedFd> {
        beneath::open(self.fd.as_fd(), path, Way::InRoot, OFlag::O_PATH, 0)
    }
}

/// Makes one mount; false where this host has nothing like it.
pub(super) fn make_one(
    top: &Top,
    one: &Mount,
    record: &Mounts,
    present: &[mountinfo::Mount],
    groups: &[PathBuf],
) -> Result<bool> {
    if top.own && one.mountpoint.0 == b"/" {
        return Ok(true);
    }
    if let Some(made) = top.made.get(&one.id) {
        return attach(top, one, Source::Made(made));
    }
    if let Some(opened) = top.sources.get(&one.id) {
        return attach(top, one, Source::Opened(opened));
    }
    match &one.origin {
        Origin::Root => Ok(true),
        Origin::Host if !top.own => Ok(present.iter().any(|p| p.mountpoint == one.mountpoint.0)),
        Origin::Host if one.mountpoint.0 == b"/" => Ok(true),
        Origin::Host => attach(top, one, Source::Bind(one.mountpoint.as_path())),
        // Where this host has not mounted one of the kernel's, the directory is there, and something else in it.
        Origin::Bind { path } if ONE.contains(&&*one.fstype) && one.root.0 == b"/" => {
            let is_there = |p: &mountinfo::Mount| p.fstype == one.fstype && p.mountpoint == path.0;
            match present.iter().any(is_there) {
                true => attach(top, one, Source::Bind(path.as_path())),
                false => attach(top, one, Source::New),
            }
        }
        Origin::Bind { path } => attach(top, one, Source::Bind(path.as_path())),
        // One that shows a part of the hierarchy shows the container's own; a whole one is that of its namespace.
        Origin::Fresh if shows_group(one) => match order::group(one, present, groups) {
            Some(group) => attach(top, one, Source::Bind(&group)),
            None => Ok(false),
        },
        Origin::Fresh | Origin::Tmpfs { .. } => attach(top, one, Source::New),
        Origin::Overlay {} => {
            let Some(point) = point(top, one.mountpoint.as_path(), true)? else {
                return Ok(false);
            };
            let options = overlay_options(one);
            kernel::mount::make("overlay", &one.source.0, &options, point.0.as_fd())?;
            Ok(true)
        }
        Origin::Outside {} | Origin::Volume { .. } | Origin::Written { .. } => {
            Err(refused(one, "it has no place in the container's directory"))
        }
        Origin::Again { mount } => again(top, one, *mount, record),
    }
}

fn again(top: &Top, one: &Mount, of: MountId, record: &Mounts) -> Result<bool> {
    let of = record.mounts.iter().find(|m| m.id == of);
    let of = of.ok_or_else(|| refused(one, "it shows a mount that is not there"))?;
    let below = one.root.as_path().strip_prefix(of.root.as_path());
    let below = below.map_err(|_| refused(one, "it shows a place outside its mount"))?;
    if let Some(fd) = top.covered.get(&of.id) {
        let place = beneath::open(fd.as_fd(), below, Way::InRoot, OFlag::O_PATH, 0);
        return match below.as_os_str().is_empty() {
            true => attach(top, one, Source::Opened(fd)),
            false => attach(top, one, Source::Opened(&place?)),
        };
    }
    let mut from = join(of.mountpoint.as_path(), below);
    // The console of a container whose terminal was its engine's: like its standard streams, it leads nowhere now.
    let missing = |path: &Path| top.path(path).is_err_and(|e| e.raw() == Some(ENOENT));
    if of.fstype == "devpts" && missing(&from) {
        from = "/dev/null".into();
    }
    attach(top, one, Source::Beneath(&from))
}

/// What is mounted.
enum Source<'a> {
    /// A new file system.
    New,
    /// One that was made already.
    Made(&'a OwnedFd),
    /// A place that was opened already.
    Opened(&'a OwnedFd),
    /// A place on the host, by its path there.
    Bind(&'a Path),
    /// A place beneath the new root.
    Beneath(&'a Path),
}

/// Makes one mount; false where its mount point is in a file system of the kernel's, and not on this host.
fn attach(top: &Top, one: &Mount, source: Source) -> Result<bool> {
    let place = one.mountpoint.as_path();
    let what = || format!("mount {} at {}", one.fstype, place.display());
    match source {
        Source::New => {
            let Some(point) = point(top, place, true)? else {
                return Ok(false);
            };
            let mut flags = flags(&one.options);
            if is_poured(one) || !one.super_options.iter().any(|o| o == "ro") {
                flags -= MsFlags::MS_RDONLY;
            }
            let data = options(one);
            if top.inner {
                let data: Vec<&str> = data.split(',').filter(|o| !o.is_empty()).collect();
                let at = point.0.as_fd();
                kernel::mount::make(&one.fstype, &one.source.0, &data, at)?;
                return Ok(true);
            }
            let from = one.source.as_path();
            call(&what(), || {
                mount(
                    Some(from),
                    &*point.1,
                    Some(&*one.fstype),
                    flags,
                    Some(&*data),
                )
            })?;
        }
        Source::Made(made) => {
            let Some(point) = point(top, place, true)? else {
                return Ok(false);
            };
            kernel::mount::attach(made.as_fd(), point.0.as_fd())?;
        }
        Source::Bind(from) => {
            let is_dir = std::fs::metadata(from).map(|m| m.is_dir()).map_err(|e| {
                Error::Refused(format!(
                    "the container has {} of the host mounted at {}, and here it cannot be used: {e}; \
                     make it available, or name what takes its place: --mount {}=PATH",
                    from.display(),
                    place.display(),
                    place.display()
                ))
            })?;
            let Some(point) = point(top, place, is_dir)? else {
                return Ok(false);
            };
            if top.inner {
                let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
                let opened = nix::fcntl::open(from, flags, Mode::empty());
                let what = || format!("open {}", from.display());
                let opened = opened.map_err(|e| kernel::Error::errno(what(), e as i32))?;
                kernel::mount::bind(opened.as_fd(), point.0.as_fd())?;
            } else {
                bind(from, Path::new(&point.1))?;
            }
        }
        Source::Beneath(from) => {
            let from = match top.path(from) {
                // Like `/proc/irq`: what this kernel does not have needs no cover.
                Err(e) if e.raw() == Some(ENOENT) && from == place => return Ok(false),
                opened => opened?,
            };
            return attach(top, one, Source::Opened(&from));
        }
        Source::Opened(from) => {
            let format =
                nix::sys::stat::fstat(from).map_err(|e| kernel::Error::errno("fstat", e as i32))?;
            let is_dir =
                SFlag::from_bits_truncate(format.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
            let Some(point) = point(top, place, is_dir)? else {
                return Ok(false);
            };
            // By descriptors: under the container's root no path of `/proc` speaks of us.
            kernel::mount::bind(from.as_fd(), point.0.as_fd())?;
        }
    }
    Ok(true)
}

/// Whether it shows one group of a hierarchy.
pub(super) fn shows_group(one: &Mount) -> bool {
    one.fstype.starts_with("cgroup") && one.root.0 != b"/"
}

/// Whether a file tree comes to lie in it.
pub(super) fn is_poured(one: &Mount) -> bool {
    matches!(one.fstype.as_str(), "tmpfs" | "ramfs" | "hugetlbfs")
}

/// The mount point, made if it is not there; its path leads through a descriptor, so that no link in the container's
/// tree leads elsewhere. In the host's own tree nothing is made, and in `/proc` and `/sys` nothing can be: none.
fn point(top: &Top, place: &Path, is_dir: bool) -> Result<Option<(OwnedFd, String)>> {
    let open = || top.path(place);
    let fd = match open() {
        Err(e) if e.raw() == Some(ENOENT) && top.is_own(place) => {
            if in_kernel(top, place)? {
                return Ok(None);
            }
            make(top, place, is_dir)?;
            open()?
        }
        Err(e) if e.raw() == Some(ENOENT) => {
            return Err(Error::Refused(format!(
                "the container has a mount at {}, which is not on this host; make the directory",
                place.display()
            )));
        }
        opened => opened?,
    };
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(Some((fd, path)))
}

/// File systems of which the kernel has one for all: wherever they are mounted they are the same.
const ONE: [&str; 6] = [
    "debugfs",
    "tracefs",
    "securityfs",
    "pstore",
    "fusectl",
    "configfs",
];

const ENOENT: i32 = nix::errno::Errno::ENOENT as i32;

/// Whether what is there of a path leads into a file system in which only the kernel makes files.
fn in_kernel(top: &Top, place: &Path) -> Result<bool> {
    for above in place.ancestors().skip(1) {
        match top.path(above) {
            Err(e) if e.raw() == Some(ENOENT) => {}
            Ok(fd) => {
                let found = nix::sys::statfs::fstatfs(&fd);
                let kind = found.map_err(|e| kernel::Error::errno("fstatfs", e as i32))?;
                let kind = kind.filesystem_type();
                return Ok(kind == PROC_SUPER_MAGIC || kind == SYSFS_MAGIC);
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(false)
}

/// Makes a directory or an empty file, and the directories that lead to it, beneath `top`.
fn make(top: &Top, place: &Path, is_dir: bool) -> Result<()> {
    let mut above = PathBuf::from("/");
    let mut names = place.components().skip(1).peekable();
    while let Some(name) = names.next() {
        let parent = top.path(&above)?;
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

pub(super) fn bind(from: &Path, to: &Path) -> Result<()> {
    call(&format!("bind {}", from.display()), || {
        mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
    })
}

/// Whether the mount brought a file system of its own.
pub(super) fn is_new(one: &Mount) -> bool {
    matches!(one.origin, Origin::Fresh | Origin::Tmpfs { .. })
}

pub(super) fn call(what: &str, call: impl FnOnce() -> nix::Result<()>) -> Result<()> {
    call().map_err(|errno| kernel::Error::errno(what, errno as i32).into())
}

fn refused(one: &Mount, why: &str) -> Error {
    Error::Refused(format!(
        "the mount at {} cannot be made: {why}",
        one.mountpoint
    ))
}

/// The flags of mount(2) for the options of a mount; those unknown are none of a mount's.
pub(super) fn flags(options: &[String]) -> MsFlags {
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

/// The options of an overlay that it takes back of those it shows.
fn overlay_options(one: &Mount) -> Vec<&str> {
    let leave = ["rw", "ro", "seclabel", "relatime"];
    let all = one.super_options.iter().map(String::as_str);
    all.filter(|option| !leave.contains(option)).collect()
}

/// The options a file system takes back of those it shows.
pub(super) fn options(one: &Mount) -> String {
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
            "noswap",
            "inode32",
        ],
        "ramfs" => &["mode"],
        "proc" => &["hidepid", "gid", "subset"],
        "debugfs" | "tracefs" => &["uid", "gid", "mode"],
        "bpf" => &[
            "uid",
            "gid",
            "mode",
            "delegate_cmds",
            "delegate_maps",
            "delegate_progs",
            "delegate_attachs",
        ],
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
            peers: None,
            master: None,
            covered: false,
            origin: Origin::Tmpfs { tree: 0 },
        };
        assert_eq!(options(&one), "size=4k,mode=755");
        one.fstype = "cgroup".into();
        one.super_options = texts(&["rw", "xattr", "name=systemd"]);
        assert_eq!(options(&one), "none,xattr,name=systemd");
    }
}
