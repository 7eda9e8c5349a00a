"""Threads that wait in system calls, each woken after a while by what it waits for, or by a signal.
Usage: calls.py DIRECTORY [SECONDS]

Says `waiting` when all do; then waits for the file `go` in the directory, and says `ok`, or what has gone another way. What is right
is what an undisturbed kernel does: it says `ok` there, too. With SECONDS nobody is woken: each waits for that long."""
import ctypes
import errno
import fcntl
import os
import pty
import select
import signal
import socket
import struct
import sys
import threading
import time

DIRECTORY = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
# Of arch/x86/entry/syscalls/syscall_64.tbl.
CALLS = {
    "read": 0, "readv": 19, "write": 1, "writev": 20, "open": 2, "poll": 7, "ppoll": 271, "select": 23, "pselect6": 270,
    "epoll_wait": 232, "epoll_pwait": 281, "epoll_pwait2": 441, "pause": 34, "accept": 43, "accept4": 288, "connect": 42,
    "recvfrom": 45, "recvmsg": 47, "recvmmsg": 299, "sendto": 44, "wait4": 61, "waitid": 247, "semop": 65, "semtimedop": 220,
    "msgsnd": 69, "msgrcv": 70, "fcntl": 72, "flock": 73, "rt_sigtimedwait": 128, "rt_sigsuspend": 130, "futex": 202,
    "futex_waitv": 449, "mq_open": 240, "mq_timedsend": 242, "mq_timedreceive": 243, "splice": 275, "tee": 276, "vmsplice": 278,
    "sendfile": 40, "io_setup": 206, "io_getevents": 208, "io_submit": 209, "nanosleep": 35, "clock_nanosleep": 230,
    "semget": 64, "semctl": 66, "msgget": 68, "rt_sigprocmask": 14,
}
SAVED = []  # what calls point to stays where it is


def kept(bytes_):
    buffer = ctypes.create_string_buffer(bytes_, len(bytes_))
    SAVED.append(buffer)
    return ctypes.addressof(buffer)


def timespec(seconds):
    return kept(struct.pack("qq", int(seconds), int(seconds % 1 * 1e9)))


def call(name, *arguments):
    """A call's result; that of an error is its name."""
    whole = [ctypes.c_long(argument) for argument in arguments]
    result = libc.syscall(ctypes.c_long(CALLS[name]), *whole)
    return errno.errorcode[ctypes.get_errno()] if result == -1 else result


def must(name, *arguments):
    result = call(name, *arguments)
    assert not isinstance(result, str), f"{name}: {result}"
    return result


HOUR = 3600
RESTARTING, ENDING = signal.SIGUSR1, signal.SIGUSR2
AWAITED, DESCRIBED = signal.SIGRTMIN + 3, signal.SIGRTMIN + 4
for caught in (RESTARTING, ENDING):
    signal.signal(caught, lambda *_: None)
signal.siginterrupt(RESTARTING, False)
signal.pthread_sigmask(signal.SIG_BLOCK, [AWAITED, DESCRIBED])


def mask(*signals):
    return kept(struct.pack("Q", sum(1 << (number - 1) for number in signals)))


class Case:
    """A thread in a call: `wake` makes it end with `expected`. One that `restarts` goes on where a handler of SA_RESTART runs."""

    def __init__(self, name, wait, wake, expected, restarts=False):
        self.name, self.wait, self.wake, self.expected = name, wait, wake, expected
        self.restarts, self.result = restarts, None
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        CASES.append(self)

    def run(self):
        self.tid = threading.get_native_id()
        self.result = self.wait()

    def waits(self):
        """Whether it is in a call and sleeps there."""
        with open(f"/proc/self/task/{self.tid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] == "S"


CASES = []


def ended(case):
    return lambda: signal.pthread_kill(case.thread.ident, ENDING)


def by_signal(name, wait):
    """A call that a handler without SA_RESTART ends."""
    case = Case(f"{name}, and a signal", wait, None, "EINTR")
    case.wake = ended(case)


def by_restarting(name, wait):
    """A call that a handler ends although it says that calls restart."""
    case = Case(f"{name}, and a signal that restarts others", wait, None, "EINTR")
    case.wake = lambda: signal.pthread_kill(case.thread.ident, RESTARTING)


def by_any(name, wait):
    """A call that either ends."""
    by_signal(name, wait)
    by_restarting(name, wait)


BUFFER = kept(bytes(1 << 16))


def full_pipe():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, bytes(4096))
    except BlockingIOError:
        pass
    os.set_blocking(writer, True)
    return reader, writer


def drained(reader):
    return lambda: os.read(reader, 8192)


def written(writer):
    return lambda: os.write(writer, b"x")


def vector(length):
    return kept(struct.pack("QQ", BUFFER, length))


def pipes():
    for name in ("read", "readv"):
        r, w = os.pipe()
        at = (BUFFER, 5) if name == "read" else (vector(5), 1)
        Case(name, lambda n=name, r=r, at=at: call(n, r, *at), written(w), 1, True)
    for name in ("write", "writev"):
        r, w = full_pipe()
        at = (BUFFER, 7) if name == "write" else (vector(7), 1)
        Case(name, lambda n=name, w=w, at=at: call(n, w, *at), drained(r), 7, True)
    r, w = os.pipe()
    by_signal("read", lambda: call("read", r, BUFFER, 5))
    r2, w2 = full_pipe()
    by_signal("write", lambda: call("write", w2, BUFFER, 5))
    a, b = os.pipe(), os.pipe()
    Case("splice", lambda: call("splice", a[0], 0, b[1], 0, 10, 0), written(a[1]), 1, True)
    c, d = os.pipe(), os.pipe()
    Case("tee", lambda: call("tee", c[0], d[1], 10, 0), written(c[1]), 1, True)
    r3, w3 = full_pipe()
    Case("vmsplice", lambda: call("vmsplice", w3, vector(9), 1, 0), drained(r3), 9, True)
    r4, w4 = full_pipe()
    source = os.open(f"{DIRECTORY}/source", os.O_RDWR | os.O_CREAT)
    os.pwrite(source, b"0123456789", 0)
    Case("sendfile", lambda: call("sendfile", w4, source, 0, 10), drained(r4), 10, True)
    os.mkfifo(f"{DIRECTORY}/fifo")
    path = kept(f"{DIRECTORY}/fifo\0".encode())
    Case("open of a fifo", lambda: call("open", path, os.O_RDONLY) > 2,
         lambda: SAVED.append(open(f"{DIRECTORY}/fifo", "w")), True, True)
    master, slave = pty.openpty()
    Case("read of a terminal", lambda: call("read", slave, BUFFER, 5), lambda: os.write(master, b"a\n"), 2, True)
    SAVED.extend([r, w, r2, w2, b, d])


def watches():
    def polled(name):
        r, w = os.pipe()
        fds = kept(struct.pack("ihh", r, 1, 0))
        arguments = {"poll": [-1], "ppoll": [0, mask(AWAITED), 8], "ppoll for a time": [timespec(HOUR), 0, 0]}[name]
        return lambda: call(name.split()[0], fds, 1, *arguments), (r, w)

    def selected(name):
        r, w = os.pipe()
        bits = bytearray(128)
        bits[r // 8] = 1 << r % 8
        time, fds = timespec(HOUR), kept(bytes(bits))
        return lambda: call(name, r + 1, fds, 0, 0, time, 0), (r, w)

    def listed(name):
        r, w = os.pipe()
        epoll = select.epoll()
        epoll.register(r, select.EPOLLIN)
        more = {"epoll_wait": [-1], "epoll_pwait": [-1, mask(AWAITED), 8], "epoll_pwait2": [timespec(HOUR), 0, 0]}[name]
        return lambda: call(name, epoll.fileno(), kept(bytes(24)), 2, *more), (r, w)

    kinds = {"poll": polled, "ppoll": polled, "ppoll for a time": polled, "select": selected, "pselect6": selected,
             "epoll_wait": listed, "epoll_pwait": listed, "epoll_pwait2": listed}
    for name, kind in kinds.items():
        wait, ends = kind(name)
        Case(name, wait, written(ends[1]), 1)
        for ending in (by_signal, by_restarting):
            wait, never = kind(name)
            ending(name, wait)
            SAVED.append(never)
        SAVED.append(ends)


def drain(end):
    end.setblocking(False)
    try:
        while True:
            end.recv(1000)
    except BlockingIOError:
        pass


def sockets():
    for name in ("accept", "accept4"):
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(f"\0{DIRECTORY}/{name}")
        listening.listen(1)
        client = socket.socket(socket.AF_UNIX)
        more = [0] if name == "accept4" else []
        Case(name, lambda n=name, s=listening, m=more: call(n, s.fileno(), 0, 0, *m) > 2,
             lambda c=client, n=name: c.connect(f"\0{DIRECTORY}/{n}"), True, True)
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()
    Case("accept of TCP", lambda: call("accept", listening.fileno(), 0, 0) > 2,
         lambda: SAVED.append(socket.create_connection(port)), True, True)
    def received(name):
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        header = struct.pack("QQQQQQQ", 0, 0, vector(9), 1, 0, 0, 0)
        arguments = {"recvfrom": [BUFFER, 9, 0, 0, 0], "recvmsg": [kept(header), 0],
                     "recvmmsg": [kept(header + bytes(8)), 1, 0, timespec(HOUR)]}[name]
        return lambda: call(name, near.fileno(), *arguments), far
    for name in ("recvfrom", "recvmsg", "recvmmsg"):
        wait, far = received(name)
        Case(name, wait, lambda s=far: s.send(b"xy"), 1 if name == "recvmmsg" else 2, True)
        wait, never = received(name)
        by_signal(name, wait)
        SAVED.append(never)
    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("qq", HOUR, 0))
    Case("recvfrom with SO_RCVTIMEO", lambda: call("recvfrom", near.fileno(), BUFFER, 9, 0, 0, 0),
         lambda: far.send(b"xy"), 2)
    near2, far2 = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near2.setblocking(False)
    try:
        while True:
            near2.send(bytes(1000))
    except BlockingIOError:
        near2.setblocking(True)
    Case("sendto", lambda: call("sendto", near2.fileno(), BUFFER, 1000, 0, 0, 0),
         lambda: drain(far2), 1000, True)
    full, name = socket.socket(socket.AF_UNIX), f"\0{DIRECTORY}/full"
    full.bind(name)
    full.listen(0)
    first, late = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    first.connect(name)
    address = kept(struct.pack("H", socket.AF_UNIX) + name.encode())
    Case("connect", lambda: call("connect", late.fileno(), address, 2 + len(name)), lambda: SAVED.append(full.accept()), 0, True)
    SAVED.extend([near, far, near2, far2, first])


def system_v():
    # Two of value 0: each wait takes one of what is given.
    sems = must("semget", 0, 8, 0o600 | 0o1000)
    for number, name in enumerate(("semop", "semtimedop")):
        take = kept(struct.pack("Hhh", number, -1, 0))
        more = [timespec(HOUR)] if name == "semtimedop" else []
        give = kept(struct.pack("Hhh", number, 1, 0))
        Case(name, lambda n=name, t=take, m=more: call(n, sems, t, 1, *m), lambda g=give: call("semop", sems, g, 1), 0)
        never = kept(struct.pack("Hhh", number + 4, -1, 0))
        by_any(name, lambda n=name, t=never, m=more: call(n, sems, t, 1, *m))
    empty = must("msgget", 0, 0o600 | 0o1000)
    message = kept(struct.pack("q", 1) + b"xyz")
    Case("msgrcv", lambda: call("msgrcv", empty, BUFFER, 100, 0, 0), lambda: call("msgsnd", empty, message, 3, 0), 3)
    never = must("msgget", 0, 0o600 | 0o1000)
    by_any("msgrcv", lambda: call("msgrcv", never, BUFFER, 100, 0, 0))
    full = must("msgget", 0, 0o600 | 0o1000)
    big = kept(struct.pack("q", 1) + bytes(1024))
    while call("msgsnd", full, big, 1024, 0o4000) == 0:
        pass
    Case("msgsnd", lambda: call("msgsnd", full, big, 1024, 0),
         lambda: call("msgrcv", full, BUFFER, 2000, 0, 0), 0)


def posix_queues():
    attributes = kept(struct.pack("qqqq32x", 0, 1, 8, 0))
    opened = lambda name: must("mq_open", kept(name.encode() + b"\0"), os.O_RDWR | os.O_CREAT, 0o600, attributes)
    until = timespec(time.time() + HOUR)
    empty, full = opened(f"empty{os.getpid()}"), opened(f"full{os.getpid()}")
    must("mq_timedsend", full, BUFFER, 3, 0, 0)
    receive = lambda: call("mq_timedreceive", empty, kept(bytes(8)), 8, 0, until)
    send = lambda: call("mq_timedsend", full, BUFFER, 3, 0, until)
    Case("mq_timedreceive", receive, lambda: call("mq_timedsend", empty, BUFFER, 3, 0, 0), 3, True)
    Case("mq_timedsend", send, lambda: call("mq_timedreceive", full, kept(bytes(8)), 8, 0, 0), 0, True)


def locks():
    """Held by a child, which lets them go one after the other."""
    files = []
    for name in ("posix", "ofd", "flock"):
        files.append(os.open(f"{DIRECTORY}/{name}", os.O_RDWR | os.O_CREAT))
    mine = [os.open(f"{DIRECTORY}/{name}", os.O_RDWR) for name in ("posix", "ofd", "flock")]
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
    told, tell = os.pipe()
    holds, hold = os.pipe()
    child = os.fork()
    if child == 0:
        fcntl.fcntl(files[0], fcntl.F_SETLK, lock)
        fcntl.fcntl(files[1], fcntl.F_OFD_SETLK, lock)
        theirs = os.open(f"{DIRECTORY}/flock", os.O_RDWR)
        fcntl.flock(theirs, fcntl.LOCK_EX)
        os.write(hold, b"x")
        os.read(told, 1)
        os._exit(9)
    os.read(holds, 1)
    os.close(files[1])
    let_go = lambda: os.write(tell, b"x")
    nothing = lambda: None
    wanted = kept(lock)
    Case("F_SETLKW", lambda: call("fcntl", mine[0], fcntl.F_SETLKW, wanted), let_go, 0, True)
    Case("F_OFD_SETLKW", lambda: call("fcntl", mine[1], fcntl.F_OFD_SETLKW, wanted), nothing, 0, True)
    Case("flock", lambda: call("flock", mine[2], fcntl.LOCK_EX), nothing, 0, True)
    Case("wait4", lambda: call("wait4", child, 0, 0, 0) == child, nothing, True, True)
    other = os.fork()
    if other == 0:
        os.read(told, 1)
        os._exit(8)
    Case("waitid", lambda: call("waitid", os.P_PID, other, BUFFER, os.WEXITED, 0), let_go, 0, True)
    SAVED.append(files)


def signals():
    direct = lambda case, number: lambda: signal.pthread_kill(case.thread.ident, number)
    for name, more in (("rt_sigtimedwait", [timespec(HOUR)]), ("rt_sigtimedwait without end", [0])):
        wait = lambda n=name, m=more: call(n.split()[0], mask(AWAITED), 0, *m, 8)
        case = Case(name, wait, None, int(AWAITED))
        case.wake = direct(case, AWAITED)
        by_any(name, wait)
    by_any("pause", lambda: call("pause"))
    # Only in this call the signal is not blocked.
    case = Case("rt_sigsuspend", suspended, None, ("EINTR", True))
    case.wake = direct(case, ENDING)


def suspended():
    signal.pthread_sigmask(signal.SIG_BLOCK, [ENDING])
    result = call("rt_sigsuspend", mask(AWAITED), 8)
    return result, ENDING in signal.pthread_sigmask(signal.SIG_BLOCK, [])


WAIT, WAKE, CMP_REQUEUE, WAIT_BITSET, PRIVATE = 0, 1, 4, 9, 128


def futexes():
    words = ctypes.create_string_buffer(1 << 12)
    SAVED.append(words)
    at = lambda n: ctypes.addressof(words) + 64 * n
    wake = lambda n: lambda: call("futex", at(n), WAKE | PRIVATE, 1)
    Case("FUTEX_WAIT", lambda: call("futex", at(0), WAIT | PRIVATE, 0, 0), wake(0), 0, True)
    Case("FUTEX_WAIT for a time", lambda: call("futex", at(1), WAIT | PRIVATE, 0, timespec(HOUR)), wake(1), 0)
    until = timespec(time.monotonic() + HOUR)
    Case("FUTEX_WAIT_BITSET", lambda: call("futex", at(2), WAIT_BITSET | PRIVATE, 0, until, 0, -1), wake(2), 0)
    requeued = Case("FUTEX_WAIT, requeued", lambda: call("futex", at(3), WAIT | PRIVATE, 0, 0), None, 0, True)
    requeued.wake = lambda: (call("futex", at(3), CMP_REQUEUE | PRIVATE, 0, 1, at(4), 0), wake(4)())
    both = kept(struct.pack("QQII", 0, at(5), 2 | PRIVATE, 0) + struct.pack("QQII", 0, at(6), 2 | PRIVATE, 0))
    Case("futex_waitv", lambda: call("futex_waitv", both, 2, 0, until, time.CLOCK_MONOTONIC), wake(6), 1, True)
    by_signal("FUTEX_WAIT", lambda: call("futex", at(7), WAIT | PRIVATE, 0, 0))
    by_any("FUTEX_WAIT for a time", lambda: call("futex", at(8), WAIT | PRIVATE, 0, timespec(HOUR)))


def mutexes():
    """Of the C library: with priority inheritance, and robust, whose owner ends without letting it go."""
    for name, inherits, robust in (("FUTEX_LOCK_PI", 1, 0), ("a robust mutex", 0, 1), ("a robust mutex of priority", 1, 1)):
        kind, mutex = ctypes.create_string_buffer(64), ctypes.create_string_buffer(64)
        SAVED.append((kind, mutex))
        libc.pthread_mutexattr_init(kind)
        libc.pthread_mutexattr_setprotocol(kind, inherits)
        libc.pthread_mutexattr_setrobust(kind, robust)
        libc.pthread_mutex_init(mutex, kind)
        held, end = threading.Event(), os.pipe()

        def hold(mutex=mutex, robust=robust, end=end, held=held):
            libc.pthread_mutex_lock(mutex)
            held.set()
            os.read(end[0], 1)
            if not robust:
                libc.pthread_mutex_unlock(mutex)
        threading.Thread(target=hold, daemon=True).start()
        held.wait()
        Case(name, lambda m=mutex: libc.pthread_mutex_lock(m), written(end[1]), errno.EOWNERDEAD if robust else 0, True)


def events():
    empty, full = libc.eventfd(0, 0), libc.eventfd(0, 0)
    os.write(full, struct.pack("Q", 2**64 - 2))
    Case("read of an eventfd", lambda: call("read", empty, BUFFER, 8), lambda: os.write(empty, struct.pack("Q", 1)), 8, True)
    eight = kept(struct.pack("Q", 8))
    Case("write to an eventfd", lambda: call("write", full, eight, 8), lambda: os.read(full, 8), 8, True)
    timer = libc.timerfd_create(time.CLOCK_MONOTONIC, 0)
    soon = struct.pack("qqqq", 0, 0, 0, 1)
    Case("read of a timerfd", lambda: call("read", timer, BUFFER, 8), lambda: libc.timerfd_settime(timer, 0, soon, None), 8, True)
    described = libc.signalfd(-1, ctypes.c_void_p(mask(DESCRIBED)), 0)
    Case("read of a signalfd", lambda: call("read", described, kept(bytes(128)), 128),
         lambda: os.kill(os.getpid(), DESCRIBED), 128, True)
    watch = libc.inotify_init()
    os.mkdir(f"{DIRECTORY}/watched")
    libc.inotify_add_watch(watch, f"{DIRECTORY}/watched".encode(), 0x100)
    Case("read of an inotify", lambda: call("read", watch, kept(bytes(1000)), 1000),
         lambda: open(f"{DIRECTORY}/watched/new", "w").close(), 32, True)


def asynchronous():
    context = kept(bytes(8))
    must("io_setup", 4, context)
    context = ctypes.c_uint64.from_address(context).value
    file = os.open(f"{DIRECTORY}/source", os.O_RDWR)
    request = kept(struct.pack("QIIHHIQQqQII", 5, 0, 0, 0, 0, file, BUFFER, 4, 0, 0, 0, 0))
    one = kept(struct.pack("Q", request))
    wait = lambda: call("io_getevents", context, 1, 1, kept(bytes(32)), timespec(HOUR))
    Case("io_getevents", wait, lambda: call("io_submit", context, 1, one), 1)


def timed(whole):
    """Each until then, and no longer."""
    r, w = os.pipe()
    fds, start = kept(struct.pack("ihh", r, 1, 0)), time.monotonic()
    bits = bytearray(128)
    bits[r // 8] = 1 << r % 8
    epoll = select.epoll()
    epoll.register(r, select.EPOLLIN)
    sems, empty = must("semget", 0, 1, 0o600 | 0o1000), kept(struct.pack("Hhh", 0, -1, 0))
    context = kept(bytes(8))
    must("io_setup", 4, context)
    context = ctypes.c_uint64.from_address(context).value
    words = ctypes.create_string_buffer(1 << 12)
    SAVED.extend([r, w, words, epoll])
    word = ctypes.addressof(words)
    attributes = kept(struct.pack("qqqq32x", 0, 1, 8, 0))
    queue = must("mq_open", kept(f"timed{os.getpid()}\0".encode()), os.O_RDWR | os.O_CREAT, 0o600, attributes)
    relative = lambda: timespec(whole)
    until = lambda clock: timespec(time.clock_gettime(clock) + whole)
    TAI, ABSOLUTE = 11, 1
    pair = kept(struct.pack("QQII", 0, word, 2 | PRIVATE, 0))
    calls = {
        "nanosleep": (0, "nanosleep", relative(), 0),
        "nanosleep, with a remainder": (0, "nanosleep", relative(), kept(bytes(16))),
        "poll": (0, "poll", fds, 1, whole * 1000),
        "ppoll": (0, "ppoll", fds, 1, relative(), 0, 0),
        "pselect6": (0, "pselect6", r + 1, kept(bytes(bits)), 0, 0, relative(), 0),
        "epoll_wait": (0, "epoll_wait", epoll.fileno(), kept(bytes(24)), 2, whole * 1000),
        "epoll_pwait": (0, "epoll_pwait", epoll.fileno(), kept(bytes(24)), 2, whole * 1000, mask(AWAITED), 8),
        "epoll_pwait2": (0, "epoll_pwait2", epoll.fileno(), kept(bytes(24)), 2, relative(), 0, 0),
        "semtimedop": ("EAGAIN", "semtimedop", sems, empty, 1, relative()),
        "rt_sigtimedwait": ("EAGAIN", "rt_sigtimedwait", mask(AWAITED), 0, relative(), 8),
        "io_getevents": (0, "io_getevents", context, 1, 1, kept(bytes(32)), relative()),
        "mq_timedreceive": ("ETIMEDOUT", "mq_timedreceive", queue, kept(bytes(8)), 8, 0, until(time.CLOCK_REALTIME)),
        "FUTEX_WAIT": ("ETIMEDOUT", "futex", word + 64, WAIT | PRIVATE, 0, relative()),
        "FUTEX_WAIT_BITSET": ("ETIMEDOUT", "futex", word + 128, WAIT_BITSET | PRIVATE, 0, until(time.CLOCK_MONOTONIC), 0, -1),
        "FUTEX_WAIT_BITSET, by the time of day":
            ("ETIMEDOUT", "futex", word + 192, WAIT_BITSET | PRIVATE | 256, 0, until(time.CLOCK_REALTIME), 0, -1),
        "futex_waitv": ("ETIMEDOUT", "futex_waitv", pair, 1, 0, until(time.CLOCK_MONOTONIC), time.CLOCK_MONOTONIC),
    }
    clocks = {"real": time.CLOCK_REALTIME, "monotonic": time.CLOCK_MONOTONIC, "boot": time.CLOCK_BOOTTIME, "TAI": TAI}
    for name, clock in clocks.items():
        calls[f"clock_nanosleep, {name}"] = (0, "clock_nanosleep", clock, 0, relative(), 0)
        calls[f"clock_nanosleep, {name}, until"] = (0, "clock_nanosleep", clock, ABSOLUTE, until(clock), 0)
    for name, (expected, *made) in calls.items():
        # The `syscall` of the C library is a function of its own, whose arguments nobody reads any more.
        Case(name, lambda made=made: (call(*made), took(start, whole)), lambda: None, (expected, "in time"))


def took(start, whole):
    spent = time.monotonic() - start
    return "in time" if whole - 0.01 < spent < whole + 4 else f"after {spent:.1f} s"


if len(sys.argv) > 2:
    timed(int(sys.argv[2]))
else:
    for begin in (pipes, watches, sockets, system_v, posix_queues, locks, signals, futexes, mutexes, events, asynchronous):
        begin()
while not all(hasattr(case, "tid") and case.waits() for case in CASES):
    time.sleep(0.01)
time.sleep(0.1)
print("waiting", flush=True)
while not os.path.exists(f"{DIRECTORY}/go"):
    time.sleep(0.01)
wrong = [f"{case.name} has ended with {case.result}" for case in CASES if case.result not in (None, case.expected)]
for case in CASES:
    if case.restarts:
        signal.pthread_kill(case.thread.ident, RESTARTING)
time.sleep(0.1)
wrong += [f"a signal has ended {case.name}" for case in CASES if case.restarts and not case.thread.is_alive()]
for case in CASES:
    case.wake()
for case in CASES:
    case.thread.join(20)
    if case.thread.is_alive():
        wrong.append(f"{case.name} still waits")
    elif case.result != case.expected:
        wrong.append(f"{case.name} gave {case.result}, not {case.expected}")
print("; ".join(wrong) or "ok", flush=True)
