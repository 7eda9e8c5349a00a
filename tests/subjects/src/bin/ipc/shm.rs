//! Shared memory segments of System V: attached several times and by several processes, in part, read-only, removed and
//! still in use, and used by nobody.
#![forbid(unsafe_code)]

use kernel::own::child::fork;
use kernel::sysv::shm::{self, Attached, Segment};
use kernel::vm;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe, read, write};
use std::process::ExitCode;
use subject::Stage;

const KEY: i32 = 0x5eaf_0001;
const SIZE: u64 = (40 << 20) + 5000;

fn get(segment: &Attached, at: u64) -> String {
    let mut bytes = [0; 8];
    let pid = std::process::id() as i32;
    match vm::read(pid, segment.address() + at, &mut bytes) {
        Ok(()) => String::from_utf8_lossy(&bytes)
            .trim_end_matches('\0')
            .to_string(),
        Err(e) => e.to_string(),
    }
}

fn put(segment: &Attached, at: u64, text: &str) -> kernel::Result<()> {
    let pid = std::process::id() as i32;
    vm::write(pid, segment.address() + at, text.as_bytes())
}

fn list() -> Vec<Segment> {
    shm::list().expect("list segments")
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    // Where that is not allowed, in a container, the namespace is its own already.
    let _ = unshare(CloneFlags::CLONE_NEWIPC);
    // Ids that are not those a new namespace begins with.
    for _ in 0..3 {
        let passing = shm::make(0, 4096, 0o600).expect("shmget");
        shm::remove(passing).expect("remove it");
    }
    let id = shm::make(KEY, SIZE, 0o640).expect("shmget");
    let one = Attached::attach(id).expect("shmat");
    let two = Attached::attach_read_only(id).expect("shmat");
    for (at, text) in [(0, "first"), (20 << 20, "middle"), (SIZE - 8, "last")] {
        put(&one, at, text).expect("write");
    }
    let removed = shm::make(0, 8192, 0o600).expect("shmget");
    let kept = Attached::attach(removed).expect("shmat");
    put(&kept, 4096, "removed").expect("write");
    shm::remove(removed).expect("remove");
    let idle = shm::make(KEY + 1, 100, 0o604).expect("shmget");
    let look = Attached::attach(idle).expect("shmat");
    put(&look, 50, "idle").expect("write");
    drop(look);
    let _ = shm::lock(idle); // podman's containers may not

    let (told, tell) = pipe().expect("pipe");
    let (heard, say) = pipe().expect("pipe");
    let child = fork(|| {
        let mut byte = [0];
        let ok = read(&told, &mut byte) == Ok(1)
            && get(&one, 20 << 20) == "changed"
            && get(&two, SIZE - 8) == "last"
            && put(&one, 0, "child").is_ok();
        let _ = write(&say, &[u8::from(ok)]);
        0
    })
    .expect("fork");
    let before = list();

    stage.wait();

    // Also how much of them takes memory: nothing is where nothing was.
    stage.same("segments", before, list());
    for (at, text) in [
        (0, "first"),
        (20 << 20, "middle"),
        (SIZE - 8, "last"),
        (4096, ""),
    ] {
        stage.same("contents", text, &get(&one, at));
        stage.same("contents, attached again", text, &get(&two, at));
    }
    stage.holds("only to be read", put(&two, 0, "no").is_err());
    stage.same("a removed one", "removed", &get(&kept, 4096));
    put(&one, 20 << 20, "changed").expect("write");
    write(&tell, &[1]).expect("tell the child");
    let mut byte = [0];
    read(&heard, &mut byte).expect("hear the child");
    stage.same("the child sees the same", 1, byte[0]);
    stage.same("and writes to it", "child", &get(&two, 0));
    let idle = Attached::attach(idle).expect("shmat");
    stage.same("one that nobody had", "idle", &get(&idle, 50));
    waitpid(Pid::from_raw(child), None).expect("wait for the child");
    drop(kept);
    let gone = !list()
        .iter()
        .any(|segment| segment.permissions.id == removed);
    stage.holds("a removed one goes with its last user", gone);
    drop((one, two));
    let attached = |segment: Segment| segment.attached;
    let left = list().into_iter().map(attached).collect::<Vec<_>>();
    stage.same("all of it is detached", vec![0, 1], left);
    stage.leave()
}
