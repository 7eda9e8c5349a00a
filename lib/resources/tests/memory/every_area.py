"""Makes areas of every kind, waits for the file DIR/go, and checks that they are as they were."""
import ctypes, json, mmap, os, random, sys, time

DIR = sys.argv[1]
PAGE = 4096
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
for name in ("madvise", "mprotect", "mlock"):
    getattr(libc, name).argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
libc.sbrk.restype = ctypes.c_void_p
libc.sbrk.argtypes = [ctypes.c_long]
R, W, X = 1, 2, 4
SHARED, PRIVATE, ANON, NORESERVE, DOWN, STACK = 1, 2, 0x20, 0x4000, 0x100, 0x20000
places = []


def area(size, prot=R | W, flags=PRIVATE | ANON, fd=-1, offset=0):
    at = libc.mmap(None, size, prot, flags, fd, offset)
    assert at not in (None, 2**64 - 1), (ctypes.get_errno(), size, flags)
    return at


def noise(seed, size):
    return random.Random(seed).randbytes(size)


def fill(at, size, seed):
    ctypes.memmove(at, noise(seed, size), size)
    places.append((at, size, seed))


def call(result):
    assert result == 0, os.strerror(ctypes.get_errno())


def advise(at, size, advice):
    call(libc.madvise(at, size, advice))


# Two areas that the kernel does not make one, because both had pages when they met.
FIXED = 0x10
hole = area(8 * PAGE, 0)
for at in (hole, hole + 4 * PAGE):
    # The middle differs, so that they do not share what the kernel knows of their pages.
    assert libc.mmap(at, 3 * PAGE, R | W, PRIVATE | ANON | FIXED, -1, 0) == at
    fill(at, 3 * PAGE, at)
assert libc.mmap(hole + 3 * PAGE, PAGE, R | W, PRIVATE | ANON | FIXED, -1, 0)
assert libc.mmap(hole + 7 * PAGE, PAGE, 0, PRIVATE | ANON | FIXED, -1, 0)
# Private memory, with holes in it.
big = area(8 << 20)
for i in range(0, 8 << 20, 64 << 10):
    fill(big + i, 32 << 10, i)
# Sealed off after it was written; forbidden altogether.
for prot in (R, 0, R | X):
    at = area(16 * PAGE)
    fill(at, 12 * PAGE, prot)
    call(libc.mprotect(at, 16 * PAGE, prot))
    if not prot & R:
        places.pop()
        forbidden = at
# A reservation of a terabyte, with a little in it.
reserve = area(1 << 40, 0, PRIVATE | ANON | NORESERVE)
call(libc.mprotect(reserve + (1 << 30), 8 * PAGE, R | W))
fill(reserve + (1 << 30), 3 * PAGE, 77)
# Shared anonymous memory, mapped in part, and the same again elsewhere.
shared = mmap.mmap(-1, 64 * PAGE)
shared[5 * PAGE : 9 * PAGE] = noise(5, 4 * PAGE)
# A memory file, and a deleted file, nobody has a descriptor of.
memfd = os.memfd_create("noted")
os.write(memfd, noise(6, 10 * PAGE + 100))
one = area(11 * PAGE, R | W, SHARED, memfd)
two = area(8 * PAGE, R, SHARED, memfd, 2 * PAGE)
private = area(4 * PAGE, R | W, PRIVATE, memfd, PAGE)
fill(private + PAGE, PAGE, 8)
os.close(memfd)
gone = os.open(DIR + "/gone", os.O_RDWR | os.O_CREAT, 0o640)
os.write(gone, noise(9, 6 * PAGE))
gone_shared = area(6 * PAGE, R | W, SHARED, gone)
gone_private = area(6 * PAGE, R | X, PRIVATE, gone)
os.close(gone)
os.unlink(DIR + "/gone")
# Files that are there: shared, shared for reading, private with a page of its own.
reading = os.open(DIR + "/kept", os.O_RDONLY | os.O_CREAT)
with open(DIR + "/kept", "wb+") as kept:
    kept.write(noise(10, 8 * PAGE))
    kept.flush()
    kept_shared = area(8 * PAGE, R | W, SHARED, kept.fileno())
    kept_private = area(8 * PAGE, R | W, PRIVATE, kept.fileno())
    kept_reading = area(4 * PAGE, R, SHARED, reading, 4 * PAGE)
    fill(kept_private + 2 * PAGE, PAGE, 11)
os.close(reading)
# What programs tell the kernel.
told = {16: 0, 10: 0, 18: 0, 14: 0, 15: 0, 1: 0, 2: 0}
for advice in told:
    at = area(4 << 20)
    fill(at, 8 * PAGE, 100 + advice)
    advise(at, 4 << 20, advice)
locked = area(4 * PAGE)
fill(locked, 4 * PAGE, 12)
libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
call(libc.mlock(locked, 4 * PAGE))
# Guard pages, where the kernel has them.
guarded = area(16 * PAGE)
fill(guarded, 4 * PAGE, 13)
has_guards = libc.madvise(guarded + 4 * PAGE, 2 * PAGE, 102) == 0
fill(guarded + 6 * PAGE, 2 * PAGE, 14)
# A name, and a second stack.
named = area(4 * PAGE)
fill(named, PAGE, 15)
label = ctypes.create_string_buffer(b"of the subject")
has_names = libc.prctl(0x53564D41, 0, named, 4 * PAGE, ctypes.addressof(label)) == 0
second_stack = area(64 * PAGE, R | W, PRIVATE | ANON | STACK)
fill(second_stack + 60 * PAGE, 4 * PAGE, 16)
# Dense memory that did not ask for huge pages, and dense memory that did.
dense = area((20 << 20) + PAGE)
for i in range(0, 20 << 20, 1 << 20):
    fill(dense + i, 1 << 20, i + 1)
huge = area(8 << 20)
advise(huge, 8 << 20, 14)
fill(huge, 8 << 20, 17)
# The end of the heap in the middle of a page.
libc.sbrk(0x1234)
heap_end = libc.sbrk(0)

environ = dict(os.environ)
open(DIR + "/almost", "w").close()
os.rename(DIR + "/almost", DIR + "/ready")
while not os.path.exists(DIR + "/go"):
    time.sleep(0.02)


def check(name, right):
    if not right:
        open(DIR + "/wrong", "a").write(name + "\n")


def here(at, size):
    return ctypes.string_at(at, size)


for at, size, seed in places:
    check("memory %x" % at, here(at, size) == noise(seed, size))
check("holes", here(big + (32 << 10), 32 << 10) == bytes(32 << 10))
call(libc.mprotect(forbidden, 16 * PAGE, R))
check("forbidden", here(forbidden, 12 * PAGE) == noise(0, 12 * PAGE))
check("shared", shared[5 * PAGE : 9 * PAGE] == noise(5, 4 * PAGE) and not any(shared[: 5 * PAGE]))
content = noise(6, 10 * PAGE + 100)
check("memfd", here(one, 10 * PAGE + 100) == content)
ctypes.memmove(one + 3 * PAGE, b"seen", 4)
check("memfd shared", here(two + PAGE, 4) == b"seen" and here(private + 2 * PAGE, 4) == b"seen")
check("memfd private", here(private, PAGE) == content[PAGE : 2 * PAGE])
check("deleted", here(gone_shared, 6 * PAGE) == noise(9, 6 * PAGE))
ctypes.memmove(gone_shared, b"seen", 4)
check("deleted shared", here(gone_private, 4) == b"seen")
ctypes.memmove(kept_shared + 5 * PAGE, b"seen", 4)
check("file", open(DIR + "/kept", "rb").read()[5 * PAGE : 5 * PAGE + 4] == b"seen")
check("file reading", here(kept_reading + PAGE, 4) == b"seen")
end = libc.sbrk(0)
check("heap", end >= heap_end and libc.sbrk(4096) == end and libc.sbrk(0) == end + 4096)
check("environment", dict(os.environ) == environ)
check("clock", abs(time.time() - os.stat(DIR + "/go").st_mtime) < 60)


def stack():
    for line in open("/proc/self/maps"):
        if line.endswith("[stack]\n"):
            start, end = line.split()[0].split("-")
            return int(end, 16) - int(start, 16)


# The main stack still grows.
before = stack()
sys.setrecursionlimit(9000)
json.loads("[" * 8000 + "]" * 8000)
check("stack %d %d" % (before, stack()), stack() > before + (256 << 10))
# Memory still comes and goes.
for i in range(100):
    bytearray(1 << 20)
# Last: the guard pages kill.
if has_guards:
    child = os.fork()
    if child == 0:
        ctypes.string_at(guarded + 5 * PAGE, 1)
        os._exit(0)
    check("guards", os.waitpid(child, 0)[1] == 11)
os._exit(42)
