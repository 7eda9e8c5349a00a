//! Trees of live processes: taken, left to run on, and grown again in a new pid namespace.

use kernel::proc::{Proc, family, stat, status};
use kernel::ptrace::{self, Event};
use kernel::remote::Stub;
use resources::tree;
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
        let namespace = family::pid_namespace(self.root);
        let mut shapes: Vec<String> = family::family(self.root, namespace.as_deref())
            .unwrap()
            .into_iter()
            .map(|process| shape(process.pid))
            .collect();
        shapes.sort();
        shapes
    }
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
        format!(" dead {} {}", stat.exit_code(), stat.comm)
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
    let taken = tree::dump(&frozen, contained.root, &|_| false, None, STUB).unwrap();
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
    let grown = tree::grow(&tree, Stub::install(stopped, STUB).unwrap(), true).unwrap();
    assert_eq!(target.shapes(), before);
    assert_eq!(
        grown.processes.len(),
        before.iter().filter(|s| !s.contains("dead")).count()
    );
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
