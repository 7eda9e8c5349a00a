//! A disposable host: a pid, mount, network, uts and ipc namespace with a `/run` of its own. The file system is the
//! machine's. Whatever runs in it ends with it.

use crate::{LONG, built, until};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Namespaces that behave as a host of their own.
#[derive(Debug)]
pub struct Host {
    /// Its name, for the reader of a failure.
    pub name: String,
    keeper: Child,
    init: i32,
    scratch: TempDir,
}

/// What a command in a host did.
#[derive(Debug)]
pub struct Outcome {
    /// The command, for the reader of a failure.
    pub command: String,
    /// Its exit code, or 128 plus the signal that ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Outcome {
    fn of(command: &str, output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        Outcome {
            command: command.to_owned(),
            code: output
                .status
                .code()
                .unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0)),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The standard output without the last newline; panics unless the command succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        self.fails_with(0).stdout.trim_end().to_owned()
    }

    /// The outcome itself; panics unless the exit code is `code`.
    #[track_caller]
    pub fn fails_with(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "`{}` gave {}\n--- standard output\n{:.4000}\n--- standard error\n{:.4000}",
            self.command, self.code, self.stdout, self.stderr
        );
        self
    }
}

impl Host {
    /// A new host with nothing but a loopback interface.
    pub fn new(name: &str) -> Self {
        let tools = built();
        let needed = [
            "keeper",
            "checkpoint",
            "pack",
            "unpack",
            "restore",
            "verify",
        ];
        for tool in needed {
            let path = tools.join(tool);
            assert!(
                path.exists(),
                "{} is not there: `cargo build` first",
                path.display()
            );
        }
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        let mut keeper = Command::new("unshare")
            .args([
                "--net",
                "--mount",
                "--pid",
                "--uts",
                "--ipc",
                "--fork",
                "--kill-child",
                "--mount-proc",
            ])
            .arg(tools.join("keeper"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare (package util-linux)");
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().expect("the keeper's output"))
            .read_line(&mut line)
            .expect("hear from the keeper");
        assert_eq!(line, "ready\n", "the keeper of {name} did not come up");
        let init = children(Path::new("/proc"), keeper.id() as i32)[0];
        let host = Host {
            name: name.to_owned(),
            keeper,
            init,
            scratch: tempfile::Builder::new()
                .prefix("ferry-host-")
                .tempdir()
                .expect("a directory"),
        };
        // With terminals of its own: their numbers are taken and given back by nobody else.
        host.sh(&format!(
            "hostname {name} && mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts"
        ))
        .ok();
        host
    }

    /// Two hosts with a cable between them: the first is 192.0.2.1, the second 192.0.2.2.
    pub fn pair() -> (Self, Self) {
        let (one, two) = (Host::new("alder"), Host::new("birch"));
        // Made inside, with the peer sent over by pid: the machine's own network is not touched.
        let made = Command::new("nsenter")
            .args([
                "--net",
                "--target",
                &one.init.to_string(),
                "ip",
                "link",
                "add",
                "wire",
                "type",
                "veth",
            ])
            .args(["peer", "name", "wire", "netns", &two.init.to_string()])
            .status();
        assert!(made.is_ok_and(|s| s.success()), "no veth between the hosts");
        for (host, number) in [(&one, 1), (&two, 2)] {
            host.sh(&format!(
                "ip addr add 192.0.2.{number}/24 dev wire && ip link set wire up"
            ))
            .ok();
        }
        (one, two)
    }

    /// A cable of this name to another host: 198.51.100.N+1 here, N+2 there.
    pub fn cable(&self, other: &Host, name: &str, n: u8) {
        let (here, there) = (self.init.to_string(), other.init.to_string());
        let made = Command::new("nsenter")
            .args(["--net", "--target", &here, "ip", "link", "add", name])
            .args(["type", "veth", "peer", "name", name, "netns", &there])
            .status();
        assert!(made.is_ok_and(|s| s.success()), "no veth between the hosts");
        for (host, n) in [(self, n + 1), (other, n + 2)] {
            host.sh(&format!(
                "ip addr add 198.51.100.{n}/30 dev {name} && ip link set {name} up"
            ))
            .ok();
        }
    }

    /// A directory for files of the test; both hosts of a pair see each other's, as they share the file system.
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// The host's `/proc`, seen from outside.
    pub fn proc(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/proc", self.init))
    }

    /// A path of the host's, seen from outside.
    pub fn outside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// The mounts of the host.
    pub fn mountinfo(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/mountinfo", self.init))
            .expect("the host's mounts")
    }

    /// A command that runs in the host, with the built tools first in its path.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args([
                "--mount",
                "--net",
                "--pid",
                "--uts",
                "--ipc",
                "--target",
                &self.init.to_string(),
                "--",
            ])
            .arg(program)
            .env(
                "PATH",
                format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", built().display()),
            )
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null());
        command
    }

    /// Runs a line of bash in the host, with `pipefail`.
    pub fn sh(&self, line: &str) -> Outcome {
        let output = self.shell(line).output().expect("nsenter bash");
        Outcome::of(line, output)
    }

    /// A line of bash as a command, to be spawned by the caller.
    pub fn shell(&self, line: &str) -> Command {
        let mut command = self.command("bash");
        command.args(["-o", "pipefail", "-c", line]);
        command
    }

    /// Runs a line of bash with `input` on its standard input.
    pub fn sh_with(&self, line: &str, input: &[u8]) -> Outcome {
        let mut child = self
            .shell(line)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("nsenter bash");
        let mut stdin = child.stdin.take().expect("its standard input");
        let input = input.to_vec();
        // A reader that stops early closes the pipe: that is the test's subject, not an error here.
        let writer = std::thread::spawn(move || stdin.write_all(&input).is_ok());
        let output = child.wait_with_output().expect("wait for bash");
        let _ = writer.join();
        Outcome::of(line, output)
    }

    /// Starts a line of bash in the background, in a session of its own, its output in a file; gives the pid that the
    /// line's program has in the host. The line is one simple command (it is `exec`ed).
    pub fn start(&self, line: &str, output: &Path) -> i32 {
        let script = output.with_extension("start");
        // Descriptors that the test itself was started with (a job server's pipe, say) are not the program's. 255 is
        // the script.
        let close = "for fd in /proc/self/fd/*; do fd=${fd##*/}; [ $fd -lt 3 ] || [ $fd = 255 ] || eval \"exec $fd>&-\"; done";
        std::fs::write(&script, format!("{close}\nexec {line}\n")).expect("write the start script");
        // A pid of one's own choice, so that it is free on the other host as well.
        let pid = self
            .sh(&format!(
                "echo $((1000 + RANDOM % 20000)) > /proc/sys/kernel/ns_last_pid; \
                 setsid bash {} </dev/null >{} 2>&1 & echo $!",
                script.display(),
                output.display()
            ))
            .ok();
        pid.parse().expect("a pid")
    }

    /// Whether a process with this pid is there and not a zombie.
    pub fn lives(&self, pid: i32) -> bool {
        match std::fs::read_to_string(self.proc().join(format!("{pid}/stat"))) {
            Ok(stat) => !stat
                .rsplit(')')
                .next()
                .unwrap_or("")
                .trim_start()
                .starts_with(['Z', 'X']),
            Err(_) => false,
        }
    }

    /// Kills one process of the host and waits until it is gone.
    pub fn kill(&self, pid: i32) {
        self.sh(&format!("kill -KILL {pid}"));
        until("a killed process to go", LONG, || {
            (!self.lives(pid)).then_some(())
        });
    }

    /// The pids of all processes in the host but its first, and with them those of nested pid namespaces.
    pub fn pids(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = std::fs::read_dir(self.proc())
            .expect("list the host's processes")
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| *pid != 1)
            .collect();
        pids.sort_unstable();
        pids
    }

    /// The children of a process, pids in the host.
    pub fn children(&self, pid: i32) -> Vec<i32> {
        children(&self.proc(), pid)
    }

    /// Starts an sshd in the host, with keys of its own, and gives the ssh command with which others reach it.
    pub fn sshd(&self, address: &str) -> String {
        let folder = self.path("ssh");
        let at = folder.display();
        self.sh(&format!(
            "mkdir -m 700 {at} && ssh-keygen -q -t ed25519 -N '' -f {at}/host && ssh-keygen -q -t ed25519 -N '' -f {at}/user && \
             printf '%s\\n' 'HostKey {at}/host' 'AuthorizedKeysFile {at}/user.pub' 'StrictModes no' 'UsePAM no' \
             'PermitRootLogin prohibit-password' 'PidFile {at}/pid' 'ListenAddress {address}' > {at}/config && \
             /usr/sbin/sshd -f {at}/config -E {at}/log"
        ))
        .ok();
        format!(
            "ssh -q -i {at}/user -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=20 root@{address}"
        )
    }
}

impl Host {
    /// Ends it: the keeper ends with its standard input, and every process of its pid namespace with it. The control groups
    /// of native containers that nobody is left to remove, and which all hosts share, go as well.
    pub fn end(&mut self) {
        let mut groups = self.groups();
        beneath(&self.group(), &mut groups);
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
        for at in groups {
            let start = Instant::now();
            while at.exists() && std::fs::remove_dir(&at).is_err() && start.elapsed() < LONG / 10 {
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = at.parent().map(std::fs::remove_dir);
        }
    }

    /// A control group for programs of this host, which they make.
    pub fn group(&self) -> PathBuf {
        PathBuf::from(format!("/sys/fs/cgroup/pids/ferry-test-{}", self.init))
    }

    fn groups(&self) -> Vec<PathBuf> {
        let registered = std::fs::read_dir(self.outside("/run/ferry"));
        let mut found = Vec::new();
        for file in registered.into_iter().flatten().flatten() {
            let text = std::fs::read_to_string(file.path()).unwrap_or_default();
            let entry: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            let groups = entry.get("cgroups").and_then(serde_json::Value::as_array);
            let groups = groups.into_iter().flatten();
            found.extend(groups.filter_map(|group| group.as_str().map(PathBuf::from)));
        }
        found
    }

    /// What an HTTP GET from this host gives, asked until there is an answer.
    #[track_caller]
    pub fn answer(&self, url: &str) -> String {
        until(&format!("an answer of {url}"), LONG, || {
            let outcome = self.sh(&format!("curl -s -f -m 10 {url}"));
            (outcome.code == 0).then(|| outcome.stdout.trim().to_owned())
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.end();
    }
}

/// A control group and those beneath it, the innermost first.
fn beneath(group: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            beneath(&entry.path(), found);
        }
    }
    found.push(group.to_owned());
}

/// The children of a process in the `/proc` given.
fn children(proc: &Path, pid: i32) -> Vec<i32> {
    let mut all = Vec::new();
    for task in std::fs::read_dir(proc.join(format!("{pid}/task")))
        .into_iter()
        .flatten()
        .flatten()
    {
        let list = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        all.extend(
            list.split_whitespace()
                .filter_map(|pid| pid.parse::<i32>().ok()),
        );
    }
    all.sort_unstable();
    all
}
