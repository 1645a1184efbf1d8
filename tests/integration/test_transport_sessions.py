"""TLS sessions resumed against the node port: gRPC cannot switch tickets off, each call is checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from grpc import aio
from grpc.experimental import session_cache
from transport_nodes import AUTHORITY, DAY_MS, Node, TestAuthority, echo, now_ms, run

from blixard.base.errors import BlixardError
from blixard.runtime import wire
from blixard.security.identity import PeerCertificate
from blixard.security.tls import TlsIdentity, grpc_name_override


class ResumingClient:
    """Calls B on a new connection each time, with one cache of sessions."""

    def __init__(self, identity: TlsIdentity) -> None:
        self._cache = session_cache.ssl_session_cache_lru(4)
        self._credentials = grpc.ssl_channel_credentials(
            identity.roots_pem, identity.key_pem, identity.chain_pem
        )

    async def call(self, port: int) -> bytes:
        options = [
            ("grpc.ssl_session_cache", self._cache),
            ("grpc.use_local_subchannel_pool", 1),
            grpc_name_override("B"),
        ]
        address = f"127.0.0.1:{port}"
        async with aio.secure_channel(address, self._credentials, options=options) as channel:
            method = channel.unary_unary(f"/{wire.SERVICE}/Call")
            return wire.decode_answer(await method(wire.encode_call("echo", b"x"), timeout=10))


def _record_resumption(node: Node) -> list[bool]:
    seen: list[bool] = []
    check = node.transport._service._check
    original = check.peer_of

    def peer_of(context: Mapping[str, Any]) -> PeerCertificate:
        seen.append(list(context["ssl_session_reused"]) == [b"true"])
        return original(context)

    check.peer_of = peer_of  # type: ignore[method-assign,assignment]
    return seen


def test_expired_certificate_is_refused_on_resumed_session() -> None:
    async def test() -> None:
        clock = [now_ms()]
        b = await Node("B", at_ms=lambda: clock[0]).start()
        b.transport.on_request("echo", echo)
        resumed = _record_resumption(b)
        client = ResumingClient(AUTHORITY.node("A"))
        assert [await client.call(b.port) for _round in range(2)] == [b"A:x"] * 2
        clock[0] += 2 * DAY_MS
        assert await _refusal(client, b.port) == "UNAUTHENTICATED"
        assert resumed == [False, True, True]
        await b.stop()

    run(test)


def test_session_of_swapped_authority_is_refused() -> None:
    async def test() -> None:
        b = await Node("B").start()
        b.transport.on_request("echo", echo)
        client = ResumingClient(AUTHORITY.node("A"))
        for _round in range(2):
            assert await client.call(b.port) == b"A:x"
        own = AUTHORITY.node("B")
        b.tls.reload(
            TlsIdentity(
                chain_pem=own.chain_pem,
                key_pem=own.key_pem,
                roots_pem=TestAuthority().root.certificate_pem,
            )
        )
        assert await _refusal(client, b.port) == "UNAVAILABLE"
        await b.stop()

    run(test)


async def _refusal(client: ResumingClient, port: int) -> str:
    try:
        answer = await client.call(port)
    except BlixardError as error:
        return error.code
    except aio.AioRpcError as error:
        return str(error.code().name)
    return repr(answer)
