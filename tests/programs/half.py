"""Connections of TCP in the states between open and closed, which they stay in because nobody reads: a full queue holds back the end that was
said behind it. All bytes and both ends arrive afterwards."""
import socket
from asked import answer, expect, until_asked

NAMES = {1: "ESTABLISHED", 2: "SYN_SENT", 4: "FIN_WAIT1", 5: "FIN_WAIT2", 7: "CLOSE", 8: "CLOSE_WAIT", 9: "LAST_ACK", 10: "LISTEN", 11: "CLOSING"}


def state(one):
    return NAMES.get(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[0])


service = socket.create_server(("127.0.0.1", 0))
service6 = socket.create_server(("::1", 0), family=socket.AF_INET6)


def pair(at):
    client = socket.create_connection(at.getsockname()[:2])
    server = at.accept()[0]
    return client, server


def full(one):
    """Sends until there is no room; how much."""
    one.setblocking(False)
    sent = 0
    while True:
        try:
            sent += one.send(bytes((sent + n) % 251 for n in range(10_000)))
        except BlockingIOError:
            one.setblocking(True)
            return sent


def rest(one):
    one.settimeout(20)
    found = b""
    while part := one.recv(1 << 20):
        found += part
    return found


def whole(count):
    return bytes(n % 251 for n in range(count // 10_000 * 10_000 + 10_000))[:count]


def begin(at):
    made = {}
    # One that has said its end behind more than the other takes in: that stays open.
    one, other = pair(at)
    count = full(one)
    one.shutdown(socket.SHUT_WR)
    made["FIN_WAIT1", "ESTABLISHED"] = one, other, count, 0
    one, other = pair(at)
    one.shutdown(socket.SHUT_WR)
    made["FIN_WAIT2", "CLOSE_WAIT"] = one, other, 0, 0
    # The other has closed, and what is said last does not get through.
    one, other = pair(at)
    other.shutdown(socket.SHUT_WR)
    count = full(one)
    one.shutdown(socket.SHUT_WR)
    made["LAST_ACK", "FIN_WAIT2"] = one, other, count, 0
    # The other way round.
    one, other = pair(at)
    count = full(one)
    one.shutdown(socket.SHUT_WR)
    other.shutdown(socket.SHUT_WR)
    made["CLOSING", "FIN_WAIT2"] = one, other, count, 0
    one, other = pair(at)
    made["ESTABLISHED", "ESTABLISHED"] = one, other, full(one), full(other)
    return made


made = {(at.family.name, *names): ends for at in (service, service6) for names, ends in begin(at).items()}


def states():
    return {names: (state(one), state(other)) for names, (one, other, _, _) in made.items()}


for names, found in states().items():
    expect(f"{names} at first", names[1:], found)
until_asked()
for names, found in states().items():
    expect(f"{names}", names[1:], found)
for names, (one, other, there, back) in made.items():
    if back:
        one.shutdown(socket.SHUT_WR)
        other.shutdown(socket.SHUT_WR)
    expect(f"{names}, what was sent", True, rest(other) == whole(there))
    if names[2] in ("ESTABLISHED", "CLOSE_WAIT") and not back:
        other.sendall(b"late words")
        other.close()
        expect(f"{names}, the answer", b"late words", rest(one))
    else:
        expect(f"{names}, what was sent back", True, rest(one) == whole(back))
answer()
