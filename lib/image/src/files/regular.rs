//! Regular files that have a name: opened again by it.

use crate::path::Name;
use serde::{Deserialize, Serialize};

/// A file, with what it looked like when it was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Regular {
    /// From the root of its mount namespace.
    pub path: Name,
    /// Size in bytes.
    pub size: u64,
    /// Last change of its contents, seconds since 1970 (`st_mtime`).
    pub mtime: i64,
}
