//! Two processes of the same program at the same addresses: one is given a state by remote calls and taken, the other is
//! given what was taken, and taken again.
#![allow(dead_code, reason = "each test uses its part")]

use image::ids::Pid;
use kernel::pidfd::PidFd;
use kernel::proc::{Proc, status};
use kernel::ptrace::{self, Event, Stopped, options};
use kernel::remote::{Call, Caller, Gates, Guest, Stub};
use resources::{SourceProcess, SourceThread, TargetProcess};
use std::collections::{BTreeMap, HashMap};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const STUB: u64 = 0x10_0000;

/// `sleep`, without address space randomisation.
pub struct Sleeper(Child);

impl Sleeper {
    pub fn new(seconds: &str) -> Self {
        let mut setarch = Command::new("setarch");
        setarch.args(["-R", "sleep", seconds]).stdin(Stdio::null());
        // Nothing of the environment may tell the two apart.
        let sleeper = Sleeper(
            setarch
                .env_clear()
                .env("PATH", "/usr/bin:/bin")
                .spawn()
                .unwrap(),
        );
        sleeper.until_asleep();
        sleeper
    }

    pub fn pid(&self) -> kernel::Pid {
        self.0.id() as kernel::Pid
    }

    /// Waits until it is in `clock_nanosleep` (230), which only `sleep` itself calls.
    pub fn until_asleep(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let proc = Proc::process(self.pid());
        while !proc.text("syscall").unwrap_or_default().starts_with("230 ") {
            assert!(Instant::now() < deadline, "sleep does not sleep");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn exits(&mut self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if self.0.try_wait().unwrap().is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        false
    }

    fn stop(&self) -> Stopped {
        let running = ptrace::seize(self.pid(), options::SYSGOOD | options::EXITKILL).unwrap();
        running.interrupt().unwrap();
        match running.wait().unwrap() {
            Event::Stop(stopped) => stopped,
            other => panic!("{other:?}"),
        }
    }

    /// Stopped as it is, nothing changed in it.
    pub fn untouched(&self) -> SourceProcess {
        source(self.pid(), vec![self.stop()])
    }

    /// Stopped, with a stub: to build a state in, or to give one to.
    pub fn target(&self) -> TargetProcess {
        let leader = Stub::install(self.stop(), STUB).unwrap();
        TargetProcess {
            pid: self.pid(),
            inside: self.pid(),
            proc: Proc::process(self.pid()),
            pidfd: PidFd::open(self.pid()).unwrap(),
            leader,
            threads: BTreeMap::new(),
            pidfds: Default::default(),
        }
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let tids = Proc::process(self.pid())
            .numbers("task")
            .unwrap_or_default();
        let _ = self.0.kill();
        // The end of a traced thread is for its tracer to see; until then its leader cannot be waited for.
        for tid in tids.into_iter().filter(|tid| *tid != self.pid()) {
            let _ = ptrace::Running::known(tid).wait();
        }
        let _ = self.0.wait();
    }
}

/// A process to be taken, by its tasks.
pub fn source(pid: kernel::Pid, tasks: Vec<Stopped>) -> SourceProcess {
    let gates = Gates::find(pid).unwrap();
    let threads = tasks.into_iter().map(|task| SourceThread {
        wait: None,
        tid: task.tid(),
        inside: task.tid(),
        guest: Guest::new(task, gates).unwrap(),
    });
    SourceProcess {
        pid,
        inside: pid,
        ended: None,
        proc: Proc::process(pid),
        pidfd: PidFd::open(pid).unwrap(),
        threads: threads.collect(),
    }
}

/// A process that has its state can be taken.
pub fn to_source(target: TargetProcess) -> SourceProcess {
    let mut tasks = vec![target.leader.into_task().unwrap()];
    tasks.extend(target.threads.into_values().map(|t| t.into_task().unwrap()));
    source(target.pid, tasks)
}

/// Makes a call that must succeed.
pub fn must(stub: &mut Stub, nr: i64, arguments: &[u64]) -> u64 {
    stub.must(&format!("call {nr}"), Call::new(nr, arguments))
        .unwrap()
}

/// Puts words into a stub's scratch memory; gives their address.
pub fn words(stub: &mut Stub, words: &[u64]) -> u64 {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
    stub.put(&bytes).unwrap()
}

/// All tasks belong to the container.
pub fn everybody(source: &SourceProcess) -> HashMap<kernel::Pid, Pid> {
    let ids = source.threads.iter().map(|t| (t.tid, t.inside));
    ids.chain([(std::process::id() as i32, 1)]).collect()
}

/// A line of `/proc/PID/status`.
pub fn line(pid: kernel::Pid, key: &str) -> String {
    status::read(pid).unwrap().get(key).unwrap().to_string()
}

/// Ids that are free: of threads just ended, as those of a container that was moved are.
pub fn free_ids(count: usize) -> Vec<Pid> {
    let mut last: Pid = std::fs::read_to_string("/proc/sys/kernel/ns_last_pid")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let mut free = Vec::new();
    while free.len() < count {
        last = if last > 30000 { 20000 } else { last + 97 };
        if !Proc::process(last).path("stat").exists() {
            free.push(last);
        }
    }
    free
}
