"""The fake hypervisor keeps what the port promises about moving a guest."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from blixard.base.errors import BlixardError
from blixard.hypervisors.fake.hypervisor import FakeHypervisor

from .test_fake import plan


class Pipe:
    """One end of a stream in memory."""

    def __init__(self, inbox: asyncio.Queue[bytes | None], outbox: asyncio.Queue[bytes | None]):
        self._inbox, self._outbox = inbox, outbox

    async def send(self, frame: bytes) -> None:
        await self._outbox.put(frame)

    async def receive(self) -> bytes | None:
        return await self._inbox.get()

    async def close(self) -> None:
        await self._outbox.put(None)


async def _two() -> tuple[FakeHypervisor, FakeHypervisor, Pipe, Pipe]:
    one, other = FakeHypervisor(), FakeHypervisor()
    await one.start_paused(plan())
    await one.resume("u1")
    one.memory["u1"] = b"before"
    await other.start_paused(msgspec.structs.replace(plan(), run=2, incoming=True))
    here: asyncio.Queue[bytes | None] = asyncio.Queue()
    there: asyncio.Queue[bytes | None] = asyncio.Queue()
    return one, other, Pipe(here, there), Pipe(there, here)


@pytest.mark.parametrize("live", [True, False])
def test_what_the_guest_had_in_mind_at_the_switch_arrives(live: bool) -> None:
    async def scenario() -> None:
        one, other, near, far = await _two()

        async def switch() -> None:
            (source,) = await one.instances()
            assert source.state == "paused"
            one.memory["u1"] = b"at the switch"

        receiving = asyncio.ensure_future(other.receive_state("u1", far))
        figures = await one.send_state("u1", near, live=live, switch=switch)
        await receiving
        assert other.memory["u1"] == b"at the switch"
        assert figures.bytes_sent == len(b"at the switch") + live * len(b"before")
        assert [p.state for p in (*await one.instances(), *await other.instances())] == [
            "paused", "paused",
        ]  # fmt: skip

    asyncio.run(scenario())


def test_a_switch_that_fails_leaves_it_paused_and_sends_nothing() -> None:
    async def scenario() -> None:
        one, other, near, far = await _two()

        async def switch() -> None:
            raise BlixardError("CONFLICT", "no")

        with pytest.raises(BlixardError, match="CONFLICT"):
            await one.send_state("u1", near, live=False, switch=switch)
        await near.close()
        with pytest.raises(BlixardError, match="MIGRATION_FAILED"):
            await other.receive_state("u1", far)
        assert (await one.instances())[0].state == "paused"
        await one.resume("u1")

    asyncio.run(scenario())


def test_only_a_process_that_waits_takes_a_state() -> None:
    async def scenario() -> None:
        one, _other, near, far = await _two()
        with pytest.raises(BlixardError, match="does not wait"):
            await one.receive_state("u1", far)
        await one.pause("u1")
        with pytest.raises(BlixardError, match="does not run"):
            await one.send_state("u1", near, live=True, switch=near.close)

    asyncio.run(scenario())
