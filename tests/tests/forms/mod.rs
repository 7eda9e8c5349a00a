//! Images made here, without a container, and the tools run on them.
#![allow(dead_code)] // each test uses some of it

use ferry_tests::built;
use image::header::Created;
use image::ids::{ActionsId, FsId, SpaceId, TableId};
use image::tree::{Process, State, Tree};
use image::{Header, Member, MemberKind, Pages, Range, Space, Writer};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

/// A tool that was built beside the test.
pub fn tool(name: &str) -> Command {
    Command::new(built().join(name))
}

/// How a tool ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: Vec<u8>,
    pub err: String,
}

impl Ended {
    /// What it wrote, if it ended well.
    pub fn ok(self) -> Vec<u8> {
        assert_eq!(self.code, 0, "{}", self.err);
        self.out
    }

    /// Its words, if it ended with this code.
    pub fn fails(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}", self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self.err
    }
}

/// Runs a tool with these bytes on its standard input.
pub fn run(name: &str, arguments: &[&str], input: &[u8]) -> Ended {
    let mut child = tool(name)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the tool");
    let mut stdin = child.stdin.take().expect("its standard input");
    let input = input.to_vec();
    // It may end before it has read everything.
    let feeder = std::thread::spawn(move || stdin.write_all(&input).is_ok());
    let mut stderr = child.stderr.take().expect("its standard error");
    let words = std::thread::spawn(move || {
        let mut err = String::new();
        stderr.read_to_string(&mut err).map(|_| err)
    });
    let mut out = Vec::new();
    child
        .stdout
        .take()
        .expect("its output")
        .read_to_end(&mut out)
        .expect("read it");
    let _ = feeder.join();
    let err = words.join().expect("read its words").expect("in UTF-8");
    let code = child
        .wait()
        .expect("its status")
        .code()
        .expect("an exit code");
    Ended { code, out, err }
}

/// A header as `checkpoint` writes it.
pub fn header() -> Header {
    let mut header = Header::new("checkpoint 0.1.0", "web", "4711");
    header.created = Created::at(UNIX_EPOCH + Duration::from_secs(1_732_356_000));
    header.host.architecture = std::env::consts::ARCH.to_owned();
    header.host.kernel = String::from("6.1.0");
    header.host.hostname = String::from("alder");
    header.host.page_size = 4096;
    header
}

/// Starts an image that `verify` accepts, with one process that has no record of its own.
pub fn start<W: Write>(out: W, header: &Header) -> Writer<W> {
    let mut writer = Writer::new(out, header).expect("a header");
    let process = Process {
        pid: 1,
        ppid: 0,
        pgid: 1,
        sid: 1,
        exit_signal: 17,
        terminal: false,
        state: State::Alive {
            threads: vec![1],
            space: SpaceId(1),
            table: TableId(1),
            fs: FsId(1),
            actions: ActionsId(1),
            ended: None,
            stopped: false,
            subreaper: false,
        },
    };
    let dead = Process {
        pid: 7,
        ppid: 1,
        state: State::Dead {
            status: 0,
            name: "sleep".into(),
        },
        ..process.clone()
    };
    let tree = Tree {
        root: 1,
        processes: vec![process, dead],
        last_pid: Some(7),
        stub: 0x10000,
        terminals: vec![],
        nested: Default::default(),
    };
    writer.record("tree.json", &tree).expect("a tree");
    writer
}

/// An image with a bit of everything.
pub fn small() -> Vec<u8> {
    let mut writer = start(Vec::new(), &header());
    pages(&mut writer, 16 << 10);
    writer
        .blob("data/1", 3)
        .expect("a blob")
        .write_all(b"abc")
        .expect("its bytes");
    for (path, kind) in [
        ("rootfs", MemberKind::Directory),
        ("rootfs/etc", MemberKind::Directory),
        ("rootfs/etc/hostname", MemberKind::Regular { size: 6 }),
        (
            "rootfs/shadow",
            MemberKind::Symlink {
                target: "/etc/shadow".into(),
            },
        ),
    ] {
        let member = Member::new(path, kind);
        let mut entry = writer.member(&member).expect("a member");
        entry
            .write_all(&b"alder\n"[..member.payload() as usize])
            .expect("its bytes");
    }
    writer.finish().expect("an end")
}

/// An entry of pages, half of them noise.
pub fn pages<W: Write>(writer: &mut Writer<W>, len: u64) {
    let range = Range { start: 0, len };
    let pages = Pages {
        space: Space::Mm(SpaceId(1)),
        ranges: vec![range],
    };
    let mut entry = writer.pages(&pages).expect("pages");
    let mut noise = 1u64;
    let piece: Vec<u8> = (0..len.min(1 << 20))
        .map(|at| {
            noise = noise
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            if at % 8192 < 4096 {
                (noise >> 56) as u8
            } else {
                7
            }
        })
        .collect();
    let mut left = len as usize;
    while left > 0 {
        let now = left.min(piece.len());
        if entry.write_all(&piece[..now]).is_err() {
            return;
        }
        left -= now;
    }
}

/// The archive of an image.
pub fn packed(image: &[u8]) -> Vec<u8> {
    run("pack", &[], image).ok()
}

/// Everything beneath a directory, with its mode.
pub fn listed(directory: &Path) -> Vec<String> {
    use std::os::unix::fs::PermissionsExt;
    let mut list = Vec::new();
    for entry in std::fs::read_dir(directory).expect("list a directory") {
        let path = entry.expect("an entry").path();
        let metadata = std::fs::symlink_metadata(&path).expect("its metadata");
        let mode = metadata.permissions().mode() & 0o7777;
        list.push(format!(
            "{mode:o} {}",
            path.strip_prefix(directory).unwrap().display()
        ));
        if metadata.is_dir() {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            list.extend(listed(&path).iter().map(|line| {
                let (mode, rest) = line.split_once(' ').unwrap();
                format!("{mode} {name}/{rest}")
            }));
        }
    }
    list.sort();
    list
}

/// Runs a tool with a terminal as its standard input or output, and gives its words.
pub fn on_a_terminal(name: &str, arguments: &[&str], input: bool) -> Ended {
    let pty = nix::pty::openpty(None, None).expect("a terminal");
    let mut command = tool(name);
    command.args(arguments).stderr(Stdio::piped());
    if input {
        command.stdin(pty.slave).stdout(Stdio::null());
    } else {
        command.stdin(Stdio::null()).stdout(pty.slave);
    }
    let output = command.output().expect("run the tool");
    drop(pty.master);
    Ended {
        code: output.status.code().expect("an exit code"),
        out: output.stdout,
        err: String::from_utf8(output.stderr).expect("in UTF-8"),
    }
}
