//! Sockets taken in one network namespace and given back in another.
#![allow(dead_code, reason = "each test uses its part")]

use image::ids::FileId;
use image::sockets::Socket;
use image::sockets::tcp::Connections;
use kernel::{Namespace, within};
use resources::sockets::{Diag, Holder, Listed, dump, restore};
use resources::{Result, Target};
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};

/// A process with a network (loopback up) and mounts of its own.
pub struct Host(Child);

impl Host {
    pub fn start() -> Self {
        let script = "ip link set lo up && mount -t tmpfs none /mnt && echo && exec sleep 600";
        let mut host = Host(
            Command::new("unshare")
                .args(["-n", "-m", "sh", "-c", script])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        host.0
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut [0])
            .expect("needs root, unshare(1) and ip(8)");
        host
    }

    pub fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    /// Does the work inside.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        within(self.pid(), &[Namespace::Net, Namespace::Mount], work).unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What was taken: records, and the files found in flight that are not sockets.
pub struct Taken {
    pub records: Vec<(FileId, Socket)>,
    pub others: HashMap<FileId, OwnedFd>,
}

/// Takes sockets, those in flight included, by way of JSON.
pub fn take(host: &Host, sockets: &[OwnedFd]) -> Result<Taken> {
    take_with(host, sockets, Connections::None)
}

/// The same, with a word about TCP connections with others than these sockets.
pub fn take_with(host: &Host, sockets: &[OwnedFd], connections: Connections) -> Result<Taken> {
    let inodes = sockets
        .iter()
        .map(|fd| kernel::socket::inode(fd.as_fd()).unwrap());
    let mut diag = Diag::take(host.pid(), &HashMap::from([(std::process::id() as i32, 1)]))?
        .connections(connections, inodes.collect());
    let mut taken = Taken {
        records: Vec::new(),
        others: HashMap::new(),
    };
    let mut found: Vec<(FileId, OwnedFd)> = Vec::new();
    let mut next = sockets.len() as u32;
    let holder = Holder {
        pid: host.pid(),
        number: Some(3),
    };
    for (i, fd) in sockets.iter().enumerate() {
        let mut in_flight = |fd: OwnedFd| {
            next += 1;
            found.push((FileId(next), fd));
            Ok(FileId(next))
        };
        let record = dump(fd.as_fd(), holder, &mut diag, &mut in_flight)?;
        taken.records.push((FileId(i as u32), record));
    }
    while let Some((id, fd)) = found.pop() {
        let is_socket = kernel::socket::number(fd.as_fd(), 1, 3).is_ok();
        if is_socket {
            let mut none = |_: OwnedFd| panic!("no queue in a queue here");
            taken
                .records
                .push((id, dump(fd.as_fd(), holder, &mut diag, &mut none)?));
        } else {
            taken.others.insert(id, fd);
        }
    }
    diag.complete()?;
    for (_, record) in &mut taken.records {
        let json = serde_json::to_string(record).unwrap();
        *record = serde_json::from_str(&json).unwrap();
    }
    Ok(taken)
}

/// Gives them back on another host; in the order in which they were taken.
pub fn give(host: &Host, taken: Taken, addresses: &[(IpAddr, IpAddr)]) -> Result<Vec<OwnedFd>> {
    give_with(host, taken, addresses, Connections::None)
}

/// The same, with a word about TCP connections with others than these sockets.
pub fn give_with(
    host: &Host,
    taken: Taken,
    addresses: &[(IpAddr, IpAddr)],
    connections: Connections,
) -> Result<Vec<OwnedFd>> {
    let mut target = Target {
        processes: BTreeMap::new(),
        files: taken.others,
        root_pid: host.pid(),
        covered: Default::default(),
        addresses: addresses.to_vec(),
        connections,
        objects: Default::default(),
        inners: Default::default(),
        segments: Default::default(),
    };
    let records: Vec<Listed> = taken.records.iter().map(|(id, s)| (*id, None, s)).collect();
    let opened = restore(&records, &mut target)?;
    let mut waiting = opened.fill(&records, &mut target)?;
    waiting.prepare()?;
    waiting.go_on(None, host.pid(), "nobody's")?;
    Ok(taken
        .records
        .iter()
        .filter_map(|(id, _)| target.files.remove(id))
        .collect())
}

/// There and back: taken, closed, given back.
pub fn cross(from: &Host, to: &Host, sockets: Vec<OwnedFd>) -> Vec<OwnedFd> {
    let taken = take(from, &sockets).unwrap();
    drop(sockets);
    give(to, taken, &[]).unwrap()
}
