//! `--tcp`, which `checkpoint` and `restore` have alike.

use image::sockets::tcp::Connections;

/// What becomes of established TCP connections with the world outside the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Tcp {
    /// They travel, and go on where the container has its address again.
    Established,
    /// The program finds them reset by the other end.
    Close,
}

impl From<Tcp> for Connections {
    fn from(tcp: Tcp) -> Self {
        match tcp {
            Tcp::Established => Connections::Established,
            Tcp::Close => Connections::Closed,
        }
    }
}
