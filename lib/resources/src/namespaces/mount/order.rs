//! What is mounted when, and which of the host's cgroups a container's mount of cgroups shows.

use image::namespaces::mount::{Mount, Mounts, Origin};
use kernel::proc::mountinfo;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The mounts that can be made at once, and those that show a place which comes with the file trees: a device of the
/// container's own `/dev` over a file of `/proc`, say, and what is mounted beneath such a one.
pub(super) fn rounds(record: &Mounts) -> (Vec<&Mount>, Vec<&Mount>) {
    let (mut now, mut later) = (Vec::new(), Vec::<&Mount>::new());
    for (i, one) in record.mounts.iter().enumerate() {
        let here = one.mountpoint.as_path();
        let beneath = later
            .iter()
            .any(|m| here.starts_with(m.mountpoint.as_path()));
        let shows_later = brought(record.mounts.get(..i).unwrap_or_default(), one)
            .is_some_and(|of| later.iter().any(|m| m.id == of.id));
        if beneath || shows_later || shows_poured(record.mounts.get(..i).unwrap_or_default(), one) {
            later.push(one);
        } else {
            now.push(one);
        }
    }
    (now, later)
}

/// Whether a mount shows something inside of a file system that a file tree is poured into, or a terminal.
fn shows_poured(before: &[Mount], one: &Mount) -> bool {
    if one.origin == (Origin::Overlay {}) {
        return true;
    }
    brought(before, one).is_some_and(|of| {
        let poured = matches!(
            of.origin,
            Origin::Root | Origin::Tmpfs { .. } | Origin::Volume { .. } | Origin::Overlay {}
        );
        (poured || of.fstype == "devpts") && one.root != of.root
    })
}

/// The mount that has brought what this one shows once more. Mounts speak only of those before them.
fn brought<'a>(before: &'a [Mount], one: &Mount) -> Option<&'a Mount> {
    let Origin::Again { mount } = one.origin else {
        return None;
    };
    let at = before.iter().position(|m| m.id == mount)?;
    let of = before.get(at)?;
    match of.origin {
        Origin::Again { .. } => brought(before.get(..at)?, of),
        _ => Some(of),
    }
}

/// The directory that a mount of cgroups is to show: the container's own group, of those given, in the host's mount of
/// the same hierarchy.
pub(super) fn group(
    one: &Mount,
    present: &[mountinfo::Mount],
    groups: &[PathBuf],
) -> Option<PathBuf> {
    let wanted = controllers(&one.super_options);
    let host = present
        .iter()
        .find(|m| m.fstype == one.fstype && controllers(&m.super_options) == wanted)?;
    let top = Path::new(OsStr::from_bytes(&host.mountpoint));
    groups.iter().find(|g| g.starts_with(top)).cloned()
}

/// What tells one hierarchy from another: its controllers, or its name. The unified one has neither.
fn controllers(super_options: &[String]) -> BTreeSet<&str> {
    let all = super_options.iter().map(String::as_str);
    let shared = [
        "rw",
        "ro",
        "seclabel",
        "xattr",
        "nsdelegate",
        "clone_children",
    ];
    all.filter(|o| {
        !shared.contains(o) && !o.starts_with("release_agent") && !o.starts_with("memory_")
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::ids::MountId;
    use image::namespaces::mount::Propagation;

    fn mount(id: u32, at: &str, root: &str, origin: Origin) -> Mount {
        Mount {
            id: MountId(id),
            parent: MountId(0),
            mountpoint: at.into(),
            root: root.into(),
            fstype: "cgroup".into(),
            source: "x".into(),
            options: vec![],
            super_options: vec!["rw".into(), "memory".into()],
            propagation: Propagation::Private,
            peers: None,
            master: None,
            covered: false,
            origin,
        }
    }

    #[test]
    fn a_mask_of_a_device_waits_for_the_device() {
        let again = |of| Origin::Again { mount: MountId(of) };
        let mut record = Mounts {
            mounts: vec![
                mount(1, "/", "/", Origin::Root),
                mount(2, "/proc", "/", Origin::Fresh),
                mount(3, "/dev", "/", Origin::Tmpfs { tree: 0 }),
                mount(4, "/proc/sys", "/sys", again(2)),
                mount(5, "/proc/keys", "/null", again(3)),
                mount(6, "/srv", "/", again(3)),
                mount(7, "/data", "/var/data", again(1)),
                mount(8, "/data/fresh", "/", Origin::Fresh),
                mount(9, "/twice", "/null", again(5)),
                mount(10, "/dev/pts", "/", Origin::Fresh),
                mount(11, "/dev/console", "/0", again(10)),
            ],
        };
        record.mounts[9].fstype = "devpts".into();
        let (now, later) = rounds(&record);
        let ids = |all: Vec<&Mount>| all.iter().map(|m| m.id.0).collect::<Vec<_>>();
        assert_eq!(ids(now), [1, 2, 3, 4, 6, 10]);
        assert_eq!(ids(later), [5, 7, 8, 9, 11]);
    }

    #[test]
    fn a_cgroup_of_the_containers_is_found_by_its_hierarchy() {
        let present = mountinfo::parse(
            b"1 0 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
              2 0 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
        )
        .unwrap();
        let groups = [
            "/sys/fs/cgroup/cpu/ferry/x",
            "/sys/fs/cgroup/memory/ferry/x",
        ];
        let groups = groups.map(PathBuf::from);
        let mut one = mount(1, "/sys/fs/cgroup/memory", "/libpod/a", Origin::Fresh);
        assert_eq!(group(&one, &present, &groups), Some(groups[1].clone()));
        one.super_options = vec!["ro".into(), "pids".into()];
        assert_eq!(group(&one, &present, &groups), None);
    }
}
