//! What ethtool(8) sets of a link: what it leaves to others (features), and how many queues it has. By name, in this thread's
//! network namespace (linux/ethtool.h).

use crate::Result;
use crate::error::check;
use crate::socket;
use std::os::fd::{AsRawFd, OwnedFd};

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const GSTRINGS: u32 = 0x1b;
const GSSET_INFO: u32 = 0x37;
const GFEATURES: u32 = 0x3a;
const SFEATURES: u32 = 0x3b;
const GCHANNELS: u32 = 0x3c;
const SCHANNELS: u32 = 0x3d;
/// `ETH_SS_FEATURES`.
const OF_FEATURES: u32 = 4;
/// `ETH_GSTRING_LEN`.
const NAME: usize = 32;
/// More features than any kernel has.
const MOST: usize = 1024;

/// `struct ifreq` with a pointer.
#[repr(C)]
struct Request {
    name: [u8; 16],
    data: *mut u32,
    rest: [u8; 16],
}

/// A socket to ask by, with the names of all features.
#[derive(Debug)]
pub struct Ethtool {
    socket: OwnedFd,
    names: Vec<String>,
}

/// Which of its features a link is to use, of those that can be chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features {
    /// By name.
    pub on: Vec<String>,
    /// Those it is to do without.
    pub off: Vec<String>,
}

impl Ethtool {
    /// Of this thread's namespace.
    pub fn open() -> Result<Self> {
        let socket = socket::create(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
        let mut ethtool = Ethtool {
            socket,
            names: Vec::new(),
        };
        // struct ethtool_sset_info with one number; any link will do.
        let mut info = [GSSET_INFO, 0, 1 << OF_FEATURES, 0, 0];
        ethtool.ask("lo", &mut info)?;
        let many = (info[4] as usize).min(MOST);
        let mut strings = vec![0; 3 + many * NAME / 4];
        strings[..3].copy_from_slice(&[GSTRINGS, OF_FEATURES, many as u32]);
        ethtool.ask("lo", &mut strings)?;
        let bytes: Vec<u8> = strings[3..].iter().flat_map(|w| w.to_ne_bytes()).collect();
        let name = |bytes: &[u8]| {
            let name = bytes.split(|b| *b == 0).next().unwrap_or_default();
            String::from_utf8_lossy(name).into_owned()
        };
        ethtool.names = bytes.chunks(NAME).map(name).collect();
        Ok(ethtool)
    }

    fn ask(&self, link: &str, words: &mut [u32]) -> Result<()> {
        let mut request = Request {
            name: [0; 16],
            data: words.as_mut_ptr(),
            rest: [0; 16],
        };
        for (to, from) in request.name[..15].iter_mut().zip(link.bytes()) {
            *to = from;
        }
        // SAFETY: the words are a command with the room that the command's structure says it has, and outlive the call.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCETHTOOL, &mut request) };
        check(result.into(), || {
            format!("ask ethtool about the link {link}")
        })
        .map(drop)
    }

    /// For each 32 features: those that can be chosen, are wanted, are used, can never be changed.
    fn blocks(&self, link: &str) -> Result<Vec<u32>> {
        let blocks = self.names.len().div_ceil(32);
        let mut words = vec![0; 2 + blocks * 4];
        words[..2].copy_from_slice(&[GFEATURES, blocks as u32]);
        self.ask(link, &mut words)?;
        Ok(words.split_off(2))
    }

    /// Those of a link.
    pub fn features(&self, link: &str) -> Result<Features> {
        let blocks = self.blocks(link)?;
        let mut features = Features::default();
        for (name, (block, bit)) in self.numbered() {
            let of = |which: usize| blocks.get(block * 4 + which).is_some_and(|w| w & bit != 0);
            match (of(0) && !name.is_empty(), of(1)) {
                (true, true) => features.on.push(name.clone()),
                (true, false) => features.off.push(name.clone()),
                _ => {}
            }
        }
        Ok(features)
    }

    fn numbered(&self) -> impl Iterator<Item = (&String, (usize, u32))> {
        let at = |(i, name)| (name, (i / 32, 1u32 << (i % 32)));
        self.names.iter().enumerate().map(at)
    }

    /// Chooses them; those that this link cannot choose stay as they are.
    pub fn choose(&self, link: &str, features: &Features) -> Result<()> {
        let there = self.blocks(link)?;
        let mut words = vec![SFEATURES, (there.len() / 4) as u32];
        for block in there.chunks(4) {
            words.extend([0, block[1]]);
        }
        for (name, (block, bit)) in self.numbered() {
            let on = features.on.contains(name);
            let can = there[block * 4] & bit != 0;
            if !can
                || !on && !features.off.contains(name)
                || on == (there[block * 4 + 1] & bit != 0)
            {
                continue;
            }
            words[2 + block * 2] |= bit;
            words[3 + block * 2] ^= bit;
        }
        if words[2..].chunks(2).all(|w| w[0] == 0) {
            return Ok(());
        }
        self.ask(link, &mut words)
    }

    /// How many queues it uses, in and out; `None` where it has no say in that.
    pub fn queues(&self, link: &str) -> Option<[u32; 2]> {
        let mut words = [GCHANNELS, 0, 0, 0, 0, 0, 0, 0, 0];
        self.ask(link, &mut words).ok()?;
        Some([words[5], words[6]])
    }

    /// Sets that.
    pub fn use_queues(&self, link: &str, [incoming, outgoing]: [u32; 2]) -> Result<()> {
        if self.queues(link) == Some([incoming, outgoing]) {
            return Ok(());
        }
        let mut words = [SCHANNELS, 0, 0, 0, 0, incoming, outgoing, 0, 0];
        self.ask(link, &mut words)
    }
}
