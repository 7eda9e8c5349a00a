//! Interest lists: level and edge triggered, one shot, a number closed and used again, a list within a list, a signal
//! descriptor.
#![forbid(unsafe_code)]

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::process::ExitCode;
use subject::Stage;

fn ready(list: &Epoll) -> Vec<(u64, EpollFlags)> {
    let mut events = [EpollEvent::empty(); 16];
    let count = list
        .wait(&mut events, EpollTimeout::ZERO)
        .expect("epoll_wait");
    let mut found: Vec<_> = events[..count]
        .iter()
        .map(|e| (e.data(), e.events()))
        .collect();
    found.sort_by_key(|(data, _)| *data);
    found
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let list = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll");
    let outer = Epoll::new(EpollCreateFlags::empty()).expect("epoll");
    let watch = |what: &dyn AsFd, flags: EpollFlags, data: u64| {
        list.add(what.as_fd(), EpollEvent::new(flags, data))
            .expect("watch");
    };
    let count = EventFd::from_value(0).expect("eventfd");
    watch(&count, EpollFlags::EPOLLIN, u64::MAX - 1);
    let (read, write) = nix::unistd::pipe().expect("pipe");
    watch(&read, EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 2);
    let once = EventFd::from_value(0).expect("eventfd");
    watch(&once, EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, 3);
    // Has had its one shot: it hears of nothing any more, a hang-up neither.
    let (fired, partner) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
    let hang_up = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLONESHOT;
    watch(&fired, hang_up, 8);
    (&partner).write_all(b"x").expect("write");
    let shot = vec![(8, EpollFlags::EPOLLIN)];
    stage.same("the shot before", shot, ready(&list));
    // Watched under a number that is another file's by now.
    let kept = EventFd::from_value(0).expect("eventfd");
    let twin = kept.as_fd().try_clone_to_owned().expect("dup");
    let number = twin.as_raw_fd();
    watch(&twin, EpollFlags::EPOLLIN, 4);
    drop(twin);
    let taken = std::fs::File::open("/dev/null").expect("open");
    let mut set = SigSet::empty();
    set.add(Signal::SIGUSR1);
    set.thread_block().expect("block a signal");
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK).expect("signalfd");
    watch(&signals, EpollFlags::EPOLLIN, 5);
    outer
        .add(list.0.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, 6))
        .expect("watch the list");

    stage.wait();

    let input = EpollFlags::EPOLLIN;
    stage.same("the number taken again", number, taken.as_raw_fd());
    stage.same("nothing is ready", Vec::new(), ready(&list));
    drop(partner);
    stage.same("nor after its one shot", Vec::new(), ready(&list));
    let mut again = EpollEvent::new(hang_up, 9);
    list.modify(&fired, &mut again).expect("arm it again");
    let shot = vec![(
        9,
        EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP,
    )];
    stage.same("armed again", shot, ready(&list));
    stage.same("nor in the outer list", Vec::new(), ready(&outer));
    count.write(1).expect("write");
    stage.same("the counter", vec![(u64::MAX - 1, input)], ready(&list));
    stage.same("the outer list", vec![(6, input)], ready(&outer));
    stage.same(
        "the counter, still",
        vec![(u64::MAX - 1, input)],
        ready(&list),
    );
    count.read().expect("read");
    nix::unistd::write(&write, b"x").expect("write");
    stage.same("the edge", vec![(2, input)], ready(&list));
    stage.same("no edge again", Vec::new(), ready(&list));
    once.write(1).expect("write");
    stage.same("the one shot", vec![(3, input)], ready(&list));
    stage.same("once only", Vec::new(), ready(&list));
    kept.write(1).expect("write");
    stage.same(
        "the one whose number is another's",
        vec![(4, input)],
        ready(&list),
    );
    kept.read().expect("read");
    raise(Signal::SIGUSR1).expect("raise");
    stage.same("the signal", vec![(5, input)], ready(&list));
    let signal = signals
        .read_signal()
        .expect("read a signal")
        .map(|s| s.ssi_signo);
    stage.same("which signal", Some(Signal::SIGUSR1 as u32), signal);
    stage.same("the number cannot be watched twice", true, {
        let again = EpollEvent::new(input, 7);
        list.add(count.as_fd(), again).is_err()
    });
    stage.leave()
}
