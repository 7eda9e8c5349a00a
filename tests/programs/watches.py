"""Watches files, mounts and file systems (fanotify): with descriptors, with names, by marks that ignore. Says in `said` whether
it is told what it should be, once there is `ask`. With `decides`, one that others wait for."""
import ctypes
import os
import struct
import sys
import time
from asked import answer, call, directory, expect, libc, ready, until_asked

NONBLOCK, CLOEXEC, CONTENT, NAMES = 2, 1, 4, 0xC00
ADD, MOUNT, IGNORED, SURVIVES, FILESYSTEM, IGNORE = 1, 0x10, 0x20, 0x40, 0x100, 0x400
MODIFY, CLOSE_WRITE, CREATE, DELETE, OPEN_PERM = 2, 8, 0x100, 0x200, 0x10000
OVERFLOW, CHILDREN, DIRECTORIES = 0x4000, 0x8000000, 0x40000000


def group(flags):
    return call(300, flags | CLOEXEC | NONBLOCK, os.O_RDONLY)


def mark(at, flags, mask, path):
    call(301, at, ADD | flags, ctypes.c_ulong(mask), -100, path.encode())


def events(at):
    """Mask and file of each, or mask and name."""
    found = []
    try:
        while True:
            bytes_ = os.read(at, 65536)
            while bytes_:
                length, _, _, header, mask, file, _ = struct.unpack_from("=IBBHQii", bytes_)
                name = None
                if file >= 0:
                    name = os.readlink(f"/proc/self/fd/{file}").rsplit("/", 1)[-1]
                    os.close(file)
                elif length > header:
                    # struct fanotify_event_info_fid: header, fsid, file_handle, name
                    size = struct.unpack_from("=I", bytes_, header + 12)[0]
                    name = bytes_[header + 20 + size : length].split(b"\0")[0].decode()
                found.append((mask, name))
                bytes_ = bytes_[length:]
    except BlockingIOError:
        return found


def write(path):
    with open(path, "a") as file:
        file.write("x")


def describe(at):
    with open(f"/proc/self/fdinfo/{at}") as info:
        lines = [line.split() for line in info if line.startswith("fanotify")]
    # Ids of mounts, file systems and inodes of tmpfs are new ones.
    return sorted([w for w in words if w.split(":")[0] in ("flags", "event-flags", "mflags", "mask", "ignored_mask")] for words in lines)


here, apart = directory + "/here", directory + "/apart"
for name in (here, apart):
    os.mkdir(name)
for name in ("a", "silent", "gone"):
    write(here + "/" + name)
if sys.argv[2:] == ["decides"]:
    mark(group(CONTENT), 0, OPEN_PERM, here + "/a")
    ready()
    time.sleep(1000)
if libc.mount(b"none", apart.encode(), b"tmpfs", 0, None):
    raise OSError(ctypes.get_errno(), "mount")

files, names, mounts, systems = group(0), group(NAMES), group(0), group(0)
mark(files, 0, MODIFY | CHILDREN, here)
mark(files, IGNORED | SURVIVES, MODIFY, here + "/silent")
held = open(here + "/gone", "a")
mark(files, 0, MODIFY, here + "/gone")
os.unlink(here + "/gone")
mark(names, 0, CREATE | DELETE | DIRECTORIES, here)
mark(mounts, MOUNT, CLOSE_WRITE, apart)
mark(systems, FILESYSTEM, CLOSE_WRITE, apart)
all_ = (files, names, mounts, systems)
late, late_names = group(0), group(NAMES)
mark(late, 0, MODIFY, here + "/a")
mark(late_names, 0, CREATE, apart)
before = [describe(at) for at in all_]
for at in all_:
    events(at)
write(here + "/a")
write(apart + "/late")
for at in all_:
    events(at)
until_asked()

expect("what /proc says", before, [describe(at) for at in all_])
for at in all_:
    expect("nothing yet", [], events(at))
for at in (late, late_names):
    expect("that events were lost", [(OVERFLOW, None)], events(at))
write(here + "/a")
expect("what comes after that", [(MODIFY, "a")], events(late))
events(files)
write(here + "/silent")
expect("one that is ignored", [], events(files))
write(here + "/a")
expect("a file", [(MODIFY, "a")], events(files))
held.write("x")
held.flush()
found = events(files)
expect("a file without a name", [MODIFY], [mask for mask, _ in found])
os.mkdir(here + "/new")
expect("a name", [(CREATE | DIRECTORIES, "new")], events(names))
os.rmdir(here + "/new")
expect("no name", [(DELETE | DIRECTORIES, "new")], events(names))
write(apart + "/b")
expect("a mount", [(CLOSE_WRITE, "b")], events(mounts))
expect("a file system", [(CLOSE_WRITE, "b")], events(systems))
write(here + "/a")
expect("another mount", [], events(mounts) + events(systems))
answer()
