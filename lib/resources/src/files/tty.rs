//! Terminals: pseudoterminals with both sides in the container, taken and made again with their numbers, and the one
//! whose other side is outside, for which stands what is given at restore.

mod contents;
mod made;
mod sides;

pub use made::Terminals;
pub(crate) use sides::{Side, Sides};

use super::borrowed::Borrowed;
use super::collect::Collector;
use super::surroundings::Surroundings;
use crate::{Error, Result, Source};
use contents::Contents;
use image::bytes::Bytes;
use image::files::tty::{Pair, Terminal, Termios, Tty};
use image::ids::{Pid, TerminalId};
use image::path::Name;
use kernel::descriptor::{self, O_NOCTTY, O_NONBLOCK, O_RDWR};
use kernel::proc::{stat, status};
use kernel::tty;
use std::os::fd::{AsFd, OwnedFd};

/// A terminal of which an open file was met.
#[derive(Debug, Default)]
pub(crate) struct Met {
    /// File system of the slave (none where only its number is known) and device number.
    device: u64,
    node: (u32, u32),
    master: Option<(OwnedFd, Name)>,
    slave: Option<OwnedFd>,
}

/// Takes an open file; the terminal itself comes in the end ([`terminals`]).
pub(crate) fn dump(file: &Borrowed, collector: &mut Collector) -> Result<Tty> {
    let side = collector.around.terminals.side(file);
    let side = side
        .ok_or_else(|| Error::Refused(format!("{}: {} is no terminal", file.holder, file.link)))?;
    let path = collector.around.inside(&file.link);
    let path = path.unwrap_or_else(|| file.link.clone());
    Ok(match side {
        Side::Dead => Tty::Dead {
            path: Surroundings::without_deleted(&path),
            index: file.stat.node.1,
        },
        Side::Master { device, index } => {
            let (terminal, met) = meet(collector, device, (136, index));
            met.master = Some((descriptor::duplicate(file.fd.as_fd())?, path));
            Tty::Master { terminal }
        }
        Side::Slave { device, node } => {
            let (terminal, met) = meet(collector, device, node);
            met.slave = Some(descriptor::duplicate(file.fd.as_fd())?);
            Tty::Slave { terminal, path }
        }
        Side::Controlling { node } => {
            // Of which file system it is, nobody says: of a pair of the container's with this number, if there is one.
            let device = collector.around.terminals.device_of(node);
            let (terminal, met) = meet(collector, device, node);
            met.slave = Some(descriptor::duplicate(file.fd.as_fd())?);
            Tty::Controlling { terminal, path }
        }
    })
}

fn meet<'a>(
    collector: &'a mut Collector,
    device: u64,
    node: (u32, u32),
) -> (TerminalId, &'a mut Met) {
    let all = &mut collector.terminals;
    let known = all.iter().position(|met| met.is(device, node));
    let at = known.unwrap_or(all.len());
    if known.is_none() {
        all.push(Met {
            device,
            node,
            ..Met::default()
        });
    }
    (TerminalId(at as u32), &mut all[at])
}

impl Met {
    /// One known by its number only is any of that number.
    fn is(&self, device: u64, node: (u32, u32)) -> bool {
        self.node == node && (self.device == device || self.device == 0 || device == 0)
    }
}

/// Takes the terminals themselves, when all that have one open were met.
pub(crate) fn terminals(collector: &mut Collector) -> Result<Vec<Terminal>> {
    let source = collector.source;
    let leaders = leaders(source)?;
    for leader in &leaders {
        let held = |met: &Met| -> Result<bool> {
            Ok(match &met.master {
                Some((master, _)) => tty::session(master.as_fd())? == Some(leader.pid),
                None => met.node == leader.terminal,
            })
        };
        let mut found = false;
        for met in &collector.terminals {
            found |= held(met)?;
        }
        if !found {
            // Nobody has it open, and it controls the session all the same.
            let node = leader.terminal;
            collector.terminals.push(Met {
                node,
                ..Met::default()
            });
        }
    }
    let met = std::mem::take(&mut collector.terminals);
    let mut taken = Vec::with_capacity(met.len());
    for (i, met) in met.iter().enumerate() {
        let id = TerminalId(i as u32);
        taken.push(match &met.master {
            Some((master, ptmx)) => pair(id, met, master, ptmx, &leaders, source)?,
            None => outside(id, met, &leaders, source)?,
        });
    }
    Ok(taken)
}

/// The leader of a session that has a controlling terminal.
struct Leader {
    pid: kernel::Pid,
    terminal: (u32, u32),
    foreground: kernel::Pid,
}

fn leaders(source: &Source) -> Result<Vec<Leader>> {
    let mut found = Vec::new();
    for process in &source.processes {
        let stat = stat::read(process.pid)?;
        if let Some(terminal) = stat.terminal()
            && stat.session() == process.pid
        {
            found.push(Leader {
                pid: process.pid,
                terminal,
                foreground: stat.foreground(),
            });
        }
    }
    Ok(found)
}

/// A process group by its number in the container, where it has a live member there.
fn group(pid: kernel::Pid, source: &Source) -> Result<Option<Pid>> {
    for process in &source.processes {
        if stat::read(process.pid)?.pgrp() == pid {
            let names = status::read(process.pid)?.numbers("NSpgid")?;
            return Ok(names.last().map(|pgid| *pgid as Pid));
        }
    }
    Ok(None)
}

fn pair(
    id: TerminalId,
    met: &Met,
    master: &OwnedFd,
    ptmx: &Name,
    leaders: &[Leader],
    source: &Source,
) -> Result<Terminal> {
    let side = master.as_fd();
    let (packets, locked) = (tty::has_packets(side)?, tty::is_locked(side)?);
    let hung_up = tty::ready(side)?.hung_up;
    let termios = tty::termios(side)?;
    let slave = if met.slave.is_some() || hung_up {
        Some(open_slave(master, locked)?)
    } else {
        // Opened by nobody so far: when we closed it, its master would hear that it hung up.
        None
    };
    let contents = match &slave {
        Some(slave) => contents::take(slave.as_fd(), Some(side), &termios)?,
        None => Contents::default(),
    };
    let stat = slave.as_ref().map(|slave| descriptor::stat(slave.as_fd()));
    let stat = stat.transpose()?;
    let session = tty::session(side)?;
    let leader = leaders.iter().find(|leader| Some(leader.pid) == session);
    let exclusive = slave.as_ref().map(|slave| tty::is_exclusive(slave.as_fd()));
    Ok(Terminal {
        id,
        pair: Some(Pair {
            ptmx: ptmx.clone(),
            index: tty::index(side)?,
            uid: stat.map_or(0, |stat| stat.uid),
            gid: stat.map_or(0, |stat| stat.gid),
            mode: stat.map_or(0o620, |stat| stat.permissions()),
            locked,
            opened: met.slave.is_some(),
            packets,
            exclusive: exclusive.transpose()?.unwrap_or(false),
            hung_up,
            output: Bytes(contents.output),
        }),
        termios: Some(record(&termios)),
        window: window(side)?,
        session: session.and_then(|pid| source.inside(pid)),
        foreground: leader
            .map(|leader| group(leader.foreground, source))
            .transpose()?
            .flatten(),
        input: contents.input,
        stopped: contents.stopped,
    })
}

/// The slave once more, for ourselves: it does not block, and is not locked for us.
fn open_slave(master: &OwnedFd, locked: bool) -> Result<OwnedFd> {
    let master = master.as_fd();
    if locked {
        tty::lock(master, false)?;
    }
    let slave = tty::peer(master, O_RDWR | O_NONBLOCK);
    if locked {
        tty::lock(master, true)?;
    }
    Ok(slave?)
}

fn outside(id: TerminalId, met: &Met, leaders: &[Leader], source: &Source) -> Result<Terminal> {
    let leader = leaders.iter().find(|leader| leader.terminal == met.node);
    let mut terminal = Terminal {
        id,
        pair: None,
        termios: None,
        window: [0; 4],
        session: leader.and_then(|leader| source.inside(leader.pid)),
        foreground: None,
        input: Default::default(),
        stopped: false,
    };
    if let Some(slave) = &met.slave {
        let termios = tty::termios(slave.as_fd())?;
        terminal.termios = Some(record(&termios));
        terminal.window = window(slave.as_fd())?;
        if leader.is_some() {
            // Else what was typed is for the shell that it was started from, as much as for the container.
            let own = descriptor::reopen(slave.as_fd(), O_RDWR | O_NONBLOCK | O_NOCTTY)?;
            terminal.input = contents::take(own.as_fd(), None, &termios)?.input;
        }
    }
    let foreground = match leader {
        Some(leader) => Some(leader.foreground),
        None => shared_foreground(met.node, source)?,
    };
    if let Some(pid) = foreground {
        terminal.foreground = group(pid, source)?;
    }
    Ok(terminal)
}

/// The foreground group of a terminal whose session is led from outside.
fn shared_foreground(node: (u32, u32), source: &Source) -> Result<Option<kernel::Pid>> {
    for process in &source.processes {
        let stat = stat::read(process.pid)?;
        if stat.terminal() == Some(node) {
            return Ok(Some(stat.foreground()));
        }
    }
    Ok(None)
}

fn window(side: std::os::fd::BorrowedFd) -> Result<[u16; 4]> {
    let found = tty::window(side)?;
    Ok([found.rows, found.columns, found.width, found.height])
}

fn record(termios: &tty::Termios) -> Termios {
    Termios {
        input: termios.input,
        output: termios.output,
        control: termios.control,
        local: termios.local,
        characters: termios.characters,
        input_speed: termios.input_speed,
        output_speed: termios.output_speed,
    }
}

/// For the kernel.
pub(crate) fn of_record(record: &Termios) -> tty::Termios {
    tty::Termios {
        input: record.input,
        output: record.output,
        control: record.control,
        local: record.local,
        line: 0,
        characters: record.characters,
        input_speed: record.input_speed,
        output_speed: record.output_speed,
    }
}
