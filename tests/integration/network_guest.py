"""Run inside a node's namespace: a guest of frames on a tap, where a hypervisor would be.

``network_guest.py TAP MAC IP answer``: answers every UDP datagram with its sender's address.
``network_guest.py TAP MAC IP lie CLIENT PORT``: sends as another guest, then as itself.
"""

import fcntl
import os
import socket
import struct
import sys
import time

GATEWAY_MAC = bytes.fromhex("02b100002a01")
OTHER_MAC, OTHER_IP = bytes.fromhex("022a0a2a0009"), "10.42.0.9"
HEADER = bytes(10)  # what a tap with IFF_VNET_HDR puts before each frame


def open_tap(name):
    tap = os.open("/dev/net/tun", os.O_RDWR)
    flags = 0x0002 | 0x1000 | 0x4000  # IFF_TAP, IFF_NO_PI, IFF_VNET_HDR
    fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", name.encode(), flags))
    return tap


def checksum(header):
    total = sum(struct.unpack("!10H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp_frame(mac, source, target, payload):
    """Return an Ethernet frame to the gateway; *source* and *target* are (address, port)."""
    datagram = struct.pack("!HHHH", source[1], target[1], 8 + len(payload), 0) + payload
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(target[0])
    fields = (0x45, 0, 20 + len(datagram), 0, 0, 64, socket.IPPROTO_UDP)
    start = struct.pack("!BBHHHBB", *fields)
    number = checksum(start + bytes(2) + addresses)
    packet = start + struct.pack("!H", number) + addresses + datagram
    return HEADER + GATEWAY_MAC + mac + b"\x08\x00" + packet


def arp_frame(mac, claimed_ip):
    """Return an announcement that *claimed_ip* is at *mac*."""
    claim = mac + socket.inet_aton(claimed_ip)
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + claim + bytes(6) + claim[6:]
    return HEADER + b"\xff" * 6 + mac + b"\x08\x06" + body


def answer(tap, mac, ip):
    while True:
        frame = os.read(tap, 65_536)[len(HEADER) :]
        if frame[12:14] != b"\x08\x00" or frame[23] != socket.IPPROTO_UDP:
            continue
        client = socket.inet_ntoa(frame[26:30])
        port, own_port = struct.unpack("!HH", frame[34:38])
        os.write(tap, udp_frame(mac, (ip, own_port), (client, port), client.encode()))


def lie(tap, mac, ip, target):
    for _ in range(3):  # the bridge may not forward yet what comes first
        os.write(tap, udp_frame(mac, (OTHER_IP, 53), target, b"other address"))
        os.write(tap, udp_frame(OTHER_MAC, (ip, 53), target, b"other hardware"))
        os.write(tap, arp_frame(mac, OTHER_IP))
        time.sleep(0.2)
    os.write(tap, udp_frame(mac, (ip, 53), target, b"honest"))


def main(name, mac, ip, action, *target):
    tap = open_tap(name)
    print("ready", flush=True)
    if action == "answer":
        answer(tap, bytes.fromhex(mac.replace(":", "")), ip)
    lie(tap, bytes.fromhex(mac.replace(":", "")), ip, (target[0], int(target[1])))


if __name__ == "__main__":
    main(*sys.argv[1:])
