//! Namespaces inside the container: children in uts, ipc, network and cgroup namespaces of their own, a pid namespace with
//! a process 1 and its child, one within that, one that somebody has entered from outside, one that is still to be made, and
//! a thread that has gone its own way.
#![forbid(unsafe_code)]

use kernel::network::links;
use kernel::own::child::fork;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getpgid, getpid, getppid, getsid, gettid};
use std::fs::read_to_string;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::ExitCode;
use subject::Stage;

const SYSCTLS: [&str; 3] = [
    "kernel/msgmax",
    "net/core/somaxconn",
    "net/ipv4/ip_unprivileged_port_start",
];

/// Everything a task can see of its namespaces, on one line.
fn seen() -> String {
    let number = |id: nix::Result<Pid>| id.map_or(-1, Pid::as_raw);
    let mut all = vec![
        format!("{} {} {}", getpid(), getppid(), gettid()),
        format!("{} {}", number(getpgid(None)), number(getsid(None))),
    ];
    // Of the container's own host name and network a replica has others.
    let name = nix::unistd::gethostname().unwrap_or_default();
    if let Some(name) = name.to_str()
        && ["nested", "process", "thread"].contains(&name)
    {
        all.push(name.to_owned());
        if name != "process" {
            let links = read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
            all.push(links.lines().count().to_string());
        }
    }
    for name in SYSCTLS {
        let value = read_to_string(format!("/proc/sys/{name}")).unwrap_or_default();
        all.push(value.trim().replace('\n', " "));
    }
    all.join(" | ")
}

/// Sets a limit, where that is not beneath a read-only mount, as in a container of podman's.
fn set(name: &str, value: &str) -> bool {
    let read_only = |e: std::io::Error| e.kind() == std::io::ErrorKind::ReadOnlyFilesystem;
    std::fs::write(format!("/proc/sys/{name}"), value).map_or_else(read_only, |()| true)
}

/// The names of all its sockets are also those of sockets of the container's own network.
const NAME: &[u8] = b"namespaces/nested";

/// Sockets of a network in which nobody else is.
struct Sockets {
    internet: Option<Internet>,
    named: UnixListener,
    pair: (UnixStream, UnixStream),
    netlink: OwnedFd,
}

/// Those that need a loopback interface.
struct Internet {
    listening: TcpListener,
    connection: (TcpStream, TcpStream),
    udp: UdpSocket,
    unread: UdpSocket,
}

fn heard(from: &mut dyn Read, text: &str) -> Option<()> {
    let mut bytes = vec![0; text.len()];
    from.read_exact(&mut bytes).ok()?;
    (bytes == text.as_bytes()).then_some(())
}

impl Sockets {
    fn make() -> Self {
        let mut links = links::open().expect("netlink");
        let all = links::list(&mut links).expect("list links");
        let mut lo = all.into_iter().find(links::Link::is_loopback).expect("lo");
        lo.flags |= 1; // IFF_UP
        // In a container of podman's the right to do that is missing.
        let on = links::settle(&mut links, &lo, lo.index).is_ok();
        let pair = UnixStream::pair().expect("socketpair");
        (&pair.0).write_all(b"unread").expect("write");
        let kind = (AddressFamily::Netlink, SockType::Raw);
        let netlink = socket(kind.0, kind.1, SockFlag::empty(), None);
        Sockets {
            internet: on.then(Internet::make),
            named: named(),
            pair,
            netlink: netlink.expect("a netlink socket"),
        }
    }

    /// Whether they all go on.
    fn work(&self) -> Option<()> {
        if let Some(internet) = &self.internet {
            internet.work()?;
        }
        heard(&mut &self.pair.1, "unread")?;
        let client = UnixStream::connect_addr(&self.named.local_addr().ok()?).ok()?;
        let (mut accepted, _) = self.named.accept().ok()?;
        (&client).write_all(b"hello").ok()?;
        heard(&mut accepted, "hello")?;
        let address = nix::sys::socket::NetlinkAddr::new(0, 0);
        nix::sys::socket::bind(self.netlink.as_raw_fd(), &address).ok()
    }
}

impl Internet {
    fn make() -> Self {
        let listening = TcpListener::bind("127.0.0.1:777").expect("listen");
        let client = TcpStream::connect("127.0.0.1:777").expect("connect");
        let (server, _) = listening.accept().expect("accept");
        (&client).write_all(b"before").expect("write");
        let unread = UdpSocket::bind("127.0.0.1:778").expect("bind");
        let udp = UdpSocket::bind("127.0.0.1:779").expect("bind");
        udp.connect("127.0.0.1:778").expect("connect");
        udp.send(b"unread").expect("send");
        Internet {
            listening,
            connection: (client, server),
            udp,
            unread,
        }
    }

    fn work(&self) -> Option<()> {
        let (client, server) = (&self.connection.0, &self.connection.1);
        (&mut &*client).write_all(b" and after").ok()?;
        heard(&mut &*server, "before and after")?;
        (&mut &*server).write_all(b"back").ok()?;
        heard(&mut &*client, "back")?;
        let again = TcpStream::connect("127.0.0.1:777").ok()?;
        let (accepted, _) = self.listening.accept().ok()?;
        drop((again, accepted));
        self.udp.send(b"more").ok()?;
        for text in [&b"unread"[..], b"more"] {
            let mut bytes = [0; 16];
            let (len, from) = self.unread.recv_from(&mut bytes).ok()?;
            (bytes.get(..len)? == text && from.port() == 779).then_some(())?;
        }
        Some(())
    }
}

/// A listening socket of that name, which each network has for itself.
fn named() -> UnixListener {
    let address = SocketAddr::from_abstract_name(NAME).expect("a name");
    UnixListener::bind_addr(&address).expect("listen")
}

/// Says what it sees, and when it is told, again; and it can still fork.
fn speak(name: &str, told: &OwnedFd, say: &OwnedFd) -> i32 {
    let say_it = |text: String| nix::unistd::write(say, format!("{name}: {text}\n").as_bytes());
    let first = say_it(seen());
    let heard = nix::unistd::read(told, &mut [0]);
    let again = say_it(seen());
    i32::from(first.is_err() || heard != Ok(1) || again.is_err())
}

fn ended(pid: i32) -> i32 {
    match waitpid(Pid::from_raw(pid), None) {
        Ok(WaitStatus::Exited(_, status)) => status,
        _ => 99,
    }
}

/// The next `count` lines of the pipe, in the order of the alphabet.
fn lines(heard: &OwnedFd, count: usize) -> Vec<String> {
    let mut text = Vec::new();
    let mut byte = [0];
    while text.iter().filter(|b| **b == b'\n').count() < count {
        match nix::unistd::read(heard, &mut byte) {
            Ok(1) => text.push(byte[0]),
            _ => break,
        }
    }
    let text = String::from_utf8_lossy(&text);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let (told, tell) = nix::unistd::pipe().expect("pipe");
    let (heard, say) = nix::unistd::pipe().expect("pipe");
    let mut children = Vec::new();
    let outer = named();

    let own = CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWCGROUP;
    children.push(
        fork(|| {
            unshare(own).expect("unshare");
            nix::unistd::sethostname("nested").expect("sethostname");
            let all = set("kernel/msgmax", "12345")
                && set("net/core/somaxconn", "77")
                && set("net/ipv4/ip_unprivileged_port_start", "99");
            let sockets = Sockets::make();
            // Its child is in the same.
            let child = fork(|| speak("a child's child", &told, &say)).expect("fork");
            let spoken = speak("a child", &told, &say);
            let works = sockets.work();
            i32::from(!all || works.is_none()) + ended(child) + spoken
        })
        .expect("fork"),
    );

    // Parent, process 1, its child, and one more namespace below that.
    children.push(
        fork(|| {
            unshare(CloneFlags::CLONE_NEWPID).expect("unshare");
            let (released, release) = nix::unistd::pipe().expect("pipe");
            let first = fork(|| {
                let second = fork(|| {
                    let _ = nix::unistd::setsid();
                    speak("process 2", &told, &say)
                })
                .expect("fork");
                let third = fork(|| {
                    unshare(CloneFlags::CLONE_NEWPID).expect("unshare");
                    let below = fork(|| speak("process 1 below", &told, &say)).expect("fork");
                    speak("its parent", &told, &say) + ended(below)
                })
                .expect("fork");
                let spoken = speak("process 1", &told, &say) + ended(second) + ended(third);
                // Its end is that of all in its namespace, also of one from outside that has not spoken yet.
                let heard = nix::unistd::read(&released, &mut [0]);
                spoken + i32::from(heard != Ok(1))
            })
            .expect("fork");
            // Its next child would be in there, and is.
            let another = fork(|| speak("one from outside", &told, &say)).expect("fork");
            let spoken = speak("who made it", &told, &say) + ended(another);
            let let_go = nix::unistd::write(&release, b"!").is_ok();
            let spoken = spoken + i32::from(!let_go) + ended(first);
            // Process 1 is gone: nothing more can be born there.
            spoken + i32::from(fork(|| 0).is_ok())
        })
        .expect("fork"),
    );

    // A pid namespace whose process 1 is not born yet.
    children.push(
        fork(|| {
            unshare(CloneFlags::CLONE_NEWPID).expect("unshare");
            let spoken = speak("before the first", &told, &say);
            spoken + ended(fork(|| i32::from(getpid().as_raw() != 1)).expect("fork"))
        })
        .expect("fork"),
    );

    // A thread elsewhere than its process, and one that has come home.
    children.push(
        fork(|| {
            unshare(CloneFlags::CLONE_NEWUTS).expect("unshare");
            nix::unistd::sethostname("process").expect("sethostname");
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    unshare(CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWNET).expect("unshare");
                    nix::unistd::sethostname("thread").expect("sethostname");
                    let own = named();
                    let spoken = speak("a thread", &told, &say);
                    let client = UnixStream::connect_addr(&own.local_addr().expect("a name"));
                    spoken + i32::from(client.is_err() || own.accept().is_err())
                });
                scope.spawn(|| {
                    let home = format!("/proc/{}/ns/uts", getppid());
                    let home = std::fs::File::open(home).expect("open a namespace");
                    setns(&home, CloneFlags::CLONE_NEWUTS).expect("setns");
                    drop(home);
                    speak("a thread at home", &told, &say)
                });
                speak("its leader", &told, &say)
            })
        })
        .expect("fork"),
    );

    let count = 12;
    let before = lines(&heard, count);
    stage.same("who has spoken", count, before.len());
    stage.wait();
    nix::unistd::write(&tell, &[b'!'; 12]).expect("tell them all");
    stage.same("what they see", before, lines(&heard, count));
    for pid in children {
        stage.same("a child's end", 0, ended(pid));
    }
    let client = UnixStream::connect_addr(&outer.local_addr().expect("a name"));
    stage.holds(
        "the container's own socket of that name",
        client.is_ok() && outer.accept().is_ok(),
    );
    stage.leave()
}
