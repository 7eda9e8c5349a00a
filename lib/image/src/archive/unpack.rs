//! From an archive to its image: one thread reads frames, several decompress them, one digests what
//! the reader of the image has consumed and compares it with what the archive says.

use super::{
    ARCHIVE_VERSION, MAX_CHUNK, MAX_LINES, MAX_TEXT, OPENING, PRELUDE, PRELUDE_FIXED, SEAL,
};
use super::{TITLE, workers};
use crate::chunk::{Chunk, Marks, Pool};
use crate::error::{Error, Fault};
use crate::seal::{Sealer, compare};
use crate::source::{Part, Source, read_some};
use std::io::Read;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use xxhash_rust::xxh3::xxh3_64;
use zstd::zstd_safe;

/// The image inside an archive. Everything is done by the calling thread until [`Source::parallel`].
pub(crate) struct ArchiveSource {
    pool: Pool,
    /// The input, until the threads have it.
    feed: Option<Feed<Box<dyn Read + Send>>>,
    /// What the threads bring, once there are any.
    items: Option<Receiver<Item>>,
    chunk: Option<Current>,
    /// Consumed before there were threads, and not yet digested.
    early: Vec<Consumed>,
    digest: Option<SyncSender<Consumed>>,
    sealer: Option<JoinHandle<Result<Sealer, Error>>>,
}

/// A chunk, what its bytes were, and the digests the archive gives for it.
type Consumed = (Chunk, Marks, Vec<u8>);

struct Current {
    chunk: Chunk,
    at: usize,
    marks: Marks,
    lines: Vec<u8>,
}

/// What the thread that reads found, in order.
enum Item {
    /// A frame, being decompressed.
    Frame {
        chunk: Receiver<Result<Chunk, Fault>>,
        lines: Vec<u8>,
    },
    /// The seal.
    Seal(Vec<u8>),
    /// Whether nothing follows the seal.
    Exhausted(bool),
    /// Something that ends it all.
    Fault(Fault),
}

/// A frame to be decompressed.
struct Job {
    frame: Vec<u8>,
    content: usize,
    checksum: u64,
    /// Where it lies, for words.
    place: Place,
    chunk: SyncSender<Result<Chunk, Fault>>,
}

#[derive(Clone, Copy)]
struct Place {
    frame: u64,
    byte: u64,
}

impl Place {
    fn damaged(self, what: &str) -> Fault {
        let Place { frame, byte } = self;
        Fault::damaged(format!(
            "{what}, in frame {frame} at byte {byte} of the archive"
        ))
    }
}

impl ArchiveSource {
    /// Reads the opening frame.
    pub fn open(input: impl Read + Send + 'static) -> Result<ArchiveSource, Error> {
        let mut feed = Feed {
            input: Box::new(input) as Box<dyn Read + Send>,
            place: Place { frame: 0, byte: 0 },
        };
        let title = match feed.opening() {
            Ok(title) => title,
            Err(Fault::Read(error)) => return Err(Error::Read(error)),
            Err(Fault::At(error)) => return Err(error),
            Err(Fault::Damaged(what)) => return Err(Error::Unrecognised { what }),
        };
        let version = title
            .strip_prefix(TITLE)
            .and_then(|rest| rest.strip_suffix('\n'));
        match version.and_then(|version| version.parse().ok()) {
            None => {
                let what = String::from("it is in zstd frames, but not those of an archive");
                return Err(Error::Unrecognised { what });
            }
            Some(found) if found != u64::from(ARCHIVE_VERSION) => {
                let entry = String::from("of the archive itself");
                return Err(Error::Version {
                    entry,
                    found,
                    known: ARCHIVE_VERSION,
                });
            }
            // One way to write it: `01` is not it.
            Some(_) if title != format!("{TITLE}{ARCHIVE_VERSION}\n") => {
                let what =
                    String::from("the title of the archive is not written as the format says");
                return Err(Error::Unrecognised { what });
            }
            Some(_) => (),
        }

        Ok(ArchiveSource {
            pool: Pool::default(),
            feed: Some(feed),
            items: None,
            chunk: None,
            early: Vec::new(),
            digest: None,
            sealer: None,
        })
    }

    fn start(&mut self) {
        let Some(feed) = self.feed.take() else {
            return;
        };
        let pool = &self.pool;
        let (jobs_to, jobs) = channel::<Job>();
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..workers() {
            let (jobs, pool) = (jobs.clone(), pool.clone());
            thread::spawn(move || decompress_frames(&jobs, &pool));
        }
        let (items_to, items) = sync_channel(workers() + 1);
        let feeding = pool.clone();
        thread::spawn(move || feed.run(&jobs_to, &items_to, &feeding));
        let (digest, chunks) = sync_channel(2);
        self.sealer = Some(thread::spawn(move || digest_chunks(chunks)));
        for consumed in self.early.drain(..) {
            // Where a digest is wrong, the next chunk's sending says so.
            let _ = digest.send(consumed);
        }
        self.items = Some(items);
        self.digest = Some(digest);
    }

    /// The next thing in the archive.
    fn next(&mut self) -> Result<Item, Fault> {
        if let Some(items) = &self.items {
            return items.recv().map_err(|_| died());
        }
        let feed = self.feed.as_mut().ok_or_else(died)?;
        let (jobs_to, jobs) = channel();
        let item = feed.next(&jobs_to, &self.pool)?;
        drop(jobs_to);
        decompress_frames(&Mutex::new(jobs), &self.pool);
        Ok(item)
    }

    /// Sends the chunk, which was consumed, to be digested.
    fn send(&mut self) -> Result<(), Fault> {
        let Some(Current {
            chunk,
            marks,
            lines,
            ..
        }) = self.chunk.take()
        else {
            return Ok(());
        };
        if self.feed.is_some() {
            self.early.push((chunk, marks, lines));
            return Ok(());
        }
        match &self.digest {
            Some(digest) if digest.send((chunk, marks, lines)).is_ok() => Ok(()),
            // It ends early only when it found a wrong digest.
            _ => Err(self.join().err().unwrap_or_else(died)),
        }
    }

    fn join(&mut self) -> Result<Sealer, Fault> {
        self.digest = None;
        match self.sealer.take().map(JoinHandle::join) {
            Some(Ok(result)) => result.map_err(Fault::At),
            _ => Err(died()),
        }
    }
}

fn died() -> Fault {
    Fault::Read(std::io::Error::other(
        "a thread that reads the archive has died",
    ))
}

impl Source for ArchiveSource {
    fn parallel(&mut self) {
        self.start();
    }

    fn fill(&mut self) -> Result<&[u8], Fault> {
        if self
            .chunk
            .as_ref()
            .is_none_or(|current| current.at >= current.chunk.len())
        {
            self.send()?;
            match self.next()? {
                Item::Frame { chunk, lines } => {
                    let chunk = chunk.recv().map_err(|_| died())??;
                    let marks = Marks::default();
                    self.chunk = Some(Current {
                        chunk,
                        at: 0,
                        marks,
                        lines,
                    });
                }
                Item::Fault(fault) => return Err(fault),
                Item::Seal(_) | Item::Exhausted(_) => {
                    return Err(Fault::damaged("the seal comes before the end record"));
                }
            }
        }
        let current = self.chunk.as_ref();
        Ok(current
            .and_then(|current| current.chunk.get(current.at..))
            .unwrap_or_default())
    }

    fn consume(&mut self, len: usize, part: Part) {
        if let Some(current) = &mut self.chunk {
            let end = (current.at + len).min(current.chunk.len());
            current.marks.bytes(part, current.at..end);
            current.at = end;
        }
    }

    fn entry(&mut self, path: &str, offset: u64, size: u64) {
        if let Some(current) = &mut self.chunk {
            current.marks.end(path, offset, size);
        }
    }

    fn finish(&mut self) -> Result<bool, Fault> {
        if self
            .chunk
            .as_ref()
            .is_some_and(|current| current.at < current.chunk.len())
        {
            return Err(Fault::damaged("bytes follow the end of the image"));
        }
        self.start();
        self.send()?;
        let computed = self.join()?.seal();
        match self.next()? {
            Item::Seal(given) if given == computed => Ok(true),
            Item::Seal(_) => Err(Fault::damaged("the seal is not that of this image")),
            Item::Fault(fault) => Err(fault),
            _ => Err(Fault::damaged("frames follow the end of the image")),
        }
    }

    fn exhausted(&mut self) -> Result<bool, Fault> {
        self.start();
        match self.next()? {
            Item::Exhausted(exhausted) => Ok(exhausted),
            Item::Fault(fault) => Err(fault),
            _ => Ok(false),
        }
    }
}

/// The input, and how far it was read.
struct Feed<R> {
    input: R,
    place: Place,
}

impl<R: Read> Feed<R> {
    /// Reads frames until the seal and hands them on, until nobody takes them.
    fn run(mut self, jobs: &Sender<Job>, items: &SyncSender<Item>, pool: &Pool) {
        loop {
            let item = self.next(jobs, pool).unwrap_or_else(Item::Fault);
            let more = matches!(item, Item::Frame { .. });
            let sealed = matches!(item, Item::Seal(_));
            if items.send(item).is_err() {
                return;
            }
            if sealed {
                let rest = read_some(&mut self.input, &mut [0]);
                let _ = items.send(rest.map_or_else(Item::Fault, |len| Item::Exhausted(len == 0)));
            }
            if !more {
                return;
            }
        }
    }

    fn opening(&mut self) -> Result<String, Fault> {
        let (magic, len) = self.frame_header()?;
        if magic != OPENING || len > MAX_TEXT {
            return Err(Fault::damaged(
                "it is in zstd frames, but not those of an archive",
            ));
        }
        let title = self.exactly(len, Vec::new())?;
        Ok(String::from_utf8_lossy(&title).into_owned())
    }

    fn next(&mut self, jobs: &Sender<Job>, pool: &Pool) -> Result<Item, Fault> {
        self.place.frame += 1;
        let place = self.place;
        let (magic, len) = self.frame_header()?;
        match magic {
            PRELUDE if (PRELUDE_FIXED..=PRELUDE_FIXED + MAX_LINES).contains(&len) => (),
            SEAL if len <= MAX_TEXT => return self.exactly(len, Vec::new()).map(Item::Seal),
            PRELUDE | SEAL => return Err(place.damaged("an absurd length")),
            _ => return Err(place.damaged("an unknown kind of frame")),
        }
        let mut compressed = [0; 4];
        let mut content = [0; 4];
        let mut checksum = [0; 8];
        self.fill(&mut compressed)?;
        self.fill(&mut content)?;
        self.fill(&mut checksum)?;
        let compressed = u32::from_le_bytes(compressed) as usize;
        let content = u32::from_le_bytes(content) as usize;
        if content == 0 || content > MAX_CHUNK || compressed > zstd_safe::compress_bound(content) {
            return Err(place.damaged("absurd lengths"));
        }
        let lines = self.exactly(len - PRELUDE_FIXED, Vec::new())?;
        let frame = self.exactly(compressed, pool.take())?;
        let (chunk_to, chunk) = sync_channel(1);
        let checksum = u64::from_le_bytes(checksum);
        let job = Job {
            frame,
            content,
            checksum,
            place,
            chunk: chunk_to,
        };
        jobs.send(job).map_err(|_| died())?;
        Ok(Item::Frame { chunk, lines })
    }

    /// Magic number and length of a skippable frame.
    fn frame_header(&mut self) -> Result<(u32, usize), Fault> {
        let mut magic = [0; 4];
        let mut len = [0; 4];
        self.fill(&mut magic)?;
        self.fill(&mut len)?;
        Ok((u32::from_le_bytes(magic), u32::from_le_bytes(len) as usize))
    }

    fn fill(&mut self, buf: &mut [u8]) -> Result<(), Fault> {
        let mut at = 0;
        while let Some(rest) = buf.get_mut(at..).filter(|rest| !rest.is_empty()) {
            match read_some(&mut self.input, rest)? {
                0 => return Err(self.truncated()),
                len => at += len,
            }
        }
        self.place.byte += buf.len() as u64;
        Ok(())
    }

    /// Exactly `len` bytes; memory is taken as they arrive.
    fn exactly(&mut self, len: usize, mut bytes: Vec<u8>) -> Result<Vec<u8>, Fault> {
        let read = (&mut self.input).take(len as u64).read_to_end(&mut bytes)?;
        self.place.byte += read as u64;
        if read == len {
            Ok(bytes)
        } else {
            Err(self.truncated())
        }
    }

    fn truncated(&self) -> Fault {
        self.place.damaged("the archive ends before its seal")
    }
}

fn decompress_frames(jobs: &Mutex<Receiver<Job>>, pool: &Pool) {
    let mut decompressor = zstd::bulk::Decompressor::new();
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job {
            frame,
            content,
            checksum,
            place,
            chunk,
        }) = next
        else {
            return;
        };
        let result = match &mut decompressor {
            _ if xxh3_64(&frame) != checksum => Err(place.damaged("a wrong checksum")),
            Ok(decompressor) => {
                let mut bytes = pool.take();
                bytes.reserve(content);
                match decompressor.decompress_to_buffer(&frame, &mut bytes) {
                    Ok(len) if len == content => Ok(pool.share(bytes)),
                    Ok(_) => Err(place.damaged("not as many bytes as it says")),
                    Err(_) => Err(place.damaged("what zstd cannot decompress")),
                }
            }
            Err(error) => Err(std::io::Error::new(error.kind(), error.to_string()).into()),
        };
        pool.give(frame);
        let _ = chunk.send(result);
    }
}

/// Digests chunks and compares with their lines, up to the first that is wrong.
fn digest_chunks(chunks: Receiver<(Chunk, Marks, Vec<u8>)>) -> Result<Sealer, Error> {
    let mut sealer = Sealer::default();
    for (chunk, marks, lines) in chunks {
        compare(&sealer.chunk(&chunk, &marks), &lines)?;
    }
    Ok(sealer)
}
