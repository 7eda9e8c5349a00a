"""In a user namespace: has a thread whose working directory is one of procfs about a process in a user namespace further inside,
where only who may trace that process can go. Says in `said` whether it is there, once there is `ask`."""
import os
import threading
from asked import answer, call, expect, problems, until_asked


def users():
    # unshare, CLONE_NEWUSER
    call(272, 0x10000000)
    for name, text in (("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


if os.fork():
    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
users()
heard, say = os.pipe()
inner = os.fork()
if not inner:
    users()
    os.write(say, b".")
    while True:
        # pause
        call(34)
os.read(heard, 1)
place = f"/proc/{inner}/fdinfo"
there, asked, ended = (threading.Event() for _ in range(3))


def look():
    return os.readlink(f"/proc/self/task/{threading.get_native_id()}/cwd"), sorted(os.listdir("."))


def lookout():
    try:
        # unshare, CLONE_FS
        call(272, 0x200)
        os.chdir(place)
        before = look()
        expect("a place of its own", place, before[0])
        there.set()
        asked.wait()
        expect("where the thread works", before, look())
    except OSError as error:
        problems.append(str(error))
    there.set()
    ended.set()


threading.Thread(target=lookout, daemon=True).start()
there.wait()
until_asked()
asked.set()
ended.wait()
answer()
