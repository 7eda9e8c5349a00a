"""Memory in pages of hugetlbfs: private and shared with a child; memory files, sealed, mapped and not; files of a hugetlbfs
of its own, with a name and without; segments of System V. Says in `said` whether all is there, once there is `ask`."""
import ctypes
import fcntl
import mmap
import os
from asked import answer as say, directory, libc, problems, until_asked

libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
HUGE, PAGE = 0x40000, 2 << 20
areas, files, held = [], [], []


def fill(area, word):
    area[: len(word)] = word
    area[PAGE + 12345 : PAGE + 12345 + len(word)] = word
    areas.append((area, word))


def whole(area, word):
    return area[: len(word)] == word == area[PAGE + 12345 : PAGE + 12345 + len(word)]


private = mmap.mmap(-1, 3 * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | HUGE)
shared = mmap.mmap(-1, 2 * PAGE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | HUGE)
fill(private, b"private")
fill(shared, b"shared")

MEMFD = os.MFD_HUGETLB | os.MFD_HUGE_2MB | os.MFD_ALLOW_SEALING
SEALS = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK


def memory_file(name, pages):
    memory = os.memfd_create(name, MEMFD)
    os.ftruncate(memory, pages * PAGE)
    return memory


sealed = memory_file("sealed", 4)
fill(mmap.mmap(sealed, 4 * PAGE), b"sealed memory")
# Its own page of a file that others share.
copy = mmap.mmap(sealed, 4 * PAGE, mmap.MAP_PRIVATE)
copy[100:104] = b"mine"
fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, SEALS)
unmapped = memory_file("unmapped", 2)
fill(mmap.mmap(unmapped, 2 * PAGE), b"written by mapping")
areas.pop()[0].close()
only_mapped = memory_file("only mapped", 2)
fill(mmap.mmap(only_mapped, 2 * PAGE), b"only mapped")
os.close(only_mapped)

mount = directory + "/mount"
os.mkdir(mount)
if libc.mount(b"none", mount.encode(), b"hugetlbfs", 0, b"pagesize=2M,mode=755"):
    raise OSError(ctypes.get_errno(), "mount")
for name in ("named", "closed", "unlinked", "mapped only"):
    path = mount + "/" + name
    file = os.open(path, os.O_CREAT | os.O_RDWR, 0o640)
    os.ftruncate(file, 2 * PAGE)
    fill(mmap.mmap(file, 2 * PAGE), name.encode())
    if name == "closed":
        areas.pop()[0].close()
    if name in ("closed", "mapped only"):
        os.close(file)
    else:
        os.lseek(file, 12345, os.SEEK_SET)
        files.append((file, name.encode()))
    if name in ("unlinked", "mapped only"):
        os.unlink(path)

CREATE, SHM_HUGETLB, SIZE = 0o1000, 0o4000, 3 << 20
segments = []
for key in (0x4d1, 0x4d2):
    segment = libc.shmget(key, SIZE, CREATE | SHM_HUGETLB | 0o600)
    if segment < 0:
        raise OSError(ctypes.get_errno(), "shmget")
    at = libc.shmat(segment, None, 0)
    # Behind what was asked for there is memory up to the end of the page.
    for offset in (0, 2 * PAGE - 10):
        ctypes.memmove(at + offset, b"segment", 7)
    if key == 0x4d2:
        libc.shmdt(ctypes.c_void_p(at))
    segments.append((key, segment, at))

told, tell = os.pipe()
answers, answer = os.pipe()
if os.fork() == 0:
    os.read(told, 1)
    shared[100:105] = b"child"
    os.write(answer, b"y" if private[:7] == b"private" else b"n")
    os._exit(0)
until_asked()


def expect(what, good):
    if not good:
        problems.append(str(what))


os.write(tell, b"!")
expect("the child", os.read(answers, 1) == b"y" and shared[100:105] == b"child")
for area, word in areas:
    expect(word, whole(area, word))
expect("zeros", private[2 * PAGE :] == bytes(PAGE))
expect("a page of its own", copy[100:104] == b"mine" and whole(copy, b"sealed memory"))
expect("what others see", areas[2][0][100:104] == bytes(4))
expect("seals", fcntl.fcntl(sealed, fcntl.F_GET_SEALS) == SEALS)
expect("holes", os.fstat(sealed).st_blocks * 512 == 2 * PAGE)
word = b"written by mapping"
expect("an unmapped file", os.pread(unmapped, len(word), PAGE + 12345) == word)
for file, name in files:
    expect(name, os.lseek(file, 0, os.SEEK_CUR) == 12345 and os.pread(file, len(name), 0) == name)
expect("names", sorted(os.listdir(mount)) == ["closed", "named"])
with open(mount + "/closed", "rb") as file:
    expect("a closed file", file.read(6) == b"closed" and os.fstat(file.fileno()).st_mode & 0o777 == 0o640)
for key, segment, at in segments:
    expect("the id", libc.shmget(key, 0, 0) == segment)
    if key == 0x4d2:
        at = libc.shmat(segment, None, 0)
    for offset in (0, 2 * PAGE - 10):
        expect(f"segment {key}", ctypes.string_at(at + offset, 7) == b"segment")
    expect("detached at once", libc.shmdt(ctypes.c_void_p(at)) == 0)
    libc.shmctl(segment, 0, None)
with open("/proc/self/smaps") as smaps:
    kinds = [line for line in smaps if line.startswith("VmFlags:") and " ht" in line]
expect(f"{len(kinds)} areas", len(kinds) == 8)
say()
