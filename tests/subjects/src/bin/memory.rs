//! Every kind of area: private, shared anonymous, of a file (private and shared, with pages of its own), of a deleted
//! file, of a memfd; read-only, forbidden, guard and dontdump ones; huge pages; locked; holes; shared with a child.
#![forbid(unsafe_code)]

use kernel::own::{Area, child::fork};
use libc::{
    MAP_ANONYMOUS, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, PROT_EXEC, PROT_NONE, PROT_READ,
    PROT_WRITE,
};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::process::ExitCode;
use subject::Stage;

const PAGE: usize = 4096;
const HUGE: usize = 2 << 20;

/// Bytes that depend on the seed, do not repeat by pages, and do not compress well.
fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// The areas as `/proc/self/smaps` shows them, without what the kernel's own pages' coming and going changes.
fn areas() -> Vec<String> {
    let smaps = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
    let mut all: Vec<String> = Vec::new();
    for line in smaps.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if !first.ends_with(':') {
            // Device and inode of a file without a name are made anew.
            let words: Vec<&str> = line.split_whitespace().collect();
            all.push(format!(
                "{} {} {} {}",
                words[0],
                words[1],
                words[2],
                words.get(5).unwrap_or(&"")
            ));
        } else if first == "VmFlags:" {
            let flags: Vec<&str> = line
                .split_whitespace()
                .skip(1)
                .filter(|f| *f != "sd")
                .collect();
            all.push(flags.join(" "));
        }
    }
    // The heap may grow by what reading this takes.
    all.retain(|line| !line.contains("[heap]"));
    all
}

fn file(stage: &Stage, name: &str, contents: &[u8]) -> File {
    let path = stage.path(name);
    std::fs::write(&path, contents).expect("write a file");
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("open the file")
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let rw = PROT_READ | PROT_WRITE;
    let mut expected: Vec<(&str, Area, usize, Vec<u8>)> = Vec::new();

    let sparse = Area::map(
        64 * HUGE,
        rw,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
        None,
    )
    .expect("a sparse area");
    for place in [0, 17 * PAGE, 3 * HUGE + 5, 64 * HUGE - 100] {
        sparse
            .write(place, &bytes(place as u64, 100))
            .expect("write");
    }

    let shared = Area::map(40 * PAGE, rw, MAP_SHARED | MAP_ANONYMOUS, None).expect("shared memory");
    shared.write(PAGE, &bytes(1, 3 * PAGE)).expect("write");

    let original = bytes(2, 10 * PAGE);
    let on_disk = file(&stage, "private", &original);
    let private_file = Area::map(10 * PAGE, rw, MAP_PRIVATE, Some((on_disk.as_fd(), 0)))
        .expect("a private file area");
    private_file
        .write(4 * PAGE, &bytes(3, PAGE))
        .expect("write over one page");
    let mut mixed = original.clone();
    mixed[4 * PAGE..5 * PAGE].copy_from_slice(&bytes(3, PAGE));
    expected.push(("a private file area", private_file, 0, mixed));

    let shared_disk = file(&stage, "shared", &bytes(4, 6 * PAGE));
    let shared_file = Area::map(
        4 * PAGE,
        rw,
        MAP_SHARED,
        Some((shared_disk.as_fd(), 2 * PAGE as i64)),
    )
    .expect("a shared file area");

    let gone = file(&stage, "gone", &bytes(5, 3 * PAGE));
    let deleted =
        Area::map(3 * PAGE, PROT_READ, MAP_SHARED, Some((gone.as_fd(), 0))).expect("a file area");
    std::fs::remove_file(stage.path("gone")).expect("unlink");
    expected.push(("an area of a deleted file", deleted, 0, bytes(5, 3 * PAGE)));
    drop(gone);

    let memfd = memfd_create(c"subject", MFdFlags::MFD_CLOEXEC).expect("memfd_create");
    nix::unistd::ftruncate(&memfd, 5 * PAGE as i64).expect("ftruncate");
    let of_memfd =
        Area::map(5 * PAGE, rw, MAP_SHARED, Some((memfd.as_fd(), 0))).expect("a memfd area");
    of_memfd.write(2 * PAGE, &bytes(6, PAGE)).expect("write");

    let readonly = Area::private(4 * PAGE).expect("an area");
    readonly.write(0, &bytes(7, 4 * PAGE)).expect("write");
    readonly.protect(0, 2 * PAGE, PROT_READ).expect("mprotect");
    readonly
        .protect(2 * PAGE, 2 * PAGE, PROT_READ | PROT_EXEC)
        .expect("mprotect");
    expected.push(("a read-only area", readonly, 0, bytes(7, 4 * PAGE)));

    let forbidden = Area::private(4 * PAGE).expect("an area");
    forbidden.write(0, &bytes(8, 4 * PAGE)).expect("write");
    forbidden.protect(0, 4 * PAGE, PROT_NONE).expect("mprotect");

    let advised = Area::private(8 * PAGE).expect("an area");
    advised.write(0, &bytes(9, 8 * PAGE)).expect("write");
    advised
        .advise(0, 2 * PAGE, libc::MADV_DONTDUMP)
        .expect("MADV_DONTDUMP");
    advised
        .advise(2 * PAGE, 2 * PAGE, libc::MADV_DONTFORK)
        .expect("MADV_DONTFORK");
    advised
        .advise(4 * PAGE, 2 * PAGE, libc::MADV_RANDOM)
        .expect("MADV_RANDOM");
    // Where the kernel merges pages (CONFIG_KSM).
    if let Err(error) = advised.advise(6 * PAGE, PAGE, libc::MADV_MERGEABLE) {
        println!("not tried: MADV_MERGEABLE: {error}");
    }
    advised
        .advise(7 * PAGE, PAGE, libc::MADV_NOHUGEPAGE)
        .expect("MADV_NOHUGEPAGE");
    expected.push(("an advised area", advised, 0, bytes(9, 8 * PAGE)));

    let huge = Area::private(4 * HUGE).expect("an area");
    huge.advise(0, 4 * HUGE, libc::MADV_HUGEPAGE)
        .expect("MADV_HUGEPAGE");
    huge.write(0, &bytes(10, 3 * HUGE)).expect("write");
    expected.push(("an area of huge pages", huge, 0, bytes(10, 3 * HUGE)));

    let locked = Area::private(2 * PAGE).expect("an area");
    locked.write(0, &bytes(11, 2 * PAGE)).expect("write");
    locked.lock().expect("mlock");
    expected.push(("a locked area", locked, 0, bytes(11, 2 * PAGE)));

    let wiped = Area::private(3 * PAGE).expect("an area");
    wiped.write(0, &bytes(12, 3 * PAGE)).expect("write");
    wiped
        .advise(0, 3 * PAGE, libc::MADV_WIPEONFORK)
        .expect("MADV_WIPEONFORK");
    expected.push(("an area wiped on fork", wiped, 0, bytes(12, 3 * PAGE)));

    // Two areas around a hole; and pages given back, which must be zero afterwards.
    let (left, rest) = Area::private(9 * PAGE)
        .expect("an area")
        .split(3 * PAGE)
        .expect("split");
    let (hole, right) = rest.split(3 * PAGE).expect("split");
    drop(hole);
    left.write(0, &bytes(13, 3 * PAGE)).expect("write");
    right.write(0, &bytes(14, 3 * PAGE)).expect("write");
    right
        .advise(PAGE, PAGE, libc::MADV_DONTNEED)
        .expect("MADV_DONTNEED");
    let mut given_back = bytes(14, 3 * PAGE);
    given_back[PAGE..2 * PAGE].fill(0);
    expected.push(("left of the hole", left, 0, bytes(13, 3 * PAGE)));
    expected.push(("right of the hole", right, 0, given_back));

    // A child that shares the shared areas, and has its own copy of the others.
    let (told, tell) = nix::unistd::pipe().expect("pipe");
    let child = fork(|| {
        let own = sparse.write(0, b"the child's own");
        let mut byte = [0];
        let heard = nix::unistd::read(&told, &mut byte);
        let saw = shared.read(7, 6).is_ok_and(|b| b == b"parent")
            && sparse.read(0, 15).is_ok_and(|b| b == b"the child's own");
        let wrote = shared.write(20, b"child").is_ok() && of_memfd.write(0, b"child").is_ok();
        i32::from(own.is_err() || heard.is_err() || !saw || !wrote)
    })
    .expect("fork");
    let heap = bytes(15, 1_000_000);
    let before = areas();

    stage.wait();

    stage.same("the areas", before, areas());
    stage.holds("the heap", heap == bytes(15, 1_000_000));
    for place in [0, 17 * PAGE, 3 * HUGE + 5, 64 * HUGE - 100] {
        stage.holds(
            "the sparse area",
            sparse
                .read(place, 100)
                .is_ok_and(|b| b == bytes(place as u64, 100)),
        );
    }
    stage.holds(
        "between is zero",
        sparse
            .read(HUGE, HUGE)
            .is_ok_and(|b| b.iter().all(|b| *b == 0)),
    );
    for (what, area, offset, contents) in &expected {
        stage.holds(
            what,
            area.read(*offset, contents.len())
                .is_ok_and(|b| b == *contents),
        );
    }
    stage.holds(
        "the rest of the huge area is zero",
        expected.iter().any(|(what, area, ..)| {
            *what == "an area of huge pages"
                && area
                    .read(3 * HUGE, HUGE)
                    .is_ok_and(|b| b.iter().all(|b| *b == 0))
        }),
    );
    stage.holds("a forbidden area forbids", forbidden.read(0, 1).is_err());
    forbidden.protect(0, 4 * PAGE, PROT_READ).expect("mprotect");
    stage.holds(
        "a forbidden area's bytes",
        forbidden
            .read(0, 4 * PAGE)
            .is_ok_and(|b| b == bytes(8, 4 * PAGE)),
    );
    stage.holds(
        "shared memory",
        shared
            .read(PAGE, 3 * PAGE)
            .is_ok_and(|b| b == bytes(1, 3 * PAGE)),
    );
    stage.holds(
        "a memfd",
        of_memfd
            .read(2 * PAGE, PAGE)
            .is_ok_and(|b| b == bytes(6, PAGE)),
    );
    stage.holds(
        "a shared file",
        shared_file
            .read(0, 4 * PAGE)
            .is_ok_and(|b| b == bytes(4, 6 * PAGE)[2 * PAGE..]),
    );
    let mut through = vec![0; PAGE];
    std::os::unix::fs::FileExt::read_exact_at(
        &File::from(memfd.try_clone().expect("dup")),
        &mut through,
        2 * PAGE as u64,
    )
    .expect("read the memfd");
    stage.holds("the memfd is the area's", through == bytes(6, PAGE));

    // Shared is still shared, in both directions.
    shared.write(7, b"parent").expect("write");
    nix::unistd::write(&tell, b"!").expect("tell the child");
    let child = Pid::from_raw(child);
    stage.same(
        "the child",
        Ok(WaitStatus::Exited(child, 0)),
        waitpid(child, None),
    );
    stage.holds(
        "the child's word in shared memory",
        shared.read(20, 5).is_ok_and(|b| b == b"child"),
    );
    stage.holds(
        "the child's word in the memfd",
        of_memfd.read(0, 5).is_ok_and(|b| b == b"child"),
    );
    stage.holds(
        "the parent's own",
        sparse.read(0, 100).is_ok_and(|b| b == bytes(0, 100)),
    );
    stage.leave()
}
