//! The state of a process tree as `/proc` shows it, in a form that reads the same before and after a crossing: pids as
//! the tree itself sees them, inodes of pipes and sockets numbered in the order of their appearance.

use crate::Program;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// What `/proc` tells about every process of a tree: by pid inside, then by file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State(BTreeMap<i32, BTreeMap<String, String>>);

/// The lines of `status` that a crossing must not change.
const STATUS: [&str; 27] = [
    "Name",
    "Umask",
    "NSpid",
    "NSpgid",
    "NSsid",
    "Uid",
    "Gid",
    "Groups",
    "Threads",
    "SigPnd",
    "ShdPnd",
    "SigBlk",
    "SigIgn",
    "SigCgt",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "VmLck",
    "CoreDumping",
    "THP_enabled",
    "Cpus_allowed",
    "Speculation_Store_Bypass",
];

impl State {
    /// Reads it. The tree should be at rest: a process that ends meanwhile is left out.
    pub fn of(program: &Program) -> Self {
        let proc = program.host.proc();
        let mut names = Names::default();
        let mut all = BTreeMap::new();
        for pid in program.tree() {
            let at = proc.join(pid.to_string());
            if let Some((inside, process)) = process(&at, &mut names) {
                all.insert(inside, process);
            }
        }
        State(all)
    }

    /// The part that a program at work leaves alone: not its threads, descriptors and anonymous memory, which come and
    /// go between one look and the next.
    pub fn enduring(mut self) -> Self {
        for process in self.0.values_mut() {
            process.retain(|file, _| {
                !file.starts_with("fd/")
                    && !["threads", "timers", "scheduling"].contains(&file.as_str())
            });
            let keep = |file: &mut String, wanted: fn(&str) -> bool| {
                *file = file
                    .lines()
                    .filter(|line| wanted(line))
                    .map(|line| format!("{line}\n"))
                    .collect();
            };
            if let Some(status) = process.get_mut("status") {
                let gone = |line: &str| {
                    !["Threads", "SigPnd", "ShdPnd", "SigBlk"]
                        .iter()
                        .any(|key| line.starts_with(key))
                };
                keep(status, gone);
            }
            if let Some(maps) = process.get_mut("maps") {
                keep(maps, |line| line.contains('/') || line.contains("[v"));
            }
        }
        self
    }

    /// Waits until the program's state, looked at by `look`, is this one; panics with a list of all differences if it
    /// does not come to it. Right after a restore, threads are still on their way back into the calls they were in.
    #[track_caller]
    pub fn assert_kept_by(&self, program: &Program, look: fn(State) -> State) {
        let start = Instant::now();
        loop {
            let differences = self.differences(&look(program.state()));
            if differences.is_empty() {
                return;
            }
            assert!(
                start.elapsed() < Duration::from_secs(3),
                "the state differs after the restore:\n{}",
                differences.join("\n")
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Every difference as a line.
    pub fn differences(&self, after: &State) -> Vec<String> {
        let mut found = Vec::new();
        let pids = |state: &State| state.0.keys().copied().collect::<Vec<_>>();
        if pids(self) != pids(after) {
            found.push(format!(
                "processes: {:?} became {:?}",
                pids(self),
                pids(after)
            ));
        }
        for (pid, before) in &self.0 {
            let Some(after) = after.0.get(pid) else {
                continue;
            };
            let mut files: Vec<&String> = before.keys().chain(after.keys()).collect();
            files.sort();
            files.dedup();
            for file in files {
                let none = String::new();
                let (b, a) = (
                    before.get(file).unwrap_or(&none),
                    after.get(file).unwrap_or(&none),
                );
                if b != a {
                    found.push(format!(
                        "process {pid}, {file}:\n{}",
                        lines_that_differ(b, a)
                    ));
                }
            }
        }
        found
    }
}

fn lines_that_differ(before: &str, after: &str) -> String {
    let (b, a): (Vec<_>, Vec<_>) = (before.lines().collect(), after.lines().collect());
    let gone = b
        .iter()
        .filter(|line| !a.contains(line))
        .map(|line| format!("  - {line}"));
    let new = a
        .iter()
        .filter(|line| !b.contains(line))
        .map(|line| format!("  + {line}"));
    gone.chain(new).take(40).collect::<Vec<_>>().join("\n")
}

/// Numbers for inodes that are made anew by a restore.
#[derive(Default)]
struct Names(HashMap<String, usize>);

impl Names {
    /// `pipe:[4711]` becomes `pipe:#0`, whoever holds it next.
    fn of(&mut self, link: &str) -> String {
        let kinds = [
            "pipe", "socket", "mnt", "net", "pid", "user", "ipc", "uts", "time", "cgroup",
        ];
        let start = link.split_once(":[").map(|(start, _)| start);
        let anonymous = start.is_some_and(|start| kinds.contains(&start));
        if !anonymous {
            // A file that never had a name is shown by its inode (open(2), O_TMPFILE).
            return match link.rsplit_once("/#") {
                Some((directory, _)) if link.ends_with(" (deleted)") => directory.to_owned(),
                _ => link.to_owned(),
            };
        }
        let next = self.0.len();
        let number = *self.0.entry(link.to_owned()).or_insert(next);
        format!("{}:#{number}", link.split(':').next().unwrap_or_default())
    }
}

fn process(at: &Path, names: &mut Names) -> Option<(i32, BTreeMap<String, String>)> {
    let text = |name: &str| {
        fs::read(at.join(name))
            .ok()
            .map(|b| String::from_utf8_lossy(&b).into_owned())
    };
    let link = |name: &str| {
        fs::read_link(at.join(name))
            .ok()
            .map(|l| l.to_string_lossy().into_owned())
    };
    let whole = text("status")?;
    let mut status = status(&whole);
    if whole.contains("\nState:\tZ") {
        // Of a process that has ended, what its parent and group can still see.
        status.retain(|key, _| ["Name", "NSpid", "NSpgid", "NSsid"].contains(&key.as_str()));
    }
    let inside: i32 = status.get("NSpid")?.parse().ok()?;
    let mut process = BTreeMap::new();
    let mut note = |file: &str, value: Option<String>| {
        if let Some(value) = value {
            process.insert(file.to_owned(), value);
        }
    };
    note(
        "status",
        Some(status.iter().map(|(k, v)| format!("{k}: {v}\n")).collect()),
    );
    note("maps", text("maps").map(|maps| without_devices(&maps)));
    for file in [
        "cmdline",
        "environ",
        "comm",
        "limits",
        "personality",
        "oom_score_adj",
        "coredump_filter",
        "uid_map",
        "gid_map",
        "setgroups",
    ] {
        note(file, text(file).map(|t| t.replace('\0', "\n")));
    }
    note(
        "auxv",
        fs::read(at.join("auxv")).ok().map(|b| format!("{b:?}")),
    );
    note(
        "timers",
        text("timers").map(|t| {
            t.lines()
                .filter(|l| !l.starts_with("ClockID"))
                // Whom it notifies is shown as the host's pid: `signal/pid.4711`.
                .map(|l| l.split('.').next().unwrap_or(l))
                .collect::<Vec<_>>()
                .join("\n")
        }),
    );
    for file in ["exe", "cwd", "root"] {
        note(file, link(file).map(|link| without_dead(&link)));
    }
    note(
        "scheduling",
        text("stat").and_then(|stat| scheduling(&stat)),
    );
    note("threads", Some(threads(at)));
    let mut descriptors: Vec<i32> = fs::read_dir(at.join("fd"))
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    descriptors.sort_unstable();
    for fd in descriptors {
        let target = link(&format!("fd/{fd}"))
            .map(|l| names.of(&l))
            .unwrap_or_default();
        let fdinfo = text(&format!("fdinfo/{fd}")).unwrap_or_default();
        note(
            &format!("fd/{fd}"),
            Some(format!("{target}\n{}", without_inodes(&fdinfo))),
        );
    }
    Some((inside, process))
}

/// The lines of `status` that count; of `NS…` lines the last value, which is the innermost namespace's.
fn status(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(key, _)| STATUS.contains(key))
        .map(|(key, value)| {
            let value = value.trim();
            let value = match key.starts_with("NS") {
                true => value.split_whitespace().last().unwrap_or_default(),
                false => value,
            };
            (key.to_owned(), value.to_owned())
        })
        .collect()
}

/// Areas with everything but device and inode, which a deleted or anonymous file has anew after a restore, and but for how far
/// a stack has grown: calls made in the task for a checkpoint may have had it grow.
fn without_devices(maps: &str) -> String {
    maps.lines()
        .map(|line| {
            let mut fields = line.splitn(6, ' ');
            let (range, protection, offset) = (fields.next(), fields.next(), fields.next());
            let name = fields.nth(2).unwrap_or_default().trim();
            let part = |field: Option<&str>| field.unwrap_or_default().to_owned();
            let range = match name {
                "[stack]" => range.and_then(|range| range.split('-').nth(1)),
                _ => range,
            };
            format!(
                "{} {} {} {name}\n",
                part(range),
                part(protection),
                part(offset)
            )
        })
        .collect()
}

/// A link without the pid that a directory of procfs was about, whose process is gone: it may be another one's since.
fn without_dead(link: &str) -> String {
    let number = |part: &str| part.parse::<i32>().is_ok();
    let parts = link
        .split('/')
        .map(|part| if number(part) { "PID" } else { part });
    match link.starts_with("/proc/") {
        true => parts.collect::<Vec<_>>().join("/"),
        false => link.to_owned(),
    }
}

/// `fdinfo` without what belongs to the place and not to the file: mount and inode numbers, times that run, what the
/// kernel counts through, pids as the host knows them. An interest list has no order: the kernel sorts it by address.
fn without_inodes(fdinfo: &str) -> String {
    let gone = [
        "ino:",
        "mnt_id:",
        "it_value:",
        "lock:",
        "eventfd-id:",
        "Pid:",
        "NSpid:",
    ];
    let mut lines: Vec<&str> = fdinfo.lines().collect();
    lines.sort_unstable();
    lines
        .into_iter()
        .filter(|line| !gone.iter().any(|start| line.starts_with(start)))
        .map(|line| {
            // epoll and inotify lines name inodes and devices in the middle.
            const PLACES: [&str; 3] = ["ino:", "sdev:", "f_handle:"];
            let words = line
                .split_whitespace()
                .filter(|word| !PLACES.iter().any(|start| word.starts_with(start)));
            let line = words.collect::<Vec<_>>().join(" ");
            match line.strip_prefix("flags: ") {
                Some(flags) => format!("flags: {}\n", lasting(flags)),
                None => line + "\n",
            }
        })
        .collect()
}

/// Flags without those that are remembered but mean nothing after opening (open(2)): `O_NOFOLLOW`, and `O_TMPFILE` with
/// the `O_DIRECTORY` in it.
fn lasting(flags: &str) -> String {
    const NOFOLLOW: u32 = 0o400000;
    const TMPFILE: u32 = 0o20200000;
    match u32::from_str_radix(flags, 8) {
        Ok(flags) if flags & TMPFILE == TMPFILE => format!("0{:o}", flags & !TMPFILE & !NOFOLLOW),
        Ok(flags) => format!("0{:o}", flags & !NOFOLLOW),
        _ => flags.to_owned(),
    }
}

/// Nice value, number of threads, real-time priority and policy (fields 19, 20, 40, 41 of proc_pid_stat(5)).
fn scheduling(stat: &str) -> Option<String> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // The list begins with field 3.
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or_default();
    Some(format!(
        "nice {} threads {} priority {} policy {}",
        field(19),
        field(20),
        field(40),
        field(41)
    ))
}

/// Names, signal masks and pending signals of every thread that lives, by its tid inside.
fn threads(at: &Path) -> String {
    let mut lines = Vec::new();
    for task in fs::read_dir(at.join("task"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let text = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let status = status(&text);
        let field = |key: &str| status.get(key).cloned().unwrap_or_default();
        let signals = match text.contains("State:\tZ") {
            // A first thread that has ended while others live takes none.
            true => String::from("dead"),
            false => format!("blocked {} pending {}", field("SigBlk"), field("SigPnd")),
        };
        lines.push(format!("{} {} {signals}", field("NSpid"), field("Name")));
    }
    lines.sort();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_offset_is_a_difference_and_a_new_inode_is_none() {
        let mut names = Names::default();
        assert_eq!(names.of("pipe:[7]"), "pipe:#0");
        assert_eq!(names.of("socket:[9]"), "socket:#1");
        assert_eq!(names.of("pipe:[7]"), "pipe:#0");
        assert_eq!(names.of("/etc/passwd"), "/etc/passwd");
        assert_eq!(
            without_inodes("pos:\t3\nflags:\t02\nmnt_id:\t4\nino:\t5\n"),
            "flags: 02\npos: 3\n"
        );
        let state = |pos: &str| {
            State(BTreeMap::from([(
                1,
                BTreeMap::from([("fd/0".to_owned(), pos.to_owned())]),
            )]))
        };
        assert_eq!(
            state("pos: 3").differences(&state("pos: 3")),
            Vec::<String>::new()
        );
        assert_eq!(
            state("pos: 3").differences(&state("pos: 4")),
            ["process 1, fd/0:\n  - pos: 3\n  + pos: 4"]
        );
    }

    #[test]
    fn areas_keep_range_protection_offset_and_name() {
        let maps = "7f0000000000-7f0000001000 r-xp 00002000 08:01 1234   /usr/lib/a b.so (deleted)\n7ffd0-7ffd1 rw-p 0 00:00 0\n7ffe0-7fff0 rw-p 0 00:00 0 [stack]\n";
        assert_eq!(
            without_devices(maps),
            "7f0000000000-7f0000001000 r-xp 00002000 /usr/lib/a b.so (deleted)\n7ffd0-7ffd1 rw-p 0 \n7fff0 rw-p 0 [stack]\n"
        );
    }

    #[test]
    fn the_innermost_pid_counts() {
        let status = status("Name:\tcat\nNSpid:\t4711\t12\t1\nVmRSS:\t1 kB\n");
        assert_eq!(status.get("NSpid").map(String::as_str), Some("1"));
        assert_eq!(status.get("VmRSS"), None);
    }
}
