"""What happened, as one rolling hash and the last events in clear."""

from __future__ import annotations

import hashlib
from collections import deque

import msgspec

_FLUSH_AT = 512
_SHORT_ARRAY = 16  # MessagePack: shorter ones have a head of one byte

Event = tuple[int, int, str, int | str, int | str]


class Trace:
    """Events are (time in ns, host number, kind, id, id); strings and integers only."""

    def __init__(self, *, keep: int = 400) -> None:
        self._pending: list[Event] = []
        self._hash = hashlib.blake2b(digest_size=16)
        self._encode = msgspec.msgpack.Encoder().encode
        self._last: deque[Event] = deque(maxlen=keep)
        self.count = 0

    def add(
        self, now_ns: int, host: int, kind: str, first: int | str = 0, second: int | str = 0
    ) -> None:
        """Record one event."""
        self._pending.append((now_ns, host, kind, first, second))
        if len(self._pending) >= _FLUSH_AT:
            self._flush()

    def keep_all(self, most: int) -> None:
        """Keep that many of the last events in clear instead; call it before the run."""
        self._last = deque(self._last, maxlen=most)

    def digest(self) -> str:
        """Return the hash over everything so far."""
        self._flush()
        return self._hash.hexdigest()

    def last(self) -> list[Event]:
        """Return the last events, oldest first."""
        self._flush()
        return list(self._last)

    def _flush(self) -> None:
        if not self._pending:
            return
        # Without the head of the array: how often somebody looked does not count.
        head = 1 if len(self._pending) < _SHORT_ARRAY else 3
        self._hash.update(memoryview(self._encode(self._pending))[head:])
        self._last.extend(self._pending)
        self.count += len(self._pending)
        self._pending.clear()
