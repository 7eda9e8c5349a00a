//! Namespaces inside the container: those that some of its tasks are in, and its root process is not (`unshare`, `setns`,
//! `CLONE_NEW…` within the tree). Part of `tree.json`, for pids are given out as the tree grows.

use super::{cgroup, ipc, mount, network, time, user, uts};
use crate::ids::{MountId, NsId, Pid};
use crate::ipc::Queues;
use crate::ipc::sysv::SystemV;
use crate::path::Name;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// All of them, and who is in them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nested {
    /// Parents and owners before those that they own.
    pub namespaces: Vec<Inner>,
    /// Tasks that are in one of them at least.
    pub tasks: Vec<Task>,
    /// What pid namespaces inside the container call a task, group or session that the container knows by the first
    /// number: outermost first, the container's own left out.
    pub names: BTreeMap<Pid, Vec<Pid>>,
    /// Namespaces that are mounted (`ip netns add`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bound: Vec<Bound>,
}

/// A namespace that is mounted on a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bound {
    /// The mount namespace in which it is; absent: the container's.
    pub mounts: Option<NsId>,
    /// The file.
    pub place: Name,
    /// The namespace; absent: the container's.
    pub of: Option<NsId>,
    /// Its kind, as links in `/proc/PID/ns` have it: `net`.
    pub kind: String,
}

/// One namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inner {
    /// What the record calls it.
    pub id: NsId,
    /// The user namespace whose capabilities count for it (`NS_GET_USERNS`, ioctl_nsfs(2)); absent: the container's. Of a user
    /// namespace the parent.
    pub owner: Option<NsId>,
    /// Its kind, and what is particular to it.
    pub content: Content,
}

/// What is particular to a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Content {
    /// Mounts, seen against the container's own as the host's are for the container: one of its origin `host` is there as
    /// it is for the container's root process.
    Mount {
        /// What is mounted.
        mounts: mount::Mounts,
        /// The mount points of the container's own mounts that are not there.
        gone: Vec<Name>,
        /// Which of the mounts show processes.
        processes: Vec<Shown>,
    },
    /// Links, addresses, routes.
    Network {
        /// What is in it.
        network: network::Network,
    },
    /// Process ids.
    Pid {
        /// The namespace around it (`NS_GET_PARENT`); absent: the container's.
        parent: Option<NsId>,
        /// The last one given out (`ns_last_pid`).
        last: Pid,
    },
    /// User and group ids.
    User {
        /// Its maps. The ids outside are those that the container's host sees.
        maps: user::Users,
        /// Who has made it, as the container's host sees that user: in the namespace around it that user may do anything to it.
        maker: u32,
        /// Nobody in it may call setgroups(2) (`/proc/PID/setgroups`).
        keeps_groups: bool,
    },
    /// System V IPC and POSIX message queues.
    Ipc {
        /// Its limits.
        limits: ipc::Ipc,
        /// Its message queues.
        queues: Queues,
        /// Its semaphore sets and message queues of System V; segments of shared memory are in `memory.json`.
        #[serde(default, skip_serializing_if = "SystemV::is_empty")]
        sysv: SystemV,
    },
    /// Host and domain name.
    Uts {
        /// Both.
        names: uts::Uts,
    },
    /// Monotonic and boot-time clocks.
    Time {
        /// Against the container's.
        offsets: time::Offsets,
    },
    /// The root of the visible control groups.
    Cgroup {
        /// Nothing so far.
        roots: cgroup::Roots,
    },
}

/// A mount of proc.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shown {
    /// The mount.
    pub mount: MountId,
    /// The pid namespace whose processes it shows; absent: the container's.
    pub of: Option<NsId>,
}

/// A task in namespaces of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// The thread.
    pub tid: Pid,
    /// Those it is in, at most one of each kind; of the other kinds it is in the container's.
    pub namespaces: Vec<NsId>,
    /// Where its children will be, where that is not where it is itself (`pid_for_children`).
    pub pids_for_children: Option<Children>,
    /// The same of `time_for_children`.
    pub clocks_for_children: Option<Children>,
}

/// A namespace for children alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Children {
    /// The container's.
    Container,
    /// One inside it.
    Inner(NsId),
    /// A new one, which the first child makes: there is none yet.
    New,
}

impl Nested {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty() && self.tasks.is_empty() && self.bound.is_empty()
    }

    /// The namespace with this id.
    pub fn get(&self, id: NsId) -> Option<&Inner> {
        self.namespaces.iter().find(|inner| inner.id == id)
    }

    /// What is recorded of a task; nothing of one that is in the container's namespaces alone.
    pub fn task(&self, tid: Pid) -> Option<&Task> {
        self.tasks.iter().find(|task| task.tid == tid)
    }

    /// Which namespace of those that `is` accepts a task is in; none: the container's.
    pub fn of(&self, tid: Pid, is: impl Fn(&Content) -> bool) -> Option<&Inner> {
        let mut all = self.task(tid)?.namespaces.iter();
        all.find_map(|id| self.get(*id).filter(|inner| is(&inner.content)))
    }

    /// The pid namespace of a task; none: the container's.
    pub fn pids(&self, tid: Pid) -> Option<&Inner> {
        self.of(tid, |content| matches!(content, Content::Pid { .. }))
    }

    /// What the innermost of its pid namespaces calls a task, group or session.
    pub fn innermost(&self, pid: Pid) -> Pid {
        self.names
            .get(&pid)
            .and_then(|names| names.last())
            .copied()
            .unwrap_or(pid)
    }

    /// The task that has made a time namespace for its children, and is not in it itself.
    pub fn maker(&self, id: NsId) -> Option<Pid> {
        let is_maker = |task: &&Task| task.clocks_for_children == Some(Children::Inner(id));
        self.tasks.iter().find(is_maker).map(|task| task.tid)
    }

    /// Says what no kernel could have shown: references that lead nowhere, or in circles.
    pub fn check(&self) -> Result<(), String> {
        let mut known: Vec<NsId> = Vec::new();
        for inner in &self.namespaces {
            let id = inner.id.0;
            let parent = match &inner.content {
                Content::Pid { parent, .. } => *parent,
                _ => None,
            };
            let before = |wanted: Option<NsId>, user: bool| match wanted {
                None => true,
                Some(wanted) => {
                    let found = self.get(wanted).map(|found| &found.content);
                    let kind = match found {
                        Some(Content::User { .. }) => user,
                        Some(Content::Pid { .. }) => !user,
                        _ => false,
                    };
                    kind && known.contains(&wanted)
                }
            };
            if known.contains(&inner.id) {
                return Err(format!("namespace {id} is there twice"));
            }
            if !before(inner.owner, true) || !before(parent, false) {
                return Err(format!(
                    "namespace {id} belongs to one that does not come before it"
                ));
            }
            if let Content::Ipc { sysv, .. } = &inner.content {
                sysv.check()?;
            }
            known.push(inner.id);
        }
        let mut tids = std::collections::BTreeSet::new();
        for task in &self.tasks {
            let children = [task.pids_for_children, task.clocks_for_children];
            let children = children.iter().flatten().filter_map(|one| match one {
                Children::Inner(id) => Some(*id),
                _ => None,
            });
            let unknown = |id: &NsId| !known.contains(id);
            if task.namespaces.iter().any(unknown) || children.into_iter().any(|id| unknown(&id)) {
                return Err(format!(
                    "task {} is in a namespace that is not there",
                    task.tid
                ));
            }
            if !tids.insert(task.tid) {
                return Err(format!("task {} is in its namespaces twice", task.tid));
            }
            // A pid namespace inside the container, and no name in it, or the other way round.
            let depth = self.depth(self.pids(task.tid).map(|inner| inner.id));
            if self.names.get(&task.tid).map_or(0, Vec::len) != depth {
                return Err(format!(
                    "task {} has not as many pids as it is in pid namespaces",
                    task.tid
                ));
            }
        }
        for bound in &self.bound {
            let mounts = bound.mounts.and_then(|id| self.get(id));
            let is_mount = mounts.is_some_and(|m| matches!(m.content, Content::Mount { .. }));
            let unknown = bound.of.is_some_and(|id| !known.contains(&id));
            if unknown || bound.mounts.is_some() && !is_mount {
                return Err(format!(
                    "what is mounted at {} is a namespace that is not there",
                    bound.place
                ));
            }
        }
        match self.names.values().flatten().all(|pid| *pid > 0) {
            true => Ok(()),
            false => Err("a pid is not positive".into()),
        }
    }

    /// How many pid namespaces lie between the container's and this one, itself counted.
    pub fn depth(&self, pids: Option<NsId>) -> usize {
        let mut depth = 0;
        let mut at = pids;
        while let Some(id) = at
            && depth <= self.namespaces.len()
        {
            depth += 1;
            at = match self.get(id).map(|inner| &inner.content) {
                Some(Content::Pid { parent, .. }) => *parent,
                _ => None,
            };
        }
        depth
    }
}
