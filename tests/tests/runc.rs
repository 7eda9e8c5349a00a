//! Containers of runc by itself: taken by their id, and given back to it from a bundle.
#![forbid(unsafe_code)]

use ferry_tests::{Host, LONG, Traces, busybox, until};
use std::path::{Path, PathBuf};

/// Counts, in its memory alone, into a file of its tmpfs.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i > /run/count; sleep 0.1; done";

/// A host with a bundle, and a tmpfs at `/run` in its container.
fn host(name: &str) -> (Host, PathBuf) {
    let host = Host::new(name);
    let bundle = bundle(&host, "bundle", &["sh", "-c", COUNT], false);
    (host, bundle)
}

fn bundle(host: &Host, name: &str, words: &[&str], terminal: bool) -> PathBuf {
    let at = host.path(name);
    std::fs::create_dir(&at).expect("make a directory");
    busybox(host, &format!("{name}/rootfs"));
    host.sh(&format!("cd {} && runc spec", at.display())).ok();
    let path = at.join("config.json");
    let text = std::fs::read_to_string(&path).expect("read config.json");
    let mut spec: serde_json::Value = serde_json::from_str(&text).expect("config.json");
    spec["process"]["args"] = words.into();
    spec["process"]["terminal"] = terminal.into();
    let tmpfs = serde_json::json!({"destination": "/run", "type": "tmpfs", "source": "tmpfs"});
    spec["mounts"].as_array_mut().expect("mounts").push(tmpfs);
    std::fs::write(&path, spec.to_string()).expect("write config.json");
    at
}

/// A number that the container `id` has counted to.
fn count(host: &Host, id: &str) -> u64 {
    until(&format!("{id} to count"), LONG, || {
        let asked = host.sh(&format!("runc exec {id} cat /run/count"));
        asked.stdout.trim().parse().ok()
    })
}

fn start(host: &Host, id: &str, bundle: &Path) {
    host.sh(&format!(
        "runc run -d --bundle {} {id} </dev/null >/dev/null 2>&1",
        bundle.display()
    ))
    .ok();
}

fn status(host: &Host, id: &str) -> String {
    let state = host.sh(&format!("runc state {id}")).ok();
    let state: serde_json::Value = serde_json::from_str(&state).expect("the state");
    state["status"].as_str().expect("a status").to_owned()
}

#[test]
fn a_container_of_runcs_moves_and_is_runcs_afterwards() {
    let (alder, bundle) = host("alder");
    start(&alder, "one", &bundle);
    until("it to count to 3", LONG, || {
        (count(&alder, "one") >= 3).then_some(())
    });
    let image = alder.path("image");
    alder
        .sh(&format!("checkpoint runc:one > {}", image.display()))
        .ok();
    assert_eq!(alder.sh("runc list -q").ok(), "");

    let birch = Host::new("birch");
    birch
        .sh(&format!(
            "restore --engine runc --bundle {} -n two < {}",
            bundle.display(),
            image.display()
        ))
        .ok();
    assert_eq!(birch.sh("runc list -q").ok(), "two");
    assert_eq!(status(&birch, "two"), "running");
    let first = count(&birch, "two");
    assert!(first >= 3, "it counted from {first}");
    until("it to go on", LONG, || {
        (count(&birch, "two") > first).then_some(())
    });
    birch.sh("runc pause two && runc resume two").ok();
    birch.sh("runc kill two KILL").ok();
    until("it to end", LONG, || {
        (status(&birch, "two") == "stopped").then_some(())
    });
    birch.sh("runc delete two").ok();
    assert_eq!(birch.sh("runc list -q").ok(), "");
}

#[test]
fn a_container_of_cruns_moves_three_times_by_way_of_no_engine_and_of_runc() {
    let (host, bundle) = host("alder");
    // crun refuses a host that has both versions of control groups.
    host.sh("! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified")
        .ok();
    // They make directories of their own when they are first asked.
    host.sh("crun list; runc list").ok();
    let before = Traces::of(&host);
    let bundle = bundle.display();
    host.sh(&format!(
        "crun run -d --bundle {bundle} one </dev/null >/dev/null 2>&1"
    ))
    .ok();
    let count = |ask: &str| {
        until(&format!("`{ask}` to give a number"), LONG, || {
            host.sh(ask).stdout.trim().parse::<u64>().ok()
        })
    };
    let native = r#"cat /proc/$(python3 -c 'import json; print(json.load(open("/run/ferry/three.json"))["pid"])')/root/run/count"#;
    let mut counted = count("crun exec one cat /run/count");
    for (line, ask) in [
        (
            "checkpoint crun:one | restore -n two".to_owned(),
            "crun exec two cat /run/count",
        ),
        (
            format!(
                "checkpoint crun:two | restore --engine native --rootfs {bundle}/rootfs -n three"
            ),
            native,
        ),
        (
            format!("checkpoint native:three | restore --engine runc --bundle {bundle} -n four"),
            "runc exec four cat /run/count",
        ),
        (
            format!("checkpoint runc:four | restore --engine crun --bundle {bundle} -n five"),
            "crun exec five cat /run/count",
        ),
    ] {
        host.sh(&line).ok();
        let now = count(ask);
        assert!(now >= counted, "{line}: from {counted} to {now}");
        until("it to go on", LONG, || (count(ask) > now).then_some(()));
        counted = count(ask);
    }
    let state = host.sh("crun state five").ok();
    assert!(state.contains("\"running\""), "{state}");
    host.sh("crun delete -f five").ok();
    assert_eq!(host.sh("crun list -q; runc list -q").ok(), "");
    before.assert_none_left(&host);
}

#[test]
fn the_engine_and_the_bundle_are_remembered() {
    let (host, bundle) = host("alder");
    start(&host, "one", &bundle);
    let before = count(&host, "one");
    let json = host.sh("checkpoint one | restore --json -n two").ok();
    let json: serde_json::Value = serde_json::from_str(&json).expect("what restore prints");
    assert_eq!(json["engine"], "runc");
    assert_eq!(json["id"], "two");
    assert!(count(&host, "two") >= before);
}

#[test]
fn one_that_is_left_running_runs_on_beside_its_copy() {
    let (host, bundle) = host("alder");
    start(&host, "one", &bundle);
    count(&host, "one");
    host.sh("checkpoint --leave-running runc:one | restore -n two")
        .ok();
    for id in ["one", "two"] {
        let now = count(&host, id);
        until("it to go on", LONG, || {
            (count(&host, id) > now).then_some(())
        });
    }
}

#[test]
fn an_id_that_is_taken_is_said_and_nothing_is_left() {
    let host = Host::new("alder");
    let bundle = bundle(&host, "bundle", &["sleep", "1000"], false);
    start(&host, "one", &bundle);
    let image = host.path("image");
    host.sh(&format!(
        "checkpoint --leave-running runc:one > {}",
        image.display()
    ))
    .ok();
    let before = Traces::of(&host);
    let failed = host
        .sh(&format!("restore -n one < {}", image.display()))
        .fails_with(5);
    assert!(failed.stderr.contains("-n"), "{}", failed.stderr);
    before.assert_none_left(&host);
    // An image that ends early is found out only when all has been made.
    host.sh(&format!(
        "head -c -3000 {} | restore -n two",
        image.display()
    ))
    .fails_with(3);
    before.assert_none_left(&host);
    assert_eq!(host.sh("runc list -q").ok(), "one");
}

#[test]
fn a_bundle_that_is_missing_is_asked_for() {
    let (host, bundle) = host("alder");
    start(&host, "one", &bundle);
    count(&host, "one");
    let image = host.path("image");
    host.sh(&format!("checkpoint runc:one > {}", image.display()))
        .ok();
    let before = Traces::of(&host);
    std::fs::rename(&bundle, host.path("elsewhere")).expect("move the bundle");
    let line = format!("restore -n two < {}", image.display());
    let failed = host.sh(&line).fails_with(1);
    assert!(failed.stderr.contains("--bundle"), "{}", failed.stderr);
    before.assert_none_left(&host);
}

#[test]
fn a_container_that_runc_has_not_is_said() {
    let host = Host::new("alder");
    host.sh("checkpoint runc:none >/dev/null").fails_with(5);
    host.sh("checkpoint runc:../x >/dev/null").fails_with(5);
}

#[test]
fn a_terminal_goes_to_whoever_listens_for_it() {
    let host = Host::new("alder");
    let words = [
        "sh",
        "-c",
        "i=0; while read line; do i=$((i+1)); echo \"$line $i\"; done",
    ];
    let bundle = bundle(&host, "bundle", &words, true);
    // Receives the other side of a terminal, says a word there, and prints what comes back.
    let listener = host.path("listener.py");
    std::fs::write(
        &listener,
        "import array, os, socket, sys\n\
         s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(1)\n\
         print('listening', flush=True)\n\
         c, _ = s.accept(); _, ancillary, _, _ = c.recvmsg(4096, socket.CMSG_SPACE(4))\n\
         fd = array.array('i', ancillary[0][2])[0]\n\
         while True:\n    os.write(1, os.read(fd, 4096)) if sys.argv[2] == 'listen' else None\n    \
         if sys.argv[2] != 'listen': os.write(fd, b'word\\n'); sys.argv[2] = 'listen'\n",
    )
    .expect("write the listener");
    let listen = |name: &str, how: &str| {
        let output = host.path(&format!("{name}.out"));
        let socket = host.path(&format!("{name}.sock"));
        host.start(
            &format!("python3 {} {} {how}", listener.display(), socket.display()),
            &output,
        );
        until("the listener", LONG, || socket.exists().then_some(()));
        (socket, output)
    };
    let (socket, output) = listen("first", "speak");
    host.sh(&format!(
        "runc run -d --bundle {} --console-socket {} one",
        bundle.display(),
        socket.display()
    ))
    .ok();
    let says = |output: &Path, text: &str| {
        until(&format!("`{text}` at the terminal"), LONG, || {
            let said = std::fs::read_to_string(output).unwrap_or_default();
            said.contains(text).then_some(())
        })
    };
    says(&output, "word 1");
    let image = host.path("image");
    host.sh(&format!("checkpoint runc:one > {}", image.display()))
        .ok();
    let failed = host
        .sh(&format!("restore -n two < {}", image.display()))
        .fails_with(1);
    assert!(
        failed.stderr.contains("--console-socket"),
        "{}",
        failed.stderr
    );
    let (socket, output) = listen("second", "speak");
    host.sh(&format!(
        "restore -n two --console-socket {} < {}",
        socket.display(),
        image.display()
    ))
    .ok();
    says(&output, "word 2");
}

#[test]
fn a_container_of_runcs_with_users_of_its_own_keeps_them() {
    let (host, bundle) = host("alder");
    let path = bundle.join("config.json");
    let text = std::fs::read_to_string(&path).expect("read config.json");
    let mut spec: serde_json::Value = serde_json::from_str(&text).expect("config.json");
    let map = serde_json::json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    spec["linux"]["uidMappings"] = map.clone();
    spec["linux"]["gidMappings"] = map;
    let user = serde_json::json!({"type": "user"});
    let namespaces = spec["linux"]["namespaces"].as_array_mut();
    namespaces.expect("namespaces").push(user);
    let mounts = spec["mounts"].as_array_mut().expect("mounts");
    mounts.retain(|mount| mount["type"] != "cgroup");
    std::fs::write(&path, spec.to_string()).expect("write config.json");
    host.sh(&format!(
        "chmod 755 {} && chown -R 100000:100000 {}/rootfs",
        host.path("").display(),
        bundle.display()
    ))
    .ok();
    start(&host, "one", &bundle);
    let counted = until("it to count to 3", LONG, || {
        Some(count(&host, "one")).filter(|n| *n >= 3)
    });
    let image = host.path("image").display().to_string();
    host.sh(&format!("checkpoint runc:one > {image}")).ok();
    for name in ["two", "three"] {
        host.sh(&format!(
            "restore --engine runc --bundle {} -n {name} < {image}",
            bundle.display()
        ))
        .ok();
        assert!(count(&host, name) >= counted);
        let maps = host
            .sh(&format!("runc exec {name} cat /proc/1/uid_map"))
            .ok();
        let maps: Vec<&str> = maps.split_whitespace().collect();
        assert_eq!(maps, ["0", "100000", "65536"]);
        host.sh(&format!("runc delete -f {name}")).ok();
    }
}

/// Makes a specification ask for more than `runc spec` does.
const MORE: &str = r#"import json, sys
path, shared = sys.argv[1:]
s = json.load(open(path)); p, l = s['process'], s['linux']
s['root']['readonly'] = True; s['hostname'] = 'spec'
for m in s['mounts']:
    if m['destination'] == '/run': m['options'] = ['mode=1777', 'size=1m', 'noexec']
s['mounts'].append({'destination': '/home', 'type': 'bind', 'source': shared, 'options': ['rbind', 'rslave', 'ro']})
p['user'] = {'uid': 7, 'gid': 8, 'additionalGids': [9, 10]}
p['rlimits'] = [{'type': 'RLIMIT_NOFILE', 'hard': 300, 'soft': 200}, {'type': 'RLIMIT_CORE', 'hard': 0, 'soft': 0}]
p['oomScoreAdj'], p['noNewPrivileges'] = 123, True
for k in 'bounding effective permitted inheritable ambient'.split(): p['capabilities'][k] = ['CAP_NET_BIND_SERVICE', 'CAP_KILL']
l['rootfsPropagation'] = 'slave'
l['maskedPaths'], l['readonlyPaths'] = ['/proc/kcore', '/proc/keys', '/sys/firmware'], ['/proc/sys', '/proc/bus']
l['sysctl'] = {'net.core.somaxconn': '77', 'kernel.msgmax': '9000'}
l['seccomp'] = {'defaultAction': 'SCMP_ACT_ALLOW', 'syscalls': [{'names': ['syncfs'], 'action': 'SCMP_ACT_ERRNO', 'errnoRet': 42}]}
json.dump(s, open(path, 'w'))
"#;

#[test]
fn what_a_bundle_asks_for_is_so_after_three_generations() {
    let (host, bundle) = host("alder");
    let (more, shared) = (host.path("more.py"), host.path("shared"));
    std::fs::write(&more, MORE).expect("write the script");
    std::fs::create_dir(&shared).expect("make a directory");
    let config = bundle.join("config.json");
    host.sh(&format!(
        "chmod 755 {} && chmod 1777 {}/rootfs/run && python3 {} {} {}",
        host.path("").display(),
        bundle.display(),
        more.display(),
        config.display(),
        shared.display()
    ))
    .ok();
    let look = |id: &str| {
        let state = host.sh(&format!("runc state {id}")).ok();
        let state: serde_json::Value = serde_json::from_str(&state).expect("the state");
        let proc = format!("/proc/{}", state["pid"]);
        // Numbers of mounts and peer groups are the kernel's to choose.
        host.sh(&format!(
            "grep -E '^(Uid|Gid|Groups|Cap|NoNew|Seccomp)' {proc}/status; grep -E 'open files|core' {proc}/limits; \
             cat {proc}/oom_score_adj; cut -d' ' -f5- {proc}/mountinfo | sed -E 's/(shared|master):[0-9]+/\\1/' | sort; \
             nsenter --target {} --net --ipc --uts sh -c 'hostname; cat /proc/sys/net/core/somaxconn /proc/sys/kernel/msgmax'",
            state["pid"]
        ))
        .ok()
    };
    start(&host, "g0", &bundle);
    let (mut counted, before) = (count(&host, "g0"), look("g0"));
    for wanted in ["spec\n77\n9000", "/proc/keys", "300", "\n123\n"] {
        assert!(before.contains(wanted), "{wanted}: {before}");
    }
    for (from, to) in [("g0", "g1"), ("g1", "g2"), ("g2", "g3")] {
        host.sh(&format!("checkpoint runc:{from} | restore -n {to}"))
            .ok();
        assert_eq!(look(to), before, "{to}");
        let now = count(&host, to);
        assert!(now >= counted, "{to}: from {counted} to {now}");
        until("it to go on", LONG, || {
            (count(&host, to) > now).then_some(())
        });
        counted = now;
    }
    host.sh("runc delete -f g3").ok();
}
