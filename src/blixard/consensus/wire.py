"""What travels on channel "raft" and in request "raft.snapshot"."""

from __future__ import annotations

import struct

import msgspec

from blixard.base.errors import BlixardError

VERSION = 1
CHANNEL = "raft"
SNAPSHOT_METHOD = "raft.snapshot"
_PREFIX = struct.Struct("<BH")


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """Who speaks; stands before every frame."""

    cluster_id: str
    raft_id: int
    address: str


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """A part of a snapshot file; the last one carries the message that installs it."""

    hello: Hello
    index: int
    term: int
    offset: int
    total: int
    data: bytes
    message: bytes = b""


class ChunkAnswer(msgspec.Struct, frozen=True, array_like=True):
    """How many bytes the receiver holds; it may ask to start over."""

    received: int


_HELLO = msgspec.msgpack.Decoder(Hello)


def encode_hello(hello: Hello) -> bytes:
    """Return the bytes that stand before each frame."""
    body = msgspec.msgpack.encode(hello)
    return _PREFIX.pack(VERSION, len(body)) + body


def split_frame(payload: bytes) -> tuple[bytes, Hello]:
    """Return the bytes of the greeting and what it says.

    Raises:
        BlixardError: BAD_REQUEST.
    """
    try:
        version, length = _PREFIX.unpack_from(payload)
        head = payload[: _PREFIX.size + length]
        if version != VERSION:
            raise BlixardError("BAD_REQUEST", f"frame version {version}")
        return head, _HELLO.decode(head[_PREFIX.size :])
    except (struct.error, msgspec.MsgspecError) as error:
        raise BlixardError("BAD_REQUEST", f"frame: {error}") from error
