//! Trees of live processes: taken, left to run on, and grown again in a new pid namespace.

mod poor;

use kernel::proc::{Proc, family, stat, status};
use kernel::ptrace::{self, Event};
use kernel::remote::{Caller, Stub};
use poor::Poor;
use resources::{threads, tree};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const STUB: u64 = 0x10_0000;

/// A program as process 1 of a pid namespace of its own.
struct Contained {
    unshare: Child,
    root: i32,
}

impl Contained {
    /// Starts a shell script, which says `ready` when its tree stands.
    fn new(script: &str) -> Self {
        let mut unshare = Command::new("unshare");
        unshare.args(["--pid", "--fork", "--kill-child", "sh", "-c", script]);
        unshare
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0);
        let mut unshare = unshare.spawn().unwrap();
        let mut line = String::new();
        let out = unshare.stdout.as_mut().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let children = Proc::thread(unshare.id() as i32, unshare.id() as i32);
        let root = children.text("children").unwrap().trim().parse().unwrap();
        Contained { unshare, root }
    }

    fn shapes(&self) -> Vec<String> {
        shapes(self.root)
    }
}

fn shapes(root: i32) -> Vec<String> {
    let namespace = family::pid_namespace(root);
    let mut shapes: Vec<String> = family::family(root, namespace.as_deref())
        .unwrap()
        .into_iter()
        .map(|process| shape(process.pid))
        .collect();
    shapes.sort();
    shapes
}

/// What a process is in the tree, by the numbers of its own namespace.
fn shape(pid: i32) -> String {
    let status = status::read(pid).unwrap();
    let own = |key| status.numbers(key).unwrap().last().copied().unwrap();
    let stat = stat::read(pid).unwrap();
    let parent = status::read(stat.ppid())
        .ok()
        .filter(|p| p.numbers("NSpid").unwrap().len() > 1)
        .map_or(0, |p| p.numbers("NSpid").unwrap()[1]);
    let dead = if stat.state == 'Z' {
        let (status, signal) = (stat.exit_code(), stat.exit_signal());
        format!(" dead {status} {} {signal}", stat.comm)
    } else {
        String::new()
    };
    format!(
        "{} {parent} {} {}{dead}",
        own("NSpid"),
        own("NSpgid"),
        own("NSsid")
    )
}

impl Drop for Contained {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

fn taken(contained: &Contained) -> image::tree::Tree {
    let namespace = family::pid_namespace(contained.root);
    let frozen = tree::freeze(contained.root, namespace.as_deref(), None).unwrap();
    let last_pid = kernel::namespaces::last_pid(contained.root).unwrap();
    let taken = tree::dump(&frozen, contained.root, &|_| false, Some(last_pid), STUB).unwrap();
    frozen.thaw().unwrap();
    taken
}

fn grows_again(script: &str) {
    let source = Contained::new(script);
    let before = source.shapes();
    let tree = taken(&source);
    assert_eq!(source.shapes(), before, "the source runs on as it was");
    let target = Contained::new("echo ready; exec sleep 1000");
    std::thread::sleep(Duration::from_millis(50));
    let running = ptrace::seize(target.root, 0).unwrap();
    running.interrupt().unwrap();
    let Event::Stop(stopped) = running.wait().unwrap() else {
        panic!("no stop");
    };
    let grown = tree::grow(
        &tree,
        Stub::install(stopped, STUB).unwrap(),
        true,
        &Default::default(),
    )
    .unwrap();
    assert_eq!(target.shapes(), before);
    assert_eq!(
        grown.processes.len(),
        before.iter().filter(|s| !s.contains("dead")).count()
    );
}

/// Sessions, groups, stand-ins, zombies, and ids far apart; threads with ids between those of processes.
const GAPS: &str = "python3 -c '
import os, signal, threading, time
def after(last): open(\"/proc/sys/kernel/ns_last_pid\", \"w\").write(str(last))
def child(last, play=lambda: time.sleep(1000)):
    after(last)
    if os.fork() == 0: play(); os._exit(3)
child(20, lambda: (os.setsid(), child(500), time.sleep(1000)))
time.sleep(0.1)
child(40, lambda: (child(9000), os._exit(0)))
child(300, lambda: os._exit(7))
for last in (9000, 25, 26, 30000):
    after(last); threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
child(26)
after(12345); time.sleep(0.2); print(\"ready\", flush=True); time.sleep(1000)' & wait";

#[test]
fn a_tree_grows_again_where_no_task_may_choose_a_pid() {
    for poor in [Poor::of_root(), Poor::of_nobody()] {
        let source = Contained::new(GAPS);
        let before = source.shapes();
        let tree = taken(&source);
        let first = Stub::install(poor.stop(), STUB).unwrap();
        let mut grown = tree::grow(&tree, first, true, &Default::default()).unwrap();
        // Besides the tree there is one of ours.
        assert_eq!(shapes(poor.pid).len(), before.len() + 1);
        for process in &tree.processes {
            let image::tree::State::Alive { threads: ids, .. } = &process.state else {
                continue;
            };
            let target = grown.processes.get_mut(&process.pid).unwrap();
            threads::create(target, ids, &mut grown.numbers).unwrap();
            let inside = |tid| status::read(tid).unwrap().numbers("NSpid").unwrap()[1] as i32;
            let made = target.threads.iter();
            assert!(made.into_iter().all(|(id, stub)| inside(stub.tid()) == *id));
            assert_eq!(target.threads.len() + 1, ids.len());
        }
        grown.numbers.finish(tree.last_pid).unwrap();
        assert_eq!(shapes(poor.pid), before);
        let last = kernel::namespaces::last_pid(poor.pid).unwrap();
        assert_eq!(Some(last), tree.last_pid);
        drop(grown);
    }
}

#[test]
fn a_pid_that_is_taken_is_waited_for_where_no_task_may_choose_it() {
    let tree = taken(&Contained::new("sleep 1000 & echo ready; wait"));
    let poor = Poor::of_root();
    let target = poor.target(STUB);
    let other = tree.processes.iter().find(|p| p.pid != tree.root).unwrap();
    // One that is there for a moment: an exec into the container, say.
    let mut counter = kernel::last_pid::LastPid::of(poor.pid, &[other.pid]).unwrap();
    counter.set(other.pid).unwrap();
    let leaving = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        drop(counter);
    });
    let grown = tree::grow(&tree, target.leader, true, &Default::default()).unwrap();
    leaving.join().unwrap();
    assert_eq!(shapes(poor.pid).len(), 3);
    assert!(grown.processes.contains_key(&other.pid));
}

#[test]
fn a_plain_tree_grows_again() {
    grows_again(
        "sleep 1001 & sh -c 'sleep 1002 & sleep 1003 & wait' & sleep 0.1; echo ready; wait",
    );
}

#[test]
fn sessions_and_groups_come_out_right_also_where_their_leaders_are_gone() {
    grows_again(
        "setsid sh -c 'sleep 1001 & exec sleep 1002' & \
         (setsid sh -c 'sleep 1003 & exit' &) ; \
         sh -c 'set -m; sleep 1004 | sleep 1005' & \
         (sh -c 'set -m; true | sleep 1006 & exit' &) ; sleep 0.3; echo ready; wait",
    );
}

/// A subreaper that has taken orphans of two sessions, one of them led by nobody any more; process 1 has taken others of
/// the same two, past the subreaper. And a group whose founder has left it.
const STRANGE: &str = "python3 -c '
import ctypes, os, time
def subreaper(on): ctypes.CDLL(None).prctl(36, on, 0, 0, 0)
def fork(play):
    pid = os.fork()
    if pid == 0: play(); time.sleep(1000)
    return pid
def gone(play): os.waitpid(fork(lambda: (play(), os._exit(0))), 0)
def leader(): os.setsid(); gone(lambda: fork(int)); time.sleep(0.1)
def second():
    # Both its children fall past the subreaper, which is none for a moment.
    subreaper(0); gone(lambda: (os.setsid(), fork(int), gone(lambda: fork(int)))); subreaper(1)
    gone(lambda: (os.setsid(), fork(int)))
    fork(lambda: (leader(), gone(lambda: fork(int))))
    fork(lambda: os.setsid())
def founder():
    os.setpgid(0, 0); mine = os.getpid()
    other = fork(int); os.setpgid(other, mine)
    third = fork(int); os.setpgid(third, third); os.setpgid(0, third)
fork(second)
fork(founder)
gone(lambda: fork(leader))
time.sleep(0.8); print(\"ready\", flush=True); time.sleep(1000)' & wait";

#[test]
fn orphans_of_many_sessions_fall_to_whom_they_fell() {
    grows_again(STRANGE);
}

#[test]
fn a_vfork_that_takes_too_long_is_named() {
    let fifo = std::env::temp_dir().join(format!("vfork-{}", std::process::id()));
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let script = format!(
        "python3 -c '
import os
print(\"ready\", flush=True)
opens = [(os.POSIX_SPAWN_OPEN, 0, \"{}\", os.O_RDONLY, 0)]
os.posix_spawn(\"/bin/sleep\", [\"sleep\", \"1000\"], {{}}, file_actions=opens); os.wait()'",
        fifo.display()
    );
    let waits = Contained::new(&script);
    std::thread::sleep(Duration::from_millis(200));
    // What does not stop is let go of when the tracer ends.
    let root = waits.root;
    let refused = std::thread::spawn(move || tree::freeze(root, None, None).unwrap_err());
    let said = refused.join().unwrap();
    assert_eq!(said.exit_code(), 4);
    assert!(said.to_string().contains("made by vfork"), "{said}");
    let opened = std::fs::File::options().write(true).open(&fifo).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let frozen = tree::freeze(waits.root, None, None).unwrap();
    assert!(frozen.source.processes.len() > 1);
    frozen.thaw().unwrap();
    drop(opened);
    std::fs::remove_file(&fifo).unwrap();
}

#[test]
fn zombies_stay_dead_as_they_died() {
    grows_again(
        "python3 -c '
import os, time, signal
def child(how):
    pid = os.fork()
    if pid == 0: how()
child(lambda: os._exit(3))
child(lambda: os.kill(os.getpid(), signal.SIGTERM))
child(lambda: os.kill(os.getpid(), signal.SIGKILL))
import ctypes
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
for says in (0, signal.SIGUSR2):
    if ctypes.CDLL(None).syscall(56, int(says), 0, 0, 0, 0) == 0: os._exit(5)
time.sleep(0.2); print(\"ready\", flush=True); time.sleep(1000)' & wait",
    );
}

#[test]
fn a_program_that_forks_all_the_time_is_frozen_whole_and_runs_on() {
    let busy = Contained::new("echo ready; while true; do (true); (true) | (true); done");
    let namespace = family::pid_namespace(busy.root);
    for _ in 0..20 {
        let frozen = tree::freeze(busy.root, namespace.as_deref(), None).unwrap();
        let at_rest = busy.shapes();
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(busy.shapes(), at_rest, "nothing moves");
        frozen.thaw().unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_ne!(stat::read(busy.root).unwrap().state, 'Z');
}

#[test]
fn a_parent_waiting_for_its_vfork_child_is_waited_out() {
    let busy = Contained::new(
        "python3 -c '
import os
print(\"ready\", flush=True)
while True: os.posix_spawn(\"/bin/true\", [\"true\"], {}); os.wait()'",
    );
    for _ in 0..20 {
        let frozen = tree::freeze(busy.root, None, None).unwrap();
        frozen.thaw().unwrap();
    }
    assert_ne!(stat::read(busy.root).unwrap().state, 'Z');
}
