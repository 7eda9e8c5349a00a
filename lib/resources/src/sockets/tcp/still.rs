//! The other ends of a container's connections while it stands still. A segment from one of them that met a socket half
//! taken, or none, would be answered with a reset: so the packets of established connections that are to travel are
//! dropped from the freeze on, by a table in the container's network that ends with us (`kernel::nftables`). Where the
//! container is to go on elsewhere another table stays behind, so that no late segment finds the address without the
//! connection, and its sockets close without a word. The other ends notice a pause.

use super::door::{self, Door};
use super::{
    ACCEPT_REMEDY, CLOSE, CLOSE_WAIT, ESTABLISHED, LISTEN, SYN_RECV, ends, has_other_end,
    not_accepted,
};
use crate::namespaces::is_own;
use crate::sockets::{held, sockets_of};
use crate::{Blocker, Error, Result};
use image::sockets::tcp::Connection as Client;
use kernel::namespaces::Kind;
use kernel::nftables::{self, Connection, Newcomers, Table};
use kernel::pidfd::PidFd;
use kernel::sock_diag::{self, TcpSocket};
use kernel::socket::repair::Repair;
use kernel::{Namespace, Pid, within};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long the program may take to accept connections that are made already.
const PATIENCE: Duration = Duration::from_millis(500);
const TIME_WAIT: u8 = 6;

/// Connections taken out of the queues of listening sockets, by the inodes of these.
pub type Clients = HashMap<u64, Vec<Client>>;

/// A network in which a container's connections stand still.
#[derive(Debug)]
pub struct Still {
    /// Clients that were not yet accepted. They wait again before the table lets packets pass.
    doors: Vec<Door>,
    table: Table,
    name: String,
    root: Pid,
    own: bool,
    connections: Vec<Connection>,
    /// One descriptor for each connection's socket, so that none closes before we do.
    sockets: Vec<OwnedFd>,
}

impl Still {
    /// Lets no new connection in, and waits a while for those made to be accepted: what the program has not accepted has no
    /// descriptor, and only [some](door) of that can be taken all the same. The processes (our pids, the root first) still run. `id` is the container's.
    pub fn begin(pids: &[Pid], id: &str) -> Result<Still> {
        let root = root(pids)?;
        let own = is_own(root, Kind::Network)?;
        let ports = listening(&list(root)?, own, &held(pids));
        let newcomers = match own {
            true => Newcomers::All,
            false => Newcomers::To(ports.clone()),
        };
        let name = table_name(id);
        let still = format!("{name}-still");
        let table = within(root, &[Namespace::Net], || Table::hush(&still, &newcomers))??;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let all = list(root)?;
            let waiting: Vec<Blocker> = ports
                .iter()
                .flat_map(|port| not_accepted(&all, *port))
                .map(|what| Blocker {
                    pid: root,
                    place: String::new(),
                    what,
                    remedy: ACCEPT_REMEDY.into(),
                })
                .collect();
            let half_open = all
                .iter()
                .any(|s| s.state == SYN_RECV && ports.contains(&s.local.port()));
            if waiting.is_empty() && !half_open {
                break;
            }
            if Instant::now() > deadline {
                // A client that does not answer tries again, there.
                if all_may_wait(root, pids)? {
                    break;
                }
                return Err(Error::Blocked(waiting));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Still {
            doors: Vec::new(),
            table,
            name,
            root,
            own,
            connections: Vec::new(),
            sockets: Vec::new(),
        })
    }

    /// The container is frozen: from here on no packet of its connections comes or goes. Returns those that its program has
    /// not yet accepted, which wait here until it ends, or [runs on](Self::let_wait).
    pub fn hush(&mut self, pids: &[Pid]) -> Result<Clients> {
        let (connections, inodes) = outside(self.root, pids, self.own)?;
        self.table.add(&connections)?;
        self.connections = connections;
        self.sockets = borrow(pids, &inodes);
        let mut clients = Clients::new();
        for listener in besieged(self.root, pids)?.0 {
            let mut door = Door::of(listener);
            let emptied = door.empty();
            clients.extend([door.taken()?]);
            // Whatever comes of it: who was taken out waits again.
            self.doors.push(door);
            emptied?;
        }
        Ok(clients)
    }

    /// The container is to run on: its clients wait to be accepted again.
    pub fn let_wait(&mut self) -> Result<()> {
        let doors = std::mem::take(&mut self.doors);
        if doors.is_empty() {
            return Ok(());
        }
        let fill = || doors.into_iter().try_for_each(|mut door| door.fill());
        within(self.root, &[Namespace::Net], fill)?
    }

    /// The packets are dropped beyond our own end: until [`forget`], or the end of the container's network.
    pub fn stay(&mut self) -> Result<()> {
        self.let_wait()?;
        Ok(self.table.leave(&self.name, &self.connections)?)
    }

    /// Ends the container in such a way that the other ends hear nothing of it. Its packets [stay](Self::stay) behind only
    /// once it has ended, for who kills us before lets it run on; until then we hold its sockets, which say nothing.
    pub fn end(mut self, end: impl FnOnce() -> Result<()>) -> Result<()> {
        end()?;
        // Those not accepted are in repair, and close without a word.
        self.doors.clear();
        let stayed = self.stay();
        close_silently(&self.sockets);
        stayed
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        // After a failure that is told.
        let _ = self.let_wait();
    }
}

/// Listening sockets of these processes that have clients waiting, but not those whose clients sign what they say: that
/// we could not play.
fn besieged(root: Pid, pids: &[Pid]) -> Result<(Vec<OwnedFd>, bool)> {
    let all = list(root)?;
    let keys = within(root, &[Namespace::Net], sock_diag::tcp_keys)??;
    let of_container = held(pids);
    let (signed, plain): (HashSet<u64>, HashSet<u64>) = all
        .iter()
        .filter(|s| s.state == LISTEN && s.receive_queue > 0)
        .map(|s| u64::from(s.inode))
        .filter(|inode| of_container.contains(inode))
        .partition(|inode| keys.contains_key(inode));
    Ok((borrow(pids, &plain), !signed.is_empty()))
}

/// Whether all clients that wait can be taken out of their queues, and put back.
fn all_may_wait(root: Pid, pids: &[Pid]) -> Result<bool> {
    let (listeners, signed) = besieged(root, pids)?;
    for listener in listeners {
        if !door::can(listener.as_fd())? {
            return Ok(false);
        }
    }
    Ok(!signed)
}

/// Ends a container that was left frozen, in such a way that the other ends hear nothing of it where they are not to.
pub fn end_silently(pids: &[Pid], id: &str, end: impl FnOnce() -> Result<()>) -> Result<()> {
    let root = root(pids)?;
    let name = table_name(id);
    let silent = within(root, &[Namespace::Net], || nftables::is_there(&name))??;
    let sockets = match silent {
        true => borrow(pids, &outside(root, pids, is_own(root, Kind::Network)?)?.1),
        false => Vec::new(),
    };
    end()?;
    close_silently(&sockets);
    Ok(())
}

/// Drops the packets of all connections in the network of process `pid` but its loopback's, while its container is being
/// rebuilt: those that are to go on must not meet an address without them.
pub fn quiet(pid: Pid) -> Result<Table> {
    let name = format!("ferry-restore-all-{}", std::process::id());
    Ok(within(pid, &[Namespace::Net], || Table::hush_all(&name))??)
}

/// Drops the packets to these addresses, which the container will have, before there is a network of its own to do that in.
pub fn quiet_ways(addresses: &[IpAddr]) -> Result<Table> {
    let name = format!("ferry-restore-ways-{}", std::process::id());
    Ok(Table::hush_ways(&name, addresses)?)
}

/// Lets the packets of a container pass again that stayed behind.
pub fn forget(root: Pid, id: &str) -> Result<()> {
    within(root, &[Namespace::Net], || {
        nftables::remove(&table_name(id))
    })??;
    Ok(())
}

fn table_name(id: &str) -> String {
    format!("ferry-{id}")
}

fn root(pids: &[Pid]) -> Result<Pid> {
    let first = pids.first().copied();
    first.ok_or_else(|| Error::Refused("no process to take".into()))
}

fn list(root: Pid) -> Result<Vec<TcpSocket>> {
    Ok(within(root, &[Namespace::Net], sock_diag::tcp)??)
}

/// The ports at which the container listens.
fn listening(all: &[TcpSocket], own: bool, held: &HashSet<u64>) -> Vec<u16> {
    let mut ports: Vec<u16> = all
        .iter()
        .filter(|s| s.state == LISTEN && (own || held.contains(&s.inode.into())))
        .map(|s| s.local.port())
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// Connections of the container with the outside, and the inodes of their sockets. Not those that the program has closed
/// already and the kernel ends by itself: nobody could take them.
fn outside(root: Pid, pids: &[Pid], own: bool) -> Result<(Vec<Connection>, HashSet<u64>)> {
    let all = list(root)?;
    let mut of_container = held(pids);
    if own {
        // Also what is only in flight, in a queue.
        of_container.extend(all.iter().map(|s| u64::from(s.inode)).filter(|i| *i != 0));
    }
    let ports = listening(&all, own, &of_container);
    let ends = ends(all.iter(), &of_container);
    let found: Vec<&TcpSocket> = all
        .iter()
        .filter(|s| !matches!(s.state, CLOSE | LISTEN | TIME_WAIT))
        .filter(|s| {
            of_container.contains(&s.inode.into())
                || s.state == SYN_RECV && ports.contains(&s.local.port())
                || is_at_the_door(s, &ports)
        })
        .filter(|s| is_at_the_door(s, &ports) || !has_other_end(&ends, (s.local, s.remote)))
        .collect();
    Ok((
        found.iter().map(|s| (s.local, s.remote)).collect(),
        found.iter().map(|s| s.inode.into()).collect(),
    ))
}

fn is_at_the_door(s: &TcpSocket, ports: &[u16]) -> bool {
    s.inode == 0 && matches!(s.state, ESTABLISHED | CLOSE_WAIT) && ports.contains(&s.local.port())
}

/// A descriptor of ours for each of these sockets.
fn borrow(pids: &[Pid], inodes: &HashSet<u64>) -> Vec<OwnedFd> {
    let mut left = inodes.clone();
    let mut borrowed = Vec::new();
    for pid in pids {
        let Ok(process) = PidFd::task(*pid) else {
            continue;
        };
        for (number, inode) in sockets_of(*pid) {
            if left.remove(&inode) {
                borrowed.extend(process.borrow(number));
            }
        }
    }
    borrowed
}

/// The last descriptors of these are ours, and closed soon.
fn close_silently(sockets: &[OwnedFd]) {
    for socket in sockets {
        // One that has ended meanwhile has nothing to say either.
        if let Ok(repair) = Repair::begin(socket.as_fd()) {
            repair.stay();
        }
    }
}
