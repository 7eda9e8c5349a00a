//! One entry of an image, and its content as a stream.

use super::Reader;
use crate::error::{Error, Result};
use crate::format::Pages;
use crate::member::Member;
use crate::source::Part;
use serde::de::DeserializeOwned;
use std::io::{self, BufRead, Read};

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A JSON record: read it with [`Entry::json`].
    Record,
    /// Pages of memory; their record is already read and agrees with their size.
    Pages(Pages),
    /// Raw bytes.
    Blob,
    /// Part of a file tree: [`Entry::member`] says what.
    Member,
}

/// One entry of an image. What of it is not read is still checked.
pub struct Entry<'a> {
    pub(super) kind: Kind,
    pub(super) reader: &'a mut Reader,
}

impl Entry<'_> {
    /// Path as text: see [`escape`]. The exact bytes are in [`Entry::member`].
    pub fn path(&self) -> &str {
        &self.reader.path
    }

    /// What it is.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// What tar says of it.
    pub fn member(&self) -> Option<&Member> {
        self.reader.entry.as_ref().map(|current| &current.member)
    }

    /// Bytes that are still to be read from it.
    pub fn size(&self) -> u64 {
        self.reader.entry.as_ref().map_or(0, |current| current.left)
    }

    /// Byte of the uncompressed image at which its header starts.
    pub fn offset(&self) -> u64 {
        self.reader
            .entry
            .as_ref()
            .map_or(0, |current| current.offset)
    }

    /// Byte of the uncompressed image at which its content starts, after a sparse file's map.
    pub fn content_offset(&self) -> u64 {
        self.reader
            .entry
            .as_ref()
            .map_or(0, |current| current.content_offset)
    }

    /// The record it is.
    pub fn json<T: DeserializeOwned>(&mut self) -> Result<T> {
        if self.kind != Kind::Record {
            return Err(self.damaged("it is not a record"));
        }
        self.reader.record()
    }

    /// The error for an entry that does not make sense: exit code 3, with its name and place.
    pub fn damaged(&self, what: impl Into<String>) -> Error {
        self.reader.damaged_at(self.offset(), what)
    }
}

impl Read for Entry<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let reader = &mut *self.reader;
        let Some(current) = &mut reader.entry else {
            return Ok(0);
        };
        let most = usize::try_from(current.left)
            .unwrap_or(usize::MAX)
            .min(buf.len());
        let Some(buf) = buf.get_mut(..most).filter(|buf| !buf.is_empty()) else {
            return Ok(0);
        };
        let len = reader.source.read(buf);
        let len = match len {
            Ok(0) => return Err(into_io(reader.truncated())),
            Ok(len) => len,
            Err(fault) => return Err(into_io(reader.fault(fault))),
        };
        current.left -= len as u64;
        reader.offset += len as u64;
        let bytes = buf.get(..len).unwrap_or_default();
        reader.account(bytes, Part::Content).map_err(into_io)?;
        Ok(len)
    }
}

/// The bytes as they lie in memory, without a copy: for pages on their way into a process.
impl BufRead for Entry<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let most = usize::try_from(self.size()).unwrap_or(usize::MAX);
        if most == 0 {
            return Ok(&[]);
        }
        match self.reader.source.fill() {
            Ok([]) => (),
            Err(fault) => return Err(into_io(self.reader.fault(fault))),
            // Asked again because of what the borrow checker does not see: the bytes are there.
            Ok(_) => {
                let filled = self
                    .reader
                    .source
                    .fill()
                    .map_err(|_| io::ErrorKind::Other)?;
                return Ok(filled.get(..most.min(filled.len())).unwrap_or_default());
            }
        }
        Err(into_io(self.reader.truncated()))
    }

    fn consume(&mut self, len: usize) {
        let reader = &mut *self.reader;
        let Some(current) = &mut reader.entry else {
            return;
        };
        let len = len.min(usize::try_from(current.left).unwrap_or(usize::MAX));
        if len == 0 {
            // Not even a look at what follows: it is no longer this entry's.
            return;
        }
        // `fill_buf` was called before and has the bytes; none are lost if it was not.
        let Ok(filled) = reader.source.fill() else {
            return;
        };
        let len = len.min(filled.len());
        let bytes = filled.get(..len).unwrap_or_default();
        reader.fast.update(bytes);
        if let Some(tap) = &mut reader.tap
            && let Err(error) = tap.content(bytes)
        {
            reader.tap_error.get_or_insert(error);
        }
        reader.source.consume(len, Part::Content);
        current.left -= len as u64;
        reader.offset += len as u64;
    }
}

fn into_io(error: Error) -> io::Error {
    match error {
        Error::Read(error) => error,
        error => io::Error::other(error),
    }
}
