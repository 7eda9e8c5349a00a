//! Pipes: looked into without taking anything out; made again, and filled.

use super::borrowed::Borrowed;
use super::collect::Collector;
use super::contents::{self, Bulk};
use crate::{Error, Result};
use image::bytes::Bytes;
use image::files::contents::Store;
use image::files::pipe::{End, Pipe};
use image::ids::PipeId;
use kernel::descriptor::{self, O_DIRECT, O_LARGEFILE_BIT, O_NONBLOCK, O_WRONLY};
use kernel::pipe;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The most a pipe holds in any configuration we know (`/proc/sys/fs/pipe-max-size` is 1 MiB unless raised).
const LARGEST: u32 = 256 << 20;

/// Takes an end.
pub(crate) fn dump(file: &Borrowed, collector: &mut Collector) -> Result<End> {
    Ok(End {
        pipe: collector.pipe(file)?,
    })
}

/// Takes the pipe itself.
pub(crate) fn contents(id: PipeId, file: &Borrowed, collector: &mut Collector) -> Result<Pipe> {
    let found = pipe::peek(file.fd.as_fd())?;
    // Packets stay packets when all who wrote them are gone.
    let packets = (found.len() > 1 || collector.around.has_packets(file))
        .then(|| found.iter().map(|p| p.len() as u32).collect());
    let bytes = found.concat();
    Ok(Pipe {
        id,
        capacity: pipe::capacity(file.fd.as_fd())?,
        length: bytes.len() as u32,
        packets,
        bytes: contents::store(Bulk::Bytes(bytes), collector)?,
        uid: file.stat.uid,
        gid: file.stat.gid,
    })
}

/// Both ends of a pipe being rebuilt.
#[derive(Debug)]
pub(crate) struct Ends {
    reader: OwnedFd,
    writer: OwnedFd,
    reader_given: bool,
    writer_given: bool,
}

/// Makes a pipe, with what the record has of its contents.
pub(crate) fn restore(record: &Pipe) -> Result<Ends> {
    let (reader, writer) = pipe::pipe()?;
    descriptor::chown(reader.as_fd(), record.uid, record.gid)?;
    prepare(record, writer.as_fd())?;
    Ok(Ends {
        reader,
        writer,
        reader_given: false,
        writer_given: false,
    })
}

/// Gives a pipe or fifo its capacity and what the record has of its contents.
pub(crate) fn prepare(record: &Pipe, writer: BorrowedFd) -> Result<()> {
    if record.length > record.capacity || record.capacity > LARGEST {
        return Err(wrong(record));
    }
    if pipe::capacity(writer)? != record.capacity {
        pipe::set_capacity(writer, record.capacity)?;
    }
    match &record.bytes {
        Store::Here(Bytes(bytes)) if bytes.len() as u64 == u64::from(record.length) => {
            put(record, writer, bytes)
        }
        Store::Here(_) => Err(wrong(record)),
        Store::Blob(_) => Ok(()),
    }
}

fn wrong(record: &Pipe) -> Error {
    Error::Refused(format!("pipe {}: its contents do not fit it", record.id.0))
}

/// Fills it from a stream.
pub(crate) fn fill(record: &Pipe, writer: BorrowedFd, from: &mut dyn Read) -> Result<()> {
    let mut bytes = vec![0; record.length as usize];
    from.read_exact(&mut bytes)
        .map_err(|e| kernel::Error::io(format!("read what was in pipe {}", record.id.0), &e))?;
    put(record, writer, &bytes)
}

fn put(record: &Pipe, writer: BorrowedFd, bytes: &[u8]) -> Result<()> {
    // Another open file description: the flags of the one the container gets are its own.
    let writer = descriptor::reopen(writer, O_WRONLY | O_NONBLOCK)?;
    let Some(packets) = &record.packets else {
        return Ok(pipe::put(writer.as_fd(), bytes)?);
    };
    descriptor::set_flags(writer.as_fd(), O_NONBLOCK | O_DIRECT)?;
    let mut rest = bytes;
    for length in packets {
        let (packet, after) = rest
            .split_at_checked(*length as usize)
            .ok_or_else(|| wrong(record))?;
        pipe::put(writer.as_fd(), packet)?;
        rest = after;
    }
    match rest {
        [] => Ok(()),
        _ => Err(wrong(record)),
    }
}

impl Ends {
    /// The end that filling it writes to.
    pub fn writer(&self) -> BorrowedFd<'_> {
        self.writer.as_fd()
    }

    /// An open file description of an end: the first of each is the one pipe(2) gave, others, and those that were opened by
    /// `/proc/PID/fd` (which alone have `O_LARGEFILE`), are opened that way again.
    pub fn open(&mut self, flags: u32) -> Result<OwnedFd> {
        let access = flags as i32 & descriptor::O_ACCMODE;
        let (end, given) = match access {
            descriptor::O_WRONLY => (&self.writer, &mut self.writer_given),
            _ => (&self.reader, &mut self.reader_given),
        };
        let original = access != descriptor::O_RDWR && flags as i32 & O_LARGEFILE_BIT == 0;
        let fd = if original && !*given {
            *given = true;
            descriptor::duplicate(end.as_fd())?
        } else {
            descriptor::reopen(end.as_fd(), access | O_NONBLOCK)?
        };
        Ok(fd)
    }
}
