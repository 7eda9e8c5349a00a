//! Network links that end in a descriptor instead of a wire: Documentation/networking/tuntap.rst, drivers/net/tun.c.

use crate::Result;
use crate::error::check;
use std::os::fd::{AsRawFd, BorrowedFd};

const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const TUNSETPERSIST: libc::Ioctl = 0x4004_54cb;
const TUNSETOWNER: libc::Ioctl = 0x4004_54cc;
const TUNSETGROUP: libc::Ioctl = 0x4004_54ce;
const TUNGETIFF: libc::Ioctl = 0x8004_54d2;
const TUNGETSNDBUF: libc::Ioctl = 0x8004_54d3;
const TUNSETSNDBUF: libc::Ioctl = 0x4004_54d4;
const TUNGETVNETHDRSZ: libc::Ioctl = 0x8004_54d7;
const TUNSETVNETHDRSZ: libc::Ioctl = 0x4004_54d8;
const TUNSETIFINDEX: libc::Ioctl = 0x4004_54da;

/// `IFF_TUN`: packets of IP.
pub const TUN: u16 = 1;
/// `IFF_TAP`: frames of Ethernet.
pub const TAP: u16 = 2;
/// `IFF_MULTI_QUEUE`: several descriptors share the work.
pub const MULTI_QUEUE: u16 = 0x100;
/// `IFF_PERSIST`: it stays when no descriptor is left.
pub const PERSIST: u16 = 0x800;
/// `IFF_NO_PI`: without four bytes about each packet.
pub const NO_PI: u16 = 0x1000;
/// `IFF_VNET_HDR`: with a header about checksums and segments.
pub const VNET_HDR: u16 = 0x4000;
/// What `TUNSETIFF` takes: these, and `IFF_NAPI`, `IFF_NAPI_FRAGS`.
const SETTABLE: u16 = TUN | TAP | MULTI_QUEUE | NO_PI | VNET_HDR | 0x30;
const NAME: usize = 16;
/// `struct ifreq`.
const REQUEST: usize = 40;

/// What a descriptor of `/dev/net/tun` is attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The link's name.
    pub name: String,
    /// [`TUN`] and so on.
    pub flags: u16,
    /// Bytes of the header of [`VNET_HDR`].
    pub header: i32,
    /// Bytes that may wait to be sent.
    pub room: i32,
}

fn ioctl<T>(fd: BorrowedFd, request: libc::Ioctl, argument: &mut T, what: &str) -> Result<()> {
    // SAFETY: each request that comes here reads and writes no more than the type it is called with: an int, or a
    // struct ifreq of 40 bytes.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(argument)) };
    check(result.into(), || what.into()).map(drop)
}

fn word(fd: BorrowedFd, request: libc::Ioctl, what: &str) -> Result<i32> {
    let mut value: libc::c_int = 0;
    ioctl(fd, request, &mut value, what)?;
    Ok(value)
}

fn set_value(fd: BorrowedFd, request: libc::Ioctl, value: libc::c_ulong, what: &str) -> Result<()> {
    // SAFETY: these requests take their argument by value.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, value) };
    check(result.into(), || what.into()).map(drop)
}

/// What the descriptor is attached to; nothing yet where that is `None`.
pub fn attached(fd: BorrowedFd) -> Result<Option<Attached>> {
    let mut request = [0u8; REQUEST];
    match ioctl(fd, TUNGETIFF, &mut request, "ask for the link of a tun") {
        Err(e) if e.raw() == Some(libc::EBADFD) => return Ok(None),
        other => other?,
    }
    let name = request[..NAME]
        .split(|b| *b == 0)
        .next()
        .unwrap_or_default();
    Ok(Some(Attached {
        name: String::from_utf8_lossy(name).into_owned(),
        flags: u16::from_ne_bytes([request[16], request[17]]),
        header: word(fd, TUNGETVNETHDRSZ, "ask for the header of a tun")?,
        room: word(fd, TUNGETSNDBUF, "ask for the buffer of a tun")?,
    }))
}

/// Attaches a fresh descriptor to a link of its network, which is made where it is not there. `index` is asked for, 0 is any.
pub fn attach(fd: BorrowedFd, name: &str, flags: u16, index: u32) -> Result<()> {
    let what = format!("make or join the link {name} by tun");
    if index != 0 {
        let mut wanted = index as libc::c_int;
        ioctl(fd, TUNSETIFINDEX, &mut wanted, &what)?;
    }
    let mut request = [0u8; REQUEST];
    let len = name.len().min(NAME - 1);
    request[..len].copy_from_slice(&name.as_bytes()[..len]);
    request[16..18].copy_from_slice(&(flags & SETTABLE).to_ne_bytes());
    ioctl(fd, TUNSETIFF, &mut request, &what)
}

/// Sets header and buffer of an attached descriptor.
pub fn settle(fd: BorrowedFd, attached: &Attached) -> Result<()> {
    let (mut header, mut room) = (attached.header, attached.room);
    ioctl(fd, TUNSETVNETHDRSZ, &mut header, "set the header of a tun")?;
    ioctl(fd, TUNSETSNDBUF, &mut room, "set the buffer of a tun")
}

/// Whether the link stays when no descriptor is left.
pub fn persist(fd: BorrowedFd, stays: bool) -> Result<()> {
    set_value(fd, TUNSETPERSIST, stays.into(), "let a tun stay")
}

/// Who may attach to it, where not everybody may.
pub fn owned_by(fd: BorrowedFd, user: Option<u32>, group: Option<u32>) -> Result<()> {
    if let Some(user) = user {
        set_value(fd, TUNSETOWNER, user.into(), "set the owner of a tun")?;
    }
    if let Some(group) = group {
        set_value(fd, TUNSETGROUP, group.into(), "set the group of a tun")?;
    }
    Ok(())
}

/// What a link says of itself (`IFLA_TUN_*`): owner, group and flags.
pub fn settings(of_link: &[u8]) -> (Option<u32>, Option<u32>, u16) {
    let all = crate::netlink::attributes(of_link);
    let number = |kind| crate::netlink::find(&all, kind).map(|a| a.number());
    let byte = |kind| {
        let found = crate::netlink::find(&all, kind);
        found.and_then(|a| a.value.first().copied()).unwrap_or(0)
    };
    let bit = |on: bool, flag: u16| if on { flag } else { 0 };
    let flags = u16::from(byte(3))
        | bit(byte(4) == 0, NO_PI)
        | bit(byte(5) != 0, VNET_HDR)
        | bit(byte(7) != 0, MULTI_QUEUE);
    (number(1), number(2), flags)
}
