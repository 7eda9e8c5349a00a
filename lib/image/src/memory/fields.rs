//! The fields of `struct mm_struct` that programs see: `PR_SET_MM_MAP` (prctl(2), `struct prctl_mm_map`).

use crate::bytes::Bytes;
use crate::ids::SharedId;
use serde::{Deserialize, Serialize};

/// Where the parts of a program lie, its auxiliary vector and its executable. Addresses; `end`s are the first behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fields {
    /// Code.
    pub start_code: u64,
    /// End of code.
    pub end_code: u64,
    /// Initialised data.
    pub start_data: u64,
    /// End of initialised data.
    pub end_data: u64,
    /// Where the heap of `brk(2)` starts.
    pub start_brk: u64,
    /// Where it ends now.
    pub brk: u64,
    /// The stack pointer at the program's start.
    pub start_stack: u64,
    /// Arguments, as `/proc/PID/cmdline` shows them.
    pub arg_start: u64,
    /// End of the arguments.
    pub arg_end: u64,
    /// Environment, as `/proc/PID/environ` shows it.
    pub env_start: u64,
    /// End of the environment.
    pub env_end: u64,
    /// `/proc/PID/auxv`: pairs of words.
    pub auxv: Bytes,
    /// `/proc/PID/exe`; nothing where the process has none.
    pub exe: Option<Executable>,
}

/// What a process's executable is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Executable {
    /// A file that has a name.
    File {
        /// Its place in the space's list of files.
        file: u32,
    },
    /// A memory file or a file without a name (`files.json`).
    Shared {
        /// Which.
        id: SharedId,
    },
}

/// `AT_VECTOR_SIZE` words and more than any architecture has (include/linux/auxvec.h).
const MAX_AUXV: usize = 1024;

impl Fields {
    /// What is wrong with them, if anything is; `files` is the number of files in the list.
    pub fn check(&self, files: usize) -> Result<(), String> {
        if self.auxv.0.len() > MAX_AUXV || !self.auxv.0.len().is_multiple_of(16) {
            return Err("the auxiliary vector is not one of at most 64 pairs".into());
        }
        match self.exe {
            Some(Executable::File { file }) if file as usize >= files => {
                Err("the executable is not in the list of files".into())
            }
            _ => Ok(()),
        }
    }
}
