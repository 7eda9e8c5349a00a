//! Names for things that several records speak of: shared objects have ids and are referred to, never nested.

use serde::{Deserialize, Serialize};

/// A process or thread id as seen inside the container's own pid namespace (or the host's, where it has none).
pub type Pid = i32;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);
    };
}

id!(/// An open file description (`struct file`): what `dup` and `fork` share.
    FileId);
id!(/// A descriptor table (`struct files_struct`): what `CLONE_FILES` shares.
    TableId);
id!(/// An address space (`struct mm_struct`): what `CLONE_VM` shares.
    SpaceId);
id!(/// Working directory, root and umask (`struct fs_struct`): what `CLONE_FS` shares.
    FsId);
id!(/// Signal actions (`struct sighand_struct`): what `CLONE_SIGHAND` shares.
    ActionsId);
id!(/// A piece of memory shared between address spaces: anonymous, memfd or SysV.
    SharedId);
id!(/// A mount in the container's mount namespace (the mountinfo id at the source).
    MountId);
id!(/// A namespace inside the container.
    NsId);
id!(/// A pipe: both of its ends refer to it.
    PipeId);
id!(/// A terminal: both of its sides refer to it.
    TerminalId);
id!(/// A bulk entry `data/N` of the stream.
    BlobId);
