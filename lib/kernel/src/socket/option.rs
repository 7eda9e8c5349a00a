//! The options that a socket can be asked for and told again: one table, read from the kernel's headers (include/uapi:
//! asm-generic/socket.h, linux/in.h, in6.h, tcp.h, udp.h, netlink.h, if_packet.h, icmp.h, icmpv6.h).

use super::{number, option, set_number, set_option};
use crate::Result;
use Shape::{Bytes, Interface, InterfaceBig, Number, Text};
use When::{Early, Late};
use std::os::fd::BorrowedFd;

/// One option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The kernel's name.
    pub name: &'static str,
    level: i32,
    number: i32,
    shape: Shape,
    /// When it may be set again.
    pub when: When,
}

/// What an option's value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// An `int`.
    Number,
    /// A struct, or bytes of any number up to this.
    Bytes(usize),
    /// A string that ends at a NUL.
    Text(usize),
    /// The index of an interface, which is another one elsewhere: its name stands for it.
    Interface,
    /// The same in network byte order.
    InterfaceBig,
}

/// When an option is set on a socket being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// Before the socket gets its address.
    Early,
    /// When its queue is filled: the option would change what is done until then.
    Late,
}

/// The value of an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// An `int`.
    Number(i32),
    /// Anything else.
    Bytes(Vec<u8>),
    /// An interface by its index, 0 for none.
    Interface(u32),
}

const fn known(name: &'static str, level: i32, number: i32, shape: Shape, when: When) -> Known {
    Known {
        name,
        level,
        number,
        shape,
        when,
    }
}

/// Every option there is to read and set, in the order in which they are set. Not here: what only reads (`SO_ERROR`,
/// `SO_COOKIE`), what moves by itself (`TCP_QUICKACK`), and buffers, filters and memberships, which have their own way.
#[rustfmt::skip]
pub const KNOWN: &[Known] = &[
    known("SO_DEBUG", libc::SOL_SOCKET, 1, Number, Early),
    known("SO_REUSEADDR", libc::SOL_SOCKET, 2, Number, Early),
    known("SO_REUSEPORT", libc::SOL_SOCKET, 15, Number, Early),
    known("SO_DONTROUTE", libc::SOL_SOCKET, 5, Number, Early),
    known("SO_BROADCAST", libc::SOL_SOCKET, 6, Number, Early),
    known("SO_KEEPALIVE", libc::SOL_SOCKET, 9, Number, Early),
    known("SO_OOBINLINE", libc::SOL_SOCKET, 10, Number, Early),
    known("SO_NO_CHECK", libc::SOL_SOCKET, 11, Number, Early),
    known("SO_LINGER", libc::SOL_SOCKET, 13, Bytes(8), Early),
    known("SO_PASSCRED", libc::SOL_SOCKET, 16, Number, Late),
    known("SO_RCVLOWAT", libc::SOL_SOCKET, 18, Number, Late),
    known("SO_RCVTIMEO", libc::SOL_SOCKET, 20, Bytes(16), Early),
    known("SO_SNDTIMEO", libc::SOL_SOCKET, 21, Bytes(16), Early),
    known("SO_BINDTODEVICE", libc::SOL_SOCKET, 25, Text(16), Early),
    known("SO_TIMESTAMP", libc::SOL_SOCKET, 29, Number, Early),
    known("SO_PASSSEC", libc::SOL_SOCKET, 34, Number, Late),
    known("SO_TIMESTAMPNS", libc::SOL_SOCKET, 35, Number, Early),
    known("SO_MARK", libc::SOL_SOCKET, 36, Number, Early),
    known("SO_TIMESTAMPING", libc::SOL_SOCKET, 37, Number, Early),
    known("SO_RXQ_OVFL", libc::SOL_SOCKET, 40, Number, Early),
    known("SO_WIFI_STATUS", libc::SOL_SOCKET, 41, Number, Early),
    known("SO_PEEK_OFF", libc::SOL_SOCKET, 42, Number, Late),
    known("SO_NOFCS", libc::SOL_SOCKET, 43, Number, Early),
    known("SO_SELECT_ERR_QUEUE", libc::SOL_SOCKET, 45, Number, Early),
    known("SO_BUSY_POLL", libc::SOL_SOCKET, 46, Number, Early),
    known("SO_MAX_PACING_RATE", libc::SOL_SOCKET, 47, Bytes(8), Early),
    known("SO_INCOMING_CPU", libc::SOL_SOCKET, 49, Number, Late),
    known("SO_ZEROCOPY", libc::SOL_SOCKET, 60, Number, Early),
    known("SO_TXTIME", libc::SOL_SOCKET, 61, Bytes(8), Early),
    known("SO_TIMESTAMP_NEW", libc::SOL_SOCKET, 63, Number, Early),
    known("SO_TIMESTAMPNS_NEW", libc::SOL_SOCKET, 64, Number, Early),
    known("SO_TIMESTAMPING_NEW", libc::SOL_SOCKET, 65, Number, Early),
    known("SO_PREFER_BUSY_POLL", libc::SOL_SOCKET, 69, Number, Early),
    known("SO_BUSY_POLL_BUDGET", libc::SOL_SOCKET, 70, Number, Early),
    known("SO_RESERVE_MEM", libc::SOL_SOCKET, 73, Number, Late),
    known("SO_TXREHASH", libc::SOL_SOCKET, 74, Number, Early),
    known("SO_RCVMARK", libc::SOL_SOCKET, 75, Number, Early),
    known("SO_RCVPRIORITY", libc::SOL_SOCKET, 82, Number, Early),
    known("SO_PASSPIDFD", libc::SOL_SOCKET, 76, Number, Late),
    known("SO_PASSRIGHTS", libc::SOL_SOCKET, 83, Number, Late),
    known("SO_INQ", libc::SOL_SOCKET, 84, Number, Late),
    known("SO_LOCK_FILTER", libc::SOL_SOCKET, 44, Number, Late),
    known("IP_TOS", libc::IPPROTO_IP, 1, Number, Early),
    // Which the one before it sets, too (net/ipv4/ip_sockglue.c, ip_sock_set_tos).
    known("SO_PRIORITY", libc::SOL_SOCKET, 12, Number, Early),
    known("IP_TTL", libc::IPPROTO_IP, 2, Number, Early),
    known("IP_HDRINCL", libc::IPPROTO_IP, 3, Number, Early),
    known("IP_OPTIONS", libc::IPPROTO_IP, 4, Bytes(40), Early),
    known("IP_ROUTER_ALERT", libc::IPPROTO_IP, 5, Number, Early),
    known("IP_RECVOPTS", libc::IPPROTO_IP, 6, Number, Early),
    known("IP_RETOPTS", libc::IPPROTO_IP, 7, Number, Early),
    known("IP_PKTINFO", libc::IPPROTO_IP, 8, Number, Early),
    known("IP_MTU_DISCOVER", libc::IPPROTO_IP, 10, Number, Early),
    known("IP_RECVERR", libc::IPPROTO_IP, 11, Number, Early),
    known("IP_RECVTTL", libc::IPPROTO_IP, 12, Number, Early),
    known("IP_RECVTOS", libc::IPPROTO_IP, 13, Number, Early),
    known("IP_FREEBIND", libc::IPPROTO_IP, 15, Number, Early),
    known("IP_PASSSEC", libc::IPPROTO_IP, 18, Number, Early),
    known("IP_TRANSPARENT", libc::IPPROTO_IP, 19, Number, Early),
    known("IP_RECVORIGDSTADDR", libc::IPPROTO_IP, 20, Number, Early),
    known("IP_MINTTL", libc::IPPROTO_IP, 21, Number, Early),
    known("IP_NODEFRAG", libc::IPPROTO_IP, 22, Number, Early),
    known("IP_CHECKSUM", libc::IPPROTO_IP, 23, Number, Early),
    known("IP_BIND_ADDRESS_NO_PORT", libc::IPPROTO_IP, 24, Number, Early),
    known("IP_RECVFRAGSIZE", libc::IPPROTO_IP, 25, Number, Early),
    known("IP_RECVERR_RFC4884", libc::IPPROTO_IP, 26, Number, Early),
    known("IP_MULTICAST_IF", libc::IPPROTO_IP, 32, Bytes(4), Early),
    known("IP_MULTICAST_TTL", libc::IPPROTO_IP, 33, Number, Early),
    known("IP_MULTICAST_LOOP", libc::IPPROTO_IP, 34, Number, Early),
    known("IP_MULTICAST_ALL", libc::IPPROTO_IP, 49, Number, Early),
    known("IP_UNICAST_IF", libc::IPPROTO_IP, 50, InterfaceBig, Early),
    known("IP_LOCAL_PORT_RANGE", libc::IPPROTO_IP, 51, Number, Early),
    known("IPV6_V6ONLY", libc::IPPROTO_IPV6, 26, Number, Early),
    known("IPV6_2292PKTINFO", libc::IPPROTO_IPV6, 2, Number, Early),
    known("IPV6_2292HOPOPTS", libc::IPPROTO_IPV6, 3, Number, Early),
    known("IPV6_2292DSTOPTS", libc::IPPROTO_IPV6, 4, Number, Early),
    known("IPV6_2292RTHDR", libc::IPPROTO_IPV6, 5, Number, Early),
    known("IPV6_2292HOPLIMIT", libc::IPPROTO_IPV6, 8, Number, Early),
    known("IPV6_CHECKSUM", 255, 7, Number, Early),
    known("IPV6_FLOWINFO", libc::IPPROTO_IPV6, 11, Number, Early),
    known("IPV6_UNICAST_HOPS", libc::IPPROTO_IPV6, 16, Number, Early),
    known("IPV6_MULTICAST_IF", libc::IPPROTO_IPV6, 17, Interface, Early),
    known("IPV6_MULTICAST_HOPS", libc::IPPROTO_IPV6, 18, Number, Early),
    known("IPV6_MULTICAST_LOOP", libc::IPPROTO_IPV6, 19, Number, Early),
    known("IPV6_MTU_DISCOVER", libc::IPPROTO_IPV6, 23, Number, Early),
    known("IPV6_RECVERR", libc::IPPROTO_IPV6, 25, Number, Early),
    known("IPV6_MULTICAST_ALL", libc::IPPROTO_IPV6, 29, Number, Early),
    known("IPV6_ROUTER_ALERT_ISOLATE", libc::IPPROTO_IPV6, 30, Number, Early),
    known("IPV6_RECVERR_RFC4884", libc::IPPROTO_IPV6, 31, Number, Early),
    known("IPV6_FLOWINFO_SEND", libc::IPPROTO_IPV6, 33, Number, Early),
    known("IPV6_HDRINCL", libc::IPPROTO_IPV6, 36, Number, Early),
    known("IPV6_RECVPKTINFO", libc::IPPROTO_IPV6, 49, Number, Early),
    known("IPV6_RECVHOPLIMIT", libc::IPPROTO_IPV6, 51, Number, Early),
    known("IPV6_RECVHOPOPTS", libc::IPPROTO_IPV6, 53, Number, Early),
    known("IPV6_HOPOPTS", libc::IPPROTO_IPV6, 54, Bytes(2040), Early),
    known("IPV6_RTHDRDSTOPTS", libc::IPPROTO_IPV6, 55, Bytes(2040), Early),
    known("IPV6_RECVRTHDR", libc::IPPROTO_IPV6, 56, Number, Early),
    known("IPV6_RTHDR", libc::IPPROTO_IPV6, 57, Bytes(2040), Early),
    known("IPV6_RECVDSTOPTS", libc::IPPROTO_IPV6, 58, Number, Early),
    known("IPV6_DSTOPTS", libc::IPPROTO_IPV6, 59, Bytes(2040), Early),
    known("IPV6_RECVPATHMTU", libc::IPPROTO_IPV6, 60, Number, Early),
    known("IPV6_DONTFRAG", libc::IPPROTO_IPV6, 62, Number, Early),
    known("IPV6_RECVTCLASS", libc::IPPROTO_IPV6, 66, Number, Early),
    known("IPV6_TCLASS", libc::IPPROTO_IPV6, 67, Number, Early),
    known("IPV6_AUTOFLOWLABEL", libc::IPPROTO_IPV6, 70, Number, Early),
    known("IPV6_ADDR_PREFERENCES", libc::IPPROTO_IPV6, 72, Number, Early),
    known("IPV6_MINHOPCOUNT", libc::IPPROTO_IPV6, 73, Number, Early),
    known("IPV6_RECVORIGDSTADDR", libc::IPPROTO_IPV6, 74, Number, Early),
    known("IPV6_TRANSPARENT", libc::IPPROTO_IPV6, 75, Number, Early),
    known("IPV6_UNICAST_IF", libc::IPPROTO_IPV6, 76, InterfaceBig, Early),
    known("IPV6_RECVFRAGSIZE", libc::IPPROTO_IPV6, 77, Number, Early),
    known("IPV6_FREEBIND", libc::IPPROTO_IPV6, 78, Number, Early),
    known("TCP_NODELAY", libc::IPPROTO_TCP, 1, Number, Early),
    known("TCP_MAXSEG", libc::IPPROTO_TCP, 2, Number, Early),
    known("TCP_KEEPIDLE", libc::IPPROTO_TCP, 4, Number, Early),
    known("TCP_KEEPINTVL", libc::IPPROTO_TCP, 5, Number, Early),
    known("TCP_KEEPCNT", libc::IPPROTO_TCP, 6, Number, Early),
    known("TCP_SYNCNT", libc::IPPROTO_TCP, 7, Number, Early),
    known("TCP_LINGER2", libc::IPPROTO_TCP, 8, Number, Early),
    known("TCP_DEFER_ACCEPT", libc::IPPROTO_TCP, 9, Number, Early),
    known("TCP_WINDOW_CLAMP", libc::IPPROTO_TCP, 10, Number, Early),
    known("TCP_CONGESTION", libc::IPPROTO_TCP, 13, Text(16), Early),
    known("TCP_THIN_LINEAR_TIMEOUTS", libc::IPPROTO_TCP, 16, Number, Early),
    known("TCP_USER_TIMEOUT", libc::IPPROTO_TCP, 18, Number, Early),
    known("TCP_FASTOPEN", libc::IPPROTO_TCP, 23, Number, Early),
    known("TCP_NOTSENT_LOWAT", libc::IPPROTO_TCP, 25, Number, Early),
    known("TCP_SAVE_SYN", libc::IPPROTO_TCP, 27, Number, Early),
    known("TCP_FASTOPEN_CONNECT", libc::IPPROTO_TCP, 30, Number, Early),
    known("TCP_FASTOPEN_NO_COOKIE", libc::IPPROTO_TCP, 34, Number, Early),
    known("TCP_INQ", libc::IPPROTO_TCP, 36, Number, Early),
    known("TCP_TX_DELAY", libc::IPPROTO_TCP, 37, Number, Early),
    known("TCP_RTO_MAX_MS", libc::IPPROTO_TCP, 44, Number, Early),
    known("TCP_RTO_MIN_US", libc::IPPROTO_TCP, 45, Number, Early),
    known("TCP_DELACK_MAX_US", libc::IPPROTO_TCP, 46, Number, Early),
    // Read by sock_diag alone.
    known("TCP_MD5SIG_EXT", libc::IPPROTO_TCP, 32, Bytes(216), Late),
    known("TCP_CORK", libc::IPPROTO_TCP, 3, Number, Late),
    known("UDP_CORK", libc::IPPROTO_UDP, 1, Number, Late),
    known("UDP_ENCAP", libc::IPPROTO_UDP, 100, Number, Early),
    known("UDP_NO_CHECK6_TX", libc::IPPROTO_UDP, 101, Number, Early),
    known("UDP_NO_CHECK6_RX", libc::IPPROTO_UDP, 102, Number, Early),
    known("UDP_SEGMENT", libc::IPPROTO_UDP, 103, Number, Early),
    known("UDP_GRO", libc::IPPROTO_UDP, 104, Number, Late),
    known("UDPLITE_SEND_CSCOV", 136, 10, Number, Early),
    known("UDPLITE_RECV_CSCOV", 136, 11, Number, Early),
    known("NETLINK_PKTINFO", libc::SOL_NETLINK, 3, Number, Early),
    known("NETLINK_BROADCAST_ERROR", libc::SOL_NETLINK, 4, Number, Early),
    known("NETLINK_NO_ENOBUFS", libc::SOL_NETLINK, 5, Number, Early),
    known("NETLINK_LISTEN_ALL_NSID", libc::SOL_NETLINK, 8, Number, Early),
    known("NETLINK_CAP_ACK", libc::SOL_NETLINK, 10, Number, Early),
    known("NETLINK_EXT_ACK", libc::SOL_NETLINK, 11, Number, Early),
    known("NETLINK_GET_STRICT_CHK", libc::SOL_NETLINK, 12, Number, Early),
    known("PACKET_AUXDATA", libc::SOL_PACKET, 8, Number, Early),
    known("PACKET_ORIGDEV", libc::SOL_PACKET, 9, Number, Early),
    known("PACKET_VERSION", libc::SOL_PACKET, 10, Number, Early),
    known("PACKET_COPY_THRESH", libc::SOL_PACKET, 7, Number, Early),
    known("PACKET_RESERVE", libc::SOL_PACKET, 12, Number, Early),
    known("PACKET_LOSS", libc::SOL_PACKET, 14, Number, Early),
    known("PACKET_VNET_HDR", libc::SOL_PACKET, 15, Number, Early),
    known("PACKET_TIMESTAMP", libc::SOL_PACKET, 17, Number, Early),
    known("PACKET_TX_HAS_OFF", libc::SOL_PACKET, 19, Number, Early),
    known("PACKET_QDISC_BYPASS", libc::SOL_PACKET, 20, Number, Early),
    known("PACKET_IGNORE_OUTGOING", libc::SOL_PACKET, 23, Number, Early),
    known("PACKET_VNET_HDR_SZ", libc::SOL_PACKET, 24, Number, Early),
    known("ICMP_FILTER", 255, 1, Bytes(4), Early),
    known("ICMPV6_FILTER", 58, 1, Bytes(32), Early),
];

const SO_SNDBUFFORCE: i32 = 32;
const SO_RCVBUFFORCE: i32 = 33;
const SO_BUF_LOCK: i32 = 72;
const SNDBUF_LOCK: i32 = 1;
const RCVBUF_LOCK: i32 = 2;

impl Known {
    /// Its value; `None` where this kind of socket, or this kernel, has no such option.
    pub fn read(&self, fd: BorrowedFd) -> Option<Value> {
        match self.shape {
            Number => number(fd, self.level, self.number).ok().map(Value::Number),
            Interface => {
                let index = number(fd, self.level, self.number).ok()?;
                Some(Value::Interface(index as u32))
            }
            InterfaceBig => {
                let index = number(fd, self.level, self.number).ok()?;
                Some(Value::Interface(u32::from_be(index as u32)))
            }
            Bytes(room) => option(fd, self.level, self.number, room)
                .ok()
                .map(Value::Bytes),
            Text(room) => {
                let mut text = option(fd, self.level, self.number, room).ok()?;
                let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
                text.truncate(end);
                Some(Value::Bytes(text))
            }
        }
    }

    /// Sets it. What holds already needs no right to set.
    pub fn set(&self, fd: BorrowedFd, value: &Value) -> Result<()> {
        let set = match value {
            Value::Number(n) => set_number(fd, self.level, self.number, *n),
            Value::Interface(index) => {
                let index = match self.shape {
                    InterfaceBig => index.to_be(),
                    _ => *index,
                };
                set_number(fd, self.level, self.number, index as i32)
            }
            Value::Bytes(bytes) => set_option(fd, self.level, self.number, bytes),
        };
        match set {
            Err(_) if self.read(fd).as_ref() == Some(value) => Ok(()),
            other => other,
        }
    }
}

/// The option of that name.
pub fn find(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name == name)
}

/// Sizes of the send and receive buffers, where they were set by hand and do not grow by themselves (`SO_BUF_LOCK`).
pub fn buffers(fd: BorrowedFd) -> Result<(Option<i32>, Option<i32>)> {
    let locked = number(fd, libc::SOL_SOCKET, SO_BUF_LOCK).unwrap_or(SNDBUF_LOCK | RCVBUF_LOCK);
    let size = |bit: i32, name: i32| {
        (locked & bit != 0)
            .then(|| number(fd, libc::SOL_SOCKET, name))
            .transpose()
    };
    Ok((
        size(SNDBUF_LOCK, libc::SO_SNDBUF)?,
        size(RCVBUF_LOCK, libc::SO_RCVBUF)?,
    ))
}

/// Sets the size of the send buffer to what `SO_SNDBUF` said, which is twice what it is told (socket(7)).
pub fn set_send_buffer(fd: BorrowedFd, size: i32) -> Result<()> {
    set_number(fd, libc::SOL_SOCKET, SO_SNDBUFFORCE, size / 2)
}

/// Sets the size of the receive buffer to what `SO_RCVBUF` said.
pub fn set_receive_buffer(fd: BorrowedFd, size: i32) -> Result<()> {
    set_number(fd, libc::SOL_SOCKET, SO_RCVBUFFORCE, size / 2)
}

/// Lets the buffers grow by themselves again, or not (`SO_BUF_LOCK`).
pub fn lock_buffers(fd: BorrowedFd, send: bool, receive: bool) -> Result<()> {
    let bits = if send { SNDBUF_LOCK } else { 0 } | if receive { RCVBUF_LOCK } else { 0 };
    set_number(fd, libc::SOL_SOCKET, SO_BUF_LOCK, bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::create;
    use std::os::fd::AsFd;

    #[test]
    fn every_option_has_one_name_and_one_number() {
        for (i, known) in KNOWN.iter().enumerate() {
            for other in &KNOWN[i + 1..] {
                assert_ne!(known.name, other.name);
                assert_ne!(
                    (known.level, known.number),
                    (other.level, other.number),
                    "{}",
                    known.name
                );
            }
        }
    }

    #[test]
    fn what_was_read_can_be_set_again() {
        let kinds = [
            (libc::AF_INET, libc::SOCK_STREAM, 0),
            (libc::AF_INET6, libc::SOCK_STREAM, 0),
            (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP),
            (libc::AF_INET, libc::SOCK_DGRAM, 0),
            (libc::AF_INET6, libc::SOCK_DGRAM, 0),
            (libc::AF_INET, libc::SOCK_RAW, 1),
            (libc::AF_UNIX, libc::SOCK_DGRAM, 0),
            (libc::AF_NETLINK, libc::SOCK_RAW, 0),
        ];
        for (family, kind, protocol) in kinds {
            let (one, two) = (
                create(family, kind, protocol).unwrap(),
                create(family, kind, protocol).unwrap(),
            );
            let mut read = 0;
            for known in KNOWN {
                let Some(value) = known.read(one.as_fd()) else {
                    continue;
                };
                read += 1;
                known.set(two.as_fd(), &value).unwrap();
                assert_eq!(known.read(two.as_fd()), Some(value), "{}", known.name);
            }
            assert!(read > 20, "{family}: {read}");
        }
    }

    #[test]
    fn buffers_are_only_told_where_they_were_set() {
        let socket = create(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap();
        assert_eq!(buffers(socket.as_fd()).unwrap(), (None, None));
        set_receive_buffer(socket.as_fd(), 50_000).unwrap();
        assert_eq!(buffers(socket.as_fd()).unwrap(), (None, Some(50_000)));
    }
}
