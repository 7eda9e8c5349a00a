//! The command line.

use image::sockets::tcp::Connections;
use std::path::PathBuf;

/// Take a running container, with all of its state, as an image on standard output
#[derive(Debug, clap::Parser)]
#[command(
    name = "checkpoint",
    version,
    after_help = "Exit status: 0 done, 1 failed, 2 bad usage, 4 the container uses something that cannot be taken (all of it \
    is listed), 5 no such container. Unless it is 0, the container runs on as if nothing had happened.\n\n\
    checkpoint web | pack | ssh host 'unpack | restore'"
)]
pub struct Options {
    /// Which container: NAME, in every engine that is here; podman:NAME, docker:NAME, runc:ID, crun:ID, native:NAME; or pid:N
    /// for the process tree below process N
    #[arg(
        required_unless_present = "latest",
        default_value = "",
        hide_default_value = true
    )]
    pub target: String,

    /// The container that podman made last, instead of a name
    #[arg(short, long, conflicts_with = "target")]
    pub latest: bool,

    /// Let the container run on afterwards instead of stopping it
    #[arg(short = 'R', long, group = "afterwards")]
    pub leave_running: bool,

    /// Keep the container frozen afterwards, until --thaw or --kill ends the hand-over
    #[arg(long, group = "afterwards")]
    pub leave_frozen: bool,

    /// Let a container run on that --leave-frozen has kept frozen; writes no image
    #[arg(long, group = "afterwards")]
    pub thaw: bool,

    /// End a container that --leave-frozen has kept frozen; writes no image
    #[arg(long, group = "afterwards")]
    pub kill: bool,

    /// Put the whole root file system into the image, where it is not the host's own, with the layers of a container image
    #[arg(long)]
    pub with_image: bool,

    /// Take file locks too; they always are, and the option is there for those who know it from podman
    #[arg(long)]
    pub file_locks: bool,

    /// What becomes of its established TCP connections with the outside: established, they travel, and go on where it has
    /// its address again; close, it finds them reset by the other end [default: they are in the way, each is named]
    #[arg(long, value_enum, value_name = "HOW")]
    pub tcp: Option<tool::Tcp>,

    /// The same as --tcp established
    #[arg(long, conflicts_with = "tcp")]
    pub tcp_established: bool,

    /// Take unix sockets whose other end is outside the container, without that: after the restore, datagram sockets are
    /// connected to the name they had, where somebody has it; all others find that their peer has closed [default: they are
    /// in the way, each is named]
    #[arg(long)]
    pub ext_unix: bool,

    /// Leave out what the container has changed in its root file system, on top of its image
    #[arg(long)]
    pub ignore_rootfs: bool,

    /// Leave out what is in volumes of the container engine's
    #[arg(long)]
    pub ignore_volumes: bool,

    /// Leave behind what is mounted at OLD in the container, whatever it is: restore --mount OLD=NEW says what takes its place;
    /// may be repeated
    #[arg(long, value_name = "OLD")]
    pub mount: Vec<PathBuf>,

    /// Options that every tool has.
    #[command(flatten)]
    pub common: tool::Common,
}

impl Options {
    /// What becomes of TCP connections with the outside.
    pub fn connections(&self) -> Connections {
        match self.tcp {
            _ if self.tcp_established => Connections::Established,
            Some(how) => how.into(),
            None => Connections::None,
        }
    }

    /// What of the container's files goes into the image.
    pub fn files(&self) -> resources::container::Files {
        resources::container::Files {
            with_image: self.with_image,
            ignore_rootfs: self.ignore_rootfs,
            ignore_volumes: self.ignore_volumes,
        }
    }
}
