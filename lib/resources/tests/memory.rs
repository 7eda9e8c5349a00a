//! Whole address spaces: taken from a live program, built again in another process, which then goes on.

mod poor;

use image::format::Space as Owner;
use image::header::Header;
use image::ids::SpaceId;
use image::memory::{Space, shared::Objects};
use image::sockets::tcp::Connections;
use image::{Kind, Reader, Writer};
use kernel::arch::{self, Registers};
use kernel::pidfd::PidFd;
use kernel::proc::Proc;
use kernel::ptrace::{self, Event, Stopped};
use kernel::remote::{Gates, Guest, Stub};
use poor::Poor;
use resources::memory::{self, Filler, Inodes};
use resources::{SourceProcess, SourceThread, Target};
use std::collections::{BTreeMap, HashMap};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const SPACE: SpaceId = SpaceId(1);

/// A process of ours, killed when the test ends.
struct Own(Child);

impl Own {
    fn start(command: &mut Command) -> Self {
        Own(command.stdin(Stdio::null()).spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    fn stop(&self) -> Stopped {
        let running = ptrace::seize(self.pid(), ptrace::options::SYSGOOD).unwrap();
        running.interrupt().unwrap();
        match running.wait().unwrap() {
            Event::Stop(stopped) => stopped,
            other => panic!("{other:?}"),
        }
    }

    fn ends(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "it hangs");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the test keeps of a thread, which is another room's business.
struct Thread {
    registers: Registers,
    xstate: Vec<u8>,
    mask: u64,
}

struct Taken {
    image: Vec<u8>,
    stub: u64,
    thread: Thread,
    shown: Shown,
}

/// What `/proc` says of a process.
#[derive(Debug, PartialEq)]
struct Shown {
    smaps: Vec<String>,
    exe: std::path::PathBuf,
    files: Vec<(&'static str, Vec<u8>)>,
}

impl Shown {
    fn of(pid: i32, stub: Option<u64>) -> Self {
        let proc = Proc::process(pid);
        let stub = stub.map(|at| format!("{at:08x}-"));
        let mut ours = false;
        let mut smaps = Vec::new();
        for line in proc.text("smaps").unwrap().lines() {
            let first = line.split_whitespace().next().unwrap();
            if let Some(flags) = line.strip_prefix("VmFlags:") {
                if !ours {
                    smaps.push(flags.replace(" sd", "").trim().to_string());
                }
            } else if !first.ends_with(':') {
                ours = stub.as_ref().is_some_and(|stub| line.starts_with(stub));
                if !ours {
                    smaps.push(area_line(line));
                }
            }
        }
        let files = ["cmdline", "environ", "auxv", "coredump_filter"];
        Shown {
            smaps,
            exe: proc.link("exe").unwrap(),
            files: files.map(|name| (name, proc.bytes(name).unwrap())).to_vec(),
        }
    }
}

/// A line of maps; files without a name are made anew, with another inode.
fn area_line(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let anew = line.ends_with(" (deleted)");
    let mut kept: Vec<&str> = words.clone();
    if anew {
        kept.drain(3..5);
    }
    kept.join(" ")
}

fn header() -> Header {
    Header::new("test", "test", "test")
}

fn take(own: &mut Own) -> Taken {
    let pid = own.pid();
    let shown = Shown::of(pid, None);
    let task = own.stop();
    let guest = Guest::new(task, Gates::find(pid).unwrap()).unwrap();
    let mut registers = *guest.registers();
    arch::restart_call(&mut registers);
    let thread = Thread {
        registers,
        xstate: guest.task().unwrap().register_set(arch::NT_XSTATE).unwrap(),
        mask: guest.task().unwrap().signal_mask().unwrap(),
    };
    let mut process = SourceProcess {
        ended: None,
        pid,
        inside: pid,
        proc: Proc::process(pid),
        pidfd: PidFd::open(pid).unwrap(),
        threads: vec![SourceThread {
            wait: None,
            tid: pid,
            inside: pid,
            guest,
        }],
    };
    let mut inodes = Inodes::beside(&HashMap::new());
    let (space, layout) = memory::dump(&mut process, SPACE, pid, &mut inodes).unwrap();
    let stub = memory::free_everywhere([&layout]).unwrap();
    let mut writer = Writer::new(Vec::new(), &header()).unwrap();
    writer.record("memory.json", &inodes.dump()).unwrap();
    inodes.write_pages(&mut writer).unwrap();
    writer.record("space.json", &space).unwrap();
    memory::write_pages(&layout, &mut writer).unwrap();
    let image = writer.finish().unwrap();
    own.0.kill().unwrap();
    drop(process);
    own.0.wait().unwrap();
    Taken {
        image,
        stub,
        thread,
        shown,
    }
}

/// A process to be made into another.
fn vessel(stub: u64) -> (Own, Target) {
    let own = Own::start(Command::new("sleep").arg("1000"));
    // Past its exec, in its own sleep.
    while Proc::process(own.pid())
        .link("exe")
        .unwrap()
        .file_name()
        .unwrap()
        != "sleep"
    {}
    std::thread::sleep(Duration::from_millis(30));
    let leader = Stub::install(own.stop(), stub).unwrap();
    let target = to_be(own.pid(), leader);
    (own, target)
}

fn to_be(pid: i32, leader: Stub) -> Target {
    let process = poor::target(pid, leader);
    Target {
        segments: Default::default(),
        processes: BTreeMap::from([(pid, process)]),
        files: HashMap::new(),
        objects: HashMap::new(),
        addresses: Default::default(),
        connections: Connections::None,
        root_pid: pid,
        covered: Default::default(),
        inners: Default::default(),
    }
}

fn pour(target: &mut Target, image: &[u8]) -> resources::Result<()> {
    pour_changed(target, image, |_| ())
}

fn pour_changed(
    target: &mut Target,
    image: &[u8],
    change: impl Fn(&mut Space),
) -> resources::Result<()> {
    let pid = target.root_pid;
    let mut reader = Reader::open(std::io::Cursor::new(image.to_vec()))?;
    let (mut objects, mut space) = (Objects::default(), None);
    let mut filler = Filler::start();
    while let Some(mut entry) = reader.next()? {
        match (entry.path().to_string().as_str(), entry.kind().clone()) {
            ("memory.json", _) => {
                objects = entry.json()?;
                memory::shared::restore(&objects, target)?;
            }
            ("space.json", _) => {
                memory::shared::seal(&objects, &target.objects)?;
                let mut record: Space = entry.json()?;
                change(&mut record);
                memory::clear(target, pid, &record)?;
                memory::fields(target, pid, &record)?;
                memory::map(target, pid, &record)?;
                space = Some(record);
            }
            (_, Kind::Pages(pages)) => match pages.space {
                Owner::Shared(id) => {
                    let object = objects.objects.iter().find(|o| o.id == id).unwrap();
                    let fd = target.objects[&id].as_fd();
                    memory::pages::object(fd, object, &pages.ranges, &mut entry)?;
                }
                Owner::Mm(_) => {
                    filler.space(pid, space.as_ref().unwrap(), &pages.ranges, &mut entry)?;
                }
            },
            _ => (),
        }
    }
    filler.finish()?;
    memory::protect(target, pid, space.as_ref().unwrap())
}

/// Lets the rebuilt process go on where the other one stood.
fn release(mut target: Target, thread: &Thread) {
    let (_, process) = target.processes.pop_first().unwrap();
    let mut task = process.leader.remove().unwrap();
    task.set_register_set(arch::NT_XSTATE, &thread.xstate)
        .unwrap();
    task.set_signal_mask(thread.mask).unwrap();
    task.set_registers(&thread.registers).unwrap();
    task.detach(0).unwrap();
}

fn python(dir: &Path, more: &[&str]) -> Own {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/memory/every_area.py");
    let mut command = Command::new("python3");
    command
        .arg(script)
        .arg(dir)
        .args(more)
        .env("MARK", "of the source");
    let mut own = Own::start(&mut command);
    let start = Instant::now();
    while !dir.join("ready").exists() {
        assert!(own.0.try_wait().unwrap().is_none(), "the subject ended");
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "the subject hangs"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    own
}

fn goes_on(mut own: Own, dir: &Path) {
    ended_well(|| own.ends(), dir);
}

fn ended_well(end: impl FnOnce() -> ExitStatus, dir: &Path) {
    std::fs::write(dir.join("go"), "").unwrap();
    let status = end();
    let wrong = std::fs::read_to_string(dir.join("wrong")).unwrap_or_default();
    assert_eq!(
        (status.code(), status.signal(), &*wrong),
        (Some(42), None, "")
    );
}

#[track_caller]
fn same_lines(found: &[String], expected: &[String]) {
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());
}

#[test]
fn a_program_goes_on_with_areas_of_every_kind_and_reads_the_same_in_proc() {
    let dir = tempfile::tempdir().unwrap();
    let taken = take(&mut python(dir.path(), &["an argument"]));
    let (own, mut target) = vessel(taken.stub);
    pour(&mut target, &taken.image).unwrap();
    let shown = Shown::of(own.pid(), Some(taken.stub));
    same_lines(&shown.smaps, &taken.shown.smaps);
    assert_eq!(shown, taken.shown);
    release(target, &taken.thread);
    goes_on(own, dir.path());
}

#[test]
fn a_program_goes_on_in_a_process_that_may_not_say_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let taken = take(&mut python(dir.path(), &[]));
    let mut poor = Poor::of_root();
    let leader = Stub::overlay(poor.stop(), taken.stub).unwrap();
    let mut target = to_be(poor.pid, leader);
    pour(&mut target, &taken.image).unwrap();
    let shown = Shown::of(poor.pid, Some(taken.stub));
    same_lines(&shown.smaps, &taken.shown.smaps);
    assert_eq!(shown, taken.shown);
    release(target, &taken.thread);
    ended_well(|| poor.ends(), dir.path());
}

/// A program called `name`, that sleeps.
fn sleeper(name: &Path) -> Own {
    std::fs::copy("/bin/sleep", name).unwrap();
    let mut command = Command::new("setarch");
    let own = Own::start(command.arg("-R").arg(name).arg("1000"));
    let sleeps = |text: String| text.starts_with("230 ");
    while !Proc::process(own.pid()).text("syscall").is_ok_and(sleeps) {
        std::thread::sleep(Duration::from_millis(1));
    }
    own
}

#[test]
fn an_executable_is_what_it_was_also_where_it_was_deleted_or_has_two_names() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let name = dir.path().join("name");
    let other = dir.path().join("other");
    for deleted in [false, true] {
        let mut own = sleeper(&name);
        if deleted {
            std::fs::remove_file(&name).unwrap();
        } else {
            std::fs::hard_link(&name, &other).unwrap();
            // Not to be read, as some programs are.
            std::fs::set_permissions(&name, PermissionsExt::from_mode(0o711)).unwrap();
        }
        let taken = take(&mut own);
        for poor in [None, Some(Poor::of_root()), Some(Poor::of_nobody())] {
            let (_own, mut target) = match &poor {
                None => {
                    let (own, target) = vessel(taken.stub);
                    (Some(own), target)
                }
                Some(poor) => {
                    let leader = Stub::overlay(poor.stop(), taken.stub).unwrap();
                    (None, to_be(poor.pid, leader))
                }
            };
            pour(&mut target, &taken.image).unwrap();
            let shown = Shown::of(target.root_pid, Some(taken.stub));
            assert_eq!(shown, taken.shown, "{deleted} {}", poor.is_some());
            assert_eq!(name.exists(), !deleted);
        }
    }
}

#[test]
fn a_program_goes_on_where_the_vdso_has_other_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let taken = take(&mut python(dir.path(), &[]));
    let (own, mut target) = vessel(taken.stub);
    // As if taken on another kernel: the text after the functions' own bytes differs.
    pour_changed(&mut target, &taken.image, |space| {
        let last = space.vdso.0.len() - 1;
        space.vdso.0[last] ^= 0xff;
    })
    .unwrap();
    let shown = Shown::of(own.pid(), Some(taken.stub));
    let vdso = |shown: &Shown| {
        let line = shown.smaps.iter().find(|line| line.ends_with("[vdso]"));
        line.unwrap().split('-').next().unwrap().to_string()
    };
    assert_ne!(
        vdso(&shown),
        vdso(&taken.shown),
        "the host's own lies elsewhere"
    );
    let there = format!("{}-", vdso(&taken.shown));
    let ordinary = shown
        .smaps
        .iter()
        .find(|line| line.starts_with(&there))
        .unwrap();
    assert!(!ordinary.contains('['), "{ordinary}");
    release(target, &taken.thread);
    goes_on(own, dir.path());
}

/// Bytes in huge pages of an area that did not ask for them.
fn huge(pid: i32, start: u64) -> u64 {
    let areas = kernel::proc::maps::read_all(pid).unwrap();
    let area = areas.iter().find(|area| area.start == start).unwrap();
    assert!(!area.has("hg"));
    area.huge
}

#[test]
fn dense_memory_comes_back_in_huge_pages_where_there_are_any() {
    let dir = tempfile::tempdir().unwrap();
    let mut own = python(dir.path(), &[]);
    let areas = kernel::proc::maps::read_all(own.pid()).unwrap();
    let dense = |area: &&kernel::proc::maps::Area| {
        area.name.is_empty() && !area.has("hg") && area.resident >= 20 << 20
    };
    let start = areas.iter().find(dense).unwrap().start;
    let taken = take(&mut own);
    let (own, mut target) = vessel(taken.stub);
    pour(&mut target, &taken.image).unwrap();
    let expected = kernel::userfault::available() && kernel::userfault::huge_pages();
    let found = huge(own.pid(), start);
    // How many depends on what they cost at this moment: none at all, where the host has none to spare.
    assert!(expected || found == 0, "{found}");
    release(target, &taken.thread);
    goes_on(own, dir.path());
}

#[test]
fn the_same_program_goes_on_twice_from_one_image() {
    let dir = tempfile::tempdir().unwrap();
    let taken = take(&mut python(dir.path(), &[]));
    let poured: Vec<(Own, Target)> = (0..2)
        .map(|_| {
            let (own, mut target) = vessel(taken.stub);
            pour(&mut target, &taken.image).unwrap();
            (own, target)
        })
        .collect();
    for (own, target) in poured {
        let _ = std::fs::remove_file(dir.path().join("go"));
        release(target, &taken.thread);
        goes_on(own, dir.path());
    }
}

#[test]
fn a_mapped_file_that_changed_is_named_and_nothing_runs() {
    let dir = tempfile::tempdir().unwrap();
    let taken = take(&mut python(dir.path(), &[]));
    std::fs::write(dir.path().join("kept"), "short").unwrap();
    let (_own, mut target) = vessel(taken.stub);
    let error = pour(&mut target, &taken.image).unwrap_err().to_string();
    assert!(error.contains("kept: it differs"), "{error}");
    std::fs::remove_file(dir.path().join("kept")).unwrap();
    let (_own, mut target) = vessel(taken.stub);
    let error = pour(&mut target, &taken.image).unwrap_err().to_string();
    assert!(error.contains("kept: it is not there"), "{error}");
}

#[test]
fn an_image_that_asks_for_what_cannot_be_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let taken = take(&mut python(dir.path(), &[]));
    let refused = |change: &dyn Fn(&mut Space)| {
        let (_own, mut target) = vessel(taken.stub);
        pour_changed(&mut target, &taken.image, change)
            .unwrap_err()
            .to_string()
    };
    let stub = taken.stub;
    let over_stub = refused(&|space| space.areas[0].start = stub & !0xfff);
    assert!(over_stub.contains("kept for its rebuilding"), "{over_stub}");
    let overlapping = refused(&|space| space.areas[1].start = space.areas[0].start);
    assert!(overlapping.contains("lies over another"), "{overlapping}");
    let no_object = refused(&|space| {
        for area in &mut space.areas {
            if let image::memory::Backing::Shared { id, .. } = &mut area.backing {
                id.0 += 1000;
            }
        }
    });
    assert!(no_object.contains("is not in the image"), "{no_object}");
    let outside = refused(&|space| {
        space.areas.retain(|area| area.resident == 0);
    });
    assert!(outside.contains("lie in no private area"), "{outside}");
}

#[test]
fn what_cannot_travel_is_found_while_the_program_runs() {
    let script = "
import ctypes, mmap, os, sys, time
libc = ctypes.CDLL(None)
fd = libc.syscall(447, 0)
if fd >= 0:
    os.ftruncate(fd, 8192)
    secret = mmap.mmap(fd, 8192)
shm = libc.shmget(0, 8192, 0o1600)
libc.shmat.restype = ctypes.c_void_p
at = libc.shmat(shm, None, 0)
libc.shmctl(shm, 0, None)
old = open(sys.argv[1] + '/old', 'wb+'); old.write(bytes(8192)); old.flush()
mapped = mmap.mmap(old.fileno(), 8192)
open(sys.argv[1] + '/ready', 'w').write('secret' if fd >= 0 else '')
time.sleep(1000)";
    let dir = tempfile::tempdir().unwrap();
    let own = Own::start(Command::new("python3").args(["-c", script]).arg(dir.path()));
    let ready = dir.path().join("ready");
    while !ready.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(20));
    // Renamed: the kernel tells the new name, so this is none.
    std::fs::rename(dir.path().join("old"), dir.path().join("older")).unwrap();
    let found = memory::blockers(own.pid(), own.pid()).unwrap();
    let me = std::process::id() as i32;
    let text: Vec<String> = found.iter().map(ToString::to_string).collect();
    let has = |what: &str| text.iter().any(|line| line.contains(what));
    assert!(has("System V shared memory"), "{text:?}");
    let secret = std::fs::read_to_string(ready).unwrap() == "secret";
    assert_eq!(has("secret memory"), secret, "{text:?}");
    assert_eq!(text.len(), 1 + usize::from(secret), "{text:?}");
    assert!(
        found
            .iter()
            .all(|blocker| blocker.pid == own.pid() && !blocker.remedy.is_empty())
    );
    assert_eq!(memory::blockers(me, me).unwrap(), []);
}
