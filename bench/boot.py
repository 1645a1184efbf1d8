"""How fast an emulated guest is ready, phase by phase, beside the plain way in the same run.

``plain`` boots the same image as one would by hand: the packed kernel with usual arguments, the
agent compiled at boot, QEMU's default CPU. ``ours`` boots what a node boots. Rounds alternate.
Phases in seconds since the start of QEMU: ``init`` the kernel's end, ``modules``, ``mounted``,
``ready`` the agent's answer that it is ready; ``cpu`` what QEMU used until then. ``two`` starts two
guests at once and counts the later one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from typing import Any, NamedTuple

from blixard.base.config_keys import ImagesSection
from blixard.guest import protocol
from blixard.hypervisors.qemu import arguments, probe
from blixard.images.debian import layout
from blixard.images.debian.builder import DebianGuestBuilder
from blixard.ports.guests import GuestRecipe
from blixard.ports.hypervisor import LaunchPlan

BOOT_S = 90.0
PHASES = ("init", "modules", "mounted", "ready", "cpu")
Marks = dict[str, float]


class Way(NamedTuple):
    """One way of booting: a runner's files, the kernel's arguments, more arguments of QEMU."""

    kernel: str
    initrd: str
    root: str
    append: str
    cpu: str


class Guest:
    """One QEMU; ``marks`` are filled while it boots."""

    def __init__(self, way: Way, place: pathlib.Path) -> None:
        self.marks: Marks = {}
        self.socket = str(place / f"agent-{time.monotonic_ns()}")
        self.began_s = time.monotonic()
        self.process = subprocess.Popen(
            [
                *(arguments.BINARY, "-nodefaults", "-no-user-config", "-no-reboot"),
                *("-display", "none", "-M", "microvm", "-m", "128M", "-smp", "1"),
                *("-accel", f"tcg,tb-size={arguments.TB_SIZE_MIB}", "-cpu", way.cpu),
                *("-kernel", way.kernel, "-initrd", way.initrd, "-append", way.append),
                *("-drive", f"id=root,file={way.root},format=raw,if=none,readonly=on"),
                *("-device", "virtio-blk-device,drive=root", "-serial", "stdio"),
                *("-device", "virtio-serial-device", "-chardev"),
                f"socket,id=agent,path={self.socket},server=on,wait=off",
                *("-device", f"virtserialport,chardev=agent,name={arguments.AGENT_PORT}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            found = re.search(rb"MARK (\w+)", line)
            if found:
                self.marks[found[1].decode()] = time.monotonic() - self.began_s

    def ready(self) -> bool:
        """Ask the agent once."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as link:
            link.settimeout(0.5)
            link.connect(self.socket)
            link.sendall(protocol.frame(protocol.STATUS, 1))
            return b'"ready": true' in link.recv(65_536)
        return False

    def wait(self) -> None:
        """Wait until it is ready, note time and CPU, end it."""
        try:
            while not self.ready():
                if time.monotonic() - self.began_s > BOOT_S or self.process.poll() is not None:
                    raise RuntimeError(f"not ready within {BOOT_S} s: {self.marks}")
                time.sleep(0.02)
            self.marks["ready"] = time.monotonic() - self.began_s
            fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1]
            ticks = sum(int(field) for field in fields.split()[11:13])
            self.marks["cpu"] = ticks / os.sysconf("SC_CLK_TCK")
        finally:
            self.process.kill()
            self.process.wait()


def with_init(initrd: pathlib.Path, target: pathlib.Path, init: str) -> str:
    """Write an initramfs whose first program is *init*."""
    with tempfile.TemporaryDirectory() as place:
        path = pathlib.Path(place, "init")
        path.write_text(init)
        path.chmod(0o755)
        command = ["cpio", "--quiet", "-o", "-H", "newc"]
        packed = subprocess.run(
            command, input=b"init", cwd=place, capture_output=True, check=True
        ).stdout
    data = initrd.read_bytes()
    target.write_bytes(data + bytes(-len(data) % 4) + packed)
    return str(target)


def marked(init: str) -> str:
    """Return the first program with a line on the console at each phase."""
    for before, name in (
        ("read -r modules", "init"),
        ("tries=0", "modules"),
        ("exec /bin/busybox switch_root", "mounted"),
    ):
        assert init.count(before) == 1
        init = init.replace(before, f"echo MARK {name}\n{before}")
    return init


def ways(runner: str, place: pathlib.Path) -> dict[str, Way]:
    """Return ours and the plain one."""
    share = pathlib.Path(runner, "share/microvm")
    described = arguments.load_runner(runner)
    plan = LaunchPlan(
        instance_uid="bench",
        name="bench",
        namespace="default",
        node_epoch=1,
        run=1,
        runner=runner,
        memory_mib=128,
        vcpus=1,
    )
    khz = probe.host_tsc_khz(pathlib.Path("/proc/cpuinfo").read_text())
    init = marked(layout.INIT)
    at_boot = init.replace("agent.pyc", "agent.py")
    root = str(share / "root")
    plain_words = f"{arguments.KERNEL_ARGUMENTS} no_timer_check tsc_early_khz={khz}"
    return {
        "plain": Way(
            str(share / "kernel"),
            with_init(share / "initrd", place / "plain", at_boot),
            root,
            plain_words,
            "qemu64",
        ),
        "ours": Way(
            str(share / "vmlinux"),
            with_init(share / "initrd", place / "ours", init),
            root,
            arguments.kernel_command_line(plan, described, "tcg", khz),
            arguments.EMULATED_CPU,
        ),
    }


def boot(way: Way, place: pathlib.Path, count: int) -> Marks:
    """Boot *count* guests at once; return the marks of the slowest."""
    guests = [Guest(way, place) for _ in range(count)]
    try:
        for guest in guests:
            guest.wait()
    finally:
        for guest in guests:
            guest.process.kill()
            guest.process.wait()
    return max((guest.marks for guest in guests), key=lambda marks: marks["ready"])


def measure(found: dict[str, Way], place: pathlib.Path, rounds: int) -> dict[str, Any]:
    """Return medians per way and number of guests."""
    results: dict[str, Any] = {}
    for count, label in ((1, "one"), (2, "two")):
        seen: dict[str, list[Marks]] = {name: [] for name in found}
        for _ in range(rounds):
            for name, way in found.items():
                seen[name].append(boot(way, place, count))
        for name, marks in seen.items():
            medians = {p: round(statistics.median(m[p] for m in marks), 2) for p in PHASES}
            results[f"{name}_{label}"] = medians
            shown = "  ".join(f"{phase} {value:6.2f}" for phase, value in medians.items())
            print(f"{name:6} {label}  {shown}", flush=True)
        ratio = results[f"plain_{label}"]["ready"] / results[f"ours_{label}"]["ready"]
        results[f"ratio_{label}"] = round(ratio, 2)
        print(f"ratio  {label}  {ratio:.2f} times sooner ready", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cache", default=ImagesSection().cache_dir)
    options = parser.parse_args()
    builder = DebianGuestBuilder(options.cache)
    built = asyncio.run(builder.build(GuestRecipe(), lambda line: print(line, flush=True)))
    place = pathlib.Path(tempfile.mkdtemp(prefix="boot-"))
    try:
        results = measure(ways(built.runner, place), place, options.rounds)
    finally:
        shutil.rmtree(place)
    print(json.dumps({"bench": "boot", "rounds": options.rounds, **results}))


if __name__ == "__main__":
    main()
