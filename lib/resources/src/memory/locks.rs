//! Locks on memory to come (mlockall(2), `MCL_FUTURE`). The kernel shows them in areas only, so the process is made to map
//! a page, and to give it back.

use crate::{Result, SourceProcess, TargetProcess};
use image::memory::FutureLocks;
use kernel::proc::{maps, status};
use kernel::remote::{Call, Caller};

/// `MCL_FUTURE` and `MCL_ONFAULT`.
const FUTURE: u64 = libc::MCL_FUTURE as u64;
const ON_FAULT: u64 = libc::MCL_ONFAULT as u64;

/// Finds out whether there are any. Where nothing is locked nobody is asked, for nothing has been mapped since. A program
/// that cannot be asked has none.
pub(super) fn dump(process: &mut SourceProcess) -> Result<Option<FutureLocks>> {
    let locked = |pid| status::read(pid).and_then(|status| status.number("VmLck"));
    let pid = process.pid;
    let before = locked(pid)?;
    if before == 0 {
        return Ok(None);
    }
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    let len = super::PAGE;
    let map = Call::new(libc::SYS_mmap, &[0, len, 0, flags, u64::MAX, 0]);
    let guest = &mut process.leader()?.guest;
    let at = match guest.call(map) {
        Ok(at) => at,
        Err(kernel::Error::Unsupported { .. }) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    // No more may be locked, which is asked only of what is to be locked (mm/mmap.c, `mlock_future_ok`).
    if at == -i64::from(libc::EAGAIN) {
        return Ok(Some(FutureLocks::AtOnce));
    }
    if (-4095..0).contains(&at) {
        return Ok(None);
    }
    let found = match locked(pid)? > before {
        false => None,
        true => {
            let areas = maps::read_all(pid)?;
            let area = areas.iter().find(|area| {
                let range = area.start..area.end;
                range.contains(&(at as u64))
            });
            Some(match area.is_some_and(|area| area.has("lf")) {
                true => FutureLocks::OnFault,
                false => FutureLocks::AtOnce,
            })
        }
    };
    let guest = &mut process.leader()?.guest;
    guest.must(
        "unmap a page",
        Call::new(libc::SYS_munmap, &[at as u64, len]),
    )?;
    Ok(found)
}

/// Sets them: after the last area was mapped.
pub(super) fn restore(process: &mut TargetProcess, locks: Option<FutureLocks>) -> Result<()> {
    let flags = match locks {
        None => return Ok(()),
        Some(FutureLocks::AtOnce) => FUTURE,
        Some(FutureLocks::OnFault) => FUTURE | ON_FAULT,
    };
    let call = Call::new(libc::SYS_mlockall, &[flags]);
    process.leader.must("lock memory to come", call)?;
    Ok(())
}
