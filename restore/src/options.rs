//! The command line.

use image::container::Engine;
use image::sockets::tcp::Connections;
use std::net::IpAddr;
use std::path::PathBuf;

/// Start a container from an image or an archive, where it stopped
#[derive(Debug, clap::Parser)]
#[command(
    name = "restore",
    version,
    after_help = "Exit status: 0 done (with --wait: that of the container), 1 failed, 2 bad usage, 3 bad archive, 4 this host lacks \
    something the container needs (all of it is listed), 5 the name or a pid is taken. Unless it is 0, nothing is left \
    behind.\n\nfor n in hello1 hello2 hello3; do restore -n $n < web.ckpt; done"
)]
pub struct Options {
    /// The image: an archive, a bare image or the directory of an unpacked one; standard input without it or for -
    #[arg(value_name = "FILE|DIR")]
    pub image: Option<PathBuf>,

    /// Make it a container of this name, in namespaces of its own, with an address of its own
    #[arg(short, long, value_parser = name)]
    pub name: Option<String>,

    /// What makes the container: an engine, or native for these tools alone [default: what made it before, where that is
    /// on this host]
    #[arg(long, value_parser = engine)]
    pub engine: Option<Engine>,

    /// Its network. Natively: host, bridge (one of its own on ferry0) or none (one of its own with lo only); with an engine
    /// one of its networks, as often as needed [default: what it had; natively with -n: bridge]
    #[arg(long, value_name = "NETWORK")]
    pub network: Vec<String>,

    /// Publish a port of an engine's container, instead of those it had, as podman-create(1) has it; may be repeated
    #[arg(short, long, value_name = "[[IP:]HOST:]PORT[/PROTOCOL]")]
    pub publish: Vec<String>,

    /// Put it into this pod of podman's
    #[arg(long, value_name = "POD")]
    pub pod: Option<String>,

    /// Its address on its engine's network
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<IpAddr>,

    /// Do not ask the engine for the address the container had, or was given by hand; with -n only the latter is asked for
    #[arg(long)]
    pub ignore_static_ip: bool,

    /// Do not ask the engine for the hardware address the container had, or was given by hand; with -n only the latter is
    #[arg(long)]
    pub ignore_static_mac: bool,

    /// What becomes of volumes of its engine's that are here already: they keep their content, or get that of the image
    /// [default: that is an error]
    #[arg(long, value_enum)]
    pub volumes: Option<Volumes>,

    /// Give file locks back; they always are, and the option is there for those who know it from podman
    #[arg(long)]
    pub file_locks: bool,

    /// The bundle that runc or crun makes it from [default: the one it came from]
    #[arg(long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,

    /// Who takes the other side of its terminal, where its bundle asks for one, as runc(8) has it
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,

    /// What becomes of its established TCP connections with the outside, where they have travelled: established, they go on,
    /// for which it needs its address; close, it finds them reset [default: close with -n, else established]
    #[arg(long, value_enum, value_name = "HOW")]
    pub tcp: Option<tool::Tcp>,

    /// The same as --tcp established
    #[arg(long, conflicts_with = "tcp")]
    pub tcp_established: bool,

    /// Its root file system, instead of the one it had
    #[arg(long, value_name = "DIR")]
    pub rootfs: Option<PathBuf>,

    /// Mount NEW, a file or directory of this host's, where the container had something mounted at OLD, instead of that; may be
    /// repeated
    #[arg(long, value_name = "OLD=NEW", value_parser = places)]
    pub mount: Vec<(PathBuf, PathBuf)>,

    /// Give it a pid namespace of its own, also without a name
    #[arg(long)]
    pub pidns: bool,

    /// Leave the root file system as the container image has it, without what the container had changed in it
    #[arg(long)]
    pub ignore_rootfs: bool,

    /// Leave the content of volumes as the container engine makes or has them
    #[arg(long)]
    pub ignore_volumes: bool,

    /// Refuse an image without a seal
    #[arg(long)]
    pub require_seal: bool,

    /// Stay until it ends, forward signals to it, and exit with its status; its outside output goes to ours, and
    /// its terminal, where it had one from outside, is ours
    #[arg(short, long)]
    pub wait: bool,

    /// Its terminal from outside is to be the one we are called from, which is needed; stay as with --wait
    #[arg(long)]
    pub tty: bool,

    /// Print name, engine, id, pid and addresses as JSON instead of the id
    #[arg(long)]
    pub json: bool,

    /// Options that every tool has.
    #[command(flatten)]
    pub common: tool::Common,
}

impl Options {
    /// Whether to stay until the container ends.
    pub fn stays(&self) -> bool {
        self.wait || self.tty
    }

    /// What becomes of TCP connections with the outside.
    pub fn connections(&self, taken: Connections) -> Connections {
        match self.tcp {
            _ if taken != Connections::Established => taken,
            _ if self.tcp_established => Connections::Established,
            Some(how) => how.into(),
            None if self.name.is_some() => Connections::Closed,
            None => Connections::Established,
        }
    }
}

/// `--volumes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Volumes {
    /// They keep their content.
    Keep,
    /// They get that of the image.
    Replace,
}

fn places(text: &str) -> Result<(PathBuf, PathBuf), String> {
    match text.split_once('=') {
        Some((old, new)) if old.starts_with('/') && new.starts_with('/') => {
            Ok((old.into(), new.into()))
        }
        _ => Err("it has the form OLD=NEW, both of them absolute paths".into()),
    }
}

fn engine(text: &str) -> Result<Engine, String> {
    let known = Engine::ALL.into_iter().find(|engine| engine.name() == text);
    known.ok_or_else(|| format!("there are {}", Engine::ALL.map(Engine::name).join(", ")))
}

fn name(text: &str) -> resources::Result<String> {
    resources::vessel::registry::check_name(text).map(|()| text.to_owned())
}
