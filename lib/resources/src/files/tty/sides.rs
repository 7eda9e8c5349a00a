//! Which side of which terminal each descriptor of a container is: known before one is judged.

use crate::Result;
use crate::files::borrowed::{Borrowed, Holder, Seen};
use crate::files::kind::{Obstacle, is_terminal, obstacle};
use image::path::Name;
use kernel::open::Root;
use kernel::proc::stat;
use kernel::tty;
use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// What a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The master of a pair: file system of its slave, and number.
    Master { device: u64, index: u32 },
    /// A slave, or another terminal: its file system (0 where it is not devpts) and device number.
    Slave { device: u64, node: (u32, u32) },
    /// `/dev/tty`: device number of the terminal it led to.
    Controlling { node: (u32, u32) },
    /// A slave without its master.
    Dead,
}

/// The terminals of a container.
#[derive(Debug, Default)]
pub(crate) struct Sides {
    sides: HashMap<Holder, Side>,
    masters: HashSet<(u64, u32)>,
    /// Device numbers of those that are somebody's standard input or output.
    standard: HashSet<(u32, u32)>,
    /// Those with a line discipline of their own (`ldattach`, PPP).
    odd: HashSet<Holder>,
}

impl Sides {
    /// Takes note of a descriptor. `root` is the container's, `path` the descriptor's beneath it.
    pub fn note(&mut self, file: &Borrowed, root: &Root, path: Option<&Name>) -> Result<()> {
        let node = file.stat.node;
        if !is_terminal(node) || file.flags() & kernel::descriptor::O_PATH != 0 {
            return Ok(());
        }
        let fd = file.fd.as_fd();
        let side = if node == tty::PTMX {
            let device = match file.filesystem {
                tty::DEVPTS => file.stat.device,
                _ => beside(root, path)?,
            };
            let index = tty::index(fd)?;
            self.masters.insert((device, index));
            Side::Master { device, index }
        } else if tty::ready(fd)?.dead {
            Side::Dead
        } else {
            // One that hangs up while we look has no answers left.
            let Ok(node) = tty::device(fd) else {
                return Ok(());
            };
            if (0..=2).contains(&file.holder.number) {
                self.standard.insert(node);
            }
            let device = match file.filesystem {
                tty::DEVPTS => file.stat.device,
                _ => 0,
            };
            match file.stat.node {
                tty::CONTROLLING => Side::Controlling { node },
                _ => Side::Slave { device, node },
            }
        };
        if side != Side::Dead && tty::termios(fd).is_ok_and(|termios| termios.line != 0) {
            self.odd.insert(file.holder);
        }
        self.sides.insert(file.holder, side);
        Ok(())
    }

    /// What a descriptor is.
    pub fn side(&self, file: &Seen) -> Option<Side> {
        self.sides.get(&file.holder).copied()
    }

    /// The file system of a pair of the container's with this device number; 0 where there is none.
    pub fn device_of(&self, node: (u32, u32)) -> u64 {
        let found = self.masters.iter().find(|(_, index)| node == (136, *index));
        found.map_or(0, |(device, _)| *device)
    }

    /// Whether a descriptor leads to a terminal that is not the container's.
    fn is_outside(&self, side: Side) -> bool {
        match side {
            Side::Master { .. } | Side::Dead => false,
            Side::Slave { device, node } => {
                node.0 != 136 || !self.masters.contains(&(device, node.1))
            }
            Side::Controlling { node } => self.device_of(node) == 0,
        }
    }

    /// Why a terminal cannot be taken.
    pub fn judge(&self, file: &Seen, is_reachable: bool) -> std::result::Result<(), Obstacle> {
        let shown = file.link.to_string();
        if self.odd.contains(&file.holder) {
            return Err(obstacle(
                format!("the terminal {shown} with a line discipline of its own"),
                "only the usual one (N_TTY) is supported; end the program that set it",
            ));
        }
        let side = self.side(file);
        match side {
            Some(side @ Side::Slave { node, .. }) if self.is_outside(side) => {
                let controls =
                    stat::read(file.holder.pid).is_ok_and(|stat| stat.terminal() == Some(node));
                if self.standard.contains(&node) || controls {
                    return Ok(());
                }
                Err(obstacle(
                    format!("the terminal {shown}, whose other side is outside the container"),
                    "close it first; terminals from outside are supported as standard input and output, and as controlling terminals",
                ))
            }
            Some(Side::Master { .. } | Side::Slave { .. }) if !is_reachable => Err(obstacle(
                format!("{shown}, on a mount that the container does not have"),
                "close it first, or mount it into the container",
            )),
            Some(_) => Ok(()),
            None => Err(obstacle(
                format!("the terminal {shown}"),
                "it does not answer as terminals do; close it first",
            )),
        }
    }
}

/// The file system that a master which was opened by a node elsewhere belongs to (`devpts_acquire`, fs/devpts/inode.c).
fn beside(root: &Root, path: Option<&Name>) -> Result<u64> {
    let Some(path) = path else {
        return Ok(0);
    };
    let found = root.stat(&directory_of(path.as_path()));
    Ok(found.map_or(0, |found| found.device))
}

/// Where the slaves of masters opened by this path are: in the same directory, or in `pts` beside it.
pub(super) fn directory_of(ptmx: &Path) -> PathBuf {
    let above = ptmx.parent().unwrap_or(Path::new("/"));
    match above.file_name() {
        Some(name) if name == "pts" => above.into(),
        _ => above.join("pts"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slaves_are_beside_the_multiplexer_or_below_it() {
        for path in ["/dev/ptmx", "/dev/pts/ptmx"] {
            assert_eq!(directory_of(Path::new(path)), Path::new("/dev/pts"));
        }
    }
}
