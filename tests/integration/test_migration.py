"""A real guest moved to and fro between two hypervisors with guards of their own, over mutual TLS."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any

import guest_lab as lab
import pytest
from guest_lab import MemoryStream
from transport_nodes import Node, pair

from blixard.base.errors import BlixardError
from blixard.hypervisors import channel as c
from blixard.hypervisors.guard.client import GuardClient
from blixard.hypervisors.qemu import probe
from blixard.hypervisors.qemu.hypervisor import LEAVING, QemuHypervisor
from blixard.ports.hypervisor import MigrationFigures
from blixard.ports.transport import Stream

pytestmark = [
    pytest.mark.guest,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="building guests needs root"),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
]
STEP_S = 60.0
UID = "guest1"
# Counts in memory alone, over a connection that was made once: both end with the process.
COUNTER = """
import socket, threading, time
door = socket.create_server(("127.0.0.1", 7000))
inner = socket.socketpair()
count = 0
def serve():
    while True:
        client = door.accept()[0]
        client.sendall(b"%d" % count)
        client.close()
threading.Thread(target=serve).start()
near = socket.create_connection(door.getsockname()) and socket.create_server(("127.0.0.1", 7001))
asking = socket.create_connection(near.getsockname())
answering = near.accept()[0]
while True:
    asking.sendall(b"?")
    assert answering.recv(1) == b"?"
    count += 1
    time.sleep(0.01)
"""
ASK = """
import socket
print(socket.create_connection(("127.0.0.1", 7000)).makefile().read())
"""
Switch = Callable[[], Awaitable[None]]
UNCUT = 1 << 40


class Cut:
    """A stream that breaks after so many bytes."""

    def __init__(self, stream: Stream, after_bytes: int) -> None:
        self._stream = stream
        self._left = after_bytes
        self.receive = stream.receive
        self.close = stream.close

    async def send(self, frame: bytes) -> None:
        self._left -= len(frame)
        if self._left < 0:
            await self._stream.close()
        await self._stream.send(frame)


class Lab:
    """Two hosts; the guest runs on *here*."""

    def __init__(self, runner: str, hosts: list[QemuHypervisor], nodes: tuple[Node, Node]) -> None:
        self.runner = runner
        self.here, self.there = hosts
        self._nodes = {id(host): node for host, node in zip(hosts, nodes, strict=True)}
        self._arrival: asyncio.Future[None] | None = None
        for node in nodes:
            node.transport.on_stream("move", self._receive)

    async def _receive(self, _uid: str, _payload: bytes, stream: Stream) -> None:
        assert self._arrival is not None
        try:
            await self.there.receive_state(UID, stream)
            self._arrival.set_result(None)
        except BlixardError as error:
            self._arrival.set_exception(error)
        finally:
            # A caller that closes the stream cancels its handler.
            self._arrival.cancel()

    async def boot(self) -> None:
        await self.here.start_paused(lab.plan(self.runner, node="first"))
        await self.here.resume(UID)
        await lab.ready(self.here, UID)

    async def wait_there(self, **fields: object) -> None:
        """Start the process that takes the guest."""
        plan = lab.plan(self.runner, node="the-other-one", run=2, incoming=True, **fields)
        await self.there.start_paused(plan)

    async def send(
        self, *, live: bool, switch: Switch | None = None, cut: int = UNCUT
    ) -> MigrationFigures:
        """Send the guest from here to there; both ends have come to their end afterwards."""
        self._arrival = asyncio.get_running_loop().create_future()
        node, other = self._nodes[id(self.here)], self._nodes[id(self.there)]
        stream = await node.transport.open_stream(other.uid, "move", b"")
        try:
            return await self.here.send_state(
                UID, Cut(stream, cut), live=live, switch=switch or self._nothing
            )
        finally:
            await stream.close()
            await asyncio.gather(self._arrival, return_exceptions=True)

    async def _nothing(self) -> None:
        """The owner is another one now."""

    async def arrive(self) -> None:
        """The guest goes on there, and there is here from now on."""
        assert self._arrival is not None
        self._arrival.result()
        await self.there.resume(UID)
        await self.here.kill(UID)
        await self.here.forget(UID)
        self.here, self.there = self.there, self.here
        await lab.ready(self.here, UID)

    async def count(self) -> int:
        stream = MemoryStream()
        stream.said.put_nowait(None)
        await self.here.exec(UID, ["/usr/bin/python3", "-c", ASK], tty=False, stream=stream)
        return int(stream.of(c.CLIENT_STDOUT))

    async def moves_on(self, before: int) -> None:
        """The counter is the one that it was, and counts."""
        first = await self.count()
        assert first > before
        while await self.count() == first:
            await asyncio.sleep(0.05)
        assert (await self.here.guest_status(UID)).services == {"count": "running"}

    async def states(self) -> list[list[str]]:
        return [[i.state for i in await host.instances()] for host in (self.here, self.there)]

    async def clear(self) -> None:
        """What failed there leaves a process that has ended, and nothing else."""
        (left,) = await self.there.instances()
        assert (left.state, left.killed_by_guard) == ("exited", False)
        await self.there.forget(UID)


class Stage:
    """The loop that all of it lives in."""

    def __init__(self, loop: asyncio.Runner, made: Lab) -> None:
        self._loop = loop
        self.made = made

    def run(self, scenario: Callable[[Lab], Coroutine[Any, Any, None]]) -> None:
        self._loop.run(asyncio.wait_for(scenario(self.made), STEP_S))


@contextlib.asynccontextmanager
async def hosts(places: list[pathlib.Path], runner: str) -> AsyncIterator[Lab]:
    async with (
        pair() as nodes,
        lab.hypervisor(places[0]) as first,
        lab.hypervisor(places[1]) as second,
    ):
        made = Lab(runner, [first, second], nodes)
        await made.boot()
        yield made


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    base = lab.base_runner()
    counting: dict[str, object] = {
        "name": "count",
        "command": ["/usr/bin/python3", "-I", "-S", "-c", COUNTER],
    }
    runner = lab.make_runner(base, tmp_path_factory.mktemp("runner"), [counting])
    # Paths of sockets have 107 bytes: short names.
    places = [pathlib.Path(tempfile.mkdtemp(prefix="bx-")) for _ in range(2)]
    probe.probe(str(places[0]), str(base / "share/microvm/kernel"))
    shutil.copy(places[0] / probe.CACHE, places[1])
    with asyncio.Runner() as loop:
        world = hosts(places, runner)
        yield Stage(loop, loop.run(world.__aenter__()))
        loop.run(world.__aexit__(None, None, None))
    for place in places:
        shutil.rmtree(place)


@pytest.mark.parametrize("live", [False, True])
def test_guest_goes_on_where_it_arrives(stage: Stage, live: bool) -> None:
    async def scenario(made: Lab) -> None:
        before = await made.count()
        await made.wait_there()
        seen: list[list[list[str]]] = []

        async def switch() -> None:
            seen.append(await made.states())

        with pytest.raises(BlixardError, match="waits for the state"):
            await made.there.resume(UID)
        figures = await made.send(live=live, switch=switch)
        assert seen == [[["paused"], ["paused"]]]
        assert figures.bytes_sent > 10e6
        with pytest.raises(BlixardError, match="gone to another node"):
            await made.here.resume(UID)
        await made.arrive()
        await made.moves_on(before)

    stage.run(scenario)


@pytest.mark.parametrize("live", [False, True])
def test_guest_stays_if_the_stream_is_cut(stage: Stage, live: bool) -> None:
    async def scenario(made: Lab) -> None:
        before = await made.count()
        await made.wait_there()
        with pytest.raises(BlixardError, match="MIGRATION_FAILED"):
            await made.send(live=live, cut=5_000_000)
        await made.clear()
        await made.moves_on(before)

    stage.run(scenario)


@pytest.mark.parametrize("live", [False, True])
def test_guest_stands_still_if_the_switch_fails(stage: Stage, live: bool) -> None:
    async def scenario(made: Lab) -> None:
        await made.wait_there()
        before = await made.count()

        async def switch() -> None:
            raise BlixardError("OUTCOME_UNKNOWN", "nobody knows")

        with pytest.raises(BlixardError, match="OUTCOME_UNKNOWN"):
            await made.send(live=live, switch=switch)
        assert (await made.states())[0] == ["paused"]
        with pytest.raises(BlixardError, match="GUEST_UNREACHABLE"):
            await made.here.guest_status(UID)
        await made.clear()
        await made.here.resume(UID)
        await lab.ready(made.here, UID)
        await made.moves_on(before)

    stage.run(scenario)


def test_other_machine_is_refused_before_the_guest_stops(stage: Stage) -> None:
    async def scenario(made: Lab) -> None:
        before = await made.count()
        await made.wait_there(memory_mib=256)
        with pytest.raises(BlixardError, match="192M here, 256M there"):
            await made.send(live=False)
        await made.clear()
        await made.moves_on(before)

    stage.run(scenario)


def test_next_daemon_sees_a_guest_that_stopped_as_its_daemon_died(stage: Stage) -> None:
    async def scenario(made: Lab) -> None:
        before = await made.count()
        place = pathlib.Path(made.here._path(UID))
        (place / LEAVING).touch()
        # As QEMU does by itself before the switch-over: nobody was left to tell the guard.
        await made.here._of(UID).qmp.execute("stop")
        await made.here.close()
        name = f"test-{place.parent.name}"
        second = QemuHypervisor(str(place.parent), GuardClient(str(place.parent), name))
        (found,) = await second.instances()
        assert found.state == "paused"
        await second.resume(UID)
        await second.close()
        (place / LEAVING).unlink()
        await lab.ready(made.here, UID)
        await made.moves_on(before)

    stage.run(scenario)
