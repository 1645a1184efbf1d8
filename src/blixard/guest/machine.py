"""The guest as a machine: mounts, name, network, clock, figures, the end."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import signal
import socket
import struct
import time

STOP_S = 8.0
CLOCK_OFF_S = 0.5
MOUNTS = (
    ("proc", "/proc", "proc"),
    ("sysfs", "/sys", "sysfs"),
    ("devtmpfs", "/dev", "devtmpfs"),
    ("devpts", "/dev/pts", "devpts"),
    ("tmpfs", "/dev/shm", "tmpfs"),
    ("tmpfs", "/run", "tmpfs"),
    ("tmpfs", "/tmp", "tmpfs"),
)
LINKS = (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"))


def stop_everything() -> None:
    """Stop every process, write everything out, switch off."""
    signal_all(signal.SIGTERM)
    until = time.monotonic() + STOP_S
    while time.monotonic() < until and any_left():
        time.sleep(0.02)
    signal_all(signal.SIGKILL)
    os.sync()
    switch_off()


def signal_all(number: int) -> None:
    """Signal every process but this one."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, number)


def any_left() -> bool:
    """Reap; tell whether children are left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def switch_off() -> None:
    """Restart the machine: the hypervisor runs with -no-reboot and ends."""
    ctypes.CDLL(None).reboot(0x01234567)


def set_clock(payload: bytes) -> None:
    """Take the host's time if ours is off: a guest may have no clock of its own."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        now = float(json.loads(payload)["time"])
        if abs(now - time.time()) > CLOCK_OFF_S:
            time.clock_settime(time.CLOCK_REALTIME, now)


def metrics() -> dict[str, float]:
    """Return figures of the whole guest: seconds of CPU, bytes of memory."""
    figures = {}
    with contextlib.suppress(OSError, ValueError, IndexError, KeyError):
        with open("/proc/stat") as file:
            fields = [int(field) for field in file.readline().split()[1:9]]
        ticks = os.sysconf("SC_CLK_TCK")
        figures["cpu_busy_s"] = (sum(fields) - fields[3] - fields[4]) / ticks
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        figures["memory_total_bytes"] = int(lines["MemTotal"].split()[0]) * 1024.0
        figures["memory_available_bytes"] = int(lines["MemAvailable"].split()[0]) * 1024.0
    return figures


def mount_all() -> list[str]:
    """Mount what is not mounted yet; return what failed."""
    libc = ctypes.CDLL(None, use_errno=True)
    failed = []
    for source, target, kind in MOUNTS:
        os.makedirs(target, exist_ok=True)
        if os.path.ismount(target):
            continue
        if libc.mount(source.encode(), target.encode(), kind.encode(), 0, None) != 0:
            failed.append(f"mount {target}: {os.strerror(ctypes.get_errno())}")
    for name, target in LINKS:
        with contextlib.suppress(FileExistsError):
            os.symlink(f"/proc/self/{target}", f"/dev/{name}")
    return failed


def command_line() -> dict[str, str]:
    """Return the kernel's ``blixard.KEY=VALUE`` settings."""
    with open("/proc/cmdline") as file:
        words = file.read().split()
    pairs = (word.split("=", 1) for word in words if word.startswith("blixard.") and "=" in word)
    return {key[len("blixard.") :]: value for key, value in pairs}


def interface_up(name: str, mtu: int = 0) -> None:
    """Switch an interface on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        if mtu:
            fcntl.ioctl(control, 0x8922, struct.pack("16si12x", name.encode(), mtu))
        request = fcntl.ioctl(control, 0x8913, struct.pack("16s16x", name.encode()))
        flags = struct.unpack_from("H", request, 16)[0] | 0x1 | 0x40
        fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", name.encode(), flags))


def address(ip: str) -> bytes:
    """Return a sockaddr_in."""
    return struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(ip))


def configure_interface(name: str, ip: str, prefix: int, gateway: str, mtu: int) -> None:
    """Set address, size of packets and default route by ioctl: no tool is needed in the guest."""
    mask = socket.inet_ntoa(struct.pack(">I", (0xFFFFFFFF << (32 - prefix)) & 0xFFFFFFFF))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        padded = name.encode().ljust(16, b"\0")
        fcntl.ioctl(control, 0x8916, padded + address(ip))
        fcntl.ioctl(control, 0x891C, padded + address(mask))
        interface_up(name, mtu)
        if gateway:
            # struct rtentry: padding, destination, gateway, mask, flags UP and GATEWAY, zeros.
            where = address("0.0.0.0") + address(gateway) + address("0.0.0.0")
            fcntl.ioctl(control, 0x890B, bytes(8) + where + struct.pack("H62x", 0x3))


def set_up_network(settings: dict[str, str]) -> None:
    """Configure loopback and the first interface. Raises OSError, ValueError."""
    interface_up("lo")
    if "ip" not in settings:
        return
    ip, _, prefix = settings["ip"].partition("/")
    names = sorted(name for name in os.listdir("/sys/class/net") if name != "lo")
    if not names:
        raise OSError(errno.ENODEV, "no network interface")
    mtu = int(settings.get("mtu", "1450"))
    configure_interface(names[0], ip, int(prefix or "24"), settings.get("gw", ""), mtu)


def set_name(host: str) -> None:
    """Take the name that the host gave."""
    socket.sethostname(host)
    with contextlib.suppress(OSError):
        with open("/etc/hostname", "w") as file:
            file.write(host + "\n")
        with open("/etc/hosts", "w") as file:
            file.write(f"127.0.0.1 localhost\n127.0.1.1 {host}\n")
