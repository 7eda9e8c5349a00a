"""names.py DIR: unix sockets with names of every kind; when `go` is there, says what has become of each."""
import os
import socket
import sys
import time

directory = sys.argv[1]
os.chdir(directory)


def service(name):
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    door.bind(name)
    door.listen()
    door.settimeout(10)
    return door


relative = service("relative")
absolute = service(os.path.join(directory, "absolute"))
removed = service(os.path.join(directory, "removed"))
os.unlink("removed")
replaced = service(os.path.join(directory, "same"))
os.unlink("same")
newer = service(os.path.join(directory, "same"))
os.mkdir("jail")
before = service(os.path.join(directory, "before"))
answers, tell = os.pipe()
if os.fork() == 0:
    # Of one made before chroot(2) the file lies outside of the root that its process has.
    os.chroot("jail")
    os.chdir("/")
    inner = service("/inner")
    os.write(tell, b"ready")
    for door in inner, before:
        guest, _ = door.accept()
        guest.send(door.getsockname().encode())
    time.sleep(1000)
before.close()
os.read(answers, 5)
waiting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
waiting.connect("relative")
doors = [relative, absolute, removed, replaced, newer]
names = [door.getsockname() for door in doors]
print("ready", flush=True)
while not os.path.exists("go"):
    time.sleep(0.01)


def says(what, work):
    try:
        print(f"{what}: {work()}", flush=True)
    except OSError as error:
        print(f"{what}: {type(error).__name__} {error}", flush=True)


def served(name, door):
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(name)
    guest, _ = door.accept()
    guest.send(b"yes")
    return client.recv(10).decode()


def at_the_door():
    guest, _ = relative.accept()
    waiting.send(b"still here")
    return guest.recv(20).decode()


says("who waits", at_the_door)
says("names", lambda: [door.getsockname() for door in doors] == names)
says("relative", lambda: served("relative", relative))
says("absolute", lambda: served("absolute", absolute))
says("newer", lambda: served("same", newer))
says("removed", lambda: os.path.exists("removed"))


def answered(name):
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(name)
    return client.recv(200).decode()


says("in another root", lambda: answered("jail/inner"))
says("before that", lambda: answered("before") == os.path.join(directory, "before"))
print("done", flush=True)
time.sleep(1000)
