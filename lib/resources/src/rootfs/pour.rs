//! Giving trees back: each member made beneath its tree's root, through no link and into no other mount. What is there
//! already gives way to it; mount points stay, with what the tree has under them where that can be reached.

use super::overlay::OPAQUE;
use super::places::{How, Place, Policy, nowhere, places};
use super::walk::names;
use super::{clear, dress, failed, link};
use crate::namespaces::mount::Covered;
use crate::sink::Sink;
use crate::{Error, Result};
use image::container::Container;
use image::rootfs::Tree;
use image::{Member, MemberKind};
use kernel::Pid;
use kernel::beneath::{self, Way};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::{FileStat, Mode, SFlag, makedev, mkdirat, mknodat};
use nix::unistd::{LinkatFlags, linkat, symlinkat};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

const CHUNK: usize = 1 << 20;

/// The trees of a vessel, being filled.
#[derive(Debug)]
pub struct Pour {
    places: Vec<Place>,
    /// The directories that lead to the last member: each within the one before.
    open: Vec<Open>,
    /// A mount point, beneath which no member is made.
    passed: Option<(Tree, PathBuf)>,
    buffer: Vec<u8>,
}

/// A directory whose members still come.
#[derive(Debug)]
struct Open {
    tree: Tree,
    path: PathBuf,
    dir: OwnedFd,
    /// Itself, for what it gets when all is in it.
    member: Member,
    /// Nothing but its members is to be in it.
    replaces: bool,
    /// What was in it before, as far as no member of the name has come.
    before: BTreeSet<OsString>,
}

impl Pour {
    /// For the vessel whose first process this is.
    pub fn new(
        pid: Pid,
        container: &Container,
        policy: &Policy,
        covered: &Covered,
    ) -> Result<Self> {
        Ok(Pour::of(places(pid, container, policy, covered)?))
    }

    /// For the layers of an image alone, into a directory of the host's that nothing is mounted over yet.
    pub fn layers(directory: &Path) -> Result<Self> {
        Ok(Pour::of(vec![Place::of_layers(directory)?]))
    }

    /// For trees of mount namespaces inside the container, each beneath the root directory of a process.
    pub fn inner(trees: &[(Pid, PathBuf, Tree)]) -> Result<Self> {
        let places = trees.iter();
        let places = places.map(|(pid, place, tree)| Place::inner(*pid, place, *tree));
        Ok(Pour::of(places.collect::<Result<Vec<_>>>()?))
    }

    fn of(places: Vec<Place>) -> Self {
        Pour {
            places,
            open: Vec::new(),
            passed: None,
            buffer: vec![0; CHUNK],
        }
    }

    /// Makes one member; `content` gives its bytes, exactly [`Member::payload`].
    pub fn member(&mut self, member: &Member, content: &mut dyn Read) -> Result<()> {
        let (tree, path) = place(&member.path)
            .ok_or_else(|| refused(member, "it belongs to no tree of the container's"))?;
        self.leave(tree, path)?;
        self.seen(path);
        let at = self.places.iter().position(|place| place.tree == tree);
        let found = at.and_then(|at| self.places.get(at));
        let found =
            found.ok_or_else(|| refused(member, "it belongs to no tree of the container's"))?;
        match found.how {
            How::LeftOut => return Ok(()),
            How::Nowhere if path.as_os_str().is_empty() => return Ok(()),
            How::Nowhere => return Err(nowhere(member)),
            How::Replaces | How::Changes => {}
        }
        if let Some((of, point)) = &self.passed
            && *of == tree
            && path.starts_with(point)
        {
            return Ok(());
        }
        if found.guard.is_point(path) && !(found.bare && fits(self.open.last(), member)) {
            self.passed = Some((tree, path.to_path_buf()));
            return Ok(());
        }
        let opened = make(
            found,
            self.open.last(),
            member,
            path,
            &mut self.buffer,
            content,
        )?;
        self.open.extend(opened);
        Ok(())
    }

    /// All members are there: the last directories are finished.
    pub fn finish(mut self) -> Result<()> {
        while let Some(left) = self.open.pop() {
            self.close(left)?;
        }
        Ok(())
    }

    /// What was there under this name before has given way to a member.
    fn seen(&mut self, path: &Path) {
        if let (Some(parent), Some(name)) = (self.open.last_mut(), path.file_name()) {
            parent.before.remove(name);
        }
    }

    /// Finishes the directories that a member at `path` is no longer in.
    fn leave(&mut self, tree: Tree, path: &Path) -> Result<()> {
        while let Some(left) = self
            .open
            .pop_if(|open| open.tree != tree || !path.starts_with(&open.path))
        {
            self.close(left)?;
        }
        Ok(())
    }

    fn close(&self, left: Open) -> Result<()> {
        if let Some(place) = self.places.iter().find(|place| place.tree == left.tree) {
            for name in &left.before {
                clear::remove(&left.dir, name, &left.path.join(name), &place.guard)?;
            }
        }
        dress::directory(&left.dir, left.tree, &left.member)
    }
}

/// Whether what is under a mount point is what a member is to be: a directory, or a regular file. Nothing else can take its
/// place.
fn fits(parent: Option<&Open>, member: &Member) -> bool {
    let name = member.path.file_name().unwrap_or_default();
    let there = parent.and_then(|parent| look(&parent.dir, name).ok());
    match &member.kind {
        MemberKind::Directory => there.is_some_and(|stat| format(&stat) == SFlag::S_IFDIR),
        MemberKind::Regular { .. } | MemberKind::Sparse { .. } => {
            there.is_some_and(|stat| format(&stat) == SFlag::S_IFREG)
        }
        _ => false,
    }
}

/// Makes a member in its place; gives it back where it is a directory, open.
fn make(
    place: &Place,
    parent: Option<&Open>,
    member: &Member,
    path: &Path,
    buffer: &mut [u8],
    content: &mut dyn Read,
) -> Result<Option<Open>> {
    let top = place.top.as_ref().ok_or_else(|| nowhere(member))?;
    let (Some(name), Some(above)) = (path.file_name(), path.parent()) else {
        // The root itself is there.
        let dir = top
            .try_clone()
            .map_err(|e| kernel::Error::io("copy a descriptor", &e))?;
        let replaces = place.how == How::Replaces;
        return directory(place, dir, member, path, replaces, true).map(Some);
    };
    let parent = parent
        .filter(|open| open.tree == place.tree && open.path == above)
        .ok_or_else(|| refused(member, "its directory is not in the image"))?;
    let dir = &parent.dir;
    let there = || -> Result<Option<FileStat>> {
        match look(dir, name) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(failed(what(member), e)),
        }
    };
    let give_way = || -> Result<()> {
        if place.guard.holds(path) {
            return Err(refused(member, "a mount lies beneath its place"));
        }
        clear::remove(dir, name, path, &place.guard)
    };
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
    let open = || beneath::open(dir.as_fd(), Path::new(name), Way::SameMount, flags, 0);
    match &member.kind {
        MemberKind::CharDevice { major: 0, minor: 0 } if place.how == How::Changes => {
            clear::remove(dir, name, path, &place.guard)?;
        }
        MemberKind::Directory => {
            let was = match mkdirat(dir, name, Mode::S_IRWXU) {
                Ok(()) => false,
                Err(Errno::EEXIST) if there()?.is_some_and(|s| format(&s) == SFlag::S_IFDIR) => {
                    true
                }
                Err(Errno::EEXIST) => {
                    give_way()?;
                    mkdirat(dir, name, Mode::S_IRWXU).map_err(|e| failed(what(member), e))?;
                    false
                }
                Err(e) => return Err(failed(what(member), e)),
            };
            return directory(place, open()?, member, path, parent.replaces, was).map(Some);
        }
        MemberKind::Regular { .. } | MemberKind::Sparse { .. } => {
            let anew = match place.guard.is_point(path) {
                true => OFlag::O_TRUNC,
                false => OFlag::O_CREAT | OFlag::O_EXCL,
            };
            let flags = anew | OFlag::O_RDWR | OFlag::O_NOFOLLOW;
            // Less our umask: what is missing is found in the end. openat2(2) takes one only of what is made.
            let mode = if anew.contains(OFlag::O_CREAT) {
                member.mode & 0o777
            } else {
                0
            };
            let create =
                || beneath::open(dir.as_fd(), Path::new(name), Way::SameMount, flags, mode);
            let file = match create() {
                Err(e) if e.raw() == Some(Errno::EEXIST as i32) => {
                    give_way()?;
                    create()?
                }
                made => made?,
            };
            let file = File::from(file);
            fill(buffer, &file, member, content)?;
            dress::file(&file, place.tree, member)?;
        }
        MemberKind::HardLink { target } => {
            let other = self::place(target).filter(|(tree, _)| *tree == place.tree);
            let (_, other) = other.ok_or_else(|| refused(member, "its target is in no tree"))?;
            let file = beneath::open(top.as_fd(), other, Way::SameMount, flags, 0)?;
            let (from, flags) = (link(file.as_fd()), LinkatFlags::AT_SYMLINK_FOLLOW);
            let again = || linkat(AT_FDCWD, &*from, dir, name, flags);
            once_more(member, again, give_way)?;
        }
        MemberKind::Symlink { target } => {
            once_more(member, || symlinkat(target, dir, name), give_way)?;
            dress::place(&open()?, place.tree, member)?;
            dress::stamp_link(dir, name, member)?;
        }
        MemberKind::CharDevice { .. } | MemberKind::BlockDevice { .. } | MemberKind::Fifo => {
            let (format, device) = node(&member.kind);
            let make = || mknodat(dir, name, format, Mode::empty(), device);
            // One that is there may be mounted elsewhere, as `/dev/null` over what is masked.
            let is_it =
                |s: FileStat| self::format(&s) == format && s.st_rdev == device && s.st_nlink == 1;
            if !there()?.is_some_and(is_it) {
                once_more(member, make, give_way)?;
            }
            let file = open()?;
            dress::place(&file, place.tree, member)?;
            dress::stamp(&file, member)?;
        }
    }
    Ok(None)
}

/// A directory that is there, or was just made.
fn directory(
    place: &Place,
    dir: OwnedFd,
    member: &Member,
    path: &Path,
    within: bool,
    was: bool,
) -> Result<Open> {
    dress::place(&dir, place.tree, member)?;
    let opaque = place.how == How::Changes && member.xattrs.contains_key(OsStr::new(OPAQUE));
    let replaces = within || opaque;
    let mut before = BTreeSet::new();
    if was {
        dress::undress(&dir, place.tree, member)?;
        if replaces {
            before.extend(names(&dir, path)?.into_iter().map(|(name, _)| name));
        }
    }
    Ok(Open {
        tree: place.tree,
        path: path.to_path_buf(),
        dir,
        member: member.clone(),
        replaces,
        before,
    })
}

/// Makes something; where something else is in the way, that gives way first.
fn once_more(
    member: &Member,
    make: impl Fn() -> nix::Result<()>,
    give_way: impl Fn() -> Result<()>,
) -> Result<()> {
    let made = match make() {
        Err(Errno::EEXIST) => {
            give_way()?;
            make()
        }
        made => made,
    };
    made.map_err(|e| failed(what(member), e))
}

fn look(dir: &OwnedFd, name: &OsStr) -> nix::Result<FileStat> {
    nix::sys::stat::fstatat(dir, name, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)
}

fn format(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

fn node(kind: &MemberKind) -> (SFlag, u64) {
    match kind {
        MemberKind::CharDevice { major, minor } => {
            (SFlag::S_IFCHR, makedev((*major).into(), (*minor).into()))
        }
        MemberKind::BlockDevice { major, minor } => {
            (SFlag::S_IFBLK, makedev((*major).into(), (*minor).into()))
        }
        _ => (SFlag::S_IFIFO, 0),
    }
}

/// The tree of a member, and its path there.
fn place(path: &Path) -> Option<(Tree, &Path)> {
    let mut components = path.components();
    let first = components.next()?.as_os_str().to_str()?;
    if let Some((tree, _)) = Tree::of(first) {
        return Some((tree, components.as_path()));
    }
    let second = components.next()?.as_os_str().to_str()?;
    let (tree, _) = Tree::of(&format!("{first}/{second}"))?;
    Some((tree, components.as_path()))
}

fn what(member: &Member) -> String {
    format!("make {}", member.path.display())
}

fn refused(member: &Member, why: &str) -> Error {
    Error::Refused(format!(
        "member {} of the image: {why}",
        member.path.display()
    ))
}

fn fill(buffer: &mut [u8], file: &File, member: &Member, content: &mut dyn Read) -> Result<()> {
    let fail = |e: std::io::Error| -> Error {
        match e.downcast::<image::Error>() {
            Ok(e) => e.into(),
            Err(e) => kernel::Error::io(what(member), &e).into(),
        }
    };
    let whole;
    let (size, segments) = match &member.kind {
        MemberKind::Sparse { size, segments } => (*size, &segments[..]),
        _ => {
            whole = [image::Segment {
                start: 0,
                len: member.payload(),
            }];
            (member.payload(), &whole[..])
        }
    };
    let mut sink = Sink::new(file.as_fd(), size)?;
    for segment in segments {
        let mut at = segment.start;
        let mut left = segment.len;
        while left > 0 {
            let want = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            let chunk = buffer.get_mut(..want).unwrap_or_default();
            content.read_exact(chunk).map_err(fail)?;
            sink.put(at, chunk)?;
            at += want as u64;
            left -= want as u64;
        }
    }
    match segments.last() {
        Some(last) if last.start + last.len >= size => Ok(()),
        _ => file.set_len(size).map_err(fail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_find_their_tree() {
        let of = |path: &'static str| place(Path::new(path));
        assert_eq!(of("rootfs"), Some((Tree::Root, Path::new(""))));
        assert_eq!(of("rootfs/a/b"), Some((Tree::Root, Path::new("a/b"))));
        assert_eq!(of("tmpfs/3"), Some((Tree::Tmpfs(3), Path::new(""))));
        assert_eq!(of("tmpfs/3/x"), Some((Tree::Tmpfs(3), Path::new("x"))));
        assert_eq!(of("tmpfs"), None);
        assert_eq!(of("data/1"), None);
    }
}
