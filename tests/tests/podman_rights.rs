//! Containers of podman with fewer and with more rights than usual: process 1, which everything is poured into, has what
//! podman left it, and nothing of it may be more or less afterwards.
#![forbid(unsafe_code)]

use ferry_tests::{Podman, State, until};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Several processes with pids far apart, a shell that became another program, and threads.
const FAMILY: &str = "#!/bin/bash
sleep 1001 &
for i in 1 2 3 4 5 6 7 8 9; do /bin/true; done
(setsid sleep 1002 &)
bash -c 'sleep 1003 & /bin/true; sleep 1004; /bin/true' &
exec python3 -c '
import threading, time
for _ in range(3): threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
print(\"ready\", flush=True); time.sleep(1000)'
";

/// A file of a container's in a directory of the host's, executable.
fn program(host: &Podman, name: &str, text: &str) -> PathBuf {
    let path = host.path(name);
    std::fs::write(&path, text).expect("write a program");
    mode(&path, 0o755);
    path
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("chmod");
}

/// Takes a container, and looks at it again as another one.
#[track_caller]
fn is_kept(host: &Podman, words: &str) {
    let container = host.run("first", words);
    container.says("ready");
    let before = container.program().state_at_rest().enduring();
    let archive = container.taken("");
    let again = host.restored("-n again", &archive);
    before.assert_kept_by(&again.program(), State::enduring);
    host.sh("podman rm -f -t 0 first; podman rm -f -t 0 again")
        .ok();
}

#[test]
fn rights_are_what_they_were() {
    let host = Podman::new("alder");
    let family = program(&host, "family", FAMILY);
    for rights in [
        "--user 1000",
        "--user 1000:33 --group-add 44 --cap-add NET_RAW",
        "--cap-drop all",
        "--cap-drop all --user 1000 --security-opt no-new-privileges",
        "--cap-add SYS_ADMIN",
        "--privileged",
        "--read-only",
        "--security-opt seccomp=unconfined",
        "--ulimit nofile=200:300 --ulimit nproc=500:600 --oom-score-adj 300",
        "--uidmap 0:100000:65536",
        "--uidmap 0:100000:65536 --gidmap 0:200000:65536 --user 1000:33 --cap-drop all",
    ] {
        is_kept(
            &host,
            &format!("{rights} -v {}:/family:ro base /family", family.display()),
        );
    }
}

#[test]
fn with_crun_for_its_runtime_it_is_the_same() {
    let host = Podman::new("alder");
    // crun refuses a host that has both versions of control groups.
    host.sh(
        "! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified; \
         sed -i 's/runtime = .*/runtime = \"crun\"/' /etc/containers/containers.conf",
    )
    .ok();
    let family = program(&host, "family", FAMILY);
    for rights in [
        "",
        "--user 1000 --cap-drop all --security-opt no-new-privileges",
        "--privileged",
        "--read-only",
    ] {
        // With users of its own podman's `rm` is often too quick for crun, also where none of these tools was there.
        let family = format!("-v {}:/family:ro", family.display());
        is_kept(&host, &format!("{rights} {family} base /family"));
    }
    let count = host.run("count", "base");
    assert_eq!(count.inspect("{{.OCIRuntime}}"), "crun");
    assert_eq!(count.answer(), "0");
    let before = host.traces();
    let again = host.restored("-n again", &count.taken("--leave-running"));
    assert_eq!((again.answer(), count.answer()), ("1".into(), "1".into()));
    host.sh("podman restart -t 0 again").ok();
    assert_eq!(again.answer(), "0");
    // One that was chosen for a container alone is chosen again.
    host.sh("podman --runtime runc run -d --name other base")
        .ok();
    let other = host.container("other");
    assert_eq!(other.answer(), "0");
    let third = host.restored("-n third", &other.taken(""));
    assert_eq!(third.answer(), "1");
    assert_eq!(third.inspect("{{.OCIRuntime}}"), "runc");
    host.sh("podman rm -f -t 0 again other third").ok();
    host.assert_none_left(&before);
}

#[test]
fn executables_with_rights_of_their_own_keep_them() {
    let host = Podman::new("alder");
    let sleep = std::fs::read("/bin/sleep").expect("read /bin/sleep");
    let directory = host.path("bin");
    std::fs::create_dir(&directory).expect("make a directory");
    mode(&directory, 0o755);
    for (name, owner, bits) in [
        ("root", 0, 0o4755),
        ("six", 6, 0o6755),
        ("hidden", 0, 0o711),
    ] {
        let path = directory.join(name);
        std::fs::write(&path, &sleep).expect("write a program");
        std::os::unix::fs::chown(&path, Some(owner), Some(owner)).expect("chown");
        mode(&path, bits);
    }
    let line = "cp /bin/sleep /tmp/gone; /tmp/gone 1000 & sleep 0.2; rm /tmp/gone; \
                /own/root 1000 & /own/six 1000 & /own/hidden 1000 & echo ready; wait";
    let script = program(&host, "script", &format!("#!/bin/bash\n{line}\n"));
    for user in ["", "--user 1000"] {
        is_kept(
            &host,
            &format!(
                "{user} -v {}:/own:ro -v {}:/script:ro base /script",
                directory.display(),
                script.display()
            ),
        );
    }
}

/// Says at each signal what two calls give: userfaultfd(2), which podman's filter refuses, and sync(2), which its own does.
const FILTERED: &str = r#"#!/usr/bin/perl
$| = 1;
sub step { pack('SCCL', @_) }
sub say_both {
    $! = 0; my $fd = syscall(323, 1); my $why = $! + 0;
    $! = 0; my $sync = syscall(162);
    if ($fd > 0) { syscall(3, $fd); $fd = "some" }
    print "$fd $why $sync ", $! + 0, "\n";
}
if (@ARGV) {
    my $program = step(0x20, 0, 0, 0) . step(0x15, 0, 1, 162) . step(6, 0, 0, 0x50000 | 42) . step(6, 0, 0, 0x7fff0000);
    my $four = pack('S x6 Q', 4, unpack('Q', pack('P', $program)));
    syscall(157, 38, 1, 0, 0, 0) == 0 && syscall(317, 1, 0, $four) == 0 or die "seccomp: $!";
}
$SIG{USR1} = \&say_both;
say_both();
print "ready\n";
sleep 1000 while 1;
"#;

#[test]
fn filters_are_in_force_afterwards() {
    let host = Podman::new("alder");
    let script = program(&host, "filtered", FILTERED);
    for (words, own, said) in [
        ("", "", "-1 1 0 0"),
        ("", "own", "-1 1 -1 42"),
        ("--security-opt seccomp=unconfined", "own", "some 0 -1 42"),
    ] {
        let words = format!(
            "{words} -v {}:/filtered:ro base /filtered {own}",
            script.display()
        );
        let first = host.run("first", &words);
        let before = first.says("ready");
        let before = before.lines().next().unwrap_or_default();
        assert_eq!(before, said);
        let archive = first.taken("");
        let again = host.restored("-n again", &archive);
        host.sh("podman kill -s USR1 again").ok();
        let after = until("an answer", ferry_tests::LONG, || {
            again.logs().lines().next().map(str::to_owned)
        });
        assert_eq!(after, before);
        host.sh("podman rm -f -t 0 first; podman rm -f -t 0 again")
            .ok();
    }
}
