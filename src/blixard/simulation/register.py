"""The smallest state machine: texts by key, for running consensus alone."""

from __future__ import annotations

import hashlib

import msgspec


class Command(msgspec.Struct, frozen=True, array_like=True):
    """Set a key to a text."""

    key: str
    text: str


class _Saved(msgspec.Struct, frozen=True, array_like=True):
    values: dict[str, str]
    digest: bytes


class RegisterMachine:
    """Implements the state machine of consensus; tells *applied* and *restored* what it did."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self._digest = b"\0" * 16
        self._decode = msgspec.msgpack.Decoder(Command).decode

    def apply(self, index: int, term: int, data: bytes) -> int:
        """Set a key; returns the index."""
        command = self._decode(data)
        self.values[command.key] = command.text
        head = self._digest + index.to_bytes(8, "big") + term.to_bytes(8, "big")
        self._digest = hashlib.blake2b(head + data, digest_size=16).digest()
        return index

    def freeze(self) -> _Saved:
        """Return a copy."""
        return _Saved(dict(self.values), self._digest)

    def encode(self, handle: _Saved) -> bytes:
        """Return its bytes."""
        return msgspec.msgpack.encode(handle)

    def restore(self, data: bytes) -> None:
        """Take the state of a snapshot."""
        saved = msgspec.msgpack.decode(data, type=_Saved)
        self.values, self._digest = dict(saved.values), saved.digest

    def state_hash(self) -> bytes:
        """Return the hash chained over all entries."""
        return self._digest
