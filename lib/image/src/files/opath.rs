//! Files of any kind opened with `O_PATH`: a place in the file system, nothing of its contents (open(2)).

use crate::path::Name;
use serde::{Deserialize, Serialize};

/// A place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opath {
    /// From the root of its mount namespace.
    pub path: Name,
    /// `S_IFMT` bits of `st_mode`.
    pub format: u32,
}
