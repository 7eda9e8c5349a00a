//! The end of the mounts, once the file trees are poured: what is only now there to be shown, and what each may do.

use super::attach::{is_new, is_poured, make_one};
use super::{order, *};
use kernel::mount::{Atime, Attributes};
use std::os::fd::AsFd;

/// Once the file trees are poured: mounts that show something of them; then what each mount may do, and where its own
/// mounts show. Under the host's root the host's own mounts are left as they are.
pub fn settle(pid: Pid, record: &Mounts, own_root: bool, covered: &Covered) -> Result<()> {
    settle_with(pid, record, own_root, false, covered)
}

/// The same, inside the container (`inner`) also with those of the container's own that look otherwise there.
pub(super) fn settle_with(
    pid: Pid,
    record: &Mounts,
    own_root: bool,
    inner: bool,
    beneath: &Covered,
) -> Result<()> {
    let (_, later) = order::rounds(record);
    within(pid, &[Namespace::Mount], || {
        let top = Top::open(Path::new("/"), own_root, record)?.with(beneath)?;
        later
            .iter()
            .try_for_each(|one| make_one(&top, one, record, &[], &[]).map(drop))
    })??;
    let mut present = in_order(mountinfo::of_namespace(pid)?);
    let hidden = covered(&present);
    present.retain(|m| !hidden.contains(&m.id));
    let there: BTreeSet<&[u8]> = present.iter().map(|m| &m.mountpoint[..]).collect();
    within(pid, &[Namespace::Mount], || {
        let top = Top::open(Path::new("/"), own_root, record)?.with(beneath)?;
        let there = |m: &&Mount| match m.covered {
            true => beneath.contains_key(&m.id),
            false => there.contains(&m.mountpoint.0[..]),
        };
        let other = |m: &Mount| inner && stricter(m, &present).is_some();
        let made = |m: &&Mount| (own_root || m.origin != Origin::Host || other(m)) && there(m);
        for one in record.mounts.iter().filter(made) {
            let fd = top.of(one)?;
            let wanted = match one.origin {
                Origin::Host if inner && !own_root => stricter(one, &present),
                _ => None,
            };
            let read_only = one.super_options.iter().any(|o| o == "ro");
            let protected = if read_only && is_poured(one) && is_new(one) {
                kernel::mount::write_protect(fd.as_fd())
            } else {
                Ok(())
            };
            protected
                .and_then(|()| {
                    kernel::mount::set(fd.as_fd(), &attributes(wanted.as_ref().unwrap_or(one)))
                })
                .map_err(|e| Error::Refused(format!("the mount at {}: {e}", one.mountpoint)))?;
        }
        let all = || record.mounts.iter();
        let on_top = |(i, m): &(usize, &Mount)| {
            m.covered || all().skip(i + 1).all(|n| n.mountpoint != m.mountpoint)
        };
        let mounts = all().enumerate().filter(on_top).map(|(_, m)| m);
        let mounts: Vec<&Mount> = mounts.filter(there).collect();
        for place in propagation::strangers(&present, &mounts) {
            let fd = top.path(place)?;
            kernel::mount::propagate(fd.as_fd(), kernel::mount::Propagation::Private)?;
        }
        propagation::restore(&top, &mounts)
    })?
}

/// A mount that is there, as it is and with what the record forbids besides: what it may not do it cannot be allowed in
/// another user namespace (mount_namespaces(7)). None, where it is no stricter.
fn stricter(one: &Mount, present: &[mountinfo::Mount]) -> Option<Mount> {
    let same = present.iter().rfind(|p| p.mountpoint == one.mountpoint.0)?;
    let mut wanted = one.clone();
    wanted.options = same.options.clone();
    for name in ["ro", "nosuid", "nodev", "noexec"].map(String::from) {
        if one.options.contains(&name) && !same.options.contains(&name) {
            wanted.options.push(name);
        }
    }
    (wanted.options.len() > same.options.len()).then_some(wanted)
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
        propagation: None,
    }
}
