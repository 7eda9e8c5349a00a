//! When each step of a restore is taken, and what happens when one fails: nothing is left.

use crate::finish;
use crate::maker;
use crate::options::Options;
use crate::phase::Phase;
use crate::pour::Pour;
use anyhow::{Context, anyhow};
use image::container::{Container, Engine};
use image::sockets::tcp::Connections;
use image::{Header, Reader, header};
use kernel::identity::FilesOf;
use kernel::namespaces::Kind;
use resources::namespaces::is_own;
use resources::namespaces::network::{self, Uplinks};
use resources::namespaces::time::Clocks;
use resources::namespaces::user;
use resources::sockets::tcp;
use resources::vessel;
use resources::{Blocker, Error};
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::net::IpAddr;
use std::time::{Duration, Instant};
use tool::{Exit, Failure, Progress, Stats};

/// Restores the container.
pub fn run(options: Options) -> anyhow::Result<Exit> {
    let start = Instant::now();
    let mut stats = Stats::new("restore");
    let at_terminal = std::io::stdin().is_terminal()
        || std::io::stdout().is_terminal()
        || std::io::stderr().is_terminal();
    if options.tty && !at_terminal {
        return Err(anyhow!(Failure::new(
            Exit::Usage,
            "--tty needs a terminal to be called from"
        )));
    }
    if options.stays() {
        vessel::hold_signals().map_err(failure)?;
    }
    let progress = Progress::new(&options.common, "restore");
    let mut reader = tool::open(options.image.as_deref(), &progress)?;
    if options.require_seal {
        reader.require_seal()?;
    }
    fits(reader.header()).map_err(failure)?;
    kernel::rlimit::raise_open_files()?;
    let container = container(&mut reader)?;
    let clocks = clocks(reader.header()).map_err(failure)?;
    let connections = options.connections(container.connections);
    let ways = match container.namespaces.network.own() {
        Some(_) if connections == Connections::Established => {
            Some(tcp::quiet_ways(&container.addresses).map_err(failure)?)
        }
        _ => None,
    };
    let mut vessel = timed(&mut stats, &options, Phase::Vessel, || {
        maker::make(&container, &options, clocks)
    })
    .map_err(failure)?;
    network(&mut *vessel, &container).map_err(failure)?;
    let made = Instant::now();
    let silence = Silence {
        quiet: quiet(&mut *vessel, connections).map_err(failure)?,
        taken_as: reader.header().id.clone(),
    };
    drop(ways);
    // The first process was forked while we had one thread; from here on there may be more.
    reader.parallel();
    progress.show();
    // What is made for the container is its own, also where its file systems know no other users.
    let files = files_of(&*vessel).map_err(failure)?;
    let mut pour = Pour::new(vessel, &container, &options).map_err(failure)?;
    receive(&mut reader, &mut pour, &options, &mut stats)?;
    let words = timed(&mut stats, &options, Phase::Finish, || {
        finish::finish(&mut pour)
    })
    .map_err(failure)?;
    let say = |words: &[String]| {
        for word in words.iter().filter(|_| !options.common.quiet) {
            let _ = writeln!(std::io::stderr(), "restore: {word}");
        }
    };
    say(&words);
    say(pour.vessel.warnings());
    if let (Some(frozen), Some(clocks)) = (&pour.frozen, clocks) {
        until(frozen.clocks, clocks, made)?;
    }
    let console = pour.console.take();
    drop(files);
    let running = timed(&mut stats, &options, Phase::Release, || {
        say(filter(&mut pour, &container)?.as_slice());
        release(pour, silence)
    })
    .map_err(failure)?;
    stats.time("restore", start.elapsed());
    stats.count("bytes", progress.bytes());
    progress.done();
    stats.write(options.common.stats.as_deref())?;
    if options.stays() {
        let status = match console {
            Some(console) => console.attend(running.first, running.pid),
            None => vessel::wait_and_forward(running.first, running.pid),
        }
        .map_err(failure)?;
        return Ok(Exit::Status(status.clamp(0, 255) as u8));
    }
    running.print(options.json)?;
    Ok(Exit::Done)
}

/// How long the layers of a container image may have taken to be taken.
const LAYERS: Duration = Duration::from_secs(24 * 3600);

/// Its clocks run since the vessel was made, from where they stood when the image was begun. The container has seen them
/// at the freeze, which was later: they must not show less to it now.
fn until(frozen: header::Clocks, begun: Clocks, made: Instant) -> anyhow::Result<()> {
    let begun = u64::try_from(begun.monotonic).unwrap_or(0);
    let ahead = Duration::from_nanos(frozen.monotonic_ns.saturating_sub(begun));
    if ahead > LAYERS {
        return Err(anyhow!(Failure::new(
            Exit::BadArchive,
            "the image was begun more than a day before its container was frozen"
        )));
    }
    std::thread::sleep(ahead.saturating_sub(made.elapsed()));
    Ok(())
}

/// A container restored.
#[derive(Debug, Serialize)]
struct Running {
    name: Option<String>,
    engine: &'static str,
    id: String,
    pid: kernel::Pid,
    #[serde(skip)]
    first: kernel::Pid,
    addresses: Vec<IpAddr>,
}

impl Running {
    fn print(&self, json: bool) -> anyhow::Result<()> {
        let line = if json {
            serde_json::to_string(self)?
        } else {
            self.id.clone()
        };
        let mut out = std::io::stdout();
        writeln!(out, "{line}")
            .and_then(|()| out.flush())
            .context("cannot print the container's id")
    }
}

/// Reads the container's own record, which has to be first.
fn container(reader: &mut Reader) -> anyhow::Result<Container> {
    match reader.next()? {
        Some(mut entry) if entry.path() == "container.json" => Ok(entry.json()?),
        Some(entry) => Err(entry.damaged("container.json has to come first").into()),
        None => Err(anyhow!(Failure::new(
            Exit::BadArchive,
            "the image holds no container"
        ))),
    }
}

/// Entry after entry to the end, which is reached only when the image has proved whole.
fn receive(
    reader: &mut Reader,
    pour: &mut Pour,
    options: &Options,
    stats: &mut Stats,
) -> anyhow::Result<()> {
    let mut took = Vec::<(Phase, Duration)>::new();
    loop {
        let start = Instant::now();
        let Some(entry) = reader.next()? else {
            break;
        };
        let phase = pour.entry(entry).map_err(failure)?;
        match took.last_mut() {
            Some((last, total)) if *last == phase => *total += start.elapsed(),
            _ => took.push((phase, start.elapsed())),
        }
    }
    let start = Instant::now();
    pour.filled().map_err(failure)?;
    took.push((Phase::Memory, start.elapsed()));
    for (phase, took) in took {
        stats.time(phase.name(), took);
        options
            .common
            .say(format_args!("{phase}: {} µs", took.as_micros()));
    }
    Ok(())
}

/// Files are made for the root of the vessel's user namespace, where it has one of its own.
fn files_of(vessel: &dyn vessel::Vessel) -> resources::Result<Option<FilesOf>> {
    if !is_own(vessel.pid(), Kind::User)? {
        return Ok(None);
    }
    let (uid, gid) = user::own_of(vessel.pid())?.root();
    Ok(Some(FilesOf::user(uid, gid)?))
}

/// What keeps TCP connections silent that are to go on.
struct Silence {
    quiet: Option<tcp::Quiet>,
    /// The id of the container that was taken.
    taken_as: String,
}

fn quiet(
    vessel: &mut dyn vessel::Vessel,
    connections: Connections,
) -> resources::Result<Option<tcp::Quiet>> {
    let pid = vessel.pid();
    match vessel.quiet() {
        None if connections == Connections::Established && is_own(pid, Kind::Network)? => {
            tcp::quiet(pid).map(Some)
        }
        quiet => Ok(quiet),
    }
}

/// In a network that an engine has made: what the container had there besides.
fn network(vessel: &mut dyn vessel::Vessel, container: &Container) -> resources::Result<()> {
    match container.namespaces.network.own() {
        Some(record)
            if vessel.engine() != Engine::Native && is_own(vessel.pid(), Kind::Network)? =>
        {
            network::restore_under(vessel.pid(), record, uplinks(vessel, container))
        }
        _ => Ok(()),
    }
}

/// Whether the links that lead outside have the addresses they had.
pub fn uplinks(vessel: &dyn vessel::Vessel, container: &Container) -> Uplinks {
    let here = vessel.addresses();
    let kept = |address: &IpAddr| address.is_ipv6() || here.contains(address);
    match container.addresses.iter().all(kept) {
        true => Uplinks::Kept,
        false => Uplinks::New,
    }
}

/// The packet filter of the container, where it has a network of its own again: from here on it counts. A word for those who
/// restore.
fn filter(pour: &mut Pour, container: &Container) -> resources::Result<Option<String>> {
    let pid = pour.vessel.pid();
    match container.namespaces.network.own() {
        Some(record) if is_own(pid, Kind::Network)? => {
            network::resume(pid, record, uplinks(&*pour.vessel, container))
        }
        _ => Ok(None),
    }
}

fn release(mut pour: Pour, silence: Silence) -> resources::Result<Running> {
    let root = pour.tree.as_ref().map_or(0, |tree| tree.root);
    let root_pid = pour.target.process(root)?.pid;
    let standing = finish::standing(&mut pour)?;
    let running = Running {
        name: pour.vessel.name().map(str::to_string),
        engine: pour.vessel.engine().name(),
        id: pour.vessel.id(),
        pid: root_pid,
        first: pour.vessel.pid(),
        addresses: pour.vessel.addresses().to_vec(),
    };
    let waiting = pour.files.as_mut().map(|files| files.waiting());
    pour.vessel.release(root_pid, pour.init.take())?;
    if let Some(waiting) = waiting {
        waiting.go_on(silence.quiet, root_pid, &silence.taken_as)?;
    }
    standing.go()?;
    Ok(running)
}

/// How far the difference between real time and monotonic time may drift within one boot of one machine.
const DRIFT: i128 = 1_000_000_000;

/// What the clocks are to show, where the image comes from another boot or another machine: then CLOCK_MONOTONIC, which
/// programs compare deadlines with, must go on from where it stood.
fn clocks(header: &Header) -> resources::Result<Option<Clocks>> {
    let then = header.clocks;
    let now = kernel::host::clocks()?;
    let base = |realtime: u64, monotonic: u64| i128::from(realtime) - i128::from(monotonic);
    let drift = base(now.realtime, now.monotonic) - base(then.realtime_ns, then.monotonic_ns);
    Ok((drift.abs() > DRIFT).then_some(Clocks {
        monotonic: then.monotonic_ns as i64,
        boottime: then.boottime_ns as i64,
    }))
}

/// What of this host does not fit the image.
fn fits(header: &Header) -> Result<(), Error> {
    let names = kernel::host::names()?;
    let mut blockers = Vec::new();
    let mut say = |what: String, remedy: &str| {
        blockers.push(Blocker {
            pid: 0,
            place: "this host".into(),
            what,
            remedy: remedy.into(),
        });
    };
    if header.host.architecture != names.architecture {
        say(
            format!(
                "it is of architecture {}, the image of {}",
                names.architecture, header.host.architecture
            ),
            "restore on a host of that architecture",
        );
    }
    if header.host.page_size != kernel::host::page_size() {
        say(
            format!(
                "its pages have {} bytes, those of the image {}",
                kernel::host::page_size(),
                header.host.page_size
            ),
            "restore on a kernel with such pages",
        );
    }
    if blockers.is_empty() {
        Ok(())
    } else {
        Err(Error::Blocked(blockers))
    }
}

fn timed<T>(stats: &mut Stats, options: &Options, phase: Phase, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    let took = start.elapsed();
    stats.time(phase.name(), took);
    options
        .common
        .say(format_args!("{phase}: {} µs", took.as_micros()));
    result
}

/// An error of a room, with the exit code that follows from it.
fn failure(error: Error) -> anyhow::Error {
    anyhow!(Failure::new(
        Exit::Status(error.exit_code()),
        error.to_string()
    ))
}
