//! Pages: read from frozen processes into the stream, and from the stream into those being rebuilt, by several threads
//! and a constant number of buffers.

use super::Layout;
use super::huge::{self, Price, Shadow};
use crate::sink::Sink;
use crate::{Error, Result};
use image::format::{Pages, Range, Space as Owner};
use image::memory::{Run, Shared, Space};
use kernel::{Pid, vm};
use std::collections::{HashMap, hash_map::Entry};
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

/// Bytes moved at once.
pub(super) const CHUNK: usize = 1 << 20;
/// Ranges of one `pages/N` entry: its record stays small.
pub(super) const RANGES: usize = 8192;
/// Buffers between reading and writing, on either side.
const BUFFERS: usize = 6;
/// Threads that place pages.
const WORKERS: usize = 2;

type Address = std::ops::Range<u64>;

/// Cuts ranges into pieces that fill a buffer each, several small ranges in one.
fn pieces(ranges: &[Address]) -> Vec<Vec<Address>> {
    let mut all = Vec::new();
    let mut piece = Vec::new();
    let mut room = CHUNK as u64;
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + room);
            piece.push(at..end);
            room -= end - at;
            at = end;
            if room == 0 {
                all.push(std::mem::take(&mut piece));
                room = CHUNK as u64;
            }
        }
    }
    if !piece.is_empty() {
        all.push(piece);
    }
    all
}

fn length(ranges: &[Address]) -> usize {
    ranges.iter().map(|r| (r.end - r.start) as usize).sum()
}

/// Writes the pages of a space: one thread reads the process, ours writes the stream.
pub fn write<W: Write>(layout: &Layout, writer: &mut image::Writer<W>) -> Result<()> {
    for ranges in layout.pages.chunks(RANGES) {
        let of = |r: &Address| Range {
            start: r.start,
            len: r.end - r.start,
        };
        let mut entry = writer.pages(&Pages {
            space: Owner::Mm(layout.space),
            ranges: ranges.iter().map(of).collect(),
        })?;
        stream(layout.pid, ranges, |bytes| Ok(entry.put(bytes)?))?;
        entry.finish()?;
    }
    Ok(())
}

fn stream(pid: Pid, ranges: &[Address], mut put: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let (filled, full) = sync_channel::<Result<Vec<u8>>>(BUFFERS);
    let (used, empty) = sync_channel::<Vec<u8>>(BUFFERS);
    for _ in 0..BUFFERS {
        let _ = used.send(Vec::with_capacity(CHUNK));
    }
    // Both ends of ours go with this closure, before the reader is waited for: it must not wait for us.
    std::thread::scope(move |scope| {
        scope.spawn(move || {
            for piece in pieces(ranges) {
                // The other side is gone when it failed: nobody waits for more.
                let Ok(mut buffer) = empty.recv() else { return };
                buffer.resize(length(&piece), 0);
                let read = vm::gather(pid, &piece, &mut buffer);
                if filled
                    .send(read.map(|()| buffer).map_err(Error::from))
                    .is_err()
                {
                    return;
                }
            }
        });
        for buffer in full {
            let buffer = buffer?;
            put(&buffer)?;
            let _ = used.send(buffer);
        }
        Ok(())
    })
}

struct Piece {
    pid: Pid,
    ranges: Vec<Address>,
    bytes: Vec<u8>,
    /// All of it goes to huge pages.
    huge: bool,
}

/// Places pages while more arrive: workers that write into processes what was read from the stream.
pub struct Filler {
    /// `None` once finished.
    pieces: Option<SyncSender<Piece>>,
    empty: Receiver<Vec<u8>>,
    workers: Vec<JoinHandle<Result<()>>>,
    /// Where huge pages are filled in, by process.
    shadows: HashMap<Pid, Vec<Shadow>>,
    price: Arc<Price>,
}

impl std::fmt::Debug for Filler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Filler({} workers)", self.workers.len())
    }
}

impl Filler {
    /// Starts the workers.
    pub fn start() -> Self {
        let (pieces, queue) = sync_channel::<Piece>(BUFFERS);
        let (used, empty) = sync_channel::<Vec<u8>>(BUFFERS + WORKERS);
        for _ in 0..BUFFERS {
            let _ = used.send(Vec::with_capacity(CHUNK));
        }
        let queue = Arc::new(Mutex::new(queue));
        let price = Arc::new(Price::default());
        let workers = (0..WORKERS)
            .map(|_| {
                let (queue, used, price) = (queue.clone(), used.clone(), price.clone());
                std::thread::spawn(move || work(&queue, &used, &price))
            })
            .collect();
        Filler {
            pieces: Some(pieces),
            empty,
            workers,
            shadows: HashMap::new(),
            price,
        }
    }

    /// Reads the bytes of these ranges of a space and has them placed in process `pid`, which has it mapped.
    pub fn space(
        &mut self,
        pid: Pid,
        space: &Space,
        ranges: &[Range],
        from: &mut dyn Read,
    ) -> Result<()> {
        let ranges = checked(ranges, |run| space.check_run(run))?;
        if let Entry::Vacant(new) = self.shadows.entry(pid) {
            new.insert(huge::shadows(space)?);
        }
        // In portions, so that what huge pages cost is known before all of them are decided on.
        let mut portion = Vec::new();
        for range in huge::cut(&ranges) {
            let shadows = self.shadows.get(&pid).map_or(&[][..], Vec::as_slice);
            let shadows = if self.price.is_right() { shadows } else { &[] };
            portion.extend(huge::place(shadows, std::slice::from_ref(&range)));
            if length(&portion) >= huge::PORTION as usize {
                self.read(pid, &std::mem::take(&mut portion), from)?;
            }
        }
        self.read(pid, &portion, from)
    }

    fn read(&mut self, pid: Pid, ranges: &[Address], from: &mut dyn Read) -> Result<()> {
        for ranges in pieces(ranges) {
            let (Some(queue), Ok(mut bytes)) = (&self.pieces, self.empty.recv()) else {
                return self.failed();
            };
            bytes.resize(length(&ranges), 0);
            from.read_exact(&mut bytes).map_err(image_error)?;
            let shadows = self.shadows.get(&pid).map_or(&[][..], Vec::as_slice);
            let huge = huge::is_in(shadows, &ranges);
            let piece = Piece {
                pid,
                ranges,
                bytes,
                huge,
            };
            if queue.send(piece).is_err() {
                return self.failed();
            }
        }
        Ok(())
    }

    fn failed(&mut self) -> Result<()> {
        self.join()?;
        Err(Error::Refused("pages came after the last".into()))
    }

    /// Waits until everything is in its place.
    pub fn finish(mut self) -> Result<()> {
        self.join()
    }

    fn join(&mut self) -> Result<()> {
        self.pieces = None;
        let mut result = Ok(());
        for worker in self.workers.drain(..) {
            let ended = worker.join().unwrap_or_else(|_| {
                Err(Error::Refused("a thread that places pages has died".into()))
            });
            result = result.and(ended);
        }
        result
    }
}

fn work(queue: &Mutex<Receiver<Piece>>, used: &SyncSender<Vec<u8>>, price: &Price) -> Result<()> {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Piece {
            pid,
            ranges,
            bytes,
            huge,
        }) = next
        else {
            return Ok(());
        };
        let start = huge::spent();
        vm::scatter(pid, &ranges, &bytes)?;
        if huge {
            price.paid(huge::spent().saturating_sub(start), bytes.len());
        }
        // Whoever reads may have ended by now.
        let _ = used.try_send(bytes);
    }
}

/// Reads the bytes of these ranges of a memory object into `fd`, ours.
pub fn object(
    fd: BorrowedFd,
    object: &Shared,
    ranges: &[Range],
    from: &mut dyn Read,
) -> Result<()> {
    let ranges = checked(ranges, |run| object.check_run(run))?;
    let size = object.length().unwrap_or(object.size);
    let mut sink = Sink::new(fd, size)?;
    let mut bytes = Vec::with_capacity(CHUNK);
    for ranges in pieces(&ranges) {
        bytes.resize(length(&ranges), 0);
        from.read_exact(&mut bytes).map_err(image_error)?;
        let mut rest = &*bytes;
        for range in ranges {
            let (now, behind) = rest.split_at((range.end - range.start) as usize);
            // The object may end within its last page.
            let there = size.saturating_sub(range.start).min(now.len() as u64);
            let now = now.get(..there as usize).unwrap_or_default();
            sink.put(range.start, now)?;
            rest = behind;
        }
    }
    Ok(())
}

fn checked(
    ranges: &[Range],
    check: impl Fn(Run) -> std::result::Result<(), String>,
) -> Result<Vec<Address>> {
    ranges
        .iter()
        .map(|&Range { start, len }| {
            check(Run { start, len }).map_err(Error::Refused)?;
            Ok(start..start + len)
        })
        .collect()
}

/// The stream's own error, where it is one.
fn image_error(error: std::io::Error) -> Error {
    match error.downcast::<image::Error>() {
        Ok(error) => Error::Image(error),
        Err(error) => Error::Image(image::Error::Read(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_and_gathered_to_whole_buffers() {
        let chunk = CHUNK as u64;
        let cut = pieces(&[0..4096, 8192..8192 + 2 * chunk]);
        assert_eq!(cut.len(), 3);
        assert_eq!(cut[0], [0..4096, 8192..8192 + chunk - 4096]);
        assert_eq!(cut[1], vec![8192 + chunk - 4096..8192 + 2 * chunk - 4096]);
        assert_eq!(cut[2], vec![8192 + 2 * chunk - 4096..8192 + 2 * chunk]);
        assert!(cut[..2].iter().all(|piece| length(piece) == CHUNK));
        assert!(pieces(&[]).is_empty());
    }

    #[test]
    fn a_dead_reader_and_a_dead_process_are_errors_and_no_hang() {
        let me = std::process::id() as Pid;
        let buffer = vec![1u8; 32 * CHUNK];
        let start = buffer.as_ptr() as u64;
        let ranges = [start..start + buffer.len() as u64, start..start];
        let mut seen = 0;
        let error = stream(me, &ranges, |bytes| {
            seen += bytes.len();
            Err(Error::Refused("closed".into()))
        });
        assert!(error.is_err() && seen == CHUNK);
        let nothing = [4096..4096 + 32 * CHUNK as u64, 0..0];
        assert!(stream(me, &nothing, |_| Ok(())).is_err());
    }

    #[test]
    fn a_failing_worker_ends_the_filling_with_its_error() {
        let mut filler = Filler::start();
        let ranges = [4096..4096 + 64 * CHUNK as u64, 0..0];
        let mut zeros = std::io::repeat(0);
        let me = std::process::id() as Pid;
        let read = filler.read(me, &ranges, &mut zeros);
        let error = read.and_then(|()| filler.finish()).unwrap_err();
        assert!(error.to_string().contains("write memory at"), "{error}");
    }
}
