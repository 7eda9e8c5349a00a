//! A host with a podman of its own: storage, networks, locks and settings are the host's; the images are shared by all
//! hosts, read-only, and made once (`tests/images/make`).

use crate::{Host, LONG, Outcome, Program, Restored, Traces, until};
use std::collections::BTreeSet;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A [`Host`] with podman. Its containers, and what the kernel keeps for them, are gone with it.
#[derive(Debug)]
pub struct Podman {
    host: Host,
}

/// The directory with the images' root file systems and podman's read-only store of them.
pub fn images() -> &'static Path {
    static IMAGES: OnceLock<PathBuf> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let make = Path::new(env!("CARGO_MANIFEST_DIR")).join("images/make");
        let output = Command::new(&make)
            .stdin(Stdio::null())
            .output()
            .expect("run tests/images/make");
        assert!(
            output.status.success(),
            "{} failed: {}",
            make.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
    })
}

impl Podman {
    /// A new host whose podman has the images `base` and `web`.
    pub fn new(name: &str) -> Self {
        Podman::on(Host::new(name), Some(images()))
    }

    /// A new host whose podman has no image at all.
    pub fn bare(name: &str) -> Self {
        Podman::on(Host::new(name), None)
    }

    /// Two hosts with a cable between them, as [`Host::pair`].
    pub fn pair() -> (Self, Self) {
        let (one, two) = Host::pair();
        (
            Podman::on(one, Some(images())),
            Podman::on(two, Some(images())),
        )
    }

    fn on(host: Host, images: Option<&Path>) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("images/own-podman");
        let store = images.map_or(PathBuf::new(), |at| at.join("store"));
        host.sh(&format!(
            "{} {} {}",
            script.display(),
            host.path("podman").display(),
            store.display()
        ))
        .ok();
        Podman { host }
    }

    /// `podman run -d` with these words; the container by its name, which is to be among them.
    #[track_caller]
    pub fn run(&self, name: &str, words: &str) -> Container<'_> {
        self.sh(&format!("podman run -d --name {name} {words}"))
            .ok();
        self.container(name)
    }

    /// A container that is there, by name or id.
    pub fn container(&self, name: &str) -> Container<'_> {
        Container {
            podman: self,
            name: name.to_owned(),
        }
    }

    /// Restores an archive into this podman, with words for `restore`; the container as it is reported.
    #[track_caller]
    pub fn restored(&self, words: &str, archive: &Path) -> Container<'_> {
        let report = self
            .sh(&format!("restore --json {words} < {}", archive.display()))
            .ok();
        let restored = Restored::read(&report);
        let container = self.container(&restored.name.expect("its name"));
        assert_eq!(container.pid(), restored.pid, "{report}");
        container
    }

    /// What podman and the kernel keep of containers here, each as a line: containers, pods, volumes, networks, layers,
    /// control groups.
    pub fn inventory(&self) -> BTreeSet<String> {
        let list = self
            .sh(
                "podman ps -a --external --no-trunc --format 'container {{.ID}} {{.Names}}'; \
                 podman ps --no-trunc --format 'running {{.ID}}'; \
                 podman pod ps --no-trunc --format 'pod {{.ID}} {{.Name}} {{.Status}}'; \
                 podman volume ls --format 'volume {{.Name}}'; podman network ls --format 'network {{.Name}}'; \
                 podman images -a --no-trunc --format 'image {{.ID}}'; ls /run/netns | sed 's/^/netns /'; \
                 ls /var/lib/containers/storage/overlay /var/lib/containers/storage/overlay-containers | sed 's/^/layer /'",
            )
            .ok();
        let mut all: BTreeSet<String> = list.lines().map(str::to_owned).collect();
        for cgroup in self.cgroups() {
            all.insert(format!("cgroup {}", cgroup.display()));
        }
        all
    }

    /// All that may be left behind by podman or by the tools, once podman has cleared up after containers that ended.
    pub fn traces(&self) -> Traces {
        until("podman to be done", LONG, || {
            let busy = self.sh("pgrep -x podman").code == 0;
            (!busy).then_some(())
        });
        self.look()
    }

    fn look(&self) -> Traces {
        // Podman itself may leave the file in which conmon notes an exit, where its container was removed meanwhile.
        Traces::of(&self.host)
            .without("file /run/libpod/exits/")
            .and(self.inventory())
    }

    /// Sees that nothing is left that was not there in `before`, and nothing is gone.
    #[track_caller]
    pub fn assert_none_left(&self, before: &Traces) {
        before.assert_same(|| self.look());
    }

    /// The control groups of every container and pod that this podman ever made; others' come and go beside them.
    fn cgroups(&self) -> Vec<PathBuf> {
        let events = std::fs::read_to_string(self.host.outside("/run/libpod/events/events.log"))
            .unwrap_or_default();
        let ids: BTreeSet<String> = events
            .lines()
            .filter_map(|line| {
                let event: serde_json::Value = serde_json::from_str(line).ok()?;
                let id = event.get("ID")?.as_str()?;
                (id.len() == 64).then(|| id.to_owned())
            })
            .collect();
        let mut found = Vec::new();
        cgroups(Path::new("/sys/fs/cgroup"), &ids, &mut found);
        found
    }
}

impl Deref for Podman {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let cgroups = self.cgroups();
        self.host.end();
        // The kernel lets go of a dead process's control group in its own time.
        for at in cgroups.iter().rev() {
            let start = std::time::Instant::now();
            while at.exists() && std::fs::remove_dir(at).is_err() && start.elapsed() < LONG / 10 {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
    }
}

/// Directories that bear one of the ids in their name, parents before what is in them.
fn cgroups(at: &Path, ids: &BTreeSet<String>, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(at).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|t| t.is_dir()) {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let id = name
            .trim_start_matches("libpod-")
            .trim_start_matches("conmon-");
        let inside_one = found
            .last()
            .is_some_and(|one| entry.path().starts_with(one));
        if ids.contains(id) || inside_one {
            found.push(entry.path());
        }
        cgroups(&entry.path(), ids, found);
    }
}

/// A container of podman's.
#[derive(Debug, Clone)]
pub struct Container<'h> {
    /// The host it is on.
    pub podman: &'h Podman,
    /// Its name or id.
    pub name: String,
}

impl<'h> Container<'h> {
    /// A value of `podman inspect`, by a Go template.
    #[track_caller]
    pub fn inspect(&self, template: &str) -> String {
        self.podman
            .sh(&format!(
                "podman inspect --type container -f '{template}' {}",
                self.name
            ))
            .ok()
    }

    /// Its first process, as the host knows it.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        self.inspect("{{.State.Pid}}").parse().expect("a pid")
    }

    /// What podman says of it: `running`, `exited`, `paused`.
    #[track_caller]
    pub fn status(&self) -> String {
        self.inspect("{{.State.Status}}")
    }

    /// Its address on the network `podman`.
    #[track_caller]
    pub fn address(&self) -> String {
        self.inspect("{{.NetworkSettings.IPAddress}}")
    }

    /// Runs a line of shell in it by `podman exec`.
    pub fn exec(&self, line: &str) -> Outcome {
        let script = self.podman.path("exec.sh");
        std::fs::write(&script, line).expect("write the script");
        self.podman.sh(&format!(
            "podman exec {} sh -c \"$(cat {})\"",
            self.name,
            script.display()
        ))
    }

    /// Takes it into an archive, with words for `checkpoint`; another one each time.
    #[track_caller]
    pub fn taken(&self, words: &str) -> PathBuf {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let archive = self.podman.path(&format!("{}-{number}.ckpt", self.name));
        self.podman
            .sh(&format!(
                "checkpoint {words} {} | pack > {}",
                self.name,
                archive.display()
            ))
            .ok();
        archive
    }

    /// What `podman logs` shows.
    #[track_caller]
    pub fn logs(&self) -> String {
        self.podman
            .sh(&format!("podman logs {} 2>&1", self.name))
            .ok()
    }

    /// Waits until its log holds `text`, and gives all of it.
    #[track_caller]
    pub fn says(&self, text: &str) -> String {
        until(
            &format!("`{text}` in the log of {}", self.name),
            LONG,
            || {
                let log = self.logs();
                log.contains(text).then_some(log)
            },
        )
    }

    /// What an HTTP GET at its address gives, asked until there is an answer.
    #[track_caller]
    pub fn answer(&self) -> String {
        let address = self.address();
        assert_ne!(address, "", "{} has no address", self.name);
        self.podman.answer(&format!("http://{address}:8080/"))
    }

    /// Waits until podman says that it is in this state.
    #[track_caller]
    pub fn becomes(&self, status: &str) {
        until(&format!("{} to be {status}", self.name), LONG, || {
            (self.status() == status).then_some(())
        });
    }

    /// Its process tree, for a look at its state.
    pub fn program(&self) -> Program<'h> {
        Program {
            host: &self.podman.host,
            pid: self.pid(),
            output: PathBuf::from("/dev/null"),
        }
    }
}
