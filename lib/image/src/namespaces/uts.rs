//! Host and domain name (uts_namespaces(7)).

use crate::path::Name;
use serde::{Deserialize, Serialize};

/// An own UTS namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uts {
    /// `/proc/sys/kernel/hostname`.
    pub hostname: Name,
    /// `/proc/sys/kernel/domainname`.
    pub domainname: Name,
}
