"""Requests over one HTTP connection that is never made anew.
Usage: keepalive.py ADDRESS PORT ENOUGH [count]

Asks for / again and again, until the file ENOUGH is there. Every answer has to be the same as the first one or, with `count`,
the next number."""
import http.client
import os
import sys
import time

address, port, enough = sys.argv[1], int(sys.argv[2]), sys.argv[3]
link = http.client.HTTPConnection(address, port, timeout=60)
link.connect()
local = link.sock.getsockname()
first, answers = None, 0
while not os.path.exists(enough):
    link.request("GET", "/")
    answer = link.getresponse()
    body = answer.read()
    if answer.status != 200:
        sys.exit(f"answer {answers} was {answer.status}")
    if link.sock is None or link.sock.getsockname() != local:
        sys.exit("the server closed the connection")
    first = body if first is None else first
    wanted = b"%d" % (int(first) + answers) if "count" in sys.argv else first
    if body.strip() != wanted.strip():
        sys.exit(f"answer {answers} was {body!r}, not {wanted!r}")
    answers += 1
    print(answers, flush=True)
    time.sleep(0.005)
print("all were right", flush=True)
