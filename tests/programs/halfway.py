"""Half-way through: a generator, open files, a pipe to a child that answers. Usage: halfway.py DIRECTORY

Every time DIRECTORY/turn-N appears (N = 1, 2, …) it takes one more step with each of them and prints a line."""
import os
import select
import subprocess
import sys
import tempfile
import time

directory = sys.argv[1]


def primes():
    known = []
    number = 2
    while True:
        if all(number % p for p in known):
            known.append(number)
            yield number
        number += 1


generator = primes()
for _ in range(1000):
    next(generator)

lines = open(os.path.join(directory, "lines"), "w+")
lines.write("".join(f"line {i}\n" for i in range(100)))
lines.seek(0)
lines.readline()
unlinked = tempfile.TemporaryFile(dir=directory)
unlinked.write(b"no name any more")
unlinked.flush()
log = open(os.path.join(directory, "log"), "a", buffering=1)
child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdin.write(b"before\n")
child.stdin.flush()
select.select([child.stdout], [], [])  # it has started, and its answer waits in the pipe

turn = 0
print("ready", flush=True)
while True:
    turn += 1
    while not os.path.exists(os.path.join(directory, f"turn-{turn}")):
        time.sleep(0.005)
    child.stdin.write(b"turn %d\n" % turn)
    child.stdin.flush()
    unlinked.seek(0)
    log.write(f"turn {turn}\n")
    print(
        turn,
        next(generator),
        lines.readline().strip(),
        child.stdout.readline().decode().strip(),
        unlinked.read().decode(),
        sep="|",
        flush=True,
    )
