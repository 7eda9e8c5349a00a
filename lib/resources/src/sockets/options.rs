//! Socket options: what differs from a fresh socket of the same kind is recorded, and set again.

use crate::{Error, Result};
use image::bytes::Bytes;
use image::sockets::options::{Options, Setting, Value};
use kernel::socket;
use kernel::socket::option::{self, KNOWN, When};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::{AsFd, BorrowedFd};

type Values = HashMap<&'static str, option::Value>;

/// What options a fresh socket has, by family, type and protocol. To be asked in the container's network namespace, whose
/// sysctls choose defaults.
#[derive(Debug, Default)]
pub struct Fresh {
    known: HashMap<(i32, i32, i32), Values>,
}

impl Fresh {
    fn of(&mut self, network: kernel::Pid, kind: (i32, i32, i32)) -> Result<&Values> {
        match self.known.entry(kind) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(unknown) => Ok(unknown.insert(defaults(network, kind)?)),
        }
    }
}

fn defaults(network: kernel::Pid, kind: (i32, i32, i32)) -> Result<Values> {
    let read = || {
        let create = || socket::create(kind.0, kind.1, kind.2);
        let socket = match create() {
            Err(e) if e.raw() == Some(EACCES) => super::raw::as_permitted(create)?,
            made => made?,
        };
        let read = |known: &option::Known| Some((known.name, known.read(socket.as_fd())?));
        Ok(KNOWN.iter().filter_map(read).collect())
    };
    Ok(kernel::within(network, &[kernel::Namespace::Net], read).flatten()?)
}

/// Refuses what no kernel tells about: a filter that was loaded as a program of eBPF.
pub fn judge(fd: BorrowedFd, holder: &super::Holder) -> Result<()> {
    match socket::filter(fd) {
        Err(error) if error.raw() == Some(EACCES) => Err(holder.blocked(
            "a socket with a filter of eBPF (SO_ATTACH_BPF)",
            "detach it before the checkpoint, or attach a classic one (SO_ATTACH_FILTER)",
        )),
        _ => Ok(()),
    }
}

/// What `SO_GET_FILTER` says of a filter that was never a classic one (net/core/filter.c, `sk_get_filter`).
const EACCES: i32 = 13;

const SEND_BUFFER: &str = "SO_SNDBUF";
const RECEIVE_BUFFER: &str = "SO_RCVBUF";

/// Reads the options of a socket of the container whose network is that of process `network`; `but` names options that this
/// kind of socket moves by itself.
pub fn dump(
    fd: BorrowedFd,
    kind: (i32, i32, i32),
    fresh: &mut Fresh,
    network: kernel::Pid,
    but: &[&str],
) -> Result<Options> {
    let fresh = fresh.of(network, kind)?;
    let mut options = Options::default();
    let (send, receive) = option::buffers(fd)?;
    for (name, size) in [(SEND_BUFFER, send), (RECEIVE_BUFFER, receive)] {
        if let Some(size) = size {
            options.settings.push(Setting {
                option: name.into(),
                value: Value::Number(size),
            });
        }
    }
    for known in KNOWN.iter().filter(|known| !but.contains(&known.name)) {
        let Some(value) = known.read(fd) else {
            continue;
        };
        // Setting IP_TOS sets SO_PRIORITY: the program may have set it back.
        let follows = known.name == "SO_PRIORITY" && is_recorded(&options, "IP_TOS");
        if fresh.get(known.name) != Some(&value) || follows {
            let value = match value {
                option::Value::Number(n) => Value::Number(n),
                option::Value::Bytes(bytes) => Value::Bytes(Bytes(bytes)),
                option::Value::Interface(index) => {
                    let name = kernel::within(network, &[kernel::Namespace::Net], || {
                        socket::interface_name(index)
                    });
                    Value::Interface(name.flatten()?)
                }
            };
            options.settings.push(Setting {
                option: known.name.into(),
                value,
            });
        }
    }
    // An error: a family without filters. One of eBPF `judge` has refused.
    let filter = socket::filter(fd).unwrap_or_default();
    options.filter = (!filter.is_empty()).then_some(Bytes(filter));
    Ok(options)
}

fn is_recorded(options: &Options, name: &str) -> bool {
    options.settings.iter().any(|s| s.option == name)
}

/// Sets what may be set before the socket has an address.
pub fn early(fd: BorrowedFd, options: &Options) -> Result<()> {
    buffers(fd, options)?;
    set(fd, options, When::Early)
}

/// Sets the rest, once queues are filled and connections made. What was set early is said again: making a connection
/// changes some of it.
pub fn late(fd: BorrowedFd, options: &Options) -> Result<()> {
    buffers(fd, options)?;
    if let Some(program) = &options.filter {
        socket::attach_filter(fd, &program.0)?;
    }
    set(fd, options, When::Late)
}

fn buffers(fd: BorrowedFd, options: &Options) -> Result<()> {
    for setting in &options.settings {
        match (setting.option.as_str(), &setting.value) {
            (SEND_BUFFER, Value::Number(size)) => option::set_send_buffer(fd, *size)?,
            (RECEIVE_BUFFER, Value::Number(size)) => option::set_receive_buffer(fd, *size)?,
            _ => {}
        }
    }
    Ok(())
}

fn set(fd: BorrowedFd, options: &Options, when: When) -> Result<()> {
    for setting in &options.settings {
        if matches!(setting.option.as_str(), SEND_BUFFER | RECEIVE_BUFFER) {
            continue;
        }
        let known = option::find(&setting.option).ok_or_else(|| {
            Error::Refused(format!(
                "the image sets a socket option unknown here: {}",
                setting.option
            ))
        })?;
        if known.when == when {
            known.set(fd, &value(&setting.value)?)?;
        }
    }
    Ok(())
}

/// Sets one option that was set early once more.
pub fn again(fd: BorrowedFd, options: &Options, name: &str) -> Result<()> {
    let recorded = options
        .settings
        .iter()
        .find(|setting| setting.option == name);
    let value = match recorded {
        Some(setting) => value(&setting.value)?,
        None => option::Value::Number(0),
    };
    match option::find(name) {
        Some(known) => Ok(known.set(fd, &value)?),
        None => Ok(()),
    }
}

/// Whether an option is recorded as on.
pub fn is_set(options: &Options, name: &str) -> bool {
    options
        .settings
        .iter()
        .any(|s| s.option == name && !matches!(s.value, Value::Number(0)))
}

fn value(recorded: &Value) -> Result<option::Value> {
    Ok(match recorded {
        Value::Number(n) => option::Value::Number(*n),
        Value::Bytes(bytes) => option::Value::Bytes(bytes.0.clone()),
        Value::Interface(name) => option::Value::Interface(index(name)?),
    })
}

/// The index that an interface has here, where this thread is.
pub fn index(name: &str) -> Result<u32> {
    socket::interface_index(name).map_err(|_| {
        Error::Refused(format!(
            "a socket is set to the interface {name}, which is not here: restore with a network that has it"
        ))
    })
}

/// Buffers made large while a queue is filled, and made again what they were.
#[derive(Debug)]
pub struct Roomy<'a> {
    fd: BorrowedFd<'a>,
    sizes: (i32, i32),
    locked: (bool, bool),
}

const LARGE: i32 = 64 << 20;

impl<'a> Roomy<'a> {
    /// Makes them large.
    pub fn make(fd: BorrowedFd<'a>) -> Result<Self> {
        let locked = option::buffers(fd)?;
        let size = |name| socket::number(fd, socket::SOL_SOCKET, name);
        let roomy = Roomy {
            fd,
            sizes: (size(socket::SO_SNDBUF)?, size(socket::SO_RCVBUF)?),
            locked: (locked.0.is_some(), locked.1.is_some()),
        };
        option::set_send_buffer(fd, LARGE)?;
        option::set_receive_buffer(fd, LARGE)?;
        Ok(roomy)
    }

    /// Makes them what they were.
    pub fn back(self) -> Result<()> {
        option::set_send_buffer(self.fd, self.sizes.0)?;
        option::set_receive_buffer(self.fd, self.sizes.1)?;
        Ok(option::lock_buffers(self.fd, self.locked.0, self.locked.1)?)
    }
}
