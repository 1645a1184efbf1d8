"""TLS sessions resumed against the node port: gRPC issues tickets, each call is checked."""

from __future__ import annotations

import grpc
from grpc import aio
from grpc.experimental import session_cache
from transport_nodes import AUTHORITY, Node, TestAuthority, echo, run

from blixard.base.errors import BlixardError
from blixard.runtime import wire
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


def test_resumed_session_is_refused() -> None:
    async def test() -> None:
        b = await Node("B").start()
        b.transport.on_request("echo", echo)
        client = ResumingClient(AUTHORITY.node("A"))
        assert await client.call(b.port) == b"A:x"
        assert await _refusal(client, b.port) == "UNAUTHENTICATED"
        assert await ResumingClient(AUTHORITY.node("A")).call(b.port) == b"A:x"
        await b.stop()

    run(test)


def test_session_of_swapped_authority_is_refused() -> None:
    async def test() -> None:
        b = await Node("B").start()
        b.transport.on_request("echo", echo)
        client = ResumingClient(AUTHORITY.node("A"))
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
