//! Entry by entry: what arrives goes into the container at once. Nothing of it runs before the end of the image.

use crate::options::Options;
use crate::phase::Phase;
use image::cgroups::groups::Groups;
use image::container::{Container, Engine};
use image::files::OpenFiles;
use image::ids::{Pid, SpaceId, TableId};
use image::ipc::Queues;
use image::ipc::sysv::SystemV;
use image::memory::Family;
use image::memory::shared::Objects;
use image::namespaces::mount::Origin;
use image::namespaces::network::Network;
use image::process::Process;
use image::record::{FROZEN, Frozen, GROUPS, QUEUES, SYSV};
use image::rootfs::Tree as FileTree;
use image::tree::{State, Tree};
use image::{Entry, Kind, Space};
use kernel::remote::Stub;
use resources::files::{Opened, Stdio, Terminals, external};
use resources::memory::pages::{self, Filler};
use resources::namespaces::is_own;
use resources::namespaces::mount::{self, Covered};
use resources::namespaces::nested::{self, Inners};
use resources::namespaces::network::Uplinks;
use resources::rootfs::{Content, Policy};
use resources::tree::Growth;
use resources::vessel::{Console, Vessel};
use resources::{Error, Result, Target, cgroups, files, ipc, limits, memory, rootfs, tree};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// A container on its way.
#[derive(Debug)]
pub struct Pour {
    /// Where it will live.
    pub vessel: Box<dyn Vessel>,
    /// An init of ours that is its process 1.
    pub init: Option<Stub>,
    /// Its processes, as far as they are.
    pub target: Target,
    /// How its threads come by their ids.
    pub numbers: tree::Numbers,
    /// Whether the first seccomp filter of each task is the engine's own.
    pub first_filter_is_engines: bool,
    /// Its process tree, once that has come.
    pub tree: Option<Tree>,
    /// The records of its processes.
    pub processes: BTreeMap<Pid, Process>,
    /// Its open files, once they have come.
    pub files: Option<Opened>,
    /// Its memory objects.
    pub objects: Objects,
    /// Semaphores and message queues of System V.
    pub sysv: SystemV,
    /// Message queues of POSIX.
    pub queues: Queues,
    /// Control groups beneath its own.
    pub groups: Groups,
    /// What this host does not allow, and the program can do without, in words.
    pub words: Vec<String>,
    /// When it was frozen, where that was after the header was written.
    pub frozen: Option<Frozen>,
    /// Its network, where it has one of its own again.
    network: Option<(Network, Uplinks)>,
    spaces: HashMap<SpaceId, Pid>,
    filler: Option<Filler>,
    trees: Option<rootfs::Pour>,
    /// What of the file trees stays out.
    policy: Policy,
    /// Until the layers of an image are there that come along, and the mounts can be made.
    mounting: Option<Container>,
    /// The terminal that we were called from, where the container has it.
    pub console: Option<Console>,
    stdio: Stdio,
    /// Its terminals, between growth and files.
    terminals: Option<Terminals>,
    /// The tree, while it grows.
    growth: Option<Growth>,
    /// The family whose pages are coming.
    family: Option<Family>,
    step: Step,
}

/// How far the image has come. Entries come in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Trees,
    Tree,
    Files,
    Memory,
    Processes,
}

impl Pour {
    /// Begins, with the container's own record read and its vessel made.
    pub fn new(vessel: Box<dyn Vessel>, container: &Container, options: &Options) -> Result<Self> {
        let vessel_pid = vessel.pid();
        let stdio = if vessel.engine() != Engine::Native {
            external::of(vessel_pid)?
        } else if options.stays() {
            Stdio::Ours
        } else {
            Stdio::Null
        };
        let policy = policy(vessel.policy(), container, options);
        let layers = vessel.layers().map(Path::to_path_buf);
        let network = match is_own(vessel_pid, kernel::namespaces::Kind::Network)? {
            true => container.namespaces.network.own(),
            false => None,
        };
        let network = network.map(|own| (own.clone(), crate::order::uplinks(&*vessel, container)));
        let target = Target {
            processes: BTreeMap::new(),
            files: HashMap::new(),
            objects: HashMap::new(),
            segments: HashMap::new(),
            addresses: vessel.changed().to_vec(),
            connections: options.connections(container.connections),
            root_pid: vessel.pid(),
            covered: Covered::new(),
            inners: Inners::default(),
        };
        Ok(Pour {
            init: None,
            target,
            numbers: tree::Numbers::default(),
            first_filter_is_engines: container
                .configuration
                .as_ref()
                .is_some_and(image::engine::Configuration::has_filter),
            tree: None,
            processes: BTreeMap::new(),
            files: None,
            objects: Objects::default(),
            sysv: SystemV::default(),
            queues: Queues::default(),
            groups: Groups::default(),
            words: Vec::new(),
            frozen: None,
            network,
            spaces: HashMap::new(),
            filler: None,
            trees: Some(match &layers {
                Some(directory) => rootfs::Pour::layers(directory)?,
                None => rootfs::Pour::new(vessel_pid, container, &policy, vessel.covered())?,
            }),
            policy,
            mounting: layers.map(|_| container.clone()),
            vessel,
            stdio,
            terminals: None,
            growth: None,
            family: None,
            console: None,
            step: Step::Trees,
        })
    }

    /// Takes one entry; says what phase it belonged to.
    pub fn entry(&mut self, mut entry: Entry<'_>) -> Result<Phase> {
        let path = entry.path().to_string();
        let kind = entry.kind().clone();
        let of = |family: &Family| matches!(&kind, Kind::Pages(p) if p.space == Space::Mm(family.space.id));
        if self.family.as_ref().is_some_and(|family| !of(family)) {
            self.close_family()?;
        }
        match (path.as_str(), kind) {
            (_, Kind::Member) if self.step == Step::Tree => {
                self.grown()?;
                let member = entry.member().cloned().ok_or_else(|| misplaced(&entry))?;
                let trees = self.trees.as_mut().ok_or_else(|| misplaced(&entry))?;
                trees.member(&member, &mut entry)?;
                Ok(Phase::Trees)
            }
            (_, Kind::Member) => {
                self.reach(Step::Trees, &entry)?;
                let member = entry.member().cloned().ok_or_else(|| misplaced(&entry))?;
                let layer = FileTree::of(&path).is_some_and(|(tree, _)| tree == FileTree::Root);
                if !layer {
                    self.mount()?;
                }
                let trees = self.trees.as_mut().ok_or_else(|| misplaced(&entry))?;
                trees.member(&member, &mut entry)?;
                Ok(Phase::Trees)
            }
            (FROZEN, _) => {
                self.reach(Step::Trees, &entry)?;
                self.frozen = Some(entry.json()?);
                Ok(Phase::Trees)
            }
            (QUEUES, _) => {
                self.reach(Step::Trees, &entry)?;
                self.queues = entry.json()?;
                ipc::restore(self.target.root_pid, &self.queues)?;
                Ok(Phase::Trees)
            }
            (GROUPS, _) => {
                self.reach(Step::Trees, &entry)?;
                self.groups = entry.json()?;
                self.groups.check().map_err(|what| entry.damaged(what))?;
                Ok(Phase::Trees)
            }
            (SYSV, _) => {
                self.reach(Step::Trees, &entry)?;
                self.sysv = entry.json()?;
                ipc::sysv::restore(self.target.root_pid, &self.sysv)?;
                Ok(Phase::Trees)
            }
            ("tree.json", _) => {
                self.reach(Step::Tree, &entry)?;
                self.grow(entry.json()?)?;
                Ok(Phase::Grow)
            }
            (path, Kind::Record) if path.starts_with("family/") => {
                self.reach(Step::Tree, &entry)?;
                self.family(entry.json()?)?;
                Ok(Phase::Grow)
            }
            ("files.json", _) => {
                self.reach(Step::Files, &entry)?;
                self.grown()?;
                let record: OpenFiles = entry.json()?;
                if let (Some(trees), Some(tree)) = (self.trees.take(), &self.tree) {
                    trees.finish()?;
                    nested::settle_mounts(&tree.nested, &self.target)?;
                }
                let terminals = self.terminals.take().ok_or_else(|| misplaced(&entry))?;
                let opened = files::open(record, terminals, &mut self.target, &self.stdio)?;
                self.files = Some(opened);
                Ok(Phase::Files)
            }
            (_, Kind::Blob) => {
                self.reach(Step::Files, &entry)?;
                let opened = self.files.as_mut().ok_or_else(|| misplaced(&entry))?;
                opened.blob(&path, &mut entry)?;
                Ok(Phase::Files)
            }
            ("memory.json", _) => {
                self.reach(Step::Memory, &entry)?;
                self.objects = entry.json()?;
                memory::shared::restore(&self.objects, &mut self.target)?;
                Ok(Phase::Memory)
            }
            (_, Kind::Pages(pages)) => {
                self.pages(&pages, &mut entry)?;
                Ok(Phase::Memory)
            }
            (path, Kind::Record) if path.starts_with("process/") => {
                self.reach(Step::Processes, &entry)?;
                self.process(entry.json()?)?;
                Ok(Phase::Processes)
            }
            _ => Err(entry
                .damaged("an entry of a kind that this version does not know")
                .into()),
        }
    }

    /// Entries may stay at a step or go on, never back.
    fn reach(&mut self, step: Step, entry: &Entry) -> Result<()> {
        if step < self.step {
            return Err(misplaced(entry));
        }
        self.step = step;
        Ok(())
    }

    /// No more layers come: the mounts are made on them.
    fn mount(&mut self) -> Result<()> {
        if let Some(container) = self.mounting.take() {
            if let Some(layers) = self.trees.take() {
                layers.finish()?;
            }
            self.vessel.mount()?;
            let pid = self.vessel.pid();
            self.trees = Some(rootfs::Pour::new(
                pid,
                &container,
                &self.policy,
                self.vessel.covered(),
            )?);
        }
        Ok(())
    }

    fn grow(&mut self, tree: Tree) -> Result<()> {
        self.mount()?;
        if let Some(trees) = self.trees.take() {
            trees.finish()?;
        }
        self.vessel.settle()?;
        self.target.covered = mount::copies(self.vessel.covered())?;
        let is_root = !self.vessel.is_init();
        let first = self.vessel.first()?;
        let first = match is_root {
            true => {
                // Whatever it is, it will be another.
                let mut first = Stub::overlay(first, tree.stub)?;
                limits::widen(&mut first)?;
                first
            }
            false => Stub::install(first, tree.stub)?,
        };
        let terminals = Terminals::make(&tree.terminals, self.target.root_pid, &self.stdio)?;
        self.growth = Some(Growth::begin(&tree, first, is_root, &terminals)?);
        self.terminals = Some(terminals);
        self.tree = Some(tree);
        Ok(())
    }

    /// The first of a family is grown, and gets what all of it have in common.
    fn family(&mut self, family: Family) -> Result<()> {
        let (Some(growth), Some(tree), Some(terminals)) =
            (&mut self.growth, &self.tree, &self.terminals)
        else {
            return Err(Error::Refused(
                "the image has memory in common before its process tree".into(),
            ));
        };
        let (pid, id) = (family.pid, family.space.id);
        let process = growth.until_fork(pid, tree, terminals)?;
        self.target.processes.insert(pid, process);
        memory::family::prepare(&mut self.target, &family)?;
        if self.spaces.insert(id, pid).is_some() {
            return Err(Error::Refused(format!(
                "space {} is in the image twice",
                id.0
            )));
        }
        self.family = Some(family);
        Ok(())
    }

    /// All pages of a family have come: the tree may go on growing.
    fn close_family(&mut self) -> Result<()> {
        let Some(family) = self.family.take() else {
            return Ok(());
        };
        if let Some(filler) = self.filler.take() {
            filler.finish()?;
        }
        let mut process = self.target.processes.remove(&family.pid);
        if let (Some(growth), Some(mut process)) = (&mut self.growth, process.take()) {
            memory::family::settle(&mut process, &family)?;
            growth.go_on_with(process);
        }
        Ok(())
    }

    /// The tree grows to its end.
    fn grown(&mut self) -> Result<()> {
        let (Some(growth), Some(tree), Some(terminals)) =
            (self.growth.take(), &self.tree, &mut self.terminals)
        else {
            return Ok(());
        };
        let mut grown = growth.finish(tree, terminals)?;
        self.console = terminals.take_console();
        self.init = grown.init.take();
        self.numbers = grown.numbers;
        self.target.processes = grown.processes;
        self.words = cgroups::groups::restore(&self.groups, &self.target)?;
        let own = self.network.as_ref();
        let own = own.map(|(network, uplinks)| (network, *uplinks));
        let (init, numbers) = (&mut self.init, &mut self.numbers);
        let made = nested::make(tree, &mut self.target, init, numbers, own)?;
        self.words.extend(made);
        let inner = nested::trees(&tree.nested, &|id| self.target.inners.pid(id));
        self.trees = Some(rootfs::Pour::inner(&inner)?);
        Ok(())
    }

    fn process(&mut self, process: Process) -> Result<()> {
        let pid = process.pid;
        let mut twice = false;
        if let Some(space) = &process.memory {
            if self.shared(pid).map(|(own, _)| own) != Some(space.id) {
                return Err(Error::Refused(format!(
                    "the memory of process {pid} is not what the tree of the image says"
                )));
            }
            memory::clear(&mut self.target, pid, space)?;
            memory::map(&mut self.target, pid, space)?;
            twice = self.spaces.insert(space.id, pid).is_some();
        }
        if self.processes.insert(pid, process).is_some() || twice {
            return Err(Error::Refused(format!(
                "process {pid} is in the image twice"
            )));
        }
        Ok(())
    }

    /// What the tree says of the memory and the descriptors of a process.
    fn shared(&self, pid: Pid) -> Option<(SpaceId, TableId)> {
        let processes = self.tree.iter().flat_map(|tree| &tree.processes);
        processes
            .filter(|process| process.pid == pid)
            .find_map(|process| match process.state {
                State::Alive { space, table, .. } => Some((space, table)),
                State::Dead { .. } => None,
            })
    }

    /// Every process has memory and descriptors: its own, or those that it was made with. In a container of an engine a process
    /// may have been made to execute its program since, which ends all sharing.
    fn check_shared(&self) -> Result<()> {
        let tables: HashMap<TableId, Pid> = self
            .processes
            .values()
            .filter_map(|process| Some((process.table.as_ref()?.id, process.pid)))
            .collect();
        let carries = |of: Option<&Pid>,
                       pid: Pid,
                       same: fn(kernel::Pid, kernel::Pid) -> kernel::Result<bool>,
                       what: &str| {
            let carrier = of.ok_or_else(|| {
                Error::Refused(format!("process {pid} of the image has no {what}"))
            })?;
            let ours = |pid: &Pid| self.target.processes.get(pid).map(|process| process.pid);
            match (ours(carrier), ours(&pid)) {
                (Some(one), Some(other)) if carrier == &pid || same(one, other)? => Ok(()),
                _ => Err(Error::Refused(format!(
                    "process {pid} shares its {what} with process {carrier}, which was made to execute its program, as it must \
                     where it has no CAP_CHECKPOINT_RESTORE: restore it as a native container (--engine native), or give its \
                     container that capability"
                ))),
            }
        };
        for pid in self.processes.keys() {
            let (space, table) = self.shared(*pid).unzip();
            let space = space.and_then(|id| self.spaces.get(&id));
            carries(space, *pid, kernel::kcmp::same_memory, "memory")?;
            let table = table.and_then(|id| tables.get(&id));
            carries(table, *pid, kernel::kcmp::same_table, "descriptors")?;
        }
        Ok(())
    }

    fn pages(&mut self, pages: &image::Pages, entry: &mut Entry) -> Result<()> {
        match pages.space {
            Space::Mm(id) if self.family.as_ref().is_some_and(|f| f.space.id == id) => {
                let family = self.family.as_ref().ok_or_else(|| misplaced(entry))?;
                let pid = self.target.process(family.pid)?.pid;
                let filler = self.filler.get_or_insert_with(Filler::start);
                filler.space(pid, &family.space, &pages.ranges, entry)
            }
            Space::Mm(id) => {
                let found = self.spaces.get(&id).and_then(|pid| self.processes.get(pid));
                let process = found.ok_or_else(|| misplaced(entry))?;
                let space = process.memory.as_ref().filter(|space| space.id == id);
                let space = space.ok_or_else(|| misplaced(entry))?;
                let pid = self.target.process(process.pid)?.pid;
                let filler = self.filler.get_or_insert_with(Filler::start);
                filler.space(pid, space, &pages.ranges, entry)
            }
            Space::Shared(id) => {
                let found = self.objects.objects.iter().find(|object| object.id == id);
                let object = found.ok_or_else(|| misplaced(entry))?;
                let fd = self
                    .target
                    .objects
                    .get(&id)
                    .ok_or_else(|| misplaced(entry))?;
                pages::object(std::os::fd::AsFd::as_fd(fd), object, &pages.ranges, entry)
            }
        }
    }

    /// The image was whole: all pages are in their places when this returns.
    pub fn filled(&mut self) -> Result<()> {
        if let Some(filler) = self.filler.take() {
            filler.finish()?;
        }
        self.check_shared()?;
        let missing = self
            .target
            .processes
            .keys()
            .find(|pid| !self.processes.contains_key(pid));
        match (missing, &self.files, &self.tree) {
            (None, Some(_), Some(_)) => {
                memory::shared::seal(&self.objects, &self.target.objects)?;
                memory::segments::settle(&self.objects, &mut self.target)
            }
            (Some(pid), ..) => Err(Error::Refused(format!(
                "the image has no record of process {pid}"
            ))),
            _ => Err(Error::Refused(
                "the image has no process tree or no open files".into(),
            )),
        }
    }
}

/// What the user leaves out besides what the vessel does.
fn policy(mut policy: Policy, container: &Container, options: &Options) -> Policy {
    if options.ignore_rootfs {
        policy.changes = Some(Content::Kept);
    }
    let mounts = container.namespaces.mount.own();
    for mount in mounts.map_or(&[][..], |mounts| &mounts.mounts) {
        if let Origin::Volume { name, .. } = &mount.origin
            && options.ignore_volumes
        {
            policy.volumes.insert(name.clone(), Content::Kept);
        }
    }
    policy
}

fn misplaced(entry: &Entry) -> Error {
    entry.damaged("it stands where it cannot belong").into()
}
