"""What programs share that have a state, say `ready` in their directory, and once there is `ask` say in `said` whether all is
as it was. Usage of such a program: NAME.py DIRECTORY [WORD]"""
import ctypes
import os
import sys
import time

directory = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
# An address, too.
libc.syscall.restype = ctypes.c_long
problems = []


def call(*arguments):
    result = libc.syscall(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def ready():
    open(directory + "/ready", "w").close()


def until_asked():
    """Says that it is ready, and waits."""
    ready()
    while not os.path.exists(directory + "/ask"):
        time.sleep(0.01)


def expect(what, wanted, found):
    if wanted != found:
        problems.append(f"{what}: {found}, not {wanted}")


def answer():
    with open(directory + "/new", "w") as file:
        file.write("; ".join(problems) or "y")
    os.rename(directory + "/new", directory + "/said")
