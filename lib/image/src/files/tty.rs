//! Terminals: pseudoterminals with both sides in the container, and the one whose other side is outside (pty(7)). The
//! terminals themselves are in `tree.json`, for it is by fork that processes come by the one that controls them.

use crate::bytes::Bytes;
use crate::ids::{Pid, TerminalId};
use crate::path::Name;
use serde::{Deserialize, Serialize};

/// An opened terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "side", rename_all = "snake_case", deny_unknown_fields)]
pub enum Tty {
    /// The master of a pair, which is opened once.
    Master {
        /// The pair.
        terminal: TerminalId,
    },
    /// What programs take for a terminal.
    Slave {
        /// Of a pair, or that from outside.
        terminal: TerminalId,
        /// From the root of its mount namespace.
        path: Name,
    },
    /// The same, opened as `/dev/tty` by a process that it controls.
    Controlling {
        /// Of a pair, or that from outside.
        terminal: TerminalId,
        /// From the root of its mount namespace.
        path: Name,
    },
    /// A slave whose master is closed: reads give nothing, all else fails.
    Dead {
        /// Where it was, from the root of its mount namespace.
        path: Name,
        /// Its number, which is taken as long as somebody has it open.
        index: u32,
    },
}

/// A terminal, whoever has it open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terminal {
    /// What open files call it.
    pub id: TerminalId,
    /// A pair of the container's; absent where the master is outside, and whoever restores it says which terminal it is.
    pub pair: Option<Pair>,
    /// Settings; absent where nobody has it open.
    pub termios: Option<Termios>,
    /// Rows, columns, width and height in pixels.
    pub window: [u16; 4],
    /// The leader of the session that it controls; absent where there is none or it is outside.
    pub session: Option<Pid>,
    /// The process group in its foreground; absent where it is gone or outside.
    pub foreground: Option<Pid>,
    /// Typed, and read by nobody.
    pub input: Input,
    /// Output is held back (control-S).
    pub stopped: bool,
}

/// `struct termios2` (include/uapi/asm-generic/termbits.h).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Termios {
    /// `c_iflag`.
    pub input: u32,
    /// `c_oflag`.
    pub output: u32,
    /// `c_cflag`.
    pub control: u32,
    /// `c_lflag`.
    pub local: u32,
    /// `c_cc`.
    pub characters: [u8; 19],
    /// `c_ispeed`, bits a second.
    pub input_speed: u32,
    /// `c_ospeed`.
    pub output_speed: u32,
}

/// What was typed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// In canonical mode: what each read(2) would give. One that does not end with a character that ends a line was
    /// ended by `VEOF`.
    pub lines: Vec<Bytes>,
    /// The rest: a line not ended yet, or all there is in raw mode.
    pub rest: Bytes,
}

/// A pseudoterminal that is the container's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// The path by which the master was opened: `/dev/ptmx`, `/dev/pts/ptmx`.
    pub ptmx: Name,
    /// Its number: the slave is `pts/N`.
    pub index: u32,
    /// Owner of the slave.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permission bits.
    pub mode: u32,
    /// The slave cannot be opened yet (`TIOCSPTLCK`).
    pub locked: bool,
    /// The master reads packets (`TIOCPKT`).
    pub packets: bool,
    /// Somebody has the slave open.
    pub opened: bool,
    /// The slave may not be opened once more (`TIOCEXCL`).
    pub exclusive: bool,
    /// All who had the slave open have closed it, and the master has been told so.
    pub hung_up: bool,
    /// Written, and not read from the master.
    pub output: Bytes,
}
