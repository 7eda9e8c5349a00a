"""Uses System V IPC of the namespace it is started in, says `ready`, and sleeps.

usage: sysv.py segment|undo|outside
"""
import ctypes
import os
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p


class Operation(ctypes.Structure):
    _fields_ = [("number", ctypes.c_ushort), ("change", ctypes.c_short), ("flags", ctypes.c_short)]


def sure(result):
    if result in (-1, 2**64 - 1):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


if sys.argv[1] == "undo":
    SEM_UNDO = 0x1000
    made = sure(libc.semget(0, 1, 0o600))
    sure(libc.semop(made, ctypes.byref(Operation(0, 3, SEM_UNDO)), 1))
else:
    key = 0x5EAF if sys.argv[1] == "outside" else 0
    made = sure(libc.shmget(key, 4096, 0o1600))
    sure(libc.shmat(made, None, 0))
print("ready", flush=True)
time.sleep(1000)
