"""outside.py service|client DIR: two programs of which one is not in the container."""
import os
import socket
import sys
import time

role, directory = sys.argv[1:]
letters, stream = (os.path.join(directory, name) for name in ("letters", "stream"))


def service():
    post = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    post.bind(letters)
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    door.bind(stream)
    door.listen()
    guest, _ = door.accept()
    guest.send(b"waiting")
    while True:
        print("heard letter", post.recv(100).decode(), flush=True)


def client():
    talk = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    talk.connect(stream)
    post = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    post.connect(letters)
    post.send(b"before")
    time.sleep(0.1)
    print("ready", flush=True)
    while not os.path.exists(os.path.join(directory, "go")):
        time.sleep(0.01)
    try:
        post.send(b"after")
        print("a letter is sent", flush=True)
    except OSError:
        print("a letter is lost", flush=True)
    said = talk.recv(100).decode()
    rest = talk.recv(100)
    print(f"stream: {said}, then {'more' if rest else 'the end'}", flush=True)
    try:
        talk.send(b"x")
        print("writing there: fine", flush=True)
    except OSError as error:
        print("writing there:", type(error).__name__, flush=True)
    time.sleep(1000)


(service if role == "service" else client)()
