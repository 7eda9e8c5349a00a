//! Containers that are in a user namespace of their own as a whole: what is theirs to change stays so.
#![forbid(unsafe_code)]

use ferry_tests::program::USERS;
use ferry_tests::{Host, Program, Restored, Traces, Way};

/// Which user namespace each of its namespaces belongs to: itself, or another.
fn owners(program: &Program) -> String {
    const ASK: &str = "import fcntl, os, sys
user = os.stat(f'/proc/{sys.argv[1]}/ns/user').st_ino
for kind in 'mnt net pid uts ipc cgroup'.split():
    owner = fcntl.ioctl(os.open(f'/proc/{sys.argv[1]}/ns/{kind}', os.O_RDONLY), 0xb701)
    print(kind, os.fstat(owner).st_ino == user)
user = os.open(f'/proc/{sys.argv[1]}/ns/user', os.O_RDONLY)
uid = bytearray(4)
fcntl.ioctl(user, 0xb704, uid)
print('made by', int.from_bytes(uid, sys.byteorder))";
    let script = program.host.path("owners.py");
    std::fs::write(&script, ASK).expect("write the script");
    program
        .host
        .sh(&format!(
            "/usr/bin/python3 {} {}",
            script.display(),
            program.pid
        ))
        .ok()
}

/// Does something as the root of the program's user namespace, in all of its namespaces.
fn as_its_root(program: &Program, line: &str) -> String {
    let script = program.host.path("inside.sh");
    std::fs::write(&script, line).expect("write the script");
    program
        .host
        .sh(&format!(
            "nsenter --target {} --user --net --uts --ipc --mount --pid --setuid 0 --setgid 0 bash {}",
            program.pid,
            script.display()
        ))
        .ok()
}

#[test]
fn what_belongs_to_its_user_namespace_does_so_after_three_generations() {
    let host = Host::new("alder");
    let mut program = Program::mapped(&host, "owner", "sleep 1000");
    let (before, owned) = (program.state_at_rest(), owners(&program));
    assert!(!owned.contains("False"), "{owned}");
    for way in [Way::Bare, Way::Pipe, Way::Directory] {
        program = way.carry(&program, &host, "").0;
        before.assert_kept_by(&program, |state| state);
        assert_eq!(owners(&program), owned);
        as_its_root(
            &program,
            "set -e; ip link set lo down; ip link set lo up; hostname changed; hostname owner; sysctl -qw kernel.msgmni=77",
        );
    }
}

#[test]
fn a_program_that_unshared_its_user_alone_keeps_the_hosts_namespaces_and_its_pid() {
    let host = Host::new("alder");
    for words in ["--map-root-user", "", "--map-user=5 --map-group=7"] {
        let line = format!("unshare --user {words} bash -c 'sleep 1000; sleep 1000'");
        let mut program = Program::shared(&host, "alone", &line);
        ferry_tests::until("its child", ferry_tests::LONG, || {
            let children = host.children(program.pid);
            let asleep = |pid: &i32| host.sh(&format!("cat /proc/{pid}/comm")).stdout == "sleep\n";
            children.iter().any(asleep).then_some(())
        });
        let before = program.state_at_rest();
        for way in [Way::File, Way::File, Way::Directory] {
            let pid = program.pid;
            program = way.carry(&program, &host, "").0;
            assert_eq!(program.pid, pid);
            before.assert_kept_by(&program, |state| state);
        }
        host.kill(program.pid);
    }
}

#[test]
fn file_systems_of_a_user_namespace_are_its_own_to_change() {
    let host = Host::new("alder");
    let line = "bash -c 'mount -t tmpfs -o size=1m,mode=755 own /mnt; cd /mnt; echo hello > file; ln -s file link; mkfifo fifo; \
                mkdir dir; chown 33:44 dir file; exec 9> /mnt/held; rm /mnt/held; echo gone >&9; touch ready; exec sleep 1000'";
    let mut program = Program::mapped(&host, "files", line);
    ferry_tests::until("its files", ferry_tests::LONG, || {
        let root = host.proc().join(format!("{}/root/mnt/ready", program.pid));
        root.exists().then_some(())
    });
    let look = |program: &Program| {
        as_its_root(
            program,
            "ls -ln /mnt | sed 's/ [A-Z][a-z][a-z] .*:[0-9]*//'; cat /mnt/link; cat /proc/1/fd/9",
        )
    };
    let before = look(&program);
    assert!(
        before.contains("33 44") && before.contains("hello\ngone"),
        "{before}"
    );
    for way in [Way::Bare, Way::Pipe, Way::Directory] {
        program = way.carry(&program, &host, "").0;
        assert_eq!(look(&program), before);
        as_its_root(
            &program,
            "set -e; mount --options-mode ignore -o remount,size=2m own /mnt; chown 5 /mnt/dir; chown 33 /mnt/dir; mount -t tmpfs x /srv; umount /srv",
        );
    }
}

#[test]
fn replicas_have_the_same_users_and_failures_leave_nothing() {
    let host = Host::new("alder");
    let program = Program::mapped(&host, "many", "sleep 1000");
    let file = host.path("many.ckpt").display().to_string();
    host.sh(&format!("checkpoint pid:{} | pack > {file}", program.pid))
        .ok();
    let half = host.path("half.ckpt").display().to_string();
    host.sh(&format!(
        "head -c $(($(stat -c %s {file}) * 9 / 10)) {file} > {half}"
    ))
    .ok();
    // A first one makes the bridge, which stays for the next.
    let replica = |name: &str| {
        let words = format!("restore --json --network bridge -n {name} < {file}");
        program.moved(&host, Restored::read(&host.sh(&words).ok()).pid)
    };
    let (one, two) = (replica("one"), replica("two"));
    for replica in [&one, &two] {
        let maps = host.sh(&format!("cat /proc/{}/uid_map", replica.pid)).ok();
        let maps: Vec<&str> = maps.split_whitespace().collect();
        assert_eq!(maps, ["0", &USERS.to_string(), "65536"]);
        let links = as_its_root(replica, "set -e; ip link set lo up; ip -o -4 addr show");
        assert!(links.contains("10.213."), "{links}");
    }
    let traces = Traces::of(&host);
    host.sh(&format!("restore -n three < {half}")).fails_with(3);
    traces.assert_none_left(&host);
}

#[test]
fn a_thread_works_in_proc_of_a_process_in_a_user_namespace_further_inside() {
    ferry_tests::asked::survives_three_generations("lookout");
}
