"""Makes control groups beneath its own, and puts a child and a thread of its own into them.
Usage: groups.py

In `pids`: parts/inner, with a limit each, and a child in the inner one. In `cpu`: slow, with few shares, and one thread."""
import ctypes
import os
import threading
import time


def own(controller):
    for line in open("/proc/self/cgroup"):
        _, controllers, path = line.strip().split(":", 2)
        if controllers == controller:
            return f"/sys/fs/cgroup/{controller}{path}"


def write(file, word):
    with open(file, "w") as opened:
        opened.write(f"{word}\n")


def named(name):
    ctypes.CDLL(None).prctl(15, name.encode(), 0, 0, 0)


def slow(group):
    named("slow")
    write(f"{group}/tasks", threading.get_native_id())
    while True:
        time.sleep(0.1)


inner = own("pids") + "/parts/inner"
os.makedirs(inner)
write(f"{inner}/../pids.max", 40)
write(f"{inner}/pids.max", 7)
os.mkdir(own("pids") + "/empty")
if os.fork() == 0:
    named("inner")
    write(f"{inner}/cgroup.procs", os.getpid())
    while True:
        time.sleep(0.1)
group = own("cpu") + "/slow"
os.mkdir(group)
write(f"{group}/cpu.shares", 128)
write(f"{group}/notify_on_release", 1)
named("groups")
threading.Thread(target=slow, args=(group,), daemon=True).start()
time.sleep(0.3)
print("ready", flush=True)
while True:
    time.sleep(0.1)
