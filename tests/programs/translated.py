"""Connections of TCP and datagrams to addresses that the packet filter translates; says `beat` for each exchange, once there are
addresses."""
import socket
import time

SO_ORIGINAL_DST = 80


def connected(to):
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    door = socket.create_server(("", 7000), family=family)
    while True:
        try:
            one = socket.create_connection((to, 80), timeout=1)
            break
        except OSError:
            time.sleep(0.05)
    one.settimeout(None)
    return one, door.accept()[0], door


pairs = [connected("10.1.1.1"), connected("fd00::1")]
here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
here.bind(("127.0.0.1", 5353))
there = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
there.connect(("10.1.1.1", 53))
meant = bytes((0, 80, 10, 1, 1, 1))
count = 0
while True:
    for one, other, _ in pairs:
        for sender, receiver in ((one, other), (other, one)):
            sender.sendall(b"word")
            assert receiver.recv(4) == b"word"
    assert pairs[0][1].getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, 16)[2:8] == meant
    there.send(b"question")
    question, source = here.recvfrom(99)
    assert source == ("10.1.1.9", 40000), source
    here.sendto(b"answer", source)
    assert there.recv(99) == b"answer"
    count += 1
    print("beat", count, flush=True)
    time.sleep(0.02)
