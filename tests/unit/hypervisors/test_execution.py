from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from blixard.hypervisors import channel as c
from blixard.hypervisors.qemu.execution import Execution, terminal_size

from .streams import MemoryStream

Sent = list[tuple[int, bytes]]


def run(scenario: Callable[[Execution, MemoryStream, Sent], Awaitable[None]]) -> None:
    async def main() -> None:
        sent: Sent = []
        execution = Execution(lambda kind, payload: sent.append((kind, payload)))
        async with asyncio.timeout(5):
            await scenario(execution, MemoryStream(), sent)

    asyncio.run(main())


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_output_and_exit_code_reach_the_client() -> None:
    async def scenario(execution: Execution, stream: MemoryStream, _sent: Sent) -> None:
        execution.take(c.STDOUT, b"out")
        execution.take(c.STDERR, b"err")
        execution.take(c.EXIT, b"3")
        await execution.join(stream)
        assert stream.told == [b"\x01out", b"\x02err", b"\x033"]

    run(scenario)


def test_end_of_client_input_is_not_the_end() -> None:
    async def scenario(execution: Execution, stream: MemoryStream, sent: Sent) -> None:
        joined = asyncio.ensure_future(execution.join(stream))
        stream.said.put_nowait(None)
        await settle()
        assert sent == [(c.STDIN, b"")]
        execution.take(c.STDOUT, b"later")
        execution.take(c.EXIT, b"0")
        await joined
        assert stream.told == [b"\x01later", b"\x030"]

    run(scenario)


def test_client_that_leaves_ends_it() -> None:
    async def scenario(execution: Execution, stream: MemoryStream, _sent: Sent) -> None:
        stream.said.put_nowait(ConnectionError("left"))
        await execution.join(stream)
        assert stream.told == [b"\x05left"]

    run(scenario)


def test_input_stops_at_the_window() -> None:
    async def scenario(execution: Execution, stream: MemoryStream, sent: Sent) -> None:
        joined = asyncio.ensure_future(execution.join(stream))
        stream.said.put_nowait(b"\x00" + bytes(3 * c.WINDOW_BYTES))
        await settle()
        under_way = sum(c.cost(payload) for _, payload in sent)
        assert c.WINDOW_BYTES // 2 < under_way <= c.WINDOW_BYTES
        execution.take(c.WINDOW, str(c.WINDOW_BYTES // 2).encode())
        await settle()
        assert sum(c.cost(payload) for _, payload in sent) > under_way
        execution.take(c.EXIT, b"0")
        await joined

    run(scenario)


def test_window_is_given_back_as_the_client_reads() -> None:
    async def scenario(execution: Execution, stream: MemoryStream, sent: Sent) -> None:
        stream.reads.clear()
        joined = asyncio.ensure_future(execution.join(stream))
        for _ in range(10):
            execution.take(c.STDOUT, bytes(16_000))
        await settle()
        assert sent == []
        stream.reads.set()
        execution.take(c.EXIT, b"0")
        await joined
        assert sum(int(p) for k, p in sent if k == c.WINDOW) > 2 * c.WINDOW_BYTES // 4

    run(scenario)


def test_guest_that_ignores_the_window_is_cut() -> None:
    async def scenario(execution: Execution, stream: MemoryStream, _sent: Sent) -> None:
        for _ in range(1000):
            execution.take(c.STDOUT, bytes(c.PAYLOAD_BYTES_MAX))
        assert execution._queue.qsize() < 1010
        await execution.join(stream)
        assert stream.told[-1] == b"\x05the guest sends more than it may"

    run(scenario)


@pytest.mark.parametrize("grant", [b"-5", b"", b"x", b"9" * 5000, "²".encode()])
def test_window_that_is_no_number_is_ignored(grant: bytes) -> None:
    execution = Execution(lambda _kind, _payload: None)
    execution.take(c.WINDOW, grant)
    assert execution._credit == c.WINDOW_BYTES


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (b"80x24", b"80x24"),
        (b'{"rows": 24, "columns": 80}', b"80x24"),
        (b"80", b""),
        (b"-1x5", b""),
        (b"{", b""),
        (b"{}", b""),
        (b"ax\xff", b""),
        (b"99999x1", b""),
    ],
)
def test_terminal_size_in_either_form(said: bytes, meant: bytes) -> None:
    assert terminal_size(said) == meant
