"""Has one of each kind of socket whose state no kernel gives away, says what it has, and waits."""
import ctypes
import mmap
import socket
import struct
import time

# Whatever is not kept is closed.
kept = []


def has(name, make):
    try:
        kept.append(make())
        print("has", name, flush=True)
    except OSError as error:
        print("lacks", name, error, flush=True)


def multipath():
    service = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
    service.bind(("127.0.0.1", 0))
    service.listen()
    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
    client.connect(service.getsockname())
    return service, client, service.accept()[0]


def ring():
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    # struct tpacket_req, PACKET_RX_RING
    packet.setsockopt(263, 5, struct.pack("IIII", 4096, 1, 2048, 2))
    return packet


def shared_by_program():
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5))
    # PACKET_FANOUT by PACKET_FANOUT_CBPF
    packet.setsockopt(263, 18, 6 << 16 | 7)
    return packet


def program():
    # BPF_PROG_LOAD of a BPF_PROG_TYPE_SOCKET_FILTER: r0 = 0; exit
    code = struct.pack("<BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0)
    code = ctypes.create_string_buffer(code)
    license = ctypes.create_string_buffer(b"GPL")
    attr = struct.pack("<IIQQ", 1, 2, ctypes.addressof(code), ctypes.addressof(license))
    attr = ctypes.create_string_buffer(attr)
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(321, 5, attr, 24)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "bpf")
    letters = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    # SO_ATTACH_BPF
    letters.setsockopt(socket.SOL_SOCKET, 50, fd)
    socket.close(fd)
    return letters


has("a connection of MPTCP", multipath)
has("AF_VSOCK", lambda: socket.socket(40, socket.SOCK_STREAM))
has("AF_XDP", lambda: socket.socket(44, socket.SOCK_RAW))
has("AF_ALG", lambda: socket.socket(38, socket.SOCK_SEQPACKET))
has("SCTP", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132))
has("a ring", ring)
has("a fanout group that a program shares out", shared_by_program)
has("a filter of eBPF", program)
print("ready", flush=True)
time.sleep(1000)
