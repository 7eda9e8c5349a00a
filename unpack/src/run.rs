//! The command line and what it does.

use image::{CopyWriter, DirectoryWriter, Tap};
use std::path::PathBuf;
use tool::{Common, Exit, Progress, Stats};

/// Check an archive and turn it into an image: on standard output, or as files in a directory
#[derive(Debug, clap::Parser)]
#[command(
    name = "unpack",
    version,
    after_help = "Exit status: 0 done, 1 failed, 2 bad usage, 3 the archive is damaged, cut short, tampered with, \
    or of an unknown version.\n\nssh there 'unpack | restore' < web.ckpt"
)]
pub struct Options {
    /// The archive; standard input if not given
    #[arg(value_name = "FILE")]
    pub input: Option<PathBuf>,

    /// Write the image as files into DIR, which is made (mode 0700) or empty
    #[arg(short = 'C', long, value_name = "DIR")]
    pub directory: Option<PathBuf>,

    /// Refuse an image that has no seal
    #[arg(long)]
    pub require_seal: bool,

    /// Options that every tool has.
    #[command(flatten)]
    pub common: Common,
}

/// Unpacks.
pub fn run(options: Options) -> anyhow::Result<Exit> {
    let mut stats = Stats::new("unpack");
    // Refuses a terminal before anything is read.
    let tap: Box<dyn FnOnce() -> image::Result<Box<dyn Tap>>> = match options.directory {
        Some(directory) => Box::new(move || Ok(Box::new(DirectoryWriter::create(&directory)?))),
        None => {
            let output = tool::output()?;
            Box::new(move || Ok(Box::new(CopyWriter::new(output))))
        }
    };
    let progress = Progress::new(&options.common, "unpacking");
    progress.show();
    let mut reader = tool::open(options.input.as_deref(), &progress)?;
    reader.parallel();
    if options.require_seal {
        reader.require_seal()?;
    }
    reader.set_tap(tap()?)?;
    while reader.next()?.is_some() {}
    progress.done();
    let entries = reader.entries();
    let (bytes, read) = (reader.offset(), progress.bytes());
    let sealed = if reader.sealed() {
        "the seal is right"
    } else {
        "no seal"
    };
    options.common.say(format_args!(
        "{entries} entries, {bytes} bytes unpacked, {sealed}"
    ));
    stats.count("entries", entries);
    stats.count("image_bytes", bytes);
    stats.count("input_bytes", read);
    stats.write(options.common.stats.as_deref())?;
    Ok(Exit::Done)
}
