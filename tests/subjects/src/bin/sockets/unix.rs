//! Unix sockets: pairs of each type with messages in them, descriptors in flight, a service with clients inside and at
//! the door, a peer that has closed, a direction that is shut, and one end held by a child.
#![forbid(unsafe_code)]

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv,
    recvmsg, send, sendmsg, setsockopt, socketpair, sockopt,
};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::ExitCode;
use std::time::Duration;
use subject::Stage;

fn pair(kind: SockType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, kind, None, SockFlag::empty()).expect("socketpair")
}

fn put(end: &OwnedFd, text: &[u8]) {
    assert_eq!(
        send(end.as_raw_fd(), text, MsgFlags::MSG_DONTWAIT),
        Ok(text.len())
    );
}

fn get(end: &OwnedFd) -> Result<Vec<u8>, nix::Error> {
    let mut text = vec![0; 100_000];
    let len = recv(end.as_raw_fd(), &mut text, MsgFlags::MSG_DONTWAIT)?;
    text.truncate(len);
    Ok(text)
}

/// A stream whose reads do not wait for ever.
fn patient(stream: UnixStream) -> UnixStream {
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("SO_RCVTIMEO");
    stream
}

fn read_all(stream: &mut UnixStream, count: usize) -> Vec<u8> {
    let mut text = vec![0; count];
    match stream.read_exact(&mut text) {
        Ok(()) => text,
        Err(error) => error.to_string().into_bytes(),
    }
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();

    let (records_in, records_out) = pair(SockType::SeqPacket);
    let (letters_in, letters_out) = pair(SockType::Datagram);
    for end in [&records_in, &letters_in] {
        put(end, b"one");
        put(end, &[2; 70_000]);
        put(end, b"three");
    }

    // A pipe whose only reader is on its way through a socket.
    let (flying, mut feeding) = std::io::pipe().expect("pipe");
    feeding.write_all(b"in flight").expect("write");
    let (mut giver, taker) = UnixStream::pair().expect("pair");
    giver.write_all(b"before").expect("write");
    let rights = [flying.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&rights)];
    sendmsg::<()>(
        giver.as_raw_fd(),
        &[IoSlice::new(b"with")],
        &control,
        MsgFlags::empty(),
        None,
    )
    .expect("sendmsg");
    drop(flying);

    let mut name = b"subject\0of ".to_vec();
    name.extend(stage.path("").as_os_str().as_bytes().iter().rev().take(60));
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let service = UnixListener::bind_addr(&address).expect("bind");
    let mut inside = patient(UnixStream::connect_addr(&address).expect("connect"));
    let (served, _) = service.accept().expect("accept");
    let mut served = patient(served);
    inside.write_all(b"request").expect("write");
    let mut at_the_door: Vec<UnixStream> = (0..2)
        .map(|_| patient(UnixStream::connect_addr(&address).expect("connect")))
        .collect();

    let (mut closed, survivor) = UnixStream::pair().expect("pair");
    let mut survivor = patient(survivor);
    closed.write_all(b"last words").expect("write");
    drop(closed);

    let (mut shut, open) = UnixStream::pair().expect("pair");
    let mut open = patient(open);
    shut.write_all(b"end").expect("write");
    shut.shutdown(std::net::Shutdown::Write).expect("shutdown");

    setsockopt(&open, sockopt::PassCred, &true).expect("SO_PASSCRED");
    setsockopt(&open, sockopt::SndBuf, &40_000).expect("SO_SNDBUF");
    let buffer = nix::sys::socket::getsockopt(&open, sockopt::SndBuf).expect("SO_SNDBUF");

    let (mine, mut childs) = UnixStream::pair().expect("pair");
    let mut mine = patient(mine);
    let child = kernel::own::child::fork(move || {
        let mut byte = [0];
        match childs.read_exact(&mut byte) {
            Ok(()) => i32::from(childs.write_all(&[byte[0] + 1]).is_err()),
            Err(_) => 2,
        }
    })
    .expect("fork");

    stage.wait();

    for (what, end) in [("a record", &records_out), ("a letter", &letters_out)] {
        for text in [b"one".to_vec(), vec![2; 70_000], b"three".to_vec()] {
            stage.holds(what, get(end) == Ok(text));
        }
        stage.holds("the end of it", get(end) == Err(nix::Error::EAGAIN));
    }
    put(&records_out, b"back");
    stage.same("an answer", Ok(b"back".to_vec()), get(&records_in));

    let mut taker = patient(taker);
    stage.same(
        "the bytes before",
        b"before".to_vec(),
        read_all(&mut taker, 6),
    );
    stage.same("what flew", Some(b"in flight".to_vec()), landed(&taker));

    stage.same("the request", b"request".to_vec(), read_all(&mut served, 7));
    served.write_all(b"answer").expect("write");
    stage.same("the answer", b"answer".to_vec(), read_all(&mut inside, 6));
    let own = served.local_addr().expect("a name");
    stage.same("the name", Some(&name[..]), own.as_abstract_name());
    for client in &mut at_the_door {
        client.write_all(b"me too").expect("write");
        let (server, _) = service.accept().expect("accept");
        stage.same(
            "who was at the door",
            b"me too".to_vec(),
            read_all(&mut patient(server), 6),
        );
    }
    let fresh = UnixStream::connect_addr(&address);
    stage.holds(
        "that newcomers get in",
        fresh.is_ok() && service.accept().is_ok(),
    );

    let mut text = String::new();
    stage.holds(
        "the end of a closed peer",
        survivor.read_to_string(&mut text).is_ok(),
    );
    stage.same("its last words", "last words", text.as_str());
    text.clear();
    stage.holds(
        "the end of a direction",
        open.read_to_string(&mut text).is_ok(),
    );
    stage.same("what came before it", "end", text.as_str());
    stage.holds("the other direction", open.write_all(b"back").is_ok());
    let mut shut = patient(shut);
    stage.same("what it carries", b"back".to_vec(), read_all(&mut shut, 4));
    stage.same(
        "SO_PASSCRED",
        Ok(true),
        nix::sys::socket::getsockopt(&open, sockopt::PassCred),
    );
    stage.same(
        "SO_SNDBUF",
        Ok(buffer),
        nix::sys::socket::getsockopt(&open, sockopt::SndBuf),
    );

    mine.write_all(&[41]).expect("write to the child");
    stage.same("what the child answers", vec![42], read_all(&mut mine, 1));
    let child = Pid::from_raw(child);
    stage.same(
        "the child's end",
        Ok(WaitStatus::Exited(child, 0)),
        waitpid(child, None),
    );
    drop((giver, feeding));
    stage.leave()
}

/// What is in the pipe that comes with the next bytes.
fn landed(taker: &UnixStream) -> Option<Vec<u8>> {
    let mut text = [0; 16];
    let mut room = nix::cmsg_space!([i32; 4]);
    let mut vector = [IoSliceMut::new(&mut text)];
    let message = recvmsg::<()>(
        taker.as_raw_fd(),
        &mut vector,
        Some(&mut room),
        MsgFlags::empty(),
    )
    .ok()?;
    let rights: Vec<i32> = message
        .cmsgs()
        .ok()?
        .filter_map(|c| {
            if let ControlMessageOwned::ScmRights(fds) = c {
                Some(fds)
            } else {
                None
            }
        })
        .flatten()
        .collect();
    let [flown] = rights[..] else { return None };
    let mut pipe = std::fs::File::open(format!("/proc/self/fd/{flown}")).ok()?;
    let mut text = vec![0; 9];
    pipe.read_exact(&mut text).ok()?;
    Some(text)
}
