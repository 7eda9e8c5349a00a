//! Keys by which a TCP socket signs its segments (TCP-MD5, RFC 2385): told by sock_diag to who administers the network,
//! and set by `TCP_MD5SIG_EXT` (include/uapi/linux/tcp.h, `struct tcp_diag_md5sig` and `struct tcp_md5sig`).

use super::{AF_INET6, address};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `sizeof(struct tcp_diag_md5sig)`.
const TOLD: usize = 100;
const LONGEST_KEY: usize = 80;
const STORAGE: usize = 128;
const TCP_MD5SIG_FLAG_PREFIX: u8 = 1;

/// One key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// With whom it is agreed.
    pub peer: IpAddr,
    /// How many bits of that count.
    pub prefix: u8,
    /// The key.
    pub key: Vec<u8>,
}

/// Reads `INET_DIAG_MD5SIG`.
pub fn parse(told: &[u8]) -> Vec<Signature> {
    told.chunks_exact(TOLD).map(one).collect()
}

fn one(told: &[u8]) -> Signature {
    let peer = match i32::from(told[0]) {
        AF_INET6 => {
            let mut all = [0; 16];
            all.copy_from_slice(&told[4..20]);
            Ipv6Addr::from(all).into()
        }
        _ => Ipv4Addr::new(told[4], told[5], told[6], told[7]).into(),
    };
    let len = usize::from(u16::from_ne_bytes([told[2], told[3]])).min(LONGEST_KEY);
    Signature {
        peer,
        prefix: told[1],
        key: told[20..20 + len].to_vec(),
    }
}

impl Signature {
    /// What a socket of this family is told by `TCP_MD5SIG_EXT`.
    pub fn option(&self, family: i32) -> Vec<u8> {
        let peer = match self.peer {
            IpAddr::V4(v4) if family == AF_INET6 => v4.to_ipv6_mapped().into(),
            other => other,
        };
        let mut bytes = address::internet(&SocketAddr::new(peer, 0));
        bytes.resize(STORAGE, 0);
        bytes.extend([TCP_MD5SIG_FLAG_PREFIX, self.prefix]);
        bytes.extend((self.key.len() as u16).to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(&self.key);
        bytes.resize(STORAGE + 8 + LONGEST_KEY, 0);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_captured_key_is_told_as_it_was_set() {
        let mut told = vec![2, 8, 5, 0, 10, 0, 0, 0];
        told.resize(20, 0);
        told.extend(b"other");
        told.resize(TOLD, 0);
        let [signature] = &parse(&told)[..] else {
            panic!("not one");
        };
        assert_eq!(signature.peer.to_string(), "10.0.0.0");
        assert_eq!((signature.prefix, &signature.key[..]), (8, &b"other"[..]));
        let option = signature.option(libc::AF_INET);
        assert_eq!(option.len(), 216);
        assert_eq!(&option[128..141], b"\x01\x08\x05\0\0\0\0\0other");
        assert!(parse(&told[..99]).is_empty());
    }
}
