//! Native containers: made by `restore -n`, found again by name, gone with their first process.
#![forbid(unsafe_code)]

use ferry_tests::{Host, LONG, Program, Restored, programs, until};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

/// A counter on port 8000 whose next answer is 4, as an archive.
fn counter(host: &Host) -> PathBuf {
    let archive = host.path("counter.ckpt");
    let line = format!(
        "/usr/bin/python3 {} 8000",
        programs().join("counter.py").display()
    );
    let program = Program::alone(host, "counter", &line);
    for count in 1..=3 {
        assert_eq!(program.answer(8000, "/"), count.to_string());
    }
    host.sh(&format!(
        "checkpoint pid:{} | pack > {}",
        program.pid,
        archive.display()
    ))
    .ok();
    archive
}

fn restored(host: &Host, words: &str, archive: &std::path::Path) -> Restored {
    Restored::read(
        &host
            .sh(&format!("restore --json {words} < {}", archive.display()))
            .ok(),
    )
}

fn get(host: &Host, address: &str) -> String {
    until("an answer over HTTP", LONG, || {
        let outcome = host.sh(&format!("curl -s -f -m 5 http://{address}:8000/"));
        (outcome.code == 0).then(|| outcome.stdout.trim().to_owned())
    })
}

#[test]
fn a_container_is_registered_and_its_network_found_by_name() {
    let host = Host::new("alder");
    let archive = counter(&host);
    let hello = restored(&host, "-n hello --network bridge", &archive);
    let json =
        std::fs::read_to_string(host.outside("/run/ferry/hello.json")).expect("its registration");
    let known = Restored::read(&json);
    assert_eq!((known.pid, &known.addresses), (hello.pid, &hello.addresses));
    assert_eq!(
        host.sh("ip netns exec hello curl -s http://127.0.0.1:8000/")
            .ok(),
        "4"
    );
    assert_eq!(get(&host, &hello.addresses[0]), "5");
    assert_eq!(
        host.sh(&format!("cat /proc/{}/comm", hello.pid)).ok(),
        "python3"
    );
}

#[test]
fn a_container_is_gone_with_its_first_process() {
    let host = Host::new("alder");
    let archive = counter(&host);
    // A first one makes the bridge, which stays for the next.
    let first = restored(&host, "-n first --network bridge", &archive);
    host.kill(first.pid);
    until("its registration to go", LONG, || {
        (!host.outside("/run/ferry/first.json").exists()).then_some(())
    });
    std::thread::sleep(Duration::from_millis(300));
    let traces = ferry_tests::Traces::of(&host);
    let second = restored(&host, "-n second --network bridge", &archive);
    host.kill(second.pid);
    traces.assert_none_left(&host);
}

#[test]
fn a_container_is_taken_again_by_its_name() {
    let host = Host::new("alder");
    let archive = counter(&host);
    let hello = restored(&host, "-n hello --network bridge", &archive);
    assert_eq!(get(&host, &hello.addresses[0]), "4");
    for (number, target) in ["native:hello", "hello", "native:hello"].iter().enumerate() {
        let again = host.path("again.ckpt").display().to_string();
        host.sh(&format!("checkpoint {target} | pack > {again}"))
            .ok();
        until("the name to be free", LONG, || {
            (!host.outside("/run/ferry/hello.json").exists()).then_some(())
        });
        let hello = restored(
            &host,
            "-n hello --network bridge",
            std::path::Path::new(&again),
        );
        assert_eq!(get(&host, &hello.addresses[0]), (5 + number).to_string());
    }
}

#[test]
fn a_replica_can_have_no_network_or_the_hosts() {
    let host = Host::new("alder");
    let archive = counter(&host);
    let lonely = restored(&host, "-n lonely --network none", &archive);
    assert_eq!(lonely.addresses, Vec::<String>::new());
    let links = host
        .sh(&format!("nsenter --net --target {} ip -o link", lonely.pid))
        .ok();
    assert_eq!(links.lines().count(), 1, "nothing but loopback: {links}");
    let shared = restored(&host, "-n shared --network host", &archive);
    assert_eq!(get(&host, "127.0.0.1"), "4");
    let same = |pid: i32| {
        std::fs::read_link(host.proc().join(format!("{pid}/ns/net")))
            .expect("its network namespace")
    };
    assert_eq!(same(shared.pid), same(1));
    assert_ne!(same(lonely.pid), same(1));
}

#[test]
fn a_pid_namespace_is_made_where_none_was() {
    let host = Host::new("alder");
    let archive = host.path("sleeper.ckpt");
    let program = Program::shared(&host, "sleeper", "sleep 1000");
    host.sh(&format!(
        "checkpoint pid:{} > {}",
        program.pid,
        archive.display()
    ))
    .ok();
    let own = restored(&host, "--pidns", &archive);
    let namespace = |pid: i32| {
        std::fs::read_link(host.proc().join(format!("{pid}/ns/pid"))).expect("its pid namespace")
    };
    assert_ne!(namespace(own.pid), namespace(1));
}

#[test]
fn waiting_gives_the_exit_status_and_forwards_signals() {
    let host = Host::new("alder");
    let go = host.path("go");
    let line = format!(
        "bash -c 'trap \"exit 9\" TERM; while [ ! -e {} ]; do sleep 0.02; done; exit 7'",
        go.display()
    );
    let program = Program::alone(&host, "waiter", &line);
    std::thread::sleep(Duration::from_millis(200));
    let archive = host.path("waiter.ckpt");
    host.sh(&format!(
        "checkpoint pid:{} | pack > {}",
        program.pid,
        archive.display()
    ))
    .ok();
    let wait = |name: &str| {
        let child = host
            .shell(&format!(
                "exec restore --wait -n {name} < {}",
                archive.display()
            ))
            .stdout(Stdio::null())
            .spawn()
            .expect("start restore");
        until("it to be registered", LONG, || {
            host.outside(&format!("/run/ferry/{name}.json"))
                .exists()
                .then_some(())
        });
        child
    };
    let mut one = wait("one");
    std::thread::sleep(Duration::from_millis(200));
    assert!(
        one.try_wait().expect("look at restore").is_none(),
        "it stays"
    );
    std::fs::write(&go, b"").expect("let it go");
    assert_eq!(one.wait().expect("wait").code(), Some(7));
    std::fs::remove_file(&go).expect("take it back");

    let mut two = wait("two");
    std::thread::sleep(Duration::from_millis(100));
    let list = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", two.id()))
        .expect("restore's pid");
    let tool = nix::unistd::Pid::from_raw(list.trim().parse().expect("one child"));
    nix::sys::signal::kill(tool, nix::sys::signal::Signal::SIGTERM).expect("signal restore");
    assert_eq!(
        two.wait().expect("wait").code(),
        Some(9),
        "the signal went to the container"
    );
    until("its registration to go", LONG, || {
        (!host.outside("/run/ferry/two.json").exists()).then_some(())
    });
}

#[test]
fn statistics_are_numbers_in_microseconds() {
    let host = Host::new("alder");
    let program = Program::shared(&host, "sleeper", "sleep 1000");
    let at = |name: &str| host.path(name).display().to_string();
    host.sh(&format!(
        // By a file: in a live pipe its pid may still be taken.
        "checkpoint --stats {} pid:{} | pack --stats {} | unpack --stats {} > {image} && restore --stats {} --json {image}",
        at("checkpoint.json"),
        program.pid,
        at("pack.json"),
        at("unpack.json"),
        at("restore.json"),
        image = at("image")
    ))
    .ok();
    let statistics = |name: &str| -> serde_json::Value {
        let text = std::fs::read_to_string(host.path(name)).expect("the statistics");
        serde_json::from_str(&text).expect("JSON")
    };
    for (file, keys) in [
        (
            "checkpoint.json",
            &["freeze", "frozen", "memory", "total"][..],
        ),
        ("restore.json", &["vessel", "memory", "restore"]),
    ] {
        let all = statistics(file);
        for key in keys {
            let value = all["microseconds"]
                .get(key)
                .and_then(serde_json::Value::as_u64);
            assert!(value.is_some_and(|v| v < 60_000_000), "{file} {key}: {all}");
        }
    }
    for file in ["pack.json", "unpack.json"] {
        assert!(statistics(file).is_object());
    }
}

/// A root file system of nothing but a static busybox and a file, and a program in it that pivoted its root there.
fn inner(host: &Host) -> (PathBuf, Program<'_>) {
    let root = host.path("root");
    host.sh(&format!(
        "mkdir -p {0}/bin {0}/proc {0}/old && cp /bin/busybox {0}/bin/ && echo 'came along' > {0}/note",
        root.display()
    ))
    .ok();
    let script = host.path("pivot.sh");
    std::fs::write(
        &script,
        format!(
            "mount --bind {0} {0}; cd {0}; mount -t proc proc proc; pivot_root . old\n\
             exec /bin/busybox sh -c '/bin/busybox umount -l /old; exec /bin/busybox sleep 1000 </proc/self/fd/0 >/note.out 2>&1'\n",
            root.display()
        ),
    )
    .expect("write the script");
    let program = Program::alone(host, "inner", &format!("bash {}", script.display()));
    until("busybox to sleep in its root", LONG, || {
        let command =
            std::fs::read_to_string(host.proc().join(format!("{}/cmdline", program.pid))).ok()?;
        command.contains("sleep\x001000").then_some(())
    });
    (root, program)
}

/// What a container sees at a path of its own.
fn sees(host: &Host, pid: i32, path: &str) -> String {
    std::fs::read_to_string(host.proc().join(format!("{pid}/root{path}"))).unwrap_or_default()
}

#[test]
fn a_root_file_system_can_be_named_or_travel_in_the_image() {
    let host = Host::new("alder");
    let (root, program) = inner(&host);
    let archive = host.path("inner.ckpt");
    host.sh(&format!(
        "checkpoint --with-image pid:{} | pack > {}",
        program.pid,
        archive.display()
    ))
    .ok();
    let named = restored(
        &host,
        &format!("-n named --network none --rootfs {}", root.display()),
        &archive,
    );
    assert_eq!(sees(&host, named.pid, "/note"), "came along\n");
    host.kill(named.pid);
    std::fs::remove_dir_all(&root).expect("take the original away");
    let one = restored(&host, "-n one --network none", &archive);
    let two = restored(&host, "-n two --network none", &archive);
    std::fs::write(
        host.proc().join(format!("{}/root/note", one.pid)),
        "changed\n",
    )
    .expect("change it in one");
    assert_eq!(
        sees(&host, two.pid, "/note"),
        "came along\n",
        "each has its own"
    );
    let exe =
        std::fs::read_link(host.proc().join(format!("{}/exe", two.pid))).expect("its executable");
    assert!(exe.ends_with("bin/busybox"), "{}", exe.display());
}

#[test]
fn a_container_without_proc_has_no_extra_process() {
    let host = Host::new("alder");
    let program = Program::shared(&host, "sleeper", "sleep 1000");
    let archive = host.path("sleeper.ckpt");
    host.sh(&format!(
        "checkpoint pid:{} | pack > {}",
        program.pid,
        archive.display()
    ))
    .ok();
    let before = host.pids().len();
    restored(&host, "--name hello --network none", &archive);
    // One for the program, one for process 1 of its namespace, as its own pid there is not 1, and the keeper.
    assert!(
        host.pids().len() <= before + 3,
        "{}",
        host.sh("ps -ef").stdout
    );
}

#[test]
fn quiet_is_quiet_and_verbose_tells_the_phases() {
    let host = Host::new("alder");
    let program = Program::shared(&host, "sleeper", "sleep 1000");
    let file = host.path("image").display().to_string();
    let quiet = host
        .sh(&format!(
            "checkpoint -q --leave-running pid:{} > {file}",
            program.pid
        ))
        .fails_with(0);
    assert_eq!(quiet.stderr, "");
    let verbose = host
        .sh(&format!("checkpoint -v pid:{} > {file}", program.pid))
        .fails_with(0);
    assert!(verbose.stderr.lines().count() > 2, "{}", verbose.stderr);
    let mode = host.sh(&format!("stat -c %a {file}")).ok();
    assert_eq!(
        mode, "644",
        "a file that the shell made keeps the shell's mode"
    );
    let verbose = host.sh(&format!("restore -v < {file}")).fails_with(0);
    assert!(verbose.stderr.lines().count() > 2, "{}", verbose.stderr);
}
