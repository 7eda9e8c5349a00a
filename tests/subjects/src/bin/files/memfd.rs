//! Memory files: contents and holes, seals, a name, several openings, shared with a child and by mapping.
#![forbid(unsafe_code)]

use kernel::own::Area;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use subject::Stage;

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let open = File::from(memfd_create(c"open to all", flags).expect("memfd_create"));
    open.set_len(64 << 20).expect("ftruncate");
    open.write_all_at(&vec![5; 200_000], 1 << 20)
        .expect("write");
    let path = format!("/proc/self/fd/{}", open.as_raw_fd());
    let reader = File::open(path).expect("open again");
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    let area = Area::map(4096, rw, libc::MAP_SHARED, Some((open.as_fd(), 0))).expect("map");
    area.write(0, b"by mapping").expect("write");

    let sealed = File::from(memfd_create(c"sealed", flags).expect("memfd_create"));
    sealed.write_all_at(b"for good", 0).expect("write");
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    fcntl(&sealed, FcntlArg::F_ADD_SEALS(seals)).expect("seal");

    let (told, tell) = nix::unistd::pipe().expect("pipe");
    let child = kernel::own::child::fork(|| {
        let heard = nix::unistd::read(&told, &mut [0]);
        let saw = area.read(0, 10).is_ok_and(|b| b == b"by mapping");
        i32::from(heard.is_err() || !saw || open.write_all_at(b"the child", 4000).is_err())
    })
    .expect("fork");

    stage.wait();

    let name = std::fs::read_link(format!("/proc/self/fd/{}", open.as_raw_fd())).expect("readlink");
    stage.same(
        "its name",
        "/memfd:open to all (deleted)".to_owned(),
        name.display().to_string(),
    );
    let mut bytes = vec![0; 200_000];
    reader.read_exact_at(&mut bytes, 1 << 20).expect("read");
    stage.holds("its bytes", bytes.iter().all(|b| *b == 5));
    let metadata = open.metadata().expect("stat");
    stage.same("its size", 64 << 20, metadata.len());
    stage.holds(
        "its holes",
        std::os::unix::fs::MetadataExt::blocks(&metadata) * 512 < 4 << 20,
    );
    let refused = nix::unistd::write(&reader, b"x");
    stage.same("the reader only reads", Err(Errno::EBADF), refused);
    nix::unistd::write(&tell, b"!").expect("tell the child");
    let child = nix::unistd::Pid::from_raw(child);
    stage.same(
        "the child",
        Ok(nix::sys::wait::WaitStatus::Exited(child, 0)),
        nix::sys::wait::waitpid(child, None),
    );
    stage.holds(
        "the child's word in the mapping",
        area.read(4000, 9).is_ok_and(|b| b == b"the child"),
    );
    let found = fcntl(&sealed, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_retain);
    stage.holds("the seals", found.is_ok_and(|f| f.contains(seals)));
    stage.same(
        "a sealed file",
        Err(Errno::EPERM),
        nix::unistd::write(&sealed, b"x"),
    );
    let mut word = [0; 8];
    sealed.read_exact_at(&mut word, 0).expect("read");
    stage.same("its contents", *b"for good", word);
    stage.leave()
}
