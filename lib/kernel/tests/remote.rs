//! Remote calls in live tasks: a stub in a task being rebuilt, a guest call that the task survives whatever happens.

use kernel::pidfd::PidFd;
use kernel::ptrace::{self, Event, Running, options};
use kernel::remote::{Call, Caller, Gates, Guest, Plant, Stub, plant};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const STUB: u64 = 0x10_0000;

struct Task(Child);

impl Task {
    fn new(command: &str) -> Self {
        let mut sh = Command::new("sh");
        sh.args(["-c", command]).stdin(Stdio::null());
        Task(sh.stdout(Stdio::piped()).spawn().unwrap())
    }
    fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn stop(pid: i32, options: i32) -> ptrace::Stopped {
    let running = ptrace::seize(pid, options).unwrap();
    running.interrupt().unwrap();
    match running.wait().unwrap() {
        Event::Stop(stopped) => stopped,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stub_makes_one_call_and_many() {
    let task = Task::new("exec sleep 100");
    let mut stub = Stub::install(stop(task.pid(), 0), STUB).unwrap();
    let pid = i64::from(task.pid());
    let getpid = Call::new(libc::SYS_getpid, &[]);
    assert_eq!(stub.call(getpid).unwrap(), pid);
    let calls = vec![getpid; 1200];
    assert!(stub.batch(&calls).unwrap().iter().all(|r| *r == pid));
    assert_eq!(
        stub.batch(&[Call::new(libc::SYS_close, &[999]), getpid])
            .unwrap(),
        [-i64::from(libc::EBADF), pid]
    );
    let error = stub
        .must("close 999", Call::new(libc::SYS_close, &[999]))
        .unwrap_err();
    assert_eq!(error.raw(), Some(libc::EBADF));
}

#[test]
fn descriptors_are_planted_at_their_numbers() {
    let task = Task::new("exec sleep 100");
    let mut stub = Stub::install(stop(task.pid(), 0), STUB).unwrap();
    let file = std::fs::File::open("/etc/hostname").unwrap();
    let plants: Vec<Plant> = (3..600)
        .rev()
        .map(|number| Plant {
            fd: file.as_fd(),
            number,
            close_on_exec: number % 2 == 0,
        })
        .collect();
    plant(&mut stub, &PidFd::open(task.pid()).unwrap(), &plants).unwrap();
    let fds = kernel::proc::Proc::process(task.pid());
    assert_eq!(fds.numbers("fd").unwrap(), (0..600).collect::<Vec<_>>());
    assert_eq!(fds.link("fd/599").unwrap().to_str(), Some("/etc/hostname"));
    assert!(
        fds.text("fdinfo/4").unwrap().contains("flags:\t02"),
        "close on exec"
    );
    assert!(
        !fds.text("fdinfo/5").unwrap().contains("flags:\t02"),
        "kept on exec"
    );
}

#[test]
fn a_fork_gives_a_child_that_makes_calls_too() {
    let task = Task::new("exec sleep 100");
    let mut stub = Stub::install(stop(task.pid(), 0), STUB).unwrap();
    let fork = Call::new(libc::SYS_clone, &[libc::SIGCHLD as u64]);
    let (pid, mut child) = stub.fork("fork", fork).unwrap();
    assert_eq!(
        child.call(Call::new(libc::SYS_getpid, &[])).unwrap(),
        pid as i64
    );
    assert_eq!(
        child.call(Call::new(libc::SYS_getppid, &[])).unwrap(),
        i64::from(task.pid())
    );
    let status = child
        .last_call(Call::new(libc::SYS_exit_group, &[7]))
        .unwrap();
    assert_eq!(libc::WEXITSTATUS(status), 7);
}

#[test]
fn a_guest_answers_and_goes_on_unharmed() {
    let task = Task::new("sleep 0.4; echo done");
    std::thread::sleep(Duration::from_millis(100));
    let gates = Gates::find(task.pid()).unwrap();
    assert!(gates.is_some());
    let mut guest = Guest::new(stop(task.pid(), options::SYSGOOD), gates).unwrap();
    for _ in 0..10 {
        let pid = guest.call(Call::new(libc::SYS_getpid, &[])).unwrap();
        assert_eq!(pid, i64::from(task.pid()));
    }
    guest.finish().unwrap().detach(0).unwrap();
    let mut task = task;
    let out = std::io::read_to_string(task.0.stdout.take().unwrap()).unwrap();
    assert_eq!(out, "done\n");
    assert!(task.0.wait().unwrap().success());
}

/// A program that fails when a register, its mask, or its sleep is disturbed.
const CHECKED: &str = r#"
import time, signal, sys
t = time.monotonic(); n = 0
while time.monotonic() - t < 0.5:
    before = time.monotonic(); time.sleep(0.05)
    if time.monotonic() - before < 0.05: sys.exit(3)
    s = 0.0
    for i in range(20000): s += i * 1.5
    if s != 299985000.0: sys.exit(4)
    if signal.pthread_sigmask(signal.SIG_BLOCK, []): sys.exit(5)
    n += 1
print("fine")
"#;

#[test]
fn a_tracer_killed_at_any_moment_leaves_the_task_unharmed() {
    for round in 0..30u64 {
        let mut target = Command::new("python3");
        let target = target
            .args(["-c", CHECKED])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = target.id() as i32;
        let target = Task(target);
        std::thread::sleep(Duration::from_millis(150));
        // SAFETY: the child makes plain calls only and is killed or exits; it never returns into the test.
        let tracer = unsafe { libc::fork() };
        if tracer == 0 {
            let gates = Gates::find(pid).unwrap();
            let mut guest = Guest::new(stop(pid, options::SYSGOOD), gates).unwrap();
            loop {
                guest.call(Call::new(libc::SYS_getpid, &[])).unwrap();
            }
        }
        std::thread::sleep(Duration::from_micros(20_000 + round * 37));
        // SAFETY: our own child, not yet waited for.
        unsafe {
            libc::kill(tracer, libc::SIGKILL);
            libc::waitpid(tracer, std::ptr::null_mut(), 0);
        }
        let mut target = target;
        let out = std::io::read_to_string(target.0.stdout.take().unwrap()).unwrap();
        let status = target.0.wait().unwrap();
        assert!(
            status.success() && out == "fine\n",
            "round {round}: {status} {out:?}"
        );
    }
}

#[test]
fn a_task_that_dies_is_a_value_not_a_panic() {
    let mut task = Task::new("exec sleep 100");
    let mut stub = Stub::install(stop(task.pid(), 0), STUB).unwrap();
    task.0.kill().unwrap();
    let error = stub.call(Call::new(libc::SYS_getpid, &[])).unwrap_err();
    assert_eq!(error.raw(), Some(libc::ESRCH));
    let _ = Running::known(task.pid()).wait();
}
