//! `/proc/PID/net/netlink`: what waits in netlink sockets (net/netlink/af_netlink.c, `netlink_native_seq_show`).

use super::Proc;
use crate::{Error, Result};
use std::collections::HashMap;

/// One netlink socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Netlink {
    /// Bytes of memory that unread messages take.
    pub unread: u64,
    /// The kernel is in the middle of a long answer (`NLM_F_DUMP`).
    pub answering: bool,
}

/// The sockets of a process's network namespace, by inode.
pub fn read(proc: &Proc) -> Result<HashMap<u64, Netlink>> {
    parse(&proc.text("net/netlink")?)
}

/// Columns: address, protocol, port, groups, unread, unsent, answering, references, dropped, inode.
pub fn parse(text: &str) -> Result<HashMap<u64, Netlink>> {
    let entry = |line: &str| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let number = |at: usize| columns.get(at).and_then(|c| c.parse::<u64>().ok());
        Some((
            number(9)?,
            Netlink {
                unread: number(4)?,
                answering: number(6)? != 0,
            },
        ))
    };
    text.lines()
        .skip(1)
        .map(|line| {
            entry(line)
                .ok_or_else(|| Error::unreadable("net/netlink", format!("not a socket: {line}")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_captured_table_reads_as_it_was() {
        let text = "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
000000001b0e7f1a 0   4711       00000001 768      0        1     2        0        9214
00000000f0c5b1b5 15  0          00000000 0        0        0     2        0        17   \n";
        let read = parse(text).unwrap();
        assert_eq!(
            read[&9214],
            Netlink {
                unread: 768,
                answering: true
            }
        );
        assert_eq!(
            read[&17],
            Netlink {
                unread: 0,
                answering: false
            }
        );
        assert!(parse("head\nnonsense\n").is_err());
    }

    #[test]
    fn the_live_table_reads() {
        read(&Proc::process(std::process::id() as i32)).unwrap();
    }
}
