//! What is to be made for a container, decided before anything is: a pure function of its record and of what the user
//! asked for.

use super::kept::{self, Kept};
use super::native::{Network, Options};
use crate::namespaces::mount::{Base, MERGED, UPPER, WORK};
use crate::namespaces::time::Clocks;
use crate::{Blocker, Error, Result};
use image::container::Container;
use image::ids::{MountId, Pid};
use image::namespaces::ipc::Ipc;
use image::namespaces::mount::{Mount, Mounts, Origin, Propagation};
use image::namespaces::network::LinkKind;
use image::namespaces::user::Own;
use image::namespaces::uts::Uts;
use image::namespaces::{Namespace, network};
use image::rootfs::Rootfs;
use image::sockets::tcp::Connections;
use kernel::namespaces::Kind;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

/// All that has to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// The name it is registered under.
    pub(super) name: String,
    /// New namespaces.
    pub(super) kinds: Vec<Kind>,
    /// The root's pid inside.
    pub(super) root: Pid,
    /// Process 1 is an init of ours.
    pub(super) init: bool,
    /// In the host's pid namespace, with this very pid.
    pub(super) host_pid: Option<Pid>,
    /// The mounts to make, in a mount namespace of its own.
    pub(super) mounts: Option<Mounts>,
    /// What becomes the root directory.
    pub(super) base: Base,
    /// The layers below it come with the image, and go here before any mount is made.
    pub(super) layers: Option<PathBuf>,
    /// What the container's own directory holds.
    pub(super) kept: Kept,
    /// Its own cgroups, one for each hierarchy it is in, where this host has places for them.
    pub(super) groups: Vec<PathBuf>,
    /// Its user namespace.
    pub(super) user: Option<Own>,
    pub(super) uts: Option<Uts>,
    pub(super) ipc: Option<Ipc>,
    pub(super) link: Link,
    /// What it had in a network of its own.
    pub(super) network: Option<network::Network>,
    /// Its network is kept silent from the start, for connections that are to go on.
    pub(super) quiet: bool,
    pub(super) clocks: Option<Clocks>,
}

/// How the container is to be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Link {
    /// It shares the host's network.
    Host,
    /// A network of its own with nothing but loopback, set up as it was where it was so.
    Alone(Option<Box<network::Network>>),
    /// On our bridge: with the address it had, or any.
    Bridge {
        wanted: Option<(Ipv4Addr, u8)>,
        /// The name of its link inside.
        name: String,
        mtu: u32,
    },
}

impl Plan {
    /// Whether there is anything that has to be taken away at its end.
    pub(super) fn registered(&self) -> bool {
        !self.kinds.is_empty()
    }

    /// Whether process 1 makes its mounts: not where the layers of its root are still to come, nor in a user namespace of its
    /// own, from which it may not go to all places of the host.
    pub(super) fn mounts_itself(&self) -> bool {
        self.layers.is_none() && self.user.is_none()
    }

    /// The namespaces that process 1 is born into. A cgroup namespace has the groups for roots that its maker is in: it is
    /// made once the process has entered its own.
    pub(super) fn at_birth(&self) -> Vec<Kind> {
        let kinds = self.kinds.iter().copied();
        kinds.filter(|kind| *kind != Kind::Cgroup).collect()
    }
}

/// Decides. `directory` is the container's own.
pub(super) fn plan(
    container: &Container,
    options: &Options,
    name: &str,
    directory: &Path,
) -> Result<Plan> {
    let namespaces = &container.namespaces;
    let own_pids = options.pids || options.name.is_some() || namespaces.pid.own().is_some();
    let link = link(container, options)?;
    let mut kept = Kept::new(container);
    let (base, layers) = base(container, options, directory, &mut kept)?;
    let new_proc = own_pids && (options.name.is_some() || options.pids);
    let mounts = match &namespaces.mount {
        Namespace::Own(record) => {
            let mut record = record.clone();
            replace(&mut record, &options.places)?;
            kept.take(&mut record, directory)?;
            if namespaces.pid.own().is_none() && new_proc {
                record.mounts.push(new("/proc", "proc", Origin::Fresh, &[]));
            }
            Some(record)
        }
        Namespace::Host if !options.places.is_empty() => {
            return Err(Error::Refused(
                "--mount: the container has no mounts of its own, but those of its host".into(),
            ));
        }
        Namespace::Host if base != Base::Host => Some(standard()),
        Namespace::Host if new_proc => Some(Mounts {
            mounts: vec![new("/proc", "proc", Origin::Fresh, &[])],
        }),
        Namespace::Host => None,
    };
    let mounts = mounts.map(numbered);
    let mut kinds = Vec::new();
    for (kind, wanted) in [
        (Kind::User, namespaces.user.own().is_some()),
        (Kind::Mount, mounts.is_some()),
        (Kind::Network, link != Link::Host),
        (Kind::Pid, own_pids),
        (Kind::Ipc, namespaces.ipc.own().is_some()),
        (Kind::Uts, namespaces.uts.own().is_some()),
        (Kind::Cgroup, namespaces.cgroup.own().is_some()),
    ] {
        if wanted {
            kinds.push(kind);
        }
    }
    Ok(Plan {
        name: name.to_string(),
        kinds,
        root: container.root,
        init: own_pids && container.root != 1,
        host_pid: (!own_pids).then_some(container.root),
        mounts,
        base,
        layers,
        kept,
        groups: Vec::new(),
        user: namespaces.user.own().cloned(),
        uts: namespaces.uts.own().cloned(),
        ipc: namespaces.ipc.own().cloned(),
        quiet: goes_on(options) && link != Link::Host,
        network: match &link {
            Link::Bridge { .. } => namespaces.network.own().cloned(),
            _ => None,
        },
        link,
        clocks: options.clocks,
    })
}

/// Those that are ours, and no record has, get ids like the others.
fn numbered(mut record: Mounts) -> Mounts {
    let last = record.mounts.iter().map(|m| m.id.0).max().unwrap_or(0);
    let ours = record.mounts.iter_mut().filter(|m| m.id.0 == 0);
    for (mount, id) in ours.zip(last.saturating_add(1)..) {
        mount.id = MountId(id);
    }
    record
}

/// What of this host takes the place of mounts that the user names; nothing that stayed behind may be left.
fn replace(record: &mut Mounts, places: &[(PathBuf, PathBuf)]) -> Result<()> {
    for (old, new) in places {
        let mounts = record.mounts.iter_mut().rev();
        let mut there = mounts.filter(|m| m.mountpoint.as_path() == old && old.parent().is_some());
        let Some(mount) = there.next() else {
            return Err(Error::Refused(format!(
                "--mount {}={}: the container had nothing mounted there",
                old.display(),
                new.display()
            )));
        };
        if matches!(
            mount.origin,
            Origin::Tmpfs { .. } | Origin::Volume { .. } | Origin::Root
        ) {
            return Err(Error::Refused(format!(
                "--mount {}={}: what the container had there is in the image; leave it behind with checkpoint --mount",
                old.display(),
                new.display()
            )));
        }
        mount.origin = Origin::Bind {
            path: new.as_path().into(),
        };
        // It is another file system, with a group of its own.
        (mount.peers, mount.master) = (None, None);
    }
    let behind = record
        .mounts
        .iter()
        .filter(|m| m.origin == (Origin::Outside {}));
    let behind = behind.map(|mount| Blocker {
        pid: 0,
        place: format!("mount at {}", mount.mountpoint),
        what: format!("a {} file system that stayed behind", mount.fstype),
        remedy: format!(
            "name what takes its place: --mount {}=PATH",
            mount.mountpoint
        ),
    });
    let behind: Vec<Blocker> = behind.collect();
    match behind.is_empty() {
        true => Ok(()),
        false => Err(Error::Blocked(behind)),
    }
}

fn link(container: &Container, options: &Options) -> Result<Link> {
    let record = container.namespaces.network.own();
    let bridge = |wanted| Link::Bridge {
        wanted,
        name: veths(record)
            .next()
            .map_or("eth0".into(), |l| l.name.clone()),
        mtu: veths(record)
            .next()
            .map_or(1500, |l| l.mtu.clamp(576, 65535)),
    };
    Ok(match (options.network, record) {
        (Some(Network::Host), _) => Link::Host,
        (Some(Network::None), _) => Link::Alone(None),
        (Some(Network::Bridge), _) => bridge(None),
        (None, _) if options.name.is_some() && !goes_on(options) => bridge(None),
        (None, None) if options.name.is_some() => bridge(None),
        (None, None) => Link::Host,
        (None, Some(record)) if veths(Some(record)).next().is_none() => {
            Link::Alone(Some(Box::new(record.clone())))
        }
        (None, Some(record)) => {
            let addresses = veths(Some(record)).flat_map(|link| &link.addresses);
            let v4: Vec<_> = addresses
                .filter_map(|a| match a.address {
                    IpAddr::V4(v4) => Some((v4, a.prefix)),
                    IpAddr::V6(_) => None,
                })
                .collect();
            match v4[..] {
                [one] => bridge(Some(one)),
                _ => {
                    return Err(Error::Refused(format!(
                        "the container had {} IPv4 addresses on links to the outside, and one can be given back; say \
                         --network bridge for a new one, none, or host",
                        v4.len()
                    )));
                }
            }
        }
    })
}

/// Whether its connections are to go on, for which it needs its address.
fn goes_on(options: &Options) -> bool {
    options.connections == Connections::Established
}

/// The links of a record that lead outside.
pub(super) fn veths(record: Option<&network::Network>) -> impl Iterator<Item = &network::Link> {
    let links = record.map_or(&[][..], |record| &record.links);
    links.iter().filter(|link| link.kind == LinkKind::Veth)
}

/// What becomes the root directory, and where the layers below it go that come with the image.
fn base(
    container: &Container,
    options: &Options,
    own: &Path,
    kept: &mut Kept,
) -> Result<(Base, Option<PathBuf>)> {
    let mut overlay = |lower| {
        let parts = [UPPER, WORK, MERGED].map(PathBuf::from);
        kept.directories.extend(parts);
        Base::Overlay {
            lower,
            kept: own.to_path_buf(),
        }
    };
    match (&options.rootfs, &container.rootfs) {
        (Some(named), Rootfs::Layers { .. }) => {
            Ok((overlay(existing(named, "name another")?), None))
        }
        (Some(named), _) => Ok((Base::Directory(existing(named, "name another")?), None)),
        (None, Rootfs::Host) => Ok((Base::Host, None)),
        (None, Rootfs::Travels) => {
            kept.directories.push(kept::ROOT.into());
            Ok((Base::Directory(own.join(kept::ROOT)), None))
        }
        (None, Rootfs::Layers { layers: true, .. }) => {
            let lower = own.join(kept::LAYERS);
            let base = overlay(lower.clone());
            kept.directories.push(kept::LAYERS.into());
            Ok((base, Some(lower)))
        }
        (None, Rootfs::Layers { layers: false, .. }) => {
            let configuration = container.configuration.as_ref();
            let image = configuration.and_then(|c| c.image.as_ref());
            let image = image.map_or(String::new(), |image| format!(" ({})", image.name));
            Err(Error::Refused(format!(
                "the image that the container was made from{image} is not in the archive; name a directory with its \
                 files (--rootfs DIR), take the archive with it (checkpoint --with-image), or restore where {} is \
                 (--engine {0})",
                configuration.map_or(container.engine, |c| c.engine)
            )))
        }
        (None, Rootfs::Directory(path)) => {
            let remedy =
                "copy it here, name another by --rootfs, or let it travel: checkpoint --with-image";
            Ok((Base::Directory(existing(path.as_path(), remedy)?), None))
        }
    }
}

fn existing(directory: &Path, remedy: &str) -> Result<PathBuf> {
    match std::fs::canonicalize(directory) {
        Ok(path) if path.is_dir() => Ok(path),
        Ok(_) => Err(Error::Refused(format!(
            "the root file system {} is not a directory; {remedy}",
            directory.display()
        ))),
        Err(e) => Err(Error::Refused(format!(
            "the root file system {} cannot be used here: {e}; {remedy}",
            directory.display()
        ))),
    }
}

fn new(mountpoint: &str, fstype: &str, origin: Origin, super_options: &[&str]) -> Mount {
    Mount {
        id: MountId(0),
        parent: MountId(0),
        mountpoint: mountpoint.into(),
        root: "/".into(),
        fstype: fstype.into(),
        source: fstype.into(),
        options: ["rw", "nosuid", "relatime"].map(String::from).into(),
        super_options: super_options.iter().map(|o| o.to_string()).collect(),
        propagation: Propagation::Private,
        peers: None,
        master: None,
        covered: false,
        origin,
    }
}

/// The mounts of a directory that becomes the root of a process that had none but the host's.
fn standard() -> Mounts {
    let bind = |path: &str| {
        let origin = Origin::Bind { path: path.into() };
        new(path, "devtmpfs", origin, &[])
    };
    let devices = ["null", "zero", "full", "random", "urandom", "tty"];
    let mut mounts = vec![
        new("/proc", "proc", Origin::Fresh, &[]),
        new(
            "/sys",
            "sysfs",
            Origin::Bind {
                path: "/sys".into(),
            },
            &[],
        ),
        new("/dev", "tmpfs", Origin::Fresh, &["mode=755", "size=64k"]),
        new(
            "/dev/pts",
            "devpts",
            Origin::Fresh,
            &["gid=5", "mode=620", "ptmxmode=666"],
        ),
        new("/dev/shm", "tmpfs", Origin::Fresh, &["mode=1777"]),
    ];
    if let Some(sys) = mounts.get_mut(1) {
        sys.options = ["ro", "nosuid", "nodev", "noexec", "relatime"]
            .map(String::from)
            .into();
    }
    mounts.extend(devices.map(|name| bind(&format!("/dev/{name}"))));
    Mounts { mounts }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::cgroups::Cgroups;
    use image::container::Engine;
    use image::namespaces::Namespaces;
    use image::namespaces::network::Address;
    use image::namespaces::pid::{Init, Pids};

    fn container() -> Container {
        Container {
            engine: Engine::Native,
            configuration: None,
            name: "web".into(),
            root: 4711,
            namespaces: Namespaces {
                mount: Namespace::Host,
                network: Namespace::Host,
                pid: Namespace::Host,
                user: Namespace::Host,
                ipc: Namespace::Host,
                uts: Namespace::Host,
                time: Namespace::Host,
                cgroup: Namespace::Host,
            },
            rootfs: Rootfs::Host,
            cgroups: Cgroups::default(),
            addresses: vec![],
            connections: Connections::None,
        }
    }

    fn of(container: &Container, options: &Options) -> Result<Plan> {
        plan(container, options, "x", Path::new("/var/lib/ferry/x"))
    }

    fn named() -> Options {
        Options {
            name: Some("x".into()),
            ..Options::default()
        }
    }

    #[test]
    fn what_was_shared_with_the_host_is_shared_again() {
        let plan = of(&container(), &Options::default()).unwrap();
        assert!(plan.kinds.is_empty() && !plan.registered() && !plan.init);
        assert_eq!((plan.host_pid, plan.link), (Some(4711), Link::Host));
    }

    #[test]
    fn a_name_of_its_own_means_pids_mounts_and_a_network_of_its_own() {
        let plan = of(&container(), &named()).unwrap();
        assert_eq!(plan.kinds, [Kind::Mount, Kind::Network, Kind::Pid]);
        assert!(plan.init && plan.host_pid.is_none());
        assert_eq!(plan.mounts.unwrap().mounts[0].fstype, "proc");
        assert!(matches!(plan.link, Link::Bridge { wanted: None, .. }));
        let host = Options {
            network: Some(Network::Host),
            ..named()
        };
        assert_eq!(of(&container(), &host).unwrap().link, Link::Host);
    }

    #[test]
    fn process_1_needs_no_init_of_ours() {
        let mut container = container();
        container.root = 1;
        container.namespaces.pid = Namespace::Own(Pids { init: Init::Root });
        let plan = of(&container, &named()).unwrap();
        assert!(!plan.init && plan.registered());
    }

    #[test]
    fn an_address_is_kept_unless_another_is_asked_for() {
        let mut container = container();
        let address = Address {
            address: "10.213.64.9".parse().unwrap(),
            prefix: 20,
        };
        let mut network = network::Network {
            links: vec![network::Link {
                index: 2,
                name: "wan".into(),
                kind: LinkKind::Veth,
                mac: String::new(),
                mtu: 1400,
                up: true,
                flags: 0,
                queue_length: 1000,
                group: 0,
                alias: None,
                other_names: Vec::new(),
                queues: None,
                chosen: Default::default(),
                features: Default::default(),
                master: None,
                settings: Default::default(),
                port: Default::default(),
                addresses: vec![address],
            }],
            ..Default::default()
        };
        container.namespaces.network = Namespace::Own(network.clone());
        let kept = Link::Bridge {
            wanted: Some((Ipv4Addr::new(10, 213, 64, 9), 20)),
            name: "wan".into(),
            mtu: 1400,
        };
        assert_eq!(of(&container, &Options::default()).unwrap().link, kept);
        assert!(matches!(
            of(&container, &named()).unwrap().link,
            Link::Bridge { wanted: None, .. }
        ));
        network.links[0].addresses.clear();
        container.namespaces.network = Namespace::Own(network);
        assert!(of(&container, &Options::default()).is_err());
    }

    #[test]
    fn a_root_file_system_that_is_not_here_is_refused_with_a_remedy() {
        let mut container = container();
        container.rootfs = Rootfs::Directory("/nowhere/at/all".into());
        let error = of(&container, &Options::default()).unwrap_err().to_string();
        assert!(error.contains("--rootfs"), "{error}");
        container.rootfs = Rootfs::Travels;
        let plan = of(&container, &Options::default()).unwrap();
        assert!(!plan.kept.is_empty() && plan.mounts.is_some());
        assert_eq!(plan.base, Base::Directory("/var/lib/ferry/x/root".into()));
    }

    #[test]
    fn the_layers_of_an_image_are_named_or_come_along() {
        let mut container = container();
        let layers = |layers| Rootfs::Layers {
            changes: true,
            layers,
        };
        container.rootfs = layers(false);
        let error = of(&container, &named()).unwrap_err().to_string();
        for remedy in ["--rootfs", "--with-image", "--engine native"] {
            assert!(error.contains(remedy), "{error}");
        }
        let overlay = |lower: &str| Base::Overlay {
            lower: lower.into(),
            kept: "/var/lib/ferry/x".into(),
        };
        let usr = Options {
            rootfs: Some("/usr".into()),
            ..named()
        };
        assert_eq!(of(&container, &usr).unwrap().base, overlay("/usr"));
        container.rootfs = layers(true);
        assert_eq!(of(&container, &usr).unwrap().layers, None);
        let plan = of(&container, &named()).unwrap();
        assert_eq!(plan.base, overlay("/var/lib/ferry/x/layers"));
        assert_eq!(plan.layers, Some("/var/lib/ferry/x/layers".into()));
    }

    #[test]
    fn what_an_engine_kept_for_the_container_is_kept_in_its_directory() {
        let mount = |at: &str, origin| new(at, "ext4", origin, &[]);
        let volume = Origin::Volume {
            name: "data".into(),
            tree: Some(0),
        };
        let written = Origin::Written {
            content: b"web\n".to_vec().into(),
        };
        let mut container = container();
        container.namespaces.mount = Namespace::Own(Mounts {
            mounts: vec![mount("/data", volume), mount("/etc/hostname", written)],
        });
        let plan = of(&container, &named()).unwrap();
        let bind = |path: &str| Origin::Bind {
            path: format!("/var/lib/ferry/x/{path}").as_str().into(),
        };
        let origins = plan.mounts.unwrap().mounts.into_iter().map(|m| m.origin);
        let wanted = [bind("volumes/data"), bind("files/1")];
        assert_eq!(origins.take(2).collect::<Vec<_>>(), wanted);
    }
}
