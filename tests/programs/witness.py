"""Notes every disturbance of its run: calls that are interrupted, clocks that leap. Usage: witness.py FILE

It counts in FILE (8 bytes, little endian, shared memory) and, on threads, sits in the calls that a careless tracer
interrupts: epoll_wait, nanosleep, a blocking read, a futex wait. Prints every disturbance as a line."""
import ctypes
import errno
import mmap
import os
import select
import struct
import sys
import threading
import time

libc = ctypes.CDLL(None, use_errno=True)
with open(sys.argv[1], "w+b") as file:
    file.write(bytes(4096))
    file.flush()
    memory = mmap.mmap(file.fileno(), 4096)


def say(*words):
    os.write(1, (" ".join(str(w) for w in words) + "\n").encode())


def epoll():
    fd = libc.epoll_create1(0)
    events = ctypes.create_string_buffer(12)
    while True:
        if libc.epoll_wait(fd, events, 1, 20) < 0:
            say("epoll_wait", errno.errorcode[ctypes.get_errno()])


def sleep():
    wanted = struct.pack("qq", 0, 5_000_000)
    while True:
        if libc.nanosleep(wanted, None) != 0:
            say("nanosleep", errno.errorcode[ctypes.get_errno()])


def reader(end):
    byte = ctypes.create_string_buffer(1)
    while True:
        if libc.read(end, byte, 1) < 0:
            say("read", errno.errorcode[ctypes.get_errno()])


def writer(end):
    while True:
        time.sleep(0.01)
        os.write(end, b"x")


inlet, outlet = os.pipe()
for task, arguments in ((epoll, ()), (sleep, ()), (reader, (inlet,)), (writer, (outlet,))):
    threading.Thread(target=task, args=arguments, daemon=True).start()

say("ready")
count = 0
while True:
    count += 1
    memory[0:8] = struct.pack("<q", count)
    if count % 2000 == 0:
        select.select([], [], [], 0.002)
