//! Control groups that a container has made beneath its own: they are made again, with what they limit and who is in them.
#![forbid(unsafe_code)]

use ferry_tests::{Host, LONG, Program, Restored, programs, until};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const CONTROLLERS: [&str; 2] = ["pids", "cpu"];

/// The directory of a task's group in a hierarchy, from outside.
fn group(host: &Host, task: &str, controller: &str) -> PathBuf {
    let file = host.proc().join(task).join("cgroup");
    let text = std::fs::read_to_string(file).expect("read a task's groups");
    let path = text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        (fields.next()? == controller).then(|| fields.next())?
    });
    let path = path.unwrap_or_else(|| panic!("no {controller} in {text}"));
    Path::new("/sys/fs/cgroup")
        .join(controller)
        .join(&path[1..])
}

/// Where each task is, by its name, beneath the groups of the root process.
fn places(program: &Program<'_>) -> BTreeMap<(String, &'static str), PathBuf> {
    let mut found = BTreeMap::new();
    for pid in program.tree() {
        let tasks = program.host.proc().join(format!("{pid}/task"));
        for task in std::fs::read_dir(tasks).expect("list tasks").flatten() {
            let name = std::fs::read_to_string(task.path().join("comm")).expect("read a name");
            let task = format!("{pid}/task/{}", task.file_name().to_string_lossy());
            for controller in CONTROLLERS {
                let base = group(program.host, &program.pid.to_string(), controller);
                let at = group(program.host, &task, controller);
                let below = at.strip_prefix(base).expect("beneath the root's");
                found.insert((name.trim().to_owned(), controller), below.to_owned());
            }
        }
    }
    found
}

/// What the groups limit.
fn limits(program: &Program<'_>) -> Vec<String> {
    [
        ("pids", "parts/pids.max"),
        ("pids", "parts/inner/pids.max"),
        ("pids", "empty/pids.max"),
        ("cpu", "slow/cpu.shares"),
        ("cpu", "slow/notify_on_release"),
    ]
    .map(|(controller, file)| {
        let base = group(program.host, &program.pid.to_string(), controller);
        std::fs::read_to_string(base.join(file)).expect("read a limit")
    })
    .to_vec()
}

#[test]
fn groups_beneath_those_of_a_container_are_made_again_with_their_tasks() {
    let host = Host::new("alder");
    let name = format!("ferry-test-{}", std::process::id());
    let tops = CONTROLLERS.map(|c| format!("/sys/fs/cgroup/{c}/{name}"));
    let enter: String = tops
        .iter()
        .map(|top| format!("mkdir {top} && echo $$ > {top}/cgroup.procs && "))
        .collect();
    let line = format!(
        "bash -c '{enter} exec /usr/bin/python3 {}'",
        programs().join("groups.py").display()
    );
    let first = Program::shared(&host, "groups", &line);
    first.says("ready");
    let (wanted, limited) = (places(&first), limits(&first));
    let at = |name: &str, controller| wanted[&(name.to_owned(), controller)].clone();
    assert_eq!(at("inner", "pids"), Path::new("parts/inner"));
    assert_eq!(at("slow", "cpu"), Path::new("slow"));
    assert_eq!(at("groups", "pids"), Path::new(""));
    let file = host.path("groups.ckpt").display().to_string();
    let mut program = first.clone();
    let mut target = format!("pid:{}", first.pid);
    let mut groups = Vec::new();
    for generation in 1..=3 {
        host.sh(&format!("checkpoint {target} | pack > {file}"))
            .ok();
        let report = host
            .sh(&format!("restore --json -n part{generation} < {file}"))
            .ok();
        program = program.moved(&host, Restored::read(&report).pid);
        assert_eq!(places(&program), wanted, "generation {generation}");
        assert_eq!(limits(&program), limited, "generation {generation}");
        target = format!("native:part{generation}");
        groups = CONTROLLERS
            .map(|c| group(&host, &program.pid.to_string(), c))
            .to_vec();
    }
    host.kill(program.pid);
    until("its groups to go", LONG, || {
        groups.iter().all(|group| !group.exists()).then_some(())
    });
    for top in tops {
        host.sh(&format!("find {top} -depth -type d -exec rmdir {{}} +"))
            .ok();
    }
}

#[test]
fn a_frozen_group_is_named_and_nothing_hangs() {
    let host = Host::new("alder");
    let group = format!("/sys/fs/cgroup/freezer/ferry-test-{}", std::process::id());
    let line = "bash -c 'sleep 1000 & sleep 1001; true'";
    let program = Program::shared(&host, "parent", line);
    let child = until("a child", LONG, || {
        host.children(program.pid).first().copied()
    });
    host.sh(&format!(
        "mkdir {group} && echo {child} > {group}/cgroup.procs && echo FROZEN > {group}/freezer.state"
    ))
    .ok();
    let outcome = host.sh(&format!("timeout 20 checkpoint pid:{} | cat", program.pid));
    host.sh(&format!("echo THAWED > {group}/freezer.state"))
        .ok();
    let words = format!("process {child}, {group}: a cgroup that is frozen");
    assert!(outcome.stderr.contains(&words), "{outcome:?}");
    let outcome = host.sh(&format!("checkpoint pid:{} > /dev/null", program.pid));
    outcome.ok();
    until("the group to be empty", LONG, || {
        std::fs::remove_dir(&group).ok()
    });
}
