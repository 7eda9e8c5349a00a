//! A netlink socket: its port, its groups, and the kernel's answer to a question asked afterwards.
#![forbid(unsafe_code)]

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname,
    recv, sendto, socket,
};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use subject::Stage;

/// `RTMGRP_NEIGH`: nothing happens there while nobody speaks.
const GROUP: u32 = 4;

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let route = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::empty(),
        SockProtocol::NetlinkRoute,
    )
    .expect("a netlink socket");
    bind(route.as_raw_fd(), &NetlinkAddr::new(0, GROUP)).expect("bind");
    let name = |fd: i32| {
        let own: NetlinkAddr = getsockname(fd).expect("a name");
        (own.pid(), own.groups())
    };
    let before = name(route.as_raw_fd());

    stage.wait();

    stage.same("port and groups", before, name(route.as_raw_fd()));
    // struct nlmsghdr: RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP; struct ifinfomsg.
    let mut question = vec![32, 0, 0, 0, 18, 0, 1, 3];
    question.resize(32, 0);
    sendto(
        route.as_raw_fd(),
        &question,
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )
    .expect("ask");
    let mut answer = vec![0; 32_768];
    let answered = recv(route.as_raw_fd(), &mut answer, MsgFlags::empty());
    stage.holds(
        "an answer",
        answered.is_ok_and(|len| len > 32) && answer[4] == 16,
    );
    stage.leave()
}
