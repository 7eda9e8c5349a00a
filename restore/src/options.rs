//! The command line.

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

    /// Its network: the host's, one of its own on the bridge ferry0, or one of its own with lo only
    /// [default: what it had; bridge with -n]
    #[arg(long, value_enum)]
    pub network: Option<Network>,

    /// Its root file system, instead of the one it had
    #[arg(long, value_name = "DIR")]
    pub rootfs: Option<PathBuf>,

    /// Give it a pid namespace of its own, also without a name
    #[arg(long)]
    pub pidns: bool,

    /// Refuse an image without a seal
    #[arg(long)]
    pub require_seal: bool,

    /// Stay until it ends, forward signals to it, and exit with its status; its outside output goes to ours
    #[arg(short, long)]
    pub wait: bool,

    /// Print name, engine, id, pid and addresses as JSON instead of the id
    #[arg(long)]
    pub json: bool,

    /// Options that every tool has.
    #[command(flatten)]
    pub common: tool::Common,
}

/// `--network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Network {
    /// The host's.
    Host,
    /// Its own, on our bridge.
    Bridge,
    /// Its own, with lo only.
    None,
}

fn name(text: &str) -> resources::Result<String> {
    resources::vessel::registry::check_name(text).map(|()| text.to_owned())
}
