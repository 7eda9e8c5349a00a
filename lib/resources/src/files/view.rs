//! What paths lead to, as the tasks of one mount namespace see it: the container's own, or one inside it.

use super::borrowed::Seen;
use crate::Result;
use crate::namespaces::is_own;
use crate::namespaces::mount::{beginning, covered};
use crate::namespaces::nested::Sights;
use image::ids::{MountId, NsId};
use image::path::Name;
use kernel::namespaces::Kind;
use kernel::open::Root;
use kernel::proc::mountinfo::{self, Mount};
use std::cell::Cell;
use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;

/// One mount namespace.
#[derive(Debug)]
pub(crate) struct View {
    /// Beneath which its paths are found.
    pub root: Root,
    /// What of a path as we see it lies above that root.
    pub prefix: Vec<u8>,
    /// The mounts it has.
    pub mounts: Vec<Mount>,
    ids: HashSet<u32>,
    /// Which one it is; none: the container's.
    namespace: Option<NsId>,
    /// A single mount of the container's, over which others lie.
    covered: Option<MountId>,
    /// Who is in it, of one inside the container.
    members: HashSet<kernel::Pid>,
}

impl View {
    fn of_container(first: kernel::Pid) -> Result<Self> {
        let own = is_own(first, Kind::Mount)?;
        let (root, prefix, mut mounts) = if own {
            let prefix = beginning::path(first)?;
            let root = beginning::root(first)?;
            (root, Name::from(prefix.as_path()).0, Vec::new())
        } else {
            let root = Root::at(std::path::Path::new("/"))?;
            (root, b"/".to_vec(), mountinfo::read_own()?)
        };
        mounts.extend(beginning::mounts(first)?);
        Ok(View::new(root, prefix, mounts))
    }

    fn new(root: Root, prefix: Vec<u8>, mounts: Vec<Mount>) -> Self {
        View {
            root,
            prefix: if prefix == b"/" { Vec::new() } else { prefix },
            ids: mounts.iter().map(|m| m.id).collect(),
            mounts,
            namespace: None,
            covered: None,
            members: HashSet::new(),
        }
    }

    /// Whether a file was opened through one of its mounts.
    pub fn has_mount_of(&self, file: &Seen) -> bool {
        self.has(file.fdinfo.mount as u32)
    }

    fn has(&self, mount: u32) -> bool {
        self.ids.contains(&mount)
    }

    /// Mounts of the container whose first process this is, over which others lie.
    fn covered(first: kernel::Pid) -> Result<Vec<View>> {
        let above = Name::from(beginning::path(first)?.as_path()).0;
        let mut views = Vec::new();
        for (place, id, root) in covered::roots(first)? {
            let mut prefix = if above == b"/" {
                Vec::new()
            } else {
                above.clone()
            };
            prefix.extend(place.as_os_str().as_bytes());
            let mut view = View::new(root, prefix, Vec::new());
            view.ids.insert(id.0);
            view.covered = Some(id);
            views.push(view);
        }
        Ok(views)
    }
}

/// All of a container's, of which one is looked through at a time.
#[derive(Debug)]
pub(crate) struct Views {
    /// The container's own first.
    all: Vec<View>,
    at: Cell<usize>,
}

impl Views {
    /// Of the container whose first process this is.
    pub fn of(first: kernel::Pid, sights: &Sights) -> Result<Self> {
        let mut all = vec![View::of_container(first)?];
        for (id, there, members) in &sights.mounts {
            let mounts = mountinfo::of_namespace(*there)?;
            let mut view = View::new(Root::of(*there)?, Vec::new(), mounts);
            view.namespace = Some(*id);
            view.members = members.clone();
            all.push(view);
        }
        let covered = View::covered(first)?;
        for id in covered.iter().filter_map(|view| view.covered) {
            all[0].ids.remove(&id.0);
        }
        all.extend(covered);
        let at = Cell::new(0);
        Ok(Views { all, at })
    }

    /// Looks as a process does.
    pub fn as_process(&self, pid: kernel::Pid) {
        let found = self.all.iter().position(|view| view.members.contains(&pid));
        self.at.set(found.unwrap_or(0));
    }

    /// Looks as who opened a file did: by the mount it was opened through, else as who has it.
    pub fn as_opener(&self, file: &Seen) {
        self.as_process(file.holder.pid);
        if self.all.len() > 1
            && !self.has_mount_of(file)
            && let Some(found) = self.all.iter().position(|view| view.has_mount_of(file))
        {
            self.at.set(found);
        }
    }

    /// Looks as process `pid` does at a place that it has by this mount.
    pub fn at_mount(&self, pid: kernel::Pid, mount: u32) {
        self.as_process(pid);
        let found = self
            .all
            .iter()
            .position(|view| view.covered.is_some() && view.has(mount));
        self.at.set(found.unwrap_or(self.at.get()));
    }

    /// The mount that it is of, over which others lie; none: it is of all that paths lead to.
    pub fn covered(&self) -> Option<MountId> {
        let view: &View = self;
        view.covered
    }

    /// Which one that is now; none: the container's.
    pub fn namespace(&self) -> Option<NsId> {
        let view: &View = self;
        view.namespace
    }
}

impl std::ops::Deref for Views {
    type Target = View;

    fn deref(&self) -> &View {
        // The first is always there, and no other number is set than that of one.
        self.all.get(self.at.get()).unwrap_or(&self.all[0])
    }
}
