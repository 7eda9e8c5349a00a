"""Timer descriptors that go on ticking, some of whose ticks nobody has read: all are counted, at the times at which they were due. One that is
to say when the clock is set."""
import ctypes
import os
import struct
import time
from asked import answer, call, directory, expect, ready

NONBLOCK, ABSOLUTE, CANCEL = 0o4000, 1, 2
REALTIME, MONOTONIC, BOOTTIME = 0, 1, 7
SECOND = 1_000_000_000


def timer(clock, first, interval, flags=0):
    made = call(283, clock, NONBLOCK)
    value = struct.pack("qqqq", *divmod(interval, SECOND), *divmod(first, SECOND))
    call(286, made, flags, ctypes.c_char_p(value), None)
    return made


def remaining(made):
    value = ctypes.create_string_buffer(32)
    call(287, made, value)
    every, every_part, left, part = struct.unpack("qqqq", value.raw)
    return every * SECOND + every_part, left * SECOND + part


def ticks(made):
    try:
        return struct.unpack("Q", os.read(made, 8))[0]
    except BlockingIOError:
        return 0


def flags(made):
    with open(f"/proc/self/fdinfo/{made}") as info:
        return [line.strip() for line in info if line.startswith("settime")]


TICK = 50_000_000
start = {}
timers = {}
for name, clock, flag in (("relative", MONOTONIC, 0), ("absolute", MONOTONIC, ABSOLUTE), ("of the day", REALTIME, ABSOLUTE)):
    now = time.clock_gettime_ns(clock)
    start[name] = now, clock
    timers[name] = timer(clock, now + TICK if flag else TICK, TICK, flag)
# Three and a half intervals ago it was due first.
now = time.clock_gettime_ns(REALTIME)
overdue = timer(REALTIME, now - 2500 * SECOND, 1000 * SECOND, ABSOLUTE)
cancelled = timer(REALTIME, now + 4000 * SECOND, 0, ABSOLUTE | CANCEL)
gone_by = timer(BOOTTIME, 1, 0)
time.sleep(0.01)
wanted = flags(cancelled)
# While it stands still, a clock that begins with the host is none of its own: what is longer than a moment counts for nothing.
lost, last = 0, time.monotonic_ns()
ready()
while not os.path.exists(directory + "/ask"):
    time.sleep(0.005)
    passed, last = time.monotonic_ns() - last, time.monotonic_ns()
    lost += passed if passed > 15_000_000 else 0
for name, made in timers.items():
    before, clock = start[name]
    elapsed = time.clock_gettime_ns(clock) - before
    least = (elapsed - (0 if clock == REALTIME else lost)) // TICK - 1
    found = ticks(made)
    most = (time.clock_gettime_ns(clock) - before) // TICK
    if not least <= found <= most + 1:
        expect(f"ticks of the one {name}", (least, most), found)
    expect(f"its interval, {name}", TICK, remaining(made)[0])
expect("ticks of what was overdue", 3, ticks(overdue))
most = now + 500 * SECOND - time.clock_gettime_ns(REALTIME)
interval, left = remaining(overdue)
least = now + 500 * SECOND - time.clock_gettime_ns(REALTIME)
expect("when it is due next", True, least - SECOND // 10 <= left <= most + SECOND // 10)
expect("its interval", 1000 * SECOND, interval)
expect("flags", (wanted, ["settime flags: 03"]), (flags(cancelled), flags(cancelled)))
expect("what tells of the clock", True, least + 3490 * SECOND < remaining(cancelled)[1] <= most + 3501 * SECOND)
expect("the one that is over", [1, 0], [ticks(gone_by), ticks(gone_by)])
answer()
