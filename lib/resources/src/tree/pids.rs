//! Births in pid namespaces inside the container. Process 1 makes its namespace by being born (`CLONE_NEWPID`); who comes
//! into one from outside has a parent that enters it for the length of the fork (setns(2), for children alone).

use super::grow::{Tasks, task};
use super::numbers::Numbers;
use crate::{Error, Result};
use image::ids::Pid;
use image::tree::Tree;
use kernel::namespaces::Kind;
use kernel::nsfs::Handle;
use kernel::pidfd::PidFd;
use kernel::proc::Proc;
use kernel::remote::{Caller, Plant, Stub, call, plant};
use std::os::fd::AsFd;

/// How a child comes into its pid namespace.
#[derive(Debug, Default)]
pub(super) struct Way {
    /// For its clone3.
    pub(super) flags: u64,
    /// Where the creator's children are to be again afterwards.
    own: Option<Handle>,
}

impl Way {
    /// The creator's children are in its own namespace again.
    pub(super) fn leave(self, creator: &mut Stub) -> Result<()> {
        match self.own {
            Some(own) => go(creator, &own),
            None => Ok(()),
        }
    }
}

/// Has `creator` fork into the pid namespace in which `child` is to be.
pub(super) fn enter(
    tasks: &mut Tasks,
    numbers: &Numbers,
    tree: &Tree,
    creator: Pid,
    child: Pid,
) -> Result<Way> {
    let (above, below) = (numbers.depth(creator), numbers.depth(child));
    let of = |pid| tree.nested.pids(pid).map(|inner| inner.id);
    // Who is in no record (a stand-in, a zombie) is where its creator is, or a level further down.
    let recorded = tree.nested.task(child).is_some() || tree.nested.task(creator).is_none();
    if below == above && (!recorded || of(child) == of(creator)) {
        return Ok(Way::default());
    }
    if below == above + 1 && tree.nested.innermost(child) == 1 {
        return Ok(Way {
            flags: call::CLONE_NEWPID,
            own: None,
        });
    }
    let wanted = of(child);
    let mut inhabitants = tasks
        .iter()
        .filter(|(pid, _)| wanted.is_some() && of(**pid) == wanted);
    let (_, there) = inhabitants.next().ok_or_else(|| {
        Error::Refused(format!(
            "process {child} is in a pid namespace that cannot be entered: process 1 of it is not there"
        ))
    })?;
    let handle = Handle::of(there.tid(), there.tid(), Kind::Pid)?;
    let creator = task(tasks, creator)?;
    let own = Handle::of(creator.tid(), creator.tid(), Kind::Pid)?;
    go(creator, &handle)?;
    Ok(Way {
        flags: 0,
        own: Some(own),
    })
}

/// Enters a namespace by a descriptor that is planted and closed again.
pub(crate) fn go(stub: &mut Stub, handle: &Handle) -> Result<()> {
    let pid = stub.tid();
    let leader = kernel::proc::status::read(pid)?.number("Tgid")? as kernel::Pid;
    let number = 1 + Proc::process(leader)
        .numbers("fd")?
        .last()
        .copied()
        .unwrap_or(2);
    let plants = [Plant {
        fd: handle.as_fd(),
        number,
        close_on_exec: true,
    }];
    plant(stub, &PidFd::open(leader)?, &plants)?;
    let kind = handle.kind();
    let entered = stub.must(
        &format!("enter a {} namespace", kind.name()),
        call::setns(number, kind),
    );
    stub.must("close", call::close(number))?;
    entered?;
    Ok(())
}
