//! What cannot be taken from podman or given back to it: a sentence with the remedy, and nothing half-made remains.
#![forbid(unsafe_code)]

use ferry_tests::{Container, LONG, Podman, until};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// The archive of a container that counts, whose next answer is 1 and which is gone; the host has had a container, so
/// that what podman sets up once is there.
fn archive(host: &Podman, words: &str) -> PathBuf {
    let count = host.run("count", &format!("{words} base"));
    assert_eq!(count.answer(), "0");
    let archive = count.taken("");
    host.sh("podman rm count").ok();
    archive
}

/// Restoring fails with `code`, in words that hold all of `says`, and leaves nothing.
#[track_caller]
fn fails(host: &Podman, line: &str, code: i32, says: &[&str]) {
    let before = host.traces();
    let outcome = host.sh(line).fails_with(code);
    assert_eq!(outcome.stdout, "", "no id of what does not run");
    for word in says {
        assert!(
            outcome.stderr.contains(word),
            "`{line}` says `{word}`: {}",
            outcome.stderr
        );
    }
    host.assert_none_left(&before);
}

#[test]
fn a_missing_image_is_named_with_the_remedy() {
    let alder = Podman::new("alder");
    let bare = Podman::bare("birch");
    let archive = archive(&alder, "");
    fails(
        &bare,
        &format!("restore < {}", archive.display()),
        4,
        &["localhost/base", "podman save"],
    );
}

#[test]
fn a_taken_name_leaves_its_owner_alone() {
    let host = Podman::new("alder");
    let archive = archive(&host, "");
    let owner = host.run("hello", "base");
    let stopped = host.run("done", "base true");
    stopped.becomes("exited");
    for name in ["hello", "done"] {
        fails(
            &host,
            &format!("restore -n {name} < {}", archive.display()),
            5,
            &[name],
        );
    }
    assert_eq!(owner.answer(), "0");
}

#[test]
fn a_taken_port_leaves_its_owner_alone() {
    let host = Podman::new("alder");
    let archive = archive(&host, "-p 9000:8080");
    let owner = host.restored("-n one", &archive);
    assert_eq!(owner.answer(), "1");
    // Not the rules of the firewall: netavark itself takes some of the owner's away when it fails.
    let before = host.inventory();
    let line = format!("restore -n two < {}", archive.display());
    let outcome = host.sh(&line).fails_with(1);
    for word in ["9000", "-p"] {
        assert!(outcome.stderr.contains(word), "{}", outcome.stderr);
    }
    until("nothing to be left of it", LONG, || {
        (host.inventory() == before).then_some(())
    });
    assert_eq!(owner.answer(), "2");
}

#[test]
fn a_host_without_podman_says_what_to_do() {
    let host = Podman::new("alder");
    let archive = archive(&host, "");
    // Only the tools are in PATH.
    let tools = ferry_tests::built();
    fails(
        &host,
        &format!("PATH={} restore < {}", tools.display(), archive.display()),
        4,
        &["podman", "--with-image"],
    );
    fails(
        &host,
        &format!(
            "PATH={} restore --engine podman < {}",
            tools.display(),
            archive.display()
        ),
        4,
        &["podman"],
    );
}

#[test]
fn a_podman_that_is_too_old_is_told_both_ways() {
    let host = Podman::new("alder");
    let archive = archive(&host, "");
    let count = host.run("again", "base");
    let old = host.path("old");
    std::fs::create_dir(&old).expect("make a directory");
    let podman = "#!/bin/sh\n[ \"$1\" != --version ] || { echo podman version 4.2.9; exit; }\n\
        PATH=${PATH#*:} exec podman \"$@\"\n";
    std::fs::write(old.join("podman"), podman).expect("write a script");
    host.sh(&format!("chmod 755 {}/podman", old.display())).ok();
    let says = ["4.2.9", "podman 4.3 or newer"];
    let line = format!(
        "PATH={}:$PATH restore < {}",
        old.display(),
        archive.display()
    );
    fails(&host, &line, 4, &says);
    let line = format!("PATH={}:$PATH checkpoint podman:again", old.display());
    fails(&host, &line, 4, &says);
    assert_eq!(count.answer(), "0");
}

#[test]
fn what_podman_does_not_have_is_named() {
    let host = Podman::new("alder");
    let archive = archive(&host, "");
    for (words, says) in [
        ("--network nowhere", "nowhere"),
        ("--pod nobody", "nobody"),
        ("--ip 192.0.2.200", "192.0.2.200"),
        ("-p nonsense", "nonsense"),
    ] {
        let line = format!("restore -n hello {words} < {}", archive.display());
        let before = host.traces();
        let outcome = host.sh(&line);
        assert!([1, 2, 4].contains(&outcome.code), "{outcome:?}");
        assert!(outcome.stderr.contains(says), "{outcome:?}");
        host.assert_none_left(&before);
    }
}

#[test]
fn a_container_that_does_not_run_by_itself_is_not_taken() {
    let host = Podman::new("alder");
    let paused = host.run("paused", "base");
    paused.says("ready");
    host.sh("podman pause paused").ok();
    let stopped = host.run("stopped", "base true");
    stopped.becomes("exited");
    host.sh("podman create --name created base").ok();
    host.sh("podman pod create --name crew && podman run -d --pod crew --name member base")
        .ok();
    for (name, says) in [
        ("paused", "podman unpause paused"),
        ("stopped", "podman start stopped"),
        ("created", "podman start created"),
        ("member", "pod"),
    ] {
        for target in [name.to_owned(), format!("podman:{name}")] {
            let outcome = host.sh(&format!("checkpoint {target} | cat"));
            assert!(
                (1..=4).contains(&outcome.code) && outcome.stderr.contains(says),
                "{outcome:?}"
            );
            assert_eq!(outcome.stdout, "");
        }
    }
    assert_eq!(paused.status(), "paused");
    assert_eq!(host.container("member").status(), "running");
    host.sh("podman unpause paused").ok();
    assert_eq!(paused.answer(), "0");
    for target in ["nobody", "podman:nobody"] {
        host.sh(&format!("checkpoint {target} | cat")).fails_with(5);
    }
    host.sh("podman pod rm -f -t 0 crew").ok();
}

#[test]
fn a_session_that_came_in_by_exec_is_named_and_lives_on() {
    let host = Podman::new("alder");
    let count = host.run("count", "base");
    assert_eq!(count.answer(), "0");
    let mut session = host
        .shell("exec podman exec count sleep 100")
        .stdout(Stdio::null())
        .spawn()
        .expect("podman exec");
    until("the session to be there", LONG, || {
        host.sh("podman top count args")
            .stdout
            .contains("sleep 100")
            .then_some(())
    });
    let outcome = host.sh("checkpoint count | cat").fails_with(4);
    assert!(outcome.stderr.contains("exec"), "{}", outcome.stderr);
    assert_eq!(count.answer(), "1");
    assert!(session.try_wait().expect("look at it").is_none());
    let _ = session.kill();
    let _ = session.wait();
}

#[test]
fn a_dead_reader_leaves_the_container_running() {
    let host = Podman::new("alder");
    let count = host.run("count", "base");
    count.says("ready");
    let mut next = 0;
    let before = host.traces();
    for bytes in [1, 100_000, 3_000_000] {
        assert_eq!(count.answer(), next.to_string());
        next += 1;
        let outcome = host.sh(&format!("checkpoint count | head -c {bytes} > /dev/null"));
        assert_ne!(outcome.code, 0);
        assert_eq!(count.status(), "running");
    }
    assert_eq!(count.answer(), next.to_string());
    host.assert_none_left(&before);
}

#[test]
fn a_cut_archive_leaves_nothing() {
    let host = Podman::new("alder");
    let archive = archive(&host, "");
    let bytes = std::fs::read(&archive).expect("read the archive");
    let cut = host.path("cut");
    for length in [1000, bytes.len() / 2, bytes.len() - 100] {
        std::fs::write(&cut, &bytes[..length]).expect("write a piece");
        fails(
            &host,
            &format!("restore -n hello < {}", cut.display()),
            3,
            &[],
        );
    }
    let mut flipped = bytes;
    let middle = flipped.len() * 2 / 3;
    flipped[middle] ^= 4;
    std::fs::write(&cut, &flipped).expect("write it");
    fails(
        &host,
        &format!("restore -n hello < {}", cut.display()),
        3,
        &[],
    );
}

/// Whether nobody traces the container's first process: it has been let go.
fn is_released(host: &Podman) -> bool {
    let pid = host.sh("podman inspect -f '{{.State.Pid}}' hello").stdout;
    let status = std::fs::read_to_string(host.proc().join(format!("{}/status", pid.trim())));
    status.is_ok_and(|status| status.contains("TracerPid:\t0"))
}

/// Restores in the background, kills `restore` (and nothing else) after a while, and tells whether it was in time.
fn killed_after(host: &Podman, archive: &Path, wait: Duration) -> bool {
    let mut child = host
        .shell(&format!("exec restore -n hello < {}", archive.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start restore");
    std::thread::sleep(wait);
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
    killed
}

#[test]
fn a_killed_restore_leaves_nothing() {
    let host = Podman::new("alder");
    let archive = archive(&host, "-v data:/data");
    host.sh("podman volume rm data").ok();
    let before = host.traces();
    let start = Instant::now();
    let whole = host.restored("-n hello", &archive);
    let took = start.elapsed();
    assert_eq!(whole.answer(), "1");
    host.sh("podman rm -f -t 0 hello && podman volume rm data")
        .ok();
    host.assert_none_left(&before);
    let rounds = 12;
    let mut in_time = 0;
    for round in 0..rounds {
        let wait = took.mul_f64(f64::from(round) / f64::from(rounds) * 0.95);
        let killed = killed_after(&host, &archive, wait);
        // What was made is taken back by a process that outlives it.
        until("what was made to be taken back", LONG, || {
            (host.sh("pgrep -x 'ferry: engine'").code == 1).then_some(())
        });
        let left = Container {
            podman: &host,
            name: "hello".to_owned(),
        };
        // Killed after it had let the container go, it leaves a whole one.
        let running = host
            .sh("podman ps -q --filter name=hello --filter status=running")
            .ok();
        let released = !running.is_empty() && is_released(&host);
        if released {
            assert_eq!(left.answer(), "1");
            host.sh("podman rm -f -t 0 hello && podman volume rm data")
                .ok();
        } else {
            in_time += i32::from(killed);
        }
        host.assert_none_left(&before);
    }
    assert!(in_time > 0, "none was killed in time");
}

#[test]
fn a_checkpoint_killed_at_any_moment_leaves_it_running_unless_all_was_written() {
    let host = Podman::new("alder");
    let count = host.run("count", "base");
    assert_eq!(count.answer(), "0");
    let image = host.path("image").display().to_string();
    // The form that ends the original: killed in the middle, it may not.
    let line = format!("checkpoint --tcp established count > {image}");
    let start = Instant::now();
    host.sh(&format!(
        "checkpoint --tcp established --leave-running count > {image}"
    ))
    .ok();
    let whole = start.elapsed();
    let mut next = 1;
    let mut killed = 0;
    let rounds = 12;
    for round in 0..rounds {
        let moment = whole.mul_f64(f64::from((round * 5) % rounds) / f64::from(rounds));
        let limit = moment.as_secs_f64() + 0.001;
        let outcome = host.sh(&format!("timeout -s KILL {limit:.3} {line}"));
        let whole = host.sh(&format!("verify {image}")).code == 0;
        // Once all is written it is ended, also where nobody waits for that any more; what podman does takes it a moment.
        let tidy = Duration::from_secs(2);
        std::thread::sleep(if whole { tidy } else { Duration::ZERO });
        if whole && count.status() == "exited" {
            host.sh("podman start count").ok();
            count.says("ready");
            assert_eq!(count.answer(), "0");
            next = 1;
            continue;
        }
        assert_ne!(outcome.code, 0, "{outcome:?}");
        killed += u32::from(!whole);
        assert_eq!(count.status(), "running", "round {round}");
        assert_eq!(count.answer(), next.to_string(), "round {round}");
        next += 1;
        let tracers = host.sh(&format!(
            "cat /proc/{}/task/*/status | grep TracerPid | grep -vw 0",
            count.pid()
        ));
        assert_eq!(tracers.stdout, "", "nobody holds it");
        until("its packets to pass again", LONG, || {
            let tables = host.sh(&format!(
                "nft list tables; nsenter -t {} -n nft list tables",
                count.pid()
            ));
            (!tables.stdout.contains("ferry")).then_some(())
        });
    }
    assert!(killed > 3, "only {killed} were killed in time");
}
