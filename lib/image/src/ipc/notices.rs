//! Who is told when a message comes into a queue that was empty (mq_notify(3)).

use crate::bytes::Bytes;
use crate::ids::Pid;
use serde::{Deserialize, Serialize};

/// The one registration that a queue can have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notice {
    /// The process.
    pub pid: Pid,
    /// A descriptor of the queue's that it has.
    pub descriptor: i32,
    /// How it is told.
    pub how: How,
}

/// `sigev_notify` (sigevent(3type)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum How {
    /// `SIGEV_NONE`: not at all; but nobody else is.
    Nothing {},
    /// `SIGEV_SIGNAL`.
    Signal {
        /// Its number.
        signal: i32,
        /// `sigev_value`.
        value: u64,
    },
    /// `SIGEV_THREAD`: by a message to a netlink socket, at which the C library has a thread that waits.
    Thread {
        /// The socket's descriptor.
        socket: i32,
        /// The message, 32 bytes.
        cookie: Bytes,
    },
}
