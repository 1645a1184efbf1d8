"""How long a guest that moves stands still, beside QEMU's own migration in the same run.

One emulated guest of 256 MiB, of which ``--used`` MiB hold data that is not zero, goes to and fro
between two QEMU processes, each under a guard. ``ours`` sends its memory as daemons do: through
their sockets, over gRPC and mutual TLS, checked end to end (both ends live in one process here, on
one core). ``raw`` lets the same two processes talk to each other over TCP on loopback, in clear,
told by QMP alone. Both stop the guest first. Rounds alternate. ``still`` is from the order to stop
until the guest was let go on at the target, ``total`` from the first order on, in milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import pathlib
import shutil
import socket
import statistics
import sys
import tempfile
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests" / "integration"))

import guest_lab as lab
from transport_nodes import pair

from blixard.hypervisors.qemu import probe
from blixard.hypervisors.qemu.hypervisor import QemuHypervisor
from blixard.hypervisors.qemu.migration_monitor import DOWNTIME_MS, migration_status, set_up
from blixard.ports.transport import Stream

UID = "guest1"
MEMORY_MIB = 256
ROUND_S = 60.0
FILL = "import time; kept = bytes(range(1, 256)) * ({used} * 4113); print('filled', flush=True); "
FILL += "time.sleep(10**6)"


class Stage:
    """Two hosts; the guest runs on the first."""

    def __init__(self, runner: str, hosts: list[QemuHypervisor], nodes: Any) -> None:
        self.runner = runner
        self.hosts = hosts
        self.nodes = nodes
        self.received: asyncio.Future[None] | None = None
        for node in nodes:
            node.transport.on_stream("move", self._receive)

    async def _receive(self, _uid: str, _payload: bytes, stream: Stream) -> None:
        assert self.received is not None
        await self.hosts[1].receive_state(UID, stream)
        self.received.set_result(None)

    async def boot(self) -> None:
        here = self.hosts[0]
        await here.start_paused(lab.plan(self.runner, memory_mib=MEMORY_MIB))
        await here.resume(UID)
        await lab.ready(here, UID)
        while not any("filled" in line for line in here.console_tail(UID, 50)):
            await asyncio.sleep(0.1)

    async def round(self, way: str) -> dict[str, float]:
        """Move the guest once; return milliseconds, and the MiB that were sent."""
        here, there = self.hosts
        plan = lab.plan(self.runner, memory_mib=MEMORY_MIB, incoming=True)
        await there.start_paused(plan)
        async with asyncio.timeout(ROUND_S):
            figures = await (self._ours() if way == "ours" else self._raw())
            await here.kill(UID)
            await here.forget(UID)
            await lab.ready(there, UID)
        self.hosts.reverse()
        self.nodes = self.nodes[::-1]
        return figures

    async def _ours(self) -> dict[str, float]:
        here, there = self.hosts
        self.received = asyncio.get_running_loop().create_future()
        began_s = time.monotonic()
        stream = await self.nodes[0].transport.open_stream(self.nodes[1].uid, "move", b"")
        sent = await here.send_state(UID, stream, live=False, switch=_nothing)
        sent_s = time.monotonic()
        await self.received
        await there.resume(UID)
        end_s = time.monotonic()
        return {
            "still": sent.downtime_ms + (end_s - sent_s) * 1000,
            "total": (end_s - began_s) * 1000,
            "mib": sent.bytes_sent / 2**20,
        }

    async def _raw(self) -> dict[str, float]:
        source, target = [(await host._connect(UID)).qmp for host in self.hosts]
        with socket.create_server(("127.0.0.1", 0)) as door:
            uri = f"tcp:127.0.0.1:{door.getsockname()[1]}"
        began_s = time.monotonic()
        for qmp in (source, target):
            await set_up(qmp)
        await target.execute("migrate-incoming", uri=uri)
        stop_s = time.monotonic()
        await source.execute("stop")
        await source.execute("migrate", uri=uri)
        for qmp in (source, target):
            while (status := await migration_status(qmp)) != "completed":
                if status == "failed":
                    raise RuntimeError("QEMU's own migration failed")
                await asyncio.sleep(0.001)
        await target.execute("cont")
        end_s = time.monotonic()
        await self.hosts[1]._guard.call("mark", uid=UID, state="running")
        ram = (await source.execute("query-migrate"))["ram"]
        return {
            "still": (end_s - stop_s) * 1000,
            "total": (end_s - began_s) * 1000,
            "mib": ram["transferred"] / 2**20,
        }


async def _nothing() -> None:
    """Nobody else owns it."""


async def measure(runner: str, rounds: int, places: list[pathlib.Path]) -> dict[str, Any]:
    """Return all figures of each way."""
    found: dict[str, list[dict[str, float]]] = {"ours": [], "raw": []}
    async with (
        pair() as nodes,
        lab.hypervisor(places[0]) as first,
        lab.hypervisor(places[1]) as second,
    ):
        stage = Stage(runner, [first, second], nodes)
        await stage.boot()
        for number in range(2 * rounds):
            way = "ours" if number % 4 in (0, 3) else "raw"
            found[way].append(await stage.round(way))
            print(f"  {way} {found[way][-1]}", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6, help="moves of each way")
    parser.add_argument("--used", type=int, default=100, help="MiB of data in the guest")
    given = parser.parse_args()
    base = lab.base_runner()
    with contextlib.ExitStack() as stack:
        place = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        command = ["/usr/bin/python3", "-I", "-S", "-c", FILL.format(used=given.used)]
        runner = lab.make_runner(base, place, [{"name": "fill", "command": command}])
        places = [pathlib.Path(tempfile.mkdtemp(prefix="bx-")) for _ in range(2)]
        for one in places:
            stack.callback(shutil.rmtree, one)
        probe.probe(str(places[0]), str(base / "share/microvm/kernel"))
        shutil.copy(places[0] / probe.CACHE, places[1])
        found = asyncio.run(measure(runner, given.rounds, places))
    figures: dict[str, float] = {}
    print(f"{'way':>6} {'still p50':>10} {'max':>8} {'total p50':>10} {'max':>8} {'sent MiB':>9}")
    for way, rows in found.items():
        still, total = [r["still"] for r in rows], [r["total"] for r in rows]
        mib = statistics.median(r["mib"] for r in rows)
        figures[f"{way}_still_ms"] = round(statistics.median(still))
        figures[f"{way}_total_ms"] = round(statistics.median(total))
        print(
            f"{way:>6} {statistics.median(still):10.0f} {max(still):8.0f} "
            f"{statistics.median(total):10.0f} {max(total):8.0f} {mib:9.1f}"
        )
    for name in ("still", "total"):
        ratio = figures[f"ours_{name}_ms"] / figures[f"raw_{name}_ms"]
        figures[f"{name}_ratio"] = round(ratio, 2)
    bars = {"ours_still_ms": f"< 1000 (QEMU's own limit for running guests: {DOWNTIME_MS})"}
    ok = figures["ours_still_ms"] < 1000
    print(json.dumps({"bench": "migration", "ok": ok, "figures": figures, "bars": bars}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
