//! The command line and what it does.

use crate::contents::Contents;
use crate::{host, pass, show};
use image::{Form, Reader};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use tool::{Common, Exit, Failure, Progress, Stats};

/// Check an archive or image: is it whole, is it authentic, and would it run here?
#[derive(Debug, clap::Parser)]
#[command(
    name = "verify",
    version,
    after_help = "Exit status: 0 it is whole (and, with --host, would run here), 1 failed, 2 bad usage, 3 it is damaged, \
    cut short, tampered with, or of an unknown version, 4 this host lacks something it needs.\n\n\
    checkpoint web | pack | verify --pass | ssh there 'unpack | restore'"
)]
pub struct Options {
    /// An archive, an image, or the directory of an unpacked image; standard input if not given
    #[arg(value_name = "FILE|DIR")]
    pub input: Option<PathBuf>,

    /// Show what is inside: process tree, memory, descriptors, sockets, mounts
    #[arg(short, long, conflicts_with = "pass")]
    pub show: bool,

    /// Write the verdict, and what --show shows, as JSON
    #[arg(short, long)]
    pub json: bool,

    /// Copy standard input to standard output while checking it; of a bad image the end is held back
    #[arg(short, long, conflicts_with = "input")]
    pub pass: bool,

    /// Compare architecture, kernel and processor with this host
    #[arg(long)]
    pub host: bool,

    /// Refuse an image that has no seal
    #[arg(long)]
    pub require_seal: bool,

    /// Options that every tool has.
    #[command(flatten)]
    pub common: Common,
}

/// What was found.
#[derive(Serialize)]
struct Verdict<'a> {
    name: &'a str,
    id: &'a str,
    program: &'a str,
    created: &'a str,
    host: &'a image::header::Host,
    form: &'static str,
    sealed: bool,
    entries: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    contents: Option<&'a Contents>,
}

/// Verifies.
pub fn run(options: Options) -> anyhow::Result<Exit> {
    let mut stats = Stats::new("verify");
    let progress = Progress::new(&options.common, "verifying");
    let (mut reader, end) = if options.pass {
        let output = tool::output()?;
        let (input, end) = pass::Passing::new(progress.counted(tool::input()?), output);
        (Reader::open(input)?, Some(end))
    } else {
        (tool::open(options.input.as_deref(), &progress)?, None)
    };
    if options.require_seal {
        reader.require_seal()?;
    }
    progress.show();
    reader.parallel();
    let mut contents = Contents::default();
    while let Some(entry) = reader.next()? {
        contents.take(entry)?;
    }
    contents.finish();
    let missing = match options.host {
        true => {
            let (host, cpu) = host::host()?;
            Some(reader.header().lacks(&host, &cpu))
        }
        false => None,
    };
    match &end {
        // What follows an image in a pipe is not waited for: it may be the quiet of an open line.
        Some(end) => end.release()?,
        None => reader.expect_nothing_more()?,
    }
    progress.done();

    let header = reader.header();
    let verdict = Verdict {
        name: &header.name,
        id: &header.id,
        program: &header.program,
        created: &header.created.rfc3339,
        host: &header.host,
        form: form(reader.form()),
        sealed: reader.sealed(),
        entries: reader.entries(),
        bytes: reader.offset(),
        missing: missing.as_deref(),
        contents: options.show.then_some(&contents),
    };
    let mut text = words(&options, &verdict)?;
    if options.show && !options.json {
        text.push_str(&show::text(&contents));
    }
    if options.pass {
        if !options.common.quiet && (options.json || options.common.verbose > 0) {
            std::io::stderr().write_all(text.as_bytes())?;
        }
    } else if !options.common.quiet || options.show || options.json {
        std::io::stdout()
            .write_all(text.as_bytes())
            .map_err(image::Error::Write)?;
    }
    stats.count("entries", verdict.entries);
    stats.count("image_bytes", verdict.bytes);
    stats.count("input_bytes", progress.bytes());
    stats.write(options.common.stats.as_deref())?;
    match missing {
        Some(missing) if !missing.is_empty() => {
            let what = format!(
                "it is whole, but would not run here:\n  {}",
                missing.join("\n  ")
            );
            Err(Failure::new(Exit::Impossible, what).into())
        }
        _ => Ok(Exit::Done),
    }
}

fn form(form: Form) -> &'static str {
    match form {
        Form::Bare => "image",
        Form::Compressed => "compressed image",
        Form::Archive => "archive",
        Form::Directory => "directory",
    }
}

/// The verdict for a reader of one kind or the other.
fn words(options: &Options, verdict: &Verdict<'_>) -> anyhow::Result<String> {
    let mut text = String::new();
    if options.json {
        writeln!(text, "{}", serde_json::to_string(verdict)?)?;
        return Ok(text);
    }
    let seal = match verdict.sealed {
        true => "whole and sealed",
        false => "whole, without a seal",
    };
    writeln!(
        text,
        "{}: {seal}; {} with {} entries, {}",
        show::plain(verdict.name),
        verdict.form,
        verdict.entries,
        show::size(verdict.bytes)
    )?;
    writeln!(
        text,
        "taken at {} on {} ({}, Linux {}) by {}",
        show::plain(verdict.created),
        show::plain(&verdict.host.hostname),
        show::plain(&verdict.host.architecture),
        show::plain(&verdict.host.kernel),
        show::plain(verdict.program)
    )?;
    if verdict.missing.is_some_and(<[String]>::is_empty) {
        writeln!(text, "this host has all it needs")?;
    }
    Ok(text)
}
