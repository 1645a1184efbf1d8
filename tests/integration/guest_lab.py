"""Real guests for tests: a Debian base built once, with this tree's agent put in at boot."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from blixard.guest.bundle import agent_source
from blixard.hypervisors.guard.client import GuardClient
from blixard.hypervisors.qemu.hypervisor import QemuHypervisor
from blixard.images.debian import layout
from blixard.images.debian.builder import DebianGuestBuilder
from blixard.ports.guests import GuestRecipe
from blixard.ports.hypervisor import LaunchPlan

CACHE = pathlib.Path(tempfile.gettempdir()) / "blixard-test-images"
READY_S = 60.0
GUEST_S = 120.0
Scenario = Callable[[QemuHypervisor], Awaitable[None]]


class MemoryStream:
    """A client: what it says is put into *said*; what it is told stands in *told*."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.told: list[bytes] = []

    async def send(self, frame: bytes) -> None:
        self.told.append(frame)

    async def receive(self) -> bytes | None:
        return await self.said.get()

    async def close(self) -> None:
        self.said.put_nowait(None)

    def of(self, kind: int) -> bytes:
        """Return all payloads of a kind."""
        return b"".join(frame[1:] for frame in self.told if frame[0] == kind)


def base_runner() -> pathlib.Path:
    """Return a runner without packages; built by the first test that asks."""
    builder = DebianGuestBuilder(str(CACHE))
    builder._agent = "# replaced at boot\n"  # so that a new agent needs no new image
    return pathlib.Path(asyncio.run(builder.build(GuestRecipe(), lambda _line: None)).runner)


def make_runner(base: pathlib.Path, place: pathlib.Path, services: list[dict[str, object]]) -> str:
    """Return a runner like *base* with our agent and *services*."""
    share = place / "runner/share/microvm"
    share.mkdir(parents=True)
    for name in ("kernel", "vmlinux", "root", "blixard.json"):
        (share / name).symlink_to(base / "share/microvm" / name)
    extra = place / "extra"
    extra.mkdir()
    (extra / "agent.py").write_text(agent_source())
    (extra / "services.json").write_text(json.dumps(services))
    leave = "exec /bin/busybox switch_root"
    copy = "\n".join(
        f"/bin/busybox mkdir -p /root/{os.path.dirname(to)}\n/bin/busybox cp /{name} /root/{to}"
        for name, to in (("agent.py", layout.AGENT_PATH), ("services.json", layout.SERVICES_PATH))
    )
    assert layout.INIT.count(leave) == 1
    init = layout.INIT.replace(leave, f"{copy}\n{leave}")
    # The image holds the placeholder compiled.
    (extra / "init").write_text(init.replace(f"{layout.AGENT_PATH}c", layout.AGENT_PATH))
    (extra / "init").chmod(0o755)
    return _with_files(base, share, extra)


def make_plain_runner(base: pathlib.Path, place: pathlib.Path, init: str) -> str:
    """Return a runner that only runs *init* under busybox's shell."""
    share = place / "runner/share/microvm"
    share.mkdir(parents=True)
    (share / "kernel").symlink_to(base / "share/microvm/kernel")
    (share / "blixard.json").write_text(
        '{"kernel": "share/microvm/kernel", "initrd": "share/microvm/initrd"}'
    )
    extra = place / "extra"
    extra.mkdir()
    (extra / "init").write_text(f"#!/bin/busybox sh\n{init}")
    (extra / "init").chmod(0o755)
    return _with_files(base, share, extra)


def _with_files(base: pathlib.Path, share: pathlib.Path, extra: pathlib.Path) -> str:
    names = "\n".join(sorted(path.name for path in extra.iterdir()))
    packed = subprocess.run(
        ["cpio", "--quiet", "-o", "-H", "newc"],
        input=names.encode(),
        cwd=extra,
        capture_output=True,
        check=True,
    ).stdout
    with open(share / "initrd", "wb") as target:
        with open(base / "share/microvm/initrd", "rb") as source:
            shutil.copyfileobj(source, target)
        # The kernel unpacks archives one after another; each begins at a multiple of four.
        target.write(bytes(-target.tell() % 4) + packed)
    return str(share.parent.parent)


def plan(runner: str, uid: str = "guest1", **fields: object) -> LaunchPlan:
    """Return a plan with small values."""
    known: dict[str, object] = {
        "instance_uid": uid,
        "name": "web-1",
        "namespace": "default",
        "node_epoch": 1,
        "run": 1,
        "runner": runner,
        "memory_mib": 192,
        "vcpus": 1,
    }
    return LaunchPlan(**{**known, **fields})  # type: ignore[arg-type]


def boottime_ns(after_s: float) -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) + int(after_s * 1e9)


@contextlib.asynccontextmanager
async def hypervisor(
    state_dir: pathlib.Path, probe_dir: pathlib.Path | str = ""
) -> AsyncIterator[QemuHypervisor]:
    """Give a hypervisor whose guests and guard are gone afterwards."""
    guard = GuardClient(str(state_dir), f"test-{state_dir.name}")
    made = QemuHypervisor(str(state_dir), guard, probe_dir=str(probe_dir))
    try:
        yield made
    finally:
        for instance in await made.instances():
            await made.kill(instance.instance_uid)
            await made.forget(instance.instance_uid)
        await made.close()
        end_guard(state_dir)


def run(state: pathlib.Path, scenario: Scenario, *, within_s: float = GUEST_S) -> None:
    """Run a scenario with a hypervisor, for so long at most."""

    async def main() -> None:
        async with asyncio.timeout(within_s), hypervisor(state) as made:
            await scenario(made)

    asyncio.run(main())


def end_guard(state_dir: pathlib.Path) -> None:
    """Kill the guard of a directory, and whatever it holds with it."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
        os.kill(int((state_dir / "guard.lock").read_text()), 9)


async def ready(made: QemuHypervisor, uid: str) -> float:
    """Return after how many seconds the agent says that it is ready."""
    from blixard.base.errors import BlixardError

    loop = asyncio.get_running_loop()
    began_s = loop.time()
    while loop.time() - began_s < READY_S:
        with contextlib.suppress(BlixardError):
            if (await made.guest_status(uid)).ready:
                return loop.time() - began_s
        await asyncio.sleep(0.1)
    raise AssertionError("\n".join(made.console_tail(uid, 40)))
