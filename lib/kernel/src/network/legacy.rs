//! What is in the tables of iptables-legacy (ip_tables.c): whether anybody has put rules there. The kernel makes such a
//! table when it is first asked for, so we ask only for those that are there.

use crate::proc::Proc;
use crate::{Pid, Result, socket};
use std::os::fd::AsFd;

/// `IPT_SO_GET_INFO`, `IPT_SO_GET_ENTRIES`, of which IPv6 has the same.
const GET_INFO: i32 = 64;
const GET_ENTRIES: i32 = 65;
/// `struct ipt_getinfo`, and the head of `struct ipt_get_entries`.
const INFO: usize = 84;
const HEAD: usize = 40;
const HOOKS: usize = 5;
/// `-NF_ACCEPT - 1`.
const ACCEPT: i32 = -2;
/// The chain of docker's own resolver, which it makes again.
const DOCKERS: &[u8] = b"DOCKER_OUTPUT";

/// The tables there are in a network namespace.
#[derive(Debug)]
pub struct Names {
    v4: Vec<String>,
    v6: Vec<String>,
}

impl Names {
    /// In that of a process.
    pub fn of(pid: Pid) -> Self {
        let proc = Proc::process(pid);
        let names = |file: &str| {
            let text = proc.text(file).unwrap_or_default();
            text.lines().map(str::to_string).collect()
        };
        Names {
            v4: names("net/ip_tables_names"),
            v6: names("net/ip6_tables_names"),
        }
    }

    /// Those that hold rules, or a policy other than to accept. To be asked within that namespace.
    pub fn in_use(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        // struct ipt_entry and struct ip6t_entry end where their target begins.
        let families = [
            (&self.v4, libc::AF_INET, libc::IPPROTO_IP, 112),
            (&self.v6, libc::AF_INET6, libc::IPPROTO_IPV6, 168),
        ];
        for (names, family, level, entry) in families {
            for name in names {
                if holds_something(name, family, level, entry)? {
                    found.push(name.clone());
                }
            }
        }
        found.dedup();
        Ok(found)
    }
}

fn holds_something(name: &str, family: i32, level: i32, entry: usize) -> Result<bool> {
    let socket = socket::create(family, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
    let mut info = vec![0; INFO];
    let len = name.len().min(31);
    info[..len].copy_from_slice(&name.as_bytes()[..len]);
    let mut entries = info[..HEAD].to_vec();
    socket::ask(socket.as_fd(), level, GET_INFO, &mut info)?;
    let word = |at: usize| crate::netlink::word(&info, at).unwrap_or(0);
    let (hooks, count, size) = (word(32), word(76), word(80));
    if count != hooks.count_ones() + 1 {
        entries[32..36].copy_from_slice(&size.to_ne_bytes());
        entries.resize(HEAD + size as usize, 0);
        socket::ask(socket.as_fd(), level, GET_ENTRIES, &mut entries)?;
        return Ok(!entries.windows(DOCKERS.len()).any(|w| w == DOCKERS));
    }
    entries[32..36].copy_from_slice(&size.to_ne_bytes());
    entries.resize(HEAD + size as usize, 0);
    socket::ask(socket.as_fd(), level, GET_ENTRIES, &mut entries)?;
    // The last entry of a hook is its policy: a target of 32 bytes, then the verdict.
    let verdict = |hook: usize| {
        let at = HEAD + word(56 + 4 * hook) as usize + entry + 32;
        crate::netlink::word(&entries, at).map(|v| v as i32)
    };
    Ok((0..HOOKS)
        .filter(|hook| hooks >> hook & 1 != 0)
        .any(|hook| verdict(hook) != Some(ACCEPT)))
}
