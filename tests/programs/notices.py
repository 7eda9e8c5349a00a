"""Waits to be told of messages (mq_notify): by a signal with a value, of a queue with messages in it, by a signal that is
ignored, not at all, by a netlink socket, as SIGEV_THREAD is made, and of a queue that has no name. Says in `said` whether it
is told, once, once there is `ask`. With `blocked`, its signals wait already, and the queues are in an ipc namespace inside the
container; with `timer`, one of them is a timer's."""
import ctypes
import os
import select
import signal
import socket
import struct
import sys
from asked import answer, call, expect, problems, until_asked

SIGNAL, NONE, THREAD = 0, 1, 2


def queue(name):
    # mq_open
    attributes = struct.pack("=qqqq32x", 0, 4, 64, 0)
    flags = os.O_CREAT | os.O_RDWR | os.O_NONBLOCK
    return call(240, name.encode(), flags, 0o600, attributes)


def notify(at, value, number, how):
    event = None if how is None else struct.pack("=Qii48x", value, number, how)
    call(244, at, event)


def send(at, message):
    call(242, at, message, ctypes.c_size_t(len(message)), 0, None)


def receive(at):
    buffer = ctypes.create_string_buffer(64)
    try:
        length = call(243, at, buffer, ctypes.c_size_t(64), None, None)
        return buffer.raw[:length]
    except OSError:
        return None


BLOCKED = sys.argv[2:] == ["blocked"]
if BLOCKED:
    # unshare, CLONE_NEWIPC; its parent stays outside.
    if os.fork():
        os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
    call(272, 0x08000000)
PLAIN, REAL, IGNORED = signal.SIGUSR1, signal.SIGRTMIN + 3, signal.SIGUSR2
signal.pthread_sigmask(signal.SIG_BLOCK, [PLAIN, REAL])
signal.signal(IGNORED, signal.SIG_IGN)


def wait_for(number):
    """The value that came with a signal, which Python does not say."""
    info = ctypes.create_string_buffer(128)
    mask, zero = struct.pack("=Q", 1 << (number - 1)), struct.pack("=QQ", 0, 0)
    try:
        call(128, mask, info, zero, 8)
    except OSError:
        return None
    return struct.unpack_from("=i", info, 8)[0], struct.unpack_from("=Q", info, 24)[0]


empty, full, ignored, nothing, cookie = (queue(n) for n in ("empty", "full", "ignored", "nothing", "cookie"))
send(full, b"first")
notify(empty, 0x1122334455667788, PLAIN, SIGNAL)
notify(full, 0x8877665544332211, REAL, SIGNAL)
notify(ignored, 5, IGNORED, SIGNAL)
notify(nothing, 0, 0, NONE)
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
words = ctypes.create_string_buffer(bytes(range(1, 33)), 32)
notify(cookie, ctypes.addressof(words), netlink.fileno(), THREAD)
nameless = queue("nameless")
call(241, b"nameless")
send(nameless, b"unseen")
notify(nameless, 0x1234, REAL, SIGNAL)


def queued(number, value):
    # rt_sigqueueinfo: SI_QUEUE
    info = struct.pack("=iii4xiiQ96x", number, 0, -1, os.getpid(), 0, value)
    call(129, os.getpid(), number, info)


if BLOCKED:
    # One of the process, one of the thread alone (tgkill).
    queued(PLAIN, 77)
    call(234, os.getpid(), os.getpid(), PLAIN)
    queued(REAL, 1)
    queued(REAL, 2)
if sys.argv[2:] == ["timer"]:
    timer = ctypes.c_int()
    # timer_create, timer_settime
    call(222, 1, struct.pack("=Qii48x", 5, PLAIN, SIGNAL), ctypes.byref(timer))
    call(223, timer.value, 0, struct.pack("=qqqq", 0, 0, 0, 1), None)
until_asked()

SI_MESGQ = -3
SI_TKILL, SI_QUEUE = -6, -1
if BLOCKED:
    expect("the thread's own", SI_TKILL, wait_for(PLAIN)[0])
    expect("the one before", (SI_QUEUE, 77), wait_for(PLAIN))
    expect("the first", (SI_QUEUE, 1), wait_for(REAL))
    expect("the second", (SI_QUEUE, 2), wait_for(REAL))
if sys.argv[2:] == ["timer"]:
    expect("the timer's", (-2, 5), wait_for(PLAIN))
expect("nothing yet", (None, None), (wait_for(PLAIN), wait_for(REAL)))
expect("no message yet", [], select.select([netlink], [], [], 0)[0])
for one in (empty, full, ignored, nothing, cookie, nameless):
    try:
        notify(one, 0, 0, NONE)
        problems.append("one was not registered")
    except OSError as error:
        expect("busy", 16, error.errno)
expect("the empty one is empty", None, receive(empty))
expect("the full one has a message", b"first", receive(full))
send(empty, b"x")
expect("by signal", (SI_MESGQ, 0x1122334455667788), wait_for(PLAIN))
send(full, b"y")
expect("by a real-time signal", (SI_MESGQ, 0x8877665544332211), wait_for(REAL))
send(cookie, b"z")
readable = select.select([netlink], [], [], 5)[0]
expect("by a message", bytes(range(1, 32)) + b"\1", readable and netlink.recv(100))
expect("once", [], select.select([netlink], [], [], 0)[0])
expect("the nameless one has a message", b"unseen", receive(nameless))
send(nameless, b"n")
expect("of the nameless", (SI_MESGQ, 0x1234), wait_for(REAL))
send(ignored, b"i")
send(nothing, b"n")
for one in (empty, full, ignored, nothing, cookie, nameless):
    # Each is free again.
    notify(one, 0, 0, NONE)
answer()
