//! Where the bytes of an image come from, before they are entries.

use crate::error::Fault;
use std::fmt;
use std::io::{self, BufReader, Read};

/// What a run of bytes of the image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Headers, PAX records, padding, and the blocks after the last entry.
    Frame,
    /// Content of an entry.
    Content,
}

/// Bytes of an uncompressed image in order, in memory that does not grow with it.
pub(crate) trait Source: Send {
    /// From here on it may use threads of its own.
    fn parallel(&mut self) {}

    /// Bytes that are there and not yet consumed; waits for some, and gives none at the end.
    fn fill(&mut self) -> Result<&[u8], Fault>;

    /// Takes the first `len` of the filled bytes, which are `part` of the image.
    fn consume(&mut self, len: usize, part: Part);

    /// Reads content into `buf` and consumes it; nothing at the end.
    fn read(&mut self, buf: &mut [u8]) -> Result<usize, Fault> {
        let filled = self.fill()?;
        let len = filled.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..len), filled.get(..len)) {
            to.copy_from_slice(from);
        }
        self.consume(len, Part::Content);
        Ok(len)
    }

    /// Says that the entry at `offset` has been consumed, padding and all.
    fn entry(&mut self, _path: &str, _offset: u64, _size: u64) {}

    /// Called when the last byte of the image was consumed: checks the seal if there is one, and
    /// says whether there is.
    fn finish(&mut self) -> Result<bool, Fault>;

    /// Whether nothing follows. Waits for the end of the input.
    fn exhausted(&mut self) -> Result<bool, Fault>;
}

/// Bytes read at once, and kept.
const AHEAD: usize = 1 << 20;
/// Reads at least this long go past the buffer.
const DIRECT: usize = 64 << 10;

/// An image that is not compressed, or that a decoder beneath makes so.
pub(crate) struct Plain<R> {
    input: R,
    buffer: Vec<u8>,
    at: usize,
    end: usize,
}

impl<R: Read + Send> Plain<R> {
    pub fn new(input: R) -> Plain<R> {
        Plain {
            input,
            buffer: vec![0; AHEAD],
            at: 0,
            end: 0,
        }
    }

    fn ahead(&self) -> &[u8] {
        self.buffer.get(self.at..self.end).unwrap_or_default()
    }
}

/// One read that a signal does not end.
pub(crate) fn read_some(input: &mut impl Read, buf: &mut [u8]) -> Result<usize, Fault> {
    loop {
        match input.read(buf) {
            Ok(len) => return Ok(len),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error.into()),
        }
    }
}

impl<R: Read + Send> Source for Plain<R> {
    fn fill(&mut self) -> Result<&[u8], Fault> {
        if self.at == self.end {
            self.at = 0;
            self.end = 0;
            self.end = read_some(&mut self.input, &mut self.buffer)?;
        }
        Ok(self.ahead())
    }

    fn consume(&mut self, len: usize, _part: Part) {
        self.at = (self.at + len).min(self.end);
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<usize, Fault> {
        if self.at == self.end && buf.len() >= DIRECT {
            return read_some(&mut self.input, buf);
        }
        let filled = self.fill()?;
        let len = filled.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..len), filled.get(..len)) {
            to.copy_from_slice(from);
        }
        self.at += len;
        Ok(len)
    }

    fn finish(&mut self) -> Result<bool, Fault> {
        Ok(false)
    }

    fn exhausted(&mut self) -> Result<bool, Fault> {
        Ok(self.fill()?.is_empty())
    }
}

/// A stream that somebody else compressed with zstd.
pub(crate) struct Zstd<R: Read>(zstd::stream::read::Decoder<'static, BufReader<R>>);

impl<R: Read> Zstd<R> {
    pub fn new(input: R) -> io::Result<Zstd<R>> {
        zstd::stream::read::Decoder::new(input).map(Zstd)
    }
}

impl<R: Read> Read for Zstd<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf).map_err(|error| {
            // What the system says has a number; what zstd says of the bytes has none.
            if error.raw_os_error().is_some() || error.kind() == io::ErrorKind::Interrupted {
                return error;
            }
            io::Error::other(Undecodable(error.to_string()))
        })
    }
}

/// Bytes that are not zstd's.
#[derive(Debug)]
pub(crate) struct Undecodable(String);

impl fmt::Display for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it cannot be decompressed: {}", self.0)
    }
}

impl std::error::Error for Undecodable {}
