//! Processes that share memory, descriptors, working directory and signal actions without being threads of one another, each
//! kind by itself and all together; and two siblings whose parent has no part in it.
#![forbid(unsafe_code)]

use kernel::kcmp::Kind;
use kernel::own::accomplice::{Accomplice, IGNORED, UMASK};
use kernel::own::child::fork;
use nix::libc::{CLONE_FILES, CLONE_FS, CLONE_PARENT, CLONE_SIGHAND, CLONE_VM};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, pipe, read, write};
use std::process::ExitCode;
use std::time::Duration;
use subject::Stage;

/// The last one has all: what it does to signals is seen only once.
const KINDS: [i32; 6] = [
    CLONE_VM,
    CLONE_FILES,
    CLONE_FS,
    CLONE_VM | CLONE_FILES,
    CLONE_FS | CLONE_FILES,
    CLONE_VM | CLONE_SIGHAND | CLONE_FILES | CLONE_FS,
];

/// Whether two processes share each of the four, where we may ask (kcmp(2)).
fn shared(one: i32, other: i32) -> Vec<Option<bool>> {
    use Kind::{Actions, Fs, Memory, Table};
    let same = |kind: Kind| kind.order(one, other).ok().map(|o| o.is_eq());
    [Memory, Table, Fs, Actions].map(same).to_vec()
}

fn status(key: &str) -> String {
    let status = kernel::proc::status::read(std::process::id() as i32).expect("status");
    status.get(key).unwrap_or_default().to_owned()
}

fn ignored() -> bool {
    u64::from_str_radix(&status("SigIgn"), 16).expect("a mask") >> (IGNORED - 1) & 1 == 1
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

fn ended(pid: i32) -> Option<i32> {
    match waitpid(Pid::from_raw(pid), None) {
        Ok(WaitStatus::Exited(_, code)) => Some(code),
        _ => None,
    }
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let (told, tell) = pipe().expect("pipe");
    let (heard, say) = pipe().expect("pipe");
    // A child makes a sibling of its own, which is our child as well.
    let elder = fork(|| {
        let Ok(younger) = Accomplice::new(CLONE_PARENT | CLONE_FS | CLONE_FILES) else {
            return 2;
        };
        if write(&say, &younger.pid.to_ne_bytes()).is_err() || read(&told, &mut [0]) != Ok(1) {
            return 3;
        }
        let before = descriptors();
        let _ = younger.tell();
        for _ in 0..5000 {
            let umask = u32::from_str_radix(&status("Umask"), 8);
            if umask == Ok(UMASK) && descriptors() == before + 1 {
                return 0;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        4
    })
    .expect("fork");
    let mut younger = [0; 4];
    stage.same("a sibling was made", Ok(4), read(&heard, &mut younger));
    let younger = i32::from_ne_bytes(younger);

    let own = std::process::id() as i32;
    let accomplices: Vec<Accomplice> = KINDS
        .iter()
        .map(|flags| Accomplice::new(*flags).expect("clone"))
        .collect();
    let seen = || -> Vec<_> {
        let pids = accomplices.iter().map(|a| (own, a.pid));
        let pids = pids.chain([(elder, younger), (own, elder), (own, younger)]);
        pids.map(|(one, other)| shared(one, other)).collect()
    };
    let before = seen();
    stage.wait();
    stage.same("who shares what", before, seen());

    for (flags, accomplice) in KINDS.iter().zip(&accomplices) {
        umask(Mode::from_bits_truncate(0o22));
        let (was_ignored, had, flags) = (ignored(), descriptors(), *flags);
        accomplice.tell().expect("tell");
        let made = ended(accomplice.pid).is_some_and(|fd| fd > 2);
        let mut same = |what: &str, flag: i32, holds: bool| {
            stage.same(
                &format!("{what}, by flags {flags:#x}"),
                flags & flag != 0,
                holds,
            );
        };
        same("memory is shared", CLONE_VM, accomplice.count() == 1);
        let more = made && descriptors() == had + 1;
        same("descriptors are shared", CLONE_FILES, more);
        let now = u32::from_str_radix(&status("Umask"), 8);
        same("the umask is shared", CLONE_FS, now == Ok(UMASK));
        same(
            "actions are shared",
            CLONE_SIGHAND,
            !was_ignored && ignored(),
        );
    }
    stage.same("tell the elder", Ok(1), write(&tell, b"!"));
    stage.holds("the younger ends", ended(younger).is_some_and(|fd| fd > 2));
    stage.same("the elder's end", Some(0), ended(elder));
    stage.leave()
}
