//! Progress on standard error, when that is a terminal.

use crate::command::Common;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts bytes, and shows them to a person who looks.
#[derive(Clone)]
pub struct Progress {
    bar: ProgressBar,
    bytes: Arc<AtomicU64>,
}

impl Progress {
    /// Starts to show `verb`, unless nobody looks or `-q` forbids it.
    pub fn new(common: &Common, verb: &'static str) -> Progress {
        let shown = io::stderr().is_terminal() && !common.quiet;
        let bar = if shown {
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10))
        } else {
            ProgressBar::hidden()
        };
        if let Ok(style) =
            ProgressStyle::with_template("{msg} {binary_bytes} ({binary_bytes_per_sec}) {elapsed}")
        {
            bar.set_style(style);
        }
        bar.set_message(verb);
        Progress {
            bar,
            bytes: Arc::default(),
        }
    }

    /// Shows also that time passes while no bytes do. Starts a thread.
    pub fn show(&self) {
        if !self.bar.is_hidden() {
            self.bar.enable_steady_tick(Duration::from_millis(200));
        }
    }

    /// Shows how much is left of `len` bytes.
    pub fn expect(&self, len: u64) {
        if let Ok(style) = ProgressStyle::with_template(
            "{msg} [{wide_bar}] {binary_bytes}/{binary_total_bytes} ({binary_bytes_per_sec}) {eta}",
        ) {
            self.bar.set_style(style.progress_chars("=> "));
        }
        self.bar.set_length(len);
    }

    /// Counts what goes through `inner`.
    pub fn counted<T>(&self, inner: T) -> Counted<T> {
        Counted {
            inner,
            progress: self.clone(),
        }
    }

    /// Counts bytes that went another way.
    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if !self.bar.is_hidden() {
            self.bar.inc(bytes);
        }
    }

    /// Bytes counted so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Takes it off the screen.
    pub fn done(&self) {
        self.bar.finish_and_clear();
    }
}

/// A stream whose bytes are counted.
pub struct Counted<T> {
    inner: T,
    progress: Progress,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buf)?;
        self.progress.add(len as u64);
        Ok(len)
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.inner.write(bytes)?;
        self.progress.add(len as u64);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
