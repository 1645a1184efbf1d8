"""What goes into a guest's files, as text and names; pure."""

from __future__ import annotations

import hashlib
import json
import re

from blixard.ports.guests import GuestRecipe

BUILDER_VERSION = 7
SUITE = "bookworm"
KERNEL_META = "linux-image-6.12-cloud-amd64"
BASE_PACKAGES = ("python3-minimal", "libpython3-stdlib")
# What the guest's first minutes need; dependencies are resolved from modules.dep.
MODULES = ("virtio_mmio", "virtio_blk", "virtio_net", "virtio_console", "erofs", "overlay")
AGENT_PATH = "usr/lib/blixard/agent.py"
# Compiled in the guest's own tree: an emulated guest needs most of a second for it at each boot.
COMPILE = (
    "import py_compile; py_compile.compile('/usr/lib/blixard/agent.py', "
    "cfile='/usr/lib/blixard/agent.pyc', doraise=True, "
    "invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)"
)
# Of every root: nodes that build one recipe of like packages get the same bytes, so that a guest
# can move from one to the other with what it has read of its root in memory.
ROOT_UUID = "b71bca2d-0000-4000-8000-000000000001"
SERVICES_PATH = "etc/blixard/services.json"

_NOT_FOUND = re.compile(r"Unable to locate package ([a-z0-9][a-z0-9+.-]*[a-z0-9+])")
_ZSTD_MAGIC = bytes.fromhex("28b52ffd")

# What is mounted before and after the modules are there. One process mounts all of a table: each
# process costs an emulated guest 20 ms.
MOUNTS = (
    """proc /proc proc defaults
devtmpfs /dev devtmpfs defaults
tmpfs /upper tmpfs mode=0755
""",
    """/dev/vda /lower erofs ro
overlay /root overlay lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work
proc /root/proc proc defaults
sysfs /root/sys sysfs defaults
devtmpfs /root/dev devtmpfs defaults
devpts /root/dev/pts devpts defaults
tmpfs /root/dev/shm tmpfs defaults
tmpfs /root/run tmpfs mode=0755
tmpfs /root/tmp tmpfs defaults
""",
)
INIT = """#!/bin/busybox sh
/bin/busybox mount -a -T /mounts.0
/bin/busybox mkdir -p /upper/data /upper/work /dev/pts /dev/shm
read -r modules < /modules
[ -z "$modules" ] || /bin/busybox modprobe -a $modules || echo "modules failed"
tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 100 ]; do
  /bin/busybox usleep 20000
  tries=$((tries + 1))
done
/bin/busybox mount -a -T /mounts.1 || echo "no root file system"
exec /bin/busybox switch_root /root /usr/bin/python3 -I -S -u \\
  /usr/lib/blixard/agent.pyc
"""

RUN = """#!/bin/sh
# Runs this guest by hand, with user networking; blixard starts it through its guard instead.
set -eu
here=$(dirname "$(readlink -f "$0")")/..
# An emulated guest cannot measure its counter on a busy host: it is told the rate.
mhz=$(sed -n 's/^cpu MHz[^:]*: *\\([0-9.]*\\).*/\\1/p' /proc/cpuinfo | head -n 1)
rate=""
if grep -q constant_tsc /proc/cpuinfo && [ -n "$mhz" ]; then
  rate=$(awk "BEGIN { printf \\"tsc=reliable tsc_early_khz=%d\\", $mhz * 1000 }")
fi
exec qemu-system-x86_64 -nodefaults -no-user-config -no-reboot -display none \\
  -M microvm -m "${MEMORY:-256}" -smp "${VCPUS:-1}" \\
  -cpu qemu64,+rdrand -kernel "$here/share/microvm/kernel" -initrd "$here/share/microvm/initrd" \\
  -append "console=ttyS0 reboot=t panic=-1 quiet loglevel=3 no_timer_check $rate \\
blixard.ip=10.0.2.15/24 blixard.gw=10.0.2.2 blixard.mtu=1500 blixard.host=guest" \\
  -drive id=root,file="$here/share/microvm/root",format=raw,if=none,readonly=on \\
  -device virtio-blk-device,drive=root \\
  -netdev "user,id=n${FORWARD:+,hostfwd=$FORWARD}" -device virtio-net-device,netdev=n \\
  -serial mon:stdio
"""


def recipe_key(recipe: GuestRecipe, agent: str) -> str:
    """Return the name under which a recipe is looked up: recipe, agent and builder."""
    packages = sorted(set(recipe.packages))
    body = json.dumps(
        [
            BUILDER_VERSION,
            SUITE,
            KERNEL_META,
            BASE_PACKAGES,
            MODULES,
            INIT,
            MOUNTS,
            agent,
            packages,
            [[f.path, f.content, f.mode] for f in recipe.files],
            services_json(recipe),
        ]
    )
    return hashlib.blake2b(body.encode(), digest_size=16).hexdigest()


def image_digest(key: str, kernel: str, versions: str) -> str:
    """Return the digest of what was built: the recipe's key, the kernel, each package's version."""
    body = json.dumps([key, kernel, sorted(versions.split("\n"))])
    return hashlib.blake2b(body.encode(), digest_size=16).hexdigest()


def missing_packages(text: str) -> list[str]:
    """Return the packages that apt says it cannot find."""
    return sorted(set(_NOT_FOUND.findall(text)))


def services_json(recipe: GuestRecipe) -> str:
    """Return the agent's configuration."""
    services = [
        {"name": s.name, "command": list(s.command), "env": s.env, "restart": s.restart}
        for s in recipe.services
    ]
    return json.dumps(services, indent=1)


def module_order(modules_dep: str, wanted: tuple[str, ...] = MODULES) -> list[str]:
    """Return the paths of the wanted modules with their dependencies, dependencies first.

    *modules_dep* is the text of a kernel's ``modules.dep``. A module that is not listed is built
    into the kernel.
    """
    needs: dict[str, list[str]] = {}
    by_name: dict[str, str] = {}
    for line in modules_dep.splitlines():
        path, _, after = line.partition(":")
        needs[path] = after.split()
        by_name[_module(path)] = path
    order: list[str] = []

    def visit(path: str) -> None:
        for needed in needs.get(path, []):
            visit(needed)
        if path not in order:
            order.append(path)

    for name in wanted:
        if name in by_name:
            visit(by_name[name])
    return order


def module_names(order: list[str], wanted: tuple[str, ...] = MODULES) -> list[str]:
    """Return the wanted modules that are files, not built into the kernel."""
    known = {_module(path) for path in order}
    return [name for name in wanted if name in known]


def modules_dep(order: list[str], table: str) -> str:
    """Return a ``modules.dep`` for the modules of *order*, unpacked and in one folder."""
    lines = []
    for line in table.splitlines():
        path, _, after = line.partition(":")
        if path in order:
            needed = " ".join(file_name(p) for p in after.split())
            lines.append(f"{file_name(path)}: {needed}".rstrip() + "\n")
    return "".join(lines)


def file_name(path: str) -> str:
    """Return a module's file name without the ending of its compression."""
    return path.rsplit("/", 1)[-1].removesuffix(".xz").removesuffix(".gz")


def _module(path: str) -> str:
    return file_name(path).split(".")[0].replace("-", "_")


def without_signature(module: bytes) -> bytes:
    """Return a kernel module without its signature: to check one takes an emulated guest 40 ms.

    The end of a signed file is the signature, 12 bytes of which the last four are its length, and
    the magic words (the kernel's ``module_signature.h``).
    """
    magic = b"~Module signature appended~\n"
    if not module.endswith(magic):
        return module
    body = module[: -len(magic)]
    length = int.from_bytes(body[-4:], "big")
    return body[: -12 - length] if length + 12 < len(body) else module


def zstd_offsets(data: bytes) -> list[int]:
    """Return where Zstandard frames (RFC 8878) may begin in a kernel image."""
    found: list[int] = []
    at = data.find(_ZSTD_MAGIC)
    while at >= 0 and len(found) < 8:
        found.append(at)
        at = data.find(_ZSTD_MAGIC, at + 1)
    return found


def unknown_packages(policy: str, wanted: tuple[str, ...]) -> list[str]:
    """Return the packages that ``apt-cache show --no-all-versions`` did not print."""
    known = {
        line.partition(":")[2].strip()
        for line in policy.splitlines()
        if line.startswith("Package:")
    }
    return [name for name in wanted if name not in known]
