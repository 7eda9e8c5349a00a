//! A host with a docker of its own: its daemon, with storage, networks and sockets that are the host's alone.

use crate::{Host, LONG, Traces, until};
use std::collections::BTreeSet;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

/// A [`Host`] with a docker daemon. Its containers, and what the kernel keeps for them, are gone with it.
#[derive(Debug)]
pub struct Docker<H: Deref<Target = Host> = Box<Host>> {
    host: H,
    daemon: Child,
    group: String,
}

impl Docker {
    /// A new host whose docker has the image `busybox`.
    pub fn new(name: &str) -> Self {
        let docker = Docker::on(Box::new(Host::new(name)));
        docker.import();
        docker
    }
}

impl<H: Deref<Target = Host>> Docker<H> {
    /// Starts the daemon in a host; it has no image.
    pub fn on(host: H) -> Self {
        // Named as the host's own directory is, but not as what the tools make.
        let own = host.path("").display().to_string();
        let own = own.trim_end_matches('/').rsplit('-').next();
        let group = format!("dockerd-{}-{}", host.name, own.unwrap_or_default());
        let log = std::fs::File::create(host.path("dockerd.log")).expect("make the daemon's log");
        let data = host.path("docker");
        let mut daemon = host.shell(&format!(
            "exec dockerd --data-root {} --exec-root /run/docker --pidfile /run/dockerd.pid \
             --host unix:///run/docker.sock --cgroup-parent /{group}",
            data.display()
        ));
        let daemon = daemon
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the daemon's log"))
            .stderr(log)
            .spawn()
            .expect("dockerd (package docker.io)");
        let docker = Docker {
            host,
            daemon,
            group,
        };
        until("dockerd to answer", LONG, || {
            let asked = docker.sh("docker version --format '{{.Server.Version}}'");
            (asked.code == 0).then_some(())
        });
        docker
    }

    /// Gives it the image `busybox`.
    #[track_caller]
    pub fn import(&self) {
        let root = busybox(&self.host, "busybox");
        self.sh(&format!(
            "tar -C {} -c . | docker import -c 'CMD [\"sh\"]' - busybox",
            root.display()
        ))
        .ok();
    }

    /// `docker run -d` with these words.
    #[track_caller]
    pub fn run(&self, name: &str, words: &str) {
        self.sh(&format!("docker run -d --name {name} {words}"))
            .ok();
    }

    /// A value of `docker inspect`, by a Go template.
    #[track_caller]
    pub fn inspect(&self, name: &str, template: &str) -> String {
        self.sh(&format!(
            "docker inspect --type container -f '{template}' {name}"
        ))
        .ok()
    }

    /// What `docker logs` shows.
    #[track_caller]
    pub fn logs(&self, name: &str) -> String {
        self.sh(&format!("docker logs {name} 2>&1")).ok()
    }

    /// Waits until its log holds this line, and gives all of it.
    #[track_caller]
    pub fn says(&self, name: &str, line: &str) -> String {
        until(&format!("`{line}` in the log of {name}"), LONG, || {
            let log = self.logs(name);
            log.lines().any(|l| l == line).then_some(log)
        })
    }

    /// All that may be left behind by docker or by the tools.
    pub fn traces(&self) -> Traces {
        let list = self
            .sh(
                "docker ps -a --no-trunc --format 'container {{.ID}} {{.Names}}'; docker ps --no-trunc --format 'running {{.ID}}'; \
                 docker volume ls --format 'volume {{.Name}}'; docker network ls --format 'network {{.Name}}'; \
                 docker images -a --no-trunc --format 'image {{.ID}}'; \
                 ls /run/docker/runtime-runc/moby 2>/dev/null | sed 's/^/runc /'",
            )
            .ok();
        let mut all: BTreeSet<String> = list.lines().map(str::to_owned).collect();
        for at in self.cgroups() {
            all.insert(format!("cgroup {}", at.display()));
        }
        // The daemon lets go of network namespaces that are not used any more once a minute.
        Traces::of(&self.host)
            .without("file /run/docker/netns/")
            // Whether its bridge has a carrier is a matter of moments.
            .without("network 2: docker0:")
            .without("network 172.17.0.0/16 dev docker0 ")
            .and(all)
    }

    /// Sees that nothing is left that was not there in `before`, and nothing is gone.
    #[track_caller]
    pub fn assert_none_left(&self, before: &Traces) {
        before.assert_same(|| self.traces());
    }

    /// The control groups below the daemon's own, parents first.
    fn cgroups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let roots = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten();
        let roots = roots.flatten().map(|entry| entry.path().join(&self.group));
        for root in roots.chain([Path::new("/sys/fs/cgroup").join(&self.group)]) {
            below(&root, &mut found);
        }
        found
    }
}

impl<H: Deref<Target = Host>> Deref for Docker<H> {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

impl<H: Deref<Target = Host>> Drop for Docker<H> {
    fn drop(&mut self) {
        // What runs has to end before its control groups can go.
        self.sh("docker ps -q | xargs -r docker rm -f; kill $(cat /run/dockerd.pid)");
        let _ = self.daemon.wait();
        for at in self.cgroups().iter().rev() {
            let _ = std::fs::remove_dir(at);
        }
    }
}

fn below(at: &Path, found: &mut Vec<PathBuf>) {
    if !at.is_dir() {
        return;
    }
    found.push(at.to_owned());
    for entry in std::fs::read_dir(at).into_iter().flatten().flatten() {
        below(&entry.path(), found);
    }
}

/// A root file system with busybox and nothing else, made in a directory of the host's with this name.
pub fn busybox(host: &Host, name: &str) -> PathBuf {
    let root = host.path(name);
    host.sh(&format!(
        "cd {} && mkdir -p {{bin,dev,etc,home,proc,root,run,sys,tmp,var}} && cp /bin/busybox bin && \
         chroot . /bin/busybox --install -s /bin && echo root:x:0:0:root:/root:/bin/sh > etc/passwd && \
         echo root:x:0: > etc/group && chmod 1777 tmp",
        {
            std::fs::create_dir_all(&root).expect("make a directory");
            root.display()
        }
    ))
    .ok();
    root
}
