"""Has what no kernel gives away, as its arguments name it; says what it has and what this kernel lacks, and waits."""
import array
import ctypes
import mmap
import os
import socket
import struct
import sys
import threading
import time

libc = ctypes.CDLL(None, use_errno=True)
# An address, too.
libc.syscall.restype = ctypes.c_long
kept = []


def call(*arguments):
    result = libc.syscall(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def told():
    for name, how in (("signal", 0), ("none", 1)):
        # mq_open, mq_notify; struct sigevent: value, SIGUSR1, SIGEV_SIGNAL or SIGEV_NONE
        name = f"{name}-{os.getpid()}"
        queue = call(240, name.encode(), os.O_CREAT | os.O_RDWR, 0o600, 0)
        event = (ctypes.c_int * 16)(7, 0, 10, how)
        call(244, queue, event)


def opened(name, descriptor):
    print("open", name, descriptor, flush=True)
    return descriptor


def mapped(descriptor, length):
    # mmap: of Python's own would keep a descriptor.
    call(9, None, length, 3, mmap.MAP_SHARED, descriptor, 0)
    os.close(descriptor)


def a_ring():
    # io_uring_setup
    return call(425, 4, ctypes.create_string_buffer(256))


def a_counter():
    # perf_event_open: PERF_TYPE_SOFTWARE, PERF_COUNT_SW_TASK_CLOCK
    event = ctypes.create_string_buffer(struct.pack("=IIQ", 1, 112, 1), 112)
    return call(298, event, 0, -1, -1, 0)


def a_secret():
    # memfd_secret
    descriptor = call(447, 0)
    os.ftruncate(descriptor, 4096)
    return descriptor


def ring():
    mapped(a_ring(), 4096)


def counter():
    mapped(a_counter(), 8192)


def secret():
    mapped(a_secret(), 4096)


def open_ring():
    opened("open_ring", a_ring())


def open_counter():
    opened("open_counter", a_counter())


def open_secret():
    opened("open_secret", a_secret())


def faults():
    # userfaultfd
    opened("faults", call(323, 0))


def queue():
    # mq_open, mq_unlink; a child has it, too.
    name = f"shared-{os.getpid()}".encode()
    call(240, name, os.O_CREAT | os.O_RDWR, 0o600, 0)
    call(241, name)
    child = os.fork()
    if child:
        print("child", child, flush=True)
    while not child:
        time.sleep(0.1)
        os.getppid() == 1 and os._exit(0)


def autofs():
    # The mount namespace is its own.
    _, heard = os.pipe2(0)
    words = f"fd={heard},pgrp={os.getpgrp() or os.getpid()},minproto=5,maxproto=5,indirect"
    if libc.mount(b"unmovable", b"/mnt", b"autofs", 0, words.encode()):
        raise OSError(ctypes.get_errno(), "mount autofs")


def core():
    # PR_SCHED_CORE, PR_SCHED_CORE_CREATE, of this thread
    call(157, 62, 1, 0, 0, 0)


def thread():
    tid, end = [], threading.Event()

    def live():
        tid.append(threading.get_native_id())
        end.wait()

    threading.Thread(target=live, daemon=True).start()
    while not tid:
        time.sleep(0.01)
    # pidfd_open, PIDFD_THREAD
    descriptor = call(434, tid[0], os.O_EXCL)
    pair = socket.socketpair()
    rights = array.array("i", [descriptor])
    pair[0].sendmsg([b"!"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    kept.append(pair)


for name in sys.argv[1:]:
    try:
        globals()[name]()
        print("has", name, flush=True)
    except OSError as error:
        print("lacks", name, error, flush=True)
print("ready", flush=True)
while True:
    time.sleep(0.1)
