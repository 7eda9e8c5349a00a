//! Programs at a terminal: shells in containers of podman's, looked at by `podman attach`, and trees that were started
//! from somebody's terminal.
#![forbid(unsafe_code)]

use ferry_tests::{Container, Host, LONG, Podman, Screen, until};
use std::time::Duration;

/// Attached to it; what was on its screen before is not repeated.
fn attach(container: &Container) -> Screen {
    Screen::new(
        container.podman,
        &format!("exec podman attach --detach-keys=ctrl-x {}", container.name),
    )
}

/// Leaves it running. Podman knows the key as its own only when it comes alone.
fn detach(mut screen: Screen) {
    std::thread::sleep(Duration::from_millis(200));
    screen.types("\x18");
    assert!(screen.ends().success());
}

#[test]
fn a_shell_goes_on_and_is_attached_to_again() {
    let host = Podman::new("alder");
    let mut shell = host.run("shell", "-it base bash --norc");
    let mut screen = attach(&shell);
    screen.types("x=4; cd /tmp; PS1='rea''dy> '\r");
    screen.shows("ready> ");
    for generation in 1..=3 {
        screen.types("x=$((x + 1)); echo now $x\r");
        screen.shows(&format!("now {}\r\n", 4 + generation));
        detach(screen);
        let archive = shell.taken("");
        host.sh(&format!("podman rm {}", shell.name)).ok();
        shell = host.restored("", &archive);
        screen = attach(&shell);
        screen.types("echo still $x in $PWD\r");
        screen.shows(&format!("still {} in /tmp\r\n", 4 + generation));
        screen.types("tty; stty size\r");
        screen.shows("/dev/pts/0\r\n24 80\r\n");
        screen.is_resized(30, 100 + generation);
        screen.types("sleep 0.3; stty size\r");
        screen.shows(&format!("30 {}\r\n", 100 + generation));
        screen.is_resized(24, 80);
        // Job control: what control-C is for.
        screen.types("echo $((6 * 7)); cat\r");
        screen.shows("42\r\n");
        screen.types("twice\r");
        screen.shows("twice\r\ntwice\r\n");
        screen.types("\x03");
        screen.shows("ready> ");
        screen.types("echo got $?\r");
        screen.shows("got 130\r\n");
        screen.types("echo $((7 * 7)); cat\r");
        screen.shows("49\r\n");
        screen.types("again\r");
        screen.shows("again\r\nagain\r\n");
        screen.types("\x1a");
        screen.shows("Stopped");
        screen.types("fg\r");
        screen.shows("fg\r\n");
        screen.shows("cat\r\n");
        screen.types("more\r");
        screen.shows("more\r\nmore\r\n");
        screen.types("\x04");
        screen.shows("ready> ");
    }
    let log = shell.logs();
    assert!(log.contains("still 7 in /tmp"), "{log}");
    screen.types("exit 9\r");
    screen.ends();
    shell.becomes("exited");
    assert_eq!(shell.inspect("{{.State.ExitCode}}"), "9");
}

#[test]
fn what_is_typed_into_a_pipe_arrives() {
    let host = Podman::new("alder");
    let cat = host.run("cat", "-i base sh -c 'echo ready; exec cat'");
    cat.says("ready");
    let mut screen = attach(&cat);
    screen.types("before\r");
    screen.shows("before\r\nbefore\r\n");
    drop(screen);
    let archive = cat.taken("");
    let cat = host.restored("-n on", &archive);
    let mut screen = attach(&cat);
    screen.types("after\r");
    screen.shows("after\r\nafter\r\n");
    assert_eq!(cat.logs(), "after");
}

#[test]
fn what_was_typed_and_not_read_yet_is_read_afterwards() {
    let host = Podman::new("alder");
    let busy = host.run(
        "busy",
        "-it base bash -c 'while [ ! -e /quiet ]; do echo .; sleep 0.1; done; echo now; \
         until [ -e /go ]; do sleep 0.05; done; while read line; do echo got $line; done'",
    );
    let mut screen = attach(&busy);
    screen.shows(".");
    busy.exec("touch /quiet").ok();
    screen.shows("now\r\n");
    screen.types("one\rtwo\rhal");
    screen.shows("one\r\ntwo\r\nhal");
    detach(screen);
    let archive = busy.taken("");
    let on = host.restored("-n on", &archive);
    on.exec("touch /go").ok();
    // Not on the screen: what is said before that is attached is in the log only.
    until("what was typed to be read", LONG, || {
        let said = on.logs().replace('\r', "");
        said.contains("got one\ngot two").then_some(())
    });
    let mut screen = attach(&on);
    screen.types("f\r");
    screen.shows("got half\r\n");
}

#[test]
fn a_process_started_by_exec_is_named_and_the_container_runs_on() {
    let host = Podman::new("alder");
    let count = host.run("count", "base");
    assert_eq!(count.answer(), "0");
    host.sh("podman exec -d count sleep 1000").ok();
    let refused = host.sh("checkpoint count > /dev/null").fails_with(4);
    assert!(
        refused.stderr.contains("exec") && refused.stderr.contains("end it first"),
        "{}",
        refused.stderr
    );
    assert_eq!(
        (count.answer(), count.status()),
        ("1".into(), "running".into())
    );
}

/// Our pid of the only child of a process, once it has one.
fn child(host: &Host, pid: i32) -> i32 {
    until("a child", LONG, || host.children(pid).first().copied())
}

/// The pid of a screen's own shell in the host: it says so itself.
fn started(host: &Host, name: &str, line: &str) -> (Screen, i32) {
    let file = host.path(name);
    let screen = Screen::new(host, &format!("echo $$ > {}; {line}", file.display()));
    let pid = until("the pid of the shell", LONG, || {
        std::fs::read_to_string(&file).ok()?.trim().parse().ok()
    });
    (screen, pid)
}

#[test]
fn a_shell_comes_back_at_the_terminal_of_whoever_restores_it() {
    let host = Host::new("alder");
    let archive = host.path("shell.ckpt").display().to_string();
    // It leads its session, and the terminal is that of the session.
    let (mut screen, pid) = started(&host, "shell", "exec bash --norc");
    screen.types("x=7; cd /tmp; PS1='rea''dy> '\r");
    screen.shows("ready> ");
    host.sh(&format!("checkpoint pid:{pid} | pack > {archive}"))
        .ok();
    drop(screen);
    // Without a terminal it would be given up: said, and nothing is left.
    let refused = host.sh(&format!("restore -n lost --network none < {archive}"));
    assert!(refused.stderr.contains("--tty"), "{}", refused.stderr);
    host.sh(&format!("restore --tty < {archive} 2> /dev/null"))
        .fails_with(2);
    for (name, words) in [
        ("again", "--wait"),
        ("named", "--tty -n named --network none"),
    ] {
        let (mut screen, _) = started(
            &host,
            name,
            &format!("restore {words} < {archive}; echo ended with $?"),
        );
        screen.is_resized(40, 111);
        screen.types("echo $((x * 6)) $PWD $(tty)\r");
        let seen = screen.shows("42 /tmp /dev/");
        assert!(!seen.contains("not a tty"), "{seen}");
        screen.types("stty size; echo $((7 * 7)); cat\r");
        screen.shows("40 111\r\n49\r\n");
        screen.types("twice\r");
        screen.shows("twice\r\ntwice\r\n");
        screen.types("\x03");
        screen.shows("ready> ");
        screen.types("exit 5\r");
        screen.shows("ended with 5\r\n");
        screen.ends();
    }
}

#[test]
fn a_job_of_somebodys_shell_comes_back_in_the_foreground() {
    let host = Host::new("alder");
    let archive = host.path("job.ckpt").display().to_string();
    let line = "set -m; bash -c 'while read line; do echo got $line; done'; echo gone; sleep 100";
    let (mut screen, shell) = started(&host, "job", line);
    screen.types("one\r");
    screen.shows("got one\r\n");
    let job = child(&host, shell);
    host.sh(&format!("checkpoint pid:{job} | pack > {archive}"))
        .ok();
    screen.shows("gone");
    for (name, words) in [("again", ""), ("named", "-n named --network none")] {
        let (mut screen, _) = started(
            &host,
            name,
            &format!("restore --wait {words} < {archive}; echo ended with $?"),
        );
        screen.types("two\r");
        screen.shows("got two\r\n");
        screen.types("\x04");
        screen.shows("ended with 0\r\n");
        screen.ends();
    }
}

#[test]
fn tmux_is_attached_to_again_and_shows_the_same_screen() {
    let host = Host::new("alder");
    let socket = host.path("tmux.socket").display().to_string();
    host.start(
        &format!("tmux -f /dev/null -S {socket} new-session -d -x 80 -y 24 -s work bash --norc"),
        &host.path("tmux.out"),
    );
    let tmux = |words: &str| host.sh(&format!("tmux -S {socket} {words}"));
    let pid: i32 = until("tmux to listen", LONG, || {
        tmux("display-message -p '#{pid}'")
            .stdout
            .trim()
            .parse()
            .ok()
    });
    tmux("send-keys -t work:0 \"PS1='here> '; x=5\" Enter").ok();
    tmux("new-window -t work:1 top -d 0.5").ok();
    tmux("new-window -t work:2 vim -u NONE -N").ok();
    tmux("send-keys -t work:2 ihello Escape").ok();
    let shown = |window: i32, text: &str| {
        until(&format!("{text} in window {window}"), LONG, || {
            let screen = tmux(&format!("capture-pane -p -t work:{window}")).stdout;
            screen.contains(text).then_some(screen)
        })
    };
    shown(0, "here>");
    shown(1, "PID");
    let before = shown(2, "hello");
    let mut pid = pid;
    for _ in 0..3 {
        // By a file: in a live pipe its pids would still be taken here.
        let archive = host.path("tmux.ckpt").display().to_string();
        host.sh(&format!("checkpoint pid:{pid} | pack > {archive}"))
            .ok();
        let report = host.sh(&format!("restore --json < {archive}")).ok();
        pid = ferry_tests::Restored::read(&report).pid;
        assert_eq!(shown(2, "hello"), before);
        tmux("send-keys -t work:0 'x=$((x + 1)); echo x is $x' Enter").ok();
    }
    shown(0, "x is 8");
    shown(1, "PID");
    let mut screen = Screen::new(
        &host,
        &format!("TERM=xterm tmux -S {socket} attach -t work:2"),
    );
    screen.shows("hello");
    tmux("kill-server").ok();
}

#[test]
fn a_shell_of_podmans_goes_on_without_podman() {
    let host = Podman::new("alder");
    let shell = host.run("shell", "-it --network none base bash --norc");
    let mut screen = attach(&shell);
    screen.types("x=7; cd /tmp; PS1='rea''dy> '\r");
    screen.shows("ready> ");
    detach(screen);
    let archive = shell.taken("--with-image").display().to_string();
    host.sh("podman rm shell").ok();
    let words = "--engine native --wait --network none";
    let line = format!("restore {words} < {archive}; echo ended with $?");
    let mut screen = Screen::new(&host, &line);
    screen.types("echo $((x * 6)) $PWD $(tty)\r");
    screen.shows("42 /tmp /dev/pts/0\r\n");
    screen.types("exit 5\r");
    screen.shows("ended with 5\r\n");
    screen.ends();
}
