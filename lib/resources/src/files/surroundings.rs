//! What must be known of a container as a whole to judge one descriptor: its mounts, where both ends of its pipes are, and
//! what its standard input and output are.

use super::borrowed::{Borrowed, Holder, Seen};
use super::kind::{Obstacle, obstacle};
use super::search;
use super::tty::Sides;
use super::view::Views;
use crate::Result;
use crate::namespaces::nested::Sights;
use image::files::external::Stream;
use image::ids::NsId;
use image::path::Name;
use kernel::descriptor::{self, O_ACCMODE, O_DIRECT, O_RDONLY, O_WRONLY, S_IFDIR};
use kernel::namespaces::{Kind, identity};
use kernel::proc::{Proc, mountinfo, stat};
use kernel::{Namespace, mqueue, within};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::fd::AsFd;

const TMPFS: i64 = 0x0102_1994;
const DELETED: &[u8] = b" (deleted)";

/// All of a container's descriptors are judged in these.
#[derive(Debug)]
pub(crate) struct Surroundings {
    /// Its files, as those see them who have them open.
    pub view: Views,
    /// The namespaces that its tasks are in, by inode: the container's, and those inside it.
    pub namespaces: HashMap<u64, Option<NsId>>,
    /// By the device number of their queues, the IPC namespaces, each with somebody in it; empty as long as none was met.
    pub queues: HashMap<u64, (Option<NsId>, kernel::Pid)>,
    /// A task in each IPC namespace.
    inhabitants: Vec<(Option<NsId>, kernel::Pid)>,
    processes: HashSet<kernel::Pid>,
    pipes: HashMap<(u64, u64), Ends>,
    standard: HashMap<(u64, u64), Stream>,
    /// What is open, by device and inode.
    open: HashSet<(u64, u64)>,
    /// Which side of which terminal each descriptor is.
    pub terminals: Sides,
}

/// Which ends of a pipe are inside, and whether the others are closed.
#[derive(Debug, Default)]
struct Ends {
    reader: bool,
    writer: bool,
    /// Seen at an end: nobody has the other one.
    closed: bool,
    packets: bool,
}

impl Surroundings {
    /// Of these processes, the root of the tree first.
    pub fn of(pids: &[kernel::Pid], sights: &Sights) -> Result<Self> {
        let first = pids.first().copied().unwrap_or(0);
        let inner = sights.all.iter().map(|(inode, id)| (*inode, Some(*id)));
        let mut namespaces: HashMap<u64, Option<NsId>> = inner.collect();
        for kind in Kind::ALL {
            namespaces.insert(identity(first, kind)?, None);
        }
        let inner = sights.queues.iter();
        let inner = inner.map(|(id, there, _)| (Some(*id), *there));
        Ok(Surroundings {
            queues: HashMap::new(),
            inhabitants: [(None, first)].into_iter().chain(inner).collect(),
            view: Views::of(first, sights)?,
            namespaces,
            processes: pids.iter().copied().collect(),
            pipes: HashMap::new(),
            standard: HashMap::new(),
            open: HashSet::new(),
            terminals: Sides::default(),
        })
    }

    /// Takes note of a descriptor; all must have been seen before one is judged.
    pub fn note(&mut self, file: &Borrowed) -> Result<()> {
        let key = file.key();
        self.open.insert(key);
        if file.link.0.starts_with(b"pipe:[") {
            let (reads, writes) = file.access();
            let ends = self.pipes.entry(key).or_default();
            ends.reader |= reads;
            ends.writer |= writes;
            ends.packets |= writes && file.flags() & O_DIRECT != 0;
            let seen = descriptor::readiness(file.fd.as_fd())?;
            ends.closed |= seen.hung_up || seen.error;
        }
        if file.filesystem == super::kind::MQUEUE && self.queues.is_empty() {
            for (id, there) in &self.inhabitants {
                let device = within(*there, &[Namespace::Ipc], mqueue::device)??;
                self.queues.insert(device, (*id, *there));
            }
        }
        if (0..=2).contains(&file.holder.number) && file.stat.format() != S_IFDIR {
            let stream = match (file.flags() & O_ACCMODE, file.holder.number) {
                (O_RDONLY, _) => Stream::Input,
                (_, 2) => Stream::Error,
                _ => Stream::Output,
            };
            // One on 1 and 2 is standard output.
            let known = self.standard.entry(key).or_insert(stream);
            if stream == Stream::Output {
                *known = stream;
            }
        }
        self.view.as_opener(file);
        let path = self.inside(&file.link);
        self.terminals.note(file, &self.view.root, path.as_ref())
    }

    /// Whether something of this device and inode is open.
    pub fn is_open(&self, key: (u64, u64)) -> bool {
        self.open.contains(&key)
    }

    /// Whether any writer of this pipe writes packets.
    pub fn has_packets(&self, file: &Seen) -> bool {
        let key = file.key();
        self.pipes.get(&key).is_some_and(|ends| ends.packets)
    }

    /// Whether the other end of a pipe is held by somebody outside.
    pub fn leads_outside(&self, file: &Seen) -> bool {
        let key = file.key();
        self.pipes
            .get(&key)
            .is_some_and(|ends| !(ends.closed || ends.reader && ends.writer))
    }

    /// Which standard stream a file is, here or in another process of the container.
    pub fn stream(&self, file: &Seen) -> Option<Stream> {
        let key = file.key();
        let stream = self.standard.get(&key)?;
        Some(match file.flags() & O_ACCMODE {
            O_RDONLY => Stream::Input,
            O_WRONLY if *stream == Stream::Input => Stream::Output,
            _ => *stream,
        })
    }

    /// Who outside holds the other end of a pipe, in words.
    pub fn peer(&self, file: &Seen) -> String {
        let found = self.holders(file);
        if found.is_empty() {
            return "outside the container".into();
        }
        let found: Vec<String> = found.into_iter().take(4).collect();
        format!("{}, outside the container", found.join(", "))
    }

    /// Whether it is a pipe of which no process has the other end: that may be on its way through a socket of the
    /// container, which only the look into its queue tells.
    pub fn may_be_in_flight(&self, file: &Seen) -> bool {
        file.link.0.starts_with(b"pipe:[") && self.holders(file).is_empty()
    }

    /// A process outside that has the same file open, in words.
    pub fn shared_with(&self, file: &Seen) -> Option<String> {
        use std::os::unix::fs::MetadataExt;
        let others = kernel::proc::numbers(std::path::Path::new("/proc")).unwrap_or_default();
        let ours = std::process::id() as kernel::Pid;
        let mut outside = others
            .into_iter()
            .filter(|pid| *pid != ours && !self.processes.contains(pid));
        let found = outside.find(|pid| {
            let has = |number: &i32| {
                let found = std::fs::metadata(format!("/proc/{pid}/fd/{number}"));
                found.is_ok_and(|found| (found.dev(), found.ino()) == file.key())
            };
            let numbers = Proc::process(*pid).numbers("fd");
            numbers.unwrap_or_default().iter().any(has)
        })?;
        let name = stat::read(found).map(|s| s.comm).unwrap_or_default();
        Some(format!("process {found} ({name})"))
    }

    fn holders(&self, file: &Seen) -> BTreeSet<String> {
        let wanted = std::path::PathBuf::from(file.link.to_string());
        let others = kernel::proc::numbers(std::path::Path::new("/proc")).unwrap_or_default();
        let mut found = BTreeSet::new();
        let outside = others.iter().filter(|pid| !self.processes.contains(pid));
        for pid in outside {
            let proc = Proc::process(*pid);
            let has =
                |number: &i32| proc.link(&format!("fd/{number}")).ok() == Some(wanted.clone());
            if proc.numbers("fd").unwrap_or_default().iter().any(has) {
                let name = stat::read(*pid).map(|s| s.comm).unwrap_or_default();
                found.insert(format!("process {pid} ({name})"));
            }
        }
        found
    }

    /// Whether a file was opened through a mount that the container does not have, and is not there by its path either
    /// (as standard output into a file is, when it was opened before a mount namespace was made).
    pub fn is_outside(&self, file: &Seen) -> bool {
        let Some(path) = self.inside(&file.link) else {
            return true;
        };
        let (device, inode) = file.key();
        !self.view.has_mount_of(file) && !self.leads_to(&path, device, inode)
    }

    /// Whether it is a memory file: on the kernel's own mounts of tmpfs and hugetlbfs, which nobody can name (mm/memfd.c).
    pub fn is_memfd(&self, file: &Seen) -> bool {
        [TMPFS, descriptor::HUGETLBFS].contains(&file.filesystem)
            && file.link.0.starts_with(b"/memfd:")
            && file.link.0.ends_with(DELETED)
            && !self.view.has_mount_of(file)
    }

    /// Whether it is on a memory file system that was taken off and is mounted in no mount namespace any more: nobody else
    /// has what is in it.
    pub fn is_detached(&self, file: &Seen) -> bool {
        let (major, minor) = (libc::major(file.stat.device), libc::minor(file.stat.device));
        let device = format!("{major}:{minor}");
        let mut met = HashSet::new();
        let mut mounted = |pid: kernel::Pid| {
            let Ok(namespace) = Proc::process(pid).link("ns/mnt") else {
                return false; // it has ended
            };
            let mounts = || mountinfo::of_namespace(pid).unwrap_or_default();
            met.insert(namespace) && mounts().iter().any(|mount| mount.device == device)
        };
        let all = kernel::proc::numbers(std::path::Path::new("/proc")).unwrap_or_default();
        file.filesystem == TMPFS && !all.into_iter().any(&mut mounted)
    }

    /// A path as we see it, from the container's root; `None` where it is not beneath it.
    pub fn inside(&self, path: &Name) -> Option<Name> {
        let rest = path.0.strip_prefix(self.view.prefix.as_slice())?;
        match rest {
            [] => Some("/".into()),
            [b'/', ..] => Some(Name(rest.to_vec())),
            _ => None,
        }
    }

    /// A path that may end in ` (deleted)`, without it.
    pub fn without_deleted(path: &Name) -> Name {
        Name(path.0.strip_suffix(DELETED).unwrap_or(&path.0).to_vec())
    }

    /// Whether a path inside the container leads to this inode.
    pub fn leads_to(&self, path: &Name, device: u64, inode: u64) -> bool {
        let found = self.view.root.stat(path.as_path());
        found.is_ok_and(|found| (found.device, found.inode) == (device, inode))
    }

    /// Refuses what is not where its path says.
    pub fn reachable(&self, file: &Seen) -> std::result::Result<(), Obstacle> {
        if self.is_outside(file) {
            return Err(obstacle(
                format!("{}, on a mount that the container does not have", file.link),
                "close it first, or mount it into the container",
            ));
        }
        Ok(())
    }

    /// The name of a regular file; `None` where it has none left.
    pub fn name_of(&self, file: &Seen) -> std::result::Result<Option<Name>, Obstacle> {
        let (device, inode) = (file.stat.device, file.stat.inode);
        if let Some(path) = self.inside(&file.link)
            && self.leads_to(&path, device, inode)
        {
            return Ok(Some(path));
        }
        if file.stat.links == 0 {
            return Ok(None);
        }
        let was = Self::without_deleted(&file.link);
        let found = self
            .inside(&was)
            .and_then(|was| search::other_name(&self.view.root, &was, device, inode));
        found.map(Some).ok_or_else(|| {
            obstacle(
                format!("{} is not at that name any more, but has another", file.link),
                "it was renamed or hidden while it was open, and its other name was not found; close it first",
            )
        })
    }

    /// Refuses a process descriptor of a process outside.
    pub fn own_process(&self, file: &Seen) -> std::result::Result<(), Obstacle> {
        let pid = file.fdinfo.pidfd().ok().flatten();
        let belongs = |pid: kernel::Pid| {
            self.processes.contains(&pid)
                || stat::read(pid).is_ok_and(|s| self.processes.contains(&s.ppid()))
                || kernel::proc::status::read(pid)
                    .and_then(|s| s.number("Tgid"))
                    .is_ok_and(|tgid| self.processes.contains(&(tgid as kernel::Pid)))
        };
        match pid {
            Some(pid) if !belongs(pid) => Err(obstacle(
                format!("a descriptor of process {pid}, which is outside the container"),
                "close it first",
            )),
            _ => Ok(()),
        }
    }

    /// Says where a descriptor is, as a blocker has it.
    pub fn blocker(holder: Holder, obstacle: Obstacle) -> crate::Blocker {
        crate::Blocker {
            pid: holder.pid,
            place: format!("descriptor {}", holder.number),
            what: obstacle.what,
            remedy: obstacle.remedy,
        }
    }
}
