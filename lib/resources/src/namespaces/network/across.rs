//! Links that are tied to one in another network of the container: pairs of veth between networks inside it, or from its own into
//! one of them, and macvlans over a link over there. They are made when all of the networks are there, by whoever of the two
//! comes first, straight into both (`IFLA_NET_NS_FD`).

use super::give::{anywhere, configure, find, plain, refused, spans, taken};
use super::{Uplinks, links};
use crate::Result;
use crate::namespaces::nested::bound;
use image::ids::NsId;
use image::namespaces::network::{Link, LinkKind, Network};
use kernel::namespaces::{Kind, identity, identity_in};
use kernel::netlink::Netlink;
use kernel::nsfs::{self, Handle};
use kernel::proc::{Proc, family};
use kernel::{Namespace, Pid, within};
use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;

/// The other networks of a container, seen from one of them.
#[derive(Debug, Default)]
pub struct Others(Vec<(Place, Handle)>);

/// Which network of the container one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Its own.
    Container,
    /// One inside it.
    Inner(NsId),
    /// One inside it, seen from its own: what ties them is told over there.
    Inside,
}

/// The same by the numbers that links speak of them with.
#[derive(Debug, Default)]
pub(super) struct Numbered(HashMap<u32, Place>);

impl Others {
    /// One more, the container's own where it has no name.
    pub fn add(&mut self, network: Option<NsId>, handle: Handle) {
        let place = network.map_or(Place::Container, Place::Inner);
        self.0.push((place, handle));
    }

    /// What they are called in the namespace that the socket was opened in, once the links there were listed.
    pub(super) fn numbered(&self, netlink: &mut Netlink) -> kernel::Result<Numbered> {
        let mut numbered = Numbered::default();
        for (place, handle) in &self.0 {
            let number = links::number(netlink, handle.as_fd())?;
            numbered.0.extend(number.map(|number| (number, *place)));
        }
        Ok(numbered)
    }
}

impl Numbered {
    /// Whether the link's other end, or what it lies on, is in one of them.
    pub(super) fn has(&self, link: &links::Link) -> bool {
        let number = link.lower_network.as_ref();
        number.is_some_and(|number| self.0.contains_key(number))
    }

    /// The kind of a link with its other end, or what it lies on, in one of them; none where nothing makes that again.
    pub(super) fn kind(&self, link: &links::Link, below: u32) -> Option<LinkKind> {
        let network = match self.0.get(&link.lower_network?)? {
            Place::Container => None,
            Place::Inner(id) => Some(*id),
            Place::Inside => return (link.kind == "veth").then_some(LinkKind::Inward),
        };
        Some(match link.kind.as_str() {
            "veth" => LinkKind::Across {
                network,
                peer: below,
            },
            _ => LinkKind::MacvlanAcross {
                network,
                lower: below,
            },
        })
    }
}

/// The networks that tasks of a container are in or hold open, or that it has mounted, and its root process (ours to name) is not in.
pub fn inside(root: Pid) -> Result<Others> {
    let own = identity(root, Kind::Network)?;
    let pids = match crate::namespaces::is_own(root, Kind::Pid)? {
        true => family::pid_namespace(root),
        false => None,
    };
    let (mut seen, mut others) = (HashSet::from([own]), Others::default());
    if crate::namespaces::is_own(root, Kind::Mount)? {
        for bound in bound::seen(root, &bound::foreign(root)?)? {
            let handle = bound.handle;
            if handle.kind() == Kind::Network && seen.insert(handle.inode()) {
                others.0.push((Place::Inside, handle));
            }
        }
    }
    for process in family::family(root, pids.as_deref())? {
        let pid = process.pid;
        for (number, inode) in nsfs::held(pid, Kind::Network) {
            if seen.insert(inode)
                && let Ok(handle) = Handle::held(pid, number, Kind::Network)
            {
                others.0.push((Place::Inside, handle));
            }
        }
        for tid in Proc::process(pid).numbers("task").unwrap_or_default() {
            // One that ended meanwhile ties nothing.
            let Ok(Some(inode)) = identity_in((pid, tid), Kind::Network.name()) else {
                continue;
            };
            if seen.insert(inode)
                && let Ok(handle) = Handle::of(pid, tid, Kind::Network)
            {
                others.0.push((Place::Inside, handle));
            }
        }
    }
    Ok(others)
}

/// A network of the container that is being rebuilt.
#[derive(Debug, Clone, Copy)]
pub struct There<'a> {
    /// What the record calls it; absent: the container's own.
    pub id: Option<NsId>,
    /// A process in it.
    pub pid: Pid,
    /// What is to be in it.
    pub network: &'a Network,
    /// Whether its ways to the outside are as they were.
    pub uplinks: Uplinks,
}

impl There<'_> {
    fn link(&self, index: u32) -> Option<&Link> {
        self.network.links.iter().find(|link| link.index == index)
    }

    fn within<T: Send>(&self, work: impl FnOnce(&mut Netlink) -> Result<T> + Send) -> Result<T> {
        within(self.pid, &[Namespace::Net], || work(&mut links::open()?))?
    }
}

/// All networks are there, with the links that are theirs alone: makes the others, and then what rests on them.
pub fn settle(all: &[There]) -> Result<()> {
    let tied = |there: &&There| there.network.links.iter().any(|link| spans(link.kind));
    let tied: Vec<&There> = all.iter().filter(tied).collect();
    // Pairs first: a macvlan may lie on one end.
    for macvlans in [false, true] {
        for here in &tied {
            for link in &here.network.links {
                if macvlans == matches!(link.kind, LinkKind::MacvlanAcross { .. }) {
                    make(here, link, all)?;
                }
            }
        }
    }
    for here in &tied {
        here.within(|netlink| {
            let there = find(netlink, &here.network.links)?;
            let missing = |link: &&Link| spans(link.kind) && !there.contains_key(&link.index);
            if let Some(link) = here.network.links.iter().find(missing) {
                return Err(half(link));
            }
            configure(netlink, here.network, here.uplinks, &there, spans)
        })?;
    }
    Ok(())
}

fn half(link: &Link) -> crate::Error {
    refused(format!(
        "the link {} is tied to one in another network of the container, which has none; restore it with a network of its own",
        link.name
    ))
}

fn make(here: &There, link: &Link, all: &[There]) -> Result<()> {
    let (network, below) = match link.kind {
        LinkKind::Across { network, peer } => (network, peer),
        LinkKind::MacvlanAcross { network, lower } => (network, lower),
        _ => return Ok(()),
    };
    let over = all.iter().find(|there| there.id == network);
    let over = over.filter(|there| there.id != here.id);
    let (Some(over), Some(other)) = (over, over.and_then(|there| there.link(below))) else {
        return Err(half(link));
    };
    let wanted = plain(link)?;
    let name = |netlink: &mut Netlink| find(netlink, std::slice::from_ref(link));
    if !here.within(name)?.is_empty() {
        return Ok(()); // with the other end
    }
    let target = Handle::of(here.pid, here.pid, Kind::Network)?;
    let target = Some(target.as_fd());
    over.within(|netlink| {
        if let LinkKind::MacvlanAcross { .. } = link.kind {
            let now = find(netlink, std::slice::from_ref(other))?;
            let now = now.get(&below).copied().ok_or_else(|| half(link))?;
            return anywhere(&wanted, |link| {
                links::make_in(netlink, link, Some(now), target)
            });
        }
        let back = LinkKind::Across {
            network: here.id,
            peer: link.index,
        };
        if other.kind != back && (other.kind != LinkKind::Inward || over.id.is_some()) {
            return Err(half(link));
        }
        let other = plain(other)?;
        match links::make_pair(netlink, &other, &wanted, target) {
            Err(e) if taken(&e) => {
                let free = |link: &links::Link| links::Link {
                    index: 0,
                    ..link.clone()
                };
                Ok(links::make_pair(
                    netlink,
                    &free(&other),
                    &free(&wanted),
                    target,
                )?)
            }
            made => Ok(made?),
        }
    })
}
