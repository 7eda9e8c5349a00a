//! Control groups (cgroups(7)): where the container's root process was, and what it was limited to there. Limits are in
//! the words of version 1, whatever the host had.

pub mod groups;

use crate::path::Name;
use serde::{Deserialize, Serialize};

/// The membership of the root process, from `/proc/PID/cgroup`, and the limits of groups of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cgroups {
    /// One for each hierarchy.
    pub memberships: Vec<Membership>,
    /// What its own groups limit; nothing where it had none of its own.
    pub limits: Limits,
}

/// One line of `/proc/PID/cgroup`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// `freezer`, `cpu,cpuacct`, `name=systemd`; empty for the unified hierarchy (v2).
    pub controllers: String,
    /// The group, from the root of the hierarchy: the root of its cgroup namespace, where it has one of its own.
    pub path: Name,
    /// It is the container's own: not the one that `checkpoint` was in, nor the root.
    pub own: bool,
}

/// What groups limit; what is absent is not limited, or has the value it has by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Memory, bytes (`memory.limit_in_bytes`, `memory.max`).
    pub memory: Option<u64>,
    /// Memory and swap together, bytes (`memory.memsw.limit_in_bytes`; v2 limits swap alone).
    pub memory_and_swap: Option<u64>,
    /// What is left to it when memory is short, bytes (`memory.soft_limit_in_bytes`, `memory.low`).
    pub memory_reserved: Option<u64>,
    /// The inclination to swap, 0 to 100 (`memory.swappiness`; v1 only).
    pub swappiness: Option<u64>,
    /// Out of memory its processes wait instead of being killed (`memory.oom_control`; v1 only).
    pub oom_waits: bool,
    /// Processes and threads (`pids.max`).
    pub pids: Option<u64>,
    /// Weight of its claim on the CPUs, 2 to 262144, 1024 by itself (`cpu.shares`; v2: `cpu.weight`).
    pub cpu_shares: Option<u64>,
    /// Time on CPUs in each period, microseconds (`cpu.cfs_quota_us`, `cpu.max`).
    pub cpu_quota: Option<Quota>,
    /// The CPUs it may use, as a list (`cpuset.cpus`).
    pub cpus: Option<String>,
    /// The memory nodes it may use, as a list (`cpuset.mems`).
    pub nodes: Option<String>,
    /// Weight of its claim on block devices, 1 to 1000, 100 by itself (`blkio.bfq.weight`, `io.bfq.weight`).
    pub io_weight: Option<u64>,
    /// Limits of single block devices (`blkio.throttle.*`, `io.max`).
    pub io: Vec<Throttle>,
    /// The devices it may use; absent: all.
    pub devices: Option<Vec<DeviceRule>>,
}

/// A share of CPU time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Microseconds in each period.
    pub quota: u64,
    /// Length of a period, microseconds.
    pub period: u64,
}

/// A limit of one block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Throttle {
    /// Number of the device at the source.
    pub major: u32,
    /// The same.
    pub minor: u32,
    /// What is limited.
    pub of: Traffic,
    /// In each second.
    pub limit: u64,
}

/// Traffic of a block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Traffic {
    /// Bytes read.
    ReadBytes,
    /// Bytes written.
    WriteBytes,
    /// Operations that read.
    Reads,
    /// Operations that write.
    Writes,
}

/// Devices that may be used (`devices.list`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceRule {
    /// Block devices; else character devices.
    pub block: bool,
    /// Major number; absent: all.
    pub major: Option<u32>,
    /// Minor number; absent: all.
    pub minor: Option<u32>,
    /// May be read.
    pub read: bool,
    /// May be written.
    pub write: bool,
    /// Its node may be made.
    pub make: bool,
}
