//! `--pass`: what comes in goes out, but for its end, which is held back until all was found right.

use image::Error;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes held back: every form of image ends with fewer that it cannot be without.
const HELD: usize = 1024;

/// Copies what is read from `input` to an output.
pub struct Passing<R> {
    input: R,
    end: End,
}

/// The held end of what was passed.
#[derive(Clone)]
pub struct End(Arc<Mutex<Output>>);

struct Output {
    file: std::fs::File,
    held: Vec<u8>,
}

impl<R: Read> Passing<R> {
    /// Starts to pass `input` on.
    pub fn new(input: R, file: std::fs::File) -> (Passing<R>, End) {
        let end = End(Arc::new(Mutex::new(Output {
            file,
            held: Vec::new(),
        })));
        (
            Passing {
                input,
                end: end.clone(),
            },
            end,
        )
    }
}

impl<R: Read> Read for Passing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.input.read(buf)?;
        let mut output = self.end.0.lock().unwrap_or_else(PoisonError::into_inner);
        let read = buf.get(..len).unwrap_or_default();
        output
            .pass(read)
            .map_err(|error| io::Error::other(Error::Write(error)))?;
        Ok(len)
    }
}

impl Output {
    fn pass(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(now) = bytes.len().checked_sub(HELD) else {
            self.held.extend_from_slice(bytes);
            let over = self.held.len().saturating_sub(HELD);
            return self
                .file
                .write_all(&self.held.drain(..over).collect::<Vec<_>>());
        };
        let (now, later) = bytes.split_at(now);
        self.file.write_all(&self.held)?;
        self.file.write_all(now)?;
        self.held.clear();
        self.held.extend_from_slice(later);
        Ok(())
    }
}

impl End {
    /// Lets the end go: all was right.
    pub fn release(&self) -> image::Result<()> {
        let mut output = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = std::mem::take(&mut output.held);
        output.file.write_all(&held).map_err(Error::Write)
    }
}
