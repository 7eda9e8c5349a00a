//! A POSIX message queue with messages of several priorities, opened twice; and one without a name.
#![forbid(unsafe_code)]

use nix::mqueue::{MQ_OFlag, MqAttr, MqdT, mq_getattr, mq_open, mq_receive, mq_send, mq_unlink};
use nix::sys::stat::Mode;
use std::fs::File;
use std::os::fd::AsFd;
use std::process::ExitCode;
use subject::Stage;

const MESSAGES: [(&str, u32); 4] = [("first", 9), ("second", 9), ("later", 3), ("", 0)];

fn all(queue: &MqdT) -> Vec<(String, u32)> {
    let mut found = Vec::new();
    let (mut bytes, mut priority) = ([0; 100], 0);
    while let Ok(length) = mq_receive(queue, &mut bytes, &mut priority) {
        let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
        found.push((text, priority));
    }
    found
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    // Of this run alone, for the namespace may be the machine's.
    let name = format!("/subject-{}", std::process::id());
    let name = name.as_str();
    let mode = Mode::from_bits_truncate(0o640);
    let attributes = MqAttr::new(0, 5, 100, 0);
    let make = MQ_OFlag::O_CREAT | MQ_OFlag::O_EXCL | MQ_OFlag::O_RDWR | MQ_OFlag::O_NONBLOCK;
    let queue = mq_open(name, make, mode, Some(&attributes)).expect("mq_open");
    let reader = mq_open(name, MQ_OFlag::O_RDONLY, mode, None).expect("mq_open again");
    for (message, priority) in [MESSAGES[2], MESSAGES[0], MESSAGES[3], MESSAGES[1]] {
        mq_send(&queue, message.as_bytes(), priority).expect("mq_send");
    }
    let look = |queue: &MqdT| {
        let found = mq_getattr(queue).expect("mq_getattr");
        let stat = nix::sys::stat::fstat(queue.as_fd()).expect("fstat");
        let owner = (stat.st_mode, stat.st_uid, stat.st_gid);
        (found.maxmsg(), found.msgsize(), owner)
    };
    let before = look(&queue);
    let gone = format!("{name}-gone");
    let gone = gone.as_str();
    let nameless = mq_open(gone, make, mode, Some(&attributes)).expect("mq_open");
    let waits = mq_open(gone, MQ_OFlag::O_WRONLY, mode, None).expect("mq_open again");
    mq_unlink(gone).expect("mq_unlink");
    for (message, priority) in [MESSAGES[2], MESSAGES[0]] {
        mq_send(&waits, message.as_bytes(), priority).expect("mq_send");
    }

    stage.wait();

    let flags = |queue: &MqdT| mq_getattr(queue).map(|found| found.flags()).unwrap_or(-1);
    stage.same("attributes of the nameless", before, look(&nameless));
    stage.same("its writer waits", 0, flags(&waits));
    mq_send(&waits, b"more", 1).expect("send to the nameless");
    let wanted = [MESSAGES[0], MESSAGES[2], ("more", 1)].map(|(text, p)| (text.to_string(), p));
    stage.same("messages of the nameless", wanted.to_vec(), all(&nameless));
    let found = mq_open(gone, MQ_OFlag::O_RDONLY, mode, None).err();
    stage.same("it has no name", Some(nix::errno::Errno::ENOENT), found);
    let status = nix::sys::stat::fstat(nameless.as_fd()).map(|stat| stat.st_nlink);
    stage.same("and no link", Ok(0), status);

    // Replicas share it where they share the namespace: one after the other, each leaves it as it was.
    let turn = File::create(stage.path("turn")).expect("make a lock file");
    turn.lock().expect("lock");
    stage.same("attributes and owner", before, look(&queue));
    stage.same(
        "one never waits",
        i64::from(libc::O_NONBLOCK),
        flags(&queue),
    );
    stage.same("one does", 0, flags(&reader));
    let wanted: Vec<_> = MESSAGES.map(|(text, p)| (text.to_string(), p)).into();
    let found = all(&queue);
    stage.same("messages in their order", &wanted, &found);
    for (message, priority) in &found {
        mq_send(&queue, message.as_bytes(), *priority).expect("send it again");
    }
    let mut bytes = [0; 100];
    let first = mq_receive(&reader, &mut bytes, &mut 0).ok();
    stage.same("the other descriptor is of the same queue", Some(5), first);
    let rest = all(&queue);
    for (message, priority) in found.iter().take(1).chain(&rest) {
        mq_send(&queue, message.as_bytes(), *priority).expect("send it again");
    }
    // The name of the last is gone with the first of the replicas.
    let _ = mq_unlink(name);
    turn.unlock().expect("unlock");
    stage.leave()
}
