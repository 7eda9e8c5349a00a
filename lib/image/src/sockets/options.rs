//! Socket options that differ from those of a fresh socket of the same kind (socket(7), ip(7), ipv6(7), tcp(7), udp(7)).

use crate::bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What was set on a socket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// In the order in which they are set again.
    pub settings: Vec<Setting>,
    /// The classic BPF program attached (`SO_GET_FILTER`), 8 bytes an instruction (`struct sock_filter`).
    pub filter: Option<Bytes>,
}

/// One option.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// The kernel's name: `SO_KEEPALIVE`, `TCP_NODELAY`.
    pub option: String,
    /// What `getsockopt` gave.
    pub value: Value,
}

/// The value of an option.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// An `int`.
    Number(i32),
    /// A string or a struct, without padding at its end: a device, a congestion control, a `struct linger`.
    Bytes(Bytes),
    /// The name of an interface, whose index `getsockopt` gave.
    Interface(String),
}
