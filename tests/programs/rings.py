"""Queues of asynchronous I/O (io_setup): one whose ring has gone round, with events that nobody has read; one somebody waits
at; one that reads and writes all the time; all seen by a child, too. With `poll`, one whose requests wait for something to
happen. Says in `said` whether all is as it was, once there is `ask`."""
import ctypes
import errno
import mmap
import os
import struct
import sys
import threading
import time
from asked import answer, call, directory, expect, problems, until_asked

READ, WRITE, POLL = 0, 1, 5


class Queue:
    def __init__(self, requests):
        at = ctypes.c_ulong(0)
        call(206, requests, ctypes.byref(at))
        self.at, self.kept = at.value, []

    def submit(self, kind, descriptor, word, buffer=0, length=0, offset=0):
        bytes_ = struct.pack("=QIIHhIQQqQII", word, 0, 0, kind, 0, descriptor, buffer, length, offset, 0, 0, 0)
        request = ctypes.create_string_buffer(bytes_, 64)
        pointer = ctypes.c_ulong(ctypes.addressof(request))
        self.kept = self.kept[-200:] + [request]
        assert call(209, ctypes.c_ulong(self.at), ctypes.c_long(1), ctypes.byref(pointer)) == 1
        return ctypes.addressof(request)

    def events(self, least, most):
        buffer = ctypes.create_string_buffer(32 * most)
        count = call(208, ctypes.c_ulong(self.at), ctypes.c_long(least), ctypes.c_long(most), buffer, None)
        return [struct.unpack_from("=QQqq", buffer, 32 * i) for i in range(count)]

    def ring(self):
        return struct.unpack("=8I", ctypes.string_at(self.at, 32))


if sys.argv[2:] == ["poll"]:
    queue, event = Queue(10), os.eventfd(0)
    file = os.memfd_create("file")
    os.write(file, b"abc")
    buffer = ctypes.create_string_buffer(8)
    queue.submit(READ, file, 70, ctypes.addressof(buffer), 3)
    for word in (71, 72):
        queue.submit(POLL, event, word, 1)
    until_asked()
    os.eventfd_write(event, 1)
    words = sorted((word, result) for word, _, result, _ in queue.events(3, 100))
    more = queue.events(0, 100)
    expect("requests", ([(70, 3), (71, 1), (72, 1)], []), (words, list(more)))
    answer()
    sys.exit()

path = directory + "/file"
with open(path, "wb") as file:
    file.write(bytes(range(256)) * 1024)
file = os.open(path, os.O_RDONLY)
buffer = mmap.mmap(-1, 1 << 20)
base = ctypes.addressof(ctypes.c_char.from_buffer(buffer))

round_ = Queue(10)
for n in range(300):
    round_.submit(READ, file, n, base, n)
    assert round_.events(1, 1)[0][0] == n
unread = [(1000 + n, round_.submit(READ, file, 1000 + n, base, 10 + n), 10 + n, 0) for n in range(60)]
before = round_.ring()

waited, woken = Queue(100), []


def wait():
    woken.extend(waited.events(1, 4))


waiter = threading.Thread(target=wait)
waiter.start()

busy, faults, rounds, over = Queue(64), [], 0, False
try:
    direct = os.open(path + ".direct", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
except OSError:
    direct = os.open(path + ".direct", os.O_RDWR | os.O_CREAT)


def work():
    global rounds
    block = 4096
    area = base + (64 << 10)
    while not over:
        rounds += 1
        for n in range(8):
            ctypes.memset(area + n * block, (rounds + n) % 256, block)
        for kind in (WRITE, READ):
            for n in range(8):
                busy.submit(kind, direct, n, area + n * block, block, n * block)
            done = []
            while len(done) < 8:
                done += busy.events(1, 8)
            if sorted(e[0] for e in done) != list(range(8)) or any(e[2] != block for e in done):
                faults.append(done)
        for n in range(8):
            if ctypes.string_at(area + n * block, block) != bytes([(rounds + n) % 256]) * block:
                faults.append((rounds, n))


worker = threading.Thread(target=work)
worker.start()

told, tell = os.pipe()
answers, reply = os.pipe()
child = os.fork()
if child == 0:
    os.read(told, 1)
    try:
        round_.events(0, 1)
        os.write(reply, b"n")
    except OSError as error:
        os.write(reply, b"y" if error.errno == errno.EINVAL else b"n")
    os._exit(0)

until_asked()
at = rounds
deadline = time.time() + 20
while rounds < at + 20 and time.time() < deadline:
    time.sleep(0.01)
if rounds < at + 20:
    problems.append("it does no more work")
over = True
worker.join()
if faults:
    problems.append(f"faults {faults[:2]}")
after = round_.ring()
if (before[1], before[4:]) != (after[1], after[4:]):
    problems.append(f"ring {before} {after}")
if len(sys.argv) < 3 and (after[3] - after[2]) % after[1] != 60:
    problems.append(f"unread {after}")
found = round_.events(0, 100)
if found != unread:
    problems.append(f"events {found[:3]} {len(found)}, were {unread[:3]}")
for n in range(500):
    round_.submit(READ, file, n, base, n)
    if round_.events(1, 5) != [(n, ctypes.addressof(round_.kept[-1]), n, 0)]:
        problems.append(f"request {n}")
        break
if woken:
    problems.append(f"woken too early: {woken}")
waited.submit(READ, file, 77, base, 5)
waiter.join(10)
if [e[0] for e in woken] != [77]:
    problems.append(f"woken {woken}")
os.write(tell, b"!")
if os.read(answers, 1) != b"y":
    problems.append("the child has a queue")
os.waitpid(child, 0)
for queue in (round_, waited, busy):
    call(207, ctypes.c_ulong(queue.at))
with open("/proc/self/maps") as maps:
    if "[aio]" in maps.read():
        problems.append("a ring is left")
answer()
