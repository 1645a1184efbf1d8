from __future__ import annotations

import asyncio
import random
from typing import Any

from harness import Node, World, app, load, path

from blixard.api import events
from blixard.api.events import sse_event


def test_every_line_break_begins_a_data_line():
    event = sse_event("x", "a\nb\r\nc\rd", event_id="7")
    assert event == b"id: 7\nevent: x\ndata: a\ndata: b\ndata: c\ndata: d\n\n"


async def _take(chunks: Any, wanted: bytes) -> bytes:
    seen = b""
    async with asyncio.timeout(5):
        while wanted not in seen:
            seen += await anext(chunks)
    return seen


def test_watch_resumes_after_a_revision():
    async def main() -> None:
        node = await Node(World(), "n1").prepare()
        await node.call("PUT", path("a"), app("a"))
        revision = node.machine.store.revision
        await node.call("PUT", path("b"), app("b"))
        response = await node.call("GET", "/v1/apps?watch=true", last_event_id=str(revision))
        seen = await _take(response.chunks, b"id: ")
        assert b'"name":"b"' in seen
        assert b'"name":"a"' not in seen
        await response.chunks.aclose()  # type: ignore[union-attr]

    asyncio.run(main())


def test_revision_that_was_never_reached_is_of_another_history():
    async def main() -> None:
        node = await Node(World(), "n1").prepare()
        now = node.machine.store.revision
        refused = load(await node.call("GET", f"/v1/apps?watch=true&revision={now + 1}"))
        assert refused["code"] == "REVISION_COMPACTED"
        assert f"the state is at {now}" in refused["detail"]
        behind = await node.call("GET", f"/v1/apps?watch=true&stale=true&revision={now + 1}")
        assert behind.status == 200
        await behind.chunks.aclose()  # type: ignore[union-attr]

    asyncio.run(main())


def test_only_the_last_change_of_a_revision_has_an_id():
    async def main() -> None:
        node = await Node(World(), "n1").prepare()
        response = await node.call("GET", "/v1/apps?watch=true&revision=0")
        await node.call("POST", "/v1/apply", [app("a"), app("b")])
        seen = await _take(response.chunks, b"id: ")
        assert seen.count(b"event: added") == 2
        assert seen.count(b"id: ") == 1
        await response.chunks.aclose()  # type: ignore[union-attr]

    asyncio.run(main())


def test_quiet_watch_sends_heartbeats(monkeypatch):
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.01)

    async def main() -> None:
        node = await Node(World(), "n1").prepare()
        response = await node.call("GET", "/v1/apps?watch=true&revision=1")
        await _take(response.chunks, events.HEARTBEAT)
        await response.chunks.aclose()  # type: ignore[union-attr]

    asyncio.run(main())


def test_something_is_due_at_the_moment_that_was_waited_for():
    """The sum is rounded: less than a second has passed at the moment a second later."""
    begun_s = 31.874609490947325
    assert (begun_s + 1.0) - begun_s < 1.0
    draw = random.Random(7)
    for now_s in (begun_s, *(draw.uniform(0.0, 1e6) for _ in range(1000))):
        pulse = events.Pulse(now_s)
        for _ in range(25):
            at_s = pulse.next_s
            checks, beats = pulse.checks(at_s), pulse.beats(at_s)
            assert checks or beats
            if beats:
                pulse.sent(at_s)
            assert pulse.next_s > at_s


def test_slow_watcher_is_cut_with_an_error():
    async def main() -> None:
        node = await Node(World(), "n1").prepare()
        response = await node.call("GET", "/v1/apps?watch=true&revision=1")
        await anext(response.chunks)  # type: ignore[arg-type]
        for n in range(2100):
            await node.call("PUT", path(), app(size=n))
        seen = await _take(response.chunks, b"event: error")
        assert b"REVISION_COMPACTED" in seen

    asyncio.run(main())
