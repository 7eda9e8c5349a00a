//! When each step of a checkpoint is taken, and what happens when one fails: the container runs on.

use crate::hand_over;
use crate::header::{clocks, header};
use crate::options::Options;
use crate::phase::Phase;
use crate::take::{self, Taken};
use crate::target::{self, Found};
use anyhow::{Context, anyhow};
use image::Writer;
use image::container::Container;
use image::record::{self, CONTAINER, FROZEN, GROUPS, QUEUES, SYSV};
use image::sockets::tcp::Connections;
use resources::namespaces::nested;
use resources::sockets::tcp::Still;
use resources::tree::{self, Frozen};
use resources::{Error, container, engine, ipc, memory, rootfs};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use tool::{Common, Exit, Failure, Progress, Stats};

/// Takes the container, or ends a hand-over.
pub fn run(options: Options) -> anyhow::Result<Exit> {
    let mut clock = Clock::new(&options.common);
    let mut found = clock.phase(Phase::Resolve, || match options.latest {
        true => target::latest(),
        false => target::find(&options.target),
    })?;
    found.connections = options.connections();
    found.ext_unix = options.ext_unix;
    found.outside = options.mount.clone();
    if options.thaw {
        hand_over::thaw(&found).map_err(failure)?;
        return Ok(Exit::Done);
    }
    if options.kill {
        hand_over::kill(&found).map_err(failure)?;
        return Ok(Exit::Done);
    }
    let output = tool::output()?;
    kernel::rlimit::raise_open_files()?;
    clock
        .phase(Phase::Blockers, || {
            take::refuse(take::blockers(&found, options.files())?)
        })
        .map_err(failure)?;
    // From here on tasks are held: by a child of ours, so that who kills us kills nobody who must still let them go.
    let number = output.as_raw_fd();
    let status = kernel::guardian::guarded(number, move || {
        tool::ended::<Options>(hold(&options, &found, output, clock))
    })?;
    Ok(Exit::Status(status))
}

/// Freezes the container, takes it, and ends it or lets it go.
fn hold(
    options: &Options,
    found: &Found,
    output: std::fs::File,
    mut clock: Clock,
) -> anyhow::Result<Exit> {
    let progress = Progress::new(&options.common, "checkpoint");
    let begun = clock.phase(Phase::Layers, || {
        Begun::new(found, options, progress.counted(output))
    })?;
    let mut still = clock
        .phase(Phase::Still, || still(found))
        .map_err(failure)?;
    let start = Instant::now();
    let mut frozen = clock
        .phase(Phase::Freeze, || {
            tree::freeze(found.root, found.namespace.as_deref(), found.init)
        })
        .map_err(failure)?;
    frozen.source.connections = found.connections;
    frozen.source.ext_unix = found.ext_unix;
    let streamed = hush(&mut still, &mut frozen)
        .map_err(failure)
        .and_then(|()| stream(found, options, &mut frozen, begun, &mut clock))
        .and_then(|()| match &mut still {
            Some(still) if options.leave_frozen => still.stay().map_err(failure),
            _ => Ok(()),
        });
    if let Err(error) = streamed {
        let waiting = still.as_mut().map_or(Ok(()), Still::let_wait);
        frozen
            .thaw()
            .map_err(failure)
            .context("cannot let the container run on")?;
        waiting
            .map_err(failure)
            .with_context(|| format!("{error:#}"))?;
        progress.done();
        return Err(error);
    }
    clock.phase(Phase::Afterwards, || {
        afterwards(options, found, frozen, still)
    })?;
    clock.stats.time("frozen", start.elapsed());
    clock.stats.count("bytes", progress.bytes());
    progress.done();
    clock.stats.write(options.common.stats.as_deref())?;
    Ok(Exit::Done)
}

/// Everything that happens while the container stands still.
fn stream(
    found: &Found,
    options: &Options,
    frozen: &mut Frozen,
    begun: Begun<impl Write>,
    clock: &mut Clock,
) -> anyhow::Result<()> {
    let Taken {
        tree,
        files,
        processes,
        layouts,
        inodes,
        sysv,
        groups,
        words,
        families,
    } = clock
        .phase(Phase::Collect, || take::take(found, frozen))
        .map_err(failure)?;
    if !options.common.quiet {
        for word in words {
            let _ = writeln!(std::io::stderr(), "checkpoint: {word}");
        }
    }
    let mut writer = clock.phase(Phase::Records, || -> anyhow::Result<_> {
        let container = container::dump(&found.subject(options.files())).map_err(failure)?;
        let mut writer = begun.go_on(found, &container)?;
        rootfs::dump(found.root, &container, &mut writer).map_err(failure)?;
        let queues = ipc::dump(found.root, &mut frozen.source).map_err(failure)?;
        if !queues.queues.is_empty() {
            writer.record(QUEUES, &queues)?;
        }
        if !groups.is_empty() {
            writer.record(GROUPS, &groups)?;
        }
        if !sysv.is_empty() {
            writer.record(SYSV, &sysv)?;
        }
        writer.record("tree.json", &tree)?;
        for (family, layouts) in &families {
            writer.record(&record::family(family.pid), family)?;
            for layout in layouts {
                memory::write_pages(layout, &mut writer).map_err(failure)?;
            }
        }
        let inner = nested::trees(&tree.nested, &|id| frozen.source.sights.pid(id));
        rootfs::dump_inner(&inner, &mut writer).map_err(failure)?;
        writer.record("files.json", &files.record)?;
        files.write_blobs(&mut writer).map_err(failure)?;
        writer.record("memory.json", &inodes.dump())?;
        inodes.write_pages(&mut writer).map_err(failure)?;
        for process in &processes {
            writer.record(&format!("process/{}.json", process.pid), process)?;
        }
        Ok(writer)
    })?;
    clock.phase(Phase::Memory, || -> anyhow::Result<()> {
        for layout in &layouts {
            memory::write_pages(layout, &mut writer).map_err(failure)?;
        }
        writer.finish()?;
        Ok(())
    })
}

/// An image that is being written.
enum Begun<W: Write> {
    /// It has nothing yet.
    Empty(W),
    /// The layers of a container's image are in it: they came while the container still ran, for nothing changes in them.
    Layers(Box<Writer<W>>, Box<Container>),
}

impl<W: Write> Begun<W> {
    fn new(found: &Found, options: &Options, out: W) -> anyhow::Result<Self> {
        let container = container::dump(&found.subject(options.files())).map_err(failure)?;
        if !rootfs::has_layers(&container) {
            return Ok(Begun::Empty(out));
        }
        let mut writer = Writer::new(out, &header(found)?)?;
        writer.record(CONTAINER, &container)?;
        rootfs::dump_layers(found.root, &mut writer).map_err(failure)?;
        Ok(Begun::Layers(Box::new(writer), Box::new(container)))
    }

    /// With the frozen container as it was found.
    fn go_on(self, found: &Found, container: &Container) -> anyhow::Result<Writer<W>> {
        match self {
            Begun::Empty(out) => {
                let mut writer = Writer::new(out, &header(found)?)?;
                writer.record(CONTAINER, container)?;
                Ok(writer)
            }
            Begun::Layers(mut writer, before) if *before == *container => {
                writer.record(FROZEN, &record::Frozen { clocks: clocks()? })?;
                Ok(*writer)
            }
            Begun::Layers(..) => Err(anyhow!(
                "the container's mounts, network or limits changed while the layers of its image were taken; try again"
            )),
        }
    }
}

/// Where connections are to travel, none may be half made.
fn still(found: &Found) -> resources::Result<Option<Still>> {
    match found.connections {
        Connections::Established => Still::begin(&take::holders(found)?, &found.id).map(Some),
        Connections::None | Connections::Closed => Ok(None),
    }
}

fn hush(still: &mut Option<Still>, frozen: &mut Frozen) -> resources::Result<()> {
    let holders = frozen.source.holders();
    if let Some(still) = still {
        frozen.source.clients = still.hush(&holders)?;
    }
    Ok(())
}

fn afterwards(
    options: &Options,
    found: &Found,
    frozen: Frozen,
    mut still: Option<Still>,
) -> anyhow::Result<()> {
    if options.leave_running {
        let waiting = still.as_mut().map_or(Ok(()), Still::let_wait);
        frozen.thaw().and(waiting).map_err(failure)
    } else if options.leave_frozen {
        hand_over::leave_frozen(found, frozen).map_err(failure)
    } else {
        let end = || match &found.owned {
            Some(owned) => engine::stop(owned, frozen),
            None => frozen.kill(),
        };
        match still {
            Some(still) => still.end(end),
            None => end(),
        }
        .map_err(failure)
    }
}

/// An error of a room, with the exit code that follows from it.
pub fn failure(error: Error) -> anyhow::Error {
    anyhow!(Failure::new(
        Exit::Status(error.exit_code()),
        error.to_string()
    ))
}

/// Times the phases.
pub struct Clock {
    common: Common,
    /// Where they are kept.
    pub stats: Stats,
}

impl Clock {
    fn new(common: &Common) -> Self {
        Clock {
            common: common.clone(),
            stats: Stats::new("checkpoint"),
        }
    }

    fn phase<T>(&mut self, phase: Phase, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        let took: Duration = start.elapsed();
        self.stats.time(phase.name(), took);
        self.common
            .say(format_args!("{phase}: {} µs", took.as_micros()));
        result
    }
}
