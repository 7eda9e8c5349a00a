"""Threads and processes that differ in all that the kernel keeps for one of them: scheduling, credentials, filters of system calls.
Usage: settings.py DIRECTORY

Says `set` when all have what they want, and `has not KIND` for what this kernel does not allow; waits for the file `go` in the directory,
and says `ok`, or what differs."""
import ctypes
import errno
import os
import signal
import struct
import sys
import threading
import time

DIRECTORY = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
SAVED = []
wrong = []


def kept(bytes_):
    buffer = ctypes.create_string_buffer(bytes_, len(bytes_))
    SAVED.append(buffer)
    return ctypes.addressof(buffer)


def call(number, *arguments):
    """A call's result; that of an error is its name (numbers of arch/x86/entry/syscalls/syscall_64.tbl)."""
    whole = [ctypes.c_long(argument) for argument in (number, *arguments)]
    result = libc.syscall(*whole)
    return errno.errorcode[ctypes.get_errno()] if result == -1 else result


def prctl(*arguments):
    return call(157, *arguments, *[0] * (5 - len(arguments)))


SETRESUID, SETRESGID, PRCTL, IOPRIO_SET, IOPRIO_GET, GETAFFINITY, SECCOMP, SETATTR, GETATTR = 117, 119, 157, 251, 252, 204, 317, 314, 315
SET_MEMPOLICY, GET_MEMPOLICY = 238, 239
SET_FILTER, TSYNC = 1, 1


def has():
    """All that is the calling thread's own."""
    tid = threading.get_native_id()
    attributes = ctypes.create_string_buffer(64)
    call(GETATTR, 0, ctypes.addressof(attributes), 56, 0)
    processors = ctypes.create_string_buffer(128)
    call(GETAFFINITY, 0, 128, ctypes.addressof(processors))
    death = ctypes.create_string_buffer(8)
    prctl(2, ctypes.addressof(death))
    policy = ctypes.create_string_buffer(8 + 128)
    call(GET_MEMPOLICY, ctypes.addressof(policy), ctypes.addressof(policy) + 8, 1025, 0, 0)
    wanted = ("Name:", "Uid:", "Gid:", "Groups:", "Cap", "NoNewPrivs:", "Seccomp", "SigBlk:")
    with open("/proc/thread-self/status") as status:
        lines = [line.strip() for line in status if line.startswith(wanted)]
    return {
        "tid": tid, "scheduling": attributes.raw.hex(), "processors": processors.raw.hex(), "priority": call(IOPRIO_GET, 1, 0),
        "slack": prctl(30), "keepcaps": prctl(7), "secure bits": prctl(27), "death": death.raw.hex(), "status": lines,
        "nice": os.getpriority(os.PRIO_PROCESS, 0), "policy of memory": policy.raw.hex(), "failing memory": prctl(34),
        "sysinfo": call(99, kept(bytes(256))), "times": call(100, kept(bytes(64))) == "EXDEV",
    }


def scheduled(policy, flags=0, nice=0, priority=0, runtime=0, deadline=0, least=0, greatest=0):
    attributes = struct.pack("IIQiIQQQII", 56, policy, flags, nice, priority, runtime, deadline, deadline, least, greatest)
    result = call(SETATTR, 0, kept(attributes), 0)
    if isinstance(result, str):
        print(f"has not policy {policy} with flags {flags}: {result}", flush=True)


def filtered(number, flags=0):
    """Makes a call fail by EXDEV (struct sock_fprog, linux/filter.h)."""
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | errno.EXDEV), (0x06, 0, 0, 0x7fff0000)]
    program = kept(b"".join(struct.pack("HBBI", *one) for one in code))
    return call(SECCOMP, SET_FILTER, flags, kept(struct.pack("H6xQ", len(code), program)))


def ids(number):
    call(SETRESGID, number, number + 1, number + 2)
    call(SETRESUID, number, number + 1, number + 2)


def placed(mode, nodes):
    result = call(SET_MEMPOLICY, mode, kept(struct.pack("Q", nodes)), 65)
    if isinstance(result, str):
        print(f"has not policy of memory {mode}: {result}", flush=True)


MILLISECOND = 1_000_000
KINDS = {
    "fifo": lambda: (os.setpriority(os.PRIO_PROCESS, 0, 4), scheduled(1, flags=1, priority=5)),
    "rr": lambda: scheduled(2, priority=7),
    "batch": lambda: scheduled(3, flags=1, nice=3),
    "idle": lambda: scheduled(5),
    "deadline": lambda: scheduled(6, runtime=10 * MILLISECOND, deadline=30 * MILLISECOND),
    "slice": lambda: scheduled(0, nice=-3, runtime=5 * MILLISECOND),
    "bounds": lambda: scheduled(0, flags=0x60, least=100, greatest=500),
    "ioprio": lambda: call(IOPRIO_SET, 1, 0, 2 << 13 | 6),
    "one cpu": lambda: os.sched_setaffinity(0, {0}),
    "bound memory": lambda: placed(2 | 1 << 15, 1),
    "interleaved memory": lambda: placed(3, 1),
    "local memory": lambda: placed(4, 0),
    "early": lambda: prctl(33, 1, 1),
    "late": lambda: prctl(33, 1, 0),
    "slack": lambda: prctl(29, 70_001),
    "secure": lambda: prctl(28, 1 << 4 | 1 << 2),
    "keeping": lambda: (prctl(8, 1), ids(5000)),
    "other ids": lambda: ids(6000),
    "filters": lambda: (filtered(99), filtered(100)),
    "one filter": lambda: filtered(100),
    "no more": lambda: (prctl(38, 1), filtered(99)),
    "ambient": lambda: (prctl(28, 1 << 4), call(126, kept(struct.pack("Ii", 0x20080522, 0)), kept(struct.pack("IIIIII", *[1 << 10] * 3, 0, 0, 0))),
                        prctl(47, 2, 10)),
}


class Part:
    """A thread, or with `processes` that of a child, that says twice what it has."""

    def __init__(self, name, make):
        self.name, self.make, self.said, self.told = name, make, [], threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        prctl(15, kept(self.name.encode() + b"\0"))
        self.make()
        self.said.append(has())
        self.told.wait()
        self.said.append(has())


def compared(parts, tell):
    while not all(part.said for part in parts):
        time.sleep(0.01)
    tell()
    for part in parts:
        part.told.set()
        part.thread.join()
        before, after = part.said
        for key in before:
            if before[key] != after[key]:
                wrong.append(f"{part.name}, {key}: was {before[key]}, is {after[key]}")


def child(play):
    """Says `x` when it has what it wants; 0 where it still has it when it is told."""
    (heard, say), (told, tell) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(tell)
        play(lambda: os.write(say, b"x"), lambda: os.read(told, 1))
        os._exit(1 if wrong else 0)
    os.close(told)
    os.close(say)
    os.read(heard, 1)
    return pid, tell, heard


def strict(say, hear):
    prctl(22, 1)
    say()
    hear()
    say()  # All else ends it, as its own end does.


def dispatched(say, hear):
    selector = ctypes.create_string_buffer(1)
    prctl(59, 1, 0, 0, ctypes.addressof(selector))
    signal.signal(signal.SIGSYS, signal.SIG_DFL)
    say()
    hear()
    selector.raw = b"\1"
    os.getppid()


def synchronised(say, hear):
    """A filter of one thread for all, and one of another for itself."""
    parts = [Part("of all", lambda: None), Part("and one", lambda: filtered(99))]
    while not all(part.said for part in parts):
        time.sleep(0.01)
    if filtered(100, TSYNC) == 0:
        wrong.append("a filter is there for all although one has another")
    other = Part("later", lambda: None)
    while not other.said:
        time.sleep(0.01)
    say()
    hear()
    compared([*parts, other], lambda: None)


def one_user(number):
    def play(say, hear):
        ids(number)
        before = os.getresuid(), os.getresgid()
        say()
        hear()
        if (os.getresuid(), os.getresgid()) != before or before[0][0] != number:
            wrong.append("its ids")
    return play


def bereaved(say, hear):
    """With a signal for the end of the parent, of one thread only."""
    parts = [Part("death", lambda: prctl(1, signal.SIGUSR1)), Part("none", lambda: None)]
    while not all(part.said for part in parts):
        time.sleep(0.01)
    say()
    hear()
    compared(parts, lambda: None)


def synchronised_alone(say, hear):
    parts = [Part("first", lambda: None), Part("second", lambda: prctl(15, kept(b"renamed\0")))]
    while not all(part.said for part in parts):
        time.sleep(0.01)
    filtered(99, TSYNC)
    say()
    hear()
    for part in parts:
        part.told.set()
        part.thread.join()
        if part.said[1]["sysinfo"] != "EXDEV" or part.said[1]["status"][0] != part.said[0]["status"][0]:
            wrong.append(f"{part.name} has {part.said[1]}")


USERS = 60
# Forked before there are threads.
children = [(child(one_user(10_000 + number)), 0) for number in range(USERS)]
children += [(child(play), 0) for play in (synchronised, synchronised_alone, bereaved)]
children += [(child(strict), signal.SIGKILL), (child(dispatched), signal.SIGSYS)]
parts = [Part(name, make) for name, make in KINDS.items()]


def wait():
    print("set", flush=True)
    while not os.path.exists(f"{DIRECTORY}/go"):
        time.sleep(0.01)


compared(parts, wait)
for (pid, tell, heard), expected in children:
    os.write(tell, b"x")
    said = os.read(heard, 1) if expected == signal.SIGKILL else b"x"
    _, status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status) != -expected or said != b"x":
        wrong.append(f"child {pid} has ended with {status}")
print("; ".join(wrong) or "ok", flush=True)
