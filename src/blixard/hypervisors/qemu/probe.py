"""Whether KVM works here: the guests' own kernel is booted under it once, the answer kept.

``/dev/kvm`` may exist, and even run a boot sector, and still stop a real kernel: nothing short of
running one tells. The kernel gets no root file system, so that it panics and ends within a second.
"""

from __future__ import annotations

import os
import subprocess

import msgspec

from blixard.hypervisors.qemu.arguments import BINARY

PROBE_S = 8.0
CACHE = "accelerator.json"
_ENDED = b"Kernel panic"


class Accelerator(msgspec.Struct, frozen=True):
    """``name`` is kvm or tcg, ``why`` a sentence for people, ``key`` what it was probed with."""

    name: str
    why: str
    key: str


def probe(state_dir: str, kernel: str) -> Accelerator:
    """Return what to use; from the cache while host kernel, guest kernel and QEMU are the same.

    Blocks for up to PROBE_S the first time.
    """
    key = f"{os.uname().release} {os.path.basename(kernel)} {_version()}"
    path = os.path.join(state_dir, CACHE)
    try:
        with open(path, "rb") as file:
            known = msgspec.json.decode(file.read(), type=Accelerator)
        if known.key == key:
            return known
    except (OSError, msgspec.MsgspecError):
        known = None
    why = _why_not(kernel)
    found = Accelerator("tcg" if why else "kvm", why or "a probe guest ran under KVM", key)
    # Nodes of one machine share the answer: it appears whole or not at all.
    own = f"{path}.{os.getpid()}"
    with open(own, "wb") as file:
        file.write(msgspec.json.encode(found))
    os.replace(own, path)
    return found


def host_tsc_khz(cpuinfo: str) -> int:
    """Return the rate of the time stamp counter that emulated guests see, 0 if it is not known.

    *cpuinfo* is the text of ``/proc/cpuinfo``. A counter that does not follow the clock
    (``constant_tsc``) runs at the nominal rate, which is what virtual machines are shown there.
    """
    constant = any(
        line.startswith("flags") and "constant_tsc" in line.split() for line in cpuinfo.splitlines()
    )
    for line in cpuinfo.splitlines():
        if constant and line.startswith("cpu MHz"):
            return round(float(line.partition(":")[2]) * 1000)
    return 0


def _version() -> str:
    try:
        done = subprocess.run(
            [BINARY, "--version"], capture_output=True, timeout=PROBE_S, check=True, text=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"no QEMU: {error}"
    return done.stdout.split("\n", 1)[0]


def _why_not(kernel: str) -> str:
    """Return why KVM cannot be used; empty if the kernel ran to its expected end."""
    if not os.path.exists("/dev/kvm"):
        return "/dev/kvm does not exist: guests are emulated (TCG), which is slower"
    try:
        done = subprocess.run(
            [
                BINARY,
                *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
                *("-M", "microvm,accel=kvm", "-cpu", "host", "-m", "128"),
                *("-kernel", kernel, "-append", "console=ttyS0 reboot=t panic=-1"),
                *("-serial", "stdio"),
            ],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=PROBE_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"a probe guest did not run under KVM ({type(error).__name__}): emulating (TCG)"
    if _ENDED in done.stdout:
        return ""
    return "a probe guest did not run under KVM: guests are emulated (TCG), which is slower"
