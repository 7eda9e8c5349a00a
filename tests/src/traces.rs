//! What a tool may leave behind in a host: processes, mounts, namespaces, links, routes, cgroups, files. Taken before
//! and after a failure, both must be the same.

use crate::Host;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Everything found, each as a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces(BTreeSet<String>);

impl Traces {
    /// Looks a host over.
    pub fn of(host: &Host) -> Self {
        let mut found = BTreeSet::new();
        for pid in host.pids() {
            let at = host.proc().join(pid.to_string());
            let Ok(name) = fs::read_to_string(at.join("comm")) else {
                continue;
            };
            found.insert(format!("process {pid} {}", name.trim()));
            for kind in ["mnt", "net", "pid", "ipc", "uts", "time", "user"] {
                if let Ok(link) = fs::read_link(at.join("ns").join(kind)) {
                    found.insert(format!("namespace {}", link.display()));
                }
            }
        }
        for line in host.mountinfo().lines() {
            // Without the mount's own number, which says nothing.
            found.insert(format!(
                "mount {}",
                line.split(' ').skip(2).collect::<Vec<_>>().join(" ")
            ));
        }
        for line in host.sh("ip -o link; ip -o addr; ip route").ok().lines() {
            // An address that IPv6 gives by itself is ready after a second, and so is a bridge.
            let line = line.split("valid_lft").next().unwrap_or(line);
            found.insert(format!(
                "network {}",
                line.replace(" tentative", "")
                    .replace("state UNKNOWN", "state UP")
            ));
        }
        found.extend(
            host.sh("nft list ruleset 2>/dev/null")
                .stdout
                .lines()
                // An empty chain is left by netavark itself, after the last container with a port of its own.
                .filter(|l| !l.contains("chain NETAVARK-DN-"))
                .map(|l| format!("nft {}", without_counts(l))),
        );
        for folder in ["/run", "/var/lib/ferry", "/dev/shm"] {
            files(&host.outside(folder), folder, &mut found);
        }
        cgroups(Path::new("/sys/fs/cgroup"), &mut found);
        Traces(found)
    }

    /// These, and lines about what an engine keeps.
    pub fn and(mut self, lines: BTreeSet<String>) -> Self {
        self.0.extend(lines);
        self
    }

    /// These without the lines that begin so.
    pub fn without(mut self, beginning: &str) -> Self {
        self.0.retain(|line| !line.starts_with(beginning));
        self
    }

    /// Waits a little for the host to look as it did: the kernel ends a killed tree's namespaces in its own time.
    #[track_caller]
    pub fn assert_none_left(&self, host: &Host) {
        self.assert_same(|| Traces::of(host));
    }

    /// The same for what `look` sees.
    #[track_caller]
    pub fn assert_same(&self, look: impl Fn() -> Traces) {
        let start = std::time::Instant::now();
        loop {
            let now = look();
            let left: Vec<_> = now.0.difference(&self.0).cloned().collect();
            let lost = self.0.difference(&now.0);
            let lost: Vec<_> = lost.filter(|line| !line.starts_with("group ")).collect();
            if left.is_empty() && lost.is_empty() {
                return;
            }
            assert!(
                start.elapsed() < std::time::Duration::from_secs(5),
                "left behind: {left:#?}\nlost: {lost:#?}"
            );
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}

/// A rule without what it has counted: `counter packets 1 bytes 40 jump X`.
fn without_counts(rule: &str) -> String {
    match rule.split_once("counter packets ") {
        Some((before, after)) => {
            let rest: Vec<_> = after.split(' ').skip(3).collect();
            format!("{before}counter {}", rest.join(" "))
        }
        None => rule.to_owned(),
    }
}

fn files(at: &Path, name: &str, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(at).into_iter().flatten().flatten() {
        let name = format!("{name}/{}", entry.file_name().to_string_lossy());
        found.insert(format!("file {name}"));
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            files(&entry.path(), &name, found);
        }
    }
}

/// Control groups that bear the project's name; others of the machine come and go with others' work.
fn cgroups(at: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(at).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|t| t.is_dir()) {
            continue;
        }
        let path = entry.path();
        // All hosts of these tests have the same hierarchies: a group with somebody in it is another's.
        if at.ends_with("ferry") && fs::read(path.join("cgroup.procs")).is_ok_and(|p| p.is_empty())
        {
            found.insert(format!("group {}", path.display()));
        } else if entry
            .file_name()
            .to_string_lossy()
            .starts_with("ferry-frozen-")
        {
            found.insert(format!("cgroup {}", path.display()));
        }
        cgroups(&entry.path(), found);
    }
}
