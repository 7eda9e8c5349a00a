"""Has objects of System V in an ipc namespace that one of its threads is in alone: semaphores, a queue with a message, a segment.
Says in `said` whether they are there, and only there, once there is `ask`. With `attached`, the segment is attached."""
import ctypes
import struct
import sys
import threading
from asked import answer, call, expect, libc, problems, until_asked

KEY, CREATE = 0x5EAF, 0o1600
SEMGET, SEMCTL, SHMGET, SHMAT, SHMDT, MSGGET, MSGSND, MSGRCV = 64, 66, 29, 30, 67, 68, 69, 70
GETALL, SETALL = 13, 17
made, asked, ended = (threading.Event() for _ in range(3))


def values(at):
    found = ctypes.create_string_buffer(4)
    call(SEMCTL, at, 0, GETALL, found)
    return struct.unpack("=HH", found.raw)


def content(at):
    address = call(SHMAT, at, None, 0)
    text = ctypes.string_at(address, 5)
    call(SHMDT, ctypes.c_void_p(address))
    return text


def alone():
    try:
        # unshare, CLONE_NEWIPC
        call(272, 0x08000000)
        semaphores, queue = call(SEMGET, KEY, 2, CREATE), call(MSGGET, KEY, CREATE)
        call(SEMCTL, semaphores, 0, SETALL, struct.pack("=HH", 3, 7))
        call(MSGSND, queue, struct.pack("=q", 4) + b"said", ctypes.c_size_t(4), 0)
        segment = call(SHMGET, KEY, ctypes.c_size_t(4096), CREATE)
        address = call(SHMAT, segment, None, 0)
        ctypes.memmove(address, b"shown", 5)
        if sys.argv[2:] != ["attached"]:
            call(SHMDT, ctypes.c_void_p(address))
        made.set()
        asked.wait()
        ids = [call(SEMGET, KEY, 2, 0), call(MSGGET, KEY, 0), call(SHMGET, KEY, ctypes.c_size_t(4096), 0)]
        expect("ids", [semaphores, queue, segment], ids)
        expect("values", (3, 7), values(semaphores))
        expect("content", b"shown", content(segment))
        buffer = ctypes.create_string_buffer(100)
        length = call(MSGRCV, queue, buffer, ctypes.c_size_t(92), 0, 0o4000)
        expect("a message", struct.pack("=q", 4) + b"said", buffer.raw[: 8 + length])
    except OSError as error:
        problems.append(str(error))
    made.set()
    ended.set()


threading.Thread(target=alone, daemon=True).start()
made.wait()
until_asked()
asked.set()
ended.wait()
for name, number, more in (("semaphores", SEMGET, 0), ("queue", MSGGET, 0), ("segment", SHMGET, 0)):
    expect(f"{name} of its process", -1, libc.syscall(number, KEY, more, 0))
answer()
