"""Commands as bytes: one version byte, then MessagePack arrays; old logs stay readable."""

from __future__ import annotations

import msgspec

from blixard.cluster.resources import Transaction

VERSION = 1
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Transaction)


class BadCommand(Exception):
    """The bytes are no command of a version that this program knows."""


def encode_command(transaction: Transaction) -> bytes:
    """Return the bytes of a transaction."""
    return bytes((VERSION,)) + _ENCODER.encode(transaction)


def decode_command(data: bytes) -> Transaction:
    """Return the transaction. Raises BadCommand."""
    if not data or data[0] != VERSION:
        raise BadCommand(f"unknown command version {data[:1]!r}")
    try:
        return _DECODER.decode(memoryview(data)[1:])
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadCommand(str(error)) from error
