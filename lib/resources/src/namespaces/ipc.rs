//! System V IPC and POSIX message queues (ipc_namespaces(7)): the namespace's limits. What is in it is `crate::ipc`'s and
//! `memory::segments`'.

use crate::Result;
use image::namespaces::ipc::Ipc;
use kernel::{Namespace, Pid, within};
use std::collections::BTreeMap;

/// The sysctls that each IPC namespace has for itself (ipc_namespaces(7)).
const SYSCTLS: [&str; 12] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
    "fs/mqueue/queues_max",
    "fs/mqueue/msg_max",
    "fs/mqueue/msgsize_max",
    "fs/mqueue/msg_default",
];

/// Takes the limits.
pub fn dump(root: Pid) -> Result<Ipc> {
    let sysctls = within(root, &[Namespace::Ipc], || {
        let read = |name: &&str| {
            let text = std::fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
            Some((name.to_string(), text.trim_end().to_string()))
        };
        SYSCTLS.iter().filter_map(read).collect::<BTreeMap<_, _>>()
    })?;
    Ok(Ipc { sysctls })
}

/// Sets the limits that differ, in the calling process's namespace: called inside the vessel.
pub fn restore(ipc: &Ipc) -> Result<()> {
    for (name, value) in &ipc.sysctls {
        if !SYSCTLS.contains(&name.as_str()) {
            return Err(crate::Error::Refused(format!(
                "the image sets the sysctl {name}, which is not one of an ipc namespace's"
            )));
        }
        let path = format!("/proc/sys/{name}");
        let now = std::fs::read_to_string(&path).unwrap_or_default();
        if now.trim_end() != value {
            kernel::identity::write_as_owner(&path, value)?;
        }
    }
    Ok(())
}
