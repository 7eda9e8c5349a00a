//! `sysv.json`: semaphore sets and message queues of System V (sysvipc(7)) of an IPC namespace of its own. Shared memory
//! segments are memory objects (`memory.json`).

use crate::bytes::Bytes;
use crate::ids::Pid;
use serde::{Deserialize, Serialize};

/// All of them. The record is there only where there are any.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SystemV {
    /// Semaphore sets.
    pub sets: Vec<Set>,
    /// Message queues.
    pub queues: Vec<Queue>,
}

/// Who may use an object, and by which numbers it is found (`struct ipc_perm`, svipc(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permissions {
    /// Its id.
    pub id: i32,
    /// Its key (ftok(3)); 0 for a private one, and for a segment that is removed already.
    pub key: i32,
    /// Permission bits.
    pub mode: u32,
    /// Owner, as the container's host sees it.
    pub uid: u32,
    /// The owner's group.
    pub gid: u32,
    /// Who has made it.
    pub creator_uid: u32,
    /// The group of who has made it.
    pub creator_gid: u32,
}

/// A set of semaphores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Set {
    /// Numbers, owners, mode.
    pub permissions: Permissions,
    /// Whether semop(2) has ever changed one of them (`sem_otime` is not 0): the sign that they are ready for use.
    pub used: bool,
    /// The semaphores.
    pub semaphores: Vec<Semaphore>,
    /// What is taken back when a process ends (`SEM_UNDO`).
    pub undo: Vec<Undo>,
}

/// One semaphore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Semaphore {
    /// Its value.
    pub value: u16,
    /// The process of the container that has changed it last; none for one that is gone.
    pub last: Option<Pid>,
}

/// What is added to a semaphore when a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Undo {
    /// The process.
    pub pid: Pid,
    /// The semaphore, by its place in the set.
    pub number: u16,
    /// What is added.
    pub adjustment: i32,
}

/// A message queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    /// Numbers, owners, mode.
    pub permissions: Permissions,
    /// Most bytes of all its messages (`msg_qbytes`).
    pub limit: u64,
    /// Messages, oldest first.
    pub messages: Vec<Message>,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Its type, 1 or more.
    pub kind: i64,
    /// Its bytes.
    pub content: Bytes,
}

/// `SEMVMX`, the highest value of a semaphore (include/uapi/linux/sem.h).
pub const HIGHEST: u16 = 32767;
/// `SEMMSL` as far as any kernel allows it to be raised (ipc/sem.c).
const MOST_SEMAPHORES: usize = 1 << 16;

impl SystemV {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty() && self.queues.is_empty()
    }

    /// What is wrong with the record, if anything is.
    pub fn check(&self) -> Result<(), String> {
        for set in &self.sets {
            let (id, count) = (set.permissions.id, set.semaphores.len());
            if count == 0 || count > MOST_SEMAPHORES {
                return Err(format!("semaphore set {id} has {count} semaphores"));
            }
            if set.semaphores.iter().any(|one| one.value > HIGHEST) {
                return Err(format!("semaphore set {id} has a value over {HIGHEST}"));
            }
            let wrong = |undo: &&Undo| {
                usize::from(undo.number) >= count
                    || undo.adjustment.unsigned_abs() > u32::from(HIGHEST)
            };
            if let Some(undo) = set.undo.iter().find(wrong) {
                return Err(format!(
                    "process {} would take back what cannot be on semaphore {} of set {id}",
                    undo.pid, undo.number
                ));
            }
        }
        for queue in &self.queues {
            if queue.messages.iter().any(|message| message.kind < 1) {
                let id = queue.permissions.id;
                return Err(format!("message queue {id} has a message without a type"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_places_that_cannot_be_are_refused() {
        let permissions = Permissions {
            id: 3,
            key: 0,
            mode: 0o600,
            uid: 0,
            gid: 0,
            creator_uid: 0,
            creator_gid: 0,
        };
        let semaphore = Semaphore {
            value: 1,
            last: None,
        };
        let undo = Undo {
            pid: 1,
            number: 0,
            adjustment: -1,
        };
        let message = Message {
            kind: 1,
            content: Bytes::default(),
        };
        let right = SystemV {
            sets: vec![Set {
                permissions,
                used: true,
                semaphores: vec![semaphore],
                undo: vec![undo],
            }],
            queues: vec![Queue {
                permissions,
                limit: 16384,
                messages: vec![message],
            }],
        };
        assert_eq!(right.check(), Ok(()));
        let spoilt: [fn(&mut SystemV); 5] = [
            |all| all.sets[0].semaphores.clear(),
            |all| all.sets[0].semaphores[0].value = 32768,
            |all| all.sets[0].undo[0].number = 1,
            |all| all.sets[0].undo[0].adjustment = 40000,
            |all| all.queues[0].messages[0].kind = 0,
        ];
        for (i, spoil) in spoilt.iter().enumerate() {
            let mut all = right.clone();
            spoil(&mut all);
            assert!(all.check().is_err(), "{i}");
        }
    }
}
