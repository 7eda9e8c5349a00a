//! Giving trees back: each member made beneath its tree's root, through no link and into no other mount.

use super::{failed, link, top, trees};
use crate::namespaces::mount;
use crate::{Error, Result};
use image::container::Container;
use image::rootfs::{Rootfs, Tree};
use image::{Member, MemberKind};
use kernel::Pid;
use kernel::beneath::{self, Way};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, fchownat, linkat, symlinkat};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const CHUNK: usize = 1 << 20;

/// The trees of a vessel, being filled.
#[derive(Debug)]
pub struct Pour {
    trees: Vec<(Tree, OwnedFd)>,
    /// Not poured at all.
    skip: Option<Tree>,
    /// The directory members were last made in: of which tree, its path, and the directory.
    parent: Option<(Tree, PathBuf, OwnedFd)>,
    /// Directories whose members still come, and the times they get after that.
    open: Vec<(Tree, PathBuf, [TimeSpec; 2])>,
    buffer: Vec<u8>,
}

impl Pour {
    /// For the vessel whose first process this is. A root file system that travels goes only into a directory that was
    /// made for it; where the user has named another (`--rootfs`), that one is left as it is.
    pub fn new(pid: Pid, container: &Container) -> Result<Self> {
        let trees = trees(container)
            .into_iter()
            .map(|(tree, place)| Ok((tree, top(pid, &place)?)))
            .collect::<Result<_>>()?;
        let skip = match container.rootfs {
            Rootfs::Travels => !mount::is_kept(pid)?,
            // Where they are wanted they were poured before there was a vessel's root (`Pour::layers`).
            Rootfs::Layers { .. } => true,
            Rootfs::Host | Rootfs::Directory(_) => false,
        };
        Ok(Pour {
            skip: skip.then_some(Tree::Root),
            ..Pour::of(trees)
        })
    }

    /// For the layers of an image alone, into a directory of the host's that nothing is mounted over yet.
    pub fn layers(directory: &Path) -> Result<Self> {
        let opened = File::open(directory);
        let opened =
            opened.map_err(|e| kernel::Error::io(format!("open {}", directory.display()), &e))?;
        Ok(Pour::of(vec![(Tree::Root, opened.into())]))
    }

    fn of(trees: Vec<(Tree, OwnedFd)>) -> Self {
        Pour {
            trees,
            skip: None,
            parent: None,
            open: Vec::new(),
            buffer: vec![0; CHUNK],
        }
    }

    /// Makes one member; `content` gives its bytes, exactly [`Member::payload`].
    pub fn member(&mut self, member: &Member, content: &mut dyn Read) -> Result<()> {
        let (tree, path) = place(&member.path)
            .ok_or_else(|| refused(member, "it belongs to no tree of the container's"))?;
        if self.skip == Some(tree) {
            return Ok(());
        }
        let path = path.to_path_buf();
        self.leave(tree, &path)?;
        let times = [TimeSpec::new(member.mtime, member.mtime_ns.into()); 2];
        if member.kind == MemberKind::Directory {
            self.open.push((tree, path.clone(), times));
        }
        let Some(name) = path.file_name() else {
            // The root itself is there.
            let dir = self.tree(member, tree)?;
            return dress(dir, member);
        };
        let name = Path::new(name);
        let above = path.parent().unwrap_or(Path::new(""));
        self.enter(member, tree, above)?;
        let Some((_, _, parent)) = &self.parent else {
            return Ok(());
        };
        let (major, minor) = match member.kind {
            MemberKind::CharDevice { major, minor } | MemberKind::BlockDevice { major, minor } => {
                (major.into(), minor.into())
            }
            _ => (0, 0),
        };
        let node = |format| mknodat(parent, name, format, Mode::empty(), makedev(major, minor));
        let made = match &member.kind {
            MemberKind::Directory => mkdirat(parent, name, Mode::S_IRWXU),
            MemberKind::Symlink { target } => symlinkat(target, parent, name),
            MemberKind::HardLink { target } => {
                let (other, path) =
                    place(target).ok_or_else(|| refused(member, "its target is in no tree"))?;
                let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
                let tree = self.tree(member, other)?;
                let file = beneath::open(tree.as_fd(), path, Way::SameMount, flags, 0)?;
                let done = linkat(
                    nix::fcntl::AT_FDCWD,
                    &*link(file.as_fd()),
                    parent,
                    name,
                    LinkatFlags::AT_SYMLINK_FOLLOW,
                );
                return done.map_err(|e| failed(what(member), e));
            }
            MemberKind::CharDevice { .. } => node(SFlag::S_IFCHR),
            MemberKind::BlockDevice { .. } => node(SFlag::S_IFBLK),
            MemberKind::Fifo => node(SFlag::S_IFIFO),
            MemberKind::Regular { .. } | MemberKind::Sparse { .. } => {
                let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW;
                match beneath::open(parent.as_fd(), name, Way::SameMount, flags, 0o600) {
                    Ok(file) => {
                        let file = File::from(file);
                        fill(&mut self.buffer, &file, member, content)?;
                        let file = OwnedFd::from(file);
                        dress(&file, member)?;
                        return set_times(&file, &times, member);
                    }
                    Err(e) if e.raw() == Some(Errno::EEXIST as i32) => Err(Errno::EEXIST),
                    Err(e) if e.raw() == Some(Errno::EXDEV as i32) && member.payload() == 0 => {
                        return Ok(()); // a mount point with something mounted
                    }
                    Err(e) => return Err(e.into()),
                }
            }
        };
        let there = match made {
            Ok(()) => false,
            // A mount point, made with the vessel.
            Err(Errno::EEXIST)
                if member.kind == MemberKind::Directory
                    || member.kind == (MemberKind::Regular { size: 0 }) =>
            {
                true
            }
            Err(e) => return Err(failed(what(member), e)),
        };
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
        match beneath::open(parent.as_fd(), name, Way::SameMount, flags, 0) {
            Ok(file) => {
                dress(&file, member)?;
                if member.kind == MemberKind::Directory {
                    return Ok(()); // its times come last
                }
                if matches!(member.kind, MemberKind::Symlink { .. }) {
                    // A name in /proc would be followed further.
                    return stamp(
                        parent.as_fd(),
                        name,
                        &times,
                        UtimensatFlags::NoFollowSymlink,
                    )
                    .map_err(|e| failed(format!("times of {}", member.path.display()), e));
                }
                set_times(&file, &times, member)
            }
            // What is mounted there has its own looks.
            Err(e) if there && e.raw() == Some(Errno::EXDEV as i32) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// All members are there: the last directories get their times.
    pub fn finish(mut self) -> Result<()> {
        while let Some(left) = self.open.pop() {
            self.stamp(left)?;
        }
        Ok(())
    }

    fn tree(&self, member: &Member, tree: Tree) -> Result<&OwnedFd> {
        self.trees
            .iter()
            .find_map(|(one, fd)| (*one == tree).then_some(fd))
            .ok_or_else(|| refused(member, "it belongs to no tree of the container's"))
    }

    /// Opens the directory that the next member is made in, unless it is the same as before.
    fn enter(&mut self, member: &Member, tree: Tree, above: &Path) -> Result<()> {
        if let Some((of, path, _)) = &self.parent
            && *of == tree
            && path == above
        {
            return Ok(());
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let dir = beneath::open(
            self.tree(member, tree)?.as_fd(),
            above,
            Way::SameMount,
            flags,
            0,
        )?;
        self.parent = Some((tree, above.to_path_buf(), dir));
        Ok(())
    }

    /// Gives their times to the directories that a member at `path` is no longer in.
    fn leave(&mut self, tree: Tree, path: &Path) -> Result<()> {
        while let Some(left) = self
            .open
            .pop_if(|(of, dir, _)| *of != tree || !path.starts_with(dir))
        {
            self.stamp(left)?;
        }
        Ok(())
    }

    fn stamp(&self, (tree, path, times): (Tree, PathBuf, [TimeSpec; 2])) -> Result<()> {
        let Some((_, top)) = self.trees.iter().find(|(one, _)| *one == tree) else {
            return Ok(());
        };
        match beneath::open(top.as_fd(), &path, Way::SameMount, OFlag::O_PATH, 0) {
            Ok(dir) => stamp(
                nix::fcntl::AT_FDCWD,
                &*link(dir.as_fd()),
                &times,
                UtimensatFlags::FollowSymlink,
            )
            .map_err(|e| failed(format!("times of {}", path.display()), e)),
            Err(e) if e.raw() == Some(Errno::EXDEV as i32) => Ok(()), // a mount point
            Err(e) => Err(e.into()),
        }
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

/// Owner, mode, attributes. In this order: a change of owner clears set-id bits and file capabilities (chown(2)).
fn dress(file: &OwnedFd, member: &Member) -> Result<()> {
    let owner = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
    fchownat(
        file,
        "",
        Some(owner.0),
        Some(owner.1),
        AtFlags::AT_EMPTY_PATH,
    )
    .map_err(|e| failed(format!("owner of {}", member.path.display()), e))?;
    if !matches!(member.kind, MemberKind::Symlink { .. }) {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(member.mode & 0o7777);
        std::fs::set_permissions(link(file.as_fd()), mode)
            .map_err(|e| kernel::Error::io(format!("mode of {}", member.path.display()), &e))?;
    }
    for (name, value) in &member.xattrs {
        match kernel::xattr::set(file.as_fd(), name, value) {
            // Labels of a security module, and system attributes, that this host's file system knows nothing of.
            Err(e) if e.raw() == Some(Errno::EOPNOTSUPP as i32) => {}
            set => set?,
        }
    }
    Ok(())
}

/// By the name in `/proc`, which leads to the very file also where the descriptor is one of O_PATH.
fn set_times(file: &OwnedFd, times: &[TimeSpec; 2], member: &Member) -> Result<()> {
    let path = link(file.as_fd());
    stamp(
        nix::fcntl::AT_FDCWD,
        &*path,
        times,
        UtimensatFlags::FollowSymlink,
    )
    .map_err(|e| failed(format!("times of {}", member.path.display()), e))
}

fn stamp<P: ?Sized + nix::NixPath>(
    dir: BorrowedFd,
    path: &P,
    [access, change]: &[TimeSpec; 2],
    flags: UtimensatFlags,
) -> nix::Result<()> {
    utimensat(dir, path, access, change, flags)
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
    for segment in segments {
        let mut at = segment.start;
        let mut left = segment.len;
        while left > 0 {
            let want = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            let chunk = buffer.get_mut(..want).unwrap_or_default();
            content.read_exact(chunk).map_err(fail)?;
            file.write_all_at(chunk, at).map_err(fail)?;
            at += want as u64;
            left -= want as u64;
        }
    }
    file.set_len(size).map_err(fail)
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
