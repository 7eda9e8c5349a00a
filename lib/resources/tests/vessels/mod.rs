//! What cases of vessels share: an empty place to make them in, records of containers, and shell scripts poured into them.
#![allow(dead_code, reason = "each test uses its part")]

use image::cgroups::Cgroups;
use image::container::{Container, Engine};
use image::namespaces::pid::{Init, Pids};
use image::namespaces::{Namespace, Namespaces};
use image::rootfs::Rootfs;
use image::sockets::tcp::Connections;
use kernel::Pid;
use kernel::proc::mountinfo;
use kernel::ptrace::Stopped;
use kernel::remote::{Call, Caller, Stub, call};
use kernel::rtnetlink::Rtnetlink;
use resources::container::{Files, Subject};
use resources::vessel::native::{Native, Options};
use resources::vessel::registry::{DIR, NETNS};
use resources::vessel::{self, Vessel};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// An empty `/run` and `/var/lib`, so that neither meets those of the machine.
pub fn prepare() {
    // An engine may have mounted it, and would show through.
    let _ = nix::mount::umount2(NETNS, nix::mount::MntFlags::MNT_DETACH);
    for dir in ["/run", "/var/lib"] {
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "none", dir])
            .status();
        assert!(done.unwrap().success());
    }
}

pub fn nothing_is_left() {
    let until = Instant::now() + Duration::from_secs(5);
    while Path::new(DIR).exists() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!Path::new(DIR).exists(), "{:?}", entries(DIR));
    assert!(!Path::new(NETNS).exists(), "{:?}", entries(NETNS));
    assert_eq!(entries("/var/lib"), [""; 0]);
    let links: Vec<_> = Rtnetlink::open().unwrap().links().unwrap();
    assert_eq!(links.len(), 1, "{links:?}");
    for mount in mountinfo::read_own().unwrap() {
        let place = String::from_utf8_lossy(&mount.mountpoint).into_owned();
        assert!(!place.starts_with(NETNS), "{place}");
    }
}

pub fn entries(dir: &str) -> Vec<String> {
    let found = fs::read_dir(dir).into_iter().flatten().flatten();
    found
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

pub fn container(root: Pid) -> Container {
    Container {
        engine: Engine::Native,
        configuration: None,
        name: "source".into(),
        root,
        namespaces: Namespaces {
            mount: Namespace::Host,
            network: Namespace::Host,
            pid: Namespace::Host,
            user: Namespace::Host,
            ipc: Namespace::Host,
            uts: Namespace::Host,
            time: Namespace::Host,
            cgroup: Namespace::Host,
        },
        rootfs: Rootfs::Host,
        cgroups: Cgroups::default(),
        addresses: vec!["192.0.2.77".parse().unwrap()],
        connections: Connections::None,
    }
}

pub fn subject(root: Pid, name: &str, with_image: bool) -> Subject<'_> {
    Subject {
        outside: &[],
        root,
        name,
        engine: Engine::Native,
        configuration: None,
        connections: Connections::None,
        files: Files {
            with_image,
            ..Files::default()
        },
    }
}

pub fn process_1() -> Container {
    let mut container = container(1);
    container.namespaces.pid = Namespace::Own(Pids { init: Init::Root });
    container
}

pub fn named(name: &str) -> Options {
    Options {
        name: Some(name.into()),
        archive: "web.ckpt".into(),
        ..Options::default()
    }
}

pub const BASE: u64 = 0x10_0000_0000;

/// Starts a shell script in a stopped task.
pub fn start(task: Stopped, script: &str) -> Pid {
    let mut stub = Stub::install(task, BASE).unwrap();
    run(&mut stub, script);
    let pid = stub.tid();
    exec(stub).detach(0).unwrap();
    pid
}

pub fn run(stub: &mut Stub, script: &str) {
    let (address, _) = stub.scratch().unwrap();
    let words = ["/bin/sh", "-c", script];
    let mut bytes = Vec::new();
    let mut pointers: Vec<u64> = Vec::new();
    for word in words {
        pointers.push(address + 512 + bytes.len() as u64);
        bytes.extend(word.as_bytes());
        bytes.push(0);
    }
    pointers.push(0);
    let mut all: Vec<u8> = pointers.iter().flat_map(|p| p.to_ne_bytes()).collect();
    all.resize(512, 0);
    all.extend(bytes);
    stub.put(&all).unwrap();
    // The signals that an init has blocked are the container's own business.
    stub.task().unwrap().set_signal_mask(0).unwrap();
}

pub fn exec(mut stub: Stub) -> Stopped {
    let (address, _) = stub.scratch().unwrap();
    let args = [address + 512, address, 0];
    stub.exec("exec", Call::new(libc::SYS_execve, &args))
        .unwrap()
}

/// Makes what the tree's code makes: the root, out of the first process, running a shell script; and lets go.
pub fn pour(mut vessel: Native, root: Pid, script: &str) -> (Pid, Pid) {
    let first = vessel.first().unwrap();
    let pid = vessel.pid();
    if !vessel.is_init() {
        start(first, script);
        Box::new(vessel).release(pid, None).unwrap();
        return (pid, pid);
    }
    let mut init = Stub::install(first, BASE).unwrap();
    let (address, _) = init.scratch().unwrap();
    let (make, bytes) = call::clone3(address, 0, libc::SIGCHLD, &[root]);
    init.put(&bytes).unwrap();
    let (inside, mut child) = init.fork("fork the root", make).unwrap();
    assert_eq!(inside, root as u64);
    run(&mut child, script);
    let child_pid = child.tid();
    exec(child).detach(0).unwrap();
    Box::new(vessel).release(child_pid, Some(init)).unwrap();
    (pid, child_pid)
}

pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn kill(pid: Pid, signal: i32) {
    kernel::pidfd::PidFd::open(pid)
        .unwrap()
        .signal(signal)
        .unwrap();
}

pub fn end(pid: Pid) {
    kill(pid, libc::SIGKILL);
    vessel::wait(pid).unwrap();
}
