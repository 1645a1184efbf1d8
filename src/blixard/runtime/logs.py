"""Structured log lines: one JSON object a line on standard error, no secrets in it."""

from __future__ import annotations

import os
import re
import sys
import time
from datetime import UTC, datetime

import msgspec

LEVELS = ("debug", "info", "warning", "error", "critical")
REDACTED = "[redacted]"
_SECRET_NAME = re.compile(
    r"(^|_)(secret|seed|password|passphrase|private_?key|key_?pem|authorization|cookie)($|_)",
    re.IGNORECASE,
)
_SECRET_TEXT = re.compile(
    r"blxjoin1\.[\w.=-]+|blx_k1_\w+|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END[^-]*-----|$)",
    re.DOTALL,
)
_LINE_CHARACTERS_MAX = 16_384


class JsonLog:
    """Writes lines to a descriptor; a reader that is gone or slow never stops the node."""

    def __init__(self, *, level: str = "info", descriptor: int | None = None, **fixed: str) -> None:
        assert level in LEVELS, level
        self._threshold = LEVELS.index(level)
        self._descriptor = sys.stderr.fileno() if descriptor is None else descriptor
        self._fixed = fixed
        self.lines_dropped = 0

    def __call__(self, level: str, event: str, **fields: object) -> None:
        """Write one line; unknown levels count as errors."""
        rank = LEVELS.index(level) if level in LEVELS else LEVELS.index("error")
        if rank < self._threshold:
            return
        line = format_line(level, event, {**self._fixed, **fields}, time.time())
        try:
            os.write(self._descriptor, line)
        except OSError:
            # Nowhere left to say it: the count is shown by the node's status.
            self.lines_dropped += 1


def format_line(level: str, event: str, fields: dict[str, object], unix_s: float) -> bytes:
    """Return one line of JSON with its newline; values under names of secrets are left out."""
    stamp = datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds")
    record: dict[str, object] = {
        "timestamp": stamp.replace("+00:00", "Z"),
        "level": level,
        "event": event,
    }
    for name, value in fields.items():
        record[name] = REDACTED if _SECRET_NAME.search(name) else _clean(value)
    return msgspec.json.encode(record) + b"\n"


def _clean(value: object) -> object:
    if isinstance(value, str):
        return _SECRET_TEXT.sub(REDACTED, value[:_LINE_CHARACTERS_MAX])
    if isinstance(value, bool | int | float | None):
        return value
    if isinstance(value, dict):
        return {
            str(name): REDACTED if _SECRET_NAME.search(str(name)) else _clean(item)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return _clean(str(value))
