"""Whether KVM works here: a guest that says one byte and ends, run once, the answer kept.

``/dev/kvm`` may exist and still run no guest, so nothing short of running one tells. The guest is 512
bytes of a boot sector: it writes ``K`` to the debug port 0x402 and halts by the exit device.
"""

from __future__ import annotations

import os
import subprocess
import tempfile

import msgspec

from blixard.hypervisors.qemu.arguments import BINARY

PROBE_S = 10.0
CACHE = "accelerator.json"
# mov al,'K'; mov dx,0x402; out dx,al; mov al,0; mov dx,0xf4; out dx,al; hlt; jmp $
_CODE = bytes.fromhex("b04bba0204eeb000baf400eef4ebfe")


class Accelerator(msgspec.Struct, frozen=True):
    """``name`` is kvm or tcg, ``why`` a sentence for people, ``key`` what it was probed with."""

    name: str
    why: str
    key: str


def probe(state_dir: str) -> Accelerator:
    """Return what to use; from the cache while kernel and QEMU are the same."""
    key = f"{os.uname().release} {_version()}"
    path = os.path.join(state_dir, CACHE)
    try:
        with open(path, "rb") as file:
            known = msgspec.json.decode(file.read(), type=Accelerator)
        if known.key == key:
            return known
    except (OSError, msgspec.MsgspecError):
        pass
    why = _try_kvm(state_dir)
    found = Accelerator("tcg" if why else "kvm", why or "a probe guest ran under KVM", key)
    with open(path, "wb") as file:
        file.write(msgspec.json.encode(found))
    return found


def _version() -> str:
    try:
        done = subprocess.run(
            [BINARY, "--version"], capture_output=True, timeout=PROBE_S, check=True, text=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"no QEMU: {error}"
    return done.stdout.split("\n", 1)[0]


def _try_kvm(state_dir: str) -> str:
    """Return why KVM cannot be used; empty if the probe guest ran."""
    if not os.path.exists("/dev/kvm"):
        return "/dev/kvm does not exist: guests are emulated (TCG), slower"
    with tempfile.TemporaryDirectory(dir=state_dir) as folder:
        disk, out = os.path.join(folder, "boot"), os.path.join(folder, "out")
        with open(disk, "wb") as file:
            file.write(_CODE.ljust(510, b"\0") + b"\x55\xaa")
        try:
            subprocess.run(
                [
                    BINARY,
                    "-nodefaults",
                    "-no-user-config",
                    "-display",
                    "none",
                    "-no-reboot",
                    "-M",
                    "pc,accel=kvm",
                    "-cpu",
                    "host",
                    "-m",
                    "16",
                    "-drive",
                    f"file={disk},format=raw,if=ide",
                    "-chardev",
                    f"file,id=d,path={out}",
                    "-device",
                    "isa-debugcon,iobase=0x402,chardev=d",
                    "-device",
                    "isa-debug-exit,iobase=0xf4,iosize=1",
                ],
                capture_output=True,
                timeout=PROBE_S,
                check=False,
            )
            with open(out, "rb") as file:
                spoke = b"K" in file.read()
        except (OSError, subprocess.SubprocessError) as error:
            return f"a probe guest did not run under KVM ({type(error).__name__}): emulating (TCG)"
    return "" if spoke else "a probe guest did not run under KVM: guests are emulated (TCG), slower"
