"""Logs and consoles as clients see them: who leaves, and who comes second."""

from __future__ import annotations

import asyncio
import pathlib

import pytest

from blixard.base.errors import BlixardError
from blixard.hypervisors.qemu.streams import Consoles, send_log
from tests.unit.hypervisors.streams import MemoryStream


async def told(stream: MemoryStream, text: bytes) -> None:
    while text not in b"".join(stream.told):
        await asyncio.sleep(0.01)


def test_following_ends_when_the_client_leaves(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(b"old\n")

    async def body() -> None:
        stream = MemoryStream()
        following = asyncio.ensure_future(send_log(str(log), stream, tail=5, follow=True))
        await told(stream, b"old")
        stream.said.put_nowait(ConnectionError("the client left"))
        async with asyncio.timeout(20):
            await following

    asyncio.run(body())


def test_following_goes_on_after_the_client_said_all(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(b"old\n")

    async def body() -> None:
        stream = MemoryStream()
        stream.said.put_nowait(None)
        following = asyncio.ensure_future(send_log(str(log), stream, tail=5, follow=True))
        await told(stream, b"old")
        with log.open("ab") as file:
            file.write(b"new\n")
        async with asyncio.timeout(20):
            await told(stream, b"new")
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    asyncio.run(body())


def test_second_client_of_a_console_is_refused_until_the_first_leaves(
    tmp_path: pathlib.Path,
) -> None:
    path = str(tmp_path / "console.sock")

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"login: ")
        await reader.read()
        writer.close()

    async def body() -> None:
        consoles = Consoles()
        async with await asyncio.start_unix_server(greet, path):
            for _ in range(2):
                first = MemoryStream()
                joined = asyncio.ensure_future(consoles.join("guest1", path, first))
                await told(first, b"login: ")
                with pytest.raises(BlixardError, match=r"joined it \d+ s ago") as refused:
                    await consoles.join("guest1", path, MemoryStream())
                assert refused.value.code == "CONFLICT"
                first.said.put_nowait(None)
                await joined

    asyncio.run(body())
