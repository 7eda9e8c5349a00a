//! Reads an image in whatever form it comes, and believes nothing of it until its end was checked.

mod entry;
mod tap;

use crate::archive::ArchiveSource;
use crate::check::{Book, End, Place};
use crate::directory::DirectoryReader;
use crate::error::{Error, Fault, Result};
use crate::format::{BLOCK, END, HEADER, Pages, VERSION, escape};
use crate::header::{Header, Versioned};
use crate::member::{Member, MemberKind};
use crate::source::{Part, Plain, Source, Zstd};
use crate::stream;
use serde::de::DeserializeOwned;
use std::io::{Cursor, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use tap::Whole;
use xxhash_rust::xxh3::Xxh3;

pub use entry::{Entry, Kind};
pub use tap::Tap;

/// First bytes of a zstd frame.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Most bytes of `header.json`.
const MAX_HEADER: u64 = 1 << 20;

/// An image being read: entries in order, then an end that says that all of it was right.
pub struct Reader {
    source: Box<dyn Source>,
    fast: Xxh3,
    offset: u64,
    book: Book,
    header: Header,
    /// The first entry's bytes, until a tap was set or the next entry asked for.
    first: Option<Whole>,
    tap: Option<Box<dyn Tap>>,
    /// What the tap said where it could not be returned.
    tap_error: Option<Error>,
    entry: Option<Current>,
    /// Path of the current entry as text, or of the one before.
    path: String,
    finished: Option<bool>,
    form: Form,
}

/// In which form an image comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The stream as it is.
    Bare,
    /// Compressed by zstd, without a seal.
    Compressed,
    /// An archive: compressed, with a seal.
    Archive,
    /// The directory form.
    Directory,
}

struct Current {
    place: Place,
    member: Member,
    offset: u64,
    content_offset: u64,
    /// Bytes of content in the stream, a sparse map included.
    content: u64,
    left: u64,
}

impl Reader {
    /// Opens an image in any form of stream: bare, compressed, or a sealed archive.
    pub fn open(mut input: impl Read + Send + 'static) -> Result<Reader> {
        let mut first = Vec::new();
        while first.len() < BLOCK {
            let mut some = [0; BLOCK];
            let room = some.get_mut(first.len()..).unwrap_or_default();
            match crate::source::read_some(&mut input, room) {
                Ok(0) => break,
                Ok(len) => first.extend_from_slice(room.get(..len).unwrap_or_default()),
                Err(Fault::At(error)) => return Err(error),
                Err(Fault::Read(error)) => return Err(Error::Read(error)),
                Err(Fault::Damaged(what)) => return Err(Error::Unrecognised { what }),
            }
        }
        let what = match first.get(..4) {
            None if first.is_empty() => "the input is empty".into(),
            None => "the input is too short".into(),
            Some(magic) if magic == ZSTD => {
                let input = Cursor::new(first).chain(input);
                let decoder = Zstd::new(input).map_err(Error::Read)?;
                return Reader::start(Box::new(Plain::new(decoder)), Form::Compressed);
            }
            Some(_) if first.get(257..262) == Some(b"ustar") => {
                return Reader::start(
                    Box::new(Plain::new(Cursor::new(first).chain(input))),
                    Form::Bare,
                );
            }
            Some([_, 0x2a, 0x4d, 0x18]) => {
                let input = Cursor::new(first).chain(input);
                return Reader::start(Box::new(ArchiveSource::open(input)?), Form::Archive);
            }
            Some(_) => "its first bytes are of another kind of file".into(),
        };
        Err(Error::Unrecognised { what })
    }

    /// Opens the directory form of an image.
    pub fn open_directory(directory: &Path) -> Result<Reader> {
        let read = DirectoryReader::open(directory)?;
        Reader::start(Box::new(Plain::new(read)), Form::Directory)
    }

    fn start(source: Box<dyn Source>, form: Form) -> Result<Reader> {
        let mut reader = Reader {
            source,
            fast: Xxh3::new(),
            offset: 0,
            book: Book::default(),
            // Until `start` has read it.
            header: Header::new("", "", ""),
            first: None,
            tap: None,
            tap_error: None,
            entry: None,
            path: HEADER.to_owned(),
            finished: None,
            form,
        };
        let head = reader.decode_head()?;
        reader.fast.update(&head.raw);
        let current = reader.enter(head.decoded, head.at)?;
        if current.content > MAX_HEADER {
            let what = format!("{} bytes are absurd for a header", current.content);
            return Err(reader.damaged(what));
        }
        let json = reader.exactly(current.content, Part::Content)?;
        reader.fast.update(&json);
        let padding = reader.padding(current.content)?;
        reader.fast.update(&padding);
        reader.source.entry(HEADER, 0, current.content);
        reader.header = reader.parse_header(&json)?;
        reader.first = Some(Whole {
            member: current.member,
            head: head.raw,
            json,
            padding,
        });
        Ok(reader)
    }

    /// Lets all cores take part. Until this is called no thread is started, so that the caller may fork.
    pub fn parallel(&mut self) {
        self.source.parallel();
    }

    /// The image's header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Hands every byte of the image to `tap`. To be called before the first [`next`](Reader::next).
    pub fn set_tap(&mut self, mut tap: Box<dyn Tap>) -> Result<()> {
        if let Some(first) = self.first.take() {
            first.tap(HEADER, 0, tap.as_mut())?;
        }
        self.tap = Some(tap);
        Ok(())
    }

    /// The next entry; none only when the end record, and the seal of an archive, were found right.
    #[allow(clippy::should_implement_trait)] // an entry borrows the reader, so this is no Iterator
    pub fn next(&mut self) -> Result<Option<Entry<'_>>> {
        if self.finished.is_some() {
            return Ok(None);
        }
        self.first = None;
        self.leave()?;
        let Some(current) = self.header_or_end()? else {
            return Ok(None);
        };
        let place = current.place;
        self.entry = Some(current);
        let kind = match place {
            Place::Record => Kind::Record,
            Place::Blob => Kind::Blob,
            Place::Tree => Kind::Member,
            Place::PagesRecord => Kind::Pages(self.announced_pages()?),
            Place::Pages => return Err(self.damaged("no record announces these pages")),
        };
        Ok(Some(Entry { kind, reader: self }))
    }

    /// Reads the record of pages, and goes on to the entry with the pages themselves.
    fn announced_pages(&mut self) -> Result<Pages> {
        let pages: Pages = self.record()?;
        let bytes = pages.bytes().map_err(|what| self.damaged(what))?;
        let announced = self.path.clone();
        self.leave()?;
        let next = self.header_or_end()?;
        match next {
            Some(current)
                if current.content == bytes
                    && announced.strip_suffix(".json") == Some(&self.path) =>
            {
                self.entry = Some(current);
                Ok(pages)
            }
            _ => Err(self.damaged("these are not the pages that the record before announces")),
        }
    }

    /// Reads what is left of the current entry as one record.
    fn record<T: DeserializeOwned>(&mut self) -> Result<T> {
        let left = self.entry.as_ref().map_or(0, |current| current.left);
        let bytes = self.exactly(left, Part::Content)?;
        self.account(&bytes, Part::Content)?;
        if let Some(current) = &mut self.entry {
            current.left = 0;
        }
        self.parse(&bytes)
    }

    /// Refuses an input in a form that has no seal. Whether the seal is right shows at the end.
    pub fn require_seal(&self) -> Result<()> {
        if self.form == Form::Archive {
            Ok(())
        } else {
            Err(Error::Unsealed)
        }
    }

    /// In which form the image came.
    pub fn form(&self) -> Form {
        self.form
    }

    /// Whether the image had a seal, and it was right. Not known before the end: then false.
    pub fn sealed(&self) -> bool {
        self.finished == Some(true)
    }

    /// Entries of the tar stream up to where everything was read.
    pub fn entries(&self) -> u64 {
        self.book.entries()
    }

    /// Byte of the uncompressed image up to which everything was read.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// After the end: waits for the end of the input and refuses anything that follows the image.
    pub fn expect_nothing_more(&mut self) -> Result<()> {
        match self.source.exhausted() {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.damaged("bytes follow the end of the image")),
            Err(fault) => Err(self.fault(fault)),
        }
    }

    /// Reads what is left of the current entry, and its padding.
    fn leave(&mut self) -> Result<()> {
        if let Some(error) = self.tap_error.take() {
            return Err(error);
        }
        let Some(mut current) = self.entry.take() else {
            return Ok(());
        };
        while current.left > 0 {
            let len = self.pass(current.left)?;
            current.left -= len as u64;
        }
        let padding = self.padding(current.content)?;
        self.account(&padding, Part::Frame)?;
        self.source
            .entry(&self.path, current.offset, current.content);
        if let Some(tap) = &mut self.tap {
            tap.end(&self.path, current.offset, current.content)?;
        }
        Ok(())
    }

    /// Passes some of the content on, at most `most` bytes of it.
    fn pass(&mut self, most: u64) -> Result<usize> {
        let filled = match self.source.fill() {
            Ok(filled) => filled,
            Err(fault) => return Err(self.fault(fault)),
        };
        let len = filled
            .len()
            .min(usize::try_from(most).unwrap_or(usize::MAX));
        let bytes = filled.get(..len).unwrap_or_default();
        if bytes.is_empty() {
            return Err(self.truncated());
        }
        self.fast.update(bytes);
        if let Some(tap) = &mut self.tap {
            tap.content(bytes)?;
        }
        self.source.consume(len, Part::Content);
        self.offset += len as u64;
        Ok(len)
    }

    /// The header of the next entry, or nothing when that is the end record and all was right.
    fn header_or_end(&mut self) -> Result<Option<Current>> {
        let head = self.decode_head()?;
        let before = self.fast.digest128();
        let current = self.enter(head.decoded, head.at)?;
        if self.path == END {
            self.end(current, head.raw, before)?;
            return Ok(None);
        }
        if let Some(tap) = &mut self.tap {
            tap.start(&current.member)?;
        }
        self.account(&head.raw, Part::Frame)?;
        self.account(&head.map, Part::Content)?;
        Ok(Some(current))
    }

    /// Reads the end record and what must follow it, compares, and only then passes it on.
    fn end(&mut self, current: Current, head: Vec<u8>, fast: u128) -> Result<()> {
        let (at, size) = (current.offset, current.content);
        let json = self.exactly(size, Part::Content)?;
        let end: End = self.parse(&json)?;
        let entries = self.book.entries() - 1;
        if end.entries != entries || end.bytes != at {
            return Err(self.damaged(format!(
                "{entries} entries in {at} bytes were read, the end record says {} in {}",
                end.entries, end.bytes
            )));
        }
        let fast = format!("{fast:032x}");
        if end.xxh3_128 != fast {
            return Err(self.damaged(format!(
                "the checksum of all before is {fast}, the end record says {}",
                end.xxh3_128.escape_default()
            )));
        }
        let padding = self.padding(size)?;
        self.source.entry(END, at, size);
        // The end of a tar stream.
        let last = self.exactly(2 * BLOCK as u64, Part::Frame)?;
        if last.iter().any(|byte| *byte != 0) {
            return Err(self.damaged("something follows the end record"));
        }
        let sealed = match self.source.finish() {
            Ok(sealed) => sealed,
            Err(fault) => return Err(self.fault(fault)),
        };
        if let Some(tap) = &mut self.tap {
            let member = current.member;
            Whole {
                member,
                head,
                json,
                padding,
            }
            .tap(END, at, tap.as_mut())?;
            tap.frame(&last)?;
            tap.finish()?;
        }
        self.finished = Some(sealed);
        Ok(())
    }

    /// Reads an entry's header and checks that it is the one encoding of what it says.
    fn decode_head(&mut self) -> Result<Head> {
        let at = self.offset;
        let mut raw = self.exactly(BLOCK as u64, Part::Frame)?;
        let mut pax = Vec::new();
        let pax_length = stream::pax_length(&raw).map_err(|what| self.damaged(what))?;
        let mut block = raw.clone();
        if let Some(len) = pax_length {
            let mut records = self.exactly(len + stream::padding(len) as u64, Part::Frame)?;
            raw.extend_from_slice(&records);
            records.truncate(len as usize);
            pax = records;
            block = self.exactly(BLOCK as u64, Part::Frame)?;
            raw.extend_from_slice(&block);
        }
        let mut decoded = stream::decode(&pax, &block).map_err(|what| self.damaged(what))?;
        let path = decoded.member.path.as_os_str().as_bytes();
        let aligned = crate::check::is_pages(path);
        self.path = escape(path);
        let mut map = Vec::new();
        if let MemberKind::Sparse { size, segments } = &mut decoded.member.kind {
            let most = decoded.content;
            *segments = stream::decode_map::<MapError>(*size, || {
                if map.len() as u64 + BLOCK as u64 > most {
                    return Err(MapError::Bad(
                        "the sparse map is longer than the entry".into(),
                    ));
                }
                let block = self
                    .exactly(BLOCK as u64, Part::Content)
                    .map_err(MapError::Error)?;
                map.extend_from_slice(&block);
                Ok(block)
            })
            .map_err(|error| match error {
                MapError::Bad(what) => self.damaged(what),
                MapError::Error(error) => error,
            })?;
        }
        let again =
            stream::encode(&decoded.member, at, aligned).map_err(|what| self.damaged(what))?;
        if again.head != raw || again.map != map || again.content != decoded.content {
            return Err(self.damaged("its header is not written as the format says"));
        }
        Ok(Head {
            raw,
            map,
            decoded,
            at,
        })
    }

    /// Enters a decoded entry in the book.
    fn enter(&mut self, decoded: stream::Decoded, at: u64) -> Result<Current> {
        let stream::Decoded { member, content } = decoded;
        let place = self
            .book
            .enter(&member, content)
            .map_err(|what| self.damaged_at(at, what))?;
        let left = member.payload();
        Ok(Current {
            place,
            member,
            offset: at,
            content_offset: self.offset,
            content,
            left,
        })
    }

    fn parse_header(&mut self, json: &[u8]) -> Result<Header> {
        let version: Versioned = self.parse(json)?;
        if version.format != u64::from(VERSION) {
            return Err(Error::Version {
                entry: HEADER.to_owned(),
                found: version.format,
                known: VERSION,
            });
        }
        self.parse(json)
    }

    fn parse<T: DeserializeOwned>(&self, json: &[u8]) -> Result<T> {
        serde_json::from_slice(json)
            .map_err(|error| self.damaged(format!("the record is wrong: {error}")))
    }

    /// The padding after `content` bytes, which must be zeros.
    fn padding(&mut self, content: u64) -> Result<Vec<u8>> {
        let padding = self.exactly(stream::padding(content) as u64, Part::Frame)?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(self.damaged("the padding after it is not zero"));
        }
        Ok(padding)
    }

    /// Exactly `len` bytes, which the caller has bounded. Memory is taken as they arrive.
    fn exactly(&mut self, len: u64, part: Part) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < len {
            let filled = match self.source.fill() {
                Ok(filled) => filled,
                Err(fault) => return Err(self.fault(fault)),
            };
            let more = usize::try_from(len - bytes.len() as u64)
                .unwrap_or(usize::MAX)
                .min(filled.len());
            bytes.extend_from_slice(filled.get(..more).unwrap_or_default());
            if more == 0 {
                return Err(self.truncated());
            }
            self.source.consume(more, part);
            self.offset += more as u64;
        }
        Ok(bytes)
    }

    /// Counts bytes that [`exactly`](Reader::exactly) gave as part of the image, and passes them on.
    fn account(&mut self, bytes: &[u8], part: Part) -> Result<()> {
        self.fast.update(bytes);
        match (&mut self.tap, part) {
            (Some(tap), Part::Frame) => tap.frame(bytes),
            (Some(tap), Part::Content) => tap.content(bytes),
            (None, _) => Ok(()),
        }
    }

    fn truncated(&self) -> Error {
        self.damaged("it ends here, before its end record")
    }

    fn damaged(&self, what: impl Into<String>) -> Error {
        self.damaged_at(self.offset, what)
    }

    fn damaged_at(&self, offset: u64, what: impl Into<String>) -> Error {
        Error::Damaged {
            entry: self.path.clone(),
            offset,
            what: what.into(),
        }
    }

    fn fault(&self, fault: Fault) -> Error {
        match fault {
            Fault::Damaged(what) => self.damaged(what),
            Fault::At(error) => error,
            Fault::Read(error) => Error::Read(error),
        }
    }
}

struct Head {
    raw: Vec<u8>,
    map: Vec<u8>,
    decoded: stream::Decoded,
    at: u64,
}

enum MapError {
    Bad(String),
    Error(Error),
}

impl From<String> for MapError {
    fn from(what: String) -> MapError {
        MapError::Bad(what)
    }
}
