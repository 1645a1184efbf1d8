from __future__ import annotations

import asyncio
import json
import pathlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from blixard.base.errors import BlixardError
from blixard.hypervisors.qemu import qmp

Answer = Callable[[dict[str, Any]], bytes]


def with_monitor(
    place: pathlib.Path, answer: Answer, scenario: Callable[[qmp.QmpClient], Awaitable[None]]
) -> list[dict[str, Any]]:
    """Run *scenario* with a client of a monitor that answers commands by *answer*."""
    events: list[dict[str, Any]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'{"QMP": {"version": {}, "capabilities": []}}\r\n')
        while line := await reader.readline():
            command = json.loads(line)
            done = reply(command, **{"return": {}})
            writer.write(done if command["execute"] == "qmp_capabilities" else answer(command))
        writer.close()

    async def main() -> None:
        path = str(place / "qmp.sock")
        server = await asyncio.start_unix_server(serve, path)
        client = qmp.QmpClient(path, events.append)
        try:
            await client.connect()
            async with asyncio.timeout(10):
                await scenario(client)
        finally:
            await client.close()
            server.close()
            await server.wait_closed()
            await asyncio.sleep(0.01)

    asyncio.run(main())
    return events


def reply(command: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"id": command["id"], **fields}).encode() + b"\n"


def test_answers_find_their_callers_in_any_order(tmp_path: pathlib.Path) -> None:
    held: list[dict[str, Any]] = []

    def answer(command: dict[str, Any]) -> bytes:
        held.append(command)
        if len(held) < 2:
            return b""
        return b"".join(reply(c, **{"return": c["execute"]}) for c in reversed(held))

    async def scenario(client: qmp.QmpClient) -> None:
        both = await asyncio.gather(client.execute("one"), client.execute("two"))
        assert both == ["one", "two"]

    with_monitor(tmp_path, answer, scenario)


def test_refused_command_raises_its_words(tmp_path: pathlib.Path) -> None:
    async def scenario(client: qmp.QmpClient) -> None:
        with pytest.raises(BlixardError, match="no such thing"):
            await client.execute("cont")

    with_monitor(tmp_path, lambda c: reply(c, error={"desc": "no such thing"}), scenario)


def test_events_come_between_answers(tmp_path: pathlib.Path) -> None:
    async def scenario(client: qmp.QmpClient) -> None:
        await client.execute("stop")

    event = b'{"event": "STOP", "data": {}}\n'
    events = with_monitor(tmp_path, lambda c: event + reply(c, **{"return": {}}), scenario)
    assert [e["event"] for e in events] == ["STOP"]


def test_silent_monitor_is_given_up(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(client: qmp.QmpClient) -> None:
        monkeypatch.setattr(qmp, "CALL_S", 0.05)
        with pytest.raises(BlixardError, match="TimeoutError"):
            await client.execute("cont")

    with_monitor(tmp_path, lambda _c: b"", scenario)


def test_nonsense_ends_the_connection(tmp_path: pathlib.Path) -> None:
    async def scenario(client: qmp.QmpClient) -> None:
        with pytest.raises(BlixardError, match="QMP closed"):
            await client.execute("cont")
        assert not client.connected

    with_monitor(tmp_path, lambda _c: b"[" * 100_000 + b"\n", scenario)
