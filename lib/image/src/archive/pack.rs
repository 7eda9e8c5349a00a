//! From an image to an archive: chunks are compressed by several threads, digested by one, and
//! written in order by one more.

use super::{ARCHIVE_VERSION, MAX_CHUNK, OPENING, PRELUDE, PRELUDE_FIXED, SEAL, TITLE};
use super::{skippable, workers};
use crate::chunk::{Chunk, Marks, Pool};
use crate::error::{Error, Result};
use crate::member::Member;
use crate::reader::Tap;
use crate::seal::Sealer;
use crate::source::Part;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use xxhash_rust::xxh3::xxh3_64;
use zstd::zstd_safe;

/// Largest block of a zstd frame (RFC 8878, 3.1.1.2.4).
const MAX_BLOCK: usize = 128 << 10;

/// How hard to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    /// zstd's level; negative ones are faster and weaker, 0 stores.
    pub level: i32,
}

impl Compression {
    /// The lowest level there is a use for.
    pub const MIN: i32 = -50;
    /// The highest level of zstd.
    pub const MAX: i32 = 22;

    /// Bytes of the image in one frame: higher levels look back further.
    fn chunk(self) -> usize {
        if self.level > 5 {
            MAX_CHUNK
        } else {
            MAX_CHUNK / 4
        }
    }
}

impl Default for Compression {
    /// Level 1: about as fast as one core can digest.
    fn default() -> Compression {
        Compression { level: 1 }
    }
}

/// Writes an archive of the image that a [`Reader`](crate::Reader) hands it.
pub struct ArchiveWriter {
    chunk: Vec<u8>,
    marks: Marks,
    full: usize,
    pool: Pool,
    compress: Option<Sender<Compress>>,
    digest: Option<Sender<Digest>>,
    order: Option<SyncSender<Frame>>,
    writer: Option<JoinHandle<io::Result<()>>>,
    sealer: Option<JoinHandle<Sealer>>,
    seal: Option<SyncSender<Vec<u8>>>,
}

/// A chunk to be compressed, and where the frame goes.
type Compress = (Chunk, SyncSender<io::Result<Vec<u8>>>);
/// A chunk to be digested, and where the lines go.
type Digest = (Chunk, Marks, SyncSender<Vec<u8>>);

/// A frame to be written when its parts are there.
struct Frame {
    content: u32,
    compressed: Receiver<io::Result<Vec<u8>>>,
    lines: Receiver<Vec<u8>>,
}

impl ArchiveWriter {
    /// Starts an archive. Its last bytes are written only when the image's end was found right.
    pub fn new(out: impl Write + Send + 'static, compression: Compression) -> ArchiveWriter {
        let (compress, chunks) = channel::<Compress>();
        let (digest, marked) = channel::<Digest>();
        // This one is bounded, and with it the other two.
        let (order, frames) = sync_channel(workers() + 1);
        let (seal, sealed) = sync_channel(1);
        let pool = Pool::default();
        let chunks = Arc::new(Mutex::new(chunks));
        for _ in 0..workers() {
            let (chunks, frames) = (chunks.clone(), pool.clone());
            thread::spawn(move || compress_chunks(&chunks, &frames, compression.level));
        }
        let sealer = thread::spawn(move || {
            let mut sealer = Sealer::default();
            for (chunk, marks, lines) in marked {
                // Nobody waits for them when writing has failed.
                let _ = lines.send(sealer.chunk(&chunk, &marks));
            }
            sealer
        });
        let buffers = pool.clone();
        let writer = thread::spawn(move || write_frames(out, frames, &sealed, &buffers));
        ArchiveWriter {
            chunk: Vec::new(),
            marks: Marks::default(),
            full: compression.chunk(),
            pool,
            compress: Some(compress),
            digest: Some(digest),
            order: Some(order),
            writer: Some(writer),
            sealer: Some(sealer),
            seal: Some(seal),
        }
    }

    fn put(&mut self, part: Part, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            // Not as soon as it is full: the mark of an entry's end may still belong to it.
            if self.chunk.len() >= self.full {
                self.send()?;
            }
            let room = bytes.len().min(self.full.saturating_sub(self.chunk.len()));
            let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            let start = self.chunk.len();
            self.chunk.extend_from_slice(now);
            self.marks.bytes(part, start..self.chunk.len());
            bytes = later;
        }
        Ok(())
    }

    /// Sends the chunk on its three ways.
    fn send(&mut self) -> Result<()> {
        let mut bytes = self.pool.take();
        bytes.reserve(self.full);
        let bytes = std::mem::replace(&mut self.chunk, bytes);
        let content = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let chunk = self.pool.share(bytes);
        let (compressed_to, compressed) = sync_channel(1);
        let (lines_to, lines) = sync_channel(1);
        let marks = std::mem::take(&mut self.marks);
        let frame = Frame {
            content,
            compressed,
            lines,
        };
        let sent = match (&self.compress, &self.digest, &self.order) {
            (Some(compress), Some(digest), Some(order)) => {
                compress.send((chunk.clone(), compressed_to)).is_ok()
                    && digest.send((chunk, marks, lines_to)).is_ok()
                    && order.send(frame).is_ok()
            }
            _ => false,
        };
        if sent { Ok(()) } else { Err(self.failure()) }
    }

    /// Why the threads no longer take anything.
    fn failure(&mut self) -> Error {
        (self.order, self.seal) = (None, None);
        match self.join_writer() {
            Err(error) => Error::Write(error),
            Ok(()) => Error::Write(io::Error::other("a thread of the archive has ended")),
        }
    }

    fn join_writer(&mut self) -> io::Result<()> {
        let died = || io::Error::other("the thread that writes the archive has died");
        self.writer.take().map_or(Ok(()), |writer| {
            writer.join().unwrap_or_else(|_| Err(died()))
        })
    }
}

impl Tap for ArchiveWriter {
    fn start(&mut self, _member: &Member) -> Result<()> {
        Ok(())
    }

    fn frame(&mut self, bytes: &[u8]) -> Result<()> {
        self.put(Part::Frame, bytes)
    }

    fn content(&mut self, bytes: &[u8]) -> Result<()> {
        self.put(Part::Content, bytes)
    }

    fn end(&mut self, path: &str, offset: u64, size: u64) -> Result<()> {
        self.marks.end(path, offset, size);
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.send()?;
        (self.compress, self.digest) = (None, None);
        let Some(Ok(sealer)) = self.sealer.take().map(JoinHandle::join) else {
            return Err(self.failure());
        };
        let seal = self.seal.take();
        self.order = None;
        if seal.is_none_or(|seal| seal.send(sealer.seal()).is_err()) {
            return Err(self.failure());
        }
        self.join_writer().map_err(Error::Write)
    }
}

fn compress_chunks(chunks: &Mutex<Receiver<Compress>>, pool: &Pool, level: i32) {
    let mut compressor = zstd::bulk::Compressor::new(level);
    loop {
        let next = chunks.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((chunk, frame_to)) = next else {
            return;
        };
        let mut frame = pool.take();
        let result = match (&mut compressor, level) {
            (_, 0) => {
                store(&chunk, &mut frame);
                Ok(frame)
            }
            (Ok(compressor), _) => {
                frame.reserve(zstd_safe::compress_bound(chunk.len()));
                compressor
                    .compress_to_buffer(&chunk, &mut frame)
                    .map(|_| frame)
            }
            (Err(error), _) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        let _ = frame_to.send(result);
    }
}

/// A zstd frame of raw blocks (RFC 8878, 3.1.1): single segment, four bytes of content size.
fn store(chunk: &[u8], frame: &mut Vec<u8>) {
    frame.extend_from_slice(&zstd_safe::MAGICNUMBER.to_le_bytes());
    frame.push(0b1010_0000);
    frame.extend_from_slice(&u32::try_from(chunk.len()).unwrap_or(u32::MAX).to_le_bytes());
    let last = chunk.len().div_ceil(MAX_BLOCK).saturating_sub(1);
    for (index, block) in chunk.chunks(MAX_BLOCK).enumerate() {
        let header = (block.len() << 3) | usize::from(index == last);
        frame.extend(header.to_le_bytes().iter().take(3));
        frame.extend_from_slice(block);
    }
}

fn write_frames(
    mut out: impl Write,
    frames: Receiver<Frame>,
    sealed: &Receiver<Vec<u8>>,
    pool: &Pool,
) -> io::Result<()> {
    let died = |_| io::Error::other("a thread of the archive has died");
    let title = format!("{TITLE}{ARCHIVE_VERSION}\n");
    let mut head = skippable(OPENING, title.len());
    head.extend_from_slice(title.as_bytes());
    for frame in frames {
        let compressed = frame.compressed.recv().map_err(died)??;
        let lines = frame.lines.recv().map_err(died)?;
        let len = u32::try_from(compressed.len()).unwrap_or(u32::MAX);
        head.extend_from_slice(&skippable(PRELUDE, PRELUDE_FIXED + lines.len()));
        head.extend_from_slice(&len.to_le_bytes());
        head.extend_from_slice(&frame.content.to_le_bytes());
        head.extend_from_slice(&xxh3_64(&compressed).to_le_bytes());
        head.extend_from_slice(&lines);
        out.write_all(&head)?;
        out.write_all(&compressed)?;
        head.clear();
        pool.give(compressed);
    }
    // Without a seal the image was not found right, and there is to be no archive.
    if let Ok(seal) = sealed.recv() {
        let mut tail = skippable(SEAL, seal.len());
        tail.extend_from_slice(&seal);
        out.write_all(&tail)?;
        out.flush()?;
    }
    Ok(())
}
