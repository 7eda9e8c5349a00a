"""Numbers over TCP, each once and in order.
Usage: ledger.py serve PORT | ledger.py send ADDRESS PORT SECONDS ENOUGH

The server answers each line with the same line, and with `expected N` where it is not the next number of that connection.
The client sends a number a millisecond, for SECONDS or, if they are 0, until the file ENOUGH is there, waits for the last
answer, and says what came back."""
import os
import selectors
import socket
import sys
import time


def serve(port):
    listener = socket.create_server(("0.0.0.0", port), backlog=64)
    wanted = selectors.DefaultSelector()
    wanted.register(listener, selectors.EVENT_READ)
    ledgers = {}
    while True:
        for key, _ in wanted.select():
            if key.fileobj is listener:
                client, _ = listener.accept()
                ledgers[client] = (b"", 0)
                wanted.register(client, selectors.EVENT_READ)
                continue
            client = key.fileobj
            rest, last = ledgers[client]
            try:
                heard = client.recv(65536)
            except OSError as error:
                print(f"ended: {error.strerror}", flush=True)
                heard = b""
            if not heard:
                wanted.unregister(client)
                client.close()
                del ledgers[client]
                continue
            *lines, rest = (rest + heard).split(b"\n")
            answers = []
            for line in lines:
                last += 1
                answers.append(line if line == b"%d" % last else b"expected %d" % last)
            ledgers[client] = (rest, last)
            if answers:
                client.sendall(b"\n".join(answers) + b"\n")


def send(address, port, seconds, enough):
    link = socket.create_connection((address, port))
    link.setblocking(False)
    sent, answered, waiting, rest = 0, 0, b"", b""
    start = heard_last = time.monotonic()
    pause, end = 0.0, seconds * 1000 or None
    print("connected", flush=True)
    while True:
        now = time.monotonic()
        if end is None and os.path.exists(enough):
            end = sent
        due = int((now - start) * 1000)
        if end is not None:
            due = min(due, end)
        while sent < due:
            sent += 1
            waiting += b"%d\n" % sent
        if waiting:
            try:
                waiting = waiting[link.send(waiting):]
            except BlockingIOError:
                pass
        try:
            heard = link.recv(65536)
            if not heard:
                sys.exit(f"the server closed after {answered} of {sent}")
            pause, heard_last = max(pause, now - heard_last), now
            *lines, rest = (rest + heard).split(b"\n")
            for line in lines:
                answered += 1
                if answered % 100 == 0:
                    print(f"{answered}", flush=True)
                if line != b"%d" % answered:
                    sys.exit(f"answer {answered} was {line!r}")
        except BlockingIOError:
            pass
        if sent == answered == end:
            break
        if now - heard_last > 60:
            sys.exit(f"no answer for a minute, {answered} of {sent}")
        time.sleep(0.001)
    print(f"sent {sent}, answered {answered}, longest pause {pause * 1000:.0f} ms", flush=True)


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
else:
    send(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
