//! A program under test: started in the host's namespaces or in its own.

use crate::{Host, LONG, State, programs, until};
use std::path::PathBuf;
use std::time::Duration;

/// The first user and group outside of those that [`Program::mapped`] has.
pub const USERS: u32 = 100_000;

/// A running process tree in a host.
#[derive(Debug, Clone)]
pub struct Program<'h> {
    /// Where it runs.
    pub host: &'h Host,
    /// Its root's pid, in the host's pid namespace.
    pub pid: i32,
    /// The file that takes its standard output and error.
    pub output: PathBuf,
}

impl<'h> Program<'h> {
    /// Starts a command in the host's own namespaces.
    pub fn shared(host: &'h Host, name: &str, line: &str) -> Self {
        let output = host.path(&format!("{name}.out"));
        let pid = host.start(line, &output);
        Program { host, pid, output }
    }

    /// Starts a command as process 1 of namespaces of its own: pid, mount, network (with loopback), uts and ipc.
    pub fn alone(host: &'h Host, name: &str, line: &str) -> Self {
        let output = host.path(&format!("{name}.out"));
        let script = host.path(&format!("{name}.inside"));
        std::fs::write(
            &script,
            format!("ip link set lo up\nhostname {name}\nexec {line}\n"),
        )
        .expect("write the script");
        let outer = host.start(
            &format!(
                "unshare --pid --fork --mount-proc --net --uts --ipc bash {}",
                script.display()
            ),
            &output,
        );
        let pid = until("unshare to fork", LONG, || {
            host.children(outer).first().copied()
        });
        Program { host, pid, output }
    }

    /// Starts a container with links, packet filters, System V IPC, control groups and namespaces inside it
    /// (`programs/laden.sh`), in a control group that goes with the host.
    pub fn laden(host: &'h Host) -> Self {
        let line = format!(
            "bash -c 'mkdir {0} && echo $$ > {0}/cgroup.procs && exec bash {1}'",
            host.group().display(),
            programs().join("laden.sh").display()
        );
        let program = Program::alone(host, "laden", &line);
        program.says("inside");
        program
    }

    /// Starts a command as process 1 of namespaces that all belong to a user namespace of its own, in which users and groups
    /// have the numbers from 0 on that outside have those from [`USERS`] on. What it may read and write of the host's files is
    /// what such a user may.
    pub fn mapped(host: &'h Host, name: &str, line: &str) -> Self {
        let output = host.path(&format!("{name}.out"));
        let inside = host.path(&format!("{name}.inside"));
        std::fs::write(
            &inside,
            format!("ip link set lo up\nhostname {name}\nexec {line}\n"),
        )
        .expect("write the script");
        host.sh(&format!("chmod 755 {}", host.path("").display()))
            .ok();
        // Held by a process of its own until somebody else is in it.
        let holder = host.start("unshare --user sleep 1000", &host.path("holder.out"));
        until("its user namespace", LONG, || {
            let own = |pid: &str| host.sh(&format!("readlink /proc/{pid}/ns/user")).stdout;
            (own(&holder.to_string()) != own("self")).then_some(())
        });
        host.sh(&format!(
            "echo 0 {USERS} 65536 > /proc/{holder}/uid_map && echo 0 {USERS} 65536 > /proc/{holder}/gid_map"
        ))
        .ok();
        let outer = host.start(
            &format!(
                "nsenter --user --target {holder} --setuid 0 --setgid 0 unshare --pid --fork --mount-proc --net --uts --ipc \
                 --cgroup bash {}",
                inside.display()
            ),
            &output,
        );
        let pid = until("unshare to fork", LONG, || {
            host.children(outer).first().copied()
        });
        host.kill(holder);
        Program { host, pid, output }
    }

    /// The same container somewhere else, after a restore.
    pub fn moved(&self, host: &'h Host, pid: i32) -> Self {
        Program {
            host,
            pid,
            output: self.output.clone(),
        }
    }

    /// Runs a line of bash on its network.
    pub fn network(&self, line: &str) -> crate::Outcome {
        let script = self.host.path("network.sh");
        std::fs::write(&script, line).expect("write the script");
        self.host.sh(&format!(
            "nsenter --net --target {} bash {}",
            self.pid,
            script.display()
        ))
    }

    /// What an HTTP GET of a path at its port gives, over its own loopback; none while nobody answers.
    pub fn get(&self, port: u16, path: &str) -> Option<String> {
        let outcome = self.network(&format!("curl -s -f -m 10 http://127.0.0.1:{port}{path}"));
        (outcome.code == 0).then(|| outcome.stdout.trim().to_owned())
    }

    /// The same, asked until there is an answer.
    pub fn answer(&self, port: u16, path: &str) -> String {
        until("an answer over HTTP", LONG, || self.get(port, path))
    }

    /// All its processes, its root first.
    pub fn tree(&self) -> Vec<i32> {
        let mut all = vec![self.pid];
        let mut next = 0;
        while let Some(pid) = all.get(next).copied() {
            all.extend(self.host.children(pid));
            next += 1;
        }
        all
    }

    /// Its state as `/proc` shows it.
    pub fn state(&self) -> State {
        State::of(self)
    }

    /// Its state, once it is the same twice in a row: a program that has just said something may not be at rest yet.
    pub fn state_at_rest(&self) -> State {
        let mut last = self.state();
        until("the program to be at rest", LONG, || {
            std::thread::sleep(Duration::from_millis(60));
            let now = self.state();
            let same = now == last;
            last = now.clone();
            same.then_some(now)
        })
    }

    /// Waits until its output holds `text`, and gives all of it.
    pub fn says(&self, text: &str) -> String {
        until(
            &format!("`{text}` in {}", self.output.display()),
            LONG,
            || {
                let output = std::fs::read_to_string(&self.output).unwrap_or_default();
                output.contains(text).then_some(output)
            },
        )
    }

    /// Waits until it is gone.
    pub fn ends(&self) {
        until("the program to end", LONG, || {
            (!self.host.lives(self.pid)).then_some(())
        });
    }

    /// Whether none of its processes is stopped or traced, after giving them a moment to get there.
    pub fn runs_free(&self) {
        for pid in self.tree() {
            until(
                &format!("process {pid} to run free"),
                Duration::from_secs(5),
                || {
                    let status =
                        std::fs::read_to_string(self.host.proc().join(format!("{pid}/status")))
                            .ok()?;
                    let traced = !status.contains("TracerPid:\t0");
                    let stopped = status.contains("State:\tt") || status.contains("State:\tT");
                    (!traced && !stopped).then_some(())
                },
            );
        }
    }
}
