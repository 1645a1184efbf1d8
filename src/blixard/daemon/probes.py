"""Whether this machine lets a node do its work; each probe tries, in a namespace thrown away.

Plain functions that return rows: the daemon says once, at its start, what is missing.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable

import msgspec

from blixard.hypervisors.guard.cgroups import V1, available
from blixard.hypervisors.qemu.arguments import BINARY
from blixard.hypervisors.qemu.probe import CACHE, Accelerator
from blixard.network.linux import commands, filters
from blixard.ports.network import NetworkView

TRY_S = 10.0
KVM = "/dev/kvm"
# Programs that a node starts, and the Debian package of each.
PROGRAMS = {
    "ip": "iproute2",
    "bridge": "iproute2",
    "nft": "nftables",
    BINARY: "qemu-system-x86",
    "mmdebstrap": "mmdebstrap",
    "mkfs.erofs": "erofs-utils",
    "setsid": "util-linux",
    "unshare": "util-linux",
}
# linux/capability.h
_CAPABILITIES = {"KILL": 5, "SETGID": 6, "SETUID": 7, "NET_ADMIN": 12, "SYS_ADMIN": 21}
_SEARCHED = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_VIEW = NetworkView(
    name="probe",
    vni=1,
    cidr="10.255.255.248/29",
    gateway="10.255.255.249",
    mtu=1450,
    peers=(),
    endpoints=(),
)
# Runs a command with a text as its input; returns why it failed, nothing if it did not.
Try = Callable[[list[str], str], str]


class Row(msgspec.Struct, frozen=True):
    """What was looked at, whether it will do, what was found, and what to do if not."""

    name: str
    ok: bool
    found: str
    hint: str = ""


def probe_host(cache_dir: str, attempt: Try | None = None) -> list[Row]:
    """Return a row for each thing that a node with guests needs; takes part of a second."""
    attempt = attempt or try_command
    rows = [privileges(_effective()), programs()]
    if all(row.ok for row in rows):
        rows += network(attempt)
    return [*rows, hypervisor(cache_dir), cgroups()]


def privileges(effective: int) -> Row:
    """Judge the process's effective capabilities, a bit set."""
    missing = [f"CAP_{name}" for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]
    if missing:
        return Row("privileges", False, f"without {', '.join(missing)}", "run the daemon as root")
    return Row("privileges", True, "all that is needed")


def programs(path: str = "") -> Row:
    """Look for every program, in the system's folders too; *path* replaces the search path."""
    places = path or f"{os.environ.get('PATH', '')}:{_SEARCHED}"
    missing = [name for name in PROGRAMS if shutil.which(name, path=places) is None]
    if missing:
        packages = sorted({PROGRAMS[name] for name in missing})
        return Row(
            "programs",
            False,
            f"without {', '.join(map(os.path.basename, missing))}",
            f"apt-get install {' '.join(packages)}",
        )
    return Row("programs", True, f"all {len(PROGRAMS)}")


def network(attempt: Try) -> list[Row]:
    """Make one of each thing that a node's network consists of, with the rules really used."""
    bridge, vxlan = commands.bridge_name(_VIEW.vni), commands.vxlan_name(_VIEW.vni)
    add = ["ip", "link", "add"]
    overlay = ["type", "vxlan", "id", "1", "local", "127.0.0.1", "dstport", "4789", "nolearning"]
    tap = ["ip", "tuntap", "add", "dev", "blxt0", "mode", "tap", "vnet_hdr"]
    rules = ["nft", "-f", "-"]
    kernel = "load the module {}, or use a kernel that has it"
    tries = (
        ("bridge", [*add, bridge, "type", "bridge"], "", kernel.format("bridge")),
        ("vxlan", [*add, vxlan, *overlay], "", kernel.format("vxlan")),
        ("tap", tap, "", f"{kernel.format('tun')}; a container needs the device /dev/net/tun"),
        ("nft nat", rules, filters.nat_rules((_VIEW,)), kernel.format("nft_masq")),
        ("nft bridge", rules, filters.guest_rules((_VIEW,), {}), kernel.format("nft_meta_bridge")),
    )
    rows = []
    for name, argv, text, hint in tries:
        why = attempt(["unshare", "--net", *argv], text)
        rows.append(Row(name, not why, why or "works", hint if why else ""))
    return rows


def hypervisor(cache_dir: str, device: str = KVM) -> Row:
    """Tell KVM from emulation; both will do. The first guest's start tells whether KVM works."""
    if not os.path.exists(BINARY):
        return Row("hypervisor", False, f"{BINARY} is not there", "apt-get install qemu-system-x86")
    try:
        known = msgspec.json.decode(pathlib.Path(cache_dir, CACHE).read_bytes(), type=Accelerator)
        return Row("hypervisor", True, f"{known.name}: {known.why}")
    except (OSError, msgspec.MsgspecError):
        found = "not tried with a guest yet"
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Row("hypervisor", True, f"{device}: {error.strerror}: guests are emulated (TCG)")
    return Row("hypervisor", True, f"{device} opens; {found}")


def cgroups() -> Row:
    """Tell which limits guests get."""
    found = available()
    missing = [name for name in V1 if name not in found]
    if missing:
        hint = "mount cgroup2 at /sys/fs/cgroup; until then guests have no such limits"
        return Row("cgroups", False, f"without {', '.join(missing)}", hint)
    return Row("cgroups", True, ", ".join(found))


def try_command(argv: list[str], text: str) -> str:
    """Run a command to its end; return its last words if it failed, nothing if it did not."""
    try:
        done = subprocess.run(
            argv, input=text, capture_output=True, text=True, timeout=TRY_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[0][:200] if lines else f"ended with {done.returncode}"


def _effective() -> int:
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0
