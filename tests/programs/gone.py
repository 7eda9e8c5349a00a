"""gone.py DIR: files whose names others have by now, or whose directories are gone; when `go` is there, says what is in them."""
import mmap
import os
import sys
import time

os.chdir(sys.argv[1])


def made(name, text):
    os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    with open(name, "w") as file:
        file.write(text)
    return os.open(name, os.O_RDWR)


first = made("same", "first")
os.unlink("same")
second = made("same", "second")
removed = made("deep/er/file", "removed")
directory = os.open("deep/er", os.O_RDONLY)
os.unlink("deep/er/file")
os.removedirs("deep/er")
linked = made("one/name", "linked")
os.link("one/name", "other")
os.unlink("one/name")
old = made("program", "old version")
shared = mmap.mmap(old, 11)
private = mmap.mmap(old, 11, flags=mmap.MAP_PRIVATE)
os.close(old)
made("newer", "new version")
os.rename("newer", "program")
print("ready", flush=True)
while not os.path.exists("go"):
    time.sleep(0.01)


def says(what, *words):
    print(f"{what}:", *words, flush=True)


def content(file):
    return os.pread(file, 20, 0).decode(), os.fstat(file).st_nlink


says("first", *content(first))
says("second", *content(second), os.path.samestat(os.fstat(second), os.stat("same")))
says("removed", *content(removed), os.fstat(directory).st_nlink, os.listdir(directory))
says("linked", *content(linked), os.path.samestat(os.fstat(linked), os.stat("other")))
shared[:3] = b"OLD"
says("mapped", shared[:].decode(), private[:].decode())
says("there", open("program").read(), sorted(os.listdir(".")))
print("done", flush=True)
time.sleep(1000)
