"""Transport between nodes: gRPC over mutual TLS, every call checked against the node's state.

Per ordered pair of nodes one long-lived stream carries all messages, everything queued in one
frame; requests are unary calls; streams are bidirectional calls. The wire contract is
``proto/blixard/v1/node.proto``. Nothing here runs in the simulator.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable

# Before the import: or gRPC's core writes each failed handshake to standard error by itself.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from grpc import aio

from blixard.base.errors import BlixardError
from blixard.ports.transport import MessageHandler, RequestHandler, Stream, StreamHandler
from blixard.runtime.incoming import Authorize, NodeService, PeerCheck
from blixard.runtime.links import Link, LinkStatus
from blixard.runtime.logs import JsonLog
from blixard.runtime.settings import TransportConfig
from blixard.runtime.tasks import TaskSpawner
from blixard.security.tls import TlsMaterial

__all__ = ["GrpcTransport", "LinkStatus", "TransportConfig"]

_CLOSE_TIMEOUT_S = 5.0


def _system_time_ms() -> int:
    return time.time_ns() // 1_000_000


class GrpcTransport:
    """Implements ``ports.transport.Transport``.

    *authorize* is asked with (uid, epoch, method) at every call: the name of the request, stream or
    message channel, and ``MESSAGES`` for the message stream itself. After a change of the
    state that it looks at, call :meth:`recheck`.
    """

    def __init__(
        self,
        tls: TlsMaterial,
        *,
        trust_domain: str,
        authorize: Authorize,
        log: JsonLog,
        spawner: TaskSpawner,
        generator: random.Random,
        config: TransportConfig | None = None,
        wall_time_ms: Callable[[], int] = _system_time_ms,
    ) -> None:
        self._tls = tls
        self._config = config or TransportConfig()
        self._log = log
        self._spawner = spawner
        self._random = generator
        check = PeerCheck(trust_domain=trust_domain, authorize=authorize, wall_time_ms=wall_time_ms)
        self._service = NodeService(check=check, log=log, spawner=spawner)
        self._addresses: dict[str, str] = {}
        self._links: dict[str, Link] = {}
        self._server: aio.Server | None = None
        self._sweep: asyncio.Task[None] | None = None
        self._stopped = False
        tls.on_reload(self._renew_links)

    async def start(self, address: str) -> int:
        """Listen on ``host:port`` (port 0: any); return the port.

        Raises:
            BlixardError: UNREACHABLE, if the address cannot be had.
        """
        server = aio.server(
            handlers=[self._service.generic_handler()],
            options=self._config.server_options(),
            maximum_concurrent_rpcs=self._config.calls_max,
        )
        try:
            port = server.add_secure_port(address, self._tls.grpc_server_credentials())
        except RuntimeError as error:
            raise BlixardError("UNREACHABLE", f"cannot listen on {address}") from error
        await server.start()
        self._server = server
        self._sweep = self._spawner.spawn(self._recheck_often(), name="transport recheck")
        return int(port)

    async def stop(self, *, grace_s: float = 0.0) -> None:
        """Stop listening and end all links."""
        self._stopped = True
        for uid in sorted(self._links):
            await self._links.pop(uid).close()
        if self._sweep is not None:
            self._sweep.cancel()
        if self._server is not None:
            await self._server.stop(grace_s)

    def set_peer(self, uid: str, address: str) -> None:
        """Say where *uid* listens; a new address replaces the old connection."""
        if self._addresses.get(uid) != address:
            self.remove_peer(uid)
            self._addresses[uid] = address

    def remove_peer(self, uid: str) -> None:
        """Forget *uid* and end its connection."""
        self._addresses.pop(uid, None)
        link = self._links.pop(uid, None)
        if link is not None:
            self._spawner.spawn(self._close(link), name=f"close {uid}")

    def recheck(self) -> int:
        """End open incoming streams of peers that *authorize* now refuses; return how many."""
        return self._service.recheck()

    def send(self, uid: str, channel: str, payload: bytes) -> bool:
        """Queue a message; False if the queue is full or the peer unknown."""
        link = self._link(uid)
        return link is not None and link.send(channel, payload)

    async def request(self, uid: str, method: str, payload: bytes, *, timeout_s: float) -> bytes:
        """Call a method of a peer; see ``ports.transport.Transport.request``."""
        return await self._known_link(uid).request(method, payload, timeout_s=timeout_s)

    async def open_stream(self, uid: str, method: str, payload: bytes) -> Stream:
        """Open a stream; returns once the peer has accepted it, or raises its refusal."""
        return await self._known_link(uid).open_stream(method, payload)

    def on_message(self, channel: str, handler: MessageHandler) -> None:
        """Handle messages of *channel*; an exception of the handler is fatal to the node."""
        self._service.message_handlers[channel] = handler

    def on_request(self, method: str, handler: RequestHandler) -> None:
        """Handle requests of *method*; cancelled when the caller's deadline passes."""
        self._service.request_handlers[method] = handler

    def on_stream(self, method: str, handler: StreamHandler) -> None:
        """Handle streams of *method*; cancelled when the caller goes away."""
        self._service.stream_handlers[method] = handler

    def statistics(self) -> list[LinkStatus]:
        """Return the figures of all links, by uid."""
        return [self._links[uid].status() for uid in sorted(self._links)]

    def _link(self, uid: str) -> Link | None:
        link = self._links.get(uid)
        if link is None and uid in self._addresses and not self._stopped:
            link = self._links[uid] = Link(
                uid,
                self._addresses[uid],
                tls=self._tls,
                config=self._config,
                log=self._log,
                generator=self._random,
                spawner=self._spawner,
            )
        return link

    def _known_link(self, uid: str) -> Link:
        link = self._link(uid)
        if link is None:
            raise BlixardError(
                "UNREACHABLE", f"no address of node {uid} is known", details={"sent": False}
            )
        return link

    def _renew_links(self) -> None:
        for uid in sorted(self._links):
            self._links[uid].renew()

    async def _close(self, link: Link) -> None:
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await link.close()
        except TimeoutError:
            self._log("warning", "link_close_slow", peer=link.uid, address=link.address)

    async def _recheck_often(self) -> None:
        while True:
            await asyncio.sleep(self._config.recheck_s)
            self.recheck()
