"""Memory in pages of hugetlbfs, private and shared with a child. Says in `said` whether all is there, once there is `ask`."""
import mmap
import os
import sys
import time

directory = sys.argv[1]
HUGE, PAGE = 0x40000, 2 << 20
private = mmap.mmap(-1, 3 * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | HUGE)
shared = mmap.mmap(-1, 2 * PAGE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | HUGE)
for area, word in ((private, b"private"), (shared, b"shared")):
    area[: len(word)] = word
    area[PAGE + 12345 : PAGE + 12345 + len(word)] = word
told, tell = os.pipe()
answers, answer = os.pipe()
if os.fork() == 0:
    os.read(told, 1)
    shared[100:105] = b"child"
    os.write(answer, b"y" if private[:7] == b"private" else b"n")
    os._exit(0)
open(directory + "/ready", "w").close()
while not os.path.exists(directory + "/ask"):
    time.sleep(0.01)
os.write(tell, b"!")
good = os.read(answers, 1) == b"y" and shared[100:105] == b"child"
for area, word in ((private, b"private"), (shared, b"shared")):
    good &= area[: len(word)] == word
    good &= area[PAGE + 12345 : PAGE + 12345 + len(word)] == word
good &= private[2 * PAGE :] == bytes(PAGE)
with open("/proc/self/smaps") as smaps:
    kinds = [line for line in smaps if line.startswith("VmFlags:") and " ht" in line]
with open(directory + "/new", "w") as file:
    file.write("y" if good and len(kinds) == 2 else f"n {good} {kinds}")
os.rename(directory + "/new", directory + "/said")
