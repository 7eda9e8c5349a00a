//! Control groups that a container has made beneath its own, and who is in them: a task of its own in each hierarchy, in
//! version 2 only within one that is threaded (Documentation/admin-guide/cgroup-v2.rst).

use super::{Hierarchy, bases, hierarchies, limits};
use crate::source::Source;
use crate::{Result, Target};
use image::cgroups::groups::{Group, Groups};
use image::cgroups::{Limits, Membership};
use image::ids::Pid;
use image::path::Name;
use kernel::proc::Proc;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Files of one word, with what a new group has in them.
const PROPERTIES: [(&str, &str); 26] = [
    ("notify_on_release", "0"),
    ("cgroup.clone_children", "0"),
    ("cgroup.max.depth", "max"),
    ("cgroup.max.descendants", "max"),
    ("cpu.idle", "0"),
    ("cpu.max.burst", "0"),
    ("cpu.cfs_burst_us", "0"),
    ("cpu.rt_runtime_us", "0"),
    ("cpu.uclamp.min", "0.00"),
    ("cpu.uclamp.max", "max"),
    ("cpuset.cpu_exclusive", "0"),
    ("cpuset.mem_exclusive", "0"),
    ("cpuset.mem_hardwall", "0"),
    ("cpuset.memory_migrate", "0"),
    ("cpuset.memory_spread_page", "0"),
    ("cpuset.sched_load_balance", "1"),
    ("cpuset.sched_relax_domain_level", "-1"),
    ("memory.min", "0"),
    ("memory.high", "max"),
    ("memory.oom.group", "0"),
    ("memory.swap.high", "max"),
    ("net_cls.classid", "0"),
    ("hugetlb.2MB.max", "max"),
    ("hugetlb.1GB.max", "max"),
    ("hugetlb.2MB.limit_in_bytes", "9223372036852678656"),
    ("hugetlb.1GB.limit_in_bytes", "9223372035781033984"),
];
/// More groups than any container has.
const MOST: usize = 10_000;

/// Takes the groups beneath the container's own, and says in words whose groups are elsewhere.
pub fn dump(source: &Source, root: kernel::Pid) -> Result<(Groups, Vec<String>)> {
    let mut words = Vec::new();
    let mut groups = Vec::new();
    let members = members(source)?;
    for base in bases(root)? {
        let Some(directory) = &base.directory else {
            continue;
        };
        let Membership {
            controllers, path, ..
        } = &base.membership;
        let top = path.as_path();
        let mut found: BTreeMap<PathBuf, Vec<Pid>> = BTreeMap::new();
        if base.own {
            let mut beneath = BTreeSet::new();
            list(directory, Path::new(""), &mut beneath);
            found.extend(beneath.into_iter().map(|path| (path, Vec::new())));
        }
        for (task, memberships) in &members {
            let Some(path) = memberships.get(controllers) else {
                continue;
            };
            match path.strip_prefix(top) {
                Ok(below) => {
                    // With all groups on the way there.
                    for above in below.ancestors().skip(1) {
                        found.entry(above.to_path_buf()).or_default();
                    }
                    found.entry(below.to_path_buf()).or_default().push(*task);
                }
                Err(_) => words.push(format!(
                    "task {task} is in the cgroup {}, which is not beneath {}: it will be in that",
                    path.display(),
                    top.display()
                )),
            }
        }
        let has_parts = found.keys().any(|path| !path.as_os_str().is_empty());
        for (path, mut tasks) in found {
            tasks.sort_unstable();
            let is_base = path.as_os_str().is_empty();
            let group = group(&base, &directory.join(&path), &path, tasks, is_base);
            if has_parts || !group.properties.is_empty() {
                groups.push(group);
            }
        }
    }
    Ok((Groups { groups }, words))
}

fn group(base: &Hierarchy, directory: &Path, path: &Path, tasks: Vec<Pid>, is_base: bool) -> Group {
    let read = |file: &str| {
        let text = fs::read_to_string(directory.join(file)).ok()?;
        Some(text.trim().to_string())
    };
    let properties = PROPERTIES
        .iter()
        .filter(|_| base.own)
        .filter_map(|(file, new)| {
            let value = read(file).filter(|value| value != new)?;
            let one_word = !value.contains(char::is_whitespace) && !value.is_empty();
            one_word.then(|| (file.to_string(), value))
        });
    let at = [directory.to_path_buf()];
    // Those of the container's own group are in its own record.
    let limits = match is_base {
        true => Limits::default(),
        false => {
            let mut limits = limits::read(&at);
            super::inherited(&mut limits, &at);
            limits
        }
    };
    let delegated = read("cgroup.subtree_control")
        .filter(|_| base.own)
        .unwrap_or_default();
    Group {
        controllers: base.membership.controllers.clone(),
        path: Name::from(path),
        limits,
        properties: properties.collect(),
        threaded: read("cgroup.type").is_some_and(|kind| kind == "threaded"),
        delegated: delegated.split_whitespace().map(str::to_string).collect(),
        tasks,
    }
}

/// All groups beneath a directory, by their paths from there.
fn list(directory: &Path, below: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(directory.join(below))
        .into_iter()
        .flatten()
        .flatten()
    {
        if found.len() < MOST && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let path = below.join(entry.file_name());
            list(directory, &path, found);
            found.insert(path);
        }
    }
}

/// In which group of each hierarchy each thread is.
fn members(source: &Source) -> Result<Vec<(Pid, BTreeMap<String, PathBuf>)>> {
    let mut all = Vec::new();
    for process in &source.processes {
        for thread in &process.threads {
            let text = Proc::thread(process.pid, thread.tid).bytes("cgroup")?;
            let groups = super::parse(&text).into_iter();
            let groups = groups.map(|one| (one.controllers, one.path.as_path().to_path_buf()));
            all.push((thread.inside, groups.collect()));
        }
    }
    Ok(all)
}

/// Makes the groups beneath those of the vessel, and puts the processes into them: before any of them makes a cgroup
/// namespace, and before its memory comes, which counts where it is. Gives remarks.
pub fn restore(record: &Groups, target: &Target) -> Result<Vec<String>> {
    let mut words = Vec::new();
    if record.is_empty() {
        return Ok(words);
    }
    let bases = bases_here(target)?;
    for group in &record.groups {
        match bases.get(&group.controllers) {
            Some(base) => make(group, base, target, &mut words),
            None => words.push(format!(
                "the cgroup {:?} of {} is not made again: the container has none of its own there on this host",
                group.path,
                hierarchy(&group.controllers)
            )),
        }
    }
    // Only now may controllers be handed down: a group of version 2 that hands them down has no tasks of its own.
    for group in &record.groups {
        if let Some(base) = bases.get(&group.controllers) {
            hand_down(group, &base.join(group.path.as_path()), &mut words);
        }
    }
    Ok(words)
}

/// Puts threads into groups in which their processes are not. Gives remarks.
pub fn resume(record: &Groups, target: &mut Target) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let leaders: BTreeSet<Pid> = target.processes.keys().copied().collect();
    let apart: Vec<&Group> = record
        .groups
        .iter()
        .filter(|group| group.tasks.iter().any(|task| !leaders.contains(task)))
        .collect();
    if apart.is_empty() {
        return Ok(words);
    }
    let bases = bases_here(target)?;
    let mut tids = BTreeMap::new();
    for (leader, process) in &mut target.processes {
        for (inside, stub) in &mut process.threads {
            tids.insert(*inside, (*leader, stub.task()?.tid()));
        }
    }
    for group in apart {
        let Some(base) = bases.get(&group.controllers) else {
            continue;
        };
        let directory = base.join(group.path.as_path());
        for task in &group.tasks {
            if let Some((leader, tid)) = tids.get(task)
                && !group.tasks.contains(leader)
            {
                enter(&directory, &["tasks", "cgroup.threads"], *tid, &mut words);
            }
        }
    }
    Ok(words)
}

/// The directories of the groups that the vessel has of its own, by hierarchy.
fn bases_here(target: &Target) -> Result<BTreeMap<String, PathBuf>> {
    let own = hierarchies(target.root_pid)?.into_iter();
    let own = own.filter(|one| one.own);
    Ok(own
        .filter_map(|one| Some((one.membership.controllers, one.directory?)))
        .collect())
}

fn make(group: &Group, base: &Path, target: &Target, words: &mut Vec<String>) {
    let directory = base.join(group.path.as_path());
    if let Err(e) = fs::create_dir_all(&directory) {
        words.push(format!(
            "the cgroup {} is not made: {e}",
            directory.display()
        ));
        return;
    }
    let unified = directory.join("cgroup.controllers").exists();
    if !unified {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            // A new one has none, and takes no tasks.
            let parents = directory.parent().map(|above| fs::read(above.join(file)));
            if let Some(Ok(parents)) = parents {
                let _ = fs::write(directory.join(file), parents);
            }
        }
        set(group, &directory, words);
    } else if group.threaded {
        put(&directory.join("cgroup.type"), "threaded", words);
    }
    for task in &group.tasks {
        if let Some(process) = target.processes.get(task)
            && !group.path.0.is_empty()
        {
            enter(&directory, &["cgroup.procs"], process.pid, words);
        }
    }
}

/// What is left to do of a group of version 2.
fn hand_down(group: &Group, directory: &Path, words: &mut Vec<String>) {
    if !directory.join("cgroup.controllers").exists() {
        return;
    }
    set(group, directory, words);
    for controller in &group.delegated {
        let word = format!("+{controller}");
        if controller
            .chars()
            .all(|c| c.is_ascii_lowercase() || c == '_')
        {
            put(&directory.join("cgroup.subtree_control"), &word, words);
        }
    }
}

fn set(group: &Group, directory: &Path, words: &mut Vec<String>) {
    words.extend(limits::write(&[directory.to_path_buf()], &group.limits));
    for (file, value) in &group.properties {
        // Names come from the image: only those we would have taken.
        if PROPERTIES.iter().any(|(known, _)| known == file) {
            put(&directory.join(file), value, words);
        }
    }
}

fn put(file: &Path, word: &str, words: &mut Vec<String>) {
    let holds = || fs::read_to_string(file).is_ok_and(|now| now.split_whitespace().eq([word]));
    if let Err(e) = fs::write(file, word)
        && !holds()
    {
        words.push(format!("{} is not {word} again: {e}", file.display()));
    }
}

fn enter(directory: &Path, files: &[&str], tid: kernel::Pid, words: &mut Vec<String>) {
    let file = files
        .iter()
        .map(|file| directory.join(file))
        .find(|file| file.exists());
    let entered = file.map(|file| fs::write(file, tid.to_string()));
    if !matches!(entered, Some(Ok(()))) {
        let why = entered.and_then(std::result::Result::err);
        let why = why.map_or("there is no such group".into(), |e| e.to_string());
        words.push(format!(
            "task {tid} is not in the cgroup {}: {why}",
            directory.display()
        ));
    }
}

fn hierarchy(controllers: &str) -> &str {
    match controllers {
        "" => "the unified hierarchy",
        some => some,
    }
}
