//! Descriptors of POSIX message queues (mq_open(3)).

use crate::ids::{NsId, SharedId};
use crate::ipc::Queue;
use crate::path::Name;
use serde::{Deserialize, Serialize};

/// An opened queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mqueue {
    /// The queue's name, without the slash.
    pub name: Name,
    /// The IPC namespace that it is of; none: the container's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<NsId>,
    /// The queue itself, where it has no name any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlinked: Option<SharedId>,
}

/// A queue that was removed (mq_unlink(3)) and is still open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unlinked {
    /// What its descriptors call it.
    pub id: SharedId,
    /// The IPC namespace that it is of; none: the container's, or one that is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<NsId>,
    /// What it is, with the name that it had.
    pub queue: Queue,
}
