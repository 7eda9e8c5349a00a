//! Memory with a will of its own: sealed, droppable, with guard pages, reserved by the terabyte, wiped or missing in a child; a
//! stack that grows only afterwards.
#![forbid(unsafe_code)]

use kernel::own::{Area, child::fork};
use libc::{MAP_ANONYMOUS, MAP_NORESERVE, MAP_PRIVATE, PROT_NONE, PROT_READ, PROT_WRITE};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::process::ExitCode;
use subject::Stage;

const PAGE: usize = 4096;
const TERABYTE: usize = 1 << 40;
/// `MAP_DROPPABLE`, `MADV_GUARD_INSTALL` (include/uapi), since Linux 6.11 and 6.13.
const DROPPABLE: i32 = 0x08;
const GUARD_INSTALL: i32 = 102;

/// An area and its flags, as `/proc/self/smaps` shows them.
fn shown(area: &Area) -> Option<(u64, u64, Vec<&'static str>)> {
    let areas = kernel::proc::maps::read_all(std::process::id() as i32).expect("smaps");
    let found = areas
        .iter()
        .find(|shown| (shown.start..shown.end).contains(&area.address()))?;
    let flags = ["rd", "wr", "sl", "dp", "gu", "wf", "dc", "nr"];
    let has = flags.into_iter().filter(|flag| found.has(flag));
    Some((found.start, found.end, has.collect()))
}

/// Uses as many pages of the stack.
fn deep(pages: usize) -> usize {
    let page = std::hint::black_box([pages as u8; PAGE]);
    match pages {
        0 => usize::from(page[PAGE - 1]),
        _ => deep(pages - 1) + usize::from(std::hint::black_box(page)[0] == pages as u8),
    }
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let none = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    let reserved = Area::map(4 * TERABYTE, PROT_NONE, none, None).expect("a reservation");
    // The program begins to use a part of it.
    let (used, reserved) = reserved.split(4 * PAGE).expect("split");
    used.protect(0, 4 * PAGE, PROT_READ | PROT_WRITE)
        .expect("mprotect");
    used.write(PAGE, b"in use").expect("write");

    // Older kernels have none of the next three; then they are areas as any other.
    let fresh = || {
        let area = Area::private(4 * PAGE).expect("an area");
        area.write(0, b"first").expect("write");
        area.write(3 * PAGE, b"last").expect("write");
        area
    };
    let sealed = fresh();
    let is_sealed = sealed.seal().is_ok();
    let guarded = fresh();
    let has_guard = guarded.advise(PAGE, PAGE, GUARD_INSTALL).is_ok();
    let kind = DROPPABLE | MAP_ANONYMOUS;
    let droppable = Area::map(4 * PAGE, PROT_READ | PROT_WRITE, kind, None).ok();
    let had = (is_sealed, has_guard, droppable.is_some());
    println!("sealed, guarded, droppable: {had:?}");
    let wiped = fresh();
    wiped
        .advise(0, 4 * PAGE, libc::MADV_WIPEONFORK)
        .expect("MADV_WIPEONFORK");
    let missing = fresh();
    missing
        .advise(0, 4 * PAGE, libc::MADV_DONTFORK)
        .expect("MADV_DONTFORK");
    let look = || {
        let all = [&reserved, &used, &sealed, &guarded, &wiped, &missing];
        let mut found = all.map(shown).to_vec();
        found.push(droppable.as_ref().and_then(shown));
        found
    };
    let before = look();

    stage.wait();

    // A megabyte at least, where a few pages were in use.
    stage.same("how deep the stack goes", 200, deep(200));

    stage.same("the areas and their flags", before, look());
    stage.holds(
        "what is reserved is forbidden",
        reserved.read(0, 1).is_err(),
    );
    let is = |area: &Area, at, bytes: &[u8]| area.read(at, bytes.len()).is_ok_and(|b| b == bytes);
    stage.holds("what is in use", is(&used, PAGE, b"in use"));
    for (what, area) in [
        ("sealed memory", &sealed),
        ("memory with a guard page", &guarded),
        ("memory that is wiped in a child", &wiped),
        ("memory that no child has", &missing),
    ] {
        stage.holds(what, is(area, 0, b"first") && is(area, 3 * PAGE, b"last"));
    }
    let change = sealed.protect(0, PAGE, PROT_READ);
    stage.same("nobody changes what is sealed", is_sealed, change.is_err());
    let guard = guarded.read(PAGE, 1);
    stage.same("the guard page guards", has_guard, guard.is_err());
    if let Some(area) = &droppable {
        let holds = area.write(7, b"a while").is_ok() && area.read(7, 7).is_ok();
        stage.holds("droppable memory can be used", holds);
    }
    let child = fork(|| {
        let zero = is(&wiped, 0, &[0; 5]) && is(&wiped, 3 * PAGE, &[0; 4]);
        i32::from(!zero) + 2 * i32::from(missing.read(0, 1).is_ok())
    })
    .expect("fork");
    let child = Pid::from_raw(child);
    let wanted = Ok(WaitStatus::Exited(child, 0));
    stage.same("what a child has of them", wanted, waitpid(child, None));
    stage.leave()
}
