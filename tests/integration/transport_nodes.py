"""Nodes that are a transport on loopback and nothing else, for tests."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "security"))

from authorities import DAY_MS, DOMAIN, TestAuthority, now_ms

from blixard.base.errors import BlixardError
from blixard.runtime.logs import JsonLog
from blixard.runtime.tasks import TaskSpawner
from blixard.runtime.transport import GrpcTransport, TransportConfig
from blixard.security.tls import TlsIdentity, TlsMaterial

__all__ = [
    "AUTHORITY",
    "DAY_MS",
    "Node",
    "TestAuthority",
    "echo",
    "now_ms",
    "pair",
    "run",
    "send_until_received",
    "until",
]

AUTHORITY = TestAuthority()
QUIET = JsonLog(level="critical")


class Node:
    """A transport of one uid on loopback, and what it received."""

    def __init__(
        self,
        uid: str,
        identity: TlsIdentity | None = None,
        *,
        config: TransportConfig | None = None,
        at_ms: Callable[[], int] = now_ms,
    ) -> None:
        self.uid = uid
        self.port = 0
        self.crashes: list[str] = []
        self.spawner = TaskSpawner(lambda name, error: self.crashes.append(f"{name}: {error!r}"))
        self.refused: dict[str, BlixardError] = {}
        self.received: list[tuple[str, bytes]] = []
        self.tls = TlsMaterial(identity or AUTHORITY.node(uid))
        self.transport = GrpcTransport(
            self.tls,
            trust_domain=DOMAIN,
            authorize=self._authorize,
            log=QUIET,
            spawner=self.spawner,
            generator=random.Random(1),
            config=config or TransportConfig(backoff_max_s=0.2, recheck_s=0.05),
            wall_time_ms=at_ms,
        )
        self.transport.on_message("raft", lambda uid, data: self.received.append((uid, data)))

    def _authorize(self, uid: str, _epoch: int, method: str) -> BlixardError | None:
        return self.refused.get(uid) or self.refused.get(method)

    async def start(self, port: int = 0) -> Node:
        self.port = await self.transport.start(f"127.0.0.1:{port}")
        return self

    def knows(self, other: Node) -> None:
        self.transport.set_peer(other.uid, f"127.0.0.1:{other.port}")

    async def stop(self) -> None:
        await self.transport.stop()
        await self.spawner.cancel_all()
        assert self.crashes == []


@asynccontextmanager
async def pair(**kwargs: object) -> AsyncIterator[tuple[Node, Node]]:
    """Yield a caller A and a server B that know each other."""
    first = await Node("A").start()
    second = await Node("B", **kwargs).start()  # type: ignore[arg-type]
    first.knows(second)
    second.knows(first)
    try:
        yield first, second
    finally:
        await first.stop()
        await second.stop()


async def until(condition: Callable[[], object], what: str = "") -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)
    assert condition(), what


async def send_until_received(sender: Node, receiver: Node, payload: bytes) -> None:
    async with asyncio.timeout(20):
        while (sender.uid, payload) not in receiver.received:
            sender.transport.send(receiver.uid, "raft", payload)
            await asyncio.sleep(0.02)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


async def echo(uid: str, payload: bytes) -> bytes:
    return uid.encode() + b":" + payload
