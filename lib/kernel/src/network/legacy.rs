//! The tables of iptables-legacy, ip6tables-legacy and arptables-legacy (net/ipv4/netfilter/ip_tables.c and its kin): each
//! is one block of bytes, in which matches and targets have names, and is told again as it was listed. The kernel makes such
//! a table when it is first asked for, so we ask only for those that are there.

use crate::netlink::word;
use crate::proc::Proc;
use crate::{Error, Pid, Result, socket};
use std::os::fd::{AsFd, OwnedFd};

/// `struct xt_get_info` begins with the table's name, and so do the others.
const NAME: usize = 32;
/// `struct ipt_get_entries` up to its entries.
const HEAD: usize = 40;
/// The chain of docker's own resolver, which it makes again.
const DOCKERS: &[u8] = b"DOCKER_OUTPUT";
/// Bytes that a table may have: more than the kernel takes (`XT_MAX_TABLE_SIZE` is 512 MiB, of which an image has less).
const MOST: usize = 1 << 26;
/// `struct xt_counters`.
const COUNTERS: usize = 16;

/// Whose tables, and how these are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// iptables.
    V4,
    /// ip6tables.
    V6,
    /// arptables.
    Arp,
}

impl Family {
    const ALL: [Family; 3] = [Family::V4, Family::V6, Family::Arp];

    fn names(self) -> &'static str {
        match self {
            Family::V4 => "net/ip_tables_names",
            Family::V6 => "net/ip6_tables_names",
            Family::Arp => "net/arp_tables_names",
        }
    }

    fn socket(self) -> Result<OwnedFd> {
        let family = match self {
            Family::V6 => libc::AF_INET6,
            Family::V4 | Family::Arp => libc::AF_INET,
        };
        socket::create(family, libc::SOCK_RAW, libc::IPPROTO_RAW)
    }

    fn level(self) -> i32 {
        match self {
            Family::V6 => libc::IPPROTO_IPV6,
            Family::V4 | Family::Arp => libc::IPPROTO_IP,
        }
    }

    /// `IPT_BASE_CTL`: to replace a table, and to ask about it; one more is to add to counters, and for the entries.
    fn first(self) -> i32 {
        match self {
            Family::V4 | Family::V6 => 64,
            Family::Arp => 96,
        }
    }

    fn hooks(self) -> usize {
        match self {
            Family::V4 | Family::V6 => 5,
            Family::Arp => 3,
        }
    }

    /// `struct ipt_getinfo`: the name, which hooks, their entries, their policies, number of entries, bytes.
    fn about(self) -> usize {
        NAME + 4 + 8 * self.hooks() + 8
    }

    /// Where `struct ipt_entry` has the distance of the next one, and its counters.
    fn entry(self) -> (usize, usize) {
        match self {
            Family::V4 => (90, 96),
            Family::V6 => (142, 152),
            Family::Arp => (170, 176),
        }
    }
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Whose.
    pub family: Family,
    /// `struct ipt_getinfo`.
    pub about: Vec<u8>,
    /// Its entries (`struct ipt_entry`).
    pub entries: Vec<u8>,
}

/// The tables there are in a network namespace.
#[derive(Debug)]
pub struct Names(Vec<(Family, String)>);

impl Names {
    /// In that of a process.
    pub fn of(pid: Pid) -> Self {
        let proc = Proc::process(pid);
        let names = |family: Family| {
            let text = proc.text(family.names()).unwrap_or_default();
            let names: Vec<_> = text.lines().map(|n| (family, n.to_string())).collect();
            names
        };
        Names(Family::ALL.into_iter().flat_map(names).collect())
    }

    /// The tables, but that of docker's resolver. To be asked within that namespace.
    pub fn tables(&self) -> Result<Vec<Table>> {
        let mut found = Vec::new();
        for (family, name) in &self.0 {
            let table = read(*family, name.as_bytes())?;
            if !is_dockers(&table) {
                found.push(table);
            }
        }
        Ok(found)
    }
}

fn is_dockers(table: &Table) -> bool {
    table.entries.windows(DOCKERS.len()).any(|w| w == DOCKERS)
}

fn read(family: Family, name: &[u8]) -> Result<Table> {
    let socket = family.socket()?;
    let mut about = vec![0; family.about()];
    let len = name.len().min(NAME - 1);
    about[..len].copy_from_slice(&name[..len]);
    let mut entries = about[..NAME].to_vec();
    socket::ask(socket.as_fd(), family.level(), family.first(), &mut about)?;
    let size = word(&about, family.about() - 4).unwrap_or(0);
    entries.extend(size.to_ne_bytes());
    entries.resize(HEAD + size as usize, 0);
    let to_list = family.first() + 1;
    socket::ask(socket.as_fd(), family.level(), to_list, &mut entries)?;
    entries.drain(..HEAD);
    Ok(Table {
        family,
        about,
        entries,
    })
}

/// Makes a table of this thread's namespace what this one says, with its counters; that of docker's resolver stays as it is.
pub fn make(table: &Table) -> Result<()> {
    let family = table.family;
    let (about, size) = (&table.about, table.entries.len());
    let said = |at: usize| word(about, at).map(|n| n as usize);
    let name = about.get(..NAME).unwrap_or_default();
    if about.len() != family.about() || said(family.about() - 4) != Some(size) || size > MOST {
        return Err(Error::unreadable(
            "iptables",
            "the image has a table that is none",
        ));
    }
    let what = String::from_utf8_lossy(name.split(|b| *b == 0).next().unwrap_or_default());
    let named = |e: Error| match e.raw() {
        Some(errno) => Error::errno(format!("make the table {what} of iptables-legacy"), errno),
        None => e,
    };
    let there = read(family, name).map_err(named)?;
    if is_dockers(&there) {
        return Ok(());
    }
    let before = word(&there.about, family.about() - 8).unwrap_or(0);
    let counters = counters(table)?;
    let socket = family.socket()?;
    // struct ipt_replace: the hooks, number and size come before what the hooks have.
    let hooks = NAME + 4..family.about() - 8;
    let mut bytes = about[..NAME + 4].to_vec();
    bytes.extend(&about[hooks.end..]);
    bytes.extend(&about[hooks]);
    bytes.extend(before.to_ne_bytes());
    let mut old = vec![0u64; before as usize * COUNTERS / 8];
    bytes.extend((old.as_mut_ptr() as usize).to_ne_bytes());
    bytes.extend(&table.entries);
    socket::set_option(socket.as_fd(), family.level(), family.first(), &bytes).map_err(named)?;
    drop(old);
    // struct xt_counters_info.
    let mut bytes = name.to_vec();
    bytes.extend(((counters.len() / COUNTERS) as u32).to_ne_bytes());
    bytes.resize(HEAD, 0);
    bytes.extend(&counters);
    let to_add = family.first() + 1;
    socket::set_option(socket.as_fd(), family.level(), to_add, &bytes).map_err(named)
}

/// The counters of each entry, packets and bytes.
fn counters(table: &Table) -> Result<Vec<u8>> {
    let (next, counters) = table.family.entry();
    let mut found = Vec::new();
    let mut left = &table.entries[..];
    while !left.is_empty() {
        let distance = left
            .get(next..next + 2)
            .map(|two| u16::from_ne_bytes([two[0], two[1]]));
        let (Some(distance @ 1..), Some(of_entry)) =
            (distance, left.get(counters..counters + COUNTERS))
        else {
            return Err(Error::unreadable(
                "iptables",
                "the image has an entry that is cut short",
            ));
        };
        found.extend(of_entry);
        left = left.get(usize::from(distance)..).unwrap_or_default();
    }
    Ok(found)
}
