"""Sockets of every kind with every option set that may be, and files with all that fcntl and ioctl tell of them: everything that can
be asked says the same afterwards."""
import fcntl
import os
import socket
import struct
from asked import answer, directory, expect, until_asked

# Not options to be kept: what only reads and moves (SO_ERROR, SO_COOKIE, SO_MEMINFO, TCP_INFO, TCP_CC_INFO, TCP_TIMESTAMP, IP_MTU, IP_PKTOPTIONS,
# IPV6_PATHMTU …), and what opens a descriptor (SO_PEERPIDFD).
SOCKET, IP, IPV6, TCP, UDP, LITE, RAW, PACKET, NETLINK, ICMPV6 = 1, 0, 41, 6, 17, 136, 255, 263, 270, 58
MOVING = {(SOCKET, n) for n in (4, 49, 55, 56, 57, 77)} | {(TCP, n) for n in (11, 12, 24, 26, 28, 33, 35, 40, 41)} | {(IP, 9), (IP, 14), (IPV6, 6), (IPV6, 24), (IPV6, 61)}
# Of a connection: sizes that move by themselves, what an accepted one shows there of its client's first packet, what was about that only
# (TCP_FASTOPEN_CONNECT), and what bind(2) sets (IPV6_V6ONLY).
OF_CONNECTIONS = {(SOCKET, 7), (SOCKET, 8), (IP, 33), (IPV6, 17), (IPV6, 18), (IPV6, 26), (TCP, 2), (TCP, 10), (TCP, 30)}
# TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_USER_TIMEOUT: what would end a connection while a busy host does something else.
LONG_ENOUGH = {(TCP, 4): [5000], (TCP, 5): [5000], (TCP, 6): [99], (TCP, 18): [5_000_000]}
# Not to be set at random: filters, repair, keys, rings, groups, upper protocols; a corked socket cannot travel.
LEFT = {(SOCKET, n) for n in (25, 26, 27, 44, 50, 51, 52, 72)} | {(TCP, n) for n in (14, 17, 19, 20, 21, 22, 29, 31, 32, 33, 38, 39, 40, 41)} \
    | {(IPV6, n) for n in (1, 20, 21, 22, 27, 28)} | {(UDP, n) for n in (1, 100)} | {(LITE, 1)} \
    | {(PACKET, n) for n in (1, 2, 5, 13, 18, 22)} | {(NETLINK, n) for n in (1, 2, 6, 7)} | {(IP, 16), (IP, 17), (IP, 35), (IP, 36)} \
    | {(level, n) for level in (IP, IPV6) for n in (*range(35, 49), *range(64, 66))} | {(IPV6, n) for n in (34, 35)}
KINDS = {
    "tcp4": ((socket.AF_INET, socket.SOCK_STREAM, 0), (SOCKET, IP, TCP)),
    "tcp6": ((socket.AF_INET6, socket.SOCK_STREAM, 0), (SOCKET, IP, IPV6, TCP)),
    "udp4": ((socket.AF_INET, socket.SOCK_DGRAM, 0), (SOCKET, IP, UDP)),
    "udp6": ((socket.AF_INET6, socket.SOCK_DGRAM, 0), (SOCKET, IP, IPV6, UDP)),
    "lite4": ((socket.AF_INET, socket.SOCK_DGRAM, 136), (SOCKET, IP, LITE)),
    "lite6": ((socket.AF_INET6, socket.SOCK_DGRAM, 136), (SOCKET, IPV6, LITE)),
    "raw4": ((socket.AF_INET, socket.SOCK_RAW, 253), (SOCKET, IP, RAW)),
    "icmp4": ((socket.AF_INET, socket.SOCK_RAW, 1), (SOCKET, IP, RAW)),
    "raw6": ((socket.AF_INET6, socket.SOCK_RAW, 253), (SOCKET, IPV6, RAW)),
    "icmp6": ((socket.AF_INET6, socket.SOCK_RAW, 58), (SOCKET, IPV6, RAW, ICMPV6)),
    "packet": ((socket.AF_PACKET, socket.SOCK_RAW, 0), (SOCKET, PACKET)),
    "unix stream": ((socket.AF_UNIX, socket.SOCK_STREAM, 0), (SOCKET,)),
    "unix dgram": ((socket.AF_UNIX, socket.SOCK_DGRAM, 0), (SOCKET,)),
    "netlink": ((socket.AF_NETLINK, socket.SOCK_RAW, 0), (SOCKET, NETLINK)),
}


def asked(one, levels):
    found = {}
    for level in levels:
        for number in range(130):
            if (level, number) in MOVING:
                continue
            try:
                found[level, number] = one.getsockopt(level, number, 256).hex()
            except OSError:
                pass
    return found


def settle(one, levels):
    for level in levels:
        for number in range(130):
            if (level, number) in LEFT or (level, number) in MOVING:
                continue
            try:
                before = one.getsockopt(level, number, 256)
            except OSError:
                continue
            usual = LONG_ENOUGH.get((level, number), [1, 0, 2, 3, 5000])
            values = usual if len(before) == 4 else [before[:-1] + b"\1", bytes([1]) + before[1:], b"\2" + before[1:]]
            for value in values:
                try:
                    one.setsockopt(level, number, value)
                except OSError:
                    continue
                if one.getsockopt(level, number, 256) != before:
                    break


sockets = {}
for name, (kind, levels) in KINDS.items():
    for suffix, make in (("", lambda one, levels: None), (", set", settle)):
        one = socket.socket(*kind)
        make(one, levels)
        sockets[name + suffix] = one, levels
for name, family, at in (("tcp4", socket.AF_INET, "127.0.0.1"), ("tcp6", socket.AF_INET6, "::1")):
    service = socket.socket(family, socket.SOCK_STREAM)
    service.bind((at, 0))
    settle(service, KINDS[name][1])
    service.setsockopt(TCP, 9, 0)
    service.setsockopt(TCP, 23, 0)
    service.listen(7)
    ends = []
    for n in range(2):
        client = socket.socket(family, socket.SOCK_STREAM)
        client.connect(service.getsockname())
        server = service.accept()[0]
        if n:
            settle(client, KINDS[name][1])
            settle(server, KINDS[name][1])
            client.setsockopt(TCP, 3, 0)
            server.setsockopt(TCP, 3, 0)
        sockets[f"{name} client {n}"] = client, KINDS[name][1]
        sockets[f"{name} server {n}"] = server, KINDS[name][1]
    sockets[name + " service"] = service, KINDS[name][1]


def owned(descriptor, signal, number):
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal)
    # struct f_owner_ex
    fcntl.fcntl(descriptor, 15, struct.pack("ii", *number))


def files():
    """Descriptors of most kinds, by their names."""
    path = directory + "/file"
    with open(path, "wb") as file:
        file.write(bytes(100))
    found = {"append": os.open(path, os.O_RDWR | os.O_APPEND | os.O_NONBLOCK), "sync": os.open(path, os.O_RDWR | os.O_SYNC | os.O_NOATIME)}
    found["pipe"], found["its other end"] = os.pipe2(os.O_NONBLOCK)
    fcntl.fcntl(found["pipe"], fcntl.F_SETPIPE_SZ, 1 << 18)
    os.write(found["its other end"], b"hello")
    owned(found["pipe"], 40, (1, os.getpid()))
    fcntl.fcntl(found["pipe"], fcntl.F_SETFL, os.O_ASYNC)
    found["memory"] = os.memfd_create("memory", os.MFD_ALLOW_SEALING)
    fcntl.fcntl(found["memory"], fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
    found["event"] = os.eventfd(7, os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
    found["master"], found["slave"] = os.openpty()
    owned(found["master"], 41, (0, os.getpid()))
    os.write(found["slave"], b"seen")
    left, right = socket.socketpair()
    right.send(b"in the queue")
    owned(left.fileno(), 42, (2, os.getpgrp()))
    kept.extend((left, right))
    found["left"], found["right"] = left.fileno(), right.fileno()
    for number, descriptor in enumerate(list(found.values())):
        os.set_inheritable(descriptor, number % 2 == 0)
    return found


# F_GETFD, F_GETFL, F_GETSIG, F_GETPIPE_SZ, F_GET_SEALS; F_GETOWN_EX; FIONREAD, TIOCOUTQ, SIOCATMARK, TIOCGPTN, TIOCGPTLCK, TIOCGEXCL,
# TIOCGPKT, TIOCGETD.
SAID, WRITTEN = (1, 3, 11, 1032, 1034), (16,)
CONTROLS = (0x541B, 0x5411, 0x8905, 0x80045430, 0x80045439, 0x80045440, 0x80045438, 0x5424)


def told(descriptor):
    questions = [(number, lambda n: fcntl.fcntl(descriptor, n)) for number in SAID]
    questions += [(number, lambda n: fcntl.fcntl(descriptor, n, bytes(8))) for number in WRITTEN]
    questions += [(number, lambda n: fcntl.ioctl(descriptor, n, bytes(8))) for number in CONTROLS]
    found = {}
    for number, ask in questions:
        try:
            found[number] = ask(number)
        except OSError as error:
            found[number] = error.errno
    return found


def all_of_it():
    found = {}
    for name, (one, levels) in sockets.items():
        for key, value in asked(one, levels).items():
            if not (("client" in name or "server" in name) and key in OF_CONNECTIONS):
                found[name, *key] = value
    for name, descriptor in descriptors.items():
        for key, value in told(descriptor).items():
            found[name, "", hex(key)] = value
    return found


kept = []
# A group that others began has no number here.
if os.getpgrp() != os.getpid():
    os.setpgid(0, 0)
descriptors = files()


before = all_of_it()
# Enough was there to be asked for.
expect("options", True, len(before) > 1500)
until_asked()
after = all_of_it()
for key in before | after:
    expect(key, before.get(key), after.get(key))
answer()
