//! Process 1 of a container as an engine leaves it: namespaces of its own, the engine's few capabilities, its filter.
#![allow(dead_code, reason = "each test uses its part")]

use image::ids::Pid;
use kernel::pidfd::PidFd;
use kernel::proc::Proc;
use kernel::ptrace::{self, Event, Stopped, options};
use kernel::remote::Stub;
use resources::TargetProcess;
use std::collections::BTreeMap;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What podman leaves a container (00000000a80425fb), as setpriv(1) is told.
const CAPABILITIES: &str = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,\
    +net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap";
/// The same, as a set.
pub const SET: u64 = 0xa804_25fb;
/// The call that its filter refuses, with this error: nothing else here makes it.
pub const REFUSED: (i64, i32) = (libc::SYS_add_key, libc::ENOTNAM);

/// Such a process 1.
pub struct Poor {
    unshare: Child,
    pub pid: kernel::Pid,
}

impl Poor {
    /// Of root, as usual.
    pub fn of_root() -> Self {
        Self::start(&[])
    }

    /// Of user 1000, with no capability at all.
    pub fn of_nobody() -> Self {
        Self::start(&[
            "--reuid=1000",
            "--regid=1000",
            "--clear-groups",
            "--inh-caps=-all",
        ])
    }

    fn start(more: &[&str]) -> Self {
        let mut command = Command::new("unshare");
        let own = [
            "-p",
            "-m",
            "-n",
            "-i",
            "-u",
            "-f",
            "--kill-child",
            "--mount-proc",
        ];
        command.args(own).args(["setarch", "-R", "setpriv"]);
        command
            .args(more)
            .args(["--bounding-set", CAPABILITIES, "sleep", "1000"]);
        command.stdin(Stdio::null()).env_clear();
        command.env("PATH", "/usr/bin:/bin");
        kernel::own::seccomp::refused(&mut command, REFUSED.0, REFUSED.1);
        let mut poor = Poor {
            unshare: command
                .spawn()
                .expect("needs root, unshare(1) and setpriv(1)"),
            pid: 0,
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        let unshare = poor.unshare.id() as kernel::Pid;
        let children = Proc::thread(unshare, unshare);
        // Only `sleep` itself calls clock_nanosleep (230).
        while !Proc::process(poor.pid)
            .text("syscall")
            .unwrap_or_default()
            .starts_with("230 ")
        {
            assert!(Instant::now() < deadline, "no process 1");
            std::thread::sleep(Duration::from_millis(1));
            poor.pid = children
                .text("children")
                .unwrap()
                .trim()
                .parse()
                .unwrap_or(0);
        }
        poor
    }

    /// Its exit status, once it has ended.
    pub fn ends(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            // unshare(1) ends as it does.
            if let Some(status) = self.unshare.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it hangs");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stopped as an engine's is, with its filter not in force.
    pub fn stop(&self) -> Stopped {
        self.stop_with(options::SYSGOOD | options::EXITKILL | options::SUSPEND_SECCOMP)
    }

    /// Stopped, to make calls as the program itself would.
    pub fn stop_with(&self, options: i32) -> Stopped {
        let running = ptrace::seize(self.pid, options).unwrap();
        running.interrupt().unwrap();
        match running.wait().unwrap() {
            Event::Stop(stopped) => stopped,
            other => panic!("{other:?}"),
        }
    }

    /// Stopped, with a stub.
    pub fn target(&self, stub: u64) -> TargetProcess {
        target(1, Stub::overlay(self.stop(), stub).unwrap())
    }
}

/// A stub's process.
pub fn target(inside: Pid, leader: Stub) -> TargetProcess {
    use kernel::remote::Caller;
    let pid = leader.tid();
    TargetProcess {
        pid,
        inside,
        proc: Proc::process(pid),
        pidfd: PidFd::open(pid).unwrap(),
        leader,
        threads: BTreeMap::new(),
        pidfds: Default::default(),
    }
}

impl Drop for Poor {
    fn drop(&mut self) {
        let _ = PidFd::open(self.pid).and_then(|pid| pid.signal(libc::SIGKILL));
        // The traced wait for us, and process 1 for them.
        let unshare = self.unshare.id() as kernel::Pid;
        while let Ok(Some((tid, event))) = ptrace::wait_any() {
            if tid == unshare && matches!(event, Event::Gone(_)) {
                return;
            }
        }
    }
}
