"""A client's stream and the one to the owning node, joined."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from blixard.hypervisors.channel import CLIENT_STDIN
from blixard.node.streams import relay


class Side:
    """One stream: what comes from it is queued, what goes to it is kept."""

    def __init__(self) -> None:
        self.coming: asyncio.Queue[bytes | ConnectionError | None] = asyncio.Queue()
        self.sent: list[bytes] = []
        self.closed = asyncio.Event()

    async def send(self, frame: bytes) -> None:
        self.sent.append(frame)

    async def receive(self) -> bytes | None:
        frame = await self.coming.get()
        if isinstance(frame, ConnectionError):
            raise frame
        return frame

    async def close(self) -> None:
        self.closed.set()
        self.coming.put_nowait(None)


class Env:
    def spawn(self, coroutine: Any, *, name: str) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(coroutine, name=name)

    def log(self, *_: object, **__: object) -> None:
        return None


async def joined(op: str, *, client_says: bytes | ConnectionError | None) -> tuple[Side, Side]:
    client, remote = Side(), Side()
    client.coming.put_nowait(client_says)
    running = asyncio.ensure_future(relay(Env(), client, remote, op))  # type: ignore[arg-type]
    for _ in range(5):
        await asyncio.sleep(0)
    if not remote.closed.is_set():
        for frame in (b"\x01late", None):
            remote.coming.put_nowait(frame)
    await running
    return client, remote


@pytest.mark.parametrize(("op", "told"), [("exec", [bytes((CLIENT_STDIN,))]), ("logs", [])])
def test_output_after_the_end_of_input_arrives(op: str, told: list[bytes]) -> None:
    client, remote = asyncio.run(joined(op, client_says=None))
    assert client.sent == [b"\x01late"]
    assert remote.sent == told


def test_console_ends_with_its_client() -> None:
    client, _ = asyncio.run(joined("console", client_says=None))
    assert client.sent == []


@pytest.mark.parametrize("op", ["exec", "logs", "console"])
def test_client_that_left_ends_the_remote(op: str) -> None:
    client, remote = asyncio.run(joined(op, client_says=ConnectionError("gone")))
    assert remote.closed.is_set()
    assert client.sent == []
