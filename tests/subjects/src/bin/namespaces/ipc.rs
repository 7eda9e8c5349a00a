//! Objects of System V in ipc namespaces inside the container, one of them in a user namespace: segments that two processes have
//! attached and that nobody has, semaphores of which something is taken back, messages; all by the same keys and ids in each.
#![forbid(unsafe_code)]

use kernel::own::child::fork;
use kernel::sysv::sem::{self, Operation};
use kernel::sysv::{msg, shm};
use kernel::vm;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, pipe, read, write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use subject::Stage;

const KEY: i32 = 0x5eaf_0002;
const SIZE: u64 = 3 * 4096;

fn ended(pid: i32) -> i32 {
    match waitpid(Pid::from_raw(pid), None) {
        Ok(WaitStatus::Exited(_, status)) => status,
        _ => 99,
    }
}

/// What is there, and in the segment that nobody has attached.
fn look(segment: i32) -> String {
    let sets = sem::list();
    let values = sets.iter().flatten();
    let values: Vec<_> = values
        .map(|set| sem::values(set.permissions.id, set.count))
        .collect();
    let queues = msg::list();
    let messages = queues.iter().flatten();
    let messages: Vec<_> = messages
        .map(|queue| msg::peek(queue.permissions.id, 0, 100))
        .collect();
    let segments = shm::list();
    let content = shm::Attached::attach(segment).and_then(|attached| get(&attached, 0));
    format!("{sets:?} {values:?} {queues:?} {messages:?} {segments:?} {content:?}")
}

fn get(segment: &shm::Attached, at: u64) -> kernel::Result<String> {
    let mut bytes = [0; 8];
    vm::read(
        std::process::id() as i32,
        segment.address() + at,
        &mut bytes,
    )?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn put(segment: &shm::Attached, at: u64, text: &str) -> kernel::Result<()> {
    let pid = std::process::id() as i32;
    vm::write(pid, segment.address() + at, text.as_bytes())
}

fn rest(say: &OwnedFd, told: &OwnedFd) -> bool {
    write(say, b"x") == Ok(1) && read(told, &mut [0]) == Ok(1)
}

/// Builds it all in the namespace that it is in, and sees to it afterwards.
fn play(name: &str, say: &OwnedFd, told: &OwnedFd) -> kernel::Result<bool> {
    let set = sem::make(KEY, 2, 0o640)?;
    sem::set_values(set, &[5, name.len() as u16])?;
    let queue = msg::make(KEY, 0o620)?;
    msg::send(queue, 4, name.as_bytes())?;
    let shared = shm::make(KEY, SIZE, 0o600)?;
    let idle = shm::make(0, SIZE, 0o604)?;
    put(&shm::Attached::attach(idle)?, 0, "idle....")?;
    let attached = shm::Attached::attach(shared)?;
    put(&attached, 4096, &format!("{name:.<8}"))?;
    let (go, end) = pipe().expect("pipe");
    let child = fork(|| {
        let owing = [Operation::new(0, -2).undone()];
        let done = sem::operate(set, &owing).is_ok();
        let told = rest(say, &go);
        let found = get(&attached, 4096).is_ok_and(|text| text == format!("{name:.<8}"));
        let said = put(&attached, 8192, "answered").is_ok();
        i32::from(!(done && told && found && said))
    })?;
    // It has taken its two.
    while sem::values(set, 2)? != [3, name.len() as u16] {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let before = look(idle);
    let mut well = rest(say, told);
    let after = look(idle);
    if before != after {
        println!("was {before}; is {after}");
        well = false;
    }
    write(&end, b"x").expect("end the child");
    well &= ended(child) == 0;
    well &= sem::values(set, 2)? == [5, name.len() as u16];
    well &= get(&attached, 8192)? == "answered";
    msg::send(queue, 4, b"more")?;
    Ok(well)
}

fn inner(name: &str, user: bool, say: &OwnedFd, told: &OwnedFd) -> i32 {
    if user {
        unshare(CloneFlags::CLONE_NEWUSER).expect("unshare");
        std::fs::write("/proc/self/setgroups", "deny").expect("deny setgroups");
        for map in ["uid_map", "gid_map"] {
            std::fs::write(format!("/proc/self/{map}"), "0 0 1\n").expect("map");
        }
    }
    unshare(CloneFlags::CLONE_NEWIPC).expect("unshare");
    match play(name, say, told) {
        Ok(well) => i32::from(!well),
        Err(e) => {
            println!("{name}: {e}");
            2
        }
    }
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let _ = unshare(CloneFlags::CLONE_NEWIPC);
    let (told, tell) = pipe().expect("pipe");
    let (heard, say) = pipe().expect("pipe");
    // What the container has itself by that key is another.
    let own = sem::make(KEY, 1, 0o600).expect("semget");
    sem::set_values(own, &[9]).expect("SETALL");
    let owing = [Operation::new(0, -4).undone()];
    sem::operate(own, &owing).expect("semop");
    let children = [("plain", false), ("users", true)];
    let children =
        children.map(|(name, user)| fork(|| inner(name, user, &say, &told)).expect("fork"));
    for _ in 0..4 {
        stage.same("a process is set up", Ok(1), read(&heard, &mut [0]));
    }
    stage.wait();
    stage.same("the container's own", Ok(vec![5]), sem::values(own, 1));
    write(&tell, b"!!").expect("tell them all");
    for pid in children {
        stage.same("a child's end", 0, ended(pid));
    }
    stage.leave()
}
