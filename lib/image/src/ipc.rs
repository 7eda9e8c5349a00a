//! `queues.json`: POSIX message queues (mq_overview(7)) of an IPC namespace of its own, with their messages.

pub mod notices;
pub mod sysv;

use crate::bytes::Bytes;
use crate::path::Name;
use serde::{Deserialize, Serialize};

/// All of them. The record is there only where there are any.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queues {
    /// By name.
    pub queues: Vec<Queue>,
}

/// One queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    /// Its name, without the slash.
    pub name: Name,
    /// Permission bits.
    pub mode: u32,
    /// Owner, as the container's host sees it.
    pub uid: u32,
    /// Group, as the container's host sees it.
    pub gid: u32,
    /// Most messages (`mq_maxmsg`).
    pub most: i64,
    /// Most bytes of a message (`mq_msgsize`).
    pub size: i64,
    /// Messages, in the order they would be received in.
    pub messages: Vec<Message>,
    /// Who is told of the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<notices::Notice>,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Its priority.
    pub priority: u32,
    /// Its bytes.
    pub content: Bytes,
}
