//! What a file looks like: owner, mode, attributes, times.

use super::overlay::{OPAQUE, as_seen};
use super::{failed, link};
use crate::Result;
use image::rootfs::Tree;
use image::{Member, MemberKind};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{UtimensatFlags, fstat, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat};
use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;

/// The label that a security module gives every file, by the rules of its own host.
pub(crate) const LABEL: &str = "security.selinux";

/// Dresses a file just made and still open to be written, as far as it does not look right of itself. In this order: a
/// change of owner clears set-id bits and file capabilities (chown(2)).
pub(super) fn file(file: &File, tree: Tree, member: &Member) -> Result<()> {
    let now = fstat(file).map_err(|e| failed("fstat", e))?;
    if (now.st_uid, now.st_gid) != (member.uid, member.gid) {
        let owner = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
        fchown(file, Some(owner.0), Some(owner.1)).map_err(|e| failed(what("owner", member), e))?;
    }
    if now.st_mode & 0o7777 != member.mode & 0o7777 {
        file.set_permissions(permissions(member))
            .map_err(|e| kernel::Error::io(what("mode", member), &e))?;
    }
    attributes(file, tree, member)?;
    let [access, change] = times(member);
    futimens(file, &access, &change).map_err(|e| failed(what("times", member), e))
}

/// Dresses any other file, by a descriptor of its place alone; attributes and times of a directory come when all is in it
/// ([`directory`]).
pub(super) fn place(file: &OwnedFd, tree: Tree, member: &Member) -> Result<()> {
    let owner = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
    let flags = AtFlags::AT_EMPTY_PATH;
    fchownat(file, "", Some(owner.0), Some(owner.1), flags)
        .map_err(|e| failed(what("owner", member), e))?;
    if !matches!(member.kind, MemberKind::Symlink { .. }) {
        std::fs::set_permissions(link(file.as_fd()), permissions(member))
            .map_err(|e| kernel::Error::io(what("mode", member), &e))?;
    }
    if member.kind == MemberKind::Directory {
        return Ok(());
    }
    attributes(file, tree, member)
}

/// The last touch to a directory: with a default access list (acl(5)) it would have dressed what was made in it.
pub(super) fn directory(dir: &OwnedFd, tree: Tree, member: &Member) -> Result<()> {
    attributes(dir, tree, member)?;
    stamp(dir, member)
}

/// Sets the times of a file that is no symbolic link: by the name in `/proc`, which leads to the very file also where the
/// descriptor is one of O_PATH.
pub(super) fn stamp(file: &OwnedFd, member: &Member) -> Result<()> {
    let (path, [access, change]) = (link(file.as_fd()), times(member));
    let follow = UtimensatFlags::FollowSymlink;
    utimensat(AT_FDCWD, &*path, &access, &change, follow)
        .map_err(|e| failed(what("times", member), e))
}

/// Sets the times of a symbolic link, by its name: one in `/proc` would be followed further.
pub(super) fn stamp_link(dir: &OwnedFd, name: &OsStr, member: &Member) -> Result<()> {
    let [access, change] = times(member);
    utimensat(dir, name, &access, &change, UtimensatFlags::NoFollowSymlink)
        .map_err(|e| failed(what("times", member), e))
}

/// Takes away the attributes of a file that was there before, but for those it is to have.
pub(super) fn undress(file: &OwnedFd, tree: Tree, member: &Member) -> Result<()> {
    let wanted: Vec<OsString> = wanted(tree, member).map(|(name, _)| name).collect();
    for name in kernel::xattr::all(file.as_fd())?.keys() {
        if !wanted.contains(name) && name != LABEL {
            kernel::xattr::remove(file.as_fd(), name)?;
        }
    }
    Ok(())
}

fn attributes(file: &impl AsFd, tree: Tree, member: &Member) -> Result<()> {
    for (name, value) in wanted(tree, member) {
        match kernel::xattr::set(file.as_fd(), &name, value) {
            // System attributes that this host's file system knows nothing of.
            Err(e) if e.raw() == Some(Errno::EOPNOTSUPP as i32) => {}
            set => set?,
        }
    }
    Ok(())
}

fn wanted(tree: Tree, member: &Member) -> impl Iterator<Item = (OsString, &Vec<u8>)> {
    let all = member.xattrs.iter().filter(|(name, _)| *name != LABEL);
    all.filter_map(move |(name, value)| match tree {
        Tree::Changes if name == OPAQUE => None,
        Tree::Changes => Some((as_seen(name), value)),
        _ => Some((name.clone(), value)),
    })
}

fn permissions(member: &Member) -> Permissions {
    Permissions::from_mode(member.mode & 0o7777)
}

fn times(member: &Member) -> [TimeSpec; 2] {
    [TimeSpec::new(member.mtime, member.mtime_ns.into()); 2]
}

fn what(of: &str, member: &Member) -> String {
    format!("{of} of {}", member.path.display())
}
