//! Containers of podman: taken by name, and given back to a podman here or elsewhere as containers like any other.
#![forbid(unsafe_code)]

use ferry_tests::{LONG, Podman, Restored, State, until};

#[test]
fn two_hosts_have_a_podman_each() {
    let (alder, birch) = Podman::pair();
    let one = alder.run("hello", "base sh -c 'echo alder; exec sleep 1000'");
    let two = birch.run("hello", "base sh -c 'echo birch; exec sleep 1000'");
    one.says("alder");
    two.says("birch");
    assert_ne!(one.inspect("{{.Id}}"), two.inspect("{{.Id}}"));
    let before = alder.traces();
    alder.run(
        "again",
        "-p 8080:8080 --tmpfs /var/tmp -v data:/data base sleep 1000",
    );
    alder
        .sh("podman rm -f -t 0 again && podman volume rm data")
        .ok();
    alder.assert_none_left(&before);
}

#[test]
fn a_container_goes_on_in_another_podman() {
    let (alder, birch) = Podman::pair();
    let count = alder.run("count", "base");
    assert_eq!((count.answer(), count.answer()), ("0".into(), "1".into()));
    let before = count.program().state_at_rest().enduring();
    let archive = count.taken("");
    count.becomes("exited");
    let count = birch.restored("", &archive);
    assert_eq!(count.name, "count");
    before.assert_kept_by(&count.program(), State::enduring);
    assert_eq!((count.answer(), count.answer()), ("2".into(), "3".into()));
    assert_eq!(
        birch.sh("podman ps --format '{{.Names}} {{.Image}}'").ok(),
        "count localhost/base:latest"
    );
    assert_eq!(
        count.inspect("{{.Config.Cmd}}"),
        "[/usr/bin/python3 /usr/local/bin/count.py]"
    );
}

#[test]
fn it_can_be_taken_by_name_id_or_engine_and_left_running() {
    let host = Podman::new("alder");
    let count = host.run("count", "base");
    assert_eq!(count.answer(), "0");
    let id = count.inspect("{{.Id}}");
    for target in [
        "count",
        "podman:count",
        &id,
        &format!("podman:{}", &id[..12]),
    ] {
        host.sh(&format!(
            "checkpoint --leave-running {target} | pack > {}",
            host.path("x").display()
        ))
        .ok();
    }
    assert_eq!(count.answer(), "1");
    assert_eq!(count.status(), "running");
    let twin = host.restored("-n twin", &host.path("x"));
    assert_eq!((twin.answer(), count.answer()), ("1".into(), "2".into()));
}

#[test]
fn the_log_goes_on() {
    let host = Podman::new("alder");
    let ticker = host.run(
        "ticker",
        "base sh -c 'i=0; while sleep 0.05; do i=$((i+1)); echo tick $i; echo tock $i >&2; done'",
    );
    ticker.says("tock 3");
    let archive = ticker.taken("");
    let last = ticker
        .logs()
        .lines()
        .filter(|l| l.starts_with("tick"))
        .count();
    let on = host.restored("-n on", &archive);
    let next = format!("tick {}\n", last + 3);
    on.says(&next);
    on.says(&format!("tock {}\n", last + 3));
    let said = on.logs();
    for number in last + 1..last + 3 {
        let line = format!("tick {number}");
        assert_eq!(
            said.lines().filter(|l| **l == line).count(),
            1,
            "{line} in {said}"
        );
    }
}

#[test]
fn it_is_a_container_like_any_other() {
    let host = Podman::new("alder");
    let count = host.run("count", "base");
    assert_eq!(count.answer(), "0");
    let archive = count.taken("");
    host.sh("podman rm count").ok();
    let before = host.traces();
    let on = host.restored("-n on", &archive);
    assert_eq!(on.answer(), "1");

    // Looking.
    assert_eq!(on.status(), "running");
    let top = host.sh("podman top on pid args").ok();
    assert!(top.contains("count.py"), "{top}");
    let pid = on.pid();
    let state = host
        .sh(&format!("runc state {}", on.inspect("{{.Id}}")))
        .ok();
    assert!(state.contains(&format!("\"pid\": {pid}")), "{state}");
    assert!(host.sh("podman stats --no-stream on").ok().contains("on"));

    // Going in.
    assert_eq!(
        on.exec("echo $((6 * 7)); cat /proc/1/comm").ok(),
        "42\npython3"
    );
    assert_eq!(on.exec("exit 7").code, 7);
    host.sh("echo from outside > /tmp/ferry-cp.$$; podman cp /tmp/ferry-cp.$$ on:/note; rm /tmp/ferry-cp.$$")
        .ok();
    assert_eq!(on.exec("cat /note").ok(), "from outside");

    // Stopping the clock.
    host.sh("podman pause on").ok();
    assert_eq!(on.status(), "paused");
    let address = on.address();
    assert_ne!(
        host.sh(&format!("curl -s -m 1 http://{address}:8080/"))
            .code,
        0
    );
    host.sh("podman unpause on").ok();
    // The question that nobody read in time was answered into the void, perhaps.
    let answer: i32 = on.answer().parse().expect("a number");
    assert!((2..=3).contains(&answer), "{answer}");

    // A signal, its exit code, and a cold start.
    let waiting = std::thread::scope(|scope| {
        let wait = scope.spawn(|| host.sh("podman wait on").ok());
        std::thread::sleep(std::time::Duration::from_millis(300));
        host.sh("podman stop on").ok();
        wait.join().expect("podman wait")
    });
    assert_eq!(waiting, "3");
    assert_eq!(on.inspect("{{.State.ExitCode}}"), "3");
    host.sh("podman start on").ok();
    assert_eq!(on.answer(), "0");
    host.sh("podman restart -t 5 on").ok();
    assert_eq!(on.answer(), "0");
    host.sh("podman rm -f -t 0 on").ok();
    host.assert_none_left(&before);
}

#[test]
fn a_kill_and_an_exit_are_seen_by_podman() {
    let host = Podman::new("alder");
    let count = host.run("count", "base");
    count.says("ready");
    let archive = count.taken("");
    let one = host.restored("-n one", &archive);
    host.sh("podman kill -s KILL one").ok();
    one.becomes("exited");
    assert_eq!(one.inspect("{{.State.ExitCode}}"), "137");
    let two = host.restored("-n two", &archive);
    host.sh(&format!("kill -TERM {}", two.pid())).ok();
    two.becomes("exited");
    assert_eq!(two.inspect("{{.State.ExitCode}}"), "3");
}

#[test]
fn its_health_is_asked_as_before() {
    let host = Podman::new("alder");
    let count = host.run(
        "count",
        "--health-cmd 'test -e /healthy' --health-retries 1 --health-interval disable base",
    );
    count.says("ready");
    count.exec("touch /healthy").ok();
    let archive = count.taken("");
    let on = host.restored("-n on", &archive);
    host.sh("podman healthcheck run on").ok();
    assert_eq!(on.inspect("{{.State.Health.Status}}"), "healthy");
    on.exec("rm /healthy").ok();
    host.sh("podman healthcheck run on").fails_with(1);
    assert_eq!(on.inspect("{{.State.Health.Status}}"), "unhealthy");
}

#[test]
fn a_restart_policy_is_no_obstacle_and_goes_on() {
    let host = Podman::new("alder");
    for policy in ["always", "on-failure:3"] {
        let count = host.run("count", &format!("--restart {policy} base"));
        assert_eq!((count.answer(), count.answer()), ("0".into(), "1".into()));
        let archive = count.taken("");
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert_eq!(
            count.status(),
            "exited",
            "it was taken, not ended by itself"
        );
        let on = host.restored("-n on", &archive);
        assert_eq!(on.answer(), "2");
        let pid = on.pid();
        host.sh(&format!("kill -KILL {pid}")).ok();
        until("podman to start it again", LONG, || {
            (on.status() == "running" && on.pid() != pid).then_some(())
        });
        assert_eq!(on.answer(), "0");
        host.sh("podman rm -f -t 0 count on").ok();
    }
}

#[test]
fn three_generations_and_back_to_podman() {
    let host = Podman::new("alder");
    let mut count = host.run("count", "base");
    assert_eq!(count.answer(), "0");
    for generation in 1..=3 {
        let archive = count.taken("");
        count = host.restored(&format!("-n count{generation}"), &archive);
        assert_eq!(count.answer(), generation.to_string());
    }
}

#[test]
fn podman_to_native_and_back() {
    let (alder, birch) = Podman::pair();
    let count = alder.run("count", "base");
    assert_eq!(count.answer(), "0");
    count.exec("echo podman > /note").ok();
    let archive = count.taken("--with-image");
    // A host without podman: only the tools.
    let report = birch
        .sh(&format!(
            "restore --json --engine native -n guest < {}",
            archive.display()
        ))
        .ok();
    let guest = Restored::read(&report);
    let url = format!("http://{}:8080/", guest.addresses[0]);
    assert_eq!(birch.answer(&url), "1");
    assert_eq!(
        birch
            .sh(&format!(
                "nsenter --mount --root --target {} cat /note",
                guest.pid
            ))
            .ok(),
        "podman"
    );
    let back = alder.path("back.ckpt");
    birch
        .sh(&format!(
            "checkpoint native:guest | pack > {}",
            back.display()
        ))
        .ok();
    let on = alder.restored("--engine podman -n on", &back);
    assert_eq!(on.answer(), "2");
    assert_eq!(on.exec("cat /note").ok(), "podman");
}
