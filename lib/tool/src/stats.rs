//! `--stats FILE`: where the time went, for machines.

use anyhow::Context;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Timings and counts of one run.
#[derive(Debug, Serialize)]
pub struct Stats {
    tool: &'static str,
    version: &'static str,
    microseconds: BTreeMap<&'static str, u64>,
    counts: BTreeMap<&'static str, u64>,
    #[serde(skip)]
    start: Instant,
}

impl Stats {
    /// Starts the clock of a tool.
    pub fn new(tool: &'static str) -> Stats {
        Stats {
            tool,
            version: env!("CARGO_PKG_VERSION"),
            microseconds: BTreeMap::new(),
            counts: BTreeMap::new(),
            start: Instant::now(),
        }
    }

    /// Adds the time a phase took.
    pub fn time(&mut self, phase: &'static str, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        *self.microseconds.entry(phase).or_default() += took;
    }

    /// Runs a phase and adds the time it took.
    pub fn phase<T>(&mut self, phase: &'static str, run: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = run();
        self.time(phase, start.elapsed());
        result
    }

    /// Sets a count, as of bytes or processes.
    pub fn count(&mut self, what: &'static str, count: u64) {
        self.counts.insert(what, count);
    }

    /// Adds the time since the start as `total` and writes all to `path`, if one is wanted; a file made for it has mode 0600.
    pub fn write(mut self, path: Option<&Path>) -> anyhow::Result<()> {
        let Some(path) = path else {
            return Ok(());
        };
        self.time("total", self.start.elapsed());
        let mut json = serde_json::to_vec(&self)?;
        json.push(b'\n');
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options
            .open(path)
            .and_then(|mut file| file.write_all(&json))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}
