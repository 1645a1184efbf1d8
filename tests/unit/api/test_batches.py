from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.api.harness import FakeEnvironment, World

from blixard.api import batches
from blixard.api.batches import METHOD, Batches
from blixard.base.errors import BlixardError


class Pair:
    """One node that asks and one that answers; ``calls`` are the sizes of the calls."""

    def __init__(self, answer: Any) -> None:
        self.world = World()
        self.near = Batches(FakeEnvironment(self.world, "near"))  # type: ignore[arg-type]
        self.far = Batches(FakeEnvironment(self.world, "far"))  # type: ignore[arg-type]
        self.calls: list[int] = []
        self.answer = answer
        self.world.handlers["far", METHOD] = self.handle

    async def handle(self, _peer: str, payload: bytes) -> bytes:
        self.calls.append(len(batches._REQUESTS.decode(payload)))
        return await self.far.answer(payload, self.answer)

    async def ask(self, *payloads: bytes) -> list[Any]:
        asked = [self.near.request("far", data, timeout_s=1) for data in payloads]
        return await asyncio.gather(*asked, return_exceptions=True)


async def echo(data: bytes) -> bytes:
    if data == b"bad":
        raise BlixardError("CONFLICT", "not this one")
    if data == b"worse":
        raise ValueError("surprise")
    return b"got " + data


def test_requests_of_one_moment_share_a_call() -> None:
    async def main() -> None:
        pair = Pair(echo)
        assert await pair.ask(b"a", b"b", b"c") == [b"got a", b"got b", b"got c"]
        assert pair.calls == [3]

    asyncio.run(main())


def test_each_request_has_its_own_error() -> None:
    async def main() -> None:
        good, bad, worse = await Pair(echo).ask(b"a", b"bad", b"worse")
        assert (good, bad.code, worse.code) == (b"got a", "CONFLICT", "INTERNAL")

    asyncio.run(main())


def test_a_dead_node_fails_all_requests() -> None:
    async def main() -> None:
        pair = Pair(echo)
        pair.world.cut.add("far")
        assert [error.code for error in await pair.ask(b"a", b"b")] == ["UNREACHABLE"] * 2
        pair.world.cut.clear()
        assert await pair.ask(b"c") == [b"got c"]

    asyncio.run(main())


def test_a_slow_request_has_its_own_deadline() -> None:
    async def stuck(data: bytes) -> bytes:
        await asyncio.Event().wait()
        return data

    async def main() -> None:
        pair = Pair(stuck)
        with pytest.raises(BlixardError) as caught:
            await pair.near.request("far", b"a", timeout_s=0.01)
        assert caught.value.code == "TIMEOUT"

    asyncio.run(main())


def test_a_call_has_a_limited_size() -> None:
    async def main() -> None:
        pair = Pair(echo)
        count = batches.REQUESTS_MAX + 3
        assert len(await pair.ask(*[b"x"] * count)) == count
        assert pair.calls == [batches.REQUESTS_MAX, 3]

    asyncio.run(main())
