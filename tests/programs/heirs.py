"""Has files and a directory of procfs open about a process that is dead, and whose number another one has by now; a child works in
that directory. Says in `said` whether all of them are of nobody, once there is `ask`."""
import os
from asked import answer, expect, until_asked


def mortal(work):
    """A child that ends with what it is told to do."""
    told, tell = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(tell)
        os._exit(work(told))
    os.close(told)
    return pid, tell


def fails(work, *arguments, **more):
    try:
        return work(*arguments, **more)
    except OSError as error:
        return error.errno


def stay(told):
    os.read(told, 1)
    return 0


def work_there(told):
    os.chdir(place)
    os.write(say, b".")
    os.read(told, 1)
    return fails(os.stat, "status") != ESRCH


ESRCH = 3
heard, say = os.pipe()
dead, end = mortal(stay)
place = f"/proc/{dead}"
status = os.open(f"{place}/status", os.O_RDONLY)
directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
lost, ask_lost = mortal(work_there)
os.read(heard, 1)
os.write(end, b".")
os.waitpid(dead, 0)
with open("/proc/sys/kernel/ns_last_pid", "w") as last:
    last.write(str(dead - 1))
heir, ask_heir = mortal(stay)
expect("whose the number is", dead, heir)
until_asked()
expect("a file", ESRCH, fails(os.read, status, 10))
expect("a directory", ESRCH, fails(os.stat, "status", dir_fd=directory))
os.write(ask_lost, b".")
expect("who works there", (lost, 0), os.waitpid(lost, 0))
expect("a look by the number", True, os.path.exists(f"{place}/status"))
os.write(ask_heir, b".")
expect("who has the number", (heir, 0), os.waitpid(heir, 0))
answer()
