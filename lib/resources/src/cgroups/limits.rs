//! What control groups limit, as the files of their controllers say it: version 1
//! (Documentation/admin-guide/cgroup-v1) and version 2 (Documentation/admin-guide/cgroup-v2.rst). Taken from whichever the
//! source has, given back to whichever this host has.

use super::rules;
use image::cgroups::{Limits, Quota, Throttle, Traffic};
use std::fs;
use std::path::{Path, PathBuf};

/// Version 1 says "no limit" by a number near the largest of whole pages.
const UNLIMITED: u64 = i64::MAX as u64 & !0xffff;
/// What a group of version 1 has by itself.
const SHARES: u64 = 1024;
const IO_WEIGHT: u64 = 100;

const TRAFFIC: [(Traffic, &str, &str); 4] = [
    (Traffic::ReadBytes, "blkio.throttle.read_bps_device", "rbps"),
    (
        Traffic::WriteBytes,
        "blkio.throttle.write_bps_device",
        "wbps",
    ),
    (Traffic::Reads, "blkio.throttle.read_iops_device", "riops"),
    (Traffic::Writes, "blkio.throttle.write_iops_device", "wiops"),
];

/// Reads the limits of a container that is in these groups.
pub(super) fn read(groups: &[PathBuf]) -> Limits {
    from(&|file| read_file(groups, file))
}

fn read_file(groups: &[PathBuf], file: &str) -> Option<String> {
    let text = groups
        .iter()
        .find_map(|group| fs::read_to_string(group.join(file)).ok())?;
    Some(text.trim().to_string())
}

/// The limits that files hold, given by name.
fn from(file: &dyn Fn(&str) -> Option<String>) -> Limits {
    let number = |name: &str| file(name)?.parse::<u64>().ok();
    let limit = |name: &str| number(name).filter(|n| *n < UNLIMITED);
    let memory = limit("memory.limit_in_bytes").or_else(|| number("memory.max"));
    // Version 2 limits swap alone.
    let both = || Some(memory? + number("memory.swap.max")?);
    let quota = number("cpu.cfs_quota_us").zip(number("cpu.cfs_period_us"));
    let quota = quota.or_else(|| {
        let text = file("cpu.max")?;
        let (quota, period) = text.split_once(' ')?;
        Some((quota.parse().ok()?, period.parse().ok()?))
    });
    let weight = || number("cpu.weight").filter(|w| *w != 100).map(shares);
    let named = |name: &str| file(name).filter(|text| !text.is_empty());
    let io_weight = || {
        number("blkio.bfq.weight").or_else(|| {
            let text = file("io.bfq.weight")?;
            text.strip_prefix("default ")?.lines().next()?.parse().ok()
        })
    };
    let oom = file("memory.oom_control").unwrap_or_default();
    Limits {
        memory,
        memory_and_swap: limit("memory.memsw.limit_in_bytes").or_else(both),
        memory_reserved: limit("memory.soft_limit_in_bytes")
            .or_else(|| number("memory.low").filter(|n| *n > 0)),
        swappiness: number("memory.swappiness").filter(|n| *n != 60),
        oom_waits: oom.lines().any(|line| line == "oom_kill_disable 1"),
        pids: number("pids.max"),
        cpu_shares: number("cpu.shares")
            .filter(|n| *n != SHARES)
            .or_else(weight),
        cpu_quota: quota.map(|(quota, period)| Quota { quota, period }),
        cpus: named("cpuset.cpus"),
        nodes: named("cpuset.mems"),
        io_weight: io_weight().filter(|n| *n != IO_WEIGHT),
        io: throttles(file),
        devices: file("devices.list").and_then(|list| rules::parse(&list)),
    }
}

fn throttles(file: &dyn Fn(&str) -> Option<String>) -> Vec<Throttle> {
    let mut found = Vec::new();
    for (of, name, key) in TRAFFIC {
        // 8:0 1048576, and 8:0 rbps=1048576 wbps=max
        let old = file(name).unwrap_or_default();
        let new = file("io.max").unwrap_or_default();
        let old = old.lines().filter_map(|line| line.split_once(' '));
        let new = new.lines().filter_map(|line| {
            let (device, rest) = line.split_once(' ')?;
            let mut each = rest.split(' ').filter_map(|one| one.split_once('='));
            let (_, limit) = each.find(|(one, _)| *one == key)?;
            Some((device, limit))
        });
        found.extend(old.chain(new).filter_map(|(device, limit)| {
            let (major, minor) = device.split_once(':')?;
            Some(Throttle {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
                of,
                limit: limit.parse().ok()?,
            })
        }));
    }
    found
}

/// Weights of version 2 go from 1 to 10000, shares of version 1 from 2 to 262144; runtimes convert them like this.
fn shares(weight: u64) -> u64 {
    2 + (weight.clamp(1, 10_000) - 1) * 262_142 / 9_999
}

fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

/// One limit: what it is called, and the words for it, by file, in version 1 and in version 2.
struct Setting {
    what: &'static str,
    v1: Vec<(&'static str, String)>,
    v2: Vec<(&'static str, String)>,
}

fn settings(limits: &Limits) -> Vec<Setting> {
    let mut all = Vec::new();
    let mut say = |what, v1: &[(&'static str, String)], v2: &[(&'static str, String)]| {
        all.push(Setting {
            what,
            v1: v1.to_vec(),
            v2: v2.to_vec(),
        });
    };
    let one = |file: &'static str, value: u64| [(file, value.to_string())];
    if let Some(cpus) = &limits.cpus {
        let words = [("cpuset.cpus", cpus.clone())];
        say("CPUs to run on", &words, &words);
    }
    if let Some(nodes) = &limits.nodes {
        let words = [("cpuset.mems", nodes.clone())];
        say("memory nodes", &words, &words);
    }
    if let Some(bytes) = limits.memory {
        let words = one("memory.limit_in_bytes", bytes);
        say("memory", &words, &one("memory.max", bytes));
    }
    if let Some(bytes) = limits.memory_and_swap {
        let swap = bytes.saturating_sub(limits.memory.unwrap_or(0));
        let words = one("memory.memsw.limit_in_bytes", bytes);
        say("memory and swap", &words, &one("memory.swap.max", swap));
    }
    if let Some(bytes) = limits.memory_reserved {
        let words = one("memory.soft_limit_in_bytes", bytes);
        say("reserved memory", &words, &one("memory.low", bytes));
    }
    if let Some(value) = limits.swappiness {
        say("swappiness", &one("memory.swappiness", value), &[]);
    }
    if limits.oom_waits {
        say("waiting for memory", &one("memory.oom_control", 1), &[]);
    }
    if let Some(count) = limits.pids {
        let words = one("pids.max", count);
        say("processes", &words, &words);
    }
    if let Some(shares) = limits.cpu_shares {
        let words = one("cpu.shares", shares);
        say("CPU shares", &words, &one("cpu.weight", weight(shares)));
    }
    if let Some(Quota { quota, period }) = limits.cpu_quota {
        let v1 = [
            ("cpu.cfs_period_us", period.to_string()),
            ("cpu.cfs_quota_us", quota.to_string()),
        ];
        say("CPU time", &v1, &[("cpu.max", format!("{quota} {period}"))]);
    }
    if let Some(weight) = limits.io_weight {
        let words = one("blkio.bfq.weight", weight);
        say(
            "weight on block devices",
            &words,
            &one("io.bfq.weight", weight),
        );
    }
    for one in &limits.io {
        for (_, file, key) in TRAFFIC.iter().filter(|(of, ..)| *of == one.of) {
            let device = format!("{}:{}", one.major, one.minor);
            let v1 = [(*file, format!("{device} {}", one.limit))];
            let v2 = [("io.max", format!("{device} {key}={}", one.limit))];
            say("traffic of a block device", &v1, &v2);
        }
    }
    all
}

/// Gives limits to groups, one for each hierarchy of this host. What cannot be given is returned in words.
pub(crate) fn write(groups: &[PathBuf], limits: &Limits) -> Vec<String> {
    let mut failed = Vec::new();
    let mut note = |what: &str, done: Result<(), String>| {
        let words = |why| format!("the limit of {what} is not given back: {why}");
        failed.extend(done.err().map(words));
    };
    for setting in settings(limits) {
        note(setting.what, put(groups, &setting));
    }
    if let Some(devices) = &limits.devices {
        note("devices to use", rules::give(groups, devices));
    }
    failed
}

fn put(groups: &[PathBuf], setting: &Setting) -> Result<(), String> {
    for words in [&setting.v1, &setting.v2] {
        let Some((first, _)) = words.first() else {
            continue;
        };
        let Some(group) = groups.iter().find(|group| group.join(first).exists()) else {
            continue;
        };
        return words.iter().try_for_each(|(file, word)| {
            let path = group.join(file);
            // What it is already may be refused: a CPU list of a whole group, a quota within its parent's.
            fs::write(&path, word)
                .or_else(|e| if holds(&path, word) { Ok(()) } else { Err(e) })
                .map_err(|e| format!("{}: {e}", path.display()))
        });
    }
    Err("this host has no such controller mounted".into())
}

fn holds(path: &Path, word: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|now| now.trim() == word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn read(files: &[(&'static str, &'static str)]) -> Limits {
        let files: BTreeMap<_, _> = files.iter().copied().collect();
        from(&|name| files.get(name).map(|text| text.to_string()))
    }

    #[test]
    fn both_versions_say_the_same() {
        let v1 = read(&[
            ("memory.limit_in_bytes", "268435456"),
            ("memory.memsw.limit_in_bytes", "536870912"),
            ("memory.soft_limit_in_bytes", "9223372036854771712"),
            ("memory.swappiness", "60"),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0"),
            ("pids.max", "100"),
            ("cpu.shares", "1024"),
            ("cpu.cfs_quota_us", "50000"),
            ("cpu.cfs_period_us", "100000"),
            ("blkio.bfq.weight", "100"),
            ("blkio.throttle.read_bps_device", "254:0 1048576"),
        ]);
        let v2 = read(&[
            ("memory.max", "268435456"),
            ("memory.swap.max", "268435456"),
            ("memory.low", "0"),
            ("pids.max", "100"),
            ("cpu.weight", "100"),
            ("cpu.max", "50000 100000"),
            ("io.bfq.weight", "default 100"),
            ("io.max", "254:0 rbps=1048576 wbps=max riops=max wiops=max"),
        ]);
        assert_eq!(v1, v2);
        assert_eq!(v1.memory_and_swap, Some(512 << 20));
        assert_eq!(v1.cpu_quota.unwrap().quota, 50_000);
        assert_eq!((v1.io.len(), v1.cpu_shares, v1.io_weight), (1, None, None));
    }

    #[test]
    fn no_limit_is_none() {
        let none = read(&[
            ("memory.limit_in_bytes", "9223372036854771712"),
            ("memory.max", "max"),
            ("memory.swap.max", "max"),
            ("pids.max", "max"),
            ("cpu.cfs_quota_us", "-1"),
            ("cpu.cfs_period_us", "100000"),
            ("cpu.max", "max 100000"),
            ("cpuset.cpus", ""),
            ("devices.list", "a *:* rwm"),
        ]);
        assert_eq!(none, Limits::default());
    }

    #[test]
    fn shares_and_weights_convert() {
        assert_eq!((weight(2), weight(262_144)), (1, 10_000));
        assert_eq!((shares(1), shares(10_000)), (2, 262_144));
        assert_eq!(weight(1024), 39);
    }

    #[test]
    fn what_is_written_is_what_was_read() {
        let here = tempfile::tempdir().unwrap();
        let old = here.path().join("old");
        fs::create_dir(&old).unwrap();
        for file in ["memory.limit_in_bytes", "pids.max", "cpu.shares"] {
            fs::write(old.join(file), "0").unwrap();
        }
        let limits = Limits {
            memory: Some(1 << 20),
            memory_and_swap: Some(2 << 20),
            pids: Some(7),
            cpu_shares: Some(512),
            ..Limits::default()
        };
        let words = write(std::slice::from_ref(&old), &limits);
        assert_eq!(words.len(), 1, "{words:?}");
        assert!(words[0].contains("memory and swap"));
        let back = super::read(&[old]);
        let wanted = Limits {
            memory_and_swap: None,
            ..limits
        };
        assert_eq!(back, wanted);
    }
}
