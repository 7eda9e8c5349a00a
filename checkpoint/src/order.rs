//! When each step of a checkpoint is taken, and what happens when one fails: the container runs on.

use crate::hand_over;
use crate::header::header;
use crate::options::Options;
use crate::phase::Phase;
use crate::take::{self, Taken};
use crate::target::{self, Found};
use anyhow::{Context, anyhow};
use image::Writer;
use resources::tree::{self, Frozen};
use resources::{Error, container, engine, memory, rootfs};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use tool::{Common, Exit, Failure, Progress, Stats};

/// Takes the container, or ends a hand-over.
pub fn run(options: Options) -> anyhow::Result<Exit> {
    let mut clock = Clock::new(&options.common);
    let found = clock.phase(Phase::Resolve, || match options.latest {
        true => target::latest(),
        false => target::find(&options.target),
    })?;
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
    let start = Instant::now();
    let mut frozen = clock
        .phase(Phase::Freeze, || {
            tree::freeze(found.root, found.namespace.as_deref(), found.init)
        })
        .map_err(failure)?;
    let out = progress.counted(output);
    if let Err(error) = stream(found, options, &mut frozen, out, &mut clock) {
        frozen
            .thaw()
            .map_err(failure)
            .context("cannot let the container run on")?;
        progress.done();
        return Err(error);
    }
    clock.phase(Phase::Afterwards, || afterwards(options, found, frozen))?;
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
    out: impl Write,
    clock: &mut Clock,
) -> anyhow::Result<()> {
    let Taken {
        tree,
        files,
        processes,
        layouts,
        inodes,
    } = clock
        .phase(Phase::Collect, || take::take(found, frozen))
        .map_err(failure)?;
    let mut writer = clock.phase(Phase::Records, || -> anyhow::Result<_> {
        let container = container::dump(&found.subject(options.files())).map_err(failure)?;
        let mut writer = Writer::new(out, &header(found)?)?;
        writer.record("container.json", &container)?;
        rootfs::dump(found.root, &container, &mut writer).map_err(failure)?;
        writer.record("tree.json", &tree)?;
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

fn afterwards(options: &Options, found: &Found, frozen: Frozen) -> anyhow::Result<()> {
    if options.leave_running {
        frozen.thaw().map_err(failure)
    } else if options.leave_frozen {
        hand_over::leave_frozen(found, frozen).map_err(failure)
    } else {
        match &found.owned {
            Some(owned) => engine::stop(owned, frozen),
            None => frozen.kill(),
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
