"""The smallest state machine: texts by key, changed at most once per request."""

from __future__ import annotations

import hashlib

import msgspec

from blixard.simulation.models import Kind

REQUESTS_MAX = 1_000


class Command(msgspec.Struct, frozen=True, array_like=True):
    """Change a key; ``expected`` is what a cas compares with."""

    id: str
    kind: Kind
    key: str
    text: str = ""
    expected: str = ""


class _Saved(msgspec.Struct, frozen=True, array_like=True):
    values: dict[str, str]
    digest: bytes
    requests: dict[str, bool]


decode_command = msgspec.msgpack.Decoder(Command).decode


class RegisterMachine:
    """Implements the state machine of consensus; the answer is whether something was done."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.requests: dict[str, bool] = {}
        self._digest = b"\0" * 16

    def apply(self, index: int, term: int, data: bytes) -> bool:
        """Change a key, unless the request was applied before: then answer the same."""
        command = decode_command(data)
        done = self.requests.get(command.id)
        if done is None:
            done = self._change(command)
            self.requests[command.id] = done
            if len(self.requests) > REQUESTS_MAX:
                del self.requests[next(iter(self.requests))]
        head = self._digest + index.to_bytes(8, "big") + term.to_bytes(8, "big")
        self._digest = hashlib.blake2b(head + data, digest_size=16).digest()
        return done

    def _change(self, command: Command) -> bool:
        held = self.values.get(command.key)
        if command.kind == "delete":
            return self.values.pop(command.key, None) is not None
        if command.kind == "cas" and held != command.expected:
            return False
        self.values[command.key] = command.text
        return True

    def freeze(self) -> _Saved:
        """Return a copy."""
        return _Saved(dict(self.values), self._digest, dict(self.requests))

    def encode(self, handle: _Saved) -> bytes:
        """Return its bytes."""
        return msgspec.msgpack.encode(handle)

    def restore(self, data: bytes) -> None:
        """Take the state of a snapshot."""
        saved = msgspec.msgpack.decode(data, type=_Saved)
        self.values, self._digest = dict(saved.values), saved.digest
        self.requests = dict(saved.requests)

    def state_hash(self) -> bytes:
        """Return the hash chained over all entries."""
        return self._digest
