//! User and group ids (user_namespaces(7)).

use serde::{Deserialize, Serialize};

/// The user namespace of a container. All other namespaces of its own belong to it. Ids outside are those that the
/// container's host sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Own {
    /// Its maps.
    pub maps: Users,
    /// Who has made it: in the namespace around it that user may do anything to it.
    pub maker: u32,
    /// The group of the container's root process: what it may have been born with, and the namespace has no number for.
    pub group: u32,
    /// Its supplementary groups, likewise.
    pub groups: Vec<u32>,
    /// Nobody in it may call setgroups(2) (`/proc/PID/setgroups`).
    pub keeps_groups: bool,
}

impl Own {
    /// Who makes files for user 0 of the namespace: user and group outside. Where it has no user 0, for the first that it has;
    /// for a namespace without ids its maker.
    pub fn root(&self) -> (u32, u32) {
        let first = |map: &[Range]| {
            let zero = map.iter().find(|range| range.inside == 0);
            zero.or(map.first()).map(|range| range.outside)
        };
        let (uids, gids) = (first(&self.maps.uids), first(&self.maps.gids));
        (uids.unwrap_or(self.maker), gids.unwrap_or(self.group))
    }
}

/// Both maps of a user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Users {
    /// `/proc/PID/uid_map`.
    pub uids: Vec<Range>,
    /// `/proc/PID/gid_map`.
    pub gids: Vec<Range>,
}

/// One line of an id map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}
