"""Has a link that ends in its own hands (tun), and one of Ethernet (tap); tells what comes through them."""
import fcntl
import os
import socket
import struct
import subprocess
import time

TUNSETIFF = 0x400454CA


def made(name, flags):
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name, flags))
    return fd


tun = made(b"tun7", 0x1001)
tap = made(b"tap7", 0x1002)
unused = os.open("/dev/net/tun", os.O_RDWR)
subprocess.run(
    "ip addr add 10.5.0.1/24 dev tun7; ip link set tun7 up mtu 1380; ip route add 10.6.0.0/16 dev tun7;"
    "ip link set tap7 address 02:00:00:00:00:77 up; ip addr add 10.7.0.1/24 dev tap7",
    shell=True,
    check=True,
)
letters = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print("ready", flush=True)
number = 0
while True:
    number += 1
    letters.sendto(b"letter %d." % number, ("10.6.0.9", 4711))
    os.set_blocking(tun, False)
    try:
        while True:
            packet = os.read(tun, 2000)
            if b"letter" in packet:
                print("through the tunnel:", packet[28:].decode(), flush=True)
    except BlockingIOError:
        pass
    time.sleep(0.05)
