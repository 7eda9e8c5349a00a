//! Unmodified programs from Debian through the real pipe: each with its state read before and after, through three
//! generations over `nc` and `ssh` between two hosts, and as three replicas of one archive.
#![forbid(unsafe_code)]

use ferry_tests::{Host, LONG, Program, Restored, State, Way, programs, until};
use std::time::Duration;

/// Three generations between two hosts: over `nc` there, over `ssh` back, over `nc` there again. `proof` is called
/// after each with the number of the generation, and `look` says what of the state must be the same.
fn three_generations<'h>(
    program: &Program<'h>,
    hosts: (&'h Host, &'h Host),
    look: fn(State) -> State,
    mut proof: impl FnMut(&Program<'h>, usize),
) -> Program<'h> {
    let mut program = program.clone();
    for (generation, (way, to)) in [(Way::Nc, hosts.1), (Way::Ssh, hosts.0), (Way::Nc, hosts.1)]
        .into_iter()
        .enumerate()
    {
        let before = look(program.state_at_rest());
        let old = program.clone();
        program = way.carry(&program, to, "").0;
        assert!(
            !old.host.lives(old.pid) || std::ptr::eq(old.host, to),
            "the original still runs"
        );
        before.assert_kept_by(&program, look);
        proof(&program, generation + 1);
    }
    program
}

/// Three replicas, `hello1` to `hello3`, each in a network of its own with an address of its own.
fn three_replicas<'h>(program: &Program<'h>, host: &'h Host) -> Vec<(Program<'h>, Restored)> {
    let file = program.host.path("replicas.ckpt").display().to_string();
    program
        .host
        .sh(&format!("checkpoint pid:{} | pack > {file}", program.pid))
        .ok();
    let replicas: Vec<_> = (1..=3)
        .map(|number| {
            let report = host
                .sh(&format!(
                    "restore --json --network bridge -n hello{number} < {file}"
                ))
                .ok();
            let restored = Restored::read(&report);
            assert_eq!(
                restored.name.as_deref(),
                Some(format!("hello{number}").as_str())
            );
            assert_eq!(restored.addresses.len(), 1, "one address each: {report}");
            (program.moved(host, restored.pid), restored)
        })
        .collect();
    let mut addresses: Vec<_> = replicas
        .iter()
        .map(|(_, r)| r.addresses[0].clone())
        .collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 3, "addresses of their own: {addresses:?}");
    replicas
}

/// An HTTP GET from the host to an address.
fn get(host: &Host, address: &str, port: u16, path: &str) -> String {
    until("an answer over HTTP", LONG, || {
        let outcome = host.sh(&format!("curl -s -f -m 10 http://{address}:{port}{path}"));
        (outcome.code == 0).then(|| outcome.stdout.trim().to_owned())
    })
}

/// All generations and replicas of a counter that answers the next number at `/`.
fn a_counter_goes_on(start: impl for<'h> Fn(&'h Host) -> Program<'h>, port: u16, calm: Duration) {
    let (alder, birch) = Host::pair();
    let program = start(&alder);
    for count in 1..=5 {
        assert_eq!(program.answer(port, "/"), count.to_string());
    }
    // So that the last connection is over when the state is read.
    std::thread::sleep(calm);
    let program = three_generations(
        &program,
        (&alder, &birch),
        |state| state,
        |program, generation| {
            assert_eq!(program.answer(port, "/"), (5 + generation).to_string());
            std::thread::sleep(calm);
        },
    );
    for (replica, restored) in three_replicas(&program, &birch) {
        assert_eq!(get(&birch, &restored.addresses[0], port, "/"), "9");
        assert_eq!(replica.answer(port, "/"), "10");
    }
}

#[test]
fn a_python_counter_goes_on_with_the_next_number() {
    a_counter_goes_on(
        |host| {
            let line = format!(
                "/usr/bin/python3 {} 8000",
                programs().join("counter.py").display()
            );
            Program::alone(host, "counter", &line)
        },
        8000,
        Duration::from_millis(300),
    );
}

#[test]
fn a_counter_in_the_hosts_namespaces_answers_at_the_other_hosts_address() {
    let (alder, birch) = Host::pair();
    let line = format!(
        "/usr/bin/python3 {} 8000",
        programs().join("counter.py").display()
    );
    let program = Program::shared(&alder, "counter", &line);
    assert_eq!(program.answer(8000, "/"), "1");
    assert_eq!(get(&birch, "192.0.2.1", 8000, "/"), "2");
    let before = program.state();
    let (program, _) = Way::Ssh.carry(&program, &birch, "");
    before.assert_kept_by(&program, |state| state);
    assert_eq!(get(&alder, "192.0.2.2", 8000, "/"), "3");
}

#[test]
fn the_script_migrate_moves_a_counter_by_ssh() {
    let (alder, birch) = Host::pair();
    let line = format!(
        "/usr/bin/python3 {} 8000",
        programs().join("counter.py").display()
    );
    let program = Program::alone(&alder, "counter", &line);
    assert_eq!(program.answer(8000, "/"), "1");
    std::thread::sleep(Duration::from_millis(300));
    let ssh = birch.sshd("192.0.2.2");
    let (ssh, there) = ssh.rsplit_once(' ').expect("a host at the end");
    let report = alder
        .sh(&format!(
            "FERRY_SSH='{ssh}' FERRY_REMOTE={} {}/../scripts/migrate pid:{} {there} --json -n moved --network bridge",
            ferry_tests::built().display(),
            env!("CARGO_MANIFEST_DIR"),
            program.pid
        ))
        .ok();
    program.ends();
    let moved = Restored::read(&report);
    assert_eq!(get(&birch, &moved.addresses[0], 8000, "/"), "2");
}

#[test]
fn a_python_script_half_way_goes_on_with_its_files_its_pipe_and_its_generator() {
    let (alder, birch) = Host::pair();
    let directory = alder.path("halfway");
    std::fs::create_dir(&directory).expect("make a directory");
    let line = format!(
        "/usr/bin/python3 {} {}",
        programs().join("halfway.py").display(),
        directory.display()
    );
    let program = Program::alone(&alder, "halfway", &line);
    program.says("ready");
    let turn = |number: usize| {
        std::fs::write(directory.join(format!("turn-{number}")), b"").expect("give it a turn");
    };
    let expected = [
        "1|7927|line 1|before|no name any more",
        "2|7933|line 2|turn 1|no name any more",
        "3|7937|line 3|turn 2|no name any more",
    ];
    let program = three_generations(
        &program,
        (&alder, &birch),
        |state| state,
        |program, generation| {
            turn(generation);
            program.says(expected[generation - 1]);
        },
    );
    let replicas = three_replicas(&program, &birch);
    turn(4);
    // They share the log, which all append to; on standard output each has the offset it had, so that they overwrite
    // one another there.
    until("all three to take their turn", LONG, || {
        let log = std::fs::read_to_string(directory.join("log")).expect("the log");
        (log.matches("turn 4\n").count() == 3).then_some(())
    });
    program.says("4|7949|line 4|turn 3|no name any more");
    assert_eq!(replicas.len(), 3);
}

/// A redis in namespaces of its own, with `megabytes` of values that do not compress.
fn redis<'h>(host: &'h Host, megabytes: usize) -> Program<'h> {
    let directory = host.path("redis");
    std::fs::create_dir(&directory).expect("make a directory");
    let line = format!(
        "/usr/bin/redis-server --dir {} --save '' --appendonly no --bind 0.0.0.0 --protected-mode no --port 6379 \
         --enable-debug-command yes --daemonize no",
        directory.display()
    );
    let program = Program::alone(host, "redis", &line);
    until("redis to answer", LONG, || {
        ask(&program, "PING").filter(|a| a == "PONG")
    });
    // Values that do not compress, made in redis itself.
    let fill = "for i=1,tonumber(ARGV[1]) do local t={} for j=1,26 do t[j]=redis.sha1hex(i..\":\"..j) end \
                redis.call(\"SET\",\"key:\"..i,table.concat(t)) end return redis.call(\"DBSIZE\")";
    let keys = (megabytes * 1000).to_string();
    assert_eq!(
        ask(&program, &format!("EVAL '{fill}' 0 {keys}")),
        Some(keys)
    );
    assert_eq!(ask(&program, "INCR visits"), Some("1".to_owned()));
    program
}

fn ask(program: &Program, command: &str) -> Option<String> {
    let outcome = program.network(&format!("redis-cli {command}"));
    (outcome.code == 0).then(|| outcome.stdout.trim().to_owned())
}

fn saves(program: &Program) {
    assert_eq!(
        ask(program, "BGSAVE").as_deref(),
        Some("Background saving started")
    );
    until("BGSAVE to end", LONG, || {
        let report = ask(program, "INFO persistence")?;
        report.contains("rdb_bgsave_in_progress:0").then(|| {
            assert!(report.contains("rdb_last_bgsave_status:ok"), "{report}");
        })
    });
}

#[test]
fn redis_keeps_every_key_counts_on_and_saves() {
    let (alder, birch) = Host::pair();
    let program = redis(&alder, 200);
    let digest = ask(&program, "DEBUG DIGEST").expect("a digest");
    let size = ask(&program, "DBSIZE").expect("a size");
    assert_eq!(size, "200001");
    let program = three_generations(
        &program,
        (&alder, &birch),
        |state| state,
        |program, generation| {
            assert_eq!(ask(program, "DBSIZE"), Some(size.clone()));
            if generation == 1 {
                assert_eq!(ask(program, "DEBUG DIGEST"), Some(digest.clone()));
            }
            assert_eq!(
                ask(program, "INCR visits"),
                Some((generation + 1).to_string())
            );
            assert_eq!(ask(program, "GET key:77").map(|v| v.len()), Some(1040));
            saves(program);
        },
    );
    ask(&program, "SET visits 1");
    for (replica, restored) in three_replicas(&program, &birch) {
        assert_eq!(ask(&replica, "DEBUG DIGEST"), Some(digest.clone()));
        let incremented = birch
            .sh(&format!(
                "redis-cli -h {} INCR visits",
                restored.addresses[0]
            ))
            .ok();
        assert_eq!(incremented, "2");
    }
}

/// The counter in a JVM, compiled once for the test.
fn jvm<'h>(host: &'h Host) -> Program<'h> {
    let classes = host.path("classes");
    host.sh(&format!(
        "javac -d {} {}",
        classes.display(),
        programs().join("Counter.java").display()
    ))
    .ok();
    let line = format!("java -Xmx128m -cp {} Counter 8000", classes.display());
    let program = Program::alone(host, "jvm", &line);
    program.says("ready");
    program
}

/// The work of the two timers.
fn ticks(program: &Program) -> (u64, u64) {
    let answer = program.answer(8000, "/ticks");
    let mut numbers = answer.split(' ').map(|n| n.parse().expect("a number"));
    (numbers.next().expect("fast"), numbers.next().expect("slow"))
}

#[test]
fn a_jvm_counter_goes_on_with_its_threads_and_timers() {
    let (alder, birch) = Host::pair();
    let program = jvm(&alder);
    for count in 1..=20 {
        assert_eq!(program.answer(8000, "/"), count.to_string());
    }
    // A JVM keeps closed connections for a second; the next test is about these.
    std::thread::sleep(Duration::from_millis(1500));
    let mut before = ticks(&program);
    std::thread::sleep(Duration::from_millis(1500));
    let program = three_generations(
        &program,
        (&alder, &birch),
        State::enduring,
        |program, generation| {
            assert_eq!(program.answer(8000, "/"), (20 + generation).to_string());
            let then = ticks(program);
            until("both timers to go on", LONG, || {
                let now = ticks(program);
                (now.0 > then.0 && now.1 > then.1).then_some(())
            });
            assert!(then >= before, "timers went back: {before:?} {then:?}");
            before = then;
            std::thread::sleep(Duration::from_millis(1500));
        },
    );
    for (_, restored) in three_replicas(&program, &birch) {
        assert_eq!(get(&birch, &restored.addresses[0], 8000, "/"), "24");
    }
}

#[test]
fn a_jvm_is_taken_right_after_it_answered() {
    let (alder, birch) = Host::pair();
    let mut program = jvm(&alder);
    let mut hosts = [&birch, &alder].into_iter().cycle();
    for count in 1..=6 {
        assert_eq!(program.answer(8000, "/"), count.to_string());
        let to = hosts.next().expect("the other host");
        program = Way::Nc.carry(&program, to, "").0;
    }
    assert_eq!(program.answer(8000, "/"), "7");
}

fn nginx<'h>(host: &'h Host) -> (Program<'h>, std::path::PathBuf) {
    let directory = host.path("nginx");
    std::fs::create_dir_all(directory.join("html")).expect("make a directory");
    std::fs::write(directory.join("html/index.html"), "one\n").expect("write a page");
    std::fs::copy(programs().join("nginx.conf"), directory.join("nginx.conf"))
        .expect("copy the configuration");
    let line = format!(
        "/usr/sbin/nginx -e error.log -p {0} -c {0}/nginx.conf",
        directory.display()
    );
    let program = Program::alone(host, "nginx", &line);
    assert_eq!(program.answer(8080, "/"), "one");
    (program, directory)
}

#[test]
fn nginx_serves_on_and_reloads() {
    let (alder, birch) = Host::pair();
    let (program, directory) = nginx(&alder);
    assert_eq!(program.tree().len(), 3, "a master and two workers");
    // So that the connection is over when the state is read.
    std::thread::sleep(Duration::from_millis(300));
    let program = three_generations(
        &program,
        (&alder, &birch),
        |state| state,
        |program, generation| {
            assert_eq!(program.answer(8080, "/"), "one");
            let workers = program.host.children(program.pid);
            let page = format!("two{generation}.html");
            std::fs::write(directory.join("html").join(&page), "two\n").expect("write a page");
            let configuration =
                std::fs::read_to_string(directory.join("nginx.conf")).expect("the configuration");
            let changed = configuration.replace("root html;", &format!("root html; index {page};"));
            std::fs::write(directory.join("nginx.conf"), changed)
                .expect("change the configuration");
            program.host.sh(&format!("kill -HUP {}", program.pid)).ok();
            until("the new configuration to be served", LONG, || {
                program.get(8080, "/").filter(|page| page == "two")
            });
            std::fs::write(directory.join("nginx.conf"), configuration)
                .expect("restore the configuration");
            program.host.sh(&format!("kill -HUP {}", program.pid)).ok();
            until("the old workers to go", LONG, || {
                let now = program.host.children(program.pid);
                (now.len() == 2
                    && now.iter().all(|pid| !workers.contains(pid))
                    && program.get(8080, "/")? == "one")
                    .then_some(())
            });
            // Two reloads in a row: the workers of the first one end in their own time.
            std::thread::sleep(Duration::from_millis(300));
        },
    );
    for (_, restored) in three_replicas(&program, &birch) {
        assert_eq!(get(&birch, &restored.addresses[0], 8080, "/"), "one");
    }
}

#[test]
fn nginx_answers_every_request_while_it_is_checkpointed() {
    let host = Host::new("alder");
    let (program, _) = nginx(&host);
    let url = "http://127.0.0.1:8080/";
    let script = format!(
        "for i in $(seq 200); do curl -s -f -m 10 {url} || exit 1; done | sort | uniq -c | tr -s ' '"
    );
    let path = host.path("load.sh");
    std::fs::write(&path, script).expect("write the load");
    let load = host
        .shell(&format!(
            "nsenter --net --target {} bash {}",
            program.pid,
            path.display()
        ))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("start the load");
    // A connection that is open at the very moment is refused as a blocker (code 4): then nothing has happened.
    let mut taken = 0;
    for _ in 0..40 {
        let outcome = host.sh(&format!(
            "checkpoint --leave-running pid:{} > /dev/null",
            program.pid
        ));
        assert!([0, 4].contains(&outcome.code), "{outcome:?}");
        taken += usize::from(outcome.code == 0);
    }
    let output = load.wait_with_output().expect("wait for the load");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "200 one");
    assert!(taken > 0, "no checkpoint came through");
    assert_eq!(program.answer(8080, "/"), "one");
}

/// A pipeline under way, stopped in its middle, and the checksum it has to come to.
fn pipeline<'h>(host: &'h Host, name: &str) -> (Program<'h>, std::path::PathBuf) {
    let directory = host.path(name);
    std::fs::create_dir(&directory).expect("make a directory");
    let line = format!(
        "bash {} {}",
        programs().join("pipeline.sh").display(),
        directory.display()
    );
    (Program::alone(host, name, &line), directory)
}

fn sum(directory: &std::path::Path) -> String {
    until("the checksum", LONG, || {
        std::fs::read_to_string(directory.join("sum")).ok()
    })
}

#[test]
fn a_pipeline_gives_the_same_bytes_as_an_undisturbed_one() {
    let (alder, birch) = Host::pair();
    let (_undisturbed, quiet) = pipeline(&alder, "quiet");
    std::fs::write(quiet.join("go"), b"").expect("let it go");
    let expected = sum(&quiet);
    // Taken in the middle of its work, with bytes in every pipe.
    let (program, directory) = pipeline(&alder, "disturbed");
    std::thread::sleep(Duration::from_millis(60));
    let mut program = program;
    for (way, to) in [(Way::Nc, &birch), (Way::Ssh, &alder), (Way::Nc, &birch)] {
        program = way.carry(&program, to, "").0;
        std::thread::sleep(Duration::from_millis(20));
    }
    std::fs::write(directory.join("go"), b"").expect("let it go");
    assert_eq!(sum(&directory), expected);
    program.ends();
}

#[test]
fn three_replicas_of_a_pipeline_come_to_the_same_sum() {
    let host = Host::new("alder");
    let (program, directory) = pipeline(&host, "pipeline");
    std::thread::sleep(Duration::from_millis(60));
    let replicas = three_replicas(&program, &host);
    std::fs::write(directory.join("go"), b"").expect("let them go");
    let first = sum(&directory);
    for (replica, _) in replicas {
        replica.ends();
        assert_eq!(sum(&directory), first);
    }
    let (_undisturbed, quiet) = pipeline(&host, "quiet");
    std::fs::write(quiet.join("go"), b"").expect("let it go");
    assert_eq!(sum(&quiet), first);
}
