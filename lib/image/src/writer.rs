//! Writes an image: the header first, then entries one after the other, the end record last.

use crate::check::{Book, End, Place};
use crate::error::{Error, Result};
use crate::format::{BLOCK, END, HEADER, Pages, escape};
use crate::header::Header;
use crate::member::{Member, MemberKind};
use crate::reader::Tap;
use crate::stream::{self, Blocks};
use serde::Serialize;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use xxhash_rust::xxh3::Xxh3;

/// Small pieces are gathered up to this many bytes; larger ones go out as they are.
const GATHER: usize = 256 << 10;
/// Pieces at least this long are written without being gathered.
const DIRECT: usize = 32 << 10;

/// An image being written. Dropped before [`finish`](Writer::finish), it is no image.
pub struct Writer<W: Write> {
    out: W,
    gathered: Vec<u8>,
    fast: Xxh3,
    offset: u64,
    book: Book,
    /// Modification time of all entries outside file trees, seconds since 1970.
    mtime: i64,
    entry: String,
    remaining: u64,
    next_pages: u32,
}

impl<W: Write> Writer<W> {
    /// Starts an image with its header.
    pub fn new(out: W, header: &Header) -> Result<Writer<W>> {
        let mut writer = Writer {
            out,
            gathered: Vec::with_capacity(GATHER + DIRECT),
            fast: Xxh3::new(),
            offset: 0,
            book: Book::default(),
            mtime: header.created.seconds(),
            entry: String::new(),
            remaining: 0,
            next_pages: 0,
        };
        writer.record(HEADER, header)?;
        Ok(writer)
    }

    /// Writes a record: any path that ends in `.json`.
    pub fn record<T: Serialize + ?Sized>(&mut self, path: &str, record: &T) -> Result<()> {
        let mut json =
            serde_json::to_vec(record).map_err(|error| Error::refused(path, error.to_string()))?;
        json.push(b'\n');
        if !path.ends_with(".json") {
            return Err(Error::refused(path, "a record's path ends in .json"));
        }
        self.own(path, json.len() as u64)?;
        self.content(&json)
    }

    /// Starts an entry of pages; exactly the bytes of its ranges are then written to it.
    pub fn pages(&mut self, pages: &Pages) -> Result<EntryWriter<'_, W>> {
        let path = format!("pages/{}", self.next_pages);
        self.next_pages += 1;
        let size = pages.bytes().map_err(|what| Error::refused(&path, what))?;
        self.record(&format!("{path}.json"), pages)?;
        self.own(&path, size)?;
        Ok(EntryWriter { writer: self })
    }

    /// Starts an entry of `size` raw bytes, as `data/17`.
    pub fn blob(&mut self, path: &str, size: u64) -> Result<EntryWriter<'_, W>> {
        self.own(path, size)?;
        Ok(EntryWriter { writer: self })
    }

    /// Starts a member of a file tree; exactly [`Member::payload`] bytes are then written to it.
    ///
    /// A tree starts with the directory that is its root, as `rootfs`, and goes on without another
    /// entry between, each path after the one before in the order of [`std::path::Path`].
    pub fn member(&mut self, member: &Member) -> Result<EntryWriter<'_, W>> {
        if self.start(member)? != Place::Tree {
            return Err(Error::refused(
                &self.entry,
                "it is not in a file tree; write the tree's root directory first",
            ));
        }
        Ok(EntryWriter { writer: self })
    }

    /// Byte of the image at which the next entry starts.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Writes the end record, without which there is no image, and flushes.
    pub fn finish(mut self) -> Result<W> {
        self.complete()?;
        let end = End {
            entries: self.book.entries(),
            bytes: self.offset,
            xxh3_128: format!("{:032x}", self.fast.digest128()),
        };
        self.record(END, &end)?;
        self.complete()?;
        self.put(&[0; 2 * BLOCK])?;
        self.flush_gathered()?;
        self.out.flush().map_err(Error::Write)?;
        Ok(self.out)
    }

    /// Starts an entry outside file trees.
    fn own(&mut self, path: &str, size: u64) -> Result<()> {
        let mut member = Member::new(path, MemberKind::Regular { size });
        member.mtime = self.mtime;
        match self.start(&member)? {
            Place::Tree => Err(Error::refused(
                path,
                "it is beneath the file tree before it",
            )),
            _ => Ok(()),
        }
    }

    fn start(&mut self, member: &Member) -> Result<Place> {
        self.complete()?;
        let path = member.path.as_os_str().as_bytes();
        let refused = |what| Error::Refused {
            entry: escape(path),
            what,
        };
        let aligned = crate::check::is_pages(path);
        let Blocks { head, map, content } =
            stream::encode(member, self.offset, aligned).map_err(refused)?;
        let place = self.book.enter(member, content).map_err(refused)?;
        self.entry = escape(path);
        self.put(&head)?;
        self.put(&map)?;
        self.remaining = content - map.len() as u64;
        Ok(place)
    }

    /// Fills the last entry up to whole blocks, if all of it was written.
    fn complete(&mut self) -> Result<()> {
        if self.remaining > 0 {
            let what = format!("{} bytes of it were not written", self.remaining);
            return Err(Error::refused(&self.entry, what));
        }
        let padding = stream::padding(self.offset);
        if let Some(zeros) = [0; BLOCK].get(..padding) {
            self.put(zeros)?;
        }
        Ok(())
    }

    fn content(&mut self, bytes: &[u8]) -> Result<()> {
        let len = bytes.len() as u64;
        self.remaining = self.remaining.checked_sub(len).ok_or_else(|| {
            Error::refused(&self.entry, "more bytes were written than were announced")
        })?;
        self.put(bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.fast.update(bytes);
        self.offset += bytes.len() as u64;
        if bytes.len() < DIRECT {
            self.gathered.extend_from_slice(bytes);
            return if self.gathered.len() < GATHER {
                Ok(())
            } else {
                self.flush_gathered()
            };
        }
        self.flush_gathered()?;
        self.out.write_all(bytes).map_err(Error::Write)
    }

    fn flush_gathered(&mut self) -> Result<()> {
        let result = self.out.write_all(&self.gathered).map_err(Error::Write);
        self.gathered.clear();
        result
    }
}

/// The content of one entry, to be written whole before the next entry starts.
pub struct EntryWriter<'a, W: Write> {
    writer: &'a mut Writer<W>,
}

impl<W: Write> EntryWriter<'_, W> {
    /// Bytes still to be written.
    pub fn remaining(&self) -> u64 {
        self.writer.remaining
    }

    /// Writes all of `bytes`. Pieces of 1 MiB and more go out without a copy.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.content(bytes)
    }

    /// Says so now, and not at the next entry, if bytes are missing.
    pub fn finish(self) -> Result<()> {
        self.writer.complete()
    }
}

impl<W: Write> Write for EntryWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.put(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(Error::Write(error)) => Err(error),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes the bytes of an image as a [`Reader`](crate::Reader) reads them.
pub struct CopyWriter<W>(W);

impl<W: Write + Send> CopyWriter<W> {
    /// Writes to `out`; its last bytes come only when all was found right.
    pub fn new(out: W) -> CopyWriter<W> {
        CopyWriter(out)
    }
}

impl<W: Write + Send> Tap for CopyWriter<W> {
    fn start(&mut self, _member: &Member) -> Result<()> {
        Ok(())
    }

    fn frame(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).map_err(Error::Write)
    }

    fn content(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).map_err(Error::Write)
    }

    fn end(&mut self, _path: &str, _offset: u64, _size: u64) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.0.flush().map_err(Error::Write)
    }
}
