"""Leases of files: one to write, told by a signal of its choice; one to read, told by SIGIO; each is broken by somebody else in the end, and its
holder hears of it and lets go."""
import fcntl
import os
import signal
import time
from asked import answer, directory, expect, until_asked

heard = []
for number in (signal.SIGIO, signal.SIGUSR1):
    signal.signal(number, lambda number, frame: heard.append(number))


def leased(name, kind, flags, own):
    path = f"{directory}/{name}"
    open(path, "w").close()
    held = os.open(path, flags)
    if own:
        fcntl.fcntl(held, fcntl.F_SETSIG, own)
    fcntl.fcntl(held, fcntl.F_SETLEASE, kind)
    return path, held


writing = leased("writing", fcntl.F_WRLCK, os.O_RDWR, signal.SIGUSR1)
reading = leased("reading", fcntl.F_RDLCK, os.O_RDONLY, None)
until_asked()
for (path, held), kind, number in ((writing, fcntl.F_WRLCK, signal.SIGUSR1), (reading, fcntl.F_RDLCK, signal.SIGIO)):
    expect(f"the lease of {path}", kind, fcntl.fcntl(held, fcntl.F_GETLEASE))
    child = os.fork()
    if child == 0:
        for inherited in (writing[1], reading[1]):
            os.close(inherited)
        try:
            os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except BlockingIOError:
            # Who waits gets it as soon as the holder has let go.
            os._exit(0 if os.open(path, os.O_WRONLY) else 2)
        os._exit(1)
    end = time.monotonic() + 20
    while number not in heard and time.monotonic() < end:
        time.sleep(0.01)
    expect(f"signals of {path}", [number], heard)
    heard.clear()
    fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    expect(f"who wanted {path}", 0, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
answer()
