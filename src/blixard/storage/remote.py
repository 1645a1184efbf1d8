"""The one thing that the leader has another node do: remove a volume that lies there alone."""

from __future__ import annotations

import msgspec

from blixard.ports.environment import Environment
from blixard.storage.backends import Backends, backend_for

METHOD = "node.unmake-volume"
_ANSWER_S = 10.0


class Unmake(msgspec.Struct, frozen=True, array_like=True):
    """Remove this volume from the node's local storage."""

    pool: str
    volume: str


async def ask(env: Environment, node_uid: str, pool: str, volume_uid: str) -> None:
    """Return once the node has removed it. Raises BlixardError, also UNREACHABLE and TIMEOUT."""
    question = msgspec.msgpack.encode(Unmake(pool, volume_uid))
    await env.transport.request(node_uid, METHOD, question, timeout_s=_ANSWER_S)


async def answer(backends: Backends, payload: bytes) -> bytes:
    """Remove it. Raises BlixardError as the backend does."""
    wanted = msgspec.msgpack.decode(payload, type=Unmake)
    await backend_for(backends, "local").delete_volume(wanted.pool, wanted.volume)
    return b""
