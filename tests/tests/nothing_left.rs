//! After every failed restore nothing is left: no process, mount, namespace, link, cgroup or file.
#![forbid(unsafe_code)]

use ferry_tests::{Host, Program, Restored, Traces, programs, until};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// An archive and a bare image of a program which is gone from the host.
struct Images {
    archive: PathBuf,
    bare: PathBuf,
    pid: i32,
}

impl Images {
    fn of(program: &Program<'_>) -> Self {
        let host = program.host;
        let (archive, bare) = (host.path("archive"), host.path("bare"));
        host.sh(&format!(
            "checkpoint pid:{} > {1} && pack < {1} > {2}",
            program.pid,
            bare.display(),
            archive.display()
        ))
        .ok();
        program.ends();
        Images {
            archive,
            bare,
            pid: program.pid,
        }
    }
}

/// A small counter with a child and a pipe.
fn images(host: &Host) -> Images {
    let directory = host.path("halfway");
    std::fs::create_dir(&directory).expect("make a directory");
    let line = format!(
        "/usr/bin/python3 {} {}",
        programs().join("halfway.py").display(),
        directory.display()
    );
    let program = Program::shared(host, "halfway", &line);
    program.says("ready");
    Images::of(&program)
}

/// A container with much inside it.
fn laden(host: &Host) -> Images {
    Images::of(&Program::laden(host))
}

/// Restores under a name and without one, and sees each fail with `code` and leave nothing.
fn fails(host: &Host, bytes: &[u8], code: i32, says: &str) {
    for words in ["", "-n hello --network bridge"] {
        let traces = Traces::of(host);
        let outcome = host
            .sh_with(&format!("restore {words}"), bytes)
            .fails_with(code);
        assert!(
            outcome.stderr.contains(says),
            "says `{says}`: {}",
            outcome.stderr
        );
        assert_eq!(outcome.stdout, "", "no id of what does not run");
        traces.assert_none_left(host);
    }
}

#[test]
fn an_image_cut_anywhere_leaves_nothing() {
    let host = Host::new("alder");
    let images = images(&host);
    for path in [&images.archive, &images.bare] {
        let bytes = std::fs::read(path).expect("read the image");
        let cuts = [
            0,
            1,
            511,
            512,
            4096,
            bytes.len() / 3,
            bytes.len() * 2 / 3,
            bytes.len() - 1000,
            bytes.len() - 1,
        ];
        for cut in cuts {
            fails(&host, &bytes[..cut], 3, "");
        }
    }
}

#[test]
fn a_flipped_bit_leaves_nothing() {
    let host = Host::new("alder");
    let images = images(&host);
    for path in [&images.archive, &images.bare] {
        let bytes = std::fs::read(path).expect("read the image");
        for place in [20, bytes.len() / 4, bytes.len() / 2, bytes.len() * 9 / 10] {
            let mut bytes = bytes.clone();
            bytes[place] ^= 0x10;
            fails(&host, &bytes, 3, "");
        }
    }
}

#[test]
fn what_is_no_image_is_refused() {
    let host = Host::new("alder");
    fails(
        &host,
        b"this is a letter to my aunt, and no image at all\n",
        3,
        "",
    );
    fails(&host, &[0; 100_000], 3, "");
    host.sh("restore /nowhere/at/all").fails_with(1);
    host.sh("restore --no-such-flag < /dev/null").fails_with(2);
    host.sh("script -qec restore /dev/null").fails_with(2);
}

#[test]
fn a_bare_image_is_refused_where_a_seal_is_required() {
    let host = Host::new("alder");
    let images = images(&host);
    let traces = Traces::of(&host);
    host.sh(&format!(
        "restore --require-seal < {}",
        images.bare.display()
    ))
    .fails_with(3);
    traces.assert_none_left(&host);
    host.sh(&format!(
        "restore --require-seal < {}",
        images.archive.display()
    ))
    .ok();
    assert!(host.lives(images.pid));
}

#[test]
fn a_taken_name_leaves_its_owner_alone() {
    let host = Host::new("alder");
    let images = images(&host);
    let line = format!("restore --json -n hello < {}", images.archive.display());
    let first = Restored::read(&host.sh(&line).ok());
    let traces = Traces::of(&host);
    let outcome = host.sh(&line).fails_with(5);
    assert!(outcome.stderr.contains("hello"), "{}", outcome.stderr);
    traces.assert_none_left(&host);
    assert!(host.lives(first.pid));
}

#[test]
fn a_name_that_is_a_path_is_refused() {
    let host = Host::new("alder");
    let images = images(&host);
    let traces = Traces::of(&host);
    for name in ["../hello", "a/b", "..", "''"] {
        let outcome = host.sh(&format!("restore -n {name} < {}", images.archive.display()));
        assert_eq!(outcome.code, 2, "{outcome:?}");
    }
    traces.assert_none_left(&host);
}

#[test]
fn a_taken_pid_is_named_and_its_owner_left_alone() {
    let host = Host::new("alder");
    let images = images(&host);
    until("the pid to be taken", ferry_tests::LONG, || {
        host.sh(&format!(
            "echo {} > /proc/sys/kernel/ns_last_pid; sleep 1000 </dev/null >/dev/null 2>&1 &",
            images.pid - 1
        ));
        host.lives(images.pid).then_some(())
    });
    let traces = Traces::of(&host);
    let outcome = host
        .sh(&format!("restore < {}", images.archive.display()))
        .fails_with(5);
    assert!(
        outcome.stderr.contains(&images.pid.to_string()),
        "{}",
        outcome.stderr
    );
    traces.assert_none_left(&host);
}

#[test]
fn an_image_of_much_cut_anywhere_leaves_nothing() {
    let host = Host::new("alder");
    let images = laden(&host);
    let bytes = std::fs::read(&images.bare).expect("read the image");
    // The end is where all that is in it has been made.
    let cuts = (1..10).map(|n| bytes.len() * n / 10);
    for cut in cuts.chain([1000, 513, 512, 1].map(|n| bytes.len() - n)) {
        fails(&host, &bytes[..cut], 3, "");
    }
}

#[test]
fn a_restore_killed_at_any_moment_leaves_nothing() {
    let host = Host::new("alder");
    let images = images(&host);
    killed_at_any_moment(&host, &images, ["", "-n hello --network bridge"]);
}

#[test]
fn a_restore_of_much_killed_at_any_moment_leaves_nothing() {
    let host = Host::new("alder");
    let images = laden(&host);
    killed_at_any_moment(&host, &images, ["-n hello", "-n hello --network bridge"]);
}

/// Restores with these words in turn, each killed a little later.
fn killed_at_any_moment(host: &Host, images: &Images, words: [&str; 2]) {
    let archive = images.archive.display();
    let traces = Traces::of(host);
    // Once undisturbed, for the time it takes.
    let start = Instant::now();
    let whole = Restored::read(
        &host
            .sh(&format!(
                "restore --json -n hello --network bridge < {archive}"
            ))
            .ok(),
    );
    let took = start.elapsed();
    host.kill(whole.pid);
    until("its name to be free", ferry_tests::LONG, || {
        (!host.outside("/run/ferry/hello.json").exists()).then_some(())
    });
    let rounds = 40;
    let mut whole = 0;
    for round in 0..rounds {
        let words = words[round as usize % 2];
        let mut child = host
            .shell(&format!("exec restore {words} < {archive}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start restore");
        std::thread::sleep(took.mul_f64(f64::from((round * 7) % rounds) / f64::from(rounds) * 0.9));
        let list = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id()))
            .unwrap_or_default();
        let killed = list.trim().parse().is_ok_and(|pid| {
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            )
            .is_ok()
        });
        child.wait().expect("wait for restore");
        // Killed after it had let the container go, it leaves a whole one, which is then cleared away.
        std::thread::sleep(Duration::from_millis(50));
        let root = match words.is_empty() {
            true => Some(images.pid).filter(|pid| host.lives(*pid)),
            false => container(host, "hello").filter(|pid| host.lives(*pid)),
        };
        if let Some(pid) = root.filter(|_| !killed || is_released(host, root)) {
            whole += 1;
            host.kill(pid);
        }
        traces.assert_none_left(host);
    }
    assert!(whole < rounds, "none was killed in time");
}

/// Whether nobody traces a process any more: it has been let go.
fn is_released(host: &Host, pid: Option<i32>) -> bool {
    let status =
        pid.and_then(|pid| std::fs::read_to_string(host.proc().join(format!("{pid}/status"))).ok());
    status.is_some_and(|status| status.contains("TracerPid:\t0"))
}

/// The root pid of a native container by its registration.
fn container(host: &Host, name: &str) -> Option<i32> {
    let json = std::fs::read_to_string(host.outside(&format!("/run/ferry/{name}.json"))).ok()?;
    let root = serde_json::from_str::<serde_json::Value>(&json).ok()?;
    root["pid"].as_i64().map(|pid| pid as i32)
}
