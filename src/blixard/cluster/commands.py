"""Commands as bytes: one version byte, then MessagePack arrays; old logs stay readable."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from blixard.cluster.resources import Delete, PatchStatus, Put, Transaction

VERSION = 1
DEPTH_MAX = 32
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
        transaction = _DECODER.decode(memoryview(data)[1:])
    except (msgspec.MsgspecError, RecursionError, TypeError, ValueError) as error:
        # A fixed text: the outcome is hashed, and the error's own depends on library and stack.
        raise BadCommand("the bytes are no command") from error
    for op in transaction.ops:
        for document in _documents(op):
            if not _is_json(document, DEPTH_MAX):
                raise BadCommand("the bytes are no command")
    return transaction


def _documents(op: Put | PatchStatus | Delete) -> tuple[dict[str, Any], ...]:
    if isinstance(op, Put):
        return (op.spec, op.status) if op.status else (op.spec,)
    return (op.status,) if isinstance(op, PatchStatus) else ()


def _is_json(value: Any, depth: int) -> bool:
    """Tell whether a value is finite JSON, nested no deeper than every node can walk."""
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return True
    if kind is float:
        return math.isfinite(value)
    if not depth:
        return False
    if kind is dict:
        for key, below in value.items():
            if type(key) is not str or (type(below) is not str and not _is_json(below, depth - 1)):
                return False
        return True
    return kind is list and all(_is_json(below, depth - 1) for below in value)
