//! The native vessel: an empty process inside new namespaces of its own, traced and stopped, into which a tree is poured.
//! Everything made for it is in the registry from the start, and a keeper takes it away when process 1 is gone, whatever
//! becomes of `restore`.

use super::keeper::{self, Keeper};
use super::plan::{Link, Plan, plan};
use super::registry::{self, Entry, NETNS, Process};
use super::written::Changed;
use super::{Vessel, bridge, cgroup, inside, pair, random_id, reap};
use crate::namespaces::mount::{self, Base, Covered};
use crate::namespaces::network;
use crate::namespaces::time::{self, Clocks};
use crate::sockets::tcp::{self, Quiet};
use crate::{Error, Result};
use image::cgroups::Limits;
use image::container::{Container, Engine};
use image::ids::MountId;
use image::namespaces::user::Own;
use image::sockets::tcp::Connections;
use kernel::arch::Registers;
use kernel::identity::{Acting, FilesOf, Maker};
use kernel::namespaces::{Birth, Forked, Kind, fork, leave};
use kernel::nsfs::Handle;
use kernel::pidfd::PidFd;
use kernel::ptrace::{self, Event, Stopped, options};
use kernel::remote::Stub;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, recv, send};
use std::fs::{self, DirBuilder};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// What the user asks of a native container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// A name of its own (`-n`), with pids, mounts and a network of its own.
    pub name: Option<String>,
    /// `--network`; none: as it was, or the bridge where it gets a name.
    pub network: Option<Network>,
    /// A pid namespace of its own (`--pidns`), also without a name.
    pub pids: bool,
    /// `--rootfs`: the directory that becomes its root.
    pub rootfs: Option<PathBuf>,
    /// `--mount`: where the container had mounts, and what of this host takes their place.
    pub places: Vec<(PathBuf, PathBuf)>,
    /// What becomes of its TCP connections with the outside.
    pub connections: Connections,
    /// What its clocks are to show, in a time namespace of its own; none: the host's.
    pub clocks: Option<Clocks>,
    /// What it is restored from, for the registry.
    pub archive: String,
}

/// How a container is to be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// By the host's network.
    Host,
    /// By an address of its own on our bridge.
    Bridge,
    /// Not at all.
    None,
}

/// A vessel of our own. Dropped before [`Vessel::release`], it is taken down with all that was made for it.
#[derive(Debug)]
pub struct Native {
    /// Its first process, traced and stopped; taken out by [`Vessel::first`].
    first: Option<Stopped>,
    pid: kernel::Pid,
    pidfd: PidFd,
    /// Those at the stop.
    registers: Option<Registers>,
    is_init: bool,
    socket: OwnedFd,
    keeper: Option<Keeper>,
    entry: Option<Entry>,
    plan: Plan,
    /// File systems that wait to be mounted.
    detached: Covered,
    changed: Vec<(IpAddr, IpAddr)>,
    quiet: Option<Quiet>,
    warnings: Vec<String>,
    /// Mounts over which others lie, and those that the process holds, until it is stopped.
    covered: Covered,
    held: Vec<inside::Held>,
    released: bool,
}

/// Makes the vessel of a container. The calling process must have one thread.
pub fn make(container: &Container, options: &Options) -> Result<Native> {
    if let Some(name) = &options.name {
        registry::check_name(name)?;
    }
    let id = random_id()?;
    let name = options.name.clone().unwrap_or_else(|| id.clone());
    let own = Path::new(mount::KEPT).join(&name);
    let mut plan = plan(container, options, &name, &own)?;
    let mut making = Making::default();
    let place = if plan.registered() {
        // Not the name alone: another host, a container on this machine, may have the same cgroups and use it.
        plan.groups = cgroup::places(&format!("{name}-{id}"), &container.cgroups);
        making.keeper = Some(Keeper::start(&name)?);
        let changed = Changed {
            old: container.addresses.clone(),
            names: (container.name.clone(), name),
            own_dns: own_dns(container),
            ..Changed::default()
        };
        making.reserve(&plan, id, &options.archive, changed)?
    } else {
        None
    };
    let mut vessel = making.launch(plan, &container.cgroups.limits)?;
    vessel.map_users()?;
    vessel.connect(place.as_ref())?;
    vessel.stop()?;
    if vessel.plan.layers.is_none() {
        vessel.mount_all()?;
    }
    if let Some(place) = &place {
        let new = IpAddr::V4(place.address);
        let old = container
            .addresses
            .iter()
            .filter(|a| a.is_ipv4() && **a != new);
        vessel.changed = old.map(|old| (*old, new)).collect();
    }
    Ok(vessel)
}

/// What has been made while there is no process yet. Each thing is in the registry before it is made, so that the keeper
/// knows of it whenever we die.
#[derive(Default)]
struct Making {
    keeper: Option<Keeper>,
    entry: Option<Entry>,
    warnings: Vec<String>,
}

impl Making {
    /// Enters the name into the registry, with an address, a directory and a cgroup.
    fn reserve(
        &mut self,
        plan: &Plan,
        id: String,
        archive: &str,
        mut changed: Changed,
    ) -> Result<Option<bridge::Place>> {
        let Some(keeper) = &self.keeper else {
            return Ok(None);
        };
        let lock = registry::lock()?;
        let entries = registry::list(&lock)?;
        registry::check_free(&entries, &plan.name)?;
        let netns = plan.kinds.contains(&Kind::Network);
        if netns && Path::new(NETNS).join(&plan.name).exists() {
            return Err(Error::Name(format!(
                "the name {:?} is taken by a network namespace (ip netns); choose another",
                plan.name
            )));
        }
        let entry = self.entry.insert(Entry {
            name: plan.name.clone(),
            id,
            first: None,
            pid: None,
            root: None,
            init: plan.init,
            keeper: keeper.process()?,
            addresses: Vec::new(),
            link: None,
            netns,
            netns_dir: netns && !Path::new(NETNS).exists(),
            cgroups: plan.groups.clone(),
            directory: (!plan.kept.is_empty()).then(|| Path::new(mount::KEPT).join(&plan.name)),
            archive: archive.to_string(),
            created: SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_secs()),
        });
        registry::write(entry)?;
        if netns {
            directory(Path::new(NETNS))?;
        }
        let mut place = None;
        if let Link::Bridge { wanted, .. } = &plan.link {
            let found = bridge::place(&lock, &entries, *wanted, &mut self.warnings)?;
            changed.new = Some(found.address.into());
            changed.gateway = Some(found.gateway.into());
            entry.addresses = vec![found.address.into()];
            entry.link = Some(found.link.clone());
            registry::write(entry)?;
            place = Some(found);
        }
        if let Some(path) = &entry.directory {
            // No container of this name is alive, or it would be taken: what lies there is a leftover.
            let _ = fs::remove_dir_all(path);
            plan.kept.make(path, &changed)?;
        }
        Ok(place)
    }

    /// Forks the first process.
    fn launch(mut self, mut plan: Plan, limits: &Limits) -> Result<Native> {
        let (cgroup, remarks) = if self.entry.is_some() {
            cgroup::make(&mut plan.groups, limits)
        } else {
            Default::default()
        };
        self.warnings.extend(remarks);
        let (socket, theirs) = pair()?;
        let clocks = plan
            .clocks
            .map(|clocks| time::restore(time::offsets(clocks)?));
        let clocks = clocks.transpose()?;
        let birth = Birth {
            kinds: plan.at_birth(),
            pids: plan.host_pid.into_iter().collect(),
            cgroup: cgroup.as_ref().map(|dir| dir.as_fd()),
        };
        let acting = plan.user.as_ref().map(|user| Acting::begin(&maker(user)));
        let acting = acting.transpose()?;
        let forked = born(&birth, plan.host_pid);
        if let Ok(Forked::Child) = forked {
            inside::live(&plan, theirs);
        }
        acting.map_or(Ok(()), Acting::end)?;
        let Forked::Parent(pidfd) = forked? else {
            leave(1); // it lives elsewhere
        };
        drop((clocks, theirs));
        let mut vessel = Native {
            first: None,
            pid: pidfd.pid(),
            pidfd,
            registers: None,
            is_init: plan.init,
            socket,
            keeper: self.keeper.take(),
            entry: self.entry.take(),
            plan,
            detached: Covered::new(),
            changed: Vec::new(),
            quiet: None,
            warnings: std::mem::take(&mut self.warnings),
            covered: Covered::new(),
            held: Vec::new(),
            released: false,
        };
        if let (Some(entry), Some(keeper)) = (&mut vessel.entry, &vessel.keeper) {
            let first = Process::of(vessel.pid)?;
            entry.first = Some(first);
            keeper.watch(&first)?;
            registry::write(entry)?;
        }
        Ok(vessel)
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        undo(&mut self.keeper, &self.entry);
    }
}

/// Has the keeper take everything away; where it cannot, does so itself.
fn undo(keeper: &mut Option<Keeper>, entry: &Option<Entry>) {
    if let Some(mut keeper) = keeper.take() {
        keeper.finish();
    }
    if let Some(entry) = entry
        && registry::read(&entry.name).is_some_and(|now| now.id == entry.id)
        && let Ok(lock) = registry::lock()
    {
        keeper::clean(&lock, entry);
    }
}

/// Forks; a pid of choice may for a moment be held by a process that has just ended.
fn born(birth: &Birth, wanted: Option<kernel::Pid>) -> Result<Forked> {
    let patience = Instant::now() + Duration::from_secs(5);
    loop {
        match (fork(birth), wanted) {
            (Err(e), Some(pid)) if e.raw() == Some(Errno::EEXIST as i32) => {
                let holder = fs::read_to_string(format!("/proc/{pid}/comm"));
                let dead = fs::read_to_string(format!("/proc/{pid}/stat"))
                    .map_or(true, |stat| stat.contains(") Z "));
                if !dead || Instant::now() > patience {
                    return Err(Error::Name(format!(
                        "pid {pid} is taken on this host ({}); end that process, or restore under a name (-n), with \
                         pids of its own",
                        holder.map_or("a process group or session".into(), |h| h
                            .trim()
                            .to_string())
                    )));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            (forked, _) => return Ok(forked?),
        }
    }
}

/// As whom the first process is born.
fn maker(user: &Own) -> Maker {
    Maker {
        uid: user.maker,
        gid: user.group,
        groups: user.groups.clone(),
    }
}

impl Native {
    /// Gives its user namespace the ids that it has, and what else only we may give; then the first process goes on.
    fn map_users(&mut self) -> Result<()> {
        if let Some(user) = &self.plan.user {
            let remarks = inside::set_up_from_outside(&self.plan, user, self.pid)?;
            self.warnings.extend(remarks);
            send(self.socket.as_raw_fd(), &[1], MsgFlags::MSG_NOSIGNAL)
                .map_err(|e| kernel::Error::errno("speak to the vessel's process", e as i32))?;
        }
        Ok(())
    }

    /// Makes the mounts in its mount namespace, where the first process does not.
    fn mount_all(&mut self) -> Result<()> {
        let plan = &self.plan;
        if plan.mounts_itself() {
            return Ok(());
        }
        let root = plan.user.as_ref().map(Own::root);
        let files = root.map(|(uid, gid)| FilesOf::user(uid, gid)).transpose()?;
        let detached = std::mem::take(&mut self.detached);
        let covered = &mut self.covered;
        let users = match plan.user {
            Some(_) => Some(Handle::of(self.pid, self.pid, Kind::User)?),
            None => None,
        };
        let remark = kernel::within(self.pid, &[kernel::Namespace::Mount], || {
            inside::mounts(plan, detached, covered, users.as_ref())
        });
        drop(files);
        self.warnings.extend(remark??);
        Ok(())
    }

    /// Sets up the network while the process sets up the rest; then hears how that went.
    fn connect(&mut self, place: Option<&bridge::Place>) -> Result<()> {
        let connected = self.network(place);
        let mut bytes = [0; inside::MESSAGE];
        let len = loop {
            match recv(self.socket.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                heard => break heard.unwrap_or(0),
            }
        };
        let word = inside::Word::of(bytes.get(..len).unwrap_or_default());
        let (remarks, held) = Result::from(word)?;
        self.warnings.extend(remarks);
        self.held = held;
        connected
    }

    fn network(&mut self, place: Option<&bridge::Place>) -> Result<()> {
        if self.plan.quiet {
            self.quiet = Some(tcp::quiet(self.pid)?);
        }
        match (&self.plan.link, place) {
            (Link::Host, _) => return Ok(()),
            (Link::Bridge { name, mtu, wanted }, Some(place)) => {
                let record = self.plan.network.as_ref();
                let index = super::plan::veths(record)
                    .next()
                    .map_or(0, |link| link.index);
                bridge::attach(place, self.pid, name, *mtu, index)?;
                let uplinks = match wanted {
                    Some(_) => network::Uplinks::Kept,
                    None => network::Uplinks::New,
                };
                if let Some(record) = record {
                    network::restore_under(self.pid, record, uplinks)?;
                }
            }
            (Link::Alone(Some(record)), _) => network::restore(self.pid, record)?,
            (Link::Alone(None) | Link::Bridge { .. }, _) => network::loopback(self.pid)?,
        }
        bind_netns(&self.plan.name, self.pid)
    }

    fn stop(&mut self) -> Result<()> {
        let running = ptrace::seize(self.pid, options::EXITKILL)?;
        running.interrupt()?;
        let stopped = match running.wait()? {
            Event::Stop(stopped) => stopped,
            _ => return Err(kernel::Error::Gone { pid: self.pid }.into()),
        };
        let held = match self.plan.mounts_itself() {
            true => &mut self.covered,
            false => &mut self.detached,
        };
        for (id, number) in std::mem::take(&mut self.held) {
            held.insert(MountId(id), self.pidfd.borrow(number)?);
        }
        self.registers = Some(stopped.registers()?);
        self.first = Some(stopped);
        Ok(())
    }
}

impl Vessel for Native {
    fn first(&mut self) -> Result<Stopped> {
        self.first
            .take()
            .ok_or_else(|| kernel::Error::Gone { pid: self.pid }.into())
    }

    fn pid(&self) -> kernel::Pid {
        self.pid
    }

    fn is_init(&self) -> bool {
        self.is_init
    }

    fn engine(&self) -> Engine {
        Engine::Native
    }

    fn name(&self) -> Option<&str> {
        self.entry.as_ref().map(|e| e.name.as_str())
    }

    fn id(&self) -> String {
        let id = self.entry.as_ref().map(|e| e.id.clone());
        id.unwrap_or_else(|| self.pid.to_string())
    }

    fn addresses(&self) -> &[IpAddr] {
        self.entry.as_ref().map_or(&[], |e| &e.addresses)
    }

    fn changed(&self) -> &[(IpAddr, IpAddr)] {
        &self.changed
    }

    fn quiet(&mut self) -> Option<Quiet> {
        self.quiet.take()
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn layers(&self) -> Option<&Path> {
        self.plan.layers.as_deref()
    }

    fn mount(&mut self) -> Result<()> {
        match self.plan.layers {
            Some(_) => self.mount_all(),
            None => Ok(()), // they are made
        }
    }

    fn covered(&self) -> &Covered {
        &self.covered
    }

    fn settle(&self) -> Result<()> {
        match &self.plan.mounts {
            Some(mounts) => {
                let own = self.plan.base != Base::Host;
                mount::settle(self.pid, mounts, own, &self.covered)
            }
            None => Ok(()),
        }
    }

    fn release(mut self: Box<Self>, root: kernel::Pid, init: Option<Stub>) -> Result<()> {
        if let Some(entry) = &mut self.entry {
            let _lock = registry::lock()?;
            // Another that ended may have left us its duty meanwhile.
            if let Some(now) = registry::read(&entry.name) {
                entry.netns_dir = now.netns_dir;
            }
            entry.pid = Some(root);
            entry.root = Some(Process::of(root)?);
            registry::write(entry)?;
        }
        let first = match init {
            Some(stub) => Some(stub.remove()?),
            None => self.first.take(),
        };
        if let Some(mut first) = first {
            if let Some(registers) = &self.registers {
                first.set_registers(registers)?;
            }
            first.detach(0)?;
        }
        if self.is_init {
            send(self.socket.as_raw_fd(), &[1], MsgFlags::MSG_NOSIGNAL).map_err(|e| {
                kernel::Error::errno("tell the container's init to go on", e as i32)
            })?;
        }
        self.released = true;
        Ok(())
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        let _ = self.pidfd.signal(Signal::SIGKILL as i32);
        reap(self.pid);
        undo(&mut self.keeper, &self.entry);
    }
}

/// Binds the network namespace where `ip netns` looks for it.
fn bind_netns(name: &str, pid: kernel::Pid) -> Result<()> {
    let path = Path::new(NETNS).join(name);
    fs::File::create_new(&path)
        .map_err(|e| kernel::Error::io(format!("make {}", path.display()), &e))?;
    let from = format!("/proc/{pid}/ns/net");
    let none = None::<&str>;
    nix::mount::mount(
        Some(&*from),
        &path,
        none,
        nix::mount::MsFlags::MS_BIND,
        none,
    )
    .map_err(|e| kernel::Error::errno(format!("bind {from} to {}", path.display()), e as i32))?;
    Ok(())
}

/// Whether it was given name servers of its own, instead of those of its host.
fn own_dns(container: &Container) -> bool {
    let inspect = container.configuration.as_ref().map(|c| &c.inspect);
    let servers = inspect.and_then(|inspect| inspect.pointer("/HostConfig/Dns"));
    servers
        .and_then(|s| s.as_array())
        .is_some_and(|s| !s.is_empty())
}

fn directory(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
    Ok(made.map_err(|e| kernel::Error::io(format!("make {}", path.display()), &e))?)
}
