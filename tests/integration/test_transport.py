from __future__ import annotations

import asyncio

import pytest
from transport_nodes import (
    AUTHORITY,
    DAY_MS,
    Node,
    TestAuthority,
    echo,
    now_ms,
    pair,
    run,
    send_until_received,
    until,
)

from blixard.base.errors import BlixardError
from blixard.ports.transport import Stream
from blixard.runtime.transport import TransportConfig
from blixard.security.tls import TlsIdentity


def test_messages_arrive_in_order() -> None:
    async def test() -> None:
        async with pair() as (a, b):
            for number in range(3000):
                assert a.transport.send("B", "raft", b"%d" % number)
            await until(lambda: len(b.received) == 3000)
            assert b.received == [("A", b"%d" % number) for number in range(3000)]
            await until(lambda: a.transport.statistics()[0].messages_sent == 3000)
            assert a.transport.statistics()[0].connected

    run(test)


def test_request_answers_and_names_the_caller() -> None:
    async def test() -> None:
        async with pair() as (a, b):
            b.transport.on_request("echo", echo)
            assert await a.transport.request("B", "echo", b"", timeout_s=5) == b"A:"
            payload = b"x" * 1_000_000
            assert await a.transport.request("B", "echo", payload, timeout_s=5) == b"A:" + payload

    run(test)


def test_errors_of_handlers_travel() -> None:
    async def refuse(_uid: str, _payload: bytes) -> bytes:
        raise BlixardError("CONFLICT", "seen before", hint="read", details={"revision": 7})

    async def broken(_uid: str, _payload: bytes) -> bytes:
        raise ZeroDivisionError

    async def test() -> None:
        async with pair() as (a, b):
            b.transport.on_request("refuse", refuse)
            b.transport.on_request("broken", broken)
            with pytest.raises(BlixardError) as caught:
                await a.transport.request("B", "refuse", b"", timeout_s=5)
            error = caught.value
            assert (error.code, error.message, error.hint) == ("CONFLICT", "seen before", "read")
            assert error.details == {"revision": 7}
            for method, code in (("broken", "INTERNAL"), ("absent", "METHOD_NOT_ALLOWED")):
                assert await _code(a, method) == code

    run(test)


async def _code(caller: Node, method: str, *, uid: str = "B", timeout_s: float = 5) -> str:
    with pytest.raises(BlixardError) as caught:
        await caller.transport.request(uid, method, b"", timeout_s=timeout_s)
    return caught.value.code


def test_slow_request_times_out_and_is_cancelled() -> None:
    cancelled: list[bool] = []

    async def slow(_uid: str, _payload: bytes) -> bytes:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        return b""

    async def test() -> None:
        async with pair() as (a, b):
            b.transport.on_request("slow", slow)
            assert await _code(a, "slow", timeout_s=0.3) == "TIMEOUT"
            await until(lambda: cancelled)

    run(test)


def test_unknown_and_absent_peers_are_unreachable() -> None:
    async def test() -> None:
        async with pair() as (a, b):
            assert await _code(a, "echo", uid="C") == "UNREACHABLE"
            assert not a.transport.send("C", "raft", b"x")
            await b.transport.stop()
            assert await _code(a, "echo", timeout_s=3) == "UNREACHABLE"
            with pytest.raises(BlixardError) as caught:
                await a.transport.open_stream("B", "logs", b"")
            assert caught.value.code == "UNREACHABLE"

    run(test)


def test_messages_flow_again_after_restart() -> None:
    async def test() -> None:
        a, b = await Node("A").start(), await Node("B").start()
        a.knows(b)
        await send_until_received(a, b, b"one")
        await b.stop()
        await until(lambda: not a.transport.statistics()[0].connected)
        a.transport.send("B", "raft", b"lost")
        await until(lambda: a.transport.statistics()[0].messages_dropped > 0)
        again = await Node("B").start(b.port)
        await send_until_received(a, again, b"two")
        again.transport.on_request("echo", echo)
        assert await a.transport.request("B", "echo", b"", timeout_s=5) == b"A:"
        assert ("A", b"lost") not in again.received
        await a.stop()
        await again.stop()

    run(test)


def test_new_address_replaces_the_connection() -> None:
    async def test() -> None:
        async with pair() as (a, b):
            await send_until_received(a, b, b"old place")
            moved = await Node("B").start()
            a.knows(moved)
            await send_until_received(a, moved, b"new place")
            a.transport.remove_peer("B")
            assert not a.transport.send("B", "raft", b"x")
            await moved.stop()

    run(test)


def test_full_queue_refuses_and_counts() -> None:
    async def test() -> None:
        small = TransportConfig(queue_messages_max=10, queue_bytes_max=1000)
        a = await Node("A", config=small).start()
        a.transport.set_peer("B", "127.0.0.1:9")
        assert a.transport.send("B", "raft", b"x" * 900)
        assert not a.transport.send("B", "raft", b"x" * 101)
        assert all(a.transport.send("B", "raft", b"x") for _ in range(9))
        assert not a.transport.send("B", "raft", b"x")
        assert a.transport.statistics()[0].messages_dropped == 2
        await a.stop()

    run(test)


def test_oversized_payloads_are_refused() -> None:
    async def test() -> None:
        small = TransportConfig(message_bytes_max=10_000, backoff_max_s=0.2)
        async with pair(config=small) as (a, b):
            b.transport.on_request("echo", echo)
            with pytest.raises(BlixardError) as caught:
                await a.transport.request("B", "echo", b"x" * 20_000, timeout_s=5)
            assert caught.value.code == "TOO_LARGE"
            a.transport.send("B", "raft", b"x" * 20_000)
            await send_until_received(a, b, b"still here")
            assert all(len(data) < 20_000 for _uid, data in b.received)
            assert not b.transport.send("A", "raft", b"x" * 10_001)
            with pytest.raises(BlixardError) as caught:
                await b.transport.request("A", "echo", b"x" * 10_001, timeout_s=5)
            assert caught.value.code == "TOO_LARGE"

    run(test)


async def _upper(_uid: str, payload: bytes, stream: Stream) -> None:
    await stream.send(payload)
    while (frame := await stream.receive()) is not None:
        if frame == b"fail":
            raise BlixardError("NOT_FOUND", "no such thing")
        if frame == b"end":
            return
        await stream.send(frame.upper())


def test_stream_carries_frames_both_ways() -> None:
    async def test() -> None:
        async with pair() as (a, b):
            b.transport.on_stream("upper", _upper)
            stream = await a.transport.open_stream("B", "upper", b"hello")
            assert await stream.receive() == b"hello"
            for frame in (b"a", b"", b"b" * 100_000):
                await stream.send(frame)
                assert await stream.receive() == frame.upper()
            await stream.send(b"end")
            assert await stream.receive() is None
            await stream.close()

    run(test)


def test_stream_errors_reach_the_caller() -> None:
    async def test() -> None:
        async with pair() as (a, b):
            b.transport.on_stream("upper", _upper)
            stream = await a.transport.open_stream("B", "upper", b"")
            await stream.receive()
            await stream.send(b"fail")
            with pytest.raises(BlixardError) as caught:
                await stream.receive()
            assert caught.value.code == "NOT_FOUND"
            with pytest.raises(BlixardError) as caught:
                await a.transport.open_stream("B", "absent", b"")
            assert caught.value.code == "METHOD_NOT_ALLOWED"

    run(test)


def test_handler_ends_when_caller_goes() -> None:
    ended: list[str] = []

    async def wait(_uid: str, _payload: bytes, stream: Stream) -> None:
        try:
            while await stream.receive() is not None:
                pass
        finally:
            ended.append("yes")

    async def test() -> None:
        async with pair() as (a, b):
            b.transport.on_stream("wait", wait)
            stream = await a.transport.open_stream("B", "wait", b"")
            await stream.close()
            with pytest.raises(ConnectionError):
                await stream.send(b"x")
            assert await stream.receive() is None
            await until(lambda: ended)

    run(test)


def test_revoked_peer_is_cut_everywhere() -> None:
    async def test() -> None:
        async with pair() as (a, b):
            b.transport.on_stream("upper", _upper)
            b.transport.on_request("echo", echo)
            await send_until_received(a, b, b"before")
            stream = await a.transport.open_stream("B", "upper", b"")
            await stream.receive()
            b.refused["A"] = BlixardError("NODE_REMOVED", "A was removed")
            assert b.transport.recheck() == 2
            with pytest.raises(BlixardError) as caught:
                await stream.receive()
            assert caught.value.code == "NODE_REMOVED"
            assert await _code(a, "echo") == "NODE_REMOVED"
            with pytest.raises(BlixardError):
                await a.transport.open_stream("B", "upper", b"")
            await until(lambda: not a.transport.statistics()[0].connected)
            count = len(b.received)
            a.transport.send("B", "raft", b"after")
            await until(lambda: "NODE_REMOVED" in a.transport.statistics()[0].last_error)
            assert len(b.received) == count

    run(test)


def test_forbidden_channel_is_dropped_alone() -> None:
    async def test() -> None:
        async with pair() as (a, b):
            other: list[bytes] = []
            b.transport.on_message("gossip", lambda _uid, data: other.append(data))
            b.refused["raft"] = BlixardError("FORBIDDEN", "no voter")
            for _ in range(3):
                a.transport.send("B", "raft", b"x")
                a.transport.send("B", "gossip", b"y")
            await until(lambda: len(other) == 3)
            assert b.received == []

    run(test)


def test_certificate_that_ends_ends_the_streams() -> None:
    async def test() -> None:
        clock = [now_ms()]
        async with pair(at_ms=lambda: clock[0]) as (a, b):
            b.transport.on_request("echo", echo)
            await send_until_received(a, b, b"before")
            clock[0] += 2 * DAY_MS
            await until(lambda: not a.transport.statistics()[0].connected)
            assert await _code(a, "echo") == "UNAUTHENTICATED"

    run(test)


@pytest.mark.parametrize("who", ["other authority", "expired", "user", "other name"])
def test_impostor_as_client_is_refused(who: str) -> None:
    identities = {
        "other authority": TlsIdentity(
            chain_pem=(foreign := TestAuthority().node("A")).chain_pem,
            key_pem=foreign.key_pem,
            roots_pem=AUTHORITY.root.certificate_pem,
        ),
        "expired": AUTHORITY.node("A", at_ms=now_ms() - 2 * DAY_MS),
        "user": AUTHORITY.user("A"),
        "other name": AUTHORITY.node("M"),
    }

    async def test() -> None:
        b = await Node("B").start()
        b.transport.on_request("echo", echo)
        a = Node("A", identities[who])
        a.knows(b)
        if who == "other name":
            assert await a.transport.request("B", "echo", b"", timeout_s=5) == b"M:"
        else:
            expected = {"user": "UNAUTHENTICATED"}.get(who, "UNREACHABLE")
            assert await _code(a, "echo", timeout_s=3) == expected
            a.transport.send("B", "raft", b"x")
            await until(lambda: a.transport.statistics()[0].messages_dropped > 0 or b.received)
            assert b.received == []
        await a.stop()
        await b.stop()

    run(test)


@pytest.mark.parametrize("who", ["other authority", "expired", "user", "other name"])
def test_impostor_as_server_is_refused(who: str) -> None:
    identities = {
        "other authority": TestAuthority().node("B"),
        "expired": AUTHORITY.node("B", at_ms=now_ms() - 2 * DAY_MS),
        "user": AUTHORITY.user("B"),
        "other name": AUTHORITY.node("M"),
    }

    async def test() -> None:
        a, b = await Node("A").start(), await Node("B", identities[who]).start()
        b.transport.on_request("echo", echo)
        a.knows(b)
        assert await _code(a, "echo", timeout_s=3) == "UNREACHABLE"
        await a.stop()
        await b.stop()

    run(test)


def test_renewed_certificates_keep_everything_going() -> None:
    async def test() -> None:
        epochs: list[int] = []
        async with pair() as (a, b):
            authorize = b._authorize

            def recording(uid: str, epoch: int, method: str) -> BlixardError | None:
                epochs.append(epoch)
                return authorize(uid, epoch, method)

            b.transport._service._check._authorize = recording
            b.transport.on_request("echo", echo)
            await send_until_received(a, b, b"old")
            a.tls.reload(AUTHORITY.node("A", epoch=2))
            b.tls.reload(AUTHORITY.node("B", epoch=2))
            await send_until_received(a, b, b"new")
            assert await a.transport.request("B", "echo", b"", timeout_s=5) == b"A:"
            assert epochs[-1] == 2
            assert a.transport.statistics()[0].messages_dropped == 0

    run(test)


def test_removed_peer_ends_calls_and_streams() -> None:
    async def slow(_uid: str, _payload: bytes) -> bytes:
        await asyncio.sleep(60)
        return b""

    async def test() -> None:
        async with pair() as (a, b):
            b.transport.on_request("slow", slow)
            b.transport.on_stream("upper", _upper)
            stream = await a.transport.open_stream("B", "upper", b"")
            await stream.receive()
            call = asyncio.ensure_future(_code(a, "slow", timeout_s=50))
            reading = asyncio.ensure_future(stream.receive())
            await asyncio.sleep(0.05)
            a.transport.remove_peer("B")
            assert await call == "UNREACHABLE"
            with pytest.raises(ConnectionError):
                await reading

    run(test)


def test_link_outlives_its_drained_channel() -> None:
    async def test() -> None:
        config = TransportConfig(backoff_max_s=0.2, drain_s=0.05)
        a, b = await Node("A", config=config).start(), await Node("B").start()
        b.transport.on_request("echo", echo)
        a.knows(b)
        for number in range(3):
            a.tls.reload(AUTHORITY.node("A", epoch=number + 2))
            await send_until_received(a, b, b"%d" % number)
            assert await a.transport.request("B", "echo", b"", timeout_s=5) == b"A:"
            await asyncio.sleep(0.15)
        await a.stop()
        await b.stop()

    run(test)


def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)

    async def test() -> None:
        async with pair() as (a, b):
            b.transport.on_request("echo", echo)
            assert await a.transport.request("B", "echo", b"", timeout_s=5) == b"A:"

    run(test)


def test_nodes_meet_on_ipv6_addresses() -> None:
    async def test() -> None:
        a, b = await Node("A").start(), Node("B")
        b.transport.on_request("echo", echo)
        port = await b.transport.start("[::1]:0")
        a.transport.set_peer("B", f"[::1]:{port}")
        assert await a.transport.request("B", "echo", b"", timeout_s=5) == b"A:"
        await a.stop()
        await b.stop()

    run(test)


def test_taken_address_is_an_error() -> None:
    async def test() -> None:
        async with pair() as (a, b):
            with pytest.raises(BlixardError) as caught:
                await Node("C").transport.start(f"127.0.0.1:{b.port}")
            assert caught.value.code == "UNREACHABLE"
            assert a.port != b.port

    run(test)
