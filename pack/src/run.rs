//! The command line and what it does.

use image::{ArchiveWriter, Compression};
use std::path::PathBuf;
use tool::{Common, Exit, Progress, Stats};

/// Compress and seal an image: from standard input, or from DIR, to standard output
#[derive(Debug, clap::Parser)]
#[command(
    name = "pack",
    version,
    after_help = "Exit status: 0 done, 1 failed, 2 bad usage, 3 the input is no image or a damaged one.\n\n\
    checkpoint web | pack > web.ckpt"
)]
pub struct Options {
    /// The directory of an unpacked image (a file is taken too); standard input if not given
    #[arg(value_name = "DIR")]
    pub input: Option<PathBuf>,

    /// Compression level of zstd: 1 to 22 (above 15 with some 100 MB for each core), below 0 for speed, 0 to store
    #[arg(
        short,
        long,
        default_value_t = Compression::default().level,
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i32).range(i64::from(Compression::MIN)..=i64::from(Compression::MAX))
    )]
    pub level: i32,

    /// Options that every tool has.
    #[command(flatten)]
    pub common: Common,
}

/// Packs.
pub fn run(options: Options) -> anyhow::Result<Exit> {
    let mut stats = Stats::new("pack");
    let level = options.level;
    let output = tool::output()?;
    let progress = Progress::new(&options.common, "packing");
    let written = Progress::new(
        &Common {
            quiet: true,
            ..Common::default()
        },
        "",
    );
    progress.show();
    let mut reader = tool::open(options.input.as_deref(), &progress)?;
    reader.parallel();
    let writer = ArchiveWriter::new(written.counted(output), Compression { level });
    reader.set_tap(Box::new(writer))?;
    while reader.next()?.is_some() {}
    progress.done();
    let entries = reader.entries();
    let (bytes, packed) = (reader.offset(), written.bytes());
    options.common.say(format_args!(
        "{entries} entries, {bytes} bytes packed into {packed}"
    ));
    stats.count("entries", entries);
    stats.count("image_bytes", bytes);
    stats.count("archive_bytes", packed);
    stats.write(options.common.stats.as_deref())?;
    Ok(Exit::Done)
}
