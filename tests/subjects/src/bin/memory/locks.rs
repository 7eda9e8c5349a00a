//! Locks on memory to come: a page mapped afterwards is locked, as those mapped before are.
#![forbid(unsafe_code)]

use kernel::own::Area;
use nix::sys::mman::{MlockAllFlags, mlockall};
use std::process::ExitCode;
use subject::Stage;

const PAGE: usize = 4096;

/// Whether the area is locked, and whether page by page.
fn locks(area: &Area) -> Option<(bool, bool)> {
    let areas = kernel::proc::maps::read_all(std::process::id() as i32).expect("smaps");
    let found = areas
        .iter()
        .find(|shown| (shown.start..shown.end).contains(&area.address()))?;
    Some((found.has("lo"), found.has("lf")))
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let none = Area::private(PAGE).expect("an area");
    let flags = MlockAllFlags::MCL_FUTURE | MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    mlockall(flags).expect("mlockall");
    let before = Area::private(PAGE).expect("an area");
    before.write(0, b"locked").expect("write");
    stage.same("before", Some((true, true)), locks(&before));

    stage.wait();

    stage.same("what came earlier", Some((false, false)), locks(&none));
    stage.same("what was locked", Some((true, true)), locks(&before));
    let after = Area::private(PAGE).expect("an area");
    stage.same("what comes later", Some((true, true)), locks(&after));
    mlockall(MlockAllFlags::MCL_FUTURE).expect("mlockall");
    let later = Area::private(3 * PAGE).expect("an area");
    stage.same("the kind changes", Some((true, false)), locks(&later));
    stage.leave()
}
