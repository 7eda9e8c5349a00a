"""Answers 0, then 1, then 2 over HTTP on port 8080, as Count.java does, with nothing but a socket. Ends with status 3 when it
is asked to (SIGTERM)."""
import signal
import socket
import sys

signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("0.0.0.0", 8080))
server.listen(64)
print("ready", flush=True)
count = 0
while True:
    connection, _ = server.accept()
    with connection:
        if not connection.recv(4096):
            continue
        print("answered", count, flush=True)
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n%d\n" % count)
        count += 1
