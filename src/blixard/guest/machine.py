"""The guest as a machine: mounts, name, network, clock, figures, the end."""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import struct
import time

from blixard.guest.text import decode

STOP_S = 8.0
SIGKILL, SIGTERM = 9, 15
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
    signal_all(SIGTERM)
    until = time.monotonic() + STOP_S
    while time.monotonic() < until and any_left():
        time.sleep(0.02)
    signal_all(SIGKILL)
    os.sync()
    switch_off()


def signal_all(number: int) -> None:
    """Signal every process but this one."""
    try:
        os.kill(-1, number)
    except ProcessLookupError:
        pass  # nobody is left


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
    import ctypes

    ctypes.CDLL(None).reboot(0x01234567)


def set_clock(payload: bytes) -> None:
    """Take the host's time if ours is off: a guest may have no clock of its own."""
    try:
        now = float(decode(payload)["time"])
        if abs(now - time.time()) > CLOCK_OFF_S:
            time.clock_settime(time.CLOCK_REALTIME, now)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no time was said, or this guest may not set it: it keeps its own


def metrics() -> dict[str, float]:
    """Return figures of the whole guest: seconds of CPU, bytes of memory."""
    figures = {}
    try:
        with open("/proc/stat") as file:
            fields = [int(field) for field in file.readline().split()[1:9]]
        ticks = os.sysconf("SC_CLK_TCK")
        figures["cpu_busy_s"] = (sum(fields) - fields[3] - fields[4]) / ticks
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        figures["memory_total_bytes"] = int(lines["MemTotal"].split()[0]) * 1024.0
        figures["memory_available_bytes"] = int(lines["MemAvailable"].split()[0]) * 1024.0
    except (OSError, ValueError, IndexError, KeyError):
        pass  # a figure that is not there is not told
    return figures


def mount_all() -> list[str]:
    """Mount what the initramfs did not; return what failed."""
    failed = []
    for source, target, kind in MOUNTS:
        os.makedirs(target, exist_ok=True)
        if not os.path.ismount(target):
            why = mount(source, target, kind)
            if why:
                failed.append(f"mount {target}: {why}")
    for name, target in LINKS:
        try:
            os.symlink(f"/proc/self/{target}", f"/dev/{name}")
        except FileExistsError:
            continue
    return failed


def mount(source: str, target: str, kind: str) -> str:
    """Mount a file system of the kernel; return why not."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), target.encode(), kind.encode(), 0, None) == 0:
        return ""
    return os.strerror(ctypes.get_errno())


def command_line() -> dict[str, str]:
    """Return the kernel's ``blixard.KEY=VALUE`` settings."""
    with open("/proc/cmdline") as file:
        words = file.read().split()
    pairs = (word.split("=", 1) for word in words if word.startswith("blixard.") and "=" in word)
    return {key[len("blixard.") :]: value for key, value in pairs}


def interface_up(control: _socket.socket, name: str, mtu: int = 0) -> None:
    """Switch an interface on."""
    if mtu:
        fcntl.ioctl(control, 0x8922, struct.pack("16si12x", name.encode(), mtu))
    request = fcntl.ioctl(control, 0x8913, struct.pack("16s16x", name.encode()))
    flags = struct.unpack_from("H", request, 16)[0] | 0x1 | 0x40
    fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", name.encode(), flags))


def address(ip: str) -> bytes:
    """Return a sockaddr_in."""
    return struct.pack("HH4s8x", _socket.AF_INET, 0, _socket.inet_aton(ip))


def configure_interface(control: _socket.socket, name: str, settings: dict[str, str]) -> None:
    """Set address, size of packets and default route by ioctl: no tool is needed in the guest."""
    ip, _, prefix = settings["ip"].partition("/")
    bits = (0xFFFFFFFF << (32 - int(prefix or "24"))) & 0xFFFFFFFF
    padded = name.encode().ljust(16, b"\0")
    fcntl.ioctl(control, 0x8916, padded + address(ip))
    fcntl.ioctl(control, 0x891C, padded + address(_socket.inet_ntoa(struct.pack(">I", bits))))
    interface_up(control, name, int(settings.get("mtu", "1450")))
    gateway = settings.get("gw", "")
    if gateway:
        # struct rtentry: padding, destination, gateway, mask, flags UP and GATEWAY, zeros.
        where = address("0.0.0.0") + address(gateway) + address("0.0.0.0")
        fcntl.ioctl(control, 0x890B, bytes(8) + where + struct.pack("H62x", 0x3))


def set_up_network(settings: dict[str, str]) -> None:
    """Configure loopback and the first interface. Raises OSError, ValueError."""
    control = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        interface_up(control, "lo")
        if "ip" not in settings:
            return
        names = sorted(name for name in os.listdir("/sys/class/net") if name != "lo")
        if not names:
            raise OSError(errno.ENODEV, "no network interface")
        configure_interface(control, names[0], settings)
    finally:
        control.close()


def set_name(settings: dict[str, str]) -> None:
    """Take the name that the host gave. Raises OSError."""
    host = settings.get("host", "guest")
    _socket.sethostname(host)
    with open("/etc/hostname", "w") as file:
        file.write(host + "\n")
    with open("/etc/hosts", "w") as file:
        file.write(f"127.0.0.1 localhost\n127.0.1.1 {host}\n")
