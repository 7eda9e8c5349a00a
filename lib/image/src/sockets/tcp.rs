//! TCP sockets: tcp(7).

use super::options::Options;
use super::{Address, Version};
use crate::bytes::Bytes;
use serde::{Deserialize, Serialize};

/// One TCP socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tcp {
    /// IPv4 or IPv6.
    pub version: Version,
    /// Made with `IPPROTO_MPTCP`, as many services listen by default.
    #[serde(default)]
    pub multipath: bool,
    /// Where it stands.
    pub state: State,
    /// Options set.
    pub options: Options,
}

/// Where a TCP socket stands (`tcpi_state`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case", deny_unknown_fields)]
pub enum State {
    /// `TCP_CLOSE`, never connected: fresh, or bound only.
    Fresh {
        /// What it is bound to; absent where it is not.
        local: Option<Address>,
    },
    /// `TCP_LISTEN`.
    Listening {
        /// What it is bound to.
        local: Address,
        /// As given to `listen`.
        backlog: u32,
        /// Connections not yet accepted, the oldest first.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        clients: Vec<Connection>,
    },
    /// `TCP_CLOSE` after a connection that has ended: reads end of file, writes break.
    Finished {
        /// The address it had.
        local: Address,
        /// What was received and not yet read.
        received: Bytes,
        /// The urgent byte among that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        urgent: Option<Urgent>,
        /// `ECONNRESET` waits to be read.
        reset: bool,
    },
    /// `TCP_SYN_SENT`: the other end has not answered yet.
    Connecting {
        /// Our end.
        local: Address,
        /// The other end.
        remote: Address,
        /// Sequence number of the first byte that would be sent.
        sequence: u32,
    },
    /// `TCP_SYN_SENT` of which the program is to hear that it was refused.
    Refused {
        /// Our end.
        local: Address,
    },
    /// A connection, whole or half-closed.
    Connected(Connection),
}

/// What becomes of established connections with the world outside the container. Those between two of its own sockets
/// always travel whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Connections {
    /// There are none: one would have been in the way.
    #[default]
    None,
    /// They travel whole, and go on where the container has its address again.
    Established,
    /// They end: the program finds them reset by the other end.
    Closed,
}

/// A connection as `TCP_REPAIR` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    /// Which ends have said that they will send no more.
    pub phase: Phase,
    /// Our end.
    pub local: Address,
    /// The other end.
    pub remote: Address,
    /// Sequence number of the first byte not acknowledged by the other end; of the byte behind the last where there is none.
    pub send_sequence: u32,
    /// What the other end has not yet acknowledged.
    pub send_queue: Bytes,
    /// How many bytes at its end were never sent (`SIOCOUTQNSD`).
    pub unsent: u32,
    /// Sequence number of the first byte not yet read.
    pub receive_sequence: u32,
    /// What was received and not yet read.
    pub receive_queue: Bytes,
    /// The urgent byte among that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urgent: Option<Urgent>,
    /// Largest segment the other end takes (`TCP_MAXSEG`).
    pub mss: u32,
    /// Window scales, ours for sending and for receiving (`tcpi_snd_wscale`, `tcpi_rcv_wscale`); absent where not agreed.
    pub window_scale: Option<(u8, u8)>,
    /// Selective acknowledgements were agreed.
    pub sack: bool,
    /// Our timestamp clock (`TCP_TIMESTAMP`); absent where timestamps were not agreed.
    pub timestamp: Option<u32>,
    /// The windows (`TCP_REPAIR_WINDOW`).
    pub window: Window,
}

/// The urgent byte of what was received, at which reading pauses (`SIOCATMARK`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Urgent {
    /// How many unread bytes come before it.
    pub at: u32,
    /// It was read (`MSG_OOB`); only its place is left.
    pub read: bool,
}

/// How far a connection has been closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// `TCP_ESTABLISHED`: both ends send.
    Established,
    /// `TCP_FIN_WAIT1`: we have closed, the other end has not confirmed it.
    FinWait1,
    /// `TCP_FIN_WAIT2`: we have closed, which the other end has confirmed.
    FinWait2,
    /// `TCP_CLOSE_WAIT`: the other end has closed.
    CloseWait,
    /// `TCP_LAST_ACK`: the other end has closed, then we; not yet confirmed.
    LastAck,
    /// `TCP_CLOSING`: both have closed at once; not yet confirmed.
    Closing,
}

/// `struct tcp_repair_window` (include/uapi/linux/tcp.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Sequence number of the segment that last updated our send window.
    pub snd_wl1: u32,
    /// Bytes the other end would take.
    pub snd_wnd: u32,
    /// The largest window the other end ever offered.
    pub max_window: u32,
    /// Bytes we would take.
    pub rcv_wnd: u32,
    /// What we had received when we last told our window.
    pub rcv_wup: u32,
}
