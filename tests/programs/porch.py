"""A service that lets its clients wait at the door.
Usage: porch.py serve PORT | porch.py visit ADDRESS PORT ENOUGH

The server listens, accepts nobody until SIGUSR1, and answers each line with its length and checksum. The clients connect at
once, one after the other: one says something before it is let in, one nothing, one much and that it will say no more, and one
goes on talking all the time. When the file ENOUGH is there each has to get all its answers."""
import os
import signal
import socket
import sys
import threading
import time
import zlib


def answer_to(line):
    return b"%d %08x\n" % (len(line), zlib.crc32(line))


def serve(port):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    listener = socket.create_server(("0.0.0.0", port), backlog=64)
    signal.sigwait([signal.SIGUSR1])

    def answer(client):
        with client, client.makefile("rb") as lines:
            for line in lines:
                client.sendall(answer_to(line))

    while True:
        client, peer = listener.accept()
        print("let in", peer, flush=True)
        threading.Thread(target=answer, args=(client,)).start()


def visit(address, port, enough):
    visitors = [socket.create_connection((address, port)) for _ in range(4)]
    early, silent, done, talker = visitors
    much = bytes(range(32, 127)) * 400 + b"\n"
    said = {v: [] for v in visitors}

    def say(visitor, line):
        said[visitor].append(line)
        visitor.sendall(line)

    say(early, b"is anybody there\n")
    say(done, much)
    done.shutdown(socket.SHUT_WR)
    print("connected", flush=True)
    number = 0
    while not os.path.exists(enough):
        number += 1
        say(talker, b"%d\n" % number)
        time.sleep(0.02)
    say(silent, b"here I am\n")
    say(early, b"thanks\n")
    for visitor in visitors:
        visitor.settimeout(20)
        if visitor is not done:
            visitor.shutdown(socket.SHUT_WR)
        heard = b""
        while piece := visitor.recv(65536):
            heard += piece
        wanted = b"".join(map(answer_to, said[visitor]))
        print("heard all" if heard == wanted else f"wrong: {heard!r}, {wanted!r}", flush=True)
    print("longest pause", flush=True)


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
else:
    visit(sys.argv[2], int(sys.argv[3]), sys.argv[4])
