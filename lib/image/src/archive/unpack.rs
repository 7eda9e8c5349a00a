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

/// The image inside an archive.
pub(crate) struct ArchiveSource {
    work: Work,
    chunk: Option<Current>,
    pool: Pool,
}

/// Who does the work.
enum Work {
    /// The caller's thread, so that a caller may still fork when it has read the first entries.
    Alone(Box<Alone>),
    /// Threads of ours.
    Threads(Threads),
    /// Nobody: it has failed before.
    Ended,
}

struct Alone {
    feed: Feed,
    sealer: Sealer,
}

struct Threads {
    items: Receiver<Item>,
    digest: Option<SyncSender<(Chunk, Marks, Vec<u8>)>>,
    sealer: Option<JoinHandle<Result<Sealer, Error>>>,
}

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

/// A frame, as it was read.
struct Frame {
    compressed: Vec<u8>,
    content: usize,
    checksum: u64,
    /// Where it lies, for words.
    place: Place,
}

/// A frame, and where its chunk goes.
type Job = (Frame, SyncSender<Result<Chunk, Fault>>);

/// What comes next in an archive.
enum Next {
    Frame(Frame, Vec<u8>),
    Seal(Vec<u8>),
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
        let place = Place { frame: 0, byte: 0 };
        let mut feed = Feed {
            input: Box::new(input),
            place,
        };
        let title = match feed.opening() {
            Ok(title) => title,
            Err(Fault::Read(error)) => return Err(Error::Read(error)),
            Err(Fault::At(error)) => return Err(error),
            Err(Fault::Damaged(what)) => return Err(Error::Unrecognised { what }),
        };
        check_title(&title)?;
        let sealer = Sealer::default();
        Ok(ArchiveSource {
            work: Work::Alone(Box::new(Alone { feed, sealer })),
            chunk: None,
            pool: Pool::default(),
        })
    }

    /// Has the chunk, which was consumed, digested and compared.
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
        match &mut self.work {
            Work::Alone(alone) => {
                compare(&alone.sealer.chunk(&chunk, &marks), &lines).map_err(Fault::At)
            }
            Work::Threads(threads) => threads.send((chunk, marks, lines)),
            Work::Ended => Err(died()),
        }
    }

    fn next(&mut self) -> Result<Current, Fault> {
        let (chunk, lines) = match &mut self.work {
            Work::Alone(alone) => match alone.feed.next(&self.pool)? {
                Next::Frame(frame, lines) => {
                    let mut decompressor = zstd::bulk::Decompressor::new();
                    (decompress(&mut decompressor, frame, &self.pool)?, lines)
                }
                Next::Seal(_) => return Err(early_seal()),
            },
            Work::Threads(threads) => match threads.items.recv().map_err(|_| died())? {
                Item::Frame { chunk, lines } => (chunk.recv().map_err(|_| died())??, lines),
                Item::Fault(fault) => return Err(fault),
                Item::Seal(_) | Item::Exhausted(_) => return Err(early_seal()),
            },
            Work::Ended => return Err(died()),
        };
        let marks = Marks::default();
        Ok(Current {
            chunk,
            at: 0,
            marks,
            lines,
        })
    }

    /// The digests of all that was consumed.
    fn sealer(&mut self) -> Result<Sealer, Fault> {
        match &mut self.work {
            Work::Alone(alone) => Ok(std::mem::take(&mut alone.sealer)),
            Work::Threads(threads) => threads.join(),
            Work::Ended => Err(died()),
        }
    }
}

fn check_title(title: &str) -> Result<(), Error> {
    let version = title
        .strip_prefix(TITLE)
        .and_then(|rest| rest.strip_suffix('\n'));
    let what = match version.and_then(|version| version.parse().ok()) {
        None => "it is in zstd frames, but not those of an archive",
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
            "the title of the archive is not written as the format says"
        }
        Some(_) => return Ok(()),
    };
    Err(Error::Unrecognised { what: what.into() })
}

fn died() -> Fault {
    Fault::Read(std::io::Error::other(
        "a thread that reads the archive has died",
    ))
}

fn early_seal() -> Fault {
    Fault::damaged("the seal comes before the end record")
}

impl Threads {
    fn start(alone: Alone, pool: Pool) -> Threads {
        let Alone { feed, sealer } = alone;
        let (jobs_to, jobs) = channel::<Job>();
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..workers() {
            let (jobs, pool) = (jobs.clone(), pool.clone());
            thread::spawn(move || decompress_frames(&jobs, &pool));
        }
        let (items_to, items) = sync_channel(workers() + 1);
        thread::spawn(move || feed.run(&jobs_to, &items_to, &pool));
        let (digest, chunks) = sync_channel(2);
        let sealer = thread::spawn(move || digest_chunks(sealer, chunks));
        Threads {
            items,
            digest: Some(digest),
            sealer: Some(sealer),
        }
    }

    fn send(&mut self, consumed: (Chunk, Marks, Vec<u8>)) -> Result<(), Fault> {
        match &self.digest {
            Some(digest) if digest.send(consumed).is_ok() => Ok(()),
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

impl Source for ArchiveSource {
    fn fill(&mut self) -> Result<&[u8], Fault> {
        if self
            .chunk
            .as_ref()
            .is_none_or(|current| current.at >= current.chunk.len())
        {
            self.send()?;
            self.chunk = Some(self.next()?);
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

    fn parallel(&mut self) {
        self.work = match std::mem::replace(&mut self.work, Work::Ended) {
            Work::Alone(alone) => Work::Threads(Threads::start(*alone, self.pool.clone())),
            other => other,
        };
    }

    fn finish(&mut self) -> Result<bool, Fault> {
        if self
            .chunk
            .as_ref()
            .is_some_and(|current| current.at < current.chunk.len())
        {
            return Err(Fault::damaged("bytes follow the end of the image"));
        }
        self.send()?;
        let computed = self.sealer()?.seal();
        let given = match &mut self.work {
            Work::Alone(alone) => match alone.feed.next(&self.pool)? {
                Next::Seal(given) => Some(given),
                Next::Frame(..) => None,
            },
            Work::Threads(threads) => match threads.items.recv().map_err(|_| died())? {
                Item::Seal(given) => Some(given),
                Item::Fault(fault) => return Err(fault),
                Item::Frame { .. } | Item::Exhausted(_) => None,
            },
            Work::Ended => return Err(died()),
        };
        match given {
            Some(given) if given == computed => Ok(true),
            Some(_) => Err(Fault::damaged("the seal is not that of this image")),
            None => Err(Fault::damaged("frames follow the end of the image")),
        }
    }

    fn exhausted(&mut self) -> Result<bool, Fault> {
        match &mut self.work {
            Work::Alone(alone) => Ok(read_some(&mut alone.feed.input, &mut [0])? == 0),
            Work::Threads(threads) => match threads.items.recv().map_err(|_| died())? {
                Item::Exhausted(exhausted) => Ok(exhausted),
                Item::Fault(fault) => Err(fault),
                Item::Frame { .. } | Item::Seal(_) => Ok(false),
            },
            Work::Ended => Err(died()),
        }
    }
}

/// The input, and how far it was read.
struct Feed {
    input: Box<dyn Read + Send>,
    place: Place,
}

impl Feed {
    /// Reads frames until the seal and hands them on, until nobody takes them.
    fn run(mut self, jobs: &Sender<Job>, items: &SyncSender<Item>, pool: &Pool) {
        loop {
            let item = self.next(pool).and_then(|next| match next {
                Next::Seal(seal) => Ok(Item::Seal(seal)),
                Next::Frame(frame, lines) => {
                    let (chunk_to, chunk) = sync_channel(1);
                    jobs.send((frame, chunk_to)).map_err(|_| died())?;
                    Ok(Item::Frame { chunk, lines })
                }
            });
            let item = item.unwrap_or_else(Item::Fault);
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

    fn next(&mut self, pool: &Pool) -> Result<Next, Fault> {
        self.place.frame += 1;
        let place = self.place;
        let (magic, len) = self.frame_header()?;
        match magic {
            PRELUDE if (PRELUDE_FIXED..=PRELUDE_FIXED + MAX_LINES).contains(&len) => (),
            SEAL if len <= MAX_TEXT => return self.exactly(len, Vec::new()).map(Next::Seal),
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
        let compressed = self.exactly(compressed, pool.take())?;
        let checksum = u64::from_le_bytes(checksum);
        let frame = Frame {
            compressed,
            content,
            checksum,
            place,
        };
        Ok(Next::Frame(frame, lines))
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
        let Ok((frame, chunk)) = next else {
            return;
        };
        let _ = chunk.send(decompress(&mut decompressor, frame, pool));
    }
}

fn decompress(
    decompressor: &mut std::io::Result<zstd::bulk::Decompressor<'_>>,
    frame: Frame,
    pool: &Pool,
) -> Result<Chunk, Fault> {
    let Frame {
        compressed,
        content,
        checksum,
        place,
    } = frame;
    let result = match decompressor {
        _ if xxh3_64(&compressed) != checksum => Err(place.damaged("a wrong checksum")),
        Ok(decompressor) => {
            let mut bytes = pool.take();
            bytes.reserve(content);
            match decompressor.decompress_to_buffer(&compressed, &mut bytes) {
                Ok(len) if len == content => Ok(pool.share(bytes)),
                Ok(_) => Err(place.damaged("not as many bytes as it says")),
                Err(_) => Err(place.damaged("what zstd cannot decompress")),
            }
        }
        Err(error) => Err(std::io::Error::new(error.kind(), error.to_string()).into()),
    };
    pool.give(compressed);
    result
}

/// Digests chunks and compares with their lines, up to the first that is wrong.
fn digest_chunks(
    mut sealer: Sealer,
    chunks: Receiver<(Chunk, Marks, Vec<u8>)>,
) -> Result<Sealer, Error> {
    for (chunk, marks, lines) in chunks {
        compare(&sealer.chunk(&chunk, &marks), &lines)?;
    }
    Ok(sealer)
}
