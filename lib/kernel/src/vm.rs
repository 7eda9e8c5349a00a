//! Another task's memory, from outside: `process_vm_readv(2)` and `/proc/PID/mem`.

use crate::{Error, Pid, Result};
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use std::fs::{File, OpenOptions};
use std::io::{IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;

/// Reads exactly `into.len()` bytes at `address` of `pid`.
pub fn read(pid: Pid, address: u64, into: &mut [u8]) -> Result<()> {
    let want = into.len();
    let mut done = 0;
    while done < want {
        let remote = [RemoteIoVec {
            base: address as usize + done,
            len: want - done,
        }];
        let what = || {
            format!(
                "read memory at {:#x} of process {pid}",
                address as usize + done
            )
        };
        match process_vm_readv(
            nix::unistd::Pid::from_raw(pid),
            &mut [IoSliceMut::new(&mut into[done..])],
            &remote,
        ) {
            Ok(0) => return Err(Error::errno(what(), libc::EFAULT)),
            Ok(n) => done += n,
            Err(errno) => return Err(Error::errno(what(), errno as i32)),
        }
    }
    Ok(())
}

/// Writes all of `bytes` at `address` of `pid`; the area must be writable.
pub fn write(pid: Pid, address: u64, bytes: &[u8]) -> Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let remote = [RemoteIoVec {
            base: address as usize + done,
            len: bytes.len() - done,
        }];
        let what = || {
            format!(
                "write memory at {:#x} of process {pid}",
                address as usize + done
            )
        };
        match process_vm_writev(
            nix::unistd::Pid::from_raw(pid),
            &[IoSlice::new(&bytes[done..])],
            &remote,
        ) {
            Ok(0) => return Err(Error::errno(what(), libc::EFAULT)),
            Ok(n) => done += n,
            Err(errno) => return Err(Error::errno(what(), errno as i32)),
        }
    }
    Ok(())
}

/// Reads a value of fixed size.
pub fn read_array<const N: usize>(pid: Pid, address: u64) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    read(pid, address, &mut bytes)?;
    Ok(bytes)
}

/// Reads a 64-bit word.
pub fn read_u64(pid: Pid, address: u64) -> Result<u64> {
    Ok(u64::from_ne_bytes(read_array(pid, address)?))
}

/// Writes through `/proc/PID/mem`, which a tracer may do in read-only areas too (`FOLL_FORCE`, mm/gup.c).
pub fn force_write(pid: Pid, address: u64, bytes: &[u8]) -> Result<()> {
    let path = format!("/proc/{pid}/mem");
    let mem: File = OpenOptions::new()
        .write(true)
        .open(&path)
        .map_err(|e| Error::io(format!("open {path}"), &e))?;
    mem.write_all_at(bytes, address)
        .map_err(|e| Error::io(format!("write {path} at {address:#x}"), &e))
}

/// Most ranges one call takes (`UIO_MAXIOV`).
const AT_ONCE: usize = 1024;

fn vectors(ranges: &[std::ops::Range<u64>]) -> Vec<RemoteIoVec> {
    let vector = |r: &std::ops::Range<u64>| RemoteIoVec {
        base: r.start as usize,
        len: (r.end - r.start) as usize,
    };
    ranges.iter().map(vector).collect()
}

/// Reads all ranges, one behind the other, into `into`, which is as long as they are together. Memory that its process
/// may not read itself is read too, by way of `/proc/PID/mem`.
pub fn gather(pid: Pid, ranges: &[std::ops::Range<u64>], into: &mut [u8]) -> Result<()> {
    let mut done = 0;
    for chunk in ranges.chunks(AT_ONCE) {
        let want: usize = chunk.iter().map(|r| (r.end - r.start) as usize).sum();
        let part = into
            .get_mut(done..done + want)
            .ok_or_else(|| Error::unreadable("memory", "more ranges than room for them"))?;
        let remote = vectors(chunk);
        let read = process_vm_readv(
            nix::unistd::Pid::from_raw(pid),
            &mut [IoSliceMut::new(part)],
            &remote,
        );
        if read != Ok(want) {
            force_gather(pid, chunk, part)?;
        }
        done += want;
    }
    Ok(())
}

fn force_gather(pid: Pid, ranges: &[std::ops::Range<u64>], into: &mut [u8]) -> Result<()> {
    let path = format!("/proc/{pid}/mem");
    let mem = File::open(&path).map_err(|e| Error::io(format!("open {path}"), &e))?;
    let mut rest = into;
    for range in ranges {
        let (part, behind) = rest.split_at_mut((range.end - range.start) as usize);
        mem.read_exact_at(part, range.start).map_err(|e| {
            let (start, end) = (range.start, range.end);
            Error::io(format!("read {path} at {start:#x}-{end:#x}"), &e)
        })?;
        rest = behind;
    }
    Ok(())
}

/// Writes `bytes` to all ranges, one behind the other, which are as long as it is together; all must be writable.
pub fn scatter(pid: Pid, ranges: &[std::ops::Range<u64>], bytes: &[u8]) -> Result<()> {
    let mut done = 0;
    for chunk in ranges.chunks(AT_ONCE) {
        let want: usize = chunk.iter().map(|r| (r.end - r.start) as usize).sum();
        let part = bytes
            .get(done..done + want)
            .ok_or_else(|| Error::unreadable("memory", "fewer bytes than ranges for them"))?;
        let remote = vectors(chunk);
        let local = [IoSlice::new(part)];
        if process_vm_writev(nix::unistd::Pid::from_raw(pid), &local, &remote) != Ok(want) {
            // Once more, range by range: a short count does not say why.
            let mut rest = part;
            for range in chunk {
                let (now, behind) = rest.split_at((range.end - range.start) as usize);
                write(pid, range.start, now)?;
                rest = behind;
            }
        }
        done += want;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_memory_reads_and_writes_back() {
        let pid = std::process::id() as Pid;
        let mut word = Box::new(7u64);
        let address = &mut *word as *mut u64 as u64;
        assert_eq!(read_u64(pid, address).unwrap(), 7);
        write(pid, address, &9u64.to_ne_bytes()).unwrap();
        assert_eq!(read_u64(pid, address).unwrap(), 9);
        force_write(pid, address, &11u64.to_ne_bytes()).unwrap();
        assert_eq!(read_u64(pid, address).unwrap(), 11);
    }

    #[test]
    fn an_address_that_is_not_there_is_an_error_that_names_it() {
        let error = read_u64(std::process::id() as Pid, 8).unwrap_err();
        assert!(error.to_string().contains("0x8"), "{error}");
    }

    #[test]
    fn ranges_are_gathered_and_scattered_also_where_reading_is_not_permitted() {
        let pid = std::process::id() as Pid;
        let area = crate::own::Area::private(3 * 4096).unwrap();
        let base = area.address();
        let ranges = [base + 10..base + 12, base + 8192..base + 8195];
        scatter(pid, &ranges, b"abcde").unwrap();
        area.protect(8192, 4096, libc::PROT_NONE).unwrap();
        let mut bytes = [0; 5];
        gather(pid, &ranges, &mut bytes).unwrap();
        assert_eq!(&bytes, b"abcde");
        let error = scatter(pid, &ranges, b"abcde").unwrap_err();
        assert!(
            error.to_string().contains(&format!("{:#x}", base + 8192)),
            "{error}"
        );
        let beyond = std::slice::from_ref(&ranges[1]);
        assert!(gather(pid, beyond, &mut bytes[..2]).is_err());
    }
}
