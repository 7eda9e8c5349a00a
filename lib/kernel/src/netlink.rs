//! netlink(7) messages as bytes: what the kernel lists is kept as it says it, and told it again. For the tables of which
//! every attribute counts, and not only those that a crate has a name for.

use crate::error::Named;
use crate::{Error, Result};
use netlink_sys::{Socket, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

pub use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_XFRM};

const ERROR: u16 = 2;
const DONE: u16 = 3;
const OVERRUN: u16 = 4;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// `NLM_F_REPLACE`, `NLM_F_EXCL`, `NLM_F_CREATE`, `NLM_F_APPEND`.
pub const REPLACE: u16 = 0x100;
/// Fails where it is there already.
pub const EXCLUSIVE: u16 = 0x200;
/// Makes it where it is not there.
pub const CREATE: u16 = 0x400;
/// After those that are there.
pub const APPEND: u16 = 0x800;
/// `NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`: no part of an attribute's number.
const FLAGS: u16 = 0xc000;
const HEADER: usize = 16;

/// A message without its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `RTM_NEWROUTE` and so on.
    pub kind: u16,
    /// What follows the header.
    pub body: Vec<u8>,
}

/// A socket to the kernel, in the network namespace in which it was opened.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens one.
    pub fn open(protocol: isize) -> Result<Self> {
        let mut socket = Socket::new(protocol).named(|| format!("open netlink {protocol}"))?;
        socket
            .bind_auto()
            .named(|| format!("bind netlink {protocol}"))?;
        // An error comes with words of the kernel's, and without what was asked.
        socket
            .set_ext_ack(true)
            .and_then(|()| socket.set_cap_ack(true))
            .named(|| format!("set up netlink {protocol}"))?;
        Ok(Netlink {
            socket,
            sequence: 0,
        })
    }

    /// All that a table holds.
    pub fn list(&mut self, what: &str, kind: u16, body: &[u8]) -> Result<Vec<Message>> {
        let sequence = self.send(what, kind, DUMP, body)?;
        let mut found = Vec::new();
        loop {
            for (header, message) in self.receive(what)? {
                match message.kind {
                    _ if header.sequence != sequence => {}
                    DONE => return Ok(found),
                    ERROR => verdict(what, &message.body)?,
                    OVERRUN => return Err(Error::errno(what, libc::ENOBUFS)),
                    _ => found.push(message),
                }
            }
        }
    }

    /// Changes something.
    pub fn change(&mut self, what: &str, kind: u16, flags: u16, body: &[u8]) -> Result<()> {
        let sequence = self.send(what, kind, flags | ACK, body)?;
        loop {
            for (header, message) in self.receive(what)? {
                if header.sequence == sequence && message.kind == ERROR {
                    return verdict(what, &message.body);
                }
            }
        }
    }

    /// The one message that answers a question.
    pub fn ask(&mut self, what: &str, kind: u16, body: &[u8]) -> Result<Message> {
        let sequence = self.send(what, kind, 0, body)?;
        loop {
            for (header, message) in self.receive(what)? {
                match message.kind {
                    _ if header.sequence != sequence => {}
                    ERROR => verdict(what, &message.body)?,
                    _ => return Ok(message),
                }
            }
        }
    }

    /// Messages that belong together (`struct nfgenmsg` batches), as they are. The first error, of the message that `name` names
    /// by its number, or nothing once that numbered `last` is acknowledged.
    pub fn batch(&mut self, bytes: &[u8], last: u32, name: impl Fn(u32) -> String) -> Result<()> {
        let what = &name(last);
        // All of it is one message to the socket.
        let room = i32::try_from(bytes.len().saturating_mul(2) + (1 << 16)).unwrap_or(i32::MAX);
        crate::socket::option::set_send_buffer(self.fd(), room)?;
        crate::socket::option::set_receive_buffer(self.fd(), 8 << 20)?;
        self.transmit(what, bytes)?;
        loop {
            for (header, message) in self.receive(what)? {
                if message.kind != ERROR {
                    continue;
                }
                verdict(&name(header.sequence), &message.body)?;
                if header.sequence == last {
                    return Ok(());
                }
            }
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the socket's, which lives as long as the borrow of it.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }

    fn send(&mut self, what: &str, kind: u16, flags: u16, body: &[u8]) -> Result<u32> {
        self.sequence += 1;
        let message = message(kind, REQUEST | flags, self.sequence, body);
        self.transmit(what, &message)?;
        Ok(self.sequence)
    }

    fn transmit(&self, what: &str, bytes: &[u8]) -> Result<()> {
        let kernel = SocketAddr::new(0, 0);
        self.socket
            .send_to(bytes, &kernel, 0)
            .named(|| what.into())
            .map(drop)
    }

    fn receive(&self, what: &str) -> Result<Vec<(Header, Message)>> {
        let (bytes, _) = self.socket.recv_from_full().named(|| what.into())?;
        split(&bytes)
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

/// What of `struct nlmsghdr` counts.
#[derive(Debug, Clone, Copy)]
struct Header {
    sequence: u32,
}

fn split(mut bytes: &[u8]) -> Result<Vec<(Header, Message)>> {
    let mut found = Vec::new();
    while let Some((header, _)) = bytes.split_at_checked(HEADER) {
        let len = word(header, 0).unwrap_or(0) as usize;
        let body = bytes
            .get(HEADER..len)
            .ok_or_else(|| Error::unreadable("netlink", "a message is cut short"))?;
        found.push((
            Header {
                sequence: word(header, 8).unwrap_or(0),
            },
            Message {
                kind: u16::from_ne_bytes([header[4], header[5]]),
                body: body.to_vec(),
            },
        ));
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(found)
}

fn verdict(what: &str, body: &[u8]) -> Result<()> {
    match word(body, 0).map(|errno| errno as i32) {
        Some(0) => Ok(()),
        Some(errno) => {
            let what = match explained(body) {
                Some(words) => format!("{what} ({words})"),
                None => what.into(),
            };
            Err(Error::errno(what, errno.saturating_neg()))
        }
        None => Err(Error::unreadable("netlink", "an error without a number")),
    }
}

/// The kernel's words for an error (`NLMSGERR_ATTR_MSG`), after the number and the header of what was asked.
fn explained(body: &[u8]) -> Option<String> {
    let all = attributes(body.get(4 + HEADER..)?);
    let words = find(&all, 1)?.text();
    (!words.is_empty()).then_some(words)
}

/// A message with its header (`struct nlmsghdr`), padded.
pub fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// An attribute (`struct nlattr`), padded. `kind` with its flags, if any.
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// An attribute that holds others (`NLA_F_NESTED`).
pub fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | 0x8000, &parts.concat())
}

/// An attribute that is a string.
pub fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

/// One attribute found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its number, without flags.
    pub kind: u16,
    /// What it holds.
    pub value: &'a [u8],
    whole: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The attribute as it was found, with header and padding.
    pub fn whole(&self) -> Vec<u8> {
        let mut bytes = self.whole.to_vec();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// A number in the host's order; 0 where it is none.
    pub fn number(&self) -> u32 {
        word(self.value, 0).unwrap_or(0)
    }

    /// A number in network order; 0 where it is none.
    pub fn big(&self) -> u32 {
        u32::from_be(self.number())
    }

    /// A string without its NUL.
    pub fn text(&self) -> String {
        let bytes = self.value.split(|b| *b == 0).next().unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// What is in it, where it holds others.
    pub fn inner(&self) -> Vec<Attribute<'a>> {
        attributes(self.value)
    }
}

/// The attributes in these bytes, up to the first that is none.
pub fn attributes(mut bytes: &[u8]) -> Vec<Attribute<'_>> {
    let mut found = Vec::new();
    while let Some((head, _)) = bytes.split_at_checked(4) {
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let Some(value) = bytes.get(4..len) else {
            break;
        };
        found.push(Attribute {
            kind: u16::from_ne_bytes([head[2], head[3]]) & !FLAGS,
            value,
            whole: &bytes[..len],
        });
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// The attribute of that number.
pub fn find<'a>(all: &[Attribute<'a>], kind: u16) -> Option<Attribute<'a>> {
    all.iter().find(|a| a.kind == kind).copied()
}

/// A number of four bytes in the host's order.
pub fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(four.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_are_written() {
        let bytes = [
            attribute(7, &[1, 2, 3]),
            nested(8, &[text(1, "lo"), attribute(2, &5u32.to_ne_bytes())]),
        ]
        .concat();
        let all = attributes(&bytes);
        assert_eq!((all[0].kind, all[0].value), (7, &[1, 2, 3][..]));
        let inner = all[1].inner();
        assert_eq!((inner[0].text(), inner[1].number()), ("lo".into(), 5));
        assert_eq!([all[0].whole(), all[1].whole()].concat(), bytes);
        assert_eq!(attributes(&bytes[..6]), []);
        assert_eq!(attributes(&[2, 0, 1, 0, 9, 9, 9, 9]), []);
    }

    #[test]
    fn a_message_cut_short_is_an_error() {
        let whole = message(16, 0, 3, &[1, 2, 3, 4, 5]);
        assert_eq!(split(&whole).unwrap()[0].1.body, [1, 2, 3, 4, 5]);
        assert!(split(&whole[..20]).is_err());
    }

    #[test]
    fn the_live_kernel_lists_its_links() {
        let mut netlink = Netlink::open(NETLINK_ROUTE).unwrap();
        let links = netlink.list("list links", 18, &[0; 16]).unwrap();
        assert!(links.iter().any(|link| {
            find(&attributes(&link.body[16..]), 3).is_some_and(|name| name.text() == "lo")
        }));
    }
}
