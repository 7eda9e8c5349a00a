//! Who is at the other end (`SO_PEERCRED`): of connections to a service with and without a file, of pairs, each made by
//! another process with another user, of a client not yet accepted, and of a service for whoever connects later.
#![forbid(unsafe_code)]

use kernel::own::child::fork;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixCredentials, getsockopt, socketpair, sockopt,
};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, getpid};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::ExitCode;
use std::time::Duration;
use subject::Stage;

type Shown = (i32, u32, u32);

fn shown(fd: impl AsFd) -> Shown {
    let who: UnixCredentials = getsockopt(&fd, sockopt::PeerCredentials).expect("SO_PEERCRED");
    (who.pid(), who.uid(), who.gid())
}

/// A child that is another user from the start, and gives the number of things that differ.
fn user(id: u32, work: impl FnOnce() -> i32) -> Pid {
    fork(|| {
        nix::unistd::setresgid(Gid::from(id), Gid::from(id), Gid::from(id)).expect("setresgid");
        nix::unistd::setresuid(Uid::from(id), Uid::from(id), Uid::from(id)).expect("setresuid");
        work()
    })
    .map(Pid::from_raw)
    .expect("fork")
}

/// Waits for the word of whoever looks at the other end, and sees that there is still the same to be seen.
fn stays(mut end: UnixStream) -> i32 {
    let before = shown(&end);
    let heard = end.read_exact(&mut [0]).is_ok();
    i32::from(!heard) + i32::from(shown(&end) != before)
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let me = getpid().as_raw();
    let name = format!("peercred-{me}");
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let services = [
        UnixListener::bind_addr(&address).expect("bind"),
        UnixListener::bind(stage.path(&name)).expect("bind"),
    ];
    let path = stage.path(&name);
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&path, everybody).expect("chmod");
    let mut ends: Vec<(&str, UnixStream, Shown)> = Vec::new();
    let mut children = Vec::new();
    for (id, what) in [
        (1234, "a client of an abstract name"),
        (2345, "a client of a file"),
    ] {
        let (address, path) = (address.clone(), path.clone());
        let child = user(id, move || match id {
            1234 => stays(UnixStream::connect_addr(&address).expect("connect")),
            _ => stays(UnixStream::connect(path).expect("connect")),
        });
        let service = &services[usize::from(id != 1234)];
        let (end, _) = service.accept().expect("accept");
        ends.push((what, end, (child.as_raw(), id, id)));
        children.push(child);
    }
    std::fs::remove_file(&path).expect("unlink");

    let (mine, theirs) = UnixStream::pair().expect("socketpair");
    children.push(user(3456, move || stays(theirs)));
    ends.push(("a pair of ours", mine, (me, 0, 0)));

    // A service whose maker has gone on to be another user, and one whose maker is a child.
    let (left, right): (OwnedFd, OwnedFd) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::empty(),
    )
    .expect("socketpair");
    let later = SocketAddr::from_abstract_name(format!("{name}-later")).expect("a name");
    let made = later.clone();
    let maker = user(4567, move || {
        let service = UnixListener::bind_addr(&made).expect("bind");
        nix::unistd::write(&right, b"!").expect("say so");
        // One has come before it all, and one comes after it.
        let wrong = |wanted: u32| {
            let (mut client, _) = service.accept().expect("accept");
            let who = shown(&client);
            let answered = client.write_all(b"!").is_ok();
            i32::from(!answered) + i32::from((who.1, who.2) != (wanted, wanted) || who.0 == 0)
        };
        nix::unistd::read(&right, &mut [0]).expect("be told");
        wrong(5678) + 10 * wrong(0)
    });
    nix::unistd::read(&left, &mut [0]).expect("hear of it");
    let at_the_door = later.clone();
    let (knocked, knocks) = nix::unistd::pipe().expect("pipe");
    children.push(user(5678, move || {
        let end = UnixStream::connect_addr(&at_the_door).expect("connect");
        nix::unistd::write(&knocks, b"!").expect("say so");
        stays(end)
    }));
    nix::unistd::read(&knocked, &mut [0]).expect("hear of it");

    for (what, end, wanted) in &ends {
        assert_eq!(shown(end), *wanted, "{what}");
    }
    let dumpable = nix::sys::prctl::get_dumpable();
    stage.wait();
    for (what, end, wanted) in &ends {
        stage.same(what, *wanted, shown(end));
    }
    stage.same("dumpable", dumpable, nix::sys::prctl::get_dumpable());
    nix::unistd::write(&left, b"!").expect("tell the service");
    let client = UnixStream::connect_addr(&later).map(|mut client| {
        client
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("SO_RCVTIMEO");
        (shown(&client), client.read_exact(&mut [0]).is_ok())
    });
    stage.same(
        "who answers later",
        Ok(((maker.as_raw(), 4567, 4567), true)),
        client.map_err(|e| e.to_string()),
    );
    children.push(maker);
    for (_, end, _) in &mut ends {
        let _ = end.write_all(b"!");
    }
    for child in children {
        stage.same(
            "a child",
            Ok(WaitStatus::Exited(child, 0)),
            waitpid(child, None),
        );
    }
    stage.leave()
}
