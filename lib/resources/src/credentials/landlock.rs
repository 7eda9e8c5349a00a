//! Landlock: a thread that has restricted itself says so nowhere in `/proc`, and no call gives its rules. What shows is that it
//! may not look at a process outside of its restrictions (landlock(7), "Ptrace restrictions") that it could look at otherwise:
//! a witness of ours with the same ids. That is enough to refuse it.

use crate::{Blocker, Error, Result, SourceProcess, SourceThread};
use kernel::proc::{Proc, status};
use kernel::remote::{Call, Caller};
use kernel::witness::Witness;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;

/// `KCMP_VM` (include/uapi/linux/kcmp.h): any comparison needs the right to look at both.
const KCMP_VM: u64 = 1;
const SYS_ADMIN: u64 = 1 << 21;

/// Witnesses, by pid namespace, user and group.
#[derive(Debug, Default)]
pub struct Witnesses(HashMap<(PathBuf, u32, u32), Witness>);

impl Witnesses {
    /// Refuses a process of which a thread has restricted itself.
    pub fn refuse(&mut self, process: &mut SourceProcess) -> Result<()> {
        if !kernel::host::has_landlock() || !alike(process.pid) {
            return Ok(());
        }
        let pid = process.pid;
        for thread in &mut process.threads {
            if self.restricted(pid, thread)? {
                return Err(Error::Blocked(vec![Blocker {
                    pid,
                    place: format!("thread {}", thread.tid),
                    what: "it has restricted itself by landlock, of which the kernel tells nobody the rules".into(),
                    remedy: "start it without".into(),
                }]));
            }
        }
        Ok(())
    }

    fn restricted(&mut self, pid: kernel::Pid, thread: &mut SourceThread) -> Result<bool> {
        let status = status::read_thread(pid, thread.tid)?;
        // What a thread needs to restrict itself, or had when it did (landlock_restrict_self(2)); it may have given up the
        // latter since, which is looked at for first threads only.
        let could = status.number("NoNewPrivs")? != 0 || status.mask("CapPrm")? & SYS_ADMIN != 0;
        if !could && thread.tid != pid {
            return Ok(false);
        }
        let first =
            |key: &str| -> Result<i64> { Ok(status.numbers(key)?.first().copied().unwrap_or(0)) };
        let (uid, gid) = (first("Uid")? as u32, first("Gid")? as u32);
        let namespace = Proc::process(pid).link("ns/pid")?;
        let witness = match self.0.entry((namespace, uid, gid)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(Witness::beside(pid, uid, gid)?),
        };
        let names = status.numbers("NSpid")?;
        let own = names.last().copied().unwrap_or(thread.tid.into());
        let arguments = [own as u64, witness.inside() as u64, KCMP_VM, 0, 0];
        let result = thread.guest.call(Call::new(libc::SYS_kcmp, &arguments))?;
        thread.guest.rest()?;
        Ok(result == -i64::from(libc::EPERM))
    }
}

/// Whether a witness of ours would differ from the process in nothing else: they are in one user namespace, and no other
/// security module has told them apart.
fn alike(pid: kernel::Pid) -> bool {
    let of = |proc: &Proc| {
        let label = proc.text("attr/current").ok();
        (proc.link("ns/user").ok(), label)
    };
    of(&Proc::process(pid)) == of(&Proc::process(std::process::id() as kernel::Pid))
}
