//! After every failed checkpoint the program runs on as if nothing had happened: nothing stopped or traced, no call
//! interrupted, the same speed.
#![forbid(unsafe_code)]

use ferry_tests::{Host, LONG, Program, Traces, programs, until};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A program that notes every disturbance: see `tests/programs/witness.py`.
struct Witness<'h> {
    program: Program<'h>,
    count: std::fs::File,
}

impl<'h> Witness<'h> {
    fn start(host: &'h Host) -> Self {
        let path = host.path("count");
        let line = format!(
            "/usr/bin/python3 {} {}",
            programs().join("witness.py").display(),
            path.display()
        );
        let program = Program::alone(host, "witness", &line);
        program.says("ready");
        let count = std::fs::File::open(path).expect("open the count");
        let witness = Witness { program, count };
        witness.counts_on();
        witness
    }

    fn count(&self) -> u64 {
        let mut bytes = [0; 8];
        self.count
            .read_exact_at(&mut bytes, 0)
            .expect("read the count");
        u64::from_le_bytes(bytes)
    }

    fn counts_on(&self) {
        let before = self.count();
        until("the count to go on", LONG, || {
            (self.count() > before).then_some(())
        });
    }

    /// Counts per second over a tenth of one; the best of several, as the machine has other work.
    fn speed(&self) -> f64 {
        let one = || {
            let (start, before) = (Instant::now(), self.count());
            std::thread::sleep(Duration::from_millis(100));
            (self.count() - before) as f64 / start.elapsed().as_secs_f64()
        };
        (0..8).map(|_| one()).fold(0.0, f64::max)
    }

    fn is_unharmed(&self) {
        self.program.runs_free();
        self.counts_on();
        let output = std::fs::read_to_string(&self.program.output).expect("its output");
        assert_eq!(output.lines().count(), 1, "it was disturbed: {output}");
    }

    fn target(&self) -> String {
        format!("pid:{}", self.program.pid)
    }
}

/// Runs `fail` on a witness and sees that nothing came of it.
fn unharmed_by(fail: impl Fn(&Host, &Witness)) {
    let host = Host::new("alder");
    let witness = Witness::start(&host);
    let speed = witness.speed();
    let traces = Traces::of(&host);
    let state = witness.program.state();
    fail(&host, &witness);
    witness.is_unharmed();
    state.assert_kept_by(&witness.program, |state| state);
    traces.assert_none_left(&host);
    let now = witness.speed();
    assert!(
        now > speed / 3.0,
        "{speed:.0} counts per second became {now:.0}"
    );
}

#[test]
fn a_checkpoint_that_leaves_it_running_does_no_harm() {
    unharmed_by(|host, witness| {
        for _ in 0..5 {
            host.sh(&format!(
                "checkpoint --leave-running {} > /dev/null",
                witness.target()
            ))
            .ok();
        }
    });
}

#[test]
fn a_dead_reader_does_no_harm() {
    unharmed_by(|host, witness| {
        for bytes in [0, 1, 5000, 300_000] {
            let line = format!(
                "checkpoint {} | head -c {bytes} > /dev/null",
                witness.target()
            );
            let outcome = host.sh(&line);
            assert_eq!(outcome.code, 1, "{outcome:?}");
        }
    });
}

#[test]
fn a_full_disk_does_no_harm() {
    unharmed_by(|host, witness| {
        let outcome = host
            .sh(&format!("checkpoint {} > /dev/full", witness.target()))
            .fails_with(1);
        assert!(outcome.stderr.contains("no space left"), "{outcome:?}");
    });
}

#[test]
fn a_migration_that_fails_over_there_does_no_harm() {
    unharmed_by(|host, witness| {
        let migrate = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/migrate");
        // What stands in for ssh reads everything, as a restore that fails at the end does.
        let ssh = host.path("ssh");
        for there in [
            "cat >/dev/null; exit 3",
            "exit 255",
            "head -c 1000 >/dev/null; exit 1",
        ] {
            std::fs::write(&ssh, format!("#!/bin/sh\n{there}\n"))
                .expect("write what stands in for ssh");
            let outcome = host.sh(&format!(
                "chmod 755 {0}; FERRY_SSH={0} {1} {2} birch",
                ssh.display(),
                migrate.display(),
                witness.target()
            ));
            assert_ne!(outcome.code, 0, "{outcome:?}");
            assert!(outcome.stderr.contains("goes on here"), "{outcome:?}");
            witness.is_unharmed();
        }
    });
}

#[test]
fn a_terminal_is_refused_and_does_no_harm() {
    unharmed_by(|host, witness| {
        let line = format!("script -qec 'checkpoint {}' /dev/null", witness.target());
        host.sh(&line).fails_with(2);
    });
}

#[test]
fn a_blocker_is_named_before_anything_is_frozen() {
    let host = Host::new("alder");
    // An established connection is not supported yet; its other end lives in the test's own nc.
    host.start("nc -l -p 9000", &host.path("listener.out"));
    let talker = host.start(
        "python3 -c 'import socket,time; s=socket.create_connection((\"127.0.0.1\",9000)); time.sleep(1000)'",
        &host.path("talker.out"),
    );
    until("the talker to connect", LONG, || {
        host.sh("ss -Htn state established")
            .stdout
            .contains(":9000")
            .then_some(())
    });
    let traces = Traces::of(&host);
    let file = host.path("never").display().to_string();
    let outcome = host
        .sh(&format!("checkpoint pid:{talker} > {file}"))
        .fails_with(4);
    assert!(
        outcome.stderr.contains(&talker.to_string()),
        "names the process: {}",
        outcome.stderr
    );
    assert!(
        outcome.stderr.contains("TCP"),
        "names what it is: {}",
        outcome.stderr
    );
    assert_eq!(
        std::fs::metadata(&file).expect("the file").len(),
        0,
        "nothing is written"
    );
    assert!(host.lives(talker));
    traces.assert_none_left(&host);
}

#[test]
fn a_network_that_is_not_its_user_namespaces_is_named_before_anything_is_frozen() {
    let host = Host::new("alder");
    let line = "unshare --net unshare --user sleep 1000";
    let program = host.start(line, &host.path("output"));
    until("its namespace", LONG, || {
        let name = host.sh(&format!(
            "readlink /proc/{program}/ns/user /proc/self/ns/user"
        ));
        let names: Vec<&str> = name.stdout.lines().collect();
        (names.len() == 2 && names[0] != names[1]).then_some(())
    });
    let outcome = host
        .sh(&format!("checkpoint pid:{program} > /dev/null"))
        .fails_with(4);
    assert!(
        outcome
            .stderr
            .contains("a net namespace that does not belong to its user namespace"),
        "{}",
        outcome.stderr
    );
    assert!(host.lives(program));
}

#[test]
fn a_program_that_restricted_itself_by_landlock_is_named_and_runs_on() {
    const RESTRICTED: &str = "import ctypes, os, time
c = ctypes.CDLL(None)
execution = ctypes.c_uint64(1)
rules = c.syscall(444, ctypes.byref(execution), 8, 0)
if rules < 0: print('none', flush=True)
elif c.prctl(38, 1, 0, 0, 0) or c.syscall(446, rules, 0): print('failed', flush=True)
else: os.close(rules); print('restricted', flush=True)
time.sleep(1000)";
    let host = Host::new("alder");
    std::fs::write(host.path("restricted.py"), RESTRICTED).expect("write the program");
    let output = host.path("output");
    let line = format!("python3 {}", host.path("restricted.py").display());
    let program = host.start(&line, &output);
    let said = until("what it says", LONG, || {
        let said = std::fs::read_to_string(&output).unwrap_or_default();
        said.ends_with('\n').then_some(said)
    });
    if said == "none\n" {
        eprintln!("landlock: 1 case not tried, this kernel has none");
        return;
    }
    assert_eq!(said, "restricted\n");
    let outcome = host
        .sh(&format!("checkpoint pid:{program} > /dev/null"))
        .fails_with(4);
    let words =
        format!("process {program}, thread {program}: it has restricted itself by landlock");
    assert!(outcome.stderr.contains(&words), "{}", outcome.stderr);
    assert!(host.lives(program));
}

#[test]
fn no_such_process_is_code_5_and_bad_usage_code_2() {
    let host = Host::new("alder");
    host.sh("checkpoint pid:999999 > /dev/null").fails_with(5);
    host.sh("checkpoint nobody-knows-me > /dev/null")
        .fails_with(5);
    host.sh("checkpoint native:nobody > /dev/null")
        .fails_with(5);
    host.sh("checkpoint > /dev/null").fails_with(2);
    host.sh("checkpoint --no-such-flag pid:1 > /dev/null")
        .fails_with(2);
    host.sh("checkpoint --leave-running --leave-frozen pid:1 > /dev/null")
        .fails_with(2);
}

/// `checkpoint` killed at a moment of its run, from its start to its end, and what is then to be seen of the program.
fn killed_at_any_moment(host: &Host, target: &str, rounds: u32, is_unharmed: impl Fn()) {
    let line = format!("exec checkpoint --leave-running {target} > /dev/null");
    let start = Instant::now();
    host.sh(&line).ok();
    let whole = start.elapsed();
    let mut killed = 0;
    for round in 0..rounds {
        let mut child = host
            .shell(&line)
            .stderr(Stdio::null())
            .spawn()
            .expect("start checkpoint");
        // Spread over the whole run, in an order that is not the order of time.
        let moment = f64::from((round * 17) % rounds) / f64::from(rounds);
        std::thread::sleep(whole.mul_f64(moment * 0.95));
        // nsenter's child is the tool itself: it `exec`s twice and forks once, into the pid namespace.
        let tool = format!("/proc/{0}/task/{0}/children", child.id());
        if let Some(pid) = std::fs::read_to_string(&tool)
            .ok()
            .and_then(|l| l.trim().parse::<i32>().ok())
        {
            let pid = nix::unistd::Pid::from_raw(pid);
            killed +=
                u32::from(nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).is_ok());
        }
        let _ = child.wait();
        is_unharmed();
    }
    assert!(
        killed > rounds / 2,
        "only {killed} of {rounds} were killed in time"
    );
}

#[test]
fn a_checkpoint_killed_at_any_moment_does_no_harm() {
    unharmed_by(|host, witness| {
        // Killed between a thread's stop and the moment it is hidden, some microseconds later, nobody is left to hide it:
        // epoll_wait fails as it does after SIGSTOP and SIGCONT (signal(7)).
        killed_at_any_moment(host, &witness.target(), 60, || witness.is_unharmed());
    });
}

#[test]
fn a_checkpoint_of_much_killed_at_any_moment_does_no_harm() {
    let host = Host::new("alder");
    let program = Program::laden(&host);
    let inside = || {
        let seen = "ipcs; ip -o addr; ip -o link; nft list ruleset; cat /mnt/numbers; cat /proc/1/mountinfo";
        let at = program.pid;
        host.sh(&format!(
            "nsenter --pid --ipc --net --mount --target {at} bash -c '{seen}'"
        ))
        .ok()
    };
    let (state, seen) = (program.state_at_rest(), inside());
    let traces = Traces::of(&host);
    let target = format!("pid:{}", program.pid);
    killed_at_any_moment(&host, &target, 40, || {
        program.runs_free();
        state.assert_kept_by(&program, |state| state);
        assert_eq!(inside(), seen);
    });
    traces.assert_none_left(&host);
}

#[test]
fn a_checkpoint_killed_while_its_reader_sleeps_does_no_harm() {
    unharmed_by(|host, witness| {
        for _ in 0..5 {
            // The pipe fills, the program is frozen, and `checkpoint` waits in a write.
            let before = witness.count();
            let tool = host.start(
                &format!("checkpoint {} > >(sleep 1000)", witness.target()),
                &host.path("asleep.out"),
            );
            std::thread::sleep(Duration::from_millis(200));
            assert!(host.lives(tool), "it waits for its reader");
            host.kill(tool);
            until("the count to go on", LONG, || {
                (witness.count() > before).then_some(())
            });
            witness.is_unharmed();
        }
        host.sh("for p in $(ps -eo pid=,args= | awk '$2 == \"sleep\" && $3 == \"1000\" {print $1}'); do kill $p; done");
    });
}

#[test]
fn frozen_it_stays_frozen_until_thawed() {
    let host = Host::new("alder");
    let witness = Witness::start(&host);
    let target = witness.target();
    host.sh(&format!("checkpoint --leave-frozen {target} > /dev/null"))
        .ok();
    let before = witness.count();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(witness.count(), before, "it is frozen");
    host.sh(&format!("checkpoint --thaw {target}")).ok();
    witness.is_unharmed();
}

#[test]
fn frozen_it_can_be_killed() {
    let host = Host::new("alder");
    let witness = Witness::start(&host);
    let target = witness.target();
    let file = host.path("image").display().to_string();
    host.sh(&format!("checkpoint --leave-frozen {target} > {file}"))
        .ok();
    host.sh(&format!("checkpoint --kill {target}")).ok();
    witness.program.ends();
    host.sh(&format!("restore --json < {file}")).ok();
    witness.counts_on();
}

#[test]
fn without_a_flag_the_program_is_gone_after_a_checkpoint() {
    let host = Host::new("alder");
    let witness = Witness::start(&host);
    host.sh(&format!("checkpoint {} > /dev/null", witness.target()))
        .ok();
    witness.program.ends();
}
