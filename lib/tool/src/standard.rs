//! Data on standard input and output, and images wherever they are.

use crate::exit::{Exit, Failure};
use crate::progress::Progress;
use anyhow::Context;
use image::Reader;
use nix::fcntl::{FcntlArg, fcntl};
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::Path;

/// What an image may be given as, for help texts.
pub const FORMS: &str = "an archive, an image, or the directory of an unpacked image";

/// Bytes in a pipe: every transfer through the default 64 KiB costs a switch between processes.
const PIPE: i32 = 1 << 20;

/// Standard input as a file without a buffer; a terminal is refused, as gzip does.
pub fn input() -> anyhow::Result<File> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Err(Failure::new(
            Exit::Usage,
            "standard input is a terminal: redirect or pipe the data into it",
        )
        .into());
    }
    whole(stdin.as_fd()).context("cannot read standard input")
}

/// Standard output as a file without a buffer; a terminal is refused, as gzip does.
pub fn output() -> anyhow::Result<File> {
    let stdout = io::stdout();
    if stdout.is_terminal() {
        return Err(Failure::new(
            Exit::Usage,
            "standard output is a terminal and the data is binary: redirect or pipe it",
        )
        .into());
    }
    whole(stdout.as_fd()).context("cannot write standard output")
}

fn whole(fd: impl AsFd) -> io::Result<File> {
    // Fails on what is not a pipe, and beyond the user's share of pipe memory: then it stays small.
    let _ = fcntl(fd.as_fd(), FcntlArg::F_SETPIPE_SZ(PIPE));
    Ok(File::from(fd.as_fd().try_clone_to_owned()?))
}

/// Opens an image: standard input for none or `-`, otherwise a file or the directory of an unpacked one.
pub fn open(path: Option<&Path>, progress: &Progress) -> anyhow::Result<Reader> {
    let Some(path) = path.filter(|path| *path != Path::new("-")) else {
        return Ok(Reader::open(progress.counted(input()?))?);
    };
    let shown = path.display();
    let metadata = std::fs::metadata(path).with_context(|| format!("cannot open {shown}"))?;
    let reader = if metadata.is_dir() {
        Reader::open_directory(path)
    } else {
        let file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
        progress.expect(metadata.len());
        Reader::open(progress.counted(file))
    };
    reader.with_context(|| format!("cannot read {shown}"))
}
